//! Rules (§1.2).

use super::entity;
use super::fields::{At, Context, Fields};
use crate::policy::{Action, Direction, Icmp, IpVersion, Protocol, Rule};

/// Most rules of one direction (§1.1).
pub(crate) const MAX_RULES: usize = 1024;

pub(crate) const ICMP: Protocol = 1;
pub(crate) const ICMP_V6: Protocol = 58;

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) direction: Direction,
    /// Of the policy; `None` for global kinds.
    pub(crate) namespace: Option<&'a str>,
}

/// `ingress` or `egress`.
pub(crate) fn rules(ctx: &mut Context, at: Option<At<'_>>, scope: Scope<'_>) -> Vec<Rule> {
    let Some(at) = at else { return Vec::new() };
    let items = at.list(ctx);
    at.check_count(ctx, items.len(), MAX_RULES);
    items.iter().filter_map(|item| rule(ctx, item, scope)).collect()
}

fn rule(ctx: &mut Context, at: &At<'_>, scope: Scope<'_>) -> Option<Rule> {
    let mut fields = at.fields(ctx)?;
    let choices =
        [("Allow", Action::Allow), ("Deny", Action::Deny), ("Log", Action::Log), ("Pass", Action::Pass)];
    let action = fields.require(ctx, "action").and_then(|at| at.choice(ctx, &choices));
    let protocol = fields.get("protocol").and_then(|at| at.protocol(ctx));
    let not_protocol = fields.get("notProtocol").and_then(|at| at.protocol(ctx));
    let icmp = fields.get("icmp").and_then(|at| icmp(ctx, &at));
    let not_icmp = fields.get("notICMP").and_then(|at| self::icmp(ctx, &at));
    if icmp.is_some() && !matches!(protocol, Some(ICMP | ICMP_V6)) {
        ctx.error(&fields.path_of("icmp"), "needs `protocol: ICMP` or `protocol: ICMPv6` beside it");
    }
    let ip_version = ip_version(ctx, &mut fields, protocol, not_protocol);
    let mut side = |name| {
        let at = fields.get(name);
        at.map(|at| entity::entity(ctx, &at, name, scope, protocol)).unwrap_or_default()
    };
    let source = side("source");
    let destination = side("destination");
    entity::check_families(ctx, &at.path, ip_version, [&source, &destination]);
    http(ctx, &mut fields);
    annotations(ctx, &mut fields);
    fields.finish_with(ctx, |key| {
        let inside = ["nets", "notNets", "selector", "notSelector", "namespaceSelector", "ports", "notPorts"];
        inside.contains(&key).then(|| format!("`{key}` belongs under `source:` or `destination:`"))
    });
    Some(Rule { action: action?, ip_version, protocol, not_protocol, icmp, not_icmp, source, destination })
}

fn icmp(ctx: &mut Context, at: &At<'_>) -> Option<Icmp> {
    let mut fields = at.fields(ctx)?;
    // A match without a type would match nothing or everything, and does not say which (D14).
    let kind = fields.require(ctx, "type").and_then(|at| at.integer(ctx, 0, 254));
    let code = fields.get("code").and_then(|at| at.integer(ctx, 0, 255));
    fields.finish(ctx);
    Some(Icmp { kind: u8::try_from(kind?).ok()?, code: code.and_then(|code| u8::try_from(code).ok()) })
}

/// As written, or as the protocol forces it.
fn ip_version(
    ctx: &mut Context,
    fields: &mut Fields<'_>,
    protocol: Option<Protocol>,
    not_protocol: Option<Protocol>,
) -> Option<IpVersion> {
    let at = fields.get("ipVersion");
    let written = at.as_ref().and_then(|at| {
        let number = at.integer(ctx, 4, 6)?;
        match number {
            4 => Some(IpVersion::V4),
            6 => Some(IpVersion::V6),
            _ => {
                at.error(ctx, "expected 4 or 6");
                None
            }
        }
    });
    let mut result = written;
    for (name, number) in [("protocol", protocol), ("notProtocol", not_protocol)] {
        let (forced, number) = match number {
            Some(ICMP) => (IpVersion::V4, 4),
            Some(ICMP_V6) => (IpVersion::V6, 6),
            _ => continue,
        };
        if result.is_some_and(|version| version != forced) {
            ctx.error(
                &fields.path_of(name),
                format!("exists in IPv{number} only, and the rule is for the other version"),
            );
        }
        result = result.or(Some(forced));
    }
    result
}

/// Matching HTTP needs a proxy. An Allow rule without its HTTP part would admit more than was written.
fn http(ctx: &mut Context, fields: &mut Fields<'_>) {
    if let Some(at) = fields.get("http") {
        ctx.error(
            &at.path,
            "HTTP is not looked into here; remove it, and let a proxy judge methods and paths",
        );
    }
}

/// `metadata.annotations` of a rule: no effect (§1.2).
fn annotations(ctx: &mut Context, fields: &mut Fields<'_>) {
    if let Some(mut metadata) = fields.fields(ctx, "metadata") {
        if let Some(at) = metadata.get("annotations") {
            at.labels(ctx);
        }
        metadata.finish(ctx);
    }
}
