//! Real servers and clients: what a person with `curl` or `ssh` would see.

use std::{
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Longer than the first retransmission of a SYN (1 s): a packet lost by a busy machine is no verdict.
const PATIENCE: Duration = Duration::from_millis(1300);
/// For a server that has the connection: its threads wait for their turn.
const ANSWER: Duration = Duration::from_secs(4);
/// A wait that ends so much too late says that the machine stood still, and nothing of the packet.
const STALL: Duration = Duration::from_millis(200);

/// What a server says.
#[derive(Clone, Copy, Debug)]
pub enum Speech {
    /// Answers a request as HTTP does.
    Http(&'static str),
    /// Speaks first, as sshd does.
    Banner(&'static str),
}

/// A server in a namespace, until it is dropped. It listens on `::`, so it serves both IP versions.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &Netns, port: u16, speech: Speech) -> Result<Self> {
        let listener = netns
            .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("cannot listen on port {port} in {}", netns.name()))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(thread::spawn(move || serve(stream, speech))),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Answers every UDP datagram with `words`.
    pub fn start_udp(netns: &Netns, port: u16, words: &'static str) -> Result<Self> {
        let socket = netns
            .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("cannot listen on UDP port {port} in {}", netns.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut question = [0; 1024];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, client)) = socket.recv_from(&mut question) {
                    // The client sees that no answer comes.
                    let _ = socket.send_to(words.as_bytes(), client);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends every datagram back, until the test ends.
pub fn udp_echo(netns: &Netns, address: Ipv4Addr, port: u16) -> Result<()> {
    let socket = netns
        .run(|| UdpSocket::bind((address, port)))?
        .with_context(|| format!("cannot listen on UDP port {port} in {}", netns.name()))?;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            if socket.send_to(&bytes[..length], from).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// A client that goes away in the middle is no business of the server's, so errors end the connection and nothing else.
fn serve(mut stream: TcpStream, speech: Speech) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    match speech {
        Speech::Banner(banner) => {
            let _ = stream.write_all(format!("{banner}\r\n").as_bytes());
        }
        Speech::Http(body) => {
            let mut request = [0; 1024];
            // More than one request over a connection, so that a test can hold one open.
            while stream.read(&mut request).is_ok_and(|length| length > 0) {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// The server's words: the last line.
    Answer(String),
    /// The host itself said no (RST): the packet got through and nobody listens.
    Refused,
    /// Nothing came back.
    Silence,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(words) => write!(f, "answer \"{words}\""),
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("silence"),
        }
    }
}

/// Connects over TCP from `netns`, asks, and says what came back.
pub fn ask(netns: &Netns, address: impl Into<IpAddr>, port: u16) -> Result<Got> {
    Ok(match connect(netns, address, port)? {
        Ok(mut stream) => exchange(&mut stream),
        Err(got) => got,
    })
}

/// [`ask`], all at once: silence takes its time, so many silences are asked for together.
pub fn ask_together(questions: &[(&Netns, IpAddr, u16)]) -> Result<Vec<Got>> {
    thread::scope(|scope| {
        let threads: Vec<_> = questions
            .iter()
            .map(|(netns, address, port)| scope.spawn(move || ask(netns, *address, *port)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// An open connection, for tests that hold one while something changes.
pub fn connect(netns: &Netns, address: impl Into<IpAddr>, port: u16) -> Result<Result<TcpStream, Got>> {
    let to = SocketAddr::new(address.into(), port);
    let dial = || {
        let begin = Instant::now();
        (TcpStream::connect_timeout(&to, PATIENCE), begin.elapsed())
    };
    for last in [false, false, true] {
        let (result, took) = netns.run(dial)?;
        return Ok(match result {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER))?;
                Ok(stream)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Err(Got::Refused),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                if took > PATIENCE + STALL && !last {
                    continue;
                }
                Err(Got::Silence)
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot ask {to}", netns.name())),
        });
    }
    Ok(Err(Got::Silence))
}

/// One request over an open connection.
pub fn exchange(stream: &mut TcpStream) -> Got {
    let mut answer = [0; 1024];
    let length =
        stream.write_all(b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n").and_then(|()| stream.read(&mut answer));
    match length {
        Ok(length) if length > 0 => {
            let words = String::from_utf8_lossy(&answer[..length]);
            Got::Answer(words.trim().lines().last().unwrap_or_default().to_owned())
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Got::Refused,
        Ok(_) | Err(_) => Got::Silence,
    }
}

/// Sends a UDP datagram from `netns`, twice if nothing comes, and says what came back.
pub fn ask_udp(netns: &Netns, address: impl Into<IpAddr>, port: u16) -> Result<Got> {
    let to = SocketAddr::new(address.into(), port);
    let socket = netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    // On a socket for both versions an IPv4 address is written as `::ffff:a.b.c.d`.
    let mapped = match to.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), port),
        IpAddr::V6(_) => to,
    };
    socket.connect(mapped)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..2 {
        let mut answer = [0; 1024];
        match socket.send(b"hello").and_then(|_| socket.recv(&mut answer)) {
            Ok(length) => return Ok(Got::Answer(String::from_utf8_lossy(&answer[..length]).into_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Got::Refused),
            Err(_) => {}
        }
    }
    Ok(Got::Silence)
}
