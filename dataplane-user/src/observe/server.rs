//! The agent's side: reads the ring, keeps the latest events, serves observers. On a thread of its own, so that a
//! long compilation holds up no event and a slow observer holds up nothing.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};

use super::names::{AgentNames, Announced, KernelNames};
use super::record::{Line, LostRecord, Summary};
use super::ring::Ring;
use crate::compile::Names;
use crate::maps::Pinned;
use crate::state::State;
use crate::state::telemetry::Telemetry;

/// Events that the agent keeps for observers that come later.
pub const KEPT_EVENTS: usize = 8192;
/// Observers at one time; more wait.
const MAX_OBSERVERS: usize = 32;
/// The ring wakes its reader. This is the safety net below, and how fast another reader is relieved.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// An observer that asks nothing in this time is none.
const ASK_PATIENCE: Duration = Duration::from_secs(5);

/// Where observers find the agent.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("events.sock")
}

/// What an observer asks, as one JSON line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Send what is kept.
    pub kept: bool,
    /// Go on with what comes.
    pub follow: bool,
}

/// The agent's handle. The thread ends with the process.
#[derive(Clone, Default)]
pub struct Publisher {
    announced: Announced,
}

impl Publisher {
    /// Starts the thread.
    pub fn start(pin_dir: &Path, state_dir: &Path, telemetry: Arc<Telemetry>) -> Result<Self> {
        let this = Self::default();
        let socket = socket_path(state_dir);
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {}", socket.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {}", socket.display()))?;
        listener.set_nonblocking(true).context("cannot use the event socket")?;
        let older = KernelNames::new(Pinned::new(pin_dir), State::load(state_dir).ok().as_ref());
        let names = AgentNames { announced: this.announced.clone(), older };
        let pin_dir = pin_dir.to_owned();
        std::thread::Builder::new()
            .name("pc-events".to_owned())
            .spawn(move || {
                if let Err(error) = serve(listener, &pin_dir, names, &telemetry) {
                    tracing::error!("events cannot be observed: {error:#}; enforcement goes on");
                }
            })
            .context("cannot start the thread of events")?;
        Ok(this)
    }

    /// Says what the numbers of a generation mean, before it is in force.
    pub fn announce(&self, generation: u64, names: &Names) {
        self.announced.announce(generation, names.clone());
    }
}

fn serve(
    listener: std::os::unix::net::UnixListener,
    pin_dir: &Path,
    names: AgentNames,
    telemetry: &Telemetry,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of events")?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener).context("cannot use the event socket")?;
        let kept = Arc::new(Kept::new(Pinned::new(pin_dir)));
        let accept = accept(listener, Arc::clone(&kept));
        tokio::select! {
            result = read(pin_dir, names, &kept, telemetry) => result,
            () = accept => Ok(()),
        }
    })
}

/// The latest events, and a line to everybody who listens.
struct Kept {
    history: Mutex<History>,
    live: broadcast::Sender<Arc<str>>,
    pinned: Pinned,
}

#[derive(Default)]
struct History {
    lines: VecDeque<Arc<str>>,
    forgotten: u64,
    lost: u64,
}

impl Kept {
    fn new(pinned: Pinned) -> Self {
        let (live, _) = broadcast::channel(KEPT_EVENTS);
        Self { history: Mutex::default(), live, pinned }
    }
    fn add(&self, line: &Line) {
        let (Ok(text), Ok(mut history)) = (serde_json::to_string(line), self.history.lock()) else { return };
        if let Line::Event(record) = line {
            history.lost += u64::from(record.lost_before);
        }
        let text: Arc<str> = text.into();
        history.lines.push_back(Arc::clone(&text));
        if history.lines.len() > KEPT_EVENTS {
            history.lines.pop_front();
            history.forgotten += 1;
        }
        // Under the lock, so that an observer gets each event once. Nobody listening is fine.
        let _ = self.live.send(text);
    }
    /// What is kept, how complete it is, and what comes after it.
    fn snapshot(&self) -> (Vec<Arc<str>>, Summary, broadcast::Receiver<Arc<str>>) {
        let untold = self.pinned.state().and_then(|s| s.untold_events()).unwrap_or(0);
        let history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let summary = Summary {
            kept: history.lines.len() as u64,
            forgotten: history.forgotten,
            lost: history.lost + untold,
            from: "agent".to_owned(),
        };
        (history.lines.iter().cloned().collect(), summary, self.live.subscribe())
    }
}

