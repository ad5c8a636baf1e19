//! The Helm chart, rendered by Helm's own engine: the manifests of this repository are what it says, what it refuses it
//! refuses with a word, and the settings that it writes are ones that the agent takes. Needs no root.
//! `PORTCULLIS_WRITE_DOCS=1` writes the manifests again.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use portcullis::{config, resource::documents_from_str};
use serde_json::Value;
use tests::{kubernetes::servers::Programs, pod::manifests, skip};

/// File, and the values that it is rendered with.
const RENDERED: [(&str, &[&str]); 2] = [
    ("portcullis.yaml", &["namespace.create=true"]),
    ("portcullis-detach.yaml", &["namespace.create=true", "mode=detach"]),
];
const NOTE: &str = "# Rendered from packaging/chart. `PORTCULLIS_WRITE_DOCS=1 cargo test -p tests --test chart` writes it again.\n";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/chart")
}

/// Helm, where there is one.
struct Helm(Vec<String>);

fn helm(test: &str) -> Option<Helm> {
    match Programs::find().unwrap() {
        Ok(programs) => {
            let helm = Helm(programs.words("helm"));
            // Assets of others hold the servers, and seldom Helm.
            if helm.run(&["template", "--help"], &[]).is_ok_and(|(works, ..)| works) {
                return Some(helm);
            }
            skip(test, &format!("there is no helm: {:?} does not work", helm.0));
        }
        Err(missing) => skip(test, &missing.0),
    }
    None
}

impl Helm {
    fn run(&self, words: &[&str], values: &[&str]) -> Result<(bool, String, String)> {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).args(words);
        for value in values {
            command.args(["--set", value]);
        }
        let output = command.output().context("cannot run helm")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }

    fn template(&self, values: &[&str]) -> Result<(bool, String, String)> {
        let chart = chart().display().to_string();
        self.run(&["template", "portcullis", &chart, "-n", "portcullis", "--kube-version", "1.36.0"], values)
    }

    fn objects(&self, values: &[&str]) -> Result<Vec<Value>> {
        let (done, text, error) = self.template(values)?;
        ensure!(done, "{values:?}: {error}");
        let (documents, problems) = documents_from_str("rendered", &text);
        ensure!(problems.is_empty(), "{values:?}: {problems:?}");
        Ok(documents.iter().map(|document| Value::clone(&document.value)).collect())
    }
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or(&Value::Null)
}

