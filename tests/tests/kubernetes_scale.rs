//! Many objects, broken ones among them, and a history that the store has forgotten.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use portcullis::resource::Kind;
use serde_json::{Value, json};
use tests::{
    kubernetes::{
        Cluster, V3,
        case::{Case, answer, run},
    },
    netns::Netns,
    probe::Got,
    process::Agent,
    topology::{FAR_NODE_PORT, NODE, OUTSIDE, POD_SAYS, policies},
};

const POLICIES: usize = 1000;
/// From the agent's start to all of them in force.
const TO_SYNC: Duration = Duration::from_secs(120);
/// From one change to its effect.
const TO_CHANGE: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(90);

fn policy(number: usize) -> Value {
    // One in ten selects this node's endpoint.
    let selector = match number % 10 {
        0 => "has(kubernetes-host)".to_owned(),
        _ => format!("role == 'r{}'", number % 97),
    };
    json!({
        "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": format!("many-{number:04}")},
        "spec": {"order": 100 + number, "selector": selector, "ingress": [{
            "action": "Allow", "protocol": "TCP",
            "source": {"nets": [format!("10.{}.{}.0/24", number / 250, number % 250)]},
            "destination": {"ports": [10_000 + number]},
        }]},
    })
}

/// One of each kind, with the wrong type where it hurts.
fn broken() -> Vec<Value> {
    let object = |kind: &str, spec: Value| {
        let name = if kind.ends_with("Configuration") { "default" } else { "broken" };
        json!({"apiVersion": V3, "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    vec![
        object("GlobalNetworkPolicy", json!({"selector": 5, "ingress": {"action": "Allow"}})),
        object("StagedGlobalNetworkPolicy", json!("everything")),
        object("Tier", json!([1, 2])),
        object("HostEndpoint", json!({"node": ["node1"], "interfaceName": 7})),
        object("GlobalNetworkSet", json!({"nets": {"a": "b"}})),
        object("FelixConfiguration", json!({"failsafeInboundHostPorts": "none"})),
        object("KubeControllersConfiguration", json!(true)),
    ]
}

/// The place at which the agent complains of an object.
fn place(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("{V3}/{plural}/{}", object["metadata"]["name"].as_str().unwrap_or_default())
}

fn complains_of(status: &Value, objects: &[Value]) -> bool {
    let errors: String = status["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|problem| problem["severity"] == "error")
        .map(Value::to_string)
        .collect();
    objects.iter().all(|object| errors.contains(&place(object)))
}

/// The agent's watches become exactly these, each open once; `opened`: how often each was, from the start.
fn watches_become(case: &Case, agent: &Agent, pods: &[&str], opened: &[(&str, usize)]) -> Result<()> {
    let always = [
        "endpointslices",
        "felixconfigurations",
        "globalnetworkpolicies",
        "globalnetworksets",
        "hostendpoints",
        "kubecontrollersconfigurations",
        "namespaces",
        "networksets",
        "nodes",
        "services",
        "stagedglobalnetworkpolicies",
        "tiers",
    ];
    let name = |name: &&str| (*name).to_owned();
    let wanted: BTreeMap<String, usize> = always.iter().chain(pods).map(|n| (name(n), 1)).collect();
    let opened: BTreeMap<String, usize> = always
        .iter()
        .map(|n| (name(n), 1))
        .chain(opened.iter().map(|(n, times)| (name(n), *times)))
        .collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let found = case.cluster.watches()?;
        if found == (wanted.clone(), opened.clone()) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("open and opened: {found:#?}\nwanted: {wanted:#?} {opened:#?}\n{}", agent.log());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

const OWN_PODS: &str = "pods spec.nodeName%3Dnode1";

/// A thousand policies, some of them broken, one watch for each kind, and all pods only while a rule asks for them.
#[test]
fn a_thousand_policies_and_no_watch_too_many() {
    run("a_thousand_policies_and_no_watch_too_many", |case| {
        case.allow_the_agent()?;
        case.cluster.define(V3)?;
        let mut objects: Vec<Value> = (0..POLICIES).map(policy).collect();
        objects.extend(broken());
        case.cluster.create_all(&objects)?;
        // A server that has just learnt of a kind may refuse its first watch; of the others it has objects by now.
        case.cluster.request("GET", &format!("/apis/{V3}/networksets"), None)?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;

        // What is broken stands in the first list.
        let start = Instant::now();
        let agent = case.agent(&[])?;
        case.becomes(&Got::Silence, &agent)?;
        let status = case.status_becomes("in sync", &agent, |s| {
            s["kubernetes"]["inSync"] == true && complains_of(s, &broken())
        })?;
        assert!(start.elapsed() < TO_SYNC, "in sync after {:?}", start.elapsed());
        // Two of the NodePort policies, and the broken one.
        assert_eq!(status["kubernetes"]["watches"][format!("{V3} globalnetworkpolicies")], POLICIES + 3);
        let normal = status["endpoints"][0]["lists"].to_string().matches("GlobalNetworkPolicy/many-").count();
        assert_eq!(normal, POLICIES / 10, "{:#}", status["endpoints"]);
        watches_become(&case, &agent, &[OWN_PODS], &[(OWN_PODS, 1)])?;

        let start = Instant::now();
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        assert!(start.elapsed() < TO_CHANGE, "one change took {:?}", start.elapsed());
        // Its selector may mean pods of any node.
        let all = ["pods", "serviceaccounts"];
        watches_become(&case, &agent, &all, &[(OWN_PODS, 1), ("pods", 1), ("serviceaccounts", 1)])?;

        case.cluster.kubectl(&["delete", "globalnetworkpolicy.projectcalico.org", "allow-nodeport"], "")?;
        case.becomes(&Got::Silence, &agent)?;
        watches_become(&case, &agent, &[OWN_PODS], &[(OWN_PODS, 2), ("pods", 1), ("serviceaccounts", 1)])?;

        // What is broken comes in the watch: repaired and broken again, beside a change that is none of its.
        for object in broken() {
            let plural = place(&object);
            let path = format!("/apis/{plural}");
            assert_eq!(case.cluster.request("DELETE", &path, None)?.0, 200, "{plural}");
        }
        let errors = |s: &Value| {
            s["problems"]
                .as_array()
                .is_some_and(|all| all.iter().any(|problem| problem["severity"] == "error"))
        };
        case.status_becomes("well", &agent, |s| !errors(s))?;
        case.cluster.create_all(&broken())?;
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        case.status_becomes("complaining", &agent, |s| complains_of(s, &broken()))?;
        Ok(())
    });
}

/// Asks for a port all the time, without waiting for answers.
fn knock_at(netns: &Netns, port: u16, stop: &AtomicBool) -> Result<()> {
    let to = SocketAddr::new(NODE.into(), port);
    netns.run(|| {
        while !stop.load(Ordering::Relaxed) {
            // No answer is the expected one; what came through is seen in the node's conntrack.
            drop(TcpStream::connect_timeout(&to, Duration::from_millis(20)));
        }
    })
}

/// While the agent slept, policies changed and the store forgot how: they are read again as a whole (410 Gone), and
/// nothing is open meanwhile that was shut before and after.
#[test]
fn a_forgotten_history_is_read_again() {
    run("a_forgotten_history_is_read_again", |mut case| {
        case.allow_the_agent()?;
        case.cluster.define(V3)?;
        case.cluster.apply_all(&policies().join("nodeport/base"))?;
        case.cluster.apply_all(&policies().join("nodeport/pinhole"))?;
        let agent = case.agent(&[])?;
        case.in_sync(&agent)?;
        case.becomes(&answer(POD_SAYS), &agent)?;
        assert_eq!(case.lab.ask_node_port(&case.lab.peer)?, answer(POD_SAYS), "{}", agent.log());
        case.lab.flush_conntrack()?;

        let stop = AtomicBool::new(false);
        let (cluster, outside) = (&mut case.cluster, &case.lab.outside);
        thread::scope(|scope| -> Result<()> {
            let knocking = scope.spawn(|| knock_at(outside, FAR_NODE_PORT, &stop));
            let done =
                change_unseen(cluster, &agent).and_then(|()| await_log(&agent, "they are listed again"));
            stop.store(true, Ordering::Relaxed);
            knocking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            done
        })?;
        // What was deleted is gone, what was changed counts, and nobody came in anywhere else.
        case.becomes(&Got::Silence, &agent)?;
        case.says(&Got::Silence, &agent, || case.lab.ask_node_port(&case.lab.peer))?;
        assert_eq!(case.lab.conntrack(OUTSIDE, FAR_NODE_PORT)?, Vec::<String>::new(), "{}", agent.log());
        // That the store compacts is no trouble.
        let status = case.in_sync(&agent)?;
        assert_eq!(status["trouble"], json!({}), "{status:#}");
        Ok(())
    });
}

/// The agent sleeps; its watches end, as they do every few minutes; policies change; the store forgets how.
fn change_unseen(cluster: &mut Cluster, agent: &Agent) -> Result<()> {
    agent.freeze(true)?;
    cluster.stop_api()?;
    cluster.up()?;
    cluster.delete(V3, Kind::GlobalNetworkPolicy, "allow-nodeport")?;
    cluster.apply_value(&json!({
        "apiVersion": V3, "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "allow-cluster-internal-ingress-only"},
        "spec": {
            "order": 20, "preDNAT": true, "applyOnForward": true, "selector": "has(kubernetes-host)",
            "ingress": [{"action": "Allow", "source": {"nets": ["5.6.0.0/16"]}}, {"action": "Deny"}],
        },
    }))?;
    cluster.compact()?;
    agent.freeze(false)
}

fn await_log(agent: &Agent, words: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !agent.log().contains(words) {
        if Instant::now() > end {
            bail!("never {words:?}: {}", agent.log());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
