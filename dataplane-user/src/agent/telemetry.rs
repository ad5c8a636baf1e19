//! What the agent tells of itself while it runs. Its owner task writes, whoever answers for it reads: a reader never
//! waits for the loop, and the loop never for a reader longer than a copy takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::state::State;

/// An agent whose loop has not turned for so long hangs. It turns every 5 s at least; the service manager's watchdog
/// has the same patience.
pub const HANGS: Duration = Duration::from_secs(30);

/// Shared by the owner task and the thread that answers.
#[derive(Debug)]
pub struct Telemetry {
    began: Instant,
    /// Milliseconds from `began` to the last turn of the loop.
    turned: AtomicU64,
    /// All that the source said was in force at least once since this agent began.
    synced: AtomicBool,
    published: Mutex<Option<Arc<State>>>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            turned: AtomicU64::new(0),
            synced: AtomicBool::new(false),
            published: Mutex::new(None),
        }
    }
}

impl Telemetry {
    /// The owner task is alive: it has just begun or ended a piece of its work.
    pub fn turn(&self) {
        self.turned.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
    /// Since the last turn.
    pub fn turn_age(&self) -> Duration {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(turned)
    }
    /// What `status` reads, without the file.
    pub fn publish(&self, state: Arc<State>) {
        if state.in_sync() {
            self.synced.store(true, Ordering::Relaxed);
        }
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
    /// `None`: the first look is not over.
    pub fn state(&self) -> Option<Arc<State>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Whether all that the source said was in force at least once.
    pub fn was_in_sync(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }
}
