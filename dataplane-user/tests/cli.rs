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

/// Old trouble of others is not told again; trouble of what is applied, or that comes with it, is.
#[test]
fn apply_tells_what_lint_finds_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    let apply = |documents: &str, more: &[&str]| {
        let out =
            run(&[&["apply", "-f", "-", "--node", "n1", "--policies", folder], more].concat(), documents);
        assert_eq!(out.status.code(), Some(0), "{}", text_of(&out));
        text(&out.stderr)
    };
    let nothing = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: NAME}\n\
                   spec: {selector: role == 'nobody', types: [Ingress], ingress: [{action: Allow}]}\n";
    let (first, second) = (nothing.replace("NAME", "first"), nothing.replace("NAME", "second"));
    let dry = apply(&first, &["--dry-run"]);
    assert!(dry.contains("<stdin>:1: warning: GlobalNetworkPolicy/first"), "{dry}");
    assert!(dry.contains("docs/lint/L"), "{dry}");
    assert_eq!(apply(&first, &[]), dry, "a dry run says what the apply says");
    let other = apply(&second, &[]);
    assert!(
        other.contains("GlobalNetworkPolicy/second") && !other.contains("GlobalNetworkPolicy/first"),
        "{other}"
    );
    assert_eq!(apply(&first, &[]), dry, "unchanged, and still told to whoever applies it");
    // The endpoint is in nobody's way, but a policy of another document now selects it.
    let brought = apply(GOOD, &[]);
    assert!(brought.contains("HostEndpoint/n1-lo"), "{brought}");
}

fn text_of(out: &Output) -> String {
    format!("{}{}", text(&out.stdout), text(&out.stderr))
}

/// As `| head -1` leaves them: nobody reads stdout. No panic, no complaint, and the exit code is that of the answer.
#[test]
fn listings_may_be_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    std::fs::write(dir.path().join("all.yaml"), GOOD).unwrap();
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/nodeport/N08-failsafe.scenario.yaml");
    let event = dir.path().join("events.jsonl");
    std::fs::write(&event, EVENT).unwrap();
    let get = |kind, output| vec!["get", kind, "-o", output, "--policies", folder, "--state-dir", folder];
    let cases = [
        (get("gnp", "table"), 0),
        (get("gnp", "wide"), 0),
        (get("gnp", "yaml"), 0),
        (get("gnp", "json"), 0),
        (get("hep", "name"), 0),
        (vec!["lint", "-f", folder], 1),
        (vec!["lint", "-f", folder, "-o", "json"], 1),
        (vec!["validate", "-f", folder], 0),
        (vec!["apply", "-f", folder, "--dry-run", "--policies", folder], 0),
        (vec!["test", "--engine", "model", scenario], 0),
        (vec!["test", "--engine", "model", "-o", "json", scenario], 0),
        (explain("text", folder), 0),
        (explain("json", folder), 0),
        (vec!["observe", "--input-file", path(&event)], 0),
        (vec!["observe", "-o", "json", "--input-file", path(&event)], 0),
        (vec!["completions", "bash"], 0),
        (vec!["--help"], 0),
    ];
    for (words, code) in cases {
        let whole = run(&words, "");
        assert_eq!(whole.status.code(), Some(code), "{words:?}: {}", text_of(&whole));
        assert!(!whole.stdout.is_empty(), "{words:?} lists something");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let cut = command.args(&words).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(cut.status.code(), Some(code), "{words:?}: {}", text(&cut.stderr));
        assert_eq!(text(&cut.stderr), text(&whole.stderr), "{words:?}");
    }
}

/// The one device that every machine has, and that these policies leave alone.
fn explain<'a>(output: &'a str, folder: &'a str) -> Vec<&'a str> {
    let place = ["--policies", folder, "--state-dir", folder, "-o", output];
    let packet = ["explain", "--in", "lo", "--from", "203.0.113.7", "--to", "127.0.0.1", "--dport", "80"];
    [&packet[..], &place[..]].concat()
}

/// As `observe -o json` writes it.
const EVENT: &str = r#"{"kind":"Event","apiVersion":"portcullis.dev/v1","time":"2026-01-02T03:04:05Z","event":"verdict","verdict":"Deny","stage":"preDNAT","reason":"rule_deny","hook":"ingress","device":"eth0","ifindex":2,"generation":1,"protocol":"TCP","length":60}
"#;

/// Under the names by which kubectl finds it; nothing of a cluster is asked.
#[cfg(feature = "kubernetes")]
#[test]
fn under_another_name_it_is_a_plugin_of_kubectl() {
    let dir = tempfile::tempdir().unwrap();
    let call = |name: &str, args: &[&str]| {
        let link = dir.path().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_portcullis"), &link).unwrap();
        }
        // No kubectl at all.
        Command::new(link).args(args).env("PATH", dir.path()).env_remove("KUBECTL").output().unwrap()
    };
    let help = call("kubectl-portcullis", &["observe", "--help"]);
    assert!(text(&help.stdout).contains("Usage: kubectl portcullis observe"), "{}", text(&help.stdout));
    let offered = text(&call("kubectl_complete-portcullis", &["st"]).stdout);
    assert!(offered.starts_with("status\t") && offered.ends_with("\n:4\n"), "{offered}");
    let without = call("kubectl-portcullis", &["status"]);
    assert_eq!(without.status.code(), Some(2));
    assert!(text(&without.stderr).contains("kubectl must be in PATH"), "{}", text(&without.stderr));
}

#[test]
fn the_manifest_for_krew_is_that_of_its_archive() {
    let dir = tempfile::tempdir().unwrap();
    let archive = path(&dir.path().join("a.tar.gz")).to_owned();
    let print = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/krew/manifest.sh");
        let args = ["v1.2.3", "https://example.com/a.tar.gz", &archive];
        Command::new(script).args(args).output().unwrap()
    };
    let pack = |name: &str| {
        std::fs::write(dir.path().join(name), "x").unwrap();
        let tar = ["-C", path(dir.path()), "-czf", &archive, name];
        assert!(Command::new("tar").args(tar).status().unwrap().success());
    };
    pack("another");
    let without = print();
    assert!(without.status.code() == Some(1) && without.stdout.is_empty(), "{}", text(&without.stderr));
    pack("portcullis");
    let made: serde_json::Value = serde_saphyr::from_str(&text(&print().stdout)).expect("YAML");
    let sum = text(&Command::new("sha256sum").arg(&archive).output().unwrap().stdout);
    let platform = &made["spec"]["platforms"][0];
    assert_eq!(platform["sha256"].as_str(), sum.split(' ').next(), "{made}");
    assert_eq!((&made["metadata"]["name"], &platform["bin"]), (&"portcullis".into(), &"portcullis".into()));
}