fn container(objects: &[Value]) -> &Value {
    &find(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn the_manifests_are_what_the_chart_says() {
    let Some(helm) = helm("the_manifests_are_what_the_chart_says") else { return };
    for (file, values) in RENDERED {
        let (done, text, error) = helm.template(values).unwrap();
        assert!(done, "{error}");
        let text = NOTE.to_owned() + &text;
        let path = manifests().join(file);
        if env::var_os("PORTCULLIS_WRITE_DOCS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap();
        let differs = text.lines().zip(kept.lines()).enumerate().find(|(_, (new, old))| new != old);
        assert!(kept == text, "{file} is stale (line {differs:?}): {NOTE}");
    }
    let chart = chart().display().to_string();
    let (well, said, error) = helm.run(&["lint", "--strict", &chart], &[]).unwrap();
    assert!(well, "{said}{error}");
}

/// What is meant to be refused, and a word of the reason.
#[test]
fn mistakes_are_refused() {
    let Some(helm) = helm("mistakes_are_refused") else { return };
    for (value, reason) in [
        ("mode=off", "mode"),
        ("image.digest=sha256:abc", "digest"),
        ("settings.grcae=1s", "grcae"),
        ("settings.pinDir=/x", "pinDir"),
        ("capabilities={BPF,SYS_ADMIN}", "capabilities"),
        ("extraCapabilities={CAP_SYS_RESOURCE}", "extraCapabilities"),
        ("toleration=x", "toleration"),
        ("http.port=0", "port"),
        ("serviceMonitor.enabled=true", "set http.address"),
    ] {
        let (done, _, error) = helm.template(&[value]).unwrap();
        assert!(!done && error.contains(reason), "--set {value}: {error}");
    }
}

#[test]
fn values_reach_the_pod() {
    let Some(helm) = helm("values_reach_the_pod") else { return };
    let objects = helm.objects(&["privileged=true", "http.address=off"]).unwrap();
    let pod = container(&objects);
    assert_eq!(pod["securityContext"]["privileged"], true);
    assert!(
        pod["securityContext"]["capabilities"].is_null()
            && pod["securityContext"]["seccompProfile"].is_null()
    );
    assert_eq!(pod["volumeMounts"][0]["mountPropagation"], "Bidirectional");
    // Nobody answers a probe.
    assert!(
        pod["livenessProbe"].is_null() && pod["startupProbe"].is_null() && pod["readinessProbe"].is_null()
    );

    let objects = helm.objects(&["http.address=node", "serviceMonitor.enabled=true"]).unwrap();
    let pod = container(&objects);
    assert!(pod["args"].to_string().contains("--http-address=$(NODE_ADDRESS)"), "{}", pod["args"]);
    assert!(pod["readinessProbe"]["httpGet"]["host"].is_null(), "the kubelet asks the pod's own address");
    assert!(!find(&objects, "ServiceMonitor").is_null() && !find(&objects, "Service").is_null());

    let objects = helm.objects(&["extraCapabilities={SYS_RESOURCE}", "image.digest="]).unwrap();
    let added = &container(&objects)["securityContext"]["capabilities"]["add"];
    assert_eq!(*added, serde_json::json!(["BPF", "NET_ADMIN", "PERFMON", "SYS_RESOURCE"]));

    // Calico's kinds only when asked for, and they outlive the release: with a kind go its objects.
    let kinds = |objects: &[Value]| -> Vec<Value> {
        objects.iter().filter(|o| o["kind"] == "CustomResourceDefinition").cloned().collect()
    };
    let own = kinds(&helm.objects(&[]).unwrap());
    assert!(own.iter().all(|crd| crd["spec"]["group"] == "portcullis.dev") && own.len() == 1);
    let all = kinds(&helm.objects(&["crds.calico=true"]).unwrap());
    let is_manifest = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "yaml");
    let files = fs::read_dir(manifests().join("../crds")).unwrap().flatten().filter(is_manifest).count();
    assert_eq!(all.len(), files);
    assert!(all.iter().all(|crd| crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"));
}

/// The settings file that comes out is one that the agent takes, and the schema knows every setting but those that the
/// chart writes itself.
#[test]
fn the_settings_are_the_agents() {
    let text = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let known: BTreeSet<&str> = schema["properties"]["settings"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let own = [
        "node",
        "policies",
        "kubernetes",
        "kubeconfig",
        "pinDir",
        "bpffs",
        "stateDir",
        "httpAddress",
        "httpPort",
    ];
    let all: BTreeSet<&str> = config::SETTINGS.iter().map(|setting| setting.key).collect();
    let given: BTreeSet<&str> = all.iter().copied().filter(|key| !own.contains(key)).collect();
    assert_eq!(known, given, "properties of `settings` in values.schema.json");

    let Some(helm) = helm("the_settings_are_the_agents") else { return };
    let values =
        ["settings.grace=30s", "settings.xdp=off", "settings.nodePortAddresses={10.240.0.0/16,fd00:10::/64}"];
    let objects = helm.objects(&values).unwrap();
    let text = find(&objects, "ConfigMap")["data"]["config.yaml"].as_str().unwrap();
    let reading = config::read_str("config.yaml", text);
    assert_eq!(reading.problems, []);
    let config = reading.config.unwrap();
    assert!(config.kubernetes);
    assert_eq!(config.settings.grace_seconds, 30);
    assert_eq!(config.settings.node_port_addresses.len(), 2);
}
