//! Documentation that runs: the `console` blocks of a page, and whether what a command printed is what the page says.
//!
//! A prompt is the name of a machine of the lab and `$` or `#`, then a command; lines that begin with `> ` continue it.
//! What follows up to the next prompt is its output. `…` stands for any text within a line, and alone on a line for any
//! number of lines. How many spaces part two columns depends on what stands in them, so two or more count as two.
//! A comment `<!-- setup: command -->` is run on the node and must succeed; `<!-- setup: stop the agent -->`
//! does what Ctrl-C in the agent's shell does.

use std::{fmt, ops::Range};

/// The set-up that ends what `portcullis run` began.
pub const STOP: &str = "stop the agent";

/// A page takes part when it holds this.
pub const MARKER: &str = "<!-- The commands on this page run as a test: tests/tests/docs.rs -->";

/// One command of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line of the prompt, from 1.
    pub line: usize,
    /// The machine: `node1`, `outside` …
    pub machine: String,
    pub command: String,
    /// Lines that must come; `None`: whatever comes (a set-up).
    pub expected: Option<Vec<String>>,
    /// Where the expected lines stand in the page, from 0.
    pub place: Range<usize>,
}

/// The commands of a page, in order.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_console = false;
    for (index, line) in page.lines().enumerate() {
        let fence = line.trim_start();
        if fence.starts_with("```") {
            in_console = fence == "```console";
            continue;
        }
        if !in_console {
            if let Some(command) = setup(line) {
                steps.push(Step::new(index, "node1", command, None));
            }
            continue;
        }
        if let Some((machine, command)) = prompt(line) {
            steps.push(Step::new(index, machine, command, Some(Vec::new())));
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        let Some(expected) = &mut step.expected else { continue };
        match line.strip_prefix("> ") {
            Some(more) if expected.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
                step.place = index + 1..index + 1;
            }
            _ => {
                expected.push(line.to_owned());
                step.place.end = index + 1;
            }
        }
    }
    steps
}

impl Step {
    fn new(index: usize, machine: &str, command: &str, expected: Option<Vec<String>>) -> Self {
        let place = index + 1..index + 1;
        Self { line: index + 1, machine: machine.to_owned(), command: command.to_owned(), expected, place }
    }
}

fn setup(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- setup: ")?.strip_suffix(" -->")
}

/// `node1# portcullis status` → (`node1`, `portcullis status`).
fn prompt(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric())?;
    let (machine, rest) = line.split_at(end);
    let command = rest.strip_prefix("$ ").or_else(|| rest.strip_prefix("# "))?;
    (!machine.is_empty()).then_some((machine, command))
}

/// Whether `got` is what the page says.
pub fn matches(expected: &[String], got: &[String]) -> bool {
    match expected.split_first() {
        None => got.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=got.len()).any(|skipped| matches(rest, &got[skipped..]))
        }
        Some((first, rest)) => {
            got.split_first().is_some_and(|(line, more)| line_matches(first, line) && matches(rest, more))
        }
    }
}

/// The line with at most two spaces at a time behind its indentation: a number with one more digit moves a table's columns.
fn squeezed(line: &str) -> String {
    let line = line.trim_end();
    let (indentation, mut rest) = line.split_at(line.len() - line.trim_start().len());
    let mut squeezed = indentation.to_owned();
    while let Some(at) = rest.find("  ") {
        squeezed.push_str(&rest[..at + 2]);
        rest = rest[at..].trim_start_matches(' ');
    }
    squeezed + rest
}

fn line_matches(expected: &str, got: &str) -> bool {
    let (expected, got) = (squeezed(expected), squeezed(got));
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|head| got.strip_prefix(head)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((tail, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(tail)
}

/// What a command printed, as lines without blank ends.
pub fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// A page that is wrong.
#[derive(Clone, Debug)]
pub struct Mismatch {
    pub page: String,
    pub step: Step,
    pub got: Vec<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "docs/{}:{}: {}", self.page, self.step.line, self.step.command)?;
        for line in self.step.expected.iter().flatten() {
            writeln!(f, "  page says  {line}")?;
        }
        for line in &self.got {
            writeln!(f, "  printed    {line}")?;
        }
        Ok(())
    }
}

/// The page with the outputs that really came in place of the wrong ones.
pub fn updated(page: &str, mismatches: &[Mismatch]) -> String {
    let mut lines: Vec<&str> = page.lines().collect();
    let mut wrong: Vec<&Mismatch> = mismatches.iter().collect();
    wrong.sort_by_key(|mismatch| std::cmp::Reverse(mismatch.step.place.start));
    for mismatch in wrong {
        lines.splice(mismatch.step.place.clone(), mismatch.got.iter().map(String::as_str));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_page_is_read() {
        let page = "# T\n<!-- setup: true -->\n```console\nnode1# cat <<EOF\n> a\n> EOF\na\noutside$ false\n```\n```\nnode1# no\n```\n";
        let steps = steps(page);
        assert_eq!(steps.len(), 3);
        assert_eq!((steps[0].command.as_str(), &steps[0].expected), ("true", &None));
        assert_eq!(steps[1].command, "cat <<EOF\na\nEOF");
        assert_eq!(steps[1].expected, Some(owned(&["a"])));
        assert_eq!((steps[2].machine.as_str(), steps[2].line), ("outside", 8));
        assert_eq!(steps[2].expected, Some(Vec::new()));
    }

    #[test]
    fn output_matches_with_wildcards() {
        let expected = owned(&["generation … in force for … s", "…", "end"]);
        assert!(matches(&expected, &owned(&["generation 3 in force for 12 s", "a", "b", "end"])));
        assert!(matches(&expected, &owned(&["generation 3 in force for 12 s", "end"])));
        assert!(!matches(&expected, &owned(&["generation 3 in force for 12 min", "end"])));
        assert!(!matches(&expected, &owned(&["generation 3 in force for 12 s", "end", "more"])));
        assert!(!matches(&owned(&["Allow"]), &owned(&["Allow at"])));
        assert!(!matches(&[], &owned(&["something"])));
        assert!(matches(&owned(&["…"]), &[]));
    }

    #[test]
    fn columns_may_move_and_nothing_else() {
        let matches = |expected, got| line_matches(expected, got);
        assert!(matches("eth0  0     Allow  …   … ago", "eth0  0  Allow  123456  7890  2 s ago"));
        assert!(matches("HITS  BYTES", "HITS    BYTES"));
        assert!(!matches("HITS  BYTES", "HITS BYTES"));
        assert!(!matches("  ports: [1]", "    ports: [1]"));
        assert!(!matches("eth0  Deny   0  never", "eth0  Deny   1  never"));
    }

    #[test]
    fn a_wrong_output_is_replaced() {
        let page = "```console\nnode1# a\nold\nolder\nnode1# b\n```\n";
        let all = steps(page);
        let mismatch = |step: &Step, got: &[&str]| Mismatch {
            page: "x.md".to_owned(),
            step: step.clone(),
            got: owned(got),
        };
        let new = updated(page, &[mismatch(&all[0], &["new"]), mismatch(&all[1], &["b"])]);
        assert_eq!(new, "```console\nnode1# a\nnew\nnode1# b\nb\n```\n");
    }
}
