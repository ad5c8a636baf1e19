//! What the agent tells of itself while it runs. Its owner task writes, whoever answers for it reads: a reader never
//! waits for the loop, and the loop never for a reader longer than a copy takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::State;

/// An agent whose loop has not turned for so long hangs. It turns every 5 s at least; the service manager's watchdog
/// has the same patience.
pub const HANGS: Duration = Duration::from_secs(30);

/// Upper bounds of [`Durations`], seconds; what takes longer stands behind the last.
pub const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How long something took, each time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// By the first bound that is not exceeded; the last: beyond all of them.
    pub counts: [u64; BOUNDS.len() + 1],
    /// Seconds, all together.
    pub sum: f64,
}

impl Durations {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }
    /// How often.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Snapshot → tables.
    Compile,
    /// Tables → maps, and the flip.
    Apply,
    /// From the first notice of a change to the generation that holds it.
    Change,
}

/// Counted since the agent began.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    pub compile: Durations,
    pub apply: Durations,
    pub change: Durations,
    /// Where → how often it failed.
    pub failures: BTreeMap<String, u64>,
    /// When a generation was last made the one in force.
    pub applied: Option<SystemTime>,
}

/// What the generation holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Map → entries.
    pub lengths: BTreeMap<&'static str, usize>,
    /// Rules of the longest list.
    pub longest_list: usize,
    /// Failsafe entries, inbound and outbound.
    pub failsafes: [usize; 2],
}

/// Shared by the owner task and the threads that answer.
#[derive(Debug)]
pub struct Telemetry {
    began: Instant,
    /// Milliseconds from `began` to the last turn of the loop.
    turned: AtomicU64,
    /// All that the source said was in force at least once since this agent began.
    synced: AtomicBool,
    published: Mutex<Option<(Arc<State>, Arc<Sizes>)>>,
    numbers: Mutex<Numbers>,
    events: AtomicU64,
    events_lost: AtomicU64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            turned: AtomicU64::new(0),
            synced: AtomicBool::new(false),
            published: Mutex::new(None),
            numbers: Mutex::default(),
            events: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn publish(&self, state: Arc<State>, sizes: Sizes) {
        if state.in_sync() {
            self.synced.store(true, Ordering::Relaxed);
        }
        *locked(&self.published) = Some((state, Arc::new(sizes)));
    }
    /// `None`: the first look is not over.
    pub fn state(&self) -> Option<Arc<State>> {
        self.published().map(|(state, _)| state)
    }
    /// With what its generation holds.
    pub fn published(&self) -> Option<(Arc<State>, Arc<Sizes>)> {
        locked(&self.published).clone()
    }
    /// Whether all that the source said was in force at least once.
    pub fn was_in_sync(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }
    /// Something was done.
    pub fn took(&self, work: Work, time: Duration) {
        let mut numbers = locked(&self.numbers);
        match work {
            Work::Compile => numbers.compile.add(time),
            Work::Apply => {
                numbers.apply.add(time);
                numbers.applied = Some(SystemTime::now());
            }
            Work::Change => numbers.change.add(time),
        }
    }
    /// Something could not be done; `place` as in `State::trouble`. Devices are one place: they come and go.
    pub fn failed(&self, place: &str) {
        let place = if place.starts_with("device ") { "device" } else { place };
        *locked(&self.numbers).failures.entry(place.replace(' ', "_")).or_default() += 1;
    }
    /// As they are now.
    pub fn numbers(&self) -> Numbers {
        locked(&self.numbers).clone()
    }
    /// The programs told of a packet; before it they could not tell of so many.
    pub fn event(&self, lost_before: u32) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.events_lost.fetch_add(lost_before.into(), Ordering::Relaxed);
    }
    /// Events that were told, and those that were lost.
    pub fn events(&self) -> (u64, u64) {
        (self.events.load(Ordering::Relaxed), self.events_lost.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_once_and_at_its_bound() {
        let mut durations = Durations::default();
        for millis in [0, 1, 2, 30_000, 31_000] {
            durations.add(Duration::from_millis(millis));
        }
        assert_eq!((durations.counts[0], durations.counts[1]), (2, 1));
        assert_eq!((durations.counts[BOUNDS.len() - 1], durations.counts[BOUNDS.len()]), (1, 1));
        assert_eq!((durations.count(), durations.sum), (5, 61.003));
    }

    #[test]
    fn failures_of_devices_are_one_series() {
        let telemetry = Telemetry::default();
        for place in ["device eth0", "device eth1", "last good state"] {
            telemetry.failed(place);
        }
        let failures = telemetry.numbers().failures;
        assert_eq!(failures, BTreeMap::from([("device".into(), 2), ("last_good_state".into(), 1)]));
    }
}
