//! The agent with a real API server: what it follows, and what it does when the server is gone or is another one.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use portcullis::resource::Kind;
use serde_json::{Value, json};
use tests::{
    kubernetes::{
        STORAGE, V3,
        case::{answer, run},
    },
    probe::{Got, ask},
    topology::{NODE, NODE_PORT, NODE_SAYS, OUTSIDE, POD_SAYS, policies},
};

/// Policies come and go through the API, drops come before DNAT, and one bad object does not hold back the others.
#[test]
fn policies_of_the_api_are_followed() {
    run("policies_of_the_api_are_followed", |case| {
        // The agent is there before it may read, and before there is anything of Calico's.
        let agent = case.agent(&[])?;
        case.status_becomes("refused", &agent, |s| s["trouble"].to_string().contains("forbidden"))?;
        let status = case.home.status()?;
        assert_eq!(status["generation"], 0, "{status:#}");
        assert!(status["trouble"]["source"].is_string(), "{status:#}");
        case.allow_the_agent()?;
        case.status_becomes("without Calico", &agent, |s| s["trouble"]["custom resources"].is_string())?;

        case.cluster.define_ours()?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        case.becomes(&Got::Silence, &agent)?;
        case.lab.flush_conntrack()?;
        assert_eq!(case.node_port()?, Got::Silence);
        assert_eq!(case.lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new(), "dropped before DNAT");
        assert_eq!(case.lab.ask_node_port(&case.lab.peer)?, answer(POD_SAYS), "{}", agent.log());
        case.in_sync(&agent)?;

        // One with a misspelt field, which our definition keeps for the agent to see, and a good one, at once.
        case.cluster.apply_value(&json!({
            "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "bad"},
            "spec": {"selector": "all()", "ordr": 1, "ingress": [{"action": "Allow"}]},
        }))?;
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        let bad = "kubernetes:projectcalico.org/v3/globalnetworkpolicies/bad";
        case.status_becomes("complaining", &agent, |s| s["problems"].to_string().contains(bad))?;
        case.cluster.delete(V3, Kind::GlobalNetworkPolicy, "bad")?;
        case.status_becomes("well", &agent, |s| !s["problems"].to_string().contains(bad))?;

        case.cluster.delete(V3, Kind::GlobalNetworkPolicy, "allow-nodeport")?;
        case.becomes(&Got::Silence, &agent)
    });
}

/// The role is exactly sufficient: nothing is refused, and nothing is allowed that the agent does not ask for.
#[test]
fn the_cluster_role_is_exactly_sufficient() {
    run("the_cluster_role_is_exactly_sufficient", |case| {
        case.allow_the_agent()?;
        case.cluster.define(V3)?;
        case.cluster.define(STORAGE)?;
        let kind = policies().join("../packaging/crds/nodepolicystatuses.portcullis.dev.yaml");
        case.cluster.apply(&fs::read_to_string(kind)?)?;
        // One that it refuses is worth an Event.
        case.cluster.apply_value(&json!({
            "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "bad"}, "spec": {"order": "first"},
        }))?;
        // A rule that selects peers: from now on all pods and service accounts are looked at.
        case.cluster.apply_value(&json!({
            "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "pods"},
            "spec": {"selector": "all()", "ingress": [{"action": "Allow", "source": {"selector": "app == 'web'"}}]},
        }))?;
        let agent = case.agent(&[])?;
        case.status_becomes("with pods", &agent, |s| {
            s["kubernetes"]["inSync"] == true && s["kubernetes"]["watches"]["v1 serviceaccounts"].is_number()
        })?;
        case.status_becomes("reported", &agent, |s| s["kubernetes"]["report"]["current"] == true)?;
        // The older group is asked where it is the only one.
        for kind in ["hostendpoints", "globalnetworkpolicies", "stagedglobalnetworkpolicies", "tiers"]
            .into_iter()
            .chain([
                "globalnetworksets",
                "networksets",
                "felixconfigurations",
                "kubecontrollersconfigurations",
            ])
        {
            let path =
                format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.projectcalico.org");
            assert_eq!(case.cluster.request("DELETE", &path, None)?.0, 200);
        }
        drop(agent);
        fs::remove_file(case.home.state_dir().join("last-good.json"))?;
        let agent = case.agent(&[])?;
        case.status_becomes("in the older group", &agent, |s| {
            s["kubernetes"]["inSync"] == true
                && s["kubernetes"]["watches"]["crd.projectcalico.org/v1 tiers"].is_number()
        })?;

        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/portcullis";
        let role = case.cluster.request("GET", role, None)?.1;
        // What is written to the cluster may come later than what is read from it.
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (asked, refused) = case.cluster.audit()?;
            assert_eq!(refused, BTreeSet::new());
            let mut surplus = granted(&role);
            surplus.retain(|right| !asked.contains(right));
            // This server streams its lists; one before Kubernetes 1.32 is asked for them.
            surplus.retain(|right| !right.starts_with("list "));
            // A patch that creates needs both, and is logged as a patch: node_status.rs shows that it is needed.
            surplus.retain(|right| right != "create portcullis.dev/nodepolicystatuses");
            if surplus.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "never asked for: {surplus:#?}; asked: {asked:#?}");
            thread::sleep(Duration::from_millis(200));
        }
    });
}

