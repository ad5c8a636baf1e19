//! The Helm chart, rendered by Helm's own engine: the manifests of this repository are what it says, what it refuses it
//! refuses with a word, and the settings that it writes are ones that the agent takes. Needs no root.
//! `PORTCULLIS_WRITE_DOCS=1` writes the manifests again.

use std::{collections::BTreeSet, env, fs};

use portcullis::{config, crd};
use serde_json::Value;
use tests::{
    helm::{Helm, chart},
    pod::manifests,
};

/// File, and the values that it is rendered with.
const RENDERED: [(&str, &[&str]); 2] = [
    ("portcullis.yaml", &["namespace.create=true"]),
    ("portcullis-detach.yaml", &["namespace.create=true", "mode=detach"]),
];
const NOTE: &str = "# Rendered from packaging/chart. `PORTCULLIS_WRITE_DOCS=1 cargo test -p tests --test chart` writes it again.\n";

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or(&Value::Null)
}

fn container(objects: &[Value]) -> &Value {
    &find(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn the_manifests_are_what_the_chart_says() {
    let Some(helm) = Helm::find("the_manifests_are_what_the_chart_says") else { return };
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
    let Some(helm) = Helm::find("mistakes_are_refused") else { return };
    for (value, reason) in [
        ("mode=off", "mode"),
        ("image.digest=sha256:abc", "digest"),
        ("settings.grcae=1s", "grcae"),
        ("settings.pinDir=/x", "pinDir"),
        ("capabilities={BPF,SYS_ADMIN}", "capabilities"),
        ("extraCapabilities={CAP_SYS_RESOURCE}", "extraCapabilities"),
        ("toleration=x", "toleration"),
        ("admission.policies=refuse", "policies"),
        ("serviceAccount.name=it's", "serviceAccount"),
        ("http.port=0", "port"),
        ("serviceMonitor.enabled=true", "set http.address"),
    ] {
        let (done, _, error) = helm.template(&[value]).unwrap();
        assert!(!done && error.contains(reason), "--set {value}: {error}");
    }
}

#[test]
fn values_reach_the_pod() {
    let Some(helm) = Helm::find("values_reach_the_pod") else { return };
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

    let Some(helm) = Helm::find("the_settings_are_the_agents") else { return };
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

fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    of_kind.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

const POLICY: &str = "ValidatingAdmissionPolicy";
const BINDING: &str = "ValidatingAdmissionPolicyBinding";

/// The admission policies are those of the program, with bindings that refuse where the definitions are ours alone, and
/// never more than the server knows.
#[test]
fn admission_policies_come_with_the_chart() {
    let Some(mut helm) = Helm::find("admission_policies_come_with_the_chart") else { return };
    let [(_, policies), (_, deny), (_, warn)] = crd::admission();
    let ours = |objects: Vec<Value>| -> Vec<Value> {
        let own = |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/part-of"] == "portcullis";
        let is_admission = |object: &Value| object["kind"] == POLICY || object["kind"] == BINDING;
        objects.into_iter().filter(|object| is_admission(object) && own(object)).collect()
    };
    let both = |bindings: &[Value]| [policies.clone(), bindings.to_vec()].concat();
    let no_calico = "crds.calico=true";
    for (values, wanted) in [
        (&[][..], both(&warn)),
        (&[no_calico][..], both(&deny)),
        (&["admission.policies=deny"][..], both(&deny)),
        (&[no_calico, "admission.policies=warn"][..], both(&warn)),
        (&[no_calico, "admission.policies=off"][..], Vec::new()),
        (&[no_calico, "mode=detach"][..], Vec::new()),
        // Values of a release that was made by an older chart.
        (&["admission=null"][..], both(&warn)),
    ] {
        let got = ours(helm.objects(values).unwrap());
        // Helm sorts by kind and name.
        let key = |object: &Value| format!("{}{}", object["kind"], object["metadata"]["name"]);
        let sorted = |mut objects: Vec<Value>| {
            objects.sort_by_key(key);
            objects
        };
        assert!(sorted(got.clone()) == sorted(wanted), "{values:?}: {:?}", names(&got, BINDING));
    }
    for (version, count) in [("1.29.9", 0), ("1.30.0", 2), ("1.31.0", policies.len() + 2)] {
        helm.kubernetes = version;
        assert_eq!(names(&helm.objects(&[]).unwrap(), POLICY).len(), count, "Kubernetes {version}");
    }
    helm.kubernetes = "1.30.0";
    let (done, _, error) = helm.template(&["admission.policies=deny"]).unwrap();
    assert!(!done && error.contains("needs Kubernetes 1.31"), "{error}");
}

/// Each agent is tied to its node by the name that its service account has in this release, and no other release's names
/// are used.
#[test]
fn an_agent_of_any_release_is_tied_to_its_node() {
    let Some(mut helm) = Helm::find("an_agent_of_any_release_is_tied_to_its_node") else { return };
    (helm.release, helm.namespace) = ("fw", "security");
    for (account, values) in [
        ("fw", &["admission.policies=off"][..]),
        ("guard", &["admission.policies=off", "serviceAccount.name=guard"]),
    ] {
        let objects = helm.objects(values).unwrap();
        let wanted = ["fw-own-node-status", "fw-own-events"];
        assert_eq!(names(&objects, POLICY), wanted);
        assert_eq!(names(&objects, BINDING), wanted);
        for object in objects.iter().filter(|object| object["kind"] == POLICY) {
            let condition = object["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
            let user = format!("'system:serviceaccount:security:{account}'");
            assert_eq!(condition, format!("request.userInfo.username == {user}"));
        }
        for object in objects.iter().filter(|object| object["kind"] == BINDING) {
            assert_eq!(object["spec"]["policyName"], object["metadata"]["name"]);
        }
        // The account of the condition is the one that the pods have.
        let pod = &find(&objects, "DaemonSet")["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], account);
    }
    let off = helm.objects(&["admission.policies=off", "admission.ownNodeOnly=false"]).unwrap();
    assert_eq!(names(&off, POLICY).len(), 0);
}
