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
