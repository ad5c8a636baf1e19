//! When to write: at once where it matters to who waits, seldom where it does not, and never all nodes in step.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::types::Report;

/// Between two writes.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Between two writes when only what is counted moves.
pub const PAUSE_COUNTS: Duration = Duration::from_secs(30);
/// Hooks are looked at so often: nobody tells when a foreign program comes or goes.
pub const LOOK: Duration = Duration::from_secs(30);
/// A report is written again so often, that its age tells whether the agent lives.
pub const HEARTBEAT: Duration = Duration::from_secs(300);
/// For each node of the cluster: all of them together write at most a hundred times a second.
pub const SPREAD_PER_NODE: Duration = Duration::from_millis(10);
/// Longest wait for that reason.
pub const SPREAD_MAX: Duration = Duration::from_secs(60);
/// After the first failure; doubled by each further one.
pub const RETRY: Duration = Duration::from_secs(2);
/// Longest pause while writing fails.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// While the cluster has no such kind.
pub const RETRY_NO_KIND: Duration = Duration::from_secs(300);
/// The first report waits for the agent to have read everything, but not longer.
pub const SETTLE: Duration = Duration::from_secs(10);

/// How much a report differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Not at all.
    None,
    /// In what is counted.
    Counts,
    /// In what somebody may wait for.
    Change,
}

/// Compares two.
pub fn weight(before: Option<&Report>, after: &Report) -> Weight {
    let Some(before) = before else { return Weight::Change };
    let plain = |report: &Report| Report { reported_at: String::new(), ..report.clone() };
    let (before, after) = (plain(before), plain(after));
    if before == after {
        return Weight::None;
    }
    let uncounted = |report: Report| Report { taken_away: Vec::new(), ..report };
    let new_place = before.taken_away.len() != after.taken_away.len();
    if !new_place && uncounted(before) == uncounted(after) { Weight::Counts } else { Weight::Change }
}

/// A random part of what all nodes together need.
pub fn spread(nodes: u32) -> Duration {
    (SPREAD_PER_NODE * nodes.saturating_sub(1)).min(SPREAD_MAX).mul_f64(chance())
}

/// Half to one and a half of it.
pub fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64(chance())
}

fn chance() -> f64 {
    let chance = RandomState::new().hash_one(()) % 1000;
    f64::from(u32::try_from(chance).unwrap_or(0)) / 1000.0
}

/// When the task turns next.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    due: Option<Instant>,
    /// Nothing is asked of the API server before that.
    not_before: Instant,
    failures: u32,
}

impl Schedule {
    /// Nothing is due.
    pub fn new(now: Instant) -> Self {
        Self { due: None, not_before: now, failures: 0 }
    }

    /// When the next turn is; `None`: there is nothing to say yet.
    pub fn due(&self) -> Option<Instant> {
        self.due.map(|due| due.max(self.not_before))
    }

    /// Something changed, or is to be looked at then. An earlier time stays.
    pub fn by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A turn begins.
    pub fn turn(&mut self) {
        self.due = None;
    }

    /// It was written.
    pub fn wrote(&mut self, now: Instant) {
        self.failures = 0;
        self.not_before = now + PAUSE;
    }

    /// It could not be written: not before so long. `pause`: `None` for one that grows.
    pub fn failed(&mut self, now: Instant, pause: Option<Duration>) {
        let grown = (RETRY * 2u32.saturating_pow(self.failures.min(8))).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + jittered(pause.unwrap_or(grown));
        self.by(self.not_before);
    }

    /// What was in the way is probably gone: soon again.
    pub fn hurry(&mut self, now: Instant) {
        self.not_before = self.not_before.min(now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::report::types::{Counts, TakenAwayReport};

    #[test]
    fn a_thousand_nodes_do_not_write_in_step() {
        assert_eq!(spread(1), Duration::ZERO);
        let waits: Vec<Duration> = (0..200).map(|_| spread(1000)).collect();
        assert!(waits.iter().all(|w| *w <= Duration::from_secs(10)));
        assert!(waits.iter().any(|w| *w > Duration::from_secs(5)));
        assert!(waits.iter().any(|w| *w < Duration::from_secs(5)));
        assert!((0..200).all(|_| spread(u32::MAX) <= SPREAD_MAX));
    }

    #[test]
    fn what_only_ages_weighs_nothing_and_what_is_counted_little() {
        let taken = |times| TakenAwayReport { place: "eth0".into(), times, ..TakenAwayReport::default() };
        let before = Report { reported_at: "a".into(), taken_away: vec![taken(1)], ..Report::default() };
        assert_eq!(weight(None, &before), Weight::Change);
        assert_eq!(
            weight(Some(&before), &Report { reported_at: "b".into(), ..before.clone() }),
            Weight::None
        );
        let again = Report { taken_away: vec![taken(2)], ..before.clone() };
        assert_eq!(weight(Some(&before), &again), Weight::Counts);
        let elsewhere = Report { taken_away: vec![taken(1), taken(1)], ..before.clone() };
        assert_eq!(weight(Some(&before), &elsewhere), Weight::Change);
        let counts = Counts { active: 1, ..Counts::default() };
        assert_eq!(weight(Some(&before), &Report { counts, ..before.clone() }), Weight::Change);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_ever_more_slowly() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert_eq!(schedule.due(), None);
        schedule.failed(now, None);
        assert!(schedule.due().unwrap() <= now + RETRY * 2);
        for _ in 0..10 {
            schedule.failed(now, None);
        }
        schedule.turn();
        schedule.by(now);
        assert!(schedule.due().unwrap() >= now + RETRY_MAX / 2, "a change does not press");
        schedule.hurry(now);
        assert_eq!(schedule.due(), Some(now + RETRY));
        schedule.wrote(now);
        schedule.by(now);
        assert_eq!(schedule.due(), Some(now + PAUSE));
    }
}