/// `verb group/resource` of a role.
fn granted(role: &Value) -> BTreeSet<String> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                rights.extend(words(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    rights
}

/// As calicoctl writes it: labels in an annotation, a prefix before the names of policies.
#[test]
fn the_storage_form_means_the_same() {
    run("the_storage_form_means_the_same", |mut case| {
        case.allow_the_agent()?;
        case.cluster.define(STORAGE)?;
        let agent = case.agent(&[])?;
        let labels = json!({"labels": {"kubernetes-host": "ingress"}}).to_string();
        case.cluster.apply_value(&json!({
            "apiVersion": STORAGE, "kind": "HostEndpoint",
            "metadata": {"name": "node1-eth0", "annotations": {"projectcalico.org/metadata": labels}},
            "spec": {"interfaceName": "eth0", "node": "node1", "expectedIPs": ["10.240.0.11"]},
        }))?;
        case.cluster.apply_value(&json!({
            "apiVersion": STORAGE, "kind": "GlobalNetworkPolicy", "metadata": {"name": "default.shut"},
            "spec": {
                "tier": "default", "order": 10, "preDNAT": true, "applyOnForward": true, "types": ["Ingress"],
                "selector": "kubernetes-host == 'ingress'",
                "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [8080]}}, {"action": "Deny"}],
            },
        }))?;
        case.becomes(&Got::Silence, &agent)?;
        let status = case.in_sync(&agent)?;
        let lists = status["endpoints"][0]["lists"]["PreDnat"].to_string();
        assert!(lists.contains("GlobalNetworkPolicy/shut"), "{status:#}");
        assert_eq!(status["problems"], json!([]), "{status:#}");

        // The newer group comes, and is empty: a copy is about to be made, nothing was deleted.
        case.cluster.define(V3)?;
        case.cluster.kill_api()?;
        case.cluster.up()?;
        let not_there = |s: &Value| {
            s["trouble"]["kind HostEndpoint"]
                .to_string()
                .contains("projectcalico.org/v3 serves it now, and 1 objects")
        };
        case.status_becomes("held", &agent, not_there)?;
        assert_eq!(case.node_port()?, Got::Silence, "{}", agent.log());
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        case.cluster.apply_value(&json!({
            "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "shut"}, "spec": {"selector": "!all()"},
        }))?;
        let status = case.in_sync(&agent)?;
        assert_eq!(status["kubernetes"]["watches"]["crd.projectcalico.org/v1 hostendpoints"], Value::Null);
        case.says(&answer(POD_SAYS), &agent, || case.lab.ask_node_port(&case.lab.peer))?;
        assert_eq!(case.node_port()?, Got::Silence, "{}", agent.log());
        Ok(())
    });
}

/// The API server dies, comes back, and comes back as another one.
#[test]
fn what_is_in_force_survives_the_api_server() {
    run("what_is_in_force_survives_the_api_server", |mut case| {
        case.allow_the_agent()?;
        case.cluster.define(V3)?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        let agent = case.agent(&[])?;
        case.becomes(&Got::Silence, &agent)?;
        let first = case.in_sync(&agent)?;

        case.cluster.kill_api()?;
        let gone = |s: &Value| s["trouble"]["kubernetes"].to_string().contains("cannot be followed since");
        let status = case.status_becomes("without the API", &agent, gone)?;
        assert!(status["kubernetes"]["staleSince"].is_number(), "{status:#}");
        assert_eq!(status["health"], "degraded");
        assert_eq!(case.node_port()?, Got::Silence);
        // A start without it: the last good state.
        agent.kill_9()?;
        let mut agent = case.agent(&[])?;
        agent.next_generation()?;
        assert_eq!(case.node_port()?, Got::Silence, "{}", agent.log());
        let status = case.status_becomes("without the API", &agent, gone)?;
        assert!(status["trouble"]["first look at the cluster"].is_string(), "{status:#}");

        case.cluster.up()?;
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        case.status_becomes("followed again", &agent, |s| s["kubernetes"]["inSync"] == true)?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        case.cluster.delete(V3, Kind::GlobalNetworkPolicy, "allow-nodeport")?;
        case.becomes(&Got::Silence, &agent)?;

        // Nobody deleted a policy: the store is another one.
        case.cluster.wipe()?;
        case.cluster.up()?;
        case.allow_the_agent()?;
        let other = |s: &Value| s["trouble"]["cluster"].to_string().contains("another cluster answers");
        let status = case.status_becomes("warned of another cluster", &agent, other)?;
        assert_eq!(status["kubernetes"]["cluster"], first["kubernetes"]["cluster"]);
        assert_eq!(case.node_port()?, Got::Silence, "{}", agent.log());
        assert_eq!(ask(&case.lab.outside, NODE, 8080)?, Got::Silence);
        // It takes a host endpoint of its own to be believed.
        case.cluster.define(V3)?;
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        case.status_becomes("following the new cluster", &agent, |s| {
            s["kubernetes"]["inSync"] == true && s["kubernetes"]["cluster"] != first["kubernetes"]["cluster"]
        })?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        assert_eq!(ask(&case.lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());

        // An administrator may say that the empty one is meant.
        case.cluster.wipe()?;
        case.cluster.up()?;
        case.allow_the_agent()?;
        case.cluster.define(V3)?;
        agent.kill_9()?;
        let agent = case.agent(&["--accept-new-cluster"])?;
        case.in_sync(&agent)?;
        assert_eq!(ask(&case.lab.outside, NODE, 8080)?, answer(NODE_SAYS), "{}", agent.log());
        Ok(())
    });
}
