//! The resources of a scenario, as its steps change them.

use std::path::Path;

use super::format::{OneOrMany, Spec, Step};
use crate::policy::{Problem, Severity, World};
use crate::resource::{self, Document, Store};

/// What is applied at this point of the scenario.
pub(crate) struct State {
    store: Store,
}

fn errors(problems: &[Problem]) -> Vec<&Problem> {
    problems.iter().filter(|p| p.severity == Severity::Error).collect()
}

impl State {
    /// Reads `resources` and `documents`. An error in one of them is an error of the scenario.
    pub(crate) fn new(spec: &Spec, folder: &Path) -> Result<Self, (usize, String)> {
        let mut documents: Vec<Document> = Vec::new();
        let mut problems = Vec::new();
        for path in &spec.resources {
            let path = folder.join(path);
            if !path.exists() {
                return Err((0, format!("spec.resources: {} does not exist", path.display())));
            }
            let (found, wrong) = resource::documents_from_path(&path);
            // A folder of policies may hold their scenarios too.
            documents.extend(found.into_iter().filter(|d| !d.is_scenario()));
            problems.extend(wrong);
        }
        let mut line = 0;
        if let Some(text) = &spec.documents {
            line = text.referenced.line() as usize;
            let (found, wrong) = resource::documents_from_str("spec.documents", &text.value);
            documents.extend(found);
            problems.extend(wrong);
        }
        let mut store = Store::default();
        // The store reports unreadable documents again.
        problems.extend(store.replace(documents).problems);
        problems.sort();
        problems.dedup();
        match errors(&problems).as_slice() {
            [] => Ok(Self { store }),
            all => Err((line, all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))),
        }
    }

    pub(crate) fn world(&self) -> World {
        self.store.world().clone()
    }

    pub(crate) fn has_endpoints(&self) -> bool {
        let world = self.store.world();
        !world.host_endpoints.is_empty() || (world.kube_controllers.auto_create && !world.nodes.is_empty())
    }

    /// Creates or updates documents; gives what did not go as the step expects.
    /// `limits` says what of a world is too large.
    pub(crate) fn apply(
        &mut self,
        file: &str,
        text: &str,
        step: &Step,
        limits: impl FnOnce(World) -> Option<String>,
    ) -> Vec<String> {
        let (documents, _) = resource::documents_from_str(file, text);
        let before = self.store.clone();
        let problems = self.store.apply(documents).problems;
        let mut rejected: Vec<String> = errors(&problems).iter().map(ToString::to_string).collect();
        if rejected.is_empty()
            && let Some(why) = limits(self.world())
        {
            self.store = before;
            rejected.push(why);
        }
        let warnings: Vec<String> =
            problems.iter().filter(|p| p.severity == Severity::Warning).map(ToString::to_string).collect();
        match &step.expect_rejected {
            Some(_) if rejected.is_empty() => {
                vec!["apply: expected to be rejected, but everything was accepted".into()]
            }
            Some(wanted) => missing("expectRejected", wanted, &rejected),
            None if !rejected.is_empty() => {
                rejected.into_iter().map(|why| format!("apply: rejected: {why}")).collect()
            }
            None => step
                .expect_warnings
                .as_ref()
                .map_or_else(Vec::new, |w| missing("expectWarnings", w, &warnings)),
        }
    }

    /// These documents are all there are: each is taken for itself, and what is rejected stays in its last good version
    /// (D13, D46). Gives what did not go as the step expects.
    pub(crate) fn folder(&mut self, file: &str, text: &str, step: &Step) -> Vec<String> {
        let (documents, _) = resource::documents_from_str(file, text);
        let problems = self.store.replace(documents).problems;
        let rejected: Vec<String> = errors(&problems).iter().map(ToString::to_string).collect();
        match &step.expect_rejected {
            Some(wanted) => missing("expectRejected", wanted, &rejected),
            None => rejected.into_iter().map(|why| format!("folder: rejected: {why}")).collect(),
        }
    }

    /// Deletes `Kind/name` or `Kind/namespace/name`.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), String> {
        let (kind, namespace, object) = match name.split('/').collect::<Vec<_>>().as_slice() {
            [kind, object] => (*kind, "", *object),
            [kind, namespace, object] => (*kind, *namespace, *object),
            _ => return Err(format!("delete {name:?}: write Kind/name or Kind/namespace/name")),
        };
        match self.store.delete(kind, namespace, object) {
            Ok(_) => Ok(()),
            Err(problem) => Err(format!("delete {name:?}: {problem}")),
        }
    }
}

fn missing(key: &str, wanted: &OneOrMany, got: &[String]) -> Vec<String> {
    let all = wanted.all().iter();
    all.filter(|part| !got.iter().any(|message| message.contains(*part)))
        .map(|part| {
            let got = if got.is_empty() { "nothing".into() } else { got.join("; ") };
            format!("{key}: no message holds {part:?}; got: {got}")
        })
        .collect()
}
