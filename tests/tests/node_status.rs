//! What a node says about itself to a real API server: its NodePolicyStatus and Events. Takes half a minute.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use portcullis::{
    kubernetes::report::{
        build::{Hooks, report},
        facts::{Facts, ObjectFacts},
        limits::MAX_REPORT_BYTES,
    },
    resource::{Kind, ObjectKey},
    state::State,
};
use serde_json::{Value, json};
use tests::{
    kubernetes::{
        V3,
        case::{Case, run},
    },
    probe::Got,
    process::Agent,
    topology::policies,
};

const PATIENCE: Duration = Duration::from_secs(120);
const STATUS: &str = "/apis/portcullis.dev/v1alpha1/nodepolicystatuses";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn manifest(name: &str) -> Result<String> {
    let path = policies().join("../packaging").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

/// What these tests ask of a node that has an API server.
trait Reports {
    fn install(&self) -> Result<()>;
    fn report(&self, what: &str, agent: &Agent, wanted: impl Fn(&Value) -> bool) -> Result<Value>;
    fn generation(&self, name: &str) -> Result<i64>;
    fn events(&self, kind: &str, name: &str) -> Result<Vec<String>>;
    fn events_become(&self, kind: &str, name: &str, wanted: &[&str]) -> Result<()> {
        self.events_are(kind, name, wanted, |got| got == wanted)
    }
    fn events_hold(&self, kind: &str, name: &str, wanted: &str) -> Result<()> {
        self.events_are(kind, name, &[wanted], |got| got.iter().any(|reason| reason == wanted))
    }
    fn events_are(
        &self,
        kind: &str,
        name: &str,
        wanted: &[&str],
        holds: impl Fn(&[String]) -> bool,
    ) -> Result<()>;
}

impl Reports for Case {
    fn install(&self) -> Result<()> {
        self.allow_the_agent()?;
        self.cluster.apply(&manifest("crds/nodepolicystatuses.portcullis.dev.yaml")?)?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}});
        self.cluster.apply_value(&node)
    }

    /// The node's report, once it is as wanted.
    fn report(&self, what: &str, agent: &Agent, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, object) = self.cluster.request("GET", &format!("{STATUS}/node1"), None)?;
            if code == 200 && wanted(&object["status"]) {
                return Ok(object);
            }
            if Instant::now() > end {
                bail!("not {what}: {code} {object:#}\n{:#}\n{}", self.home.status()?, agent.log());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn generation(&self, name: &str) -> Result<i64> {
        let path = format!("/apis/{V3}/globalnetworkpolicies/{name}");
        self.cluster.request("GET", &path, None)?.1["metadata"]["generation"]
            .as_i64()
            .context("no generation")
    }

    /// Reasons of the Events about an object, oldest first.
    fn events(&self, kind: &str, name: &str) -> Result<Vec<String>> {
        let mut events: Vec<Value> = self.cluster.request("GET", EVENTS, None)?.1["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|e| e["regarding"]["kind"] == kind && e["regarding"]["name"] == name)
            .cloned()
            .collect();
        events.sort_by_key(|e| e["eventTime"].to_string());
        Ok(events.iter().map(|e| e["reason"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn events_are(
        &self,
        kind: &str,
        name: &str,
        wanted: &[&str],
        holds: impl Fn(&[String]) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = self.events(kind, name)?;
            if holds(&got) {
                return Ok(());
            }
            if Instant::now() > end {
                let events = self.cluster.request("GET", EVENTS, None)?.1;
                bail!("Events about {kind} {name}: {got:?} and not {wanted:?}: {events:#}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    let conditions = status["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|c| c["type"] == type_)).unwrap_or(&Value::Null)
}

fn is(status: &Value, type_: &str, wanted: &str) -> bool {
    condition(status, type_)["status"] == wanted
}

fn of_policy<'a>(status: &'a Value, name: &str) -> &'a Value {
    let policies = status["policies"].as_array();
    policies.and_then(|all| all.iter().find(|p| p["name"] == name)).unwrap_or(&Value::Null)
}

#[test]
fn what_a_node_enforces_is_seen_in_the_cluster() {
    run("what_a_node_enforces_is_seen_in_the_cluster", |mut case| {
        case.install()?;
        case.cluster.define(V3)?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        let agent = case.agent(&[])?;

        let object = case.report("programmed", &agent, |s| is(s, "Ready", "True"))?;
        let status = &object["status"];
        let name = "allow-cluster-internal-ingress-only";
        assert!(is(status, "Programmed", "True") && is(status, "Degraded", "False"), "{status:#}");
        assert_eq!(of_policy(status, name)["observedGeneration"], case.generation(name)?, "{status:#}");
        assert_eq!(of_policy(status, name)["state"], "Active");
        let eth0 = &status["devices"][0];
        assert_eq!((&eth0["name"], &eth0["state"]), (&json!("eth0"), &json!("Governed")), "{status:#}");
        assert_eq!(eth0["hooks"][0], json!({"hook": "ingress", "position": 1, "chain": ["portcullis"]}));
        let node = case.cluster.request("GET", "/api/v1/nodes/node1", None)?.1;
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"], "{object:#}");
        let manager = &object["metadata"]["managedFields"][0];
        assert_eq!((&manager["manager"], &manager["operation"]), (&json!("portcullis"), &json!("Apply")));
        let local = case.home.status()?;
        assert_eq!(local["kubernetes"]["report"]["current"], true, "{local:#}");

        // A bad policy comes, then a good one of its name, then a bad one.
        case.cluster.apply_value(&policy("web", json!({"selector": "all(", "order": "first"})))?;
        let object = case.report("rejecting", &agent, |s| of_policy(s, "web")["state"] == "Rejected")?;
        let web = of_policy(&object["status"], "web");
        let errors = web["errors"].to_string();
        assert!(errors.contains("spec.selector") && errors.contains("spec.order"), "{web:#}");
        assert_eq!(condition(&object["status"], "Degraded")["reason"], "InvalidSelector");
        assert!(is(&object["status"], "Ready", "True"), "{object:#}");
        case.events_become("GlobalNetworkPolicy", "web", &["ObjectRejected"])?;

        let good =
            json!({"selector": "all()", "order": 500, "types": ["Egress"], "egress": [{"action": "Allow"}]});
        case.cluster.apply_value(&policy("web", good))?;
        let object = case.report("recovered", &agent, |s| of_policy(s, "web")["state"] == "Active")?;
        let accepted = case.generation("web")?;
        assert_eq!(of_policy(&object["status"], "web")["observedGeneration"], accepted);
        assert!(is(&object["status"], "Degraded", "False"), "{object:#}");
        case.events_become("GlobalNetworkPolicy", "web", &["ObjectRejected", "ObjectAccepted"])?;

        case.cluster.apply_value(&policy("web", json!({"selector": "all()", "order": "last"})))?;
        let object = case.report("keeping", &agent, |s| of_policy(s, "web")["state"] == "KeptLastGood")?;
        let web = of_policy(&object["status"], "web");
        assert_eq!(web["observedGeneration"], accepted, "{web:#}");
        assert_eq!(web["latestGeneration"], case.generation("web")?, "{web:#}");
        let told = ["ObjectRejected", "ObjectAccepted", "ObjectRejected"];
        case.events_become("GlobalNetworkPolicy", "web", &told)?;

        // The next agent neither says it again nor forgets since when it is so.
        let times = |s: &Value| condition(s, "Degraded")["lastTransitionTime"].clone();
        let since = times(&object["status"]);
        agent.kill_9()?;
        let agent = case.agent(&[])?;
        let before = object["status"]["reportedAt"].clone();
        let object = case.report("written by the next agent", &agent, |s| {
            s["reportedAt"] != before && is(s, "Ready", "True")
        })?;
        assert_eq!(times(&object["status"]), since, "{object:#}");

        // Without the API server nothing changes but what the node itself says of it.
        case.cluster.kill_api()?;
        case.home.await_status("unreported", |s| s["trouble"]["kubernetes"].is_string())?;
        assert_eq!(case.lab.ask_node_port(&case.lab.outside)?, Got::Silence);
        case.cluster.up()?;
        case.cluster.delete(V3, Kind::GlobalNetworkPolicy, "web")?;
        let object = case
            .report("written again", &agent, |s| of_policy(s, "web").is_null() && is(s, "Ready", "True"))?;
        assert!(is(&object["status"], "Degraded", "False"), "{object:#}");
        assert_eq!(case.events("GlobalNetworkPolicy", "web")?, told);

        // Somebody takes a pin away.
        let pin = fs::read_dir(case.home.pin_dir().join("links"))?.next().context("no pin")??.path();
        fs::remove_file(pin)?;
        // An API server that was away for long is told of the node too.
        case.events_hold("Node", "node1", "ProgramsTakenAway")?;

        let is_current = |s: &Value| {
            s["kubernetes"]["report"]["written"].is_number() && s["kubernetes"]["report"]["current"] == true
        };
        let end = Instant::now() + PATIENCE;
        loop {
            case.status_becomes("reported", &agent, is_current)?;
            let page = case.home.portcullis(&case.lab.node, &["status"])?.stdout;
            if page.contains("nodepolicystatus/node1: current") {
                break;
            }
            assert!(Instant::now() < end, "{page}");
        }
        largest_is_taken(&case)?;
        agent.stop()?;
        let (_, object) = case.cluster.request("GET", &format!("{STATUS}/node1"), None)?;
        assert_eq!(condition(&object["status"], "Ready")["reason"], "AgentStopped", "{object:#}");
        assert!(is(&object["status"], "Programmed", "True"), "{object:#}");
        Ok(())
    });
}

/// The strict schema and etcd take a report of a thousand policies, and one as large as they come.
fn largest_is_taken(case: &Case) -> Result<()> {
    let state = State::load(case.home.state_dir())?;
    let facts_of = |count: usize, errors: usize| {
        let mut facts = Facts::new(state.clone());
        facts.objects = (0..count)
            .map(|n| {
                let name = format!("policy-{n:04}");
                let value =
                    json!({"apiVersion": V3, "metadata": {"name": name, "uid": "u", "generation": 7}});
                let key = ObjectKey::new(Kind::GlobalNetworkPolicy, "", &name);
                let object = ObjectFacts::new(key, Some(&value), None, &[], Some(1));
                ObjectFacts { errors: vec!["é".repeat(600); errors], ..object }
            })
            .collect();
        facts
    };
    for (name, count, errors, cut) in [("large", 1000, 0, false), ("largest", 3000, 20, true)] {
        let report = report(&facts_of(count, errors), &Hooks::new(), None, 1_800_000_000, MAX_REPORT_BYTES);
        let object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyStatus", "metadata": {"name": name},
            "status": report,
        });
        let size = object.to_string().len();
        assert!(if cut { size > MAX_REPORT_BYTES - 10_000 } else { size < 200_000 }, "{size}");
        let path = format!("{STATUS}/{name}?fieldManager=portcullis&force=true&fieldValidation=Strict");
        let (code, answer) = case.cluster.request("PATCH", &path, Some(&object))?;
        assert_eq!(code, 201, "{answer:#}");
        let policies = answer["status"]["policies"].as_array().map_or(0, Vec::len);
        assert_eq!(policies == count, !cut, "{policies}");
        // What is not in the schema is no part of it.
        let mut odd = object.clone();
        odd["status"]["surprise"] = json!(1);
        assert_ne!(case.cluster.request("PATCH", &path, Some(&odd))?.0, 200);
    }
    Ok(())
}

/// What an agent may do with its token, and what it may not.
#[test]
fn an_agent_writes_the_status_of_its_own_node_only() {
    run("an_agent_writes_the_status_of_its_own_node_only", |case| {
        case.install()?;
        case.cluster
            .apply_value(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2"}}))?;
        let token = |node| case.cluster.pod_token("portcullis", "portcullis", node);
        let (one, two) = (token("node1")?, token("node2")?);
        let write = |token: &str, name: &str| -> Result<(u16, Value)> {
            let object = json!({
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyStatus", "metadata": {"name": name},
                "status": {"source": {"inSync": true}},
            });
            let path = format!("{STATUS}/{name}?fieldManager=portcullis&force=true");
            case.cluster.request_as(token, "PATCH", &path, Some(&object))
        };
        // Without the policy any agent writes any node's, once the server knows role and kind.
        let end = Instant::now() + PATIENCE;
        loop {
            match write(&one, "node2")? {
                (201, _) => break,
                (code, answer) => assert!(Instant::now() < end, "{code} {answer:#}"),
            }
            thread::sleep(Duration::from_millis(100));
        }
        case.cluster.apply(&manifest("kubernetes/own-node-only.yaml")?)?;
        let end = Instant::now() + PATIENCE;
        let message = loop {
            match write(&one, "node2")? {
                (403, answer) => break answer["message"].to_string(),
                (code, answer) if Instant::now() > end => bail!("{code} {answer:#}"),
                _ => thread::sleep(Duration::from_millis(100)),
            }
        };
        assert!(message.contains("this is node2, and its token is of node node1"), "{message}");
        assert_eq!(write(&two, "node2")?.0, 200);
        assert_eq!(write(&one, "node1")?.0, 201);
        // The same service account with a token that no pod has.
        let (code, answer) = write("agent-token", "node1")?;
        assert_eq!(code, 403);
        assert!(answer["message"].to_string().contains("bound to no node"), "{answer:#}");

        let event = |token: &str, name: &str, controller: &str, node: &str| -> Result<u16> {
            let event = json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
                "reason": "Recovered", "action": "Enforce", "type": "Normal", "note": "test",
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "regarding": {"kind": "Node", "name": node, "uid": node},
                "reportingController": controller, "reportingInstance": node,
            });
            Ok(case.cluster.request_as(token, "POST", EVENTS, Some(&event))?.0)
        };
        let end = Instant::now() + PATIENCE;
        let mut number = 0;
        while event(&one, &format!("other-{number}"), "portcullis.dev/agent", "node2")? != 403 {
            assert!(Instant::now() < end, "an Event in another node's name");
            number += 1;
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(event(&one, "kubelet", "kubelet", "node1")?, 403);
        assert_eq!(event(&one, "own", "portcullis.dev/agent", "node1")?, 201);

        // Nothing else, and nothing less: each verb is needed.
        let get = |token: &str, path: &str| {
            Ok::<_, anyhow::Error>(case.cluster.request_as(token, "GET", path, None)?.0)
        };
        assert_eq!(get(&one, &format!("{STATUS}/node1"))?, 200);
        assert_eq!(get(&one, STATUS)?, 403, "no list");
        assert_eq!(get(&one, EVENTS)?, 403);
        let delete = case.cluster.request_as(&one, "DELETE", &format!("{STATUS}/node1"), None)?.0;
        assert_eq!(delete, 403);
        let role = manifest("kubernetes/rbac.yaml")?;
        let less = role.replace("verbs: [get, create, patch]", "verbs: [get, patch]");
        assert_ne!(role, less);
        case.cluster.apply(&less)?;
        assert_eq!(case.cluster.request("DELETE", &format!("{STATUS}/node1"), None)?.0, 200);
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, answer) = write(&one, "node1")?;
            if code == 403 {
                assert!(answer["message"].to_string().contains("cannot create"), "{answer:#}");
                break;
            }
            assert!(Instant::now() < end, "{code} {answer:#}");
            case.cluster.request("DELETE", &format!("{STATUS}/node1"), None)?;
        }
        assert_eq!(write(&two, "node2")?.0, 200, "what is there may be patched");
        Ok(())
    });
}
