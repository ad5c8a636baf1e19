//! `portcullis kubectl observe` before a kubectl that is a script: one node answers, one cannot be asked, one has no agent.
#![cfg(feature = "kubernetes")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use tempfile::TempDir;

/// `pod1` answers as an agent without events does; `exec` on `pod2` fails as before a kubelet that is gone.
const KUBECTL: &str = r#"#!/bin/sh
pod() { printf '{"metadata": {"name": "%s"}, "spec": {"nodeName": "%s", "containers": [{"name": "portcullis"}]}, "status": {"phase": "Running"}}' "$1" "$2"; }
case "$*" in
    "get pods "*) printf '{"items": [%s, %s]}' "$(pod pod1 n1)" "$(pod pod2 n2)" ;;
    "get nodes "*) echo '{"items": [{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}, {"metadata": {"name": "n3"}}]}' ;;
    "exec "*" pod1 "*) echo '{"kind": "Summary", "kept": 0, "forgotten": 0, "lost": 0, "from": "agent"}' ;;
    "exec "*) echo "Error from server: error dialing backend: dial tcp 10.0.0.2:10250: connect: no route to host" >&2; exit 1 ;;
    *) echo "what is $*?" >&2; exit 1 ;;
esac
"#;

fn observe(words: &[&str]) -> Output {
    let folder = TempDir::new().unwrap();
    let kubectl = folder.path().join("kubectl");
    fs::write(&kubectl, KUBECTL).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["kubectl", "observe"]).args(words).env("KUBECTL", kubectl);
    command.output().unwrap()
}

#[test]
fn a_node_that_cannot_be_asked_is_named_and_no_success() {
    let all = observe(&[]);
    let said = String::from_utf8_lossy(&all.stderr);
    for words in
        ["n1", "0 of 0 events shown", "n2", "cannot be observed", "no route to host", "n3", "has no agent"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(all.status.code(), Some(1), "{said}");

    let good = observe(&["--node", "n1"]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    let bad = observe(&["--node", "n2"]);
    let said = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(2), "{said}");
    assert!(said.contains("no agent could be asked") && said.contains("no route to host"), "{said}");
    assert_eq!(observe(&["--node", "n1,n3"]).status.code(), Some(1));
}
