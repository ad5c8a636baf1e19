//! Packets that never stop, and what became of them.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::{
    probe::{ask, connect, exchange},
    topology::{Lab, NODE, NODE_PORT, UDP_NODE_PORT},
};

use super::answer;

/// Traffic that goes on all the time, and what became of it.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    /// Asked, answered; for what is forbidden.
    forbidden: Arc<[AtomicU64; 2]>,
    /// Asked, answered; for what is allowed.
    allowed: Arc<[AtomicU64; 2]>,
    threads: Vec<thread::JoinHandle<Result<()>>>,
}

impl Traffic {
    pub fn start(lab: &Lab) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (forbidden, allowed) = (Arc::<[AtomicU64; 2]>::default(), Arc::<[AtomicU64; 2]>::default());
        let mut threads = Vec::new();
        // UDP from outside, a datagram each millisecond, each from a port of its own: nobody may answer.
        let (stopped, counts) = (stop.clone(), forbidden.clone());
        let sockets: Vec<UdpSocket> =
            lab.outside.run(|| (0..64).map(|_| UdpSocket::bind("0.0.0.0:0")).collect::<Result<_, _>>())??;
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        threads.push(thread::spawn(move || {
            let mut words = [0; 256];
            while !stopped.load(Ordering::Relaxed) {
                for socket in &sockets {
                    socket.send_to(b"knock", (NODE, UDP_NODE_PORT))?;
                    counts[0].fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                    while socket.recv(&mut words).is_ok() {
                        counts[1].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        }));
        // One connection from inside, held all the time.
        let (stopped, counts) = (stop.clone(), allowed.clone());
        let mut held = connect(&lab.peer, NODE, NODE_PORT)?.ok().context("the peer is not let in")?;
        threads.push(thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                counts[0].fetch_add(1, Ordering::Relaxed);
                counts[1].fetch_add(u64::from(exchange(&mut held) == answer()), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        }));
        Ok(Self { stop, forbidden, allowed, threads })
    }

    /// New connections from inside, one after the other, while something else is done.
    pub fn newcomers(lab: &Lab, meanwhile: impl FnOnce() -> Result<()> + Send) -> Result<u64> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let asker = scope.spawn(|| -> Result<u64> {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let got = ask(&lab.peer, NODE, NODE_PORT)?;
                    ensure!(got == answer(), "a new connection from inside: {got} (number {count})");
                    count += 1;
                }
                Ok(count)
            });
            let result = meanwhile();
            done.store(true, Ordering::Relaxed);
            let count = asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            result.map(|()| count)
        })
    }

    pub fn end(self) -> Result<()> {
        // A busy machine takes longer to send enough.
        let enough = |counts: &[AtomicU64; 2], wanted| counts[0].load(Ordering::Relaxed) > wanted;
        let end = Instant::now() + Duration::from_secs(30);
        while !(enough(&self.forbidden, 500) && enough(&self.allowed, 200)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let of = |counts: &[AtomicU64; 2]| counts.each_ref().map(|c| c.load(Ordering::Relaxed));
        let ([tried, through], [asked, answered]) = (of(&self.forbidden), of(&self.allowed));
        eprintln!("forbidden: {tried} tried, {through} through; allowed: {asked} asked, {answered} answered");
        ensure!(tried > 500 && asked > 200, "too little traffic to tell");
        ensure!(through == 0, "{through} of {tried} forbidden datagrams were answered");
        ensure!(answered == asked, "{} of {asked} allowed exchanges failed", asked - answered);
        Ok(())
    }
}
