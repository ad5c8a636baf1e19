//! What a node's policy does with a packet: asked of its agent, or worked out here from what the API shows.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::agents::AgentPod;
use super::kubectl::{GetError, Kubectl, last_words};
use super::stream::Children;
use crate::kubernetes::discovery::Served;
use crate::kubernetes::plan::{Needs, plan};
use crate::policy::{Device, NodeView, Settings, Severity};
use crate::resource::{Document, Store};

/// Runs `portcullis explain` in the agent's pod: the node's own devices, addresses, and the objects that its agent accepted.
///
/// # Errors
/// Why there is no answer, in the words of kubectl or of the program there.
pub fn ask(
    kubectl: &Kubectl,
    agent: &AgentPod,
    words: &[String],
    children: &Children,
) -> Result<Value, String> {
    if let Some(why) = &agent.not_running {
        return Err(format!("its agent does not run: {why}"));
    }
    let all: Vec<String> =
        ["explain", "--output=json"].map(str::to_owned).into_iter().chain(words.iter().cloned()).collect();
    let mut command = kubectl.exec(agent, &all);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| format!("{}: {e}", kubectl.missing()))?;
    let output = children.wait(child).map_err(|e| e.to_string())?;
    // kubectl ends with 1 when it fails, and so does a packet that is denied: what was printed tells them apart.
    serde_json::from_slice::<Value>(&output.stdout)
        .ok()
        .filter(|answer| answer["kind"] == "Explanation")
        .ok_or_else(|| last_words(&String::from_utf8_lossy(&output.stderr)))
}

/// The cluster as the user may see it.
#[derive(Debug)]
pub struct Seen {
    pub store: Store,
    /// Objects that are rejected, and what could not be read.
    pub notes: Vec<String>,
    nodes: Value,
}

/// Reads everything that an agent would read, with the user's rights.
///
/// # Errors
/// Something that verdicts depend on may not be read: a part of the policies is no answer.
pub fn look(kubectl: &Kubectl) -> Result<Seen> {
    let served = served(kubectl)?;
    if !served.has_calico() {
        bail!("the cluster serves none of Calico's kinds");
    }
    // Every pod, since a rule may select it; the agent looks at fewer where that makes no difference.
    let kinds: BTreeSet<String> = plan(&served, Needs { all_pods: true })
        .into_iter()
        .map(|watch| {
            let (group, version) = watch.api_version.split_once('/').unwrap_or(("", &watch.api_version));
            match group {
                "" => watch.kind.plural().to_owned(),
                _ => format!("{}.{version}.{group}", watch.kind.plural()),
            }
        })
        .collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    let list = kubectl.get(&[&kinds.join(","), "--all-namespaces"])?;
    let mut documents = Vec::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = format!(
            "kubernetes:{}/{}/{}",
            word(&item["apiVersion"]),
            word(&item["kind"]).to_lowercase(),
            word(&item["metadata"]["name"])
        );
        documents.push(Document::new(place, 0, item.clone()));
    }
    let mut store = Store::default();
    let report = store.replace(documents);
    let rejected = report.problems.iter().filter(|p| p.severity == Severity::Error);
    let notes = rejected.map(|p| format!("rejected, so left out here: {p}")).collect();
    Ok(Seen { store, notes, nodes: kubectl.get(&["nodes"])? })
}

fn served(kubectl: &Kubectl) -> Result<Served> {
    let mut kinds = Vec::new();
    for version in ["projectcalico.org/v3", crate::resource::STORAGE_VERSION] {
        match kubectl.get(&["--raw", &format!("/apis/{version}")]) {
            Ok(list) => {
                let names = list["resources"].as_array().into_iter().flatten();
                let names = names.filter(|r| r["name"].as_str().is_some_and(|name| !name.contains('/')));
                let names = names.filter_map(|r| r["kind"].as_str().map(str::to_owned)).collect();
                kinds.push((version.to_owned(), names));
            }
            Err(GetError::NotServed(_)) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot ask for the kinds of {version}")),
        }
    }
    Ok(Served::new(kinds))
}

impl Seen {
    /// A node as far as its Node object tells: its addresses on the devices that the question names.
    ///
    /// # Errors
    /// There is no such node.
    pub fn view(&self, node: &str, devices: &[&str]) -> Result<NodeView> {
        let object = self.nodes["items"].as_array().into_iter().flatten();
        let object = object.into_iter().find(|n| n["metadata"]["name"] == node);
        let Some(object) = object else { bail!("the cluster has no node {node}") };
        let addresses: Vec<IpNet> = object["status"]["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|a| a["type"] == "InternalIP")
            .filter_map(|a| a["address"].as_str()?.parse().ok())
            .map(|ip: std::net::IpAddr| IpNet::from(ip))
            .collect();
        let device = |number: usize, name: &str| Device {
            name: name.to_owned(),
            ifindex: u32::try_from(number + 2).unwrap_or(u32::MAX),
            addresses: if number == 0 { addresses.clone() } else { Vec::new() },
            default_route: number == 0,
            ..Device::default()
        };
        let lo = Device { name: "lo".into(), ifindex: 1, loopback: true, ..Device::default() };
        let named =
            devices.iter().enumerate().map(|(number, name)| ((*name).to_owned(), device(number, name)));
        let devices = std::iter::once(("lo".to_owned(), lo)).chain(named).collect();
        Ok(NodeView { name: node.to_owned(), devices, settings: Settings::default() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_seen_as_its_object_tells() {
        let nodes = json!({"items": [{"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
        ]}}]});
        let seen = Seen { store: Store::default(), notes: Vec::new(), nodes };
        let view = seen.view("n1", &["eth1", "eth0"]).unwrap();
        let nets: Vec<String> = view.devices["eth1"].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.0.0.1/32", "fd00::1/128"]);
        assert!(view.devices["eth1"].default_route && view.devices["eth0"].addresses.is_empty());
        assert!(view.devices["lo"].loopback);
        assert!(seen.view("n2", &[]).is_err());
    }
}
