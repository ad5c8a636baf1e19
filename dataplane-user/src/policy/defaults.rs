//! What exists without being written: tiers, the default profile, the failsafes.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Action, EntityRule, Failsafe, FelixConfiguration, Labels, Order, Profile, Rule, Tier, TierDefault, World,
};

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";
/// The profile that allows everything (§1.8).
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What holds on a node: field by field, its own FelixConfiguration goes before `default`. `None`: our default.
pub fn felix_of(world: &World, node: &str) -> FelixConfiguration {
    let FelixConfiguration {
        failsafe_inbound,
        failsafe_outbound,
        node_port_ranges,
        interface_prefixes,
        interface_exclude,
    } = world.felix_of_nodes.get(node).cloned().unwrap_or_default();
    let all = world.felix.clone();
    FelixConfiguration {
        failsafe_inbound: failsafe_inbound.or(all.failsafe_inbound),
        failsafe_outbound: failsafe_outbound.or(all.failsafe_outbound),
        node_port_ranges: node_port_ranges.or(all.node_port_ranges),
        interface_prefixes: interface_prefixes.or(all.interface_prefixes),
        interface_exclude: interface_exclude.or(all.interface_exclude),
    }
}

/// The tiers of §1.6.
pub fn built_in_tiers() -> BTreeMap<String, Tier> {
    [
        ("kube-admin", 1_000.0, TierDefault::Pass),
        (DEFAULT_TIER, 1_000_000.0, TierDefault::Deny),
        ("kube-baseline", 10_000_000.0, TierDefault::Pass),
    ]
    .into_iter()
    .map(|(name, order, default_action)| {
        let name = name.to_owned();
        (name.clone(), Tier { name, order: Order(Some(order)), default_action })
    })
    .collect()
}

/// `nodePortAddresses` as kube-proxy takes it: of an IP version without a network, all addresses. Empty stays empty, which
/// means all of both.
pub fn node_port_networks(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    let has = |v4: bool| nets.iter().any(|net| net.addr().is_ipv4() == v4);
    match (has(true), has(false)) {
        (true, false) => nets.push(IpNet::V6(Ipv6Net::default())),
        (false, true) => nets.push(IpNet::V4(Ipv4Net::default())),
        (true, true) | (false, false) => {}
    }
    nets
}

/// `projectcalico-default-allow`.
pub fn default_allow_profile() -> Profile {
    let allow = Rule {
        action: Action::Allow,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: EntityRule::default(),
        destination: EntityRule::default(),
    };
    Profile {
        name: DEFAULT_ALLOW_PROFILE.to_owned(),
        labels_to_apply: BTreeMap::new(),
        ingress: vec![allow.clone()],
        egress: vec![allow],
    }
}

/// A profile by its name: a written one, the built-in one, or one that Calico makes from an object (§1.8):
/// `kns.NAMESPACE` allows everything and applies the namespace's labels, `ksa.NAMESPACE.ACCOUNT` applies labels only.
/// `None`: there is none of this name, so it matches nothing.
pub fn profile(world: &World, name: &str) -> Option<Profile> {
    let prefixed = |prefix: &str, labels: &Labels, own: &str| -> Labels {
        let own = [(format!("{prefix}projectcalico.org/name"), own.to_owned())];
        labels.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone())).chain(own).collect()
    };
    if let Some(written) = world.profiles.get(name) {
        return Some(written.clone());
    }
    if name == DEFAULT_ALLOW_PROFILE {
        return Some(default_allow_profile());
    }
    let made = |labels_to_apply, from: Profile| Profile { name: name.to_owned(), labels_to_apply, ..from };
    if let Some(namespace) = name.strip_prefix("kns.").and_then(|name| world.namespaces.get(name)) {
        let labels = prefixed("pcns.", &namespace.labels, &namespace.name);
        return Some(made(labels, default_allow_profile()));
    }
    let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?;
    let account = world.service_accounts.get(&(namespace.to_owned(), account.to_owned()))?;
    let silent = Profile { ingress: Vec::new(), egress: Vec::new(), ..default_allow_profile() };
    Some(made(prefixed("pcsa.", &account.labels, &account.name), silent))
}

fn everywhere(ports: &[(u8, u16)]) -> Vec<Failsafe> {
    ports.iter().map(|&(protocol, port)| Failsafe { protocol, port, net: None }).collect()
}

/// Calico's list (§5), and DHCPv6 answers from the link (D1).
pub fn failsafe_inbound() -> Vec<Failsafe> {
    let mut list = everywhere(&[
        (TCP, 22),
        (UDP, 68),
        (TCP, 179),
        (TCP, 2379),
        (TCP, 2380),
        (TCP, 5473),
        (TCP, 6443),
        (TCP, 6666),
        (TCP, 6667),
    ]);
    let link_local = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    let net = Ipv6Net::new(link_local, 10).map(IpNet::V6).ok();
    list.push(Failsafe { protocol: UDP, port: 546, net });
    list
}

/// Calico's list (§5), and DHCPv6 questions (D1).
pub fn failsafe_outbound() -> Vec<Failsafe> {
    everywhere(&[
        (UDP, 53),
        (UDP, 67),
        (TCP, 179),
        (TCP, 2379),
        (TCP, 2380),
        (TCP, 5473),
        (TCP, 6443),
        (TCP, 6666),
        (TCP, 6667),
        (UDP, 547),
    ])
}
