//! Documents of a source, put into the store, which keeps the last good version of what is broken (D13), with the
//! times that people ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lastgood::{LastGood, Saved, Text};
use super::state::now;
use crate::policy::{Changes, Problem, Severity, World};
use crate::resource::{Document, ObjectKey, Store, StoredObject};

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
