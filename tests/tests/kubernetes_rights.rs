//! Every right of the role is needed: with one less, the agent names it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use portcullis::{
    kubernetes::{
        follow::{Account, Follower},
        plan::Needs,
    },
    resource::documents_from_str,
};
use serde_json::{Value, json};
use tests::{
    kubernetes::{
        STORAGE, V3,
        case::{Case, run},
    },
    topology::policies,
};

const PATIENCE: Duration = Duration::from_secs(120);
const CALICO: &str = "projectcalico.org";
/// Groups of what the agent writes.
const WRITTEN: [&str; 2] = ["portcullis.dev", "events.k8s.io"];

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq)]
struct Right {
    group: String,
    resource: String,
    verb: String,
    /// Objects that it is limited to.
    names: Value,
}

/// Of the role that we ship.
fn rights() -> Result<Vec<Right>> {
    let text = fs::read_to_string(policies().join("../packaging/kubernetes/rbac.yaml"))?;
    let (documents, problems) = documents_from_str("rbac.yaml", &text);
    assert!(problems.is_empty(), "{problems:?}");
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Vec::new();
    for rule in documents.iter().filter_map(|d| d.value["rules"].as_array()).flatten() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    let (group, resource) = (group.clone(), resource.clone());
                    rights.push(Right { group, resource, verb, names: rule["resourceNames"].clone() });
                }
            }
        }
    }
    Ok(rights)
}

/// A user with every right but one.
fn without(case: &Case, user: &str, rights: &[Right], missing: Option<&Right>) -> Result<()> {
    let rule = |right: &Right| {
        let mut rule =
            json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]});
        if !right.names.is_null() {
            rule["resourceNames"] = right.names.clone();
        }
        rule
    };
    let rules: Vec<Value> = rights.iter().filter(|right| Some(*right) != missing).map(rule).collect();
    let (group, version) = ("rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1");
    case.cluster.apply_value(&json!({
        "apiVersion": version, "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules,
    }))?;
    case.cluster.apply_value(&json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }))
}

/// What the agent would say with these rights, once it says all of `wanted`; the rest of the cluster is read.
fn is_missed(follower: &Follower, missing: Option<&Right>) -> Result<(), String> {
    let view = follower.view();
    let troubles = view.troubles();
    let waiting: Vec<String> = view
        .cluster
        .waiting()
        .iter()
        .map(|key| format!("{} {}", key.api_version, key.kind.plural()))
        .collect();
    let told = |words: &str| troubles.len() == 1 && troubles.values().all(|text| text.contains(words));
    let good = match missing {
        None => troubles.is_empty() && waiting.is_empty() && view.served().is_some(),
        Some(right) => {
            let words = format!("cannot {} resource \"{}\"", right.verb, right.resource);
            let place = format!(" {}", right.resource);
            let rest = right.verb == "get" || waiting.len() == 1 && waiting[0].ends_with(&place);
            told(&words) && rest
        }
    };
    if good { Ok(()) } else { Err(format!("{missing:?}: {troubles:#?}, not read: {waiting:?}")) }
}

/// Follows the cluster as many users at once, each of whom lacks another right.
fn each_is_missed(case: &Case, all: &[Right], tried: &[Option<&Right>]) -> Result<()> {
    let mut accounts = Vec::new();
    for (number, missing) in tried.iter().enumerate() {
        let user = format!("lacks-{number}");
        without(case, &user, all, *missing)?;
        accounts.push(case.cluster.kubeconfig_as(&user)?);
    }
    case.lab.node.run(|| -> Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let follow = |kubeconfig| {
                let account = Account { kubeconfig: Some(kubeconfig), context: None };
                Follower::start(account, "node1".into(), None, Needs { all_pods: true }, || {})
            };
            let followers: Vec<Follower> = accounts.into_iter().map(follow).collect();
            let end = Instant::now() + PATIENCE;
            for (follower, missing) in followers.iter().zip(tried) {
                while let Err(why) = is_missed(follower, *missing) {
                    if Instant::now() > end {
                        bail!("{why}");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Ok(())
        })
    })?
}

#[test]
fn every_right_is_missed_by_its_name() {
    run("every_right_is_missed_by_its_name", |case| {
        let all = rights()?;
        // What is written is another test's: node_status.rs.
        let all: Vec<Right> =
            all.into_iter().filter(|right| !WRITTEN.contains(&right.group.as_str())).collect();
        // A server of Kubernetes 1.32 or newer streams lists to those who may watch.
        let (lists, needed): (Vec<&Right>, Vec<&Right>) = all.iter().partition(|right| right.verb == "list");
        assert!(
            lists.len() + 1 == needed.len(),
            "each kind is listed and watched, and one namespace is read"
        );
        let (newer, other): (Vec<&Right>, Vec<&Right>) = needed.into_iter().partition(|r| r.group == CALICO);

        case.cluster.define(STORAGE)?;
        let other: Vec<Option<&Right>> = [None].into_iter().chain(other.into_iter().map(Some)).collect();
        each_is_missed(&case, &all, &other)?;
        // The older group is read only where there is no newer one.
        case.cluster.define(V3)?;
        let newer: Vec<Option<&Right>> = [None].into_iter().chain(newer.into_iter().map(Some)).collect();
        each_is_missed(&case, &all, &newer)
    });
}
