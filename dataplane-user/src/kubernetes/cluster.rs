//! What the cluster says, out of the notices of its watches. Pure: no I/O, no clock of its own.
//!
//! Invariants: a list counts when it is whole; a kind that is served in another group, or asked for in another scope,
//! keeps its objects until the new list is whole; another cluster behind the same address takes nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
    live: BTreeMap<(String, String), Arc<Value>>,
    /// The list that is being read.
    next: Option<BTreeMap<(String, String), Arc<Value>>>,
    /// A whole list, and what followed it, of a cluster that is not believed (yet).
    refused: Option<BTreeMap<(String, String), Arc<Value>>>,
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
                watch.refused = None;
                false
            }
            What::Listed(object) => {
                if let (Some(next), Some(key)) = (&mut watch.next, key_of(&object)) {
                    next.insert(key, object);
                }
                false
            }
            What::ListEnds { cluster } => self.list_ends(&notice.watch, cluster),
            What::Applied(object) => {
                watch.trouble = None;
                let Some(key) = key_of(&object) else { return false };
                if let Some(refused) = &mut watch.refused {
                    refused.insert(key, object);
                    return self.adopt_stranger();
                }
                if self.stranger.is_some() || watch.live.get(&key) == Some(&object) {
                    return false;
                }
                watch.live.insert(key, object);
                self.retire();
                true
            }
            What::Deleted(object) => {
                watch.trouble = None;
                let Some(key) = key_of(&object) else { return false };
                if let Some(refused) = &mut watch.refused {
                    refused.remove(&key);
                    return false;
                }
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
        let foreign = self.id.as_deref().is_some_and(|id| id != cluster);
        let Some(watch) = self.watches.get_mut(key) else { return false };
        let Some(next) = watch.next.take() else { return false };
        watch.trouble = None;
        if foreign {
            watch.refused = Some(next);
            self.stranger = Some(cluster);
            return self.adopt_stranger();
        }
        let first = !std::mem::replace(&mut watch.synced, true);
        let changed = watch.live != next;
        watch.live = next;
        self.id = Some(cluster);
        if self.stranger.take().is_some() {
            self.watches.values_mut().for_each(|w| w.refused = None);
        }
        self.retire();
        changed || first
    }

    /// Another cluster is believed once it holds host endpoints of its own: an empty one is a wiped store, and would
    /// read as "all policies deleted". Then all its lists count at once.
    fn adopt_stranger(&mut self) -> bool {
        let with_endpoints = |(key, watch): (&WatchKey, &Watch)| {
            key.kind == Kind::HostEndpoint && watch.refused.as_ref().is_some_and(|list| !list.is_empty())
        };
        if !self.watches.iter().any(with_endpoints) {
            return false;
        }
        // One that was not listed yet goes on with what it has until its list is whole: it waits.
        for watch in self.watches.values_mut() {
            let refused = watch.refused.take();
            watch.synced = refused.is_some();
            watch.live = refused.unwrap_or_else(|| std::mem::take(&mut watch.live));
        }
        self.id = self.stranger.take();
        self.retire();
        true
    }

    /// Drops watches that are not planned, once the kind has a planned one that is in sync. Of a kind that moved to
    /// another group, an object is dropped when it has come there: while objects are copied from the one to the other,
    /// none of them may be missing.
    fn retire(&mut self) {
        let unplanned: Vec<WatchKey> =
            self.watches.keys().filter(|key| !self.planned.contains(*key)).cloned().collect();
        for key in unplanned {
            let Some(mut old) = self.watches.remove(&key) else { continue };
            for new in self.planned.iter().filter(|new| new.kind == key.kind) {
                let Some(watch) = self.watches.get(new).filter(|watch| watch.synced) else { continue };
                if new.api_version == key.api_version {
                    old.live.clear();
                } else {
                    let names: BTreeSet<_> = watch.live.keys().map(plain_name).collect();
                    old.live.retain(|name, _| !names.contains(&plain_name(name)));
                }
            }
            if !old.live.is_empty() {
                self.watches.insert(key, old);
            }
        }
    }

    /// Every planned watch had a whole list (D46).
    pub fn in_sync(&self) -> bool {
        !self.planned.is_empty() && self.stranger.is_none() && self.waiting().is_empty()
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
            let Some(watch) = best.and_then(|key| self.watches.get(*key).map(|watch| (*key, watch))) else {
                continue;
            };
            // What has not come to the other group yet.
            let left = self.watches.iter().filter(|(key, _)| {
                key.kind == kind && key.api_version != watch.0.api_version && !self.planned.contains(*key)
            });
            for (key, watch) in [watch].into_iter().chain(left) {
                for ((namespace, name), value) in &watch.live {
                    let place =
                        if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
                    let file = format!("kubernetes:{}/{}/{place}", key.api_version, kind.plural());
                    documents.push(Document::new(file, 0, Arc::clone(value)));
                }
            }
        }
        documents
    }

    /// Is there an object of this name, in any group? `namespace`: empty for kinds that have none.
    pub fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let wanted = (namespace.to_owned(), name.to_owned());
        self.watches
            .iter()
            .filter(|(key, _)| key.kind == kind)
            .any(|(_, watch)| watch.live.keys().any(|known| plain_name(known) == plain_name(&wanted)))
    }

    /// The cluster whose objects these are.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What is wrong with the cluster or a kind, by place, for `status`.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = BTreeMap::new();
        if let (Some(id), Some(stranger)) = (&self.id, &self.stranger) {
            troubles.insert(
                "cluster".to_owned(),
                format!(
                    "another cluster answers (UID {stranger} instead of {id}), without any HostEndpoint: was its store \
                     wiped? What came from the former one stays in force; restart the agent with \
                     --accept-new-cluster to follow the new one"
                ),
            );
        }
        for (key, watch) in &self.watches {
            if self.planned.contains(key) || !is_calico(key.kind) || watch.live.is_empty() {
                continue;
            }
            let (count, old) = (watch.live.len(), &key.api_version);
            let text = match self.planned.iter().find(|new| new.kind == key.kind) {
                None => {
                    format!(
                        "{old} does not serve it any more; its {count} objects stay in force until it is served again"
                    )
                }
                Some(new) if self.watches.get(new).is_some_and(|watch| watch.synced) => format!(
                    "{new} serves it now, and {count} objects of {old} are not there, such as {name}; they stay in force \
                     until they are; restart the agent with --accept-new-cluster to drop them",
                    new = new.api_version,
                    name = watch.live.keys().next().map(|(_, name)| name.as_str()).unwrap_or_default(),
                ),
                // It is being read.
                Some(_) => continue,
            };
            troubles.insert(format!("kind {}", key.kind), text);
        }
        troubles
    }

    /// What is wrong with single watches, by place.
    pub fn watch_troubles(&self) -> BTreeMap<String, String> {
        let line = |(key, watch): (&WatchKey, &Watch)| {
            let trouble = watch.trouble.as_ref()?;
            let goes_on = if watch.synced { "what was read before stays in force" } else { "never read yet" };
            let text = format!("{} (since {}; {goes_on})", trouble.text, stamp(trouble.since));
            Some((format!("watch of {} {}", key.api_version, key.kind.plural()), text))
        };
        self.watches.iter().filter_map(line).collect()
    }

    /// Watches that fail at the moment.
    pub fn troubled(&self) -> Vec<WatchKey> {
        self.watches.iter().filter(|(_, w)| w.trouble.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// What is planned and was never read as a whole.
    pub fn waiting(&self) -> Vec<&WatchKey> {
        self.planned.iter().filter(|key| !self.watches.get(*key).is_some_and(|w| w.synced)).collect()
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

/// Calico stores policies under names with a prefix that its API does not show.
fn plain_name(name: &(String, String)) -> (&str, &str) {
    (&name.0, name.1.strip_prefix("default.").unwrap_or(&name.1))
}

/// As people and programs read a time.
pub(super) fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "long ago".to_owned(), |t| t.to_string())
}

fn key_of(object: &Value) -> Option<(String, String)> {
    let metadata = object.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((text("namespace"), text("name")))
}
