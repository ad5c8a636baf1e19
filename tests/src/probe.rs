//! Real servers and clients: what a person with `curl` or `ssh` would see.

use std::{
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Longer than the first retransmission of a SYN (1 s): a packet lost by a busy machine is no verdict.
const PATIENCE: Duration = Duration::from_millis(1300);

/// What a server says.
#[derive(Clone, Copy, Debug)]
pub enum Speech {
    /// Answers a request as HTTP does.
    Http(&'static str),
    /// Speaks first, as sshd does.
    Banner(&'static str),
}

/// A TCP server in a namespace, until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &Netns, port: u16, speech: Speech) -> Result<Self> {
        let listener = netns
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?
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
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client that goes away in the middle is no business of the server's, so errors end the connection and nothing else.
fn serve(mut stream: TcpStream, speech: Speech) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
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
pub fn ask(netns: &Netns, address: Ipv4Addr, port: u16) -> Result<Got> {
    Ok(match connect(netns, address, port)? {
        Ok(mut stream) => exchange(&mut stream),
        Err(got) => got,
    })
}

/// An open connection, for tests that hold one while something changes.
pub fn connect(netns: &Netns, address: Ipv4Addr, port: u16) -> Result<Result<TcpStream, Got>> {
    let to = SocketAddr::V4(SocketAddrV4::new(address, port));
    let stream = match netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))? {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Err(Got::Refused)),
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(Err(Got::Silence)),
        Err(error) => return Err(error).with_context(|| format!("{} cannot ask {to}", netns.name())),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Ok(stream))
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
