//! Each host endpoint with its lists: who is locked out, who is let in by accident, and what is open.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::abi::ListKind;
use ipnet::IpNet;

use super::reach::{self, Need, may_come_in, may_go_out};
use super::{Code, Found, Known, endpoint_key};
use crate::index::auto::is_automatic;
use crate::index::lists::{ListKey, PolicyId};
use crate::index::{
    EndpointLists, List, LostReason, PolicyBlock, PortAlternative, Resolved, SetId, Side, Snapshot, TierEnd,
};
use crate::policy::{Action, Failsafe, World, defaults};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SSH: Need = Need { protocol: TCP, port: 22 };
const API_SERVER: Need = Need { protocol: TCP, port: 6443 };
const KUBELET: Need = Need { protocol: TCP, port: 10250 };

pub(super) fn check(world: &World, snapshot: &Snapshot, known: Known, found: &mut Found) {
    lost(snapshot, known, found);
    missing_profiles(world, snapshot, found);
    let pods = pod_addresses(world);
    let insiders = insiders(world, snapshot, &pods);
    for endpoint in &snapshot.endpoints {
        let name = endpoint_key(&endpoint.name);
        // A `*` endpoint that has nothing left but pods' devices judges no host traffic.
        let is_host =
            snapshot.devices.values().any(|d| d.endpoint.as_ref() == Some(&endpoint.name) && !d.workload);
        pre_dnat_without_deny(endpoint, found);
        wildcard_shuts_pods(snapshot, endpoint, &pods, found);
        forward_without_pods(snapshot, endpoint, &pods, &name, found);
        unreachable_tiers(endpoint, found);
        untracked_one_way(endpoint, found);
        denies_on_failsafes(snapshot, endpoint, found);
        if is_host {
            spoofable(snapshot, endpoint, &insiders, found);
            needs(world, snapshot, endpoint, &name, found);
        }
    }
}

fn list(endpoint: &EndpointLists, kind: ListKind) -> Option<&List> {
    endpoint.lists.get(&ListKey(kind))
}

/// Enforced policies of a list with their rules, in order.
fn enforced(list: &List) -> impl Iterator<Item = &PolicyBlock> {
    list.tiers.iter().flat_map(|t| &t.policies).filter(|p| !p.staged)
}

fn rules(list: &List) -> impl Iterator<Item = (&PolicyId, &Resolved)> {
    enforced(list).flat_map(|p| p.rules.iter().map(move |r| (&p.id, r)))
}

fn path_of(kind: ListKind, rule: &Resolved) -> String {
    let direction = if ListKey(kind).is_ingress() { "ingress" } else { "egress" };
    format!("spec.{direction}[{}]", rule.index)
}

/// L10, L20, L21
fn lost(snapshot: &Snapshot, known: Known, found: &mut Found) {
    for lost in &snapshot.facts.lost {
        let (code, write) = match &lost.reason {
            LostReason::LostTo(..) => (
                Code::ContendingEndpoints,
                "join the two; endpoints of one device are not merged, one governs it",
            ),
            _ if known == Known::Documents => continue,
            _ => (Code::BindsNothing, "correct interfaceName or expectedIPs, or remove the HostEndpoint"),
        };
        found.add(code, endpoint_key(&lost.name), "spec", format!("has no effect: {}", lost.reason), write);
    }
    if known == Known::Node && !snapshot.facts.governed.is_empty() {
        for device in &snapshot.facts.unprotected {
            found.add(
                Code::Unprotected,
                format!("Device/{device}"),
                "",
                format!("no HostEndpoint of node {} covers it, so nothing is filtered there", snapshot.node),
                format!("write a HostEndpoint with `interfaceName: {device}`, or one with \"*\""),
            );
        }
    }
}

/// L22
fn missing_profiles(world: &World, snapshot: &Snapshot, found: &mut Found) {
    for endpoint in snapshot.facts.host_endpoints.values() {
        for (i, name) in endpoint.profiles.iter().enumerate() {
            if defaults::profile(world, name).is_none() {
                found.add(
                    Code::MissingProfile,
                    endpoint_key(&endpoint.name),
                    format!("spec.profiles[{i}]"),
                    format!("there is no profile {name:?}, and a missing profile allows nothing"),
                    format!("write {} to allow what no policy judges", defaults::DEFAULT_ALLOW_PROFILE),
                );
            }
        }
    }
}

