//! `portcullis apply`: into the watched folder, all or nothing (D45).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Answer;
use super::output::{print_lines, read_documents, tell};
use crate::resource::{Document, ObjectKey, Store, StoredObject};

/// Put documents into the watched folder, after checking them against all that is there: all of them, or none
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// File or folder; `-` is stdin
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: PathBuf,
    /// Folder that the agent watches
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
}

pub fn run(args: &ApplyArgs) -> Result<Answer> {
    if !args.policies.is_dir() {
        bail!("{} is no folder: create it, or name another with --policies", args.policies.display());
    }
    let mut store = Store::default();
    store.replace(read_documents(&args.policies)?);
    let before: BTreeMap<ObjectKey, StoredObject> =
        store.objects().map(|o| (o.key.clone(), o.clone())).collect();
    let report = store.apply(read_documents(&args.filename)?);
    if tell(&report.problems) {
        eprintln!("nothing was applied");
        return Ok(Answer::No);
    }
    let applied: Vec<&StoredObject> =
        store.objects().filter(|o| report.accepted.contains(&o.key.to_string())).collect();
    // One file each, so that every object can be replaced alone; the old places first lose what moves.
    let mut done = Vec::new();
    for object in applied {
        let text = serde_saphyr::to_string(&object.value).context("cannot write the document as YAML")?;
        let target = match before.get(&object.key) {
            Some(old) => replace_in_file(old, Some(object.value.clone()))?,
            None => new_file(&args.policies, &object.key, &text)?,
        };
        let word = match before.get(&object.key) {
            Some(old) if old.value == object.value => "unchanged",
            Some(_) => "configured",
            None => "created",
        };
        done.push(format!("{} {word} ({})", object.key, target.display()));
    }
    if done.is_empty() {
        eprintln!("no documents in {}", args.filename.display());
        return Ok(Answer::No);
    }
    print_lines(done)?;
    Ok(Answer::Yes)
}

fn new_file(folder: &Path, key: &ObjectKey, text: &str) -> Result<PathBuf> {
    let name = key.to_string().to_lowercase().replace(['/', '\0'], "-");
    let path = folder.join(format!("{name}.yaml"));
    if path.exists() {
        bail!("{} already holds something else: remove or rename it first", path.display());
    }
    write_atomic(&path, text)?;
    Ok(path)
}

/// Puts another document (or none) where the object stands; the other documents of its file stay as they are.
pub fn replace_in_file(old: &StoredObject, new: Option<serde_json::Value>) -> Result<PathBuf> {
    let path = PathBuf::from(&old.file);
    if new.as_ref() == Some(&old.value) {
        return Ok(path);
    }
    let documents = read_documents(&path)?;
    if let Some(bad) = documents.iter().find(|d| d.unreadable.is_some()) {
        bail!("{}:{} cannot be read: repair that document first", bad.file, bad.line);
    }
    let is_old = |d: &Document| d.line == old.line && d.value == old.value;
    if !documents.iter().any(is_old) {
        bail!("{} changed in the meantime: try again", path.display());
    }
    let mut texts = Vec::new();
    for document in &documents {
        let value = if is_old(document) { new.as_ref() } else { Some(&document.value) };
        if let Some(value) = value {
            texts.push(serde_saphyr::to_string(value).context("cannot write the document as YAML")?);
        }
    }
    if texts.is_empty() {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    } else if path.extension().is_some_and(|e| e == "json") {
        bail!("{} is JSON: edit it by hand, apply and delete write YAML", path.display());
    } else {
        write_atomic(&path, &texts.join("---\n"))?;
    }
    Ok(path)
}

/// A reader sees the old file or the new one, never half of it. The name begins with a dot: the agent passes it over.
fn write_atomic(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = fs::File::create(&next).with_context(|| format!("cannot create {}", next.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))
}
