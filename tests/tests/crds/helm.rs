//! What the chart installs, on a real API server: that its admission policies refuse what they must and stop nothing
//! else, and that Helm and `portcullis crds install` do not stand in each other's way.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{helm::Helm, kubernetes::Cluster};

use super::{PATIENCE, command, compare, defined, in_effect, object, remove_definitions, run};

const STATUS: &str = "/apis/portcullis.dev/v1alpha1/nodepolicystatuses";

/// A release whose names are not those of our own manifests.
fn release(test: &str) -> Option<Helm> {
    let mut helm = Helm::find(test)?;
    (helm.release, helm.namespace) = ("fw", "security");
    Some(helm)
}

fn install(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    // There is no kubelet, and a server that is asked for a pod each time anew is only slow.
    objects.iter().filter(|o| o["kind"] != "DaemonSet").try_for_each(|object| cluster.apply_value(object))
}

fn named(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
}

/// A policy with a field that nobody knows, which only an admission policy refuses.
fn misspelt(order: u32) -> Value {
    let mut policy = object("GlobalNetworkPolicy", "old", json!({"ordr": 1, "order": order}));
    policy["metadata"]["finalizers"] = json!(["example.org/wait"]);
    policy
}

/// The path of server-side apply.
fn applied(policy: &Value) -> String {
    compare::path(policy).replace("?dryRun=All&", "/old?fieldManager=lab&force=true&")
}

/// What an agent with this token writes of a node.
fn report(cluster: &Cluster, token: &str, node: &str) -> Result<(u16, Value)> {
    let object = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyStatus", "metadata": {"name": node},
        "status": {"source": {"inSync": true}},
    });
    let path = format!("{STATUS}/{node}?fieldManager=portcullis&force=true");
    cluster.request_as(token, "PATCH", &path, Some(&object))
}

/// Each agent writes the status of its own node alone, with the token that its pod has; policies that nobody can
/// understand are refused; and what was stored before is neither shut in nor in the way of an upgrade. Takes some 12 s.
#[test]
fn what_the_chart_installs_refuses_what_it_must() {
    run("what_the_chart_installs_refuses_what_it_must", |cluster, _| {
        let Some(helm) = release("what_the_chart_installs_refuses_what_it_must") else { return Ok(()) };
        for object in [named("Namespace", "security"), named("Node", "node1"), named("Node", "node2")] {
            cluster.apply_value(&object)?;
        }
        // As an earlier version without admission policies left the cluster.
        let account = "serviceAccount.name=guard";
        install(cluster, &helm.installed(&["crds.calico=true", "admission.policies=off", account])?)?;
        cluster.apply_value(&misspelt(1))?;
        let whole = helm.installed(&["crds.calico=true", account])?;
        install(cluster, &whole)?;
        in_effect(cluster)?;

        let own = cluster.pod_token("security", "guard", "node1")?;
        let end = Instant::now() + PATIENCE;
        while report(cluster, &own, "node2")?.0 != 403 {
            ensure!(Instant::now() < end, "an agent writes the status of another node");
            thread::sleep(Duration::from_millis(100));
        }
        let (code, said) = report(cluster, &own, "node1")?;
        ensure!(code == 201, "an agent cannot write its own status: {code} {said}");
        let loose = cluster.loose_token("security", "guard")?;
        let (code, said) = report(cluster, &loose, "node1")?;
        ensure!(code == 403 && said["message"].to_string().contains("bound to no node"), "{code} {said}");

        let good = object("GlobalNetworkPolicy", "new", json!({"selector": "has(a)", "order": 1}));
        cluster.apply_value(&good)?;
        stored_objects_are_not_shut_in(cluster)?;
        // The next upgrade.
        install(cluster, &whole)
    });
}

/// What only a newer admission policy refuses can still be labelled, copied and deleted, and is refused again as soon as
/// somebody changes it.
fn stored_objects_are_not_shut_in(cluster: &Cluster) -> Result<()> {
    let path = applied(&misspelt(1));
    let apply = |policy: &Value| cluster.request("PATCH", &path, Some(policy));
    let mut labelled = misspelt(1);
    labelled["metadata"]["labels"] = json!({"a": "b"});
    labelled["metadata"]["annotations"] = json!({"example.org/note": "c"});
    let (code, said) = apply(&labelled)?;
    ensure!(code == 200, "a label on what is stored: {code} {said}");
    let (code, said) = apply(&misspelt(2))?;
    ensure!(code == 422 && said["message"].to_string().contains("ordr"), "{code} {said}");
    let mut annotated = misspelt(1);
    annotated["metadata"]["annotations"] = json!({"portcullis.dev/on-policy-change": "keep"});
    let (code, said) = apply(&annotated)?;
    ensure!(code == 422, "an annotation of ours is a change: {code} {said}");

    let plain = path.split('?').next().context("a path")?;
    let (code, said) = cluster.request("DELETE", plain, None)?;
    ensure!(code == 200 && said["metadata"]["deletionTimestamp"].is_string(), "{code} {said}");
    let mut free = misspelt(1);
    free["metadata"]["finalizers"] = json!([]);
    let (code, said) = apply(&free)?;
    ensure!(code == 200, "the last finalizer cannot be taken off: {code} {said}");
    ensure!(cluster.request("GET", plain, None)?.0 == 404, "it is there still");
    Ok(())
}

/// Helm first, then the command: what Helm holds is left to it, and an older version of it is refused. (The other way
/// round is the chart's part: it asks the cluster, which Helm's engine alone cannot.)
#[test]
fn the_command_leaves_to_helm_what_is_helms() {
    run("the_command_leaves_to_helm_what_is_helms", |cluster, node| {
        let Some(helm) = release("the_command_leaves_to_helm_what_is_helms") else { return Ok(()) };
        cluster.apply_value(&named("Namespace", "security"))?;
        let kinds = helm.installed(&["crds.calico=true"])?;
        install(cluster, &kinds)?;
        in_effect(cluster)?;
        let before = defined(cluster)?;
        let (code, said) = command(cluster, node, &[])?;
        let held =
            "CustomResourceDefinition/tiers.projectcalico.org is there: of the Helm release security/fw";
        ensure!(code == 0 && said.contains(held), "{code} {said}");
        ensure!(said.lines().all(|line| line.ends_with("of the Helm release security/fw")), "{said}");
        ensure!(defined(cluster)? == before);

        // Another release of Portcullis than the program.
        let mut older = kinds
            .iter()
            .find(|o| o["metadata"]["name"] == "tiers.projectcalico.org")
            .context("no such kind")?
            .clone();
        older["spec"]["versions"][0]["additionalPrinterColumns"] = json!([]);
        cluster.apply_value(&older)?;
        let before = defined(cluster)?;
        let (code, said) = command(cluster, node, &[])?;
        ensure!(
            code == 1 && said.contains("of the Helm release security/fw, in another version"),
            "{code} {said}"
        );
        ensure!(said.contains("Nothing was written") && said.contains("helm upgrade"), "{said}");
        ensure!(defined(cluster)? == before);

        // Helm left Calico's kinds to the command, and installed the rest.
        remove_definitions(cluster)?;
        install(cluster, &helm.installed(&[])?)?;
        let (code, said) = command(cluster, node, &[])?;
        ensure!(code == 0, "{code} {said}");
        ensure!(
            said.lines().any(|line| line == "CustomResourceDefinition/tiers.projectcalico.org"),
            "{said}"
        );
        let held = "CustomResourceDefinition/nodepolicystatuses.portcullis.dev is there: of the Helm release";
        ensure!(said.contains(held), "{said}");
        in_effect(cluster)
    });
}
