//! Tables as kubectl prints them, and input from files or stdin.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};

use crate::policy::{Problem, Severity};
use crate::resource::{Document, documents_from_path, documents_from_str};
use crate::state::State;
use crate::state::lastgood::{self, LastGood};

/// Prints columns without lines, two spaces apart.
pub fn print_table(header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
    print_lines(columns(header, rows))
}

/// The lines of such a table.
pub fn columns(header: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let last = header.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// `1 error`, `2 errors`.
pub fn counted(count: usize, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}

/// Prints lines without trailing blanks. A reader that left (`| head -1`) has what it wanted: the command goes on to
/// its exit code.
pub fn print_lines(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
    match write_lines(&mut std::io::stdout().lock(), lines) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn write_lines(
    out: &mut impl Write,
    lines: impl IntoIterator<Item = impl AsRef<str>>,
) -> std::io::Result<()> {
    for line in lines {
        writeln!(out, "{}", line.as_ref().trim_end())?;
    }
    out.flush()
}

/// Prints JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print_lines([serde_json::to_string_pretty(value)?])
}

/// The folder that was named, else the one that the agent watches (what it accepted, where it follows the Kubernetes
/// API), else where the packages put it.
pub fn policies_of(named: Option<&Path>, state_dir: &Path) -> PathBuf {
    let watched = || {
        let state = State::load(state_dir).ok()?;
        Some(if state.kubernetes.is_some() { state_dir.join(lastgood::FILE) } else { state.policies })
    };
    named.map(Path::to_owned).or_else(watched).unwrap_or_else(|| crate::config::DEFAULT_POLICIES.into())
}

/// What the agent of a large cluster has in force may be a little newer than what it wrote for us to read.
pub fn tell_if_behind(agent: Option<&State>) {
    if agent.is_some_and(|state| state.last_good_behind) {
        eprintln!(
            "note: the agent has newer pods, endpoints or nodes in force than it has written to its state dir, which is \
             what is read here; it writes them every {} s",
            lastgood::LONGEST_WAIT.as_secs()
        );
    }
}

/// Reads a file, a folder, or stdin for `-`.
pub fn read_documents(path: &Path) -> Result<Vec<Document>> {
    if path.as_os_str() != "-" {
        std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if let (Some(folder), true) = (path.parent(), path.ends_with(lastgood::FILE)) {
            return Ok(LastGood::read(folder)?.map(|last| last.documents()).unwrap_or_default());
        }
        return Ok(documents_from_path(path).0);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
    Ok(documents_from_str("<stdin>", &text).0)
}

/// Tells every problem on stderr. True when one is an error.
pub fn tell<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> bool {
    let mut bad = false;
    for problem in problems {
        eprintln!("{problem}");
        bad |= problem.severity == Severity::Error;
    }
    bad
}
