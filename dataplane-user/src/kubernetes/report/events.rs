//! Events on their way to the API server: a bounded queue, and no more than a trickle out of it.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::announce::{Announcement, Regarding};
use super::facts::Fnv;

/// `reportingController` of all our events.
pub const CONTROLLER: &str = "portcullis.dev/agent";
/// What waits; what comes on top is dropped and counted.
pub const MAX_QUEUE: usize = 64;
/// So many at once …
pub const BURST: u32 = 20;
/// … and then one per so long.
pub const REFILL: Duration = Duration::from_secs(10);
/// The namespace of events about objects that have none.
const DEFAULT_NAMESPACE: &str = "default";
/// Longest part of an event's name that is its object's; names have at most 253 characters.
const MAX_NAME_CHARS: usize = 220;

/// What waits, and what may still be sent at once.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<(Announcement, Timestamp)>,
    tokens: u32,
    refilled: Instant,
    /// Not before: the API server did not answer.
    paused_until: Option<Instant>,
    /// Since the last that was sent.
    pub dropped: u64,
}

impl Queue {
    /// Empty.
    pub fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), tokens: BURST, refilled: now, paused_until: None, dropped: 0 }
    }

    /// Adds what there is room for.
    pub fn add(&mut self, announcements: Vec<Announcement>, at: Timestamp) {
        for announcement in announcements {
            if self.waiting.len() >= MAX_QUEUE {
                self.dropped += 1;
                tracing::warn!(
                    reason = announcement.reason.name(),
                    "an Event is left out, there are too many: {}",
                    announcement.note
                );
                continue;
            }
            self.waiting.push_back((announcement, at));
        }
    }

    /// When the next may be sent; `None`: nothing waits.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.front()?;
        let token = if self.tokens > 0 { self.refilled } else { self.refilled + REFILL };
        Some(self.paused_until.map_or(token, |until| until.max(token)))
    }

    /// The next, if it may be sent now.
    pub fn next(&mut self, now: Instant) -> Option<(Announcement, Timestamp)> {
        let refill = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let refill = u32::try_from(refill).unwrap_or(u32::MAX);
        self.refilled += REFILL.saturating_mul(refill);
        self.tokens = self.tokens.saturating_add(refill).min(BURST);
        if self.due().is_none_or(|due| due > now) || self.tokens == 0 {
            return None;
        }
        self.waiting.front().cloned()
    }

    /// The first was sent, or is not wanted.
    pub fn done(&mut self) {
        self.waiting.pop_front();
        self.tokens = self.tokens.saturating_sub(1);
        self.paused_until = None;
    }

    /// It could not be sent: later.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = Some(until);
    }

    /// Nobody will take them.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// An event as the API server takes it, and its namespace.
pub fn event(
    announcement: &Announcement,
    node: &str,
    node_uid: Option<&str>,
    at: Timestamp,
) -> (String, Event) {
    let of_node = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(node.to_owned()),
        // What the kubelet writes, and `kubectl describe node` looks for first, is the name.
        uid: Some(node_uid.unwrap_or(node).to_owned()),
        ..ObjectReference::default()
    };
    let regarding = match &announcement.regarding {
        Regarding::Node => of_node.clone(),
        Regarding::Object { api_version, kind, namespace, name, uid } => ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(kind.clone()),
            namespace: (!namespace.is_empty()).then(|| namespace.clone()),
            name: Some(name.clone()),
            uid: uid.clone(),
            ..ObjectReference::default()
        },
    };
    let related = (announcement.regarding != Regarding::Node).then_some(of_node);
    let namespace = regarding.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let about = regarding.name.clone().unwrap_or_default();
    let about: String = about.chars().take(MAX_NAME_CHARS).collect();
    let fingerprint = announcement.fingerprint.clone().unwrap_or_else(|| {
        let mut hash = Fnv::default();
        for part in [node, announcement.reason.name(), &announcement.note, &at.as_nanosecond().to_string()] {
            hash.take(part);
        }
        hash.to_string()
    });
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{about}.{fingerprint}")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some(announcement.reason.action().to_owned()),
        reason: Some(announcement.reason.name().to_owned()),
        type_: Some(announcement.reason.kind().to_owned()),
        note: Some(announcement.note.clone()),
        event_time: Some(MicroTime(at)),
        regarding: Some(regarding),
        related,
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    };
    (namespace, event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::report::announce::EventReason;

    fn announcement(note: &str) -> Announcement {
        Announcement {
            reason: EventReason::Recovered,
            regarding: Regarding::Node,
            note: note.into(),
            fingerprint: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_a_trickle() {
        let mut queue = Queue::new(Instant::now());
        queue.add((0..100).map(|n| announcement(&n.to_string())).collect(), Timestamp::UNIX_EPOCH);
        assert_eq!(queue.dropped, 100 - MAX_QUEUE as u64);
        let mut sent = 0;
        while queue.next(Instant::now()).is_some() {
            queue.done();
            sent += 1;
        }
        assert_eq!(sent, BURST);
        let due = queue.due().unwrap();
        assert!(due > Instant::now() && due <= Instant::now() + REFILL);
        tokio::time::advance(REFILL * 3).await;
        let mut more = 0;
        while queue.next(Instant::now()).is_some() {
            queue.done();
            more += 1;
        }
        assert_eq!(more, 3);
        queue.pause(Instant::now() + REFILL * 9);
        assert_eq!(queue.due(), Some(Instant::now() + REFILL * 9));
    }

    #[test]
    fn all_nodes_give_a_shared_event_one_name() {
        let shared = Announcement { fingerprint: Some("aa".into()), ..announcement("x") };
        let name =
            |a: &Announcement, node| event(a, node, None, Timestamp::UNIX_EPOCH).1.metadata.name.unwrap();
        let of_object = Announcement {
            regarding: Regarding::Object {
                api_version: "projectcalico.org/v3".into(),
                kind: "NetworkSet".into(),
                namespace: "web".into(),
                name: "n".repeat(253),
                uid: None,
            },
            ..shared
        };
        let at = |n: i64| Timestamp::from_second(1_800_000_000 + n).unwrap();
        let of_node = |n: i64| {
            let (namespace, event) = event(&of_object, &format!("node{n}"), Some(&format!("uid{n}")), at(n));
            (namespace, event.metadata.name)
        };
        let places: std::collections::BTreeSet<_> = (0..1000).map(of_node).collect();
        assert_eq!(places.len(), 1, "the API server takes the first");
        assert!(name(&of_object, "a").len() <= 253);
        assert_eq!(event(&of_object, "a", None, Timestamp::UNIX_EPOCH).0, "web");
        assert_ne!(name(&announcement("x"), "a"), name(&announcement("x"), "b"));
        let (namespace, event) = event(&announcement("x"), "a", Some("u"), Timestamp::UNIX_EPOCH);
        assert_eq!((namespace.as_str(), event.regarding.unwrap().uid.as_deref()), ("default", Some("u")));
    }
}
