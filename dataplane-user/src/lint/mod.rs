//! What is valid and probably not what was meant: policies that keep nobody out, rules that never act, lock-outs.
//!
//! Reading order: `codes` → `reach` (what a list may let through) → `policies` (each policy by itself), `endpoints`
//! (each host endpoint with its lists). All of it looks at a [`Snapshot`], and so at one node.

mod codes;
mod endpoints;
mod policies;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use codes::Code;

use crate::index::Snapshot;
use crate::index::auto::with_auto_endpoints;
use crate::policy::{Device, HepInterface, HostEndpoint, NodeView, Problem, Severity, World};
use crate::resource::{Kind, ObjectKey, Store};

/// Most nodes whose lists are looked at when no node is named: the same policies select most of them alike.
pub const MAX_NODES: usize = 16;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub code: Code,
    /// `Kind/name`.
    pub object: String,
    /// `spec.ingress[0].source`, or empty for the whole object.
    pub path: String,
    /// What is the matter.
    pub why: String,
    /// What to write instead.
    pub write: String,
}

impl From<Finding> for Problem {
    /// Without its place: see [`locate`].
    fn from(finding: Finding) -> Self {
        let page = finding.code.page();
        Self {
            severity: Severity::Warning,
            file: String::new(),
            line: 0,
            object: finding.object,
            path: finding.path,
            value: String::new(),
            message: format!("{}; {} [{}, {page}]", finding.why, finding.write, finding.code),
        }
    }
}

/// Findings about this node, as warnings; [`locate`] gives them their files.
pub fn findings(world: &World, view: &NodeView) -> Vec<Problem> {
    check(world, view).into_iter().map(Problem::from).collect()
}

/// Findings about this node, sorted.
pub fn check(world: &World, view: &NodeView) -> Vec<Finding> {
    on(world, &Snapshot::build(world, view), Known::Node)
}

/// Findings about documents alone: each node that a host endpoint names is assumed to have the devices and addresses
/// that its host endpoints say. Nothing is said about devices that may or may not exist.
pub fn check_documents(world: &World) -> Vec<Finding> {
    let mut all: BTreeSet<Finding> = BTreeSet::new();
    let endpoints = with_auto_endpoints(world, &NodeView::default());
    let nodes: BTreeSet<&str> = endpoints.values().map(|h| h.node.as_str()).collect();
    for node in nodes.into_iter().take(MAX_NODES) {
        let view = assumed(node, endpoints.values());
        all.extend(on(world, &Snapshot::build(world, &view), Known::Documents));
    }
    all.into_iter().collect()
}

/// Whether the node's devices are known, or assumed from documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Node,
    Documents,
}

fn on(world: &World, snapshot: &Snapshot, known: Known) -> Vec<Finding> {
    let mut found = Found::default();
    policies::check(world, snapshot, &mut found);
    endpoints::check(world, snapshot, known, &mut found);
    found.0.into_iter().collect()
}

/// Collects findings, each once.
#[derive(Default)]
struct Found(BTreeSet<Finding>);

impl Found {
    fn add(
        &mut self,
        code: Code,
        object: impl ToString,
        path: impl Into<String>,
        why: impl Into<String>,
        write: impl Into<String>,
    ) {
        let (path, why, write) = (path.into(), why.into(), write.into());
        self.0.insert(Finding { code, object: object.to_string(), path, why, write });
    }
}

fn endpoint_key(name: &str) -> String {
    ObjectKey::new(Kind::HostEndpoint, "", name).to_string()
}

/// The devices that host endpoints of a node speak of.
fn assumed<'a>(node: &str, endpoints: impl Iterator<Item = &'a HostEndpoint>) -> NodeView {
    let mut devices: BTreeMap<String, Device> = BTreeMap::new();
    for endpoint in endpoints.filter(|h| h.node == node) {
        let name = match &endpoint.interface {
            HepInterface::Named(name) => name.clone(),
            // Some device must be there for it to govern.
            HepInterface::All | HepInterface::ByAddress => "eth0".to_owned(),
        };
        let ifindex = devices.len() as u32 + 2;
        let device =
            devices.entry(name.clone()).or_insert_with(|| Device { name, ifindex, ..Device::default() });
        device.addresses.extend(endpoint.expected_ips.iter().map(|ip: &IpAddr| IpNet::from(*ip)));
    }
    NodeView { name: node.to_owned(), devices, ..NodeView::default() }
}

/// Fills in file and line of the objects that the problems are about.
pub fn locate(problems: &mut [Problem], store: &Store) {
    for problem in problems {
        let Some(key) = ObjectKey::parse(&problem.object) else { continue };
        if let Some(stored) = store.get(key.kind.as_str(), &key.namespace, &key.name) {
            problem.file.clone_from(&stored.file);
            problem.line = stored.line;
        }
    }
}
