//! Reasons are what people look up: each has a test that meets it, and the page that lists them is made from the source.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use dataplane_common::verdict::{Reason, Stage};

/// Reasons that no document and no packet of a scenario can bring about, with the test that does: (reason, file, test,
/// why).
const NOT_IN_SCENARIOS: [(Reason, &str, &str, &str); 3] = [
    (
        Reason::NoGeneration,
        "dataplane-user/src/scenario/kernel/tests.rs",
        "without_a_generation_nothing_is_enforced",
        "a scenario always has a world",
    ),
    (
        Reason::TableMissing,
        "dataplane-common/src/decide/tests.rs",
        "a_torn_generation_is_refused",
        "the agent activates no generation that it did not read back",
    ),
    (
        Reason::ScanLimit,
        "dataplane-common/src/decide/tests.rs",
        "a_scan_that_does_not_end_is_refused",
        "the compiler refuses such a list",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn scenarios(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scenarios(&path, text);
        } else if path.to_string_lossy().ends_with(".scenario.yaml") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether `reason: NAME` stands in the text, the name not being the beginning of another.
fn expected(text: &str, name: &str) -> bool {
    let wanted = format!("reason: {name}");
    text.match_indices(&wanted).any(|(at, _)| {
        let next = text[at + wanted.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[test]
fn every_reason_is_met_by_a_scenario_or_a_named_test() {
    let mut text = String::new();
    scenarios(&root().join("policies"), &mut text);
    for reason in Reason::ALL {
        let except = NOT_IN_SCENARIOS.iter().find(|(r, ..)| r == reason);
        match except {
            None => assert!(
                expected(&text, reason.name()),
                "no scenario below policies/ expects `reason: {}`; write one",
                reason.name()
            ),
            Some((_, file, test, why)) => {
                let source = fs::read_to_string(root().join(file)).unwrap();
                assert!(source.contains(&format!("fn {test}()")), "{file}: {test} is gone ({why})");
                assert!(
                    !expected(&text, reason.name()),
                    "{}: there is a scenario now; take it off the list",
                    reason.name()
                );
            }
        }
    }
}

fn page() -> String {
    let mut page = String::from(
        "# Stages and reasons\n\nEvery packet ends in one stage and one reason. Scenarios (`expect.stage`, `expect.reason`), \
         counters and events use these names.\nThe numbers are indexes of maps and fields of events; they never change, \
         and gaps are room for later ones. The source is `dataplane-common/src/verdict.rs`;\n\
         `PORTCULLIS_WRITE_DOCS=1 cargo test -p dataplane-common --test reasons` writes this page from it.\n\n## Stages\n\n",
    );
    let head = "| number | name | meaning |\n|---|---|---|\n";
    page.push_str(head);
    for stage in Stage::ALL {
        writeln!(page, "| {} | `{}` | {} |", *stage as u8, stage.name(), stage.doc().trim()).unwrap();
    }
    page.push_str("\n## Reasons\n\n");
    page.push_str(head);
    for reason in Reason::ALL {
        writeln!(page, "| {} | `{}` | {} |", *reason as u8, reason.name(), reason.doc().trim()).unwrap();
    }
    page
}

#[test]
fn the_reference_page_is_what_the_source_says() {
    let path = root().join("docs/reference/reasons.md");
    let page = page();
    if std::env::var_os("PORTCULLIS_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap();
    for (number, (is, should)) in there.lines().zip(page.lines()).enumerate() {
        assert_eq!(
            is,
            should,
            "{} line {}; PORTCULLIS_WRITE_DOCS=1 writes it anew",
            path.display(),
            number + 1
        );
    }
    assert_eq!(
        there.lines().count(),
        page.lines().count(),
        "{}; PORTCULLIS_WRITE_DOCS=1 writes it anew",
        path.display()
    );
}
