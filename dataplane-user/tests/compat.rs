//! `policies/cases/index.yaml` and `fields.yaml`: every rule has a scenario or a test, every field an answer, and
//! `docs/calico-compat.md` says the same. `UPDATE_DOCS=1 cargo test -p dataplane-user --test compat` writes that page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use portcullis::resource::{Store, documents_from_str};
use serde_json::Value;

/// Sections of `index.yaml`, and how many ids each must hold: who takes one away must say so here.
const SECTIONS: [(&str, &str, usize); 4] = [
    ("cases", "Rules of the semantics", CASES),
    ("decisions", "Decisions", DECISIONS),
    ("hostile", "Hostile packets and situations", HOSTILE),
    ("found", "What random runs found", FOUND),
];
const CASES: usize = 275;
const DECISIONS: usize = 50;
const HOSTILE: usize = 78;
const FOUND: usize = 22;
/// What nothing shows yet.
const OPEN: [&str; 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Entries in the order of the file.
fn yaml(path: &str) -> Vec<(String, Vec<(String, Value)>)> {
    let whole: Value = serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let map = |v: &Value| v.as_object().unwrap_or_else(|| panic!("{path}: a mapping")).clone();
    map(&whole).into_iter().map(|(name, items)| (name, map(&items).into_iter().collect())).collect()
}

fn texts<'a>(entry: &'a Value, key: &str) -> Vec<&'a str> {
    entry.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_rule_decision_and_hostile_packet_is_shown() {
    let index = yaml("policies/cases/index.yaml");
    let mut open = BTreeSet::new();
    let mut wrong = Vec::new();
    for (section, _, count) in SECTIONS {
        let entries = &index.iter().find(|(name, _)| name == section).expect(section).1;
        assert_eq!(entries.len(), count, "{section}: ids came or went");
        for (id, entry) in entries {
            let (shown, tests) = (texts(entry, "shown"), texts(entry, "test"));
            if entry.get("open").is_some_and(Value::is_string) {
                open.insert(id.as_str());
            } else if shown.is_empty() && tests.is_empty() {
                wrong.push(format!("{id}: neither scenario nor test"));
            }
            for file in &shown {
                let text = std::fs::read_to_string(root().join("policies").join(file)).unwrap_or_default();
                if !text.contains("kind: Scenario") || !text.contains("  steps:") {
                    wrong.push(format!("{id}: {file} is no scenario"));
                }
            }
            for test in &tests {
                let (file, name) = test.split_once(": ").expect("file: test");
                let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
                if !text.contains(&format!("fn {name}()")) {
                    wrong.push(format!("{id}: {file} has no test {name}"));
                }
            }
            if entry.get("says").is_none() && shown.is_empty() && entry.get("open").is_none() {
                wrong.push(format!("{id}: says nothing"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(open, BTreeSet::from(OPEN), "what is open must be said here, too");
}

/// Every scenario below a folder.
fn scenarios(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            scenarios(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml")
            && std::fs::read_to_string(&path).is_ok_and(|text| text.contains("kind: Scenario"))
        {
            found.insert(path);
        }
    }
}

#[test]
fn every_scenario_stands_in_the_index() {
    let index = yaml("policies/cases/index.yaml");
    let policies = root().join("policies");
    let entries = index.iter().flat_map(|(_, entries)| entries);
    let listed: BTreeSet<PathBuf> = entries
        .flat_map(|(_, entry)| texts(entry, "shown").into_iter().map(|file| policies.join(file)))
        .collect();
    let mut found = BTreeSet::new();
    scenarios(&policies, &mut found);
    let unlisted: Vec<_> = found.difference(&listed).collect();
    assert!(unlisted.is_empty(), "policies/cases/index.yaml names no row for {unlisted:#?}");
}

/// For each group of fields a document with a place for one field more.
fn documents() -> BTreeMap<&'static str, String> {
    let object = |kind: &str, spec: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{{spec}}}\n")
    };
    let rule = |rule: &str| object("GlobalNetworkPolicy", &format!("ingress: [{{action: Allow, {rule}}}]"));
    BTreeMap::from([
        ("GlobalNetworkPolicy spec", object("GlobalNetworkPolicy", "FIELD")),
        ("StagedGlobalNetworkPolicy spec", object("StagedGlobalNetworkPolicy", "FIELD")),
        ("NetworkPolicy spec", object("NetworkPolicy", "FIELD")),
        ("StagedNetworkPolicy spec", object("StagedNetworkPolicy", "FIELD")),
        ("rule", rule("FIELD")),
        ("source and destination", rule("source: {FIELD}")),
        ("icmp and notICMP", rule("protocol: ICMP, icmp: {type: 8, FIELD}")),
        ("serviceAccounts", rule("source: {serviceAccounts: {names: [a], FIELD}}")),
        ("services", rule("source: {services: {name: a, namespace: b, FIELD}}")),
        ("Tier spec", object("Tier", "FIELD")),
        ("HostEndpoint spec", object("HostEndpoint", "node: n, interfaceName: eth0, FIELD")),
        (
            "HostEndpoint port",
            object(
                "HostEndpoint",
                "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 1, FIELD}]",
            ),
        ),
        ("GlobalNetworkSet spec", object("GlobalNetworkSet", "FIELD")),
        ("NetworkSet spec", object("NetworkSet", "FIELD")),
    ])
}

/// The reader itself says which fields it knows: in its answer to one that it does not.
fn known_fields(document: &str) -> BTreeSet<String> {
    let text = document.replace("FIELD", "zzzzzzzzzzzzzzzz: 1");
    let report = Store::default().apply(documents_from_str("f", &text).0);
    let message = report
        .errors()
        .find_map(|p| p.message.split_once("known here: ").map(|(_, names)| names.to_owned()))
        .unwrap_or_else(|| panic!("{text}\n{:?}", report.problems));
    message.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_field_that_is_read_has_an_answer_and_no_other() {
    let documents = documents();
    let fields = yaml("policies/cases/fields.yaml");
    assert_eq!(fields.len(), documents.len());
    for (group, entries) in &fields {
        let named: BTreeSet<String> = entries.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(named, known_fields(&documents[group.as_str()]), "{group}");
        for (name, entry) in entries {
            let answer = entry[0].as_str().unwrap_or_default();
            let known = matches!(answer, "yes" | "refused" | "ignored") || answer.starts_with('D');
            assert!(known, "{group}.{name}: {answer:?}");
        }
    }
}

/// The first line of a scenario, without the ids before it.
fn first_line(file: &str) -> String {
    let text = read(&format!("policies/{file}"));
    let line = text.lines().next().unwrap_or_default().trim_start_matches("# ");
    let is_id = |text: &str| text.chars().any(|c| c.is_ascii_digit()) && text.len() < 20;
    match line.split_once(": ") {
        Some((ids, rest)) if is_id(ids) => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn page() -> String {
    let mut out = "# Calico compatibility\n\n\
        Written by a test from `policies/cases/fields.yaml` and `policies/cases/index.yaml`; do not edit.\n\n\
        **yes**: as Calico means it. **Dn**: by a decision of ours, which the text and the scenarios of that number tell.\n\
        **refused**: the object is rejected, with the reason. **ignored**: accepted, without effect.\n\
        Unknown fields refuse the object (D13).\n\n## Fields\n"
        .to_owned();
    for (group, entries) in yaml("policies/cases/fields.yaml") {
        let _ = write!(out, "\n### {group}\n\n| field | | |\n|---|---|---|\n");
        for (name, entry) in entries {
            let text = |i: usize| entry[i].as_str().unwrap_or_default().to_owned();
            let _ = writeln!(out, "| `{name}` | {} | {} |", text(0), text(1));
        }
    }
    out += "\n### Read in part\n\n\
        FelixConfiguration (`failsafeInboundHostPorts`, `failsafeOutboundHostPorts`, `kubeNodePortRanges`, `interfacePrefix`,\n\
        `interfaceExclude`), KubeControllersConfiguration (`controllers.node.hostEndpoint`), Profile (`labelsToApply`, `ingress`,\n\
        `egress`), Node, Namespace, ServiceAccount, Service, EndpointSlice, Pod. What else stands there has no effect, and is\n\
        told where it could mislead (D13). FelixConfiguration is read as `default` and, on the node NAME, as `node.NAME`,\n\
        whose fields go before those of `default`.\n\n### Not read\n\n\
        Kubernetes' own NetworkPolicy and StagedKubernetesNetworkPolicy are for pods: `apply` refuses them by name, a watched\n\
        folder passes them over with a note (D43).\n";
    let index = yaml("policies/cases/index.yaml");
    for (section, title, _) in SECTIONS {
        let entries = &index.iter().find(|(name, _)| name == section).expect(section).1;
        let _ = write!(out, "\n## {title}\n\n| id | | behaviour | shown by |\n|---|---|---|---|\n");
        for (id, entry) in entries {
            let shown = texts(entry, "shown");
            let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            let open = text("open");
            let answer = text("by").unwrap_or_else(|| if open.is_some() { "open" } else { "yes" }.to_owned());
            let says = text("says").or(open).unwrap_or_else(|| first_line(shown[0]));
            let links = shown.iter().map(|file| {
                let name = file.rsplit('/').next().unwrap_or_default().trim_end_matches(".scenario.yaml");
                format!("[{name}](../policies/{file})")
            });
            let tests = texts(entry, "test");
            let tests = tests.iter().map(|t| format!("`{}`", t.rsplit(": ").next().unwrap_or_default()));
            let by: Vec<String> = links.chain(tests).collect();
            let _ = writeln!(out, "| {id} | {answer} | {} | {} |", says.replace('|', "\\|"), by.join(", "));
        }
    }
    out
}

#[test]
fn the_compatibility_page_is_current() {
    let path = "docs/calico-compat.md";
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join(path), &page).expect(path);
    }
    assert!(
        read(path) == page,
        "{path} has drifted: UPDATE_DOCS=1 cargo test -p dataplane-user --test compat"
    );
}
