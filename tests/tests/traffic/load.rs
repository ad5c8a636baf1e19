//! The traffic, and who sees what must not come through.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use tests::{
    netns::Netns,
    topology::{Lab, NODE, NODE_PORT, NODE_SAYS},
};

use super::{ALLOWED_UDP, EXTRA, FORBIDDEN, FORBIDDEN_UDP, SECOND};

/// An allowed exchange that takes longer was cut: what is cut stays so.
const CUT: Duration = Duration::from_secs(15);

/// What the traffic saw.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) exchanges: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) datagrams: AtomicU64,
    lost: AtomicU64,
    pub(super) tried: AtomicU64,
    /// Forbidden packets that came as far as the node's IP layer.
    pub(super) leaked: AtomicU64,
    cut: Mutex<Vec<String>>,
}

impl Counts {
    pub(super) fn verdict(&self) -> Result<()> {
        let leaked = self.leaked.load(Relaxed);
        ensure!(leaked == 0, "{leaked} forbidden packets were delivered");
        let cut = self.cut.lock().map_or_else(|e| e.into_inner().clone(), |c| c.clone());
        ensure!(cut.is_empty(), "allowed traffic was cut: {cut:?}");
        Ok(())
    }
    fn cut(&self, what: &str, why: impl std::fmt::Display) {
        if let Ok(mut list) = self.cut.lock() {
            list.push(format!("{what}: {why}"));
        }
    }
    pub(super) fn summary(&self) -> String {
        format!(
            "{} exchanges over held connections, {} new connections, {} datagrams ({} lost); {} forbidden tries, {} \
             delivered",
            self.exchanges.load(Relaxed),
            self.connections.load(Relaxed),
            self.datagrams.load(Relaxed),
            self.lost.load(Relaxed),
            self.tried.load(Relaxed),
            self.leaked.load(Relaxed),
        )
    }
}

/// All threads, until dropped.
pub(super) struct Traffic {
    pub(super) counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    /// The extra device carries programs: forbidden packets go there too.
    pub(super) extra: Arc<Mutex<bool>>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn spawn(&mut self, pause: Duration, mut step: impl FnMut(&Counts) + Send + 'static) {
        let (counts, stop) = (Arc::clone(&self.counts), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                step(&counts);
                thread::sleep(pause);
            }
        }));
    }

    /// Allowed only: before the first policy the forbidden would be delivered.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let mut traffic =
            Self { counts: Arc::default(), stop: Arc::default(), extra: Arc::default(), threads: Vec::new() };
        for (name, port) in [("held", 8080), ("held", 8080), ("translated", NODE_PORT)] {
            let mut stream = Some(lab.outside.run(|| dial(NODE, port))??);
            traffic.spawn(Duration::from_millis(20), move |counts| {
                let Some(open) = &mut stream else { return };
                match ask(open) {
                    Ok(_) => drop(counts.exchanges.fetch_add(1, Relaxed)),
                    Err(e) => {
                        counts.cut(name, e);
                        stream = None;
                    }
                }
            });
        }
        let outside = enter(&lab.outside)?;
        traffic.spawn(Duration::from_millis(40), move |counts| {
            match outside.run(|| dial(NODE, 8080)).and_then(|stream| Ok(ask(&mut stream?)?)) {
                Ok(words) if words.contains(NODE_SAYS) => drop(counts.connections.fetch_add(1, Relaxed)),
                Ok(words) => counts.cut("new connection", words),
                Err(e) => counts.cut("new connection", e),
            }
        });
        traffic.datagrams(lab)?;
        Ok(traffic)
    }

    fn datagrams(&mut self, lab: &Lab) -> Result<()> {
        let server = lab.node.run(|| UdpSocket::bind(("0.0.0.0", ALLOWED_UDP)))??;
        server.set_read_timeout(Some(Duration::from_millis(200)))?;
        self.spawn(Duration::ZERO, move |_| {
            let mut bytes = [0; 64];
            if let Ok((length, from)) = server.recv_from(&mut bytes) {
                let _ = server.send_to(&bytes[..length], from);
            }
        });
        let client = lab.outside.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.connect((NODE, ALLOWED_UDP))?;
        client.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut last = Instant::now();
        self.spawn(Duration::from_millis(10), move |counts| {
            if client.send(b"d").is_ok() && client.recv(&mut [0; 8]).is_ok() {
                counts.datagrams.fetch_add(1, Relaxed);
                last = Instant::now();
            } else {
                counts.lost.fetch_add(1, Relaxed);
                if last.elapsed() > CUT {
                    counts.cut("UDP stream", "silent");
                    last = Instant::now();
                }
            }
        });
        Ok(())
    }

    /// What must not pass, and who would see it: a raw socket gets every TCP packet that the node's IP layer takes.
    pub(super) fn forbid(&mut self, lab: &Lab) -> Result<()> {
        self.listen(lab)?;
        let (outside, inside) = (enter(&lab.outside)?, enter(&lab.inside)?);
        let extra = Arc::clone(&self.extra);
        let mut turn = 0_u32;
        let udp = lab.outside.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        self.spawn(Duration::from_millis(10), move |counts| {
            turn = turn.wrapping_add(1);
            let address = [NODE, SECOND, EXTRA][turn as usize % 3];
            let from = if address == EXTRA { &inside } else { &outside };
            // Held until the try is over: the device does not go away in the middle of it.
            let extra = extra.lock().unwrap_or_else(|e| e.into_inner());
            if address == EXTRA && !*extra {
                return;
            }
            counts.tried.fetch_add(2, Relaxed);
            let to = SocketAddr::from((address, FORBIDDEN));
            let _ = from.run(|| drop(TcpStream::connect_timeout(&to, Duration::from_millis(20))));
            let _ = udp.send_to(b"x", (NODE, FORBIDDEN_UDP));
        });
        Ok(())
    }

    /// Whether forbidden packets go to the extra device. A try that is under way ends first.
    pub(super) fn aim_at_extra(&self, aim: bool) {
        *self.extra.lock().unwrap_or_else(|e| e.into_inner()) = aim;
    }

    fn listen(&mut self, lab: &Lab) -> Result<()> {
        let sniffer = lab.node.run(|| {
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp)
        })??;
        let listener = lab.node.run(|| UdpSocket::bind(("0.0.0.0", FORBIDDEN_UDP)))??;
        listener.set_nonblocking(true)?;
        self.spawn(Duration::from_millis(2), move |counts| {
            let mut packet = [0_u8; 128];
            while let Ok(length) = recv(sniffer.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                if is_forbidden(&packet[..length.min(packet.len())]) {
                    counts.leaked.fetch_add(1, Relaxed);
                }
            }
            while listener.recv(&mut packet).is_ok() {
                counts.leaked.fetch_add(1, Relaxed);
            }
        });
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// TCP to the forbidden port, by destination.
fn is_forbidden(packet: &[u8]) -> bool {
    let header = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    packet.get(header + 2..header + 4) == Some(&FORBIDDEN.to_be_bytes())
}

/// A namespace for threads that outlive the borrow of the lab.
struct Inside(fs::File);

fn enter(netns: &Netns) -> Result<Inside> {
    Ok(Inside(fs::File::open(format!("/run/netns/{}", netns.name()))?))
}

impl Inside {
    fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        // The thread is the traffic's own and stays where it is put.
        nix::sched::setns(&self.0, nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    }
}

fn dial(address: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), CUT)?;
    stream.set_read_timeout(Some(CUT))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut answer = [0; 512];
    stream.write_all(b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n")?;
    match stream.read(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
    }
}
