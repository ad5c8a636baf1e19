//! Pages that are made from the program and kept in the repository: they must be those of this program.
//! `PORTCULLIS_BLESS=1` writes them again. Takes a second.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn pages_are_those_of_this_program() {
    let files = portcullis::cli::generate::files().expect("pages");
    let man = root().join("docs/man");
    if env::var_os("PORTCULLIS_BLESS").is_some() {
        let _ = fs::remove_dir_all(&man);
        for (path, text) in &files {
            let path = root().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    for (path, text) in &files {
        let there = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(
            there == *text,
            "{} is not what the program says: write it again with PORTCULLIS_BLESS=1 cargo test -p dataplane-user \
             --test generated",
            path.display()
        );
    }
    let wanted: BTreeSet<_> =
        files.iter().filter_map(|(p, _)| p.file_name()).map(ToOwned::to_owned).collect();
    let stale: Vec<_> = fs::read_dir(&man)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n != "cli.md" && !wanted.contains(n))
        .collect();
    assert!(stale.is_empty(), "pages of commands that are gone: {stale:?}");
}

#[test]
fn every_command_has_a_page_with_examples_and_exit_codes() {
    let page = portcullis::cli::generate::reference_page();
    for command in ["observe", "status", "get", "maps verify", "diag bundle", "completions"] {
        assert!(page.contains(&format!("## portcullis {command}\n")), "{command}");
    }
    let helps: Vec<&str> = page.split("\n## ").skip(1).collect();
    assert!(helps.len() > 20, "{}", helps.len());
    for help in helps {
        for part in ["\nExamples:\n  portcullis ", "\nExit codes: 0 "] {
            let command = help.lines().next().unwrap_or_default();
            assert!(help.contains(part), "{part:?} is missing in the help of {command}");
        }
    }
    assert!(!page.contains("/root/") && !page.contains("\u{1b}["), "nothing of this machine, no colours");
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, words) in
        [("bash", "_portcullis()"), ("zsh", "#compdef portcullis"), ("fish", "complete -c portcullis")]
    {
        let out =
            Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["completions", shell]).output().unwrap();
        assert!(out.status.success());
        let script = String::from_utf8(out.stdout).unwrap();
        assert!(script.contains(words) && script.contains("observe"), "{shell}");
        if shell == "bash" {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), &script).unwrap();
            let checked = Command::new("bash").arg("-n").arg(file.path()).status().unwrap();
            assert!(checked.success(), "bash reads it");
        }
    }
}
