//! Our CustomResourceDefinitions and admission policies on a real API server, beside the reader that every agent has:
//! the server refuses nothing that the reader accepts, and what only the reader refuses is a named list.

mod compare;
mod helm;
mod objects;
mod spoil;
mod tables;

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis::{
    crd,
    resource::{Document, documents_from_str},
};
use serde_json::{Value, json};
use tests::{
    can_run,
    kubernetes::{Cluster, servers::Programs},
    netns::Netns,
    process::agent_program,
    skip,
    topology::policies,
};

use compare::Comparison;

const PATIENCE: Duration = Duration::from_secs(120);

/// A server on its own. Takes some 4 s.
fn run(test: &str, body: fn(&mut Cluster, &Netns) -> Result<()>) {
    if !can_run(test) {
        return;
    }
    let programs = match Programs::find().unwrap() {
        Ok(programs) => programs,
        Err(missing) => return skip(test, &missing.0),
    };
    let node = Netns::new("crds").unwrap();
    let mut cluster = Cluster::start(&node, programs).unwrap();
    body(&mut cluster, &node).unwrap();
}

/// The command, as a person runs it: its exit code, and what it said.
fn command(cluster: &Cluster, node: &Netns, words: &[&str]) -> Result<(i32, String)> {
    let mut command = node.command(agent_program()?);
    command.args(["crds", "install", "--kubeconfig"]).arg(cluster.admin_kubeconfig()).args(words);
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

/// Installs everything, and waits until each admission policy is in effect.
fn install(cluster: &Cluster, node: &Netns) -> Result<()> {
    let (code, said) = command(cluster, node, &[])?;
    ensure!(code == 0, "{code} {said}");
    ensure!(said.contains("CustomResourceDefinition/tiers.projectcalico.org"), "{said}");
    ensure!(said.contains("CustomResourceDefinition/nodepolicystatuses.portcullis.dev"), "{said}");
    in_effect(cluster)
}

/// Waits until each admission policy refuses, or warns.
fn in_effect(cluster: &Cluster) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let refused = [
        object("GlobalNetworkPolicy", "p", json!({"ordr": 1})),
        object("HostEndpoint", "h", json!({"node": "n", "interfaceName": "eth0", "nod": "n"})),
        object("GlobalNetworkSet", "s", json!({"net": []})),
        object("Tier", "t", json!({"Order": 1})),
        object(
            "FelixConfiguration",
            "default",
            json!({"failsafeInboundHostPorts": [{"port": 1, "nets": ""}]}),
        ),
    ];
    let requests: Vec<(String, Value)> = refused.iter().map(|o| (compare::path(o), o.clone())).collect();
    while cluster.post_all(&requests)?.iter().any(|(code, _)| *code < 400) {
        ensure!(Instant::now() < end, "admission policies are not in effect");
        thread::sleep(Duration::from_millis(100));
    }
    let advised = compare::path(&object("FelixConfiguration", "other", json!({})));
    while cluster
        .warnings("POST", &advised, Some(&object("FelixConfiguration", "other", json!({}))))?
        .is_empty()
    {
        ensure!(Instant::now() < end, "admission policies that warn are not in effect");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Every document of `policies/`: manifests, and what stands in scenarios.
fn documents() -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut folders = vec![policies()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path)?;
                for document in documents_from_str(&path.display().to_string(), &text).0 {
                    add(&mut found, document);
                }
            }
        }
    }
    Ok(found)
}

fn add(found: &mut Vec<Value>, document: Document) {
    if !document.is_scenario() {
        found.push((*document.value).clone());
        return;
    }
    let spec = &document.value["spec"];
    let steps = spec["steps"].as_array().into_iter().flatten().map(|step| &step["apply"]);
    for text in steps.chain([&spec["documents"]]).filter_map(Value::as_str) {
        found.extend(
            documents_from_str("scenario", text).0.into_iter().map(|document| (*document.value).clone()),
        );
    }
}

/// Documents of ours, each once.
fn ours(documents: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let is_ours = |document: &Value| {
        let kind = document["kind"].as_str().unwrap_or_default();
        document["apiVersion"] == "projectcalico.org/v3"
            && crd::KINDS.iter().any(|known| known.as_str() == kind)
    };
    documents.into_iter().filter(|document| is_ours(document) && seen.insert(document.to_string())).collect()
}

