//! The policies folder, read whole.
//!
//! A file that is gone is a deletion. A file or folder that cannot be read is not: what came from it stays. A folder
//! that holds no document any more and is not the one that held them (device and inode) is an unmounted volume, not an
//! order to delete everything.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::accepted::Accepted;
use crate::policy::{Problem, Severity};
use crate::resource::{Document, documents_from_path};
use crate::state::lastgood::{Identity, LastGood};

/// A folder and what is valid in it.
pub struct Folder {
    path: PathBuf,
    accepted: Accepted,
    /// The folder that last held documents.
    identity: Option<Identity>,
}

impl Folder {
    /// Not read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, accepted: Accepted::default(), identity: None }
    }

    /// See [`Accepted::restore`].
    pub fn restore(&mut self, last: &LastGood) -> Vec<Problem> {
        self.identity = last.identity;
        self.accepted.restore(last)
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
        self.accepted.take(documents)
    }

    fn is_another(&self, identity: Option<Identity>) -> bool {
        self.accepted.objects().next().is_some() && self.identity.is_some() && self.identity != identity
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

    /// What is valid in it.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// For what changes in it.
    pub(super) fn accepted_mut(&mut self) -> &mut Accepted {
        &mut self.accepted
    }

    /// What the next agent needs if it finds this folder broken.
    pub fn last_good(&self) -> LastGood {
        LastGood {
            folder: self.path.clone(),
            identity: self.identity,
            cluster: None,
            objects: self.accepted.saved(),
        }
    }
}

pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests;