async fn read(pin_dir: &Path, mut names: AgentNames, kept: &Kept, telemetry: &Telemetry) -> Result<()> {
    // An observer that read the ring while there was no agent sees the socket and lets go.
    let mut ring = loop {
        match Ring::open(pin_dir)? {
            Some(ring) => break ring,
            None => tokio::time::sleep(LOOK_AGAIN / 5).await,
        }
    };
    let fd = crate::sys::readable(ring.readiness()?).context("cannot wait for events")?;
    loop {
        ring.drain(&mut names, |record| {
            telemetry.event(record.lost_before);
            kept.add(&Line::Event(Box::new(record)));
        });
        ring.keep_lock();
        if let Ok(ready) = tokio::time::timeout(LOOK_AGAIN, fd.readable()).await {
            ready.context("cannot wait for events")?.clear_ready();
        }
    }
}

async fn accept(listener: UnixListener, kept: Arc<Kept>) {
    let places = Arc::new(Semaphore::new(MAX_OBSERVERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    // An observer that goes away is no business of ours.
                    let _ = answer(stream, &kept).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "an observer could not be accepted");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, kept: &Kept) -> Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut line = String::new();
    tokio::time::timeout(ASK_PATIENCE, input.read_line(&mut line)).await??;
    let question: Question = serde_json::from_str(&line)?;
    let (lines, summary, mut live) = kept.snapshot();
    if question.kept {
        for line in lines {
            send(&mut output, &line).await?;
        }
    }
    send(&mut output, &serde_json::to_string(&Line::Summary(summary))?).await?;
    if question.follow { follow(&mut input, &mut output, &mut live).await } else { Ok(()) }
}

async fn follow(
    input: &mut BufReader<OwnedReadHalf>,
    output: &mut OwnedWriteHalf,
    live: &mut broadcast::Receiver<Arc<str>>,
) -> Result<()> {
    let mut rest = String::new();
    loop {
        let line = tokio::select! {
            line = live.recv() => line,
            // The observer says nothing more: this is its end.
            _ = input.read_line(&mut rest) => return Ok(()),
        };
        match line {
            Ok(line) => send(output, &line).await?,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                let why = "this observer was too slow".to_owned();
                send(output, &serde_json::to_string(&Line::Lost(LostRecord { lost, why }))?).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(output: &mut OwnedWriteHalf, line: &str) -> Result<()> {
    output.write_all(line.as_bytes()).await?;
    Ok(output.write_all(b"\n").await?)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_says_what_it_forgot() {
        let kept = Kept::new(Pinned::new("/nowhere".as_ref()));
        for number in 0..KEPT_EVENTS as u64 + 10 {
            let lost_before = u32::from(number == 3);
            kept.add(&Line::Event(Box::new(super::super::EventRecord {
                generation: number,
                lost_before,
                ..record()
            })));
        }
        let (lines, summary, mut live) = kept.snapshot();
        assert_eq!(lines.len(), KEPT_EVENTS);
        assert_eq!((summary.kept, summary.forgotten, summary.lost), (KEPT_EVENTS as u64, 10, 1));
        assert!(lines[0].contains("\"generation\":10,"), "{}", lines[0]);
        assert!(live.try_recv().is_err(), "what is in the listing does not come again");
        kept.add(&Line::Event(Box::new(record())));
        assert!(live.try_recv().is_ok());
    }
}
