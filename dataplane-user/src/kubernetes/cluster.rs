//! What the cluster says, out of the notices of its watches. Pure: no I/O, no clock of its own.
//!
//! Invariants: a list counts when it is whole; a kind that is served in another group, or asked for in another scope,
//! keeps its objects until the new list is whole; another cluster behind the same address takes nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::Value;

use super::plan::{WatchKey, by_kind, is_calico};
use super::{Notice, What};
use crate::resource::{Document, Kind};

/// Everything that the watches gave.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    watches: BTreeMap<WatchKey, Watch>,
    planned: BTreeSet<WatchKey>,
    /// UID of the cluster whose objects these are.
    id: Option<String>,
    /// UID of another cluster that answers instead.
    stranger: Option<String>,
}

/// One watch.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// By (namespace, name).
    live: BTreeMap<(String, String), Value>,
    /// The list that is being read.
    next: Option<BTreeMap<(String, String), Value>>,
    /// A list was whole once.
    synced: bool,
    trouble: Option<Trouble>,
}

/// A watch that fails, since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// First failure of the row.
    pub since: SystemTime,
    /// Latest error.
    pub text: String,
}

impl Cluster {
    /// `id`: the cluster that an earlier agent followed, from its last good state.
    pub fn new(id: Option<String>) -> Self {
        Self { id, ..Self::default() }
    }

    /// Another set of watches. What is not planned any more stays until its kind has a whole list elsewhere.
    pub fn replan(&mut self, planned: BTreeSet<WatchKey>) {
        for key in &planned {
            self.watches.entry(key.clone()).or_default();
        }
        self.planned = planned;
        self.retire();
    }

    /// Takes a notice. True when the documents may have changed.
    pub fn notice(&mut self, notice: Notice, now: SystemTime) -> bool {
        let Some(watch) = self.watches.get_mut(&notice.watch) else { return false };
        match notice.what {
            What::ListBegins => {
                watch.next = Some(BTreeMap::new());
                false
            }
            What::Listed(object) => {
                if let (Some(next), Some(key)) = (&mut watch.next, key_of(&object)) {
                    next.insert(key, *object);
                }
                false
            }
            What::ListEnds { cluster } => self.list_ends(&notice.watch, cluster),
            What::Applied(object) => {
                watch.trouble = None;
                let Some(key) = key_of(&object) else { return false };
                self.stranger.is_none() && watch.live.insert(key, *object.clone()).as_ref() != Some(&*object)
            }
            What::Deleted(object) => {
                watch.trouble = None;
                let Some(key) = key_of(&object) else { return false };
                self.stranger.is_none() && watch.live.remove(&key).is_some()
            }
            What::Failed(text) => {
                let since = watch.trouble.as_ref().map_or(now, |t| t.since);
                watch.trouble = Some(Trouble { since, text });
                false
            }
        }
    }

    fn list_ends(&mut self, key: &WatchKey, cluster: String) -> bool {
        if self.is_foreign(&cluster) && !self.welcomes(key) {
            self.stranger = Some(cluster);
            return false;
        }
        if self.id.as_ref() != Some(&cluster) {
            self.id = Some(cluster);
        }
        self.stranger = None;
        let Some(watch) = self.watches.get_mut(key) else { return false };
        let Some(next) = watch.next.take() else { return false };
        let first = !std::mem::replace(&mut watch.synced, true);
        watch.trouble = None;
        let changed = watch.live != next;
        watch.live = next;
        self.retire();
        changed || first
    }

    fn is_foreign(&self, cluster: &str) -> bool {
        self.id.as_deref().is_some_and(|id| id != cluster)
    }

    /// Another cluster is believed once it holds host endpoints of its own: an empty one is a wiped store, and would
    /// read as "all policies deleted".
    fn welcomes(&self, key: &WatchKey) -> bool {
        key.kind == Kind::HostEndpoint
            && self.watches.get(key).and_then(|w| w.next.as_ref()).is_some_and(|next| !next.is_empty())
    }

    /// Drops watches that are not planned, once the kind has a planned one that is in sync.
    fn retire(&mut self) {
        let planned = by_kind(&self.planned);
        let replaced = |kind: Kind, watches: &BTreeMap<WatchKey, Watch>| {
            planned.get(&kind).is_some_and(|keys| keys.iter().any(|key| watches.get(*key).is_some_and(|w| w.synced)))
        };
        let gone: Vec<WatchKey> = self
            .watches
            .iter()
            .filter(|(key, watch)| {
                !self.planned.contains(*key) && (watch.live.is_empty() || replaced(key.kind, &self.watches))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.watches.remove(&key);
        }
    }

    /// Every planned watch had a whole list (D46).
    pub fn in_sync(&self) -> bool {
        !self.planned.is_empty()
            && self.stranger.is_none()
            && self.planned.iter().all(|key| self.watches.get(key).is_some_and(|w| w.synced))
    }

    /// Every object as a document, named by its place in the API. Of a kind with two watches (one replaces the
    /// other) those of the one that is in sync.
    pub fn documents(&self) -> Vec<Document> {
        let mut documents = Vec::new();
        for (kind, keys) in by_kind(&self.watches.keys().cloned().collect()) {
            // Planned and in sync first; else what was there before.
            let best = keys.iter().max_by_key(|key| {
                let synced = self.watches.get(**key).is_some_and(|w| w.synced);
                (synced, self.planned.contains(**key))
            });
            let Some(watch) = best.and_then(|key| self.watches.get(*key).map(|watch| (*key, watch))) else { continue };
            for ((namespace, name), value) in &watch.1.live {
                let place = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
                documents.push(Document::new(
                    format!("kubernetes:{}/{}/{place}", watch.0.api_version, kind.plural()),
                    0,
                    value.clone(),
                ));
            }
        }
        documents
    }

    /// The cluster whose objects these are.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What is wrong, by place, for `status`.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = BTreeMap::new();
        if let (Some(id), Some(stranger)) = (&self.id, &self.stranger) {
            troubles.insert(
                "cluster".to_owned(),
                format!(
                    "another cluster answers (UID {stranger} instead of {id}), without any HostEndpoint: was its store \
                     wiped? The policies of the former one stay in force; restart the agent with \
                     --accept-new-cluster to follow the new one"
                ),
            );
        }
        for (key, watch) in &self.watches {
            if let Some(trouble) = &watch.trouble {
                troubles.insert(format!("watch of {} {}", key.api_version, key.kind.plural()), trouble.text.clone());
            }
            if !self.planned.contains(key) && is_calico(key.kind) && !watch.live.is_empty() {
                troubles.insert(
                    format!("kind {}", key.kind),
                    format!(
                        "{} does not serve it any more; its {} objects stay in force until it is served again",
                        key.api_version,
                        watch.live.len()
                    ),
                );
            }
        }
        troubles
    }

    /// Since when some watch fails; `None`: all is well.
    pub fn stale_since(&self) -> Option<SystemTime> {
        self.watches.values().filter_map(|w| w.trouble.as_ref().map(|t| t.since)).min()
    }

    /// Objects by watch, for `status`.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let name = |key: &WatchKey| format!("{} {}", key.api_version, key.kind.plural());
        self.watches.iter().map(|(key, watch)| (name(key), watch.live.len())).collect()
    }
}

fn key_of(object: &Value) -> Option<(String, String)> {
    let metadata = object.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((text("namespace"), text("name")))
}
