//! The use cases of `policies/`: each folder is a set of documents that a person can take as it is.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis::policy::Severity;
use portcullis::resource::{Store, documents_from_path};

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// Every folder but `cases`, whose fixtures are variants of one another.
fn use_cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(policies()).unwrap();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !path.ends_with("cases"))
        .collect();
    folders.sort();
    folders
}

#[test]
fn each_use_case_is_valid_as_a_whole() {
    let folders = use_cases();
    assert!(folders.len() >= 6, "{folders:?}");
    for folder in folders {
        let report = Store::default().replace(documents_from_path(&folder).0);
        let errors: Vec<_> = report.problems.iter().filter(|p| p.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", folder.display());
        assert!(!report.accepted.is_empty(), "{} holds no document", folder.display());
    }
}

#[test]
fn each_use_case_says_what_it_does_and_proves_it() {
    let index = fs::read_to_string(policies().join("README.md")).unwrap();
    for folder in use_cases() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("]({name}/)")), "policies/README.md does not list {name}");
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        for heading in ["## What it protects", "## What it does not", "## How to adapt it"] {
            assert!(readme.contains(heading), "{name}/README.md has no {heading:?}");
        }
        let scenarios: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|file| file.ends_with(".scenario.yaml"))
            .collect();
        // Scenarios that the text cites, e.g. (N08): they must be there.
        for id in cited(&readme) {
            let found = scenarios.iter().any(|file| file.starts_with(&format!("{id}-")));
            assert!(found, "{name}/README.md cites {id}, and no scenario is called so: {scenarios:?}");
        }
    }
}

/// Words in round brackets that look like a scenario's id: a capital letter and two digits.
fn cited(text: &str) -> Vec<&str> {
    let in_brackets =
        text.split('(').skip(1).filter_map(|rest| rest.split_once(')')).map(|(inside, _)| inside);
    in_brackets
        .flat_map(|inside| inside.split([',', ' ', ';']))
        .filter(|word| {
            let bytes = word.as_bytes();
            bytes.len() == 3 && bytes[0].is_ascii_uppercase() && bytes[1..].iter().all(u8::is_ascii_digit)
        })
        .collect()
}
