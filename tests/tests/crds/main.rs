//! Our CustomResourceDefinitions and admission policies on a real API server, beside the reader that every agent has:
//! the server refuses nothing that the reader accepts, and what only the reader refuses is a named list.

mod compare;
mod objects;
mod spoil;

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
use serde_json::Value;
use tests::{
    can_run,
    kubernetes::{Cluster, servers::Programs},
    netns::Netns,
    skip,
    topology::policies,
};

use compare::Comparison;

const PATIENCE: Duration = Duration::from_secs(30);

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

/// Installs the definitions and waits until each kind is served.
fn install(cluster: &Cluster) -> Result<()> {
    for manifest in crd::definitions()? {
        cluster.apply_value(&manifest.object)?;
    }
    let end = Instant::now() + PATIENCE;
    for kind in crd::KINDS {
        let path = format!("/apis/projectcalico.org/v3/{}?limit=1", kind.plural());
        while cluster.request("GET", &path, None)?.0 != 200 {
            ensure!(Instant::now() < end, "{kind} is not served");
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
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
    run("the_server_and_the_reader_agree", |cluster, _| {
        install(cluster)?;
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
