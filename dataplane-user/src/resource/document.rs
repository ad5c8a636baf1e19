//! Files and streams to documents. Whatever cannot be read becomes a problem, and a mark that says that something
//! of this file is unknown: the objects that came from it before must not vanish (D13).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::policy::{Problem, Severity};

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most documents of one file.
pub const MAX_DOCUMENTS: usize = 100_000;
/// Deepest folder below the one that was named.
pub const MAX_FOLDER_DEPTH: usize = 16;

/// Most values (scalars, lists, mappings) of one document, after aliases are expanded. A List of all pods of a large
/// cluster has about a million.
pub const MAX_YAML_NODES: usize = 4 << 20;
/// Deepest nesting of lists and mappings.
pub const MAX_YAML_DEPTH: usize = 64;
/// Most values that aliases (`*name`) may add: ten lines of them can ask for billions.
pub const MAX_YAML_ALIASED: usize = 100_000;

/// One YAML or JSON document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub file: String,
    /// 1-based line of its first content.
    pub line: usize,
    /// Null when it could not be read. Shared: a large cluster has tens of thousands, and most stay as they are.
    pub value: Arc<Value>,
    /// Why it could not be read. The store keeps the last good version of what came from this file.
    pub unreadable: Option<Box<Problem>>,
}

impl Document {
    /// A document that came from elsewhere (the Kubernetes API, a test).
    pub fn new(file: impl Into<String>, line: usize, value: impl Into<Arc<Value>>) -> Self {
        Self { file: file.into(), line, value: value.into(), unreadable: None }
    }

    /// The mark that something of this file or folder is unknown.
    pub fn unreadable(problem: Problem) -> Self {
        let (file, line) = (problem.file.clone(), problem.line);
        Self { file, line, value: Arc::new(Value::Null), unreadable: Some(Box::new(problem)) }
    }

    fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// Scenario files stand beside resources and are none (scenario-format.md).
    pub fn is_scenario(&self) -> bool {
        let version = self.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        self.kind() == "Scenario" && version.starts_with("portcullis.dev/")
    }
}

/// Reads all documents of a text. The problems are those of the unreadable documents, which are also among the
/// documents: [`super::Store`] reports them again, so show one of the two.
pub fn documents_from_str(file: &str, text: &str) -> (Vec<Document>, Vec<Problem>) {
    let mut documents = Vec::new();
    for (first_line, part) in split(text) {
        if documents.len() >= MAX_DOCUMENTS {
            let message = format!("more than {MAX_DOCUMENTS} documents; split the file");
            documents.push(Document::unreadable(problem(file, first_line, message)));
            break;
        }
        match parse(part) {
            Ok(Value::Null) => {}
            Ok(value) => flatten(Document::new(file, content_line(first_line, part), value), &mut documents),
            Err((line, message)) => {
                documents.push(Document::unreadable(problem(file, first_line + line, message)))
            }
        }
    }
    let problems = documents.iter().filter_map(|d| d.unreadable.as_deref().cloned()).collect();
    (documents, problems)
}

/// Reads a file, or every `*.yaml`, `*.yml` and `*.json` below a folder, in the order of their paths. Hidden files
/// are passed over (editors' swap files, the `..data` of a mounted ConfigMap), and so are scenarios.
pub fn documents_from_path(path: &Path) -> (Vec<Document>, Vec<Problem>) {
    let mut documents = Vec::new();
    read_path(path, 0, &mut documents);
    let problems = documents.iter().filter_map(|d| d.unreadable.as_deref().cloned()).collect();
    (documents, problems)
}

fn problem(file: &str, line: usize, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.to_owned(),
        line,
        object: String::new(),
        path: String::new(),
        value: String::new(),
        message,
    }
}

fn read_path(path: &Path, depth: usize, documents: &mut Vec<Document>) {
    let name = path.display().to_string();
    let mut fail = |message: String| documents.push(Document::unreadable(problem(&name, 0, message)));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    if metadata.is_dir() {
        if depth > MAX_FOLDER_DEPTH {
            return fail(format!(
                "folders nested deeper than {MAX_FOLDER_DEPTH}; is there a link to a parent folder?"
            ));
        }
        return match folder_entries(path) {
            Ok(entries) => entries.iter().for_each(|entry| read_path(entry, depth + 1, documents)),
            Err(error) => fail(format!("the folder cannot be read: {error}")),
        };
    }
    if !metadata.is_file() {
        return fail("is no regular file".to_owned());
    }
    // What a full disk, a crash, or a program that writes in place leaves behind is no order to delete everything.
    if metadata.len() == 0 {
        return fail("is empty; remove the file if nothing of it shall be in force".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return fail(format!("has {} bytes, {MAX_FILE_BYTES} are the limit; split it", metadata.len()));
    }
    match fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => {
            let (found, _) = documents_from_str(&name, &text);
            if !found.iter().any(Document::is_scenario) {
                documents.extend(found);
            }
        }
        Ok(Err(error)) => {
            let position = error.utf8_error().valid_up_to();
            fail(format!("is no UTF-8 text (byte {position}); save it as UTF-8"));
        }
        Err(error) => fail(format!("cannot be read: {error}")),
    }
}

