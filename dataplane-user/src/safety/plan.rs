//! What an apply or a delete would write, object by object.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::journal::{Change, Locked};
use super::text::{self, Sources};
use crate::resource::{ObjectKey, Store, StoredObject, documents_from_path, documents_from_str};

/// What happens to an object, in kubectl's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub key: ObjectKey,
    pub word: &'static str,
    /// File below the folder.
    pub file: String,
}

/// Steps, and the changes of files that make them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub changes: Vec<Change>,
}

/// Edits of a file: line and value of the document, and its new text.
type Edits<'a> = Vec<(usize, &'a serde_json::Value, Option<String>)>;

/// Puts these objects into the folder. `before` is what the folder holds.
pub fn apply(
    locked: &Locked,
    before: &BTreeMap<ObjectKey, StoredObject>,
    applied: &[&StoredObject],
    sources: &Sources,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut edits: BTreeMap<&str, Edits<'_>> = BTreeMap::new();
    for object in applied {
        let text = sources.text_of(&object.file, object.line, &object.value)?;
        let (word, file) = match before.get(&object.key) {
            Some(old) if old.value == object.value => ("unchanged", text::below(locked.folder(), &old.file)?),
            Some(old) => {
                let text = if is_json(&old.file) { json(&object.value)? } else { text };
                edits.entry(&old.file).or_default().push((old.line, &old.value, Some(text)));
                ("configured", text::below(locked.folder(), &old.file)?)
            }
            None => {
                let file = new_file(locked, &object.key)?;
                plan.changes.push(Change { path: file.clone(), text: Some(text) });
                ("created", file)
            }
        };
        plan.steps.push(Step { key: object.key.clone(), word, file });
    }
    plan.edit(locked.folder(), edits)?;
    Ok(plan)
}

/// Takes an object out of the folder.
pub fn delete(locked: &Locked, removed: &StoredObject) -> Result<Plan> {
    let file = text::below(locked.folder(), &removed.file)?;
    let step = Step { key: removed.key.clone(), word: "deleted", file };
    let mut plan = Plan { steps: vec![step], changes: Vec::new() };
    plan.edit(
        locked.folder(),
        BTreeMap::from([(removed.file.as_str(), vec![(removed.line, &*removed.value, None)])]),
    )?;
    Ok(plan)
}

impl Plan {
    fn edit(&mut self, folder: &Path, edits: BTreeMap<&str, Edits<'_>>) -> Result<()> {
        for (file, edits) in edits {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            let (documents, problems) = documents_from_str(file, &text);
            if let Some(bad) = problems.first() {
                bail!("{}:{} cannot be read: repair that document first", bad.file, bad.line);
            }
            let found = |(line, value, _): &(usize, &serde_json::Value, _)| {
                documents.iter().any(|d| d.line == *line && *d.value == **value)
            };
            if !edits.iter().all(found) {
                bail!("{file} changed in the meantime: try again");
            }
            if is_json(file) && documents.len() > 1 {
                bail!("{file} is JSON with more than one object: edit it by hand");
            }
            let text = text::edit(file, &text, &edits)?;
            self.changes.push(Change { path: text::below(folder, file)?, text });
        }
        Ok(())
    }
}

fn is_json(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|e| e.eq_ignore_ascii_case("json"))
}

fn json(value: &serde_json::Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value).context("cannot write the document as JSON")? + "\n")
}

fn new_file(locked: &Locked, key: &ObjectKey) -> Result<String> {
    let name = format!("{}.yaml", key.to_string().to_lowercase().replace(['/', '\0'], "-"));
    if locked.folder().join(&name).exists() {
        bail!(
            "{} already holds something else: remove or rename it first",
            locked.folder().join(&name).display()
        );
    }
    Ok(name)
}

/// The folder's objects, by key.
pub fn objects(locked: &Locked) -> (Store, BTreeMap<ObjectKey, StoredObject>) {
    let mut store = Store::default();
    store.replace(documents_from_path(locked.folder()).0);
    let objects = store.objects().map(|o| (o.key.clone(), o.clone())).collect();
    (store, objects)
}
