//! One side of a rule (§1.3): networks, selectors, ports, services.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::fields::{At, Context, Fields};
use super::rule::Scope;
use super::scalar::Bare;
use crate::policy::{Direction, EntityRule, IpVersion, PeerSelector, Port, Protocol};
use crate::selector::Selector;

/// Most entries of `nets` or `notNets` (§1.3).
pub(crate) const MAX_NETS: usize = 256;
/// Most entries of `ports` or `notPorts` (§1.3).
pub(crate) const MAX_PORTS: usize = 50;
/// Most names of `serviceAccounts`. Ours, not Calico's.
pub(crate) const MAX_SERVICE_ACCOUNTS: usize = 1024;

/// Label that pods and network sets of a namespace have (§2).
pub(crate) const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// Label that pods have (§2).
pub(crate) const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

pub(crate) fn entity(
    ctx: &mut Context,
    at: &At<'_>,
    side: &str,
    scope: Scope<'_>,
    protocol: Option<Protocol>,
) -> EntityRule {
    let Some(mut fields) = at.fields(ctx) else { return EntityRule::default() };
    let nets = nets(ctx, &mut fields, "nets");
    let not_nets = self::nets(ctx, &mut fields, "notNets");
    for net in not_nets.iter().filter(|net| net.prefix_len() == 0) {
        ctx.error(
            &fields.path_of("notNets"),
            format!("{net} excludes every address: the rule would match nothing"),
        );
    }
    let ports = ports(ctx, &mut fields, "ports", protocol);
    let not_ports = self::ports(ctx, &mut fields, "notPorts", protocol);
    let (selector, not_selector) = selectors(ctx, &mut fields, scope);
    let service = service(ctx, &mut fields, side, scope);
    fields.finish(ctx);
    EntityRule { nets, not_nets, selector, not_selector, ports, not_ports, service }
}

fn nets(ctx: &mut Context, fields: &mut Fields<'_>, name: &'static str) -> Vec<IpNet> {
    let Some(at) = fields.get(name) else { return Vec::new() };
    let items = at.criterion_list(ctx, MAX_NETS);
    let mut written = BTreeSet::new();
    let mut nets = Vec::new();
    for item in items {
        if item.value.as_str().is_some_and(|text| !written.insert(text)) {
            item.error(ctx, "stands here twice; remove one");
        }
        nets.extend(item.net(ctx, Bare::Warn));
    }
    nets
}

fn ports(
    ctx: &mut Context,
    fields: &mut Fields<'_>,
    name: &'static str,
    protocol: Option<Protocol>,
) -> Vec<Port> {
    let Some(at) = fields.get(name) else { return Vec::new() };
    let items = at.criterion_list(ctx, MAX_PORTS);
    let ports: Vec<Port> = items.iter().filter_map(|item| item.rule_port(ctx)).collect();
    let has_number = ports.iter().any(|port| matches!(port, Port::Range(_)));
    match protocol {
        Some(6 | 17 | 132) => {}
        Some(number) => {
            let message = format!(
                "protocol {number} has no ports here; write TCP, UDP or SCTP as protocol, or remove the ports"
            );
            ctx.error(&at.path, message);
        }
        None if has_number => {
            ctx.error(&at.path, "port numbers need `protocol: TCP`, `UDP` or `SCTP` in the rule")
        }
        None => {}
    }
    ports
}

/// Text of an optional selector field; `""` is the same as absent.
fn optional<'a>(fields: &mut Fields<'a>, name: &'static str) -> Option<At<'a>> {
    fields.get(name).filter(|at| at.value.as_str() != Some(""))
}

/// Everything that selects peers, combined into one positive and one negative selector (§6).
fn selectors(
    ctx: &mut Context,
    fields: &mut Fields<'_>,
    scope: Scope<'_>,
) -> (Option<PeerSelector>, Option<PeerSelector>) {
    let mut text = Vec::new();
    let mut read = |ctx: &mut Context, fields: &mut Fields<'_>, name| {
        let at = optional(fields, name)?;
        text.push(format!("{name}: {}", at.value.as_str().unwrap_or_default()));
        at.selector(ctx)
    };
    let selector = read(ctx, fields, "selector");
    let not_selector = read(ctx, fields, "notSelector");
    let accounts = fields.get("serviceAccounts").and_then(|at| service_accounts(ctx, &at));
    if accounts.is_some() {
        text.push("serviceAccounts".to_owned());
    }
    let mut global_only = false;
    let mut place = None;
    if let Some(at) = optional(fields, "namespaceSelector") {
        text.push(format!("namespaceSelector: {}", at.value.as_str().unwrap_or_default()));
        if let Some(found) = at.any_selector(ctx) {
            global_only = found.is_global();
            if !global_only && found.mentions_global() {
                at.error(ctx, "global() can be combined with nothing; write it alone");
            }
            place = Some(if global_only { Selector::all() } else { in_namespaces(found) });
        }
    } else if let Some(namespace) = scope.namespace
        && (selector.is_some() || not_selector.is_some() || accounts.is_some())
    {
        place = Some(Selector::equals(NAMESPACE_LABEL, namespace));
    }
    let text = text.join(", ");
    let parts: Vec<Selector> = [place, selector, accounts].into_iter().flatten().collect();
    if parts.is_empty() {
        return (None, not_selector.map(|selector| PeerSelector { selector, global_only: false, text }));
    }
    let mut all = parts.into_iter().fold(Selector::all(), Selector::and);
    if let Some(without) = not_selector {
        all = all.and(without.not());
    }
    (Some(PeerSelector { selector: all, global_only, text }), None)
}