fn folder_entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if !hidden && (path.is_dir() || matches!(extension.as_str(), "yaml" | "yml" | "json")) {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

/// Cuts a stream at its `---` lines, which cannot stand inside a document (YAML 1.2, 9.1.2). Each part comes with
/// the 1-based line on which it begins. One broken part then leaves the others readable.
pub(crate) fn split(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end();
        let marker = bare == "---" || bare == "..." || bare.starts_with("--- ");
        if marker {
            parts.push((start_line, &text[start..at]));
            // What follows `---` on its line belongs to the document (a comment, or flow style).
            start = at + 3;
            start_line = index + 1;
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts.retain(|(_, part)| !part.trim().is_empty());
    parts
}

/// The line of the first content: neither blank nor comment.
pub(crate) fn content_line(first_line: usize, part: &str) -> usize {
    let is_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    first_line + part.lines().position(is_content).unwrap_or(0)
}

/// The error comes with its 0-based line inside the part.
fn parse(part: &str) -> Result<Value, (usize, String)> {
    // YAML 1.1 words (`on`, `no`) stay strings, and so do numbers that are probably none (`0755`).
    let options = serde_saphyr::options! {
        // A number that is none is refused by its field, with its path.
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_YAML_NODES,
            max_events: 2 * MAX_YAML_NODES,
            max_depth: MAX_YAML_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_YAML_ALIASED },
    };
    serde_saphyr::from_str_with_options(part, options).map_err(|error| {
        let line =
            error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or(1).max(1) - 1);
        (line, explain(&error.without_snippet().to_string(), part))
    })
}

/// A syntax error with a remedy, where the usual cause is known.
fn explain(error: &str, part: &str) -> String {
    let has_line = |test: &dyn Fn(&str) -> bool| part.lines().any(test);
    let hint = if has_line(&|line| line.trim_start_matches(' ').starts_with('\t')) {
        "; YAML is indented by spaces, not by tabs"
    } else if has_line(&|line| line.trim_start().starts_with("```")) {
        "; leave out the lines with ```: they are of the page that the document comes from"
    } else if has_line(&|line| line.trim_end() == "metadata:") && !has_line(&|line| line.starts_with(' ')) {
        "; no line is indented: was that lost when it was copied?"
    } else if error.contains("alias replay") {
        "; write out what the aliases (`*name`) stand for, or split the document"
    } else if error.contains("budget") {
        "; the document is too large or too deep, split it"
    } else if error.to_lowercase().contains("duplicate") {
        "; each key may stand once: join the two, or rename one"
    } else {
        "; look at the indentation and the quotes there and on the line before"
    };
    // What its callers may set is no advice to who wrote the document.
    let error = error.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    format!("the document is no YAML: {error}{hint}")
}

/// `kind: List` (and `GlobalNetworkPolicyList`, as `kubectl get -o yaml` prints it) to its items.
fn flatten(document: Document, documents: &mut Vec<Document>) {
    let is_list =
        document.kind().ends_with("List") && document.value.get("items").is_some_and(Value::is_array);
    if !is_list {
        return documents.push(document);
    }
    let Document { file, line, mut value, .. } = document;
    if let Some(Value::Array(items)) = Arc::make_mut(&mut value).get_mut("items").map(Value::take) {
        documents.extend(items.into_iter().map(|item| Document::new(&*file, line, item)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_know_their_lines() {
        let text = "# head\n---\n\n# c\nkind: A\n--- # x\nkind: B\n...\n---\n- ]\n---\nkind: C\n";
        let (documents, problems) = documents_from_str("f", text);
        let lines: Vec<_> = documents.iter().map(|d| (d.line, d.kind().to_owned())).collect();
        assert_eq!(lines, [(5, "A".into()), (7, "B".into()), (10, String::new()), (12, "C".into())]);
        assert_eq!((problems.len(), problems[0].line), (1, 10));
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let (_, problems) = documents_from_str("f", "a: 1\nb: 2\na: 3\n");
        assert!(problems[0].message.contains("each key may stand once"), "{}", problems[0]);
        assert_eq!(problems[0].line, 3);
    }

    #[test]
    fn lists_are_flattened() {
        let (documents, _) = documents_from_str("f", "kind: List\nitems:\n- kind: A\n- kind: B\n");
        assert_eq!(documents.iter().map(Document::kind).collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn json_is_read_too() {
        let (documents, problems) =
            documents_from_str("f", "{\n\t\"kind\": \"A\",\n\t\"spec\": {\"a\": [1, 2.5, true]}\n}\n");
        assert_eq!(problems, []);
        assert_eq!(documents[0].value["spec"]["a"][1], 2.5);
    }

    #[test]
    fn words_of_yaml_1_1_stay_strings() {
        let (documents, _) = documents_from_str("f", "a: no\nb: 0755\nc: 30000:32767\nd: [1:2]\n");
        let value = &documents[0].value;
        assert_eq!(
            (&value["a"], &value["b"], &value["c"], &value["d"][0]),
            (&"no".into(), &"0755".into(), &"30000:32767".into(), &"1:2".into())
        );
    }

    #[test]
    fn folders_are_walked_and_what_is_unreadable_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
        write("b.yaml", b"kind: B\n");
        write("a.json", b"{\"kind\": \"A\"}");
        write(".hidden.yaml", b"kind: Hidden\n");
        write("scenario.yaml", b"apiVersion: portcullis.dev/v1alpha1\nkind: Scenario\n");
        write("bad.yml", b"\xff\xfe");
        write("notes.txt", b"kind: Text\n");
        fs::create_dir(folder.path().join("sub")).unwrap();
        write("sub/c.yaml", b"kind: C\n");
        let (documents, problems) = documents_from_path(folder.path());
        let kinds: Vec<_> = documents.iter().map(Document::kind).collect();
        assert_eq!(kinds, ["A", "B", "", "C"]);
        assert!(problems[0].message.contains("UTF-8"));
        let (_, problems) = documents_from_path(&folder.path().join("none"));
        assert!(problems[0].message.contains("cannot be read"));
    }
}