/// Manifests, good and bad objects, and spoilt ones: server and reader say the same. Takes some 25 s.
#[test]
fn the_server_and_the_reader_agree() {
    run("the_server_and_the_reader_agree", |cluster, node| {
        install(cluster, node)?;
        let mut comparison = Comparison::default();
        let from_files = ours(documents()?);
        ensure!(from_files.len() > 300, "{} documents of policies/", from_files.len());
        comparison.add(cluster, &from_files)?;
        comparison.add(cluster, &objects::all())?;
        let valid: Vec<Value> =
            from_files.into_iter().chain(objects::all()).filter(compare::is_valid).collect();
        comparison.add(cluster, &spoil::some(&valid, 1000))?;
        comparison.verdict()
    });
}

/// Advice comes as a warning, and only where there is something to say.
#[test]
fn advice_is_given_and_nothing_is_refused_for_it() {
    run("advice_is_given_and_nothing_is_refused_for_it", |cluster, node| {
        install(cluster, node)?;
        let policy = |spec| object("GlobalNetworkPolicy", "p", spec);
        let deny = json!([{"action": "Deny"}]);
        let nets = |net: &str| json!([{"action": "Allow", "source": {"nets": [net]}}]);
        let mut misspelt = policy(json!({"selector": "has(a)"}));
        misspelt["metadata"]["annotations"] = json!({"portcullis.dev/on-policy-chang": "keep"});
        let felix = |spec| object("FelixConfiguration", "default", spec);
        let table = [
            (policy(json!({"selector": "has(a)", "ingress": deny})), ""),
            (policy(json!({"ingress": deny})), "lets nothing in or out"),
            (policy(json!({"ingress": deny, "preDNAT": true, "applyOnForward": true})), ""),
            (policy(json!({"types": ["Ingress"], "egress": nets("10.0.0.0/8")})), "under egress are ignored"),
            (
                policy(json!({"types": ["Egress"], "ingress": nets("10.0.0.0/8")})),
                "under ingress are ignored",
            ),
            (policy(json!({"types": ["Ingress"], "ingress": nets("10.0.0.1")})), ""),
            (policy(json!({"ingress": nets("10.0.0.1/8")})), "ignored: 10.0.0.1/8"),
            (policy(json!({"ingress": nets("fd00::1/8")})), "ignored: fd00::1/8"),
            (misspelt, "no effect here: portcullis.dev/on-policy-chang"),
            (felix(json!({"failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22}]})), ""),
            (felix(json!({"failsafeInboundHostPorts": []})), "lock you out"),
            (felix(json!({"bpfEnabled": true})), "no effect on host policy: bpfEnabled"),
        ];
        // The server takes up its admission policies one by one: who shall warn is waited for, and then all are asked.
        let end = Instant::now() + PATIENCE;
        let warns = |object: &Value| cluster.warnings("POST", &compare::path(object), Some(object));
        for (object, _) in table.iter().filter(|(_, wanted)| !wanted.is_empty()) {
            while warns(object)?.is_empty() && Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
            }
        }
        for (object, wanted) in table {
            let said = warns(&object)?;
            ensure!(
                if wanted.is_empty() { said.is_empty() } else { said.len() == 1 && said[0].contains(wanted) },
                "{object}: {said:?}"
            );
        }
        let endpoint = object("HostEndpoint", "h", json!({"node": "node1", "interfaceName": "eth0"}));
        let tier = object("Tier", "t", json!({}));
        for (object, wanted) in
            [(endpoint, "device eth0 of node node1"), (tier, "the tier t are judged after all tiers")]
        {
            cluster.apply_value(&object)?;
            let path = compare::path(&object)
                .replace('?', &format!("/{}?", object["metadata"]["name"].as_str().unwrap_or_default()));
            let mut said = cluster.warnings("DELETE", &path, None)?;
            while said.is_empty() && Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
                said = cluster.warnings("DELETE", &path, None)?;
            }
            ensure!(said.len() == 1 && said[0].contains(wanted), "{object}: {said:?}");
        }
        Ok(())
    });
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Who defines Calico's kinds in this cluster, by their names, and in which version.
fn defined(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let (_, answer) = cluster.request("GET", DEFINITIONS, None)?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|item| (word(&item["metadata"]["name"]), item["metadata"]["generation"].to_string()))
        .collect())
}

/// Deletes every definition, and waits until they are gone. A busy server may not take a request, and looks at a definition
/// that it could not clear ever more seldom, unless it changes.
fn remove_definitions(cluster: &Cluster) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for number in 0_u32.. {
        let left = defined(cluster)?;
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "definitions do not go: {left:?}");
        for (name, _) in left {
            let path = format!("{DEFINITIONS}/{name}");
            cluster.request("DELETE", &path, None)?;
            if number % 10 == 9 {
                let touched = json!({
                    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                    "metadata": {"name": name, "annotations": {"asked": number.to_string()}},
                });
                cluster.request("PATCH", &format!("{path}?fieldManager=again"), Some(&touched))?;
            }
        }
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Definitions of somebody else are never written over, by the command or by server-side apply.
#[test]
fn nothing_is_installed_over_the_definitions_of_others() {
    run("nothing_is_installed_over_the_definitions_of_others", |cluster, node| {
        // As Calico's own manifests come, in each of its groups.
        for group in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
            cluster.define(group)?;
            let before = defined(cluster)?;
            let (code, said) = command(cluster, node, &[])?;
            ensure!(code == 1 && said.contains("is not ours (managed by lab)"), "{code} {said}");
            ensure!(said.contains("Nothing was written") && said.contains("--beside-calico"), "{said}");
            ensure!(defined(cluster)? == before);
            if group == "projectcalico.org/v3" {
                // `kubectl apply --server-side` of our manifests: a conflict, and nothing changes.
                for manifest in crd::calico() {
                    let name = manifest.object["metadata"]["name"].as_str().unwrap_or_default();
                    let path = format!("{DEFINITIONS}/{name}?fieldManager=kubectl");
                    let (code, answer) = cluster.request("PATCH", &path, Some(&manifest.object))?;
                    ensure!(
                        code == 409 && answer["message"].to_string().contains("conflict"),
                        "{code} {answer}"
                    );
                }
                ensure!(defined(cluster)? == before);
            }
            remove_definitions(cluster)?;
        }

        // Our label on a definition that another manager owns.
        let mut stolen = crd::calico().remove(0).object;
        stolen["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        cluster.apply_value(&stolen)?;
        let before = defined(cluster)?;
        let (code, said) = command(cluster, node, &[])?;
        ensure!(code == 1 && said.contains("conflict"), "{code} {said}");
        ensure!(defined(cluster)? == before, "on trial first: nothing else was written either");
        let name = before[0].0.clone();
        cluster.request("DELETE", &format!("{DEFINITIONS}/{name}"), None)?;

        // Calico's API server: no definition shows it. (Of v3 the server registers itself, for the definitions above.)
        cluster.apply_value(&json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v4.projectcalico.org"},
            "spec": {"group": "projectcalico.org", "version": "v4", "groupPriorityMinimum": 1500, "versionPriority": 200,
                "insecureSkipTLSVerify": true, "service": {"namespace": "calico-apiserver", "name": "calico-api"}},
        }))?;
        let (code, said) = command(cluster, node, &[])?;
        ensure!(code == 1 && said.contains("Calico's own API server"), "{code} {said}");
        Ok(())
    });
}

