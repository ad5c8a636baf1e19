//! The policies folder: read whole, put into the store, which keeps the last good version of what is broken (D13).

use std::path::PathBuf;

use crate::policy::{Problem, World};
use crate::resource::{Document, Store, documents_from_path};

/// A folder and what is valid in it.
pub struct Folder {
    path: PathBuf,
    store: Store,
    documents: Option<Vec<Document>>,
    problems: Vec<Problem>,
}

impl Folder {
    /// Not read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, store: Store::default(), documents: None, problems: Vec::new() }
    }

    /// Reads everything again. False when nothing changed. A folder that is gone changes nothing that is in force:
    /// it is reported, as an unmounted volume is no order to open everything.
    pub fn read(&mut self) -> bool {
        let (documents, _) = documents_from_path(&self.path);
        if self.documents.as_ref() == Some(&documents) {
            return false;
        }
        let report = self.store.replace(documents.clone());
        self.documents = Some(documents);
        for problem in report.problems.iter().filter(|p| !self.problems.contains(p)) {
            match problem.severity {
                crate::policy::Severity::Error => tracing::error!("{problem}"),
                crate::policy::Severity::Warning => tracing::warn!("{problem}"),
                crate::policy::Severity::Note => tracing::info!("{problem}"),
            }
        }
        self.problems = report.problems;
        true
    }

    /// Everything that is valid.
    pub fn world(&self) -> &World {
        self.store.world()
    }

    /// Of the last read.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}
