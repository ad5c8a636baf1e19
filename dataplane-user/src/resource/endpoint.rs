//! HostEndpoint, network sets, Tier and Profile (§1.4–§1.6, §1.8).

use super::entity::NAMESPACE_LABEL;
use super::fields::{At, Context, Fields};
use super::kind::Kind;
use super::meta::{MAX_NAME_CHARS, Meta, check_annotations};
use super::rule::{self, Scope};
use super::scalar::{Bare, PORT_PROTOCOLS};
use crate::policy::defaults::{DEFAULT_ALLOW_PROFILE, built_in_tiers};
use crate::policy::{
    Direction, HepInterface, HostEndpoint, NetworkSet, Order, Profile, Protocol, Tier, TierDefault,
};

/// Most networks of one network set. A generation holds more (`MAX_PREFIXES`), but no one object may take them all.
pub(crate) const MAX_SET_NETS: usize = 1 << 18;
/// Most expectedIPs, profiles or ports of one host endpoint.
pub(crate) const MAX_ENDPOINT_ITEMS: usize = 1024;
/// Longest device name of Linux.
pub(crate) const MAX_DEVICE_CHARS: usize = 15;
const TRUE_OR_FALSE: &[&str] = &["true", "false"];

pub(crate) fn host_endpoint(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<HostEndpoint> {
    let annotations = [
        ("anti-spoof", TRUE_OR_FALSE),
        ("drop-unknown-ethertypes", TRUE_OR_FALSE),
        ("accept-ra", TRUE_OR_FALSE),
    ];
    check_annotations(ctx, meta, &annotations);
    let mut spec = root.require(ctx, "spec")?.fields(ctx)?;
    let node_at = spec.require(ctx, "node");
    let node = node_at.as_ref().and_then(|at| at.text(ctx));
    if let (Some(at), Some(node)) = (&node_at, node)
        && node.len() > MAX_NAME_CHARS
    {
        at.error(ctx, format!("a node name has at most {MAX_NAME_CHARS} characters"));
    }
    let interface = interface(ctx, &mut spec);
    for name in ["expectedIPs", "profiles", "ports"] {
        if let Some(at) = spec.get(name) {
            at.check_count(ctx, at.value.as_array().map_or(0, Vec::len), MAX_ENDPOINT_ITEMS);
        }
    }
    let ips = spec.list(ctx, "expectedIPs");
    if interface == HepInterface::ByAddress
        && ips.is_empty()
        && spec.get("interfaceName").is_none_or(|at| at.value == "")
    {
        let message = "neither interfaceName nor expectedIPs says which device is meant; write `interfaceName: eth0`, or \
                       `interfaceName: \"*\"` for all";
        ctx.error("spec", message);
    }
    let expected_ips = ips.iter().filter_map(|at| at.address(ctx)).collect();
    let profiles =
        spec.list(ctx, "profiles").iter().filter_map(|at| at.text(ctx)).map(str::to_owned).collect();
    let ports = spec.list(ctx, "ports").iter().filter_map(|at| endpoint_port(ctx, at)).collect();
    spec.finish(ctx);
    Some(HostEndpoint {
        name: meta.name(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        node: node?.to_owned(),
        interface,
        expected_ips,
        profiles,
        ports,
    })
}

fn interface(ctx: &mut Context, spec: &mut Fields<'_>) -> HepInterface {
    let Some(at) = spec.get("interfaceName") else { return HepInterface::ByAddress };
    match at.string(ctx) {
        None | Some("") => HepInterface::ByAddress,
        Some("*") => HepInterface::All,
        Some(name) => {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            if name.len() > MAX_DEVICE_CHARS || !name.bytes().all(is_name) {
                at.error(
                    ctx,
                    "no device name; 1 to 15 letters, digits, `_`, `.` or `-`, or \"*\" for every device",
                );
            }
            HepInterface::Named(name.to_owned())
        }
    }
}

fn endpoint_port(ctx: &mut Context, at: &At<'_>) -> Option<(String, Protocol, u16)> {
    let mut fields = at.fields(ctx)?;
    let name = fields.require(ctx, "name").and_then(|at| at.text(ctx));
    let protocol_at = fields.require(ctx, "protocol");
    let protocol = protocol_at.as_ref().and_then(|at| at.protocol(ctx));
    if let (Some(at), Some(number)) = (&protocol_at, protocol)
        && !PORT_PROTOCOLS.iter().any(|(_, known)| *known == number)
    {
        at.error(ctx, "a port has protocol TCP, UDP or SCTP");
    }
    let port = fields.require(ctx, "port").and_then(|at| at.port(ctx, 1));
    fields.finish(ctx);
    Some((name?.to_owned(), protocol?, port?))
}

/// GlobalNetworkSet and NetworkSet.
pub(crate) fn network_set(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<NetworkSet> {
    if meta.labels.contains_key(NAMESPACE_LABEL) {
        ctx.error(&format!("metadata.labels[{NAMESPACE_LABEL}]"), "is set by the system; remove it");
    }
    let mut nets = Vec::new();
    if let Some(mut spec) = root.fields(ctx, "spec") {
        let items = spec.list(ctx, "nets");
        if let Some(at) = spec.get("nets") {
            at.check_count(ctx, items.len(), MAX_SET_NETS);
        }
        nets.extend(items.iter().filter_map(|item| item.net(ctx, Bare::Usual)));
        spec.finish(ctx);
    }
    let namespace = (meta.key.kind == Kind::NetworkSet).then(|| meta.namespace());
    Some(NetworkSet { namespace, name: meta.name(), labels: meta.labels.clone(), nets })
}

/// Built-in tiers may be written, but only as they are (§1.6).
pub(crate) fn tier(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Tier> {
    let (mut order, mut action) = (None, None);
    if let Some(mut spec) = root.fields(ctx, "spec") {
        order = spec.get("order").and_then(|at| at.float(ctx));
        let choices = [("Deny", TierDefault::Deny), ("Pass", TierDefault::Pass)];
        action = spec.get("defaultAction").and_then(|at| at.choice(ctx, &choices));
        spec.finish(ctx);
    }
    let mut tier =
        Tier { name: meta.name(), order: Order(order), default_action: action.unwrap_or(TierDefault::Deny) };
    if let Some(fixed) = built_in_tiers().remove(&tier.name) {
        let same_order = order.is_none() || tier.order == fixed.order;
        let same_action = action.is_none() || action == Some(fixed.default_action);
        if !same_order || !same_action {
            let order = fixed.order.0.unwrap_or(f64::INFINITY);
            let message = format!(
                "is built in and cannot change: order {order}, defaultAction {:?}",
                fixed.default_action
            );
            ctx.error("spec", message);
        }
        tier = fixed;
    }
    Some(tier)
}

pub(crate) fn profile(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Profile> {
    let made = [("kns.", "Namespace"), ("ksa.", "ServiceAccount")];
    if meta.key.name == DEFAULT_ALLOW_PROFILE {
        ctx.error("metadata.name", "is built in and cannot be written; choose another name");
    } else if let Some((prefix, kind)) = made.iter().find(|(prefix, _)| meta.key.name.starts_with(prefix)) {
        let message = format!("profiles called `{prefix}…` are made from the {kind}; choose another name");
        ctx.report(crate::policy::Severity::Error, "metadata.name", meta.name(), message);
    }
    let mut profile = Profile {
        name: meta.name(),
        labels_to_apply: Default::default(),
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    if let Some(mut spec) = root.fields(ctx, "spec") {
        let scope = |direction| Scope { direction, namespace: None };
        profile.labels_to_apply = spec.get("labelsToApply").map(|at| at.labels(ctx)).unwrap_or_default();
        profile.ingress = rule::rules(ctx, spec.get("ingress"), scope(Direction::Ingress));
        profile.egress = rule::rules(ctx, spec.get("egress"), scope(Direction::Egress));
    }
    Some(profile)
}
