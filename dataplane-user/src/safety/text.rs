//! Documents as their author wrote them: comments, order and quotes stay when one document of a file is replaced.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::resource::document::{content_line, split};
use crate::resource::{Document, documents_from_str};

/// Texts of the files that documents were read from.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Of documents that were read from files.
    pub fn of(documents: &[Document]) -> Result<Self> {
        let mut sources = Self::default();
        for file in documents.iter().filter(|d| d.unreadable.is_none()).map(|d| &d.file) {
            if !sources.0.contains_key(file) {
                let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
                sources.0.insert(file.clone(), text);
            }
        }
        for (file, text) in &sources.0 {
            let (again, _) = documents_from_str(file, text);
            if !again.iter().eq(documents.iter().filter(|d| d.file == *file)) {
                bail!("{file} changed in the meantime: try again");
            }
        }
        Ok(sources)
    }

    /// Of one stream.
    pub fn stream(name: &str, text: String) -> Self {
        Self(BTreeMap::from([(name.to_owned(), text)]))
    }

    /// The document's own text; a fresh one for an item of a `List`, which has none of its own.
    pub fn text_of(&self, file: &str, line: usize, value: &serde_json::Value) -> Result<String> {
        let alone = |part: &&(usize, &str)| {
            let (first, text) = **part;
            let (documents, _) = documents_from_str(file, text);
            content_line(first, text) == line && matches!(documents.as_slice(), [d] if *d.value == *value)
        };
        let parts = self.0.get(file).map(|text| split(text)).unwrap_or_default();
        match parts.iter().find(alone) {
            Some((_, text)) => Ok(tidy(text)),
            None => serde_saphyr::to_string(value).context("cannot write the document as YAML"),
        }
    }
}

/// Without the blank lines around it, with one newline at the end.
fn tidy(part: &str) -> String {
    // What stood behind `---` on its line may begin with a blank; a first line of its own keeps its indentation.
    let body = match part.split_once('\n') {
        Some((first, rest)) if first.trim().is_empty() => skip_blank_lines(rest),
        _ => part.trim_start_matches([' ', '\t']),
    };
    format!("{}\n", body.trim_end())
}

fn skip_blank_lines(mut text: &str) -> &str {
    while let Some((first, rest)) = text.split_once('\n').filter(|(first, _)| first.trim().is_empty()) {
        let _ = first;
        text = rest;
    }
    text
}

/// A file's text with documents replaced (or taken out, where there is no new text). Everything else stays as it is.
/// `None`: no document is left.
pub fn edit(
    file: &str,
    text: &str,
    edits: &[(usize, &serde_json::Value, Option<String>)],
) -> Result<Option<String>> {
    let mut out = String::new();
    let mut copied = 0;
    let mut left = false;
    for (first, part) in split(text) {
        let (documents, _) = documents_from_str(file, part);
        let line = content_line(first, part);
        let edit_of = |d: &Document| edits.iter().find(|(l, value, _)| *l == line && **value == *d.value);
        if !documents.iter().any(|d| edit_of(d).is_some()) {
            left |= !documents.is_empty();
            continue;
        }
        // One document, or the items of a List: what is not edited is written as a document of its own.
        let mut texts = Vec::new();
        for document in &documents {
            match edit_of(document) {
                Some((_, _, Some(new))) => texts.push(new.clone()),
                Some((_, _, None)) => {}
                None => texts.push(
                    serde_saphyr::to_string(&*document.value).context("cannot write the document as YAML")?,
                ),
            }
        }
        left |= !texts.is_empty();
        // The part is a slice of the text: this is where it stands.
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        let end = start + part.len();
        let marker = text[..start].ends_with("---");
        if texts.is_empty() {
            out += &text[copied..if marker { start - 3 } else { start }];
        } else {
            out += &text[copied..start];
            out += if marker { "\n" } else { "" };
            out += &texts.join("---\n");
        }
        copied = end;
    }
    out += &text[copied..];
    Ok(left.then_some(out))
}

/// Path below the folder of a file that was read from it.
pub fn below(folder: &Path, file: &str) -> Result<String> {
    let path = Path::new(file)
        .strip_prefix(folder)
        .with_context(|| format!("{file} is not below {}", folder.display()))?;
    path.to_str().map(str::to_owned).with_context(|| format!("{file} is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Head of the file.\n---\n# About a.\nkind: A\nspec: {x: 1}   # why\n---\n# About b.\nkind: B\n---\nkind: C\n";

    fn documents(text: &str) -> Vec<Document> {
        documents_from_str("f", text).0
    }

    #[test]
    fn the_others_keep_every_byte() {
        let all = documents(FILE);
        let new =
            edit("f", FILE, &[(all[1].line, &*all[1].value, Some("# New.\nkind: B\nspec: 2\n".into()))]);
        let expected = FILE.replace("# About b.\nkind: B\n", "# New.\nkind: B\nspec: 2\n");
        assert_eq!(new.unwrap().as_deref(), Some(expected.as_str()));
        let gone = edit("f", FILE, &[(all[0].line, &*all[0].value, None)]).unwrap().unwrap();
        assert_eq!(gone, FILE.replace("---\n# About a.\nkind: A\nspec: {x: 1}   # why\n", ""));
        let edits: Vec<_> = all.iter().map(|d| (d.line, &*d.value, None)).collect();
        assert_eq!(edit("f", FILE, &edits).unwrap(), None);
    }

    #[test]
    fn an_item_of_a_list_can_be_replaced_and_the_rest_stays() {
        let text = "kind: List\nitems:\n- {kind: A, n: 1}\n- {kind: B, n: 2}\n";
        let all = documents(text);
        let new = edit("f", text, &[(all[0].line, &all[0].value, Some("kind: A\nn: 3\n".into()))]);
        let new = documents(&new.unwrap().unwrap());
        assert_eq!(new.iter().map(|d| d.value["n"].clone()).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn the_text_of_a_document_is_its_authors() {
        let sources = Sources::stream("f", FILE.into());
        let a = &documents(FILE)[0];
        let text = sources.text_of("f", a.line, &a.value).unwrap();
        assert_eq!(text, "# About a.\nkind: A\nspec: {x: 1}   # why\n");
        let flow = "--- {kind: A}\n";
        let a = &documents(flow)[0];
        assert_eq!(Sources::stream("f", flow.into()).text_of("f", a.line, &a.value).unwrap(), "{kind: A}\n");
    }
}
