//! The whole of it without a server: facts → report and announcements, and the task against a mocked API.

mod announced;
mod mocked;
mod reported;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::facts::{Applied, Facts, ObjectFacts};
use crate::policy::{Problem, Severity};
use crate::resource::{Kind, ObjectKey};
use crate::state::tests::state;
use crate::state::{EndpointState, KubernetesState, State};

/// As the API gives an object.
fn object(kind: &str, name: &str, generation: i64) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": {"name": name, "uid": format!("uid-of-{name}"), "generation": generation},
    })
}

fn error(path: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        file: "kubernetes:projectcalico.org/v3/globalnetworkpolicies/bad".into(),
        line: 0,
        object: "GlobalNetworkPolicy/bad".into(),
        path: path.into(),
        value: "all(".into(),
        message: "a bracket is missing; write `all()`".into(),
    }
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "", name)
}

fn policy(name: &str, generation: i64) -> ObjectFacts {
    let value = object("GlobalNetworkPolicy", name, generation);
    ObjectFacts::new(key(Kind::GlobalNetworkPolicy, name), Some(&value), None, &[], None)
}

fn rejected(name: &str, generation: i64) -> ObjectFacts {
    let value = object("GlobalNetworkPolicy", name, generation);
    let errors = [error("spec.selector"), error("spec.ingress[0].source.selector")];
    ObjectFacts::new(key(Kind::GlobalNetworkPolicy, name), None, Some(&value), &errors, None)
}

/// One governed device, in sync with a cluster of one node, and these objects, all of which are in force.
fn facts(objects: Vec<ObjectFacts>) -> Facts {
    let lists = objects.iter().filter(|o| o.key.kind == Kind::GlobalNetworkPolicy && o.accepted.is_some());
    let list: Vec<String> = lists.map(|o| o.key.to_string()).collect();
    let kubernetes = KubernetesState {
        cluster: Some("uid-of-cluster".into()),
        in_sync: true,
        watches: BTreeMap::from([("v1 nodes".into(), 1), ("v1 pods".into(), 7)]),
        ..KubernetesState::default()
    };
    let state = State {
        kubernetes: Some(kubernetes),
        since: 1_800_000_000,
        endpoints: vec![EndpointState {
            name: "node1-eth0".into(),
            devices: BTreeSet::from(["eth0".into()]),
            lists: BTreeMap::from([("NormalIngress".into(), list)]),
        }],
        ..state()
    };
    let versions = objects.iter().filter(|o| o.accepted.is_some()).map(|o| (o.key.clone(), o.accepted));
    let applied = Applied { versions: versions.collect(), hash: "00000000000000aa".into() };
    let mut facts = Facts::new(state);
    facts.applied = Some(applied);
    facts.objects = objects;
    facts.node_uid = Some("uid-of-node".into());
    facts
}
