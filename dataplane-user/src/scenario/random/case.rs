//! A generated case: a scenario as a tree of values, which the shrinker can prune and which is written as the
//! documented format.

use std::path::Path;

use serde_json::{Value, json};

use super::text;
use crate::scenario::LoadError;
use crate::scenario::format::{self, Scenario};

/// `spec` as in a scenario file, but `documents` and `steps[].apply` are lists of objects instead of text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    pub name: String,
    pub spec: Value,
}

impl Case {
    pub(super) fn steps(&self) -> usize {
        self.spec["steps"].as_array().map_or(0, Vec::len)
    }

    /// The file's text. `why` stands at its top, a comment line each.
    pub(super) fn text(&self, why: &[String]) -> String {
        let mut spec = self.spec.clone();
        documents_as_text(&mut spec, "documents");
        if let Some(steps) = spec["steps"].as_array_mut() {
            steps.iter_mut().for_each(|step| documents_as_text(step, "apply"));
        }
        let document = json!({
            "apiVersion": format::API_VERSION,
            "kind": "Scenario",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        let comments: String = why.iter().map(|line| format!("# {line}\n")).collect();
        format!("{comments}{}", text::block(&document))
    }

    /// The case as a scenario, by way of its text: what runs is what a file would say.
    pub(super) fn scenario(&self) -> Result<Scenario, LoadError> {
        let file = Path::new(&self.name);
        let mut all = format::parse(file, &self.text(&[]))?;
        let none = || LoadError { file: file.into(), line: 0, message: "holds no scenario".into() };
        all.pop().ok_or_else(none)
    }
}

fn documents_as_text(holder: &mut Value, key: &str) {
    let Some(Value::Array(documents)) = holder.get(key) else { return };
    let parts: Vec<String> = documents.iter().map(text::block).collect();
    holder[key] = Value::String(parts.join("---\n"));
}
