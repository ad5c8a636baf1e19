//! The built binary, as a person runs it. No privileges needed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const GOOD: &str = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-lo, labels: {role: n}}
spec: {node: n1, interfaceName: eth9}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'n'
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]
";

fn run(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that reads no stdin may be gone already.
    let _ = child.stdin.take().expect("stdin").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a readable path")
}

#[test]
fn apply_get_delete() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    let applied = run(&["apply", "-f", "-", "--policies", folder], GOOD);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied.stderr));
    let names = run(&["get", "gnp", "-o", "name", "--policies", folder], "");
    assert_eq!(text(&names.stdout), "GlobalNetworkPolicy/web\n");
    let again = run(&["apply", "-f", "-", "--policies", folder], GOOD);
    assert!(text(&again.stdout).lines().all(|l| l.contains("unchanged")), "{}", text(&again.stdout));
    assert_eq!(run(&["delete", "gnp/web", "--policies", folder], "").status.code(), Some(0));
    assert_eq!(run(&["delete", "gnp/web", "--policies", folder], "").status.code(), Some(1));
    assert_eq!(run(&["get", "gnp", "web", "--policies", folder], "").status.code(), Some(1));
}

#[test]
fn one_bad_document_keeps_all_out() {
    let dir = tempfile::tempdir().unwrap();
    let bad = format!(
        "{GOOD}---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
         metadata: {{name: bad}}\nspec: {{selector: 'role ==', types: [Ingress]}}\n"
    );
    let out = run(&["apply", "-f", "-", "--policies", path(dir.path())], &bad);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("GlobalNetworkPolicy/bad spec.selector"), "{}", text(&out.stderr));
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing may be applied");
    assert_eq!(run(&["validate", "-f", "-"], &bad).status.code(), Some(1));
    assert_eq!(run(&["validate", "-f", "-"], GOOD).status.code(), Some(0));
}

#[test]
fn usage_errors_are_2() {
    assert_eq!(run(&["nonsense"], "").status.code(), Some(2));
    assert_eq!(run(&["get", "nonsense", "--policies", "/"], "").status.code(), Some(2));
    assert_eq!(run(&["validate", "-f", "/nowhere/at/all"], "").status.code(), Some(2));
    assert_eq!(run(&["status", "--state-dir", "/nowhere/at/all"], "").status.code(), Some(2));
}

#[test]
fn lint_answers_with_findings_and_their_pages() {
    let found = run(&["lint", "-f", "-"], GOOD);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stderr));
    assert!(text(&found.stdout).contains("[L02, docs/lint/L02.md]"), "{}", text(&found.stdout));
    let json = run(&["lint", "-f", "-", "-o", "json"], GOOD);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["page"], "docs/lint/L02.md", "{report}");
    let sound = GOOD.replace("eth9}", "eth9, profiles: [projectcalico-default-allow]}");
    let none = run(&["lint", "-f", "-"], &sound);
    assert_eq!((none.status.code(), text(&none.stdout)), (Some(0), String::new()), "{}", text(&none.stderr));
    assert_eq!(run(&["lint"], "").status.code(), Some(2));
    // `validate` tells the same as warnings, and does not say no because of them.
    let valid = run(&["validate", "-f", "-"], GOOD);
    assert_eq!(valid.status.code(), Some(0));
    assert!(text(&valid.stderr).contains("L02"), "{}", text(&valid.stderr));
}

#[test]
fn apply_keeps_what_its_author_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    let commented = GOOD.replace("---\n", "---\n# The web server.\n");
    std::fs::write(dir.path().join("all.yaml"), &commented).unwrap();
    let web = "# Port 443 too.\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\n\
               spec: {selector: \"role == 'n'\", types: [Ingress], ingress: [{action: Allow}]}  # all of it\n";
    let dry = run(&["apply", "-f", "-", "--dry-run", "--policies", folder], web);
    assert!(text(&dry.stdout).contains("GlobalNetworkPolicy/web configured"), "{}", text(&dry.stderr));
    assert!(text(&dry.stdout).contains("(dry run)"));
    assert_eq!(std::fs::read_to_string(dir.path().join("all.yaml")).unwrap(), commented, "a dry run");
    assert_eq!(run(&["apply", "-f", "-", "--policies", folder], web).status.code(), Some(0));
    let now = std::fs::read_to_string(dir.path().join("all.yaml")).unwrap();
    let (endpoint, _) = commented.split_once("---\n").unwrap();
    assert_eq!(now, format!("{endpoint}---\n{web}"));
    assert_eq!(run(&["delete", "gnp/web", "--policies", folder], "").status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(dir.path().join("all.yaml")).unwrap(), endpoint);
}

#[test]
fn an_apply_that_was_killed_half_way_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    std::fs::create_dir(dir.path().join(".portcullis")).unwrap();
    let (endpoint, policy) = GOOD.split_once("---\n").unwrap();
    let journal =
        serde_json::json!([{"path": "a.yaml", "text": endpoint}, {"path": "b.yaml", "text": policy}]);
    std::fs::write(dir.path().join(".portcullis/journal.json"), journal.to_string()).unwrap();
    std::fs::write(dir.path().join("a.yaml"), endpoint).unwrap();
    let again = run(&["apply", "-f", "-", "--policies", folder], GOOD);
    assert!(text(&again.stdout).lines().all(|l| l.contains("unchanged")), "{}", text(&again.stdout));
    assert_eq!(std::fs::read_to_string(dir.path().join("b.yaml")).unwrap(), policy);
}

#[test]
fn a_trial_needs_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, none) = (path(dir.path()), dir.path().join("none"));
    let more =
        ["--confirm", "10s", "--policies", folder, "--state-dir", path(&none), "--pin-dir", path(&none)];
    let out = run(&[&["apply", "-f", "-"], &more[..]].concat(), GOOD);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("needs a running agent"), "{}", text(&out.stderr));
    assert_eq!(
        run(&["get", "gnp", "-o", "name", "--policies", folder], "").stdout,
        b"",
        "nothing was changed"
    );
}
