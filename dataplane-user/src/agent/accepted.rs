//! Documents of a source, put into the store, which keeps the last good version of what is broken (D13), with the
//! times that people ask for.

use std::collections::BTreeMap;
#[cfg(feature = "kubernetes")]
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::{Changes, Problem, Severity, World};
use crate::resource::{Document, ObjectKey, Store, StoredObject};
use crate::state::lastgood::{LastGood, Saved, Text};
use crate::state::now;
#[cfg(feature = "kubernetes")]
use {
    crate::kubernetes::report::facts::{Applied, ObjectFacts},
    crate::resource::{Group, Kind, Object},
    serde_json::Value,
};

/// Since when an object is what it is, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Age {
    /// Its version was accepted.
    accepted: u64,
    /// A later version was refused, and this one goes on.
    kept: Option<u64>,
}

/// An object whose source says something else now (D13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `Kind/name`
    pub object: String,
    /// Where the good version stood.
    pub file: String,
    /// When it was accepted, Unix seconds.
    pub accepted: u64,
    /// When what came after it was first refused, Unix seconds.
    pub since: u64,
    pub reasons: Vec<String>,
}

/// What is valid of a source.
#[derive(Default)]
pub struct Accepted {
    store: Store,
    ages: BTreeMap<ObjectKey, Age>,
    /// As they were last taken.
    documents: Option<Vec<Document>>,
    problems: Vec<Problem>,
}

impl Accepted {
    /// Takes the objects that an agent before us had accepted, before anything is read: what is broken now goes on in
    /// that version (D46). Says what of them this build refuses.
    pub(super) fn restore(&mut self, last: &LastGood) -> Vec<Problem> {
        let report = self.store.replace(last.documents());
        let saved: BTreeMap<&str, &Saved> = last.objects.iter().map(|s| (s.object.as_str(), s)).collect();
        self.ages = self
            .store
            .objects()
            .filter_map(|o| Some((o.key.clone(), saved.get(o.key.to_string().as_str())?)))
            .map(|(key, s)| (key, Age { accepted: s.accepted, kept: s.kept }))
            .collect();
        report.problems.into_iter().filter(|p| p.severity == Severity::Error).collect()
    }

    /// All documents of the source as they are now. False when nothing changed.
    pub(super) fn take(&mut self, documents: Vec<Document>) -> bool {
        if self.documents.as_ref() == Some(&documents) {
            return false;
        }
        self.replace(documents, now());
        true
    }

    pub(super) fn replace(&mut self, documents: Vec<Document>, now: u64) {
        let before: BTreeMap<ObjectKey, Arc<serde_json::Value>> =
            self.store.objects().map(|o| (o.key.clone(), Arc::clone(&o.value))).collect();
        let report = self.store.replace(documents.clone());
        let mut ages = BTreeMap::new();
        for object in self.store.objects() {
            let old = self.ages.get(&object.key).filter(|_| before.get(&object.key) == Some(&object.value));
            let kept = (!object.superseded.is_empty()).then(|| old.and_then(|a| a.kept).unwrap_or(now));
            ages.insert(object.key.clone(), Age { accepted: old.map_or(now, |a| a.accepted), kept });
        }
        self.ages = ages;
        self.documents = Some(documents);
        for problem in report.problems.iter().filter(|p| !self.problems.contains(p)) {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
                Severity::Note => tracing::info!("{problem}"),
            }
        }
        self.problems = report.problems;
    }

    /// Everything that is valid.
    pub fn world(&self) -> &World {
        self.store.world()
    }

    /// What changed in [`Self::world`] since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        self.store.take_changes()
    }

    /// Accepted objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = &StoredObject> {
        self.store.objects()
    }

    /// Of the last documents taken.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What goes on in an older version, by name.
    pub fn kept(&self) -> Vec<Kept> {
        self.store
            .objects()
            .filter(|o| !o.superseded.is_empty())
            .map(|o| {
                let age = self.ages.get(&o.key);
                Kept {
                    object: o.key.to_string(),
                    file: o.file.clone(),
                    accepted: age.map_or(0, |a| a.accepted),
                    since: age.and_then(|a| a.kept).unwrap_or(0),
                    reasons: o.superseded.iter().map(ToString::to_string).collect(),
                }
            })
            .collect()
    }

    /// What a report tells of policies, of host endpoints, and of whatever else was refused.
    #[cfg(feature = "kubernetes")]
    pub(super) fn facts(&self) -> Vec<ObjectFacts> {
        let rejected = self.store.rejected();
        let superseded = self.store.objects().flat_map(|o| &o.superseded);
        let places: BTreeSet<&str> =
            superseded.chain(rejected.values().flatten()).map(|p| p.file.as_str()).collect();
        let documents = self.documents.iter().flatten().filter(|d| places.contains(d.file.as_str()));
        let latest: BTreeMap<&str, &Value> = documents.map(|d| (d.file.as_str(), plain(&d.value))).collect();
        let latest_of =
            |problems: &[Problem]| problems.iter().find_map(|p| latest.get(p.file.as_str()).copied());
        let told = |o: &&StoredObject| {
            matches!(&*o.object, Object::Policy(_) | Object::InertPolicy(_) | Object::HostEndpoint(_))
                || !o.superseded.is_empty()
        };
        let accepted = self.store.objects().filter(told).map(|o| {
            let since = self.ages.get(&o.key).and_then(|a| a.kept);
            let latest = latest_of(&o.superseded);
            ObjectFacts::new(o.key.clone(), Some(plain(&o.value)), latest, &o.superseded, since)
        });
        let rejected = rejected
            .iter()
            .map(|(key, problems)| ObjectFacts::new(key.clone(), None, latest_of(problems), problems, None));
        accepted.chain(rejected).collect()
    }

    /// What a generation is made of now, beside what Kubernetes itself has.
    #[cfg(feature = "kubernetes")]
    pub(super) fn applied(&self) -> Applied {
        let calico = self.store.objects().filter(|o| o.key.kind.group() == Group::Calico);
        Applied::of(calico.map(|o| (&o.key, plain(&o.value))))
    }

    /// `metadata.uid` of an object.
    #[cfg(feature = "kubernetes")]
    pub(super) fn uid(&self, kind: Kind, name: &str) -> Option<String> {
        let object = self.store.get(kind.as_str(), "", name)?;
        object.value["metadata"]["uid"].as_str().map(str::to_owned)
    }

    /// As the next agent takes them.
    pub(super) fn saved(&self) -> Vec<Saved> {
        self.store
            .objects()
            .map(|o| {
                let age = self.ages.get(&o.key);
                Saved {
                    object: o.key.to_string(),
                    file: o.file.clone(),
                    line: o.line,
                    text: Text::Json(Arc::clone(&o.value)),
                    accepted: age.map_or(0, |a| a.accepted),
                    kept: age.and_then(|a| a.kept),
                }
            })
            .collect()
    }
}

/// However a document is held.
#[cfg(feature = "kubernetes")]
fn plain(value: &Value) -> &Value {
    value
}
