//! Settings, by the built binary. No privileges needed.

use std::process::{Command, Output};

fn portcullis(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(args).output().expect("the binary starts")
}

#[test]
fn validate_tells_every_error_of_a_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let name = file.to_str().unwrap();

    std::fs::write(&file, "grace: 90s\nattach: clsact\n").unwrap();
    let output = portcullis(&["validate", "--config", name]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name}: settings valid\n"));
    assert_eq!(output.status.code(), Some(0));

    std::fs::write(&file, "grace: soon\nattach: xdp\n").unwrap();
    let output = portcullis(&["validate", "--config", name]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("grace \"soon\": expected whole seconds"), "{told}");
    assert!(told.contains("attach \"xdp\": expected one of auto, tcx, clsact"), "{told}");

    let output = portcullis(&["validate", "--config", "/nonexistent/config.yaml"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("cannot read the settings /nonexistent/config.yaml"), "{told}");
}
