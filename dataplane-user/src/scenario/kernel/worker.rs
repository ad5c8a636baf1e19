//! A thread in its own network namespace, on one CPU. The rest of the process stays where it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::Context;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::unistd::Pid;

use super::lab::Lab;

type Job = Box<dyn FnOnce(&mut Lab) + Send>;

/// Sends jobs to the thread; the thread ends when this is dropped.
pub(super) struct Worker {
    jobs: Sender<Job>,
}

/// Workers that nobody uses now. Loading the programs costs most of an engine's start.
static SPARE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());
/// Workers started so far: each takes the next CPU.
static STARTED: AtomicUsize = AtomicUsize::new(0);

impl Worker {
    /// A spare worker, or a new one.
    pub(super) fn take() -> anyhow::Result<Self> {
        let spare = SPARE.lock().map_or(None, |mut spare| spare.pop());
        spare.map_or_else(Self::start, Ok)
    }
    /// Keeps the worker for the next engine.
    pub(super) fn give_back(self) {
        if let Ok(mut spare) = SPARE.lock() {
            spare.push(self);
        }
    }
    fn start() -> anyhow::Result<Self> {
        let (jobs, received) = channel::<Job>();
        let (ready, started) = channel();
        thread::Builder::new()
            .name("pc-kernel".to_owned())
            .spawn(move || work(&received, &ready))
            .context("cannot start the kernel engine's thread")?;
        started.recv().context("the kernel engine's thread died while it started")??;
        Ok(Self { jobs })
    }
    /// Runs a job in the namespace and waits for its result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Lab) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (answer, answered) = channel();
        let job: Job = Box::new(move |lab| {
            // The receiver waits below; if it is gone, so is the wish for an answer.
            let _ = answer.send(job(lab));
        });
        self.jobs.send(job).ok().context("the kernel engine's thread has ended")?;
        answered.recv().context("the kernel engine's thread died in the middle of a job")
    }
}

fn work(jobs: &Receiver<Job>, ready: &Sender<anyhow::Result<()>>) {
    let lab = match set_up() {
        Ok(lab) => {
            let _ = ready.send(Ok(()));
            lab
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let mut lab = lab;
    while let Ok(job) = jobs.recv() {
        job(&mut lab);
    }
}

fn set_up() -> anyhow::Result<Lab> {
    unshare(CloneFlags::CLONE_NEWNET).context(
        "cannot make a private network namespace; run as root (CAP_SYS_ADMIN), or use --engine model",
    )?;
    Lab::new(pin_to_one_cpu()?)
}

/// The decision is read from a per-CPU map, so program and reader must agree on the CPU.
fn pin_to_one_cpu() -> anyhow::Result<usize> {
    let thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(thread).context("cannot read the CPU affinity")?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    anyhow::ensure!(!cpus.is_empty(), "no CPU is allowed");
    let cpu = cpus[STARTED.fetch_add(1, Ordering::Relaxed) % cpus.len()];
    let mut one = CpuSet::new();
    one.set(cpu).context("cannot name the CPU")?;
    sched_setaffinity(thread, &one).context("cannot pin the kernel engine to a CPU")?;
    Ok(cpu)
}
