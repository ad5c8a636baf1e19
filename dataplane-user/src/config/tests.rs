use super::*;
use crate::policy::Severity;

fn errors(text: &str) -> Vec<String> {
    let reading = read_str("c.yaml", text);
    let all: Vec<String> =
        reading.problems.iter().filter(|p| p.severity == Severity::Error).map(ToString::to_string).collect();
    assert_eq!(reading.config.is_none(), !all.is_empty(), "{all:?}");
    all
}

fn good(text: &str) -> Config {
    let reading = read_str("c.yaml", text);
    assert_eq!(reading.problems, [], "{text}");
    reading.config.expect("a config")
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(good(""), Config::default());
    assert_eq!(good("# only words\n"), Config::default());
    assert_eq!(good("{}"), Config::default());
}

#[test]
fn every_setting_is_taken() {
    let text = "node: n1\npolicies: /p\nkubernetes: true\nkubeconfig: /k\npinDir: /b/x\nbpffs: /b\nstateDir: /s\n\
                attach: clsact\nxdp: native\n\
                httpAddress: '::1'\nhttpPort: 9000\n\
                onPolicyChange: recheck\ngrace: 2m\nnodePortAddresses: [10.0.0.0/8, 10.1.2.3]\n\
                infraTunnels: false\ngovernLoopback: true\n";
    // Of IPv6 no network is named: everywhere.
    let nets = ["10.0.0.0/8", "10.1.2.3/32", "::/0"].map(|n| n.parse().unwrap()).to_vec();
    let expected = Config {
        node: Some("n1".into()),
        policies: "/p".into(),
        kubernetes: true,
        kubeconfig: Some("/k".into()),
        pin_dir: "/b/x".into(),
        bpffs: Some("/b".into()),
        state_dir: "/s".into(),
        attach: Some(Mechanism::Clsact),
        xdp: Mode::Native,
        http: Listen { address: Some("::1".parse().unwrap()), port: 9000 },
        settings: Settings {
            on_policy_change: OnPolicyChange::Recheck,
            infra_tunnels: false,
            govern_loopback: true,
            node_port_addresses: nets,
            grace_seconds: 120,
        },
    };
    assert_eq!(good(text), expected);
}

#[test]
fn every_error_comes_at_once_with_its_remedy() {
    let text = "nodeName: n1\npolicies: rel\ngrace: 60\nattach: tc\nnodePortAddresses: []\n\
                infraTunnels: \"no\"\nonPolicyChange: drop\nnode: Node_1\n";
    let all = errors(text);
    for words in [
        "c.yaml:1: nodeName \"n1\": unknown field; did you mean `node`?",
        "c.yaml:1: policies \"rel\": a path that does not begin with `/`; write the whole path",
        "c.yaml:1: grace \"60\": a number without its unit; write `60s`",
        "attach \"tc\": expected one of auto, tcx, clsact; write tcx",
        "nodePortAddresses \"[]\": an empty list does not say",
        "infraTunnels \"no\": expected true or false, without quotes",
        "onPolicyChange \"drop\": expected one of keep, recheck",
        "node \"Node_1\": no node name",
    ] {
        assert!(all.iter().any(|e| e.contains(words)), "{words}\nis not in {all:#?}");
    }
    assert_eq!(all.len(), 8, "{all:#?}");
}

#[test]
fn what_is_no_settings_file_is_refused() {
    assert!(errors("grace: [\n")[0].starts_with("c.yaml:"));
    assert!(errors("grace: 1s\n---\ngrace: 2s\n")[0].contains("a second document"));
    assert!(errors("- grace\n")[0].contains("expected a mapping"));
    assert!(errors("kind: GlobalNetworkPolicy\n")[0].contains("no Kubernetes object"));
    assert!(errors("grace: 2h\n")[0].contains("up to one hour"));
    assert!(
        errors("httpAddress: localhost\n")[0]
            .contains("httpAddress \"localhost\": expected an IP address, or `off`")
    );
    assert!(errors("httpAddress: 127.0.0.1:80\n")[0].contains("a setting of its own"));
    assert!(errors("httpPort: 0\n")[0].starts_with("c.yaml:1: httpPort"));
    assert_eq!(good("httpAddress: off").http.address, None);
    assert!(errors("grace: 1500ms\n")[0].contains("whole seconds"));
    // A key that stands there twice: which one was meant?
    assert!(!errors("grace: 1s\ngrace: 2s\n").is_empty());
}

/// The reader and the table know the same settings, and the table's defaults are the reader's.
#[test]
fn the_table_says_what_the_reader_does() {
    let unknown = errors("qqqqqqqqqqqqqqqq: 1\n");
    let (_, known) = unknown[0].split_once("known here: ").expect("a list of what is known");
    let mut known: Vec<&str> = known.split(", ").collect();
    known.sort_unstable();
    let mut listed: Vec<&str> = SETTINGS.iter().map(|s| s.key).collect();
    listed.sort_unstable();
    assert_eq!(known, listed);
    for s in SETTINGS {
        let read = good(&format!("{}: {}\n", s.key, s.example));
        assert_eq!(read == Config::default(), s.example_is_default, "{}", s.key);
        assert_eq!(s.example_is_default, s.example == s.default, "{}", s.key);
    }
}

fn held_to(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("PORTCULLIS_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is not what the code says: PORTCULLIS_BLESS=1 cargo test", path.display());
}

#[test]
fn the_reference_page_is_current() {
    held_to("docs/reference/settings.md", &reference_page());
}

#[test]
fn the_packaged_file_is_current_and_changes_nothing() {
    held_to("packaging/config.yaml", &example());
    assert_eq!(good(&example()), Config::default());
}