/// The namespace part of a selector: `all()` means "in any namespace" (§1.1).
pub(crate) fn in_namespaces(selector: Selector) -> Selector {
    if selector.is_all() { Selector::has(NAMESPACE_LABEL) } else { selector.with_key_prefix("pcns.") }
}

/// The service account part of a selector.
pub(crate) fn of_service_accounts(selector: Selector) -> Selector {
    if selector.is_all() { Selector::has(SERVICE_ACCOUNT_LABEL) } else { selector.with_key_prefix("pcsa.") }
}

/// Only pods have a service account, so a negative selector must not reach anything else (§1.3).
fn service_accounts(ctx: &mut Context, at: &At<'_>) -> Option<Selector> {
    let mut fields = at.fields(ctx)?;
    let mut result = Selector::has(SERVICE_ACCOUNT_LABEL);
    let names_at = fields.get("names");
    let selector_at = optional(&mut fields, "selector");
    if names_at.is_none() && selector_at.is_none() {
        at.error(ctx, "says nothing; write `names:` or `selector:`, or remove it");
    }
    if let Some(at) = names_at {
        let items = at.criterion_list(ctx, MAX_SERVICE_ACCOUNTS);
        let names: Vec<&str> = items.iter().filter_map(|item| item.text(ctx)).collect();
        result = result.and(Selector::is_in(SERVICE_ACCOUNT_LABEL, names));
    }
    if let Some(selector) = selector_at.and_then(|at| at.selector(ctx)) {
        result = result.and(of_service_accounts(selector));
    }
    fields.finish(ctx);
    Some(result)
}

/// `services` (§1.3): (namespace, name).
fn service(
    ctx: &mut Context,
    fields: &mut Fields<'_>,
    side: &str,
    scope: Scope<'_>,
) -> Option<(String, String)> {
    let at = fields.get("services")?;
    let right_side = match scope.direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    };
    if side != right_side {
        ctx.error(&at.path, format!("may only stand in `{right_side}` of this direction's rules"));
    }
    let mut excluded =
        vec!["selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets"];
    if side == "destination" {
        excluded.extend(["ports", "notPorts"]);
    }
    for name in excluded {
        if fields.get(name).is_some() {
            ctx.error(&at.path, format!("cannot stand beside `{name}`; make two rules of it"));
        }
    }
    let mut inner = at.fields(ctx)?;
    let name = inner.require(ctx, "name").and_then(|at| at.text(ctx));
    let namespace = inner.get("namespace").and_then(|at| at.text(ctx)).or(scope.namespace);
    if namespace.is_none() {
        ctx.error(&inner.path_of("namespace"), "is missing; a global policy must say which namespace");
    }
    inner.finish(ctx);
    Some((namespace?.to_owned(), name?.to_owned()))
}

/// One rule is for one IP version (§1.3): all four lists together, and `ipVersion`.
pub(crate) fn check_families(
    ctx: &mut Context,
    path: &str,
    version: Option<IpVersion>,
    sides: [&EntityRule; 2],
) {
    let all = || sides.iter().flat_map(|side| side.nets.iter().chain(&side.not_nets));
    let v4 = all().find(|net| net.addr().is_ipv4());
    let v6 = all().find(|net| net.addr().is_ipv6());
    match (v4, v6, version) {
        (Some(a), Some(b), _) => {
            ctx.error(path, format!("mixes IPv4 ({a}) and IPv6 ({b}) in one rule; write one rule for each"));
        }
        (None, Some(net), Some(IpVersion::V4)) => {
            ctx.error(path, format!("is for IPv4 (ipVersion or protocol), but names {net}"));
        }
        (Some(net), None, Some(IpVersion::V6)) => {
            ctx.error(path, format!("is for IPv6 (ipVersion or protocol), but names {net}"));
        }
        _ => {}
    }
}