/// Beside Calico only what is ours comes, and it refuses nothing of Calico's.
#[test]
fn beside_calico_only_ours_comes() {
    run("beside_calico_only_ours_comes", |cluster, node| {
        cluster.define("projectcalico.org/v3")?;
        let (code, said) = command(cluster, node, &["--beside-calico"])?;
        ensure!(
            code == 0 && said.contains("nodepolicystatuses") && !said.contains("Definition/tiers"),
            "{code} {said}"
        );
        let unknown = object("GlobalNetworkPolicy", "p", json!({"somethingNew": 1}));
        let path = compare::path(&unknown);
        let end = Instant::now() + PATIENCE;
        while cluster.warnings("POST", &path, Some(&unknown))?.is_empty() {
            ensure!(Instant::now() < end, "nothing is warned of");
            thread::sleep(Duration::from_millis(100));
        }
        ensure!(cluster.request("POST", &path, Some(&unknown))?.0 == 201);
        Ok(())
    });
}

/// Written twice is written once; an older version of ours is updated.
#[test]
fn an_installation_is_repeated_and_updated() {
    run("an_installation_is_repeated_and_updated", |cluster, node| {
        install(cluster, node)?;
        let before = defined(cluster)?;
        let (code, said) = command(cluster, node, &[])?;
        ensure!(code == 0 && defined(cluster)? == before, "{code} {said}");
        // What an older version of this program had written.
        let mut older = crd::calico().remove(0).object;
        older["spec"]["versions"][0]["additionalPrinterColumns"] = json!([]);
        let name = older["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("{DEFINITIONS}/{name}?fieldManager=portcullis");
        ensure!(cluster.request("PATCH", &path, Some(&older))?.0 == 200);
        ensure!(command(cluster, node, &[])?.0 == 0);
        let (_, now) = cluster.request("GET", &format!("{DEFINITIONS}/{name}"), None)?;
        ensure!(
            now["spec"]["versions"][0]["additionalPrinterColumns"].as_array().is_some_and(|c| c.len() > 3),
            "{now}"
        );
        Ok(())
    });
}
