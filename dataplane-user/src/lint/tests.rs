//! Each page of `docs/lint` is a test: its first example has the finding, its second has not.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::policy::Device;
use crate::resource::documents_from_str;

fn view() -> NodeView {
    let devices = [("lo", "127.0.0.1/8"), ("eth0", "10.240.0.11/24"), ("eth1", "172.16.0.11/24")];
    let device = |(i, (name, net)): (usize, &(&str, &str))| {
        let (name, addresses) = ((*name).to_owned(), vec![net.parse().unwrap()]);
        (
            name.clone(),
            Device { loopback: name == "lo", name, ifindex: i as u32 + 1, addresses, ..Device::default() },
        )
    };
    let devices: BTreeMap<_, _> = devices.iter().enumerate().map(device).collect();
    NodeView { name: "node1".to_owned(), devices, ..NodeView::default() }
}

/// Codes of all findings about a text, the validation's own (L05) included.
fn codes(text: &str) -> BTreeSet<String> {
    let mut store = Store::default();
    let report = store.apply(documents_from_str("f", text).0);
    assert!(
        !report.has_errors(),
        "{text}\n{:?}",
        report.errors().map(ToString::to_string).collect::<Vec<_>>()
    );
    let by_validation = report.warnings().filter(|w| w.message.contains("[L05,")).map(|_| Code::HostBits);
    let found = check(store.world(), &view()).into_iter().map(|f| f.code);
    found.chain(by_validation).map(|code| code.to_string()).collect()
}

fn examples(page: &str) -> Vec<&str> {
    page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn each_code_has_its_page_and_each_page_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let index = std::fs::read_to_string(root.join("docs/lint/README.md")).unwrap();
    for code in Code::ALL {
        let path = root.join(code.page());
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(page.starts_with(&format!("# {code}: ")), "{code}");
        assert!(index.contains(&format!("[{code}]({code}.md)")), "{code} is not in the index");
        let examples = examples(&page);
        assert_eq!(examples.len(), 2, "{code}: one example with the finding, one without");
        let (with, without) = (codes(examples[0]), codes(examples[1]));
        assert!(with.contains(&code.to_string()), "{code}: the first example has only {with:?}");
        assert!(!without.contains(&code.to_string()), "{code}: the second example still has it");
    }
}

#[test]
fn codes_are_numbered_without_a_gap() {
    for (i, code) in Code::ALL.iter().enumerate() {
        assert_eq!(*code as usize, i + 1);
    }
}

/// A firewall that people may use as a start: nothing to complain about.
const CLEAN: &str = r#"
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-all, labels: {role: node}}
spec: {node: node1, interfaceName: "*", expectedIPs: [10.240.0.11, 172.16.0.11], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  order: 10
  selector: role == 'node'
  ingress:
  - {action: Allow, protocol: TCP, destination: {selector: role == 'node', ports: [80, 443]}}
"#;

#[test]
fn a_sound_policy_has_no_finding() {
    assert_eq!(codes(CLEAN), BTreeSet::new());
}

#[test]
fn documents_alone_say_nothing_about_devices() {
    let mut store = Store::default();
    store.apply(documents_from_str("f", &CLEAN.replace("\"*\"", "eth7")).0);
    let about = |found: Vec<Finding>| found.into_iter().map(|f| f.code).collect::<Vec<_>>();
    assert_eq!(about(check_documents(store.world())), []);
    assert_eq!(about(check(store.world(), &view())), [Code::BindsNothing]);
}

#[test]
fn findings_know_their_place_and_their_page() {
    let mut store = Store::default();
    let text = CLEAN.replace("role == 'node'\n", "rolle == 'node'\n");
    store.apply(documents_from_str("web.yaml", &text).0);
    let mut problems = findings(store.world(), &view());
    locate(&mut problems, &store);
    let problem = problems.iter().find(|p| p.object == "GlobalNetworkPolicy/web").unwrap();
    assert_eq!(
        (problem.file.as_str(), problem.line, problem.path.as_str()),
        ("web.yaml", 7, "spec.selector")
    );
    assert!(problem.message.ends_with("[L18, docs/lint/L18.md]"), "{problem}");
}

#[test]
fn a_failsafe_that_is_narrow_still_counts_and_a_deny_behind_it_is_told_so() {
    let text = format!(
        "{CLEAN}---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
         spec: {{failsafeInboundHostPorts: [{{protocol: tcp, port: 2222, net: 10.9.0.0/16}}]}}\n"
    );
    assert_eq!(codes(&text), BTreeSet::from(["L14".to_owned()]));
    // A rule for ssh is enough; one behind a Deny for everybody is not.
    assert_eq!(codes(&text.replace("[80, 443]", "[22, 443]")), BTreeSet::new());
    let shut =
        text.replace("  ingress:\n", "  ingress:\n  - {action: Deny}\n").replace("[80, 443]", "[22, 443]");
    assert_eq!(codes(&shut), BTreeSet::from(["L14".to_owned(), "L16".to_owned()]));
}
