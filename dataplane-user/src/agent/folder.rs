//! The policies folder: read whole, put into the store, which keeps the last good version of what is broken (D13).
//!
//! A file that is gone is a deletion. A file or folder that cannot be read is not: what came from it stays. A folder
//! that holds no document any more and is not the one that held them (device and inode) is an unmounted volume, not an
//! order to delete everything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lastgood::{LastGood, Saved};
use super::state::now;
use crate::policy::{Changes, Problem, Severity, World};
use crate::resource::{Document, ObjectKey, Store, documents_from_path};

/// Device and inode of a folder.
pub(super) type Identity = (u64, u64);

/// Since when an object is what it is, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Age {
    /// Its version was accepted.
    accepted: u64,
    /// A later version was refused, and this one goes on.
    kept: Option<u64>,
}

/// An object whose file says something else now (D13).
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

/// A folder and what is valid in it.
pub struct Folder {
    path: PathBuf,
    store: Store,
    ages: BTreeMap<ObjectKey, Age>,
    /// The folder that last held documents.
    identity: Option<Identity>,
    documents: Option<Vec<Document>>,
    problems: Vec<Problem>,
}

impl Folder {
    /// Not read yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            store: Store::default(),
            ages: BTreeMap::new(),
            identity: None,
            documents: None,
            problems: Vec::new(),
        }
    }

    /// Takes the objects that an agent before us had accepted, before the first read: what is broken now goes on in
    /// that version (D46). Says what of them this build refuses.
    pub fn restore(&mut self, last: &LastGood) -> Vec<Problem> {
        let report = self.store.replace(last.documents());
        self.identity = last.identity;
        let saved: BTreeMap<&str, &Saved> = last.objects.iter().map(|s| (s.object.as_str(), s)).collect();
        self.ages = self
            .store
            .objects()
            .filter_map(|o| Some((o.key.clone(), saved.get(o.key.to_string().as_str())?)))
            .map(|(key, s)| (key, Age { accepted: s.accepted, kept: s.kept }))
            .collect();
        report.problems.into_iter().filter(|p| p.severity == Severity::Error).collect()
    }

    /// Reads everything again. False when nothing changed.
    pub fn read(&mut self) -> bool {
        let (mut documents, _) = documents_from_path(&self.path);
        let identity = identity(&self.path);
        if documents.is_empty() && self.is_another(identity) {
            documents.push(Document::unreadable(self.emptied()));
        } else if documents.iter().any(|d| d.unreadable.is_none()) {
            self.identity = identity;
        }
        if self.documents.as_ref() == Some(&documents) {
            return false;
        }
        self.replace(documents, now());
        true
    }

    fn is_another(&self, identity: Option<Identity>) -> bool {
        self.store.objects().next().is_some() && self.identity.is_some() && self.identity != identity
    }

    fn emptied(&self) -> Problem {
        Problem {
            severity: Severity::Error,
            file: self.path.display().to_string(),
            line: 0,
            object: String::new(),
            path: String::new(),
            value: String::new(),
            message:
                "is empty, and is not the folder that held the documents before, so they stay in force; is a \
                      volume not mounted? To delete them all, put any one document here"
                    .to_owned(),
        }
    }

    fn replace(&mut self, documents: Vec<Document>, now: u64) {
        let before: BTreeMap<ObjectKey, serde_json::Value> =
            self.store.objects().map(|o| (o.key.clone(), o.value.clone())).collect();
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
    pub fn take_changes(&mut self) -> Changes {
        self.store.take_changes()
    }

    /// Of the last read.
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

    /// What the next agent needs if it finds this folder broken.
    pub fn last_good(&self) -> LastGood {
        let objects = self
            .store
            .objects()
            .map(|o| {
                let age = self.ages.get(&o.key);
                Saved {
                    object: o.key.to_string(),
                    file: o.file.clone(),
                    line: o.line,
                    text: o.value.to_string(),
                    accepted: age.map_or(0, |a| a.accepted),
                    kept: age.and_then(|a| a.kept),
                }
            })
            .collect();
        LastGood { folder: self.path.clone(), identity: self.identity, objects }
    }
}

pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests;