/// L01
fn pre_dnat_without_deny(endpoint: &EndpointLists, found: &mut Found) {
    let Some(list) = list(endpoint, ListKind::PreDnat) else { return };
    if rules(list).any(|(_, rule)| rule.action == Action::Deny) {
        return;
    }
    for policy in enforced(list).filter(|p| !p.rules.is_empty()) {
        found.add(
            Code::PreDnatWithoutDeny,
            &policy.id,
            "spec.ingress",
            "preDNAT policy has no default deny, and no preDNAT policy here has a Deny rule: it keeps nobody out",
            "add a preDNAT policy with a higher `order` and `ingress: [{action: Deny}]`",
        );
    }
}

/// Whether the rule matches every IPv4 packet, whatever its addresses and ports.
fn is_catch_all(rule: &Resolved) -> bool {
    let open = |side: &Side| *side == Side::default();
    rule.v4
        && rule.protocol.is_none()
        && rule.not_protocol.is_none()
        && rule.not_icmp.is_none()
        && open(&rule.source)
        && open(&rule.destination)
}

/// Addresses of pods, as far as the documents tell: the nodes' pod CIDRs, and pods.
fn pod_addresses(world: &World) -> Vec<IpNet> {
    let cidrs = world.nodes.values().flat_map(|n| n.pod_cidrs.iter().copied());
    let pods =
        world.pods.values().filter(|p| !p.host_network).flat_map(|p| p.ips.iter().map(|ip| IpNet::from(*ip)));
    let all: BTreeSet<IpNet> = cidrs.chain(pods).collect();
    IpNet::aggregate(&all.into_iter().collect())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Whether the side may mean some of these addresses.
fn may_mean(snapshot: &Snapshot, side: &Side, nets: &[IpNet]) -> bool {
    let touches = |set: &SetId| snapshot.sets.get(*set).iter().any(|n| nets.iter().any(|m| overlap(n, m)));
    side.all_of.iter().all(touches)
}

/// L04
fn wildcard_shuts_pods(snapshot: &Snapshot, endpoint: &EndpointLists, pods: &[IpNet], found: &mut Found) {
    let Some(list) = list(endpoint, ListKind::PreDnat).filter(|_| endpoint.wildcard && !pods.is_empty())
    else {
        return;
    };
    for (policy, rule) in rules(list) {
        match rule.action {
            Action::Allow if may_mean(snapshot, &rule.source, pods) => return,
            Action::Deny if is_catch_all(rule) => {
                found.add(
                    Code::WildcardShutsPods,
                    policy,
                    path_of(ListKind::PreDnat, rule),
                    format!(
                        "denies what pods send, too: preDNAT policy of a `*` host endpoint ({}) also judges the pods' devices",
                        endpoint_key(&endpoint.name)
                    ),
                    "allow the pods' CIDRs and the nodes' addresses as `source` before it",
                );
                return;
            }
            Action::Allow | Action::Deny | Action::Log | Action::Pass => {}
        }
    }
}

/// L11
fn forward_without_pods(
    snapshot: &Snapshot,
    endpoint: &EndpointLists,
    pods: &[IpNet],
    name: &str,
    found: &mut Found,
) {
    if pods.is_empty() {
        return;
    }
    for kind in [ListKind::ForwardIngress, ListKind::ForwardEgress] {
        let Some(list) = list(endpoint, kind) else { continue };
        let shuts = list.tiers.iter().any(|t| t.end == TierEnd::Deny)
            || rules(list).any(|(_, r)| r.action == Action::Deny && is_catch_all(r));
        let admits = |rule: &Resolved| {
            let side = if ListKey(kind).is_ingress() { &rule.destination } else { &rule.source };
            rule.action == Action::Allow
                && !reach::has_empty_set(snapshot, rule)
                && may_mean(snapshot, side, pods)
        };
        if shuts && !rules(list).any(|(_, r)| admits(r)) {
            let way = if ListKey(kind).is_ingress() { "to" } else { "from" };
            let first = enforced(list).next().map(|p| p.id.to_string()).unwrap_or_default();
            found.add(
                Code::ForwardWithoutPods,
                name,
                "",
                format!("forwarded traffic {way} pods is dropped: applyOnForward policy ({first}) makes the end of its tier deny, and nothing allows pod addresses"),
                "add an applyOnForward policy that allows the pods' CIDRs",
            );
        }
    }
}

/// L24
fn unreachable_tiers(endpoint: &EndpointLists, found: &mut Found) {
    for (key, list) in &endpoint.lists {
        let mut behind: Option<&str> = None;
        for tier in &list.tiers {
            for policy in tier.policies.iter().filter(|p| !p.staged) {
                if let Some(end) = behind {
                    found.add(
                        Code::UnreachableTier,
                        &policy.id,
                        "spec.tier",
                        format!("is never looked at in the {} list: tier {end} comes first, ends with Deny, and no rule of it passes", key.name()),
                        format!("add `- action: Pass` to tier {end}, or set its defaultAction to Pass"),
                    );
                }
            }
            let passes = tier.policies.iter().flat_map(|p| &p.rules).any(|r| r.action == Action::Pass);
            if tier.end == TierEnd::Deny && !passes {
                behind = behind.or(Some(&tier.name));
            }
        }
    }
}

/// L25
fn untracked_one_way(endpoint: &EndpointLists, found: &mut Found) {
    let pairs = [
        (ListKind::UntrackedIngress, ListKind::UntrackedEgress, "egress"),
        (ListKind::UntrackedEgress, ListKind::UntrackedIngress, "ingress"),
    ];
    for (one, other, missing) in pairs {
        let allows =
            |kind| list(endpoint, kind).is_some_and(|l| rules(l).any(|(_, r)| r.action == Action::Allow));
        if !allows(one) || allows(other) {
            continue;
        }
        for (policy, rule) in
            list(endpoint, one).into_iter().flat_map(rules).filter(|(_, r)| r.action == Action::Allow)
        {
            found.add(
                Code::UntrackedOneWay,
                policy,
                path_of(one, rule),
                "untracked traffic makes no flow, so its answers are judged for themselves, and no untracked rule allows them",
                format!("add the mirrored rule under `{missing}`, with source and destination exchanged"),
            );
        }
    }
}

/// L07
fn denies_on_failsafes(snapshot: &Snapshot, endpoint: &EndpointLists, found: &mut Found) {
    let lists = [
        (ListKind::PreDnat, &snapshot.failsafe_inbound),
        (ListKind::NormalIngress, &snapshot.failsafe_inbound),
        (ListKind::NormalEgress, &snapshot.failsafe_outbound),
    ];
    for (kind, failsafes) in lists {
        let Some(list) = list(endpoint, kind) else { continue };
        for (policy, rule) in rules(list).filter(|(_, r)| r.action == Action::Deny) {
            for failsafe in failsafes.iter().filter(|f| names_port(rule, f)) {
                let field = if ListKey(kind).is_ingress() {
                    "failsafeInboundHostPorts"
                } else {
                    "failsafeOutboundHostPorts"
                };
                let whence = failsafe.net.map(|n| format!(" for {n}")).unwrap_or_default();
                let protocol = match failsafe.protocol {
                    TCP => "TCP",
                    UDP => "UDP",
                    _ => "SCTP",
                };
                found.add(
                    Code::DenyOnFailsafe,
                    policy,
                    path_of(kind, rule),
                    format!(
                        "cannot shut {protocol} {}: a failsafe keeps it open{whence}, before any policy",
                        failsafe.port
                    ),
                    format!("take the port out of {field} in FelixConfiguration/default"),
                );
            }
        }
    }
}

/// Whether the rule names this very port, not only a range that holds it.
fn names_port(rule: &Resolved, failsafe: &Failsafe) -> bool {
    let exact = |a: &PortAlternative| match a {
        PortAlternative::Ranges(ranges) => {
            ranges.iter().any(|r| r.first == failsafe.port && r.last == failsafe.port)
        }
        PortAlternative::At(protocol, port, _) => *protocol == failsafe.protocol && *port == failsafe.port,
    };
    rule.protocol.is_none_or(|p| p == failsafe.protocol)
        && rule.destination.ports.any_of.as_ref().is_some_and(|any_of| any_of.iter().any(exact))
}

/// Ranges whose addresses should never come from outside, with what they are (D27).
fn insiders(world: &World, snapshot: &Snapshot, pods: &[IpNet]) -> Vec<(IpNet, &'static str)> {
    let services = world.services.values().flat_map(|s| &s.cluster_ips);
    let nodes = world.nodes.values().filter(|n| n.name != snapshot.node).flat_map(|n| &n.internal_ips);
    let mut all: Vec<(IpNet, &'static str)> = pods.iter().map(|n| (*n, "pods")).collect();
    all.extend(services.map(|ip: &IpAddr| (IpNet::from(*ip), "Services")));
    all.extend(nodes.map(|ip| (IpNet::from(*ip), "other nodes")));
    all
}

/// L19
fn spoofable(
    snapshot: &Snapshot,
    endpoint: &EndpointLists,
    insiders: &[(IpNet, &'static str)],
    found: &mut Found,
) {
    let guarded = |name: &str| {
        snapshot
            .devices
            .values()
            .filter(|d| d.endpoint.as_deref() == Some(name))
            .all(|d| d.anti_spoof || d.workload)
    };
    if guarded(&endpoint.name) {
        return;
    }
    // Automatic endpoints are made anew from their Node: nobody can write on them.
    let made = snapshot.facts.host_endpoints.get(&endpoint.name).is_some_and(is_automatic);
    let write = if made {
        "write a HostEndpoint of your own for the device, with the annotation `portcullis.dev/anti-spoof: \"true\"`"
    } else {
        "write the annotation `portcullis.dev/anti-spoof: \"true\"` on that HostEndpoint"
    };
    for kind in [ListKind::UntrackedIngress, ListKind::PreDnat, ListKind::NormalIngress] {
        let Some(list) = list(endpoint, kind) else { continue };
        for (policy, rule) in
            rules(list).filter(|(_, r)| r.action == Action::Allow && !r.source.all_of.is_empty())
        {
            let trusted = |(net, _): &&(IpNet, &'static str)| {
                rule.source.all_of.iter().all(|set| snapshot.sets.get(*set).iter().any(|n| overlap(n, net)))
            };
            if let Some((net, what)) = insiders.iter().find(trusted) {
                found.add(
                    Code::SpoofableTrust,
                    policy,
                    format!("{}.source", path_of(kind, rule)),
                    format!(
                        "trusts addresses of {what} ({net}) on a device of {}, where anybody can claim them",
                        endpoint_key(&endpoint.name)
                    ),
                    write,
                );
            }
        }
    }
}

/// L02, L12, L14, L15: what a node must be able to do.
fn needs(world: &World, snapshot: &Snapshot, endpoint: &EndpointLists, name: &str, found: &mut Found) {
    if !may_come_in(snapshot, endpoint, SSH) {
        found.add(
            Code::SshShut,
            name,
            "",
            "no failsafe and no rule lets ssh (TCP 22) in: a mistake can no longer be repaired from afar",
            "keep TCP 22 in failsafeInboundHostPorts, at best with the `net` of the administrators",
        );
    }
    let has_egress =
        list(endpoint, ListKind::NormalEgress).is_some() || list(endpoint, ListKind::ProfileEgress).is_some();
    if !has_egress {
        found.add(
            Code::NoHostEgress,
            name,
            "spec.profiles",
            "has no profile, and no policy with egress rules selects it: what the host sends is dropped, failsafe ports excepted",
            format!("add an egress policy, or `profiles: [{}]`", defaults::DEFAULT_ALLOW_PROFILE),
        );
    } else {
        for (need, what) in [
            (Need { protocol: UDP, port: 53 }, "DNS (UDP 53)"),
            (Need { protocol: TCP, port: 53 }, "DNS over TCP (TCP 53), which large answers need,"),
            (Need { protocol: UDP, port: 123 }, "time (NTP, UDP 123)"),
        ] {
            if !may_go_out(snapshot, endpoint, need) {
                let why = format!("the node cannot ask for {what}: no failsafe and no egress rule allows it");
                found.add(Code::NodeNeeds, name, "", why, "add an egress rule that allows it");
            }
        }
    }
    if world.nodes.is_empty() {
        return; // Bare Linux: no cluster to lose.
    }
    if !may_come_in(snapshot, endpoint, KUBELET) {
        found.add(
            Code::NodeNeeds,
            name,
            "",
            "nobody reaches the kubelet (TCP 10250): `kubectl logs` and `exec` and the metrics of this node end",
            "allow TCP 10250 from the control plane's addresses",
        );
    }
    for need in api_servers(world) {
        let here = is_control_plane(world, snapshot);
        if !may_go_out(snapshot, endpoint, need) || here && !may_come_in(snapshot, endpoint, need) {
            found.add(
                Code::ApiServerShut,
                name,
                "",
                format!("the API server's port (TCP {}) is shut: no failsafe and no rule lets it through", need.port),
                "keep it in failsafeOutboundHostPorts (and, on the control plane, failsafeInboundHostPorts), or allow it",
            );
        }
    }
}

/// Where the API server listens: as `default/kubernetes` says, else the usual port.
fn api_servers(world: &World) -> Vec<Need> {
    let slices =
        world.endpoint_slices.values().filter(|s| s.namespace == "default" && s.service == "kubernetes");
    let ports: BTreeSet<u16> = slices.flat_map(|s| s.ports.iter().map(|(_, _, port)| *port)).collect();
    if ports.is_empty() {
        return vec![API_SERVER];
    }
    ports.into_iter().map(|port| Need { protocol: TCP, port }).collect()
}

fn is_control_plane(world: &World, snapshot: &Snapshot) -> bool {
    world
        .nodes
        .get(&snapshot.node)
        .is_some_and(|n| n.labels.contains_key("node-role.kubernetes.io/control-plane"))
}
