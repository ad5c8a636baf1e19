//! GlobalNetworkPolicy, NetworkPolicy and their staged twins (§1.1, §1.7).

use std::collections::BTreeSet;

use super::entity::{NAMESPACE_LABEL, in_namespaces, of_service_accounts};
use super::fields::{Context, Fields};
use super::kind::Kind;
use super::meta::{Meta, check_annotations};
use super::rule::{self, Scope};
use crate::policy::defaults::DEFAULT_TIER;
use crate::policy::{Direction, Family, OnPolicyChange, Order, Policy, PolicyKind};
use crate::selector::Selector;

const ON_POLICY_CHANGE: &str = "portcullis.dev/on-policy-change";

/// A policy that was read.
pub(crate) struct Read {
    pub(crate) policy: Policy,
    /// `stagedAction` Delete and Ignore: nothing is to be judged in shadow.
    pub(crate) inert: bool,
}

pub(crate) fn policy(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Read> {
    check_annotations(ctx, meta, &[("on-policy-change", &["keep", "recheck"])]);
    let kind = match meta.key.kind {
        Kind::NetworkPolicy => PolicyKind::NetworkPolicy,
        Kind::StagedGlobalNetworkPolicy => PolicyKind::StagedGlobalNetworkPolicy,
        Kind::StagedNetworkPolicy => PolicyKind::StagedNetworkPolicy,
        _ => PolicyKind::GlobalNetworkPolicy,
    };
    let namespace = meta.key.kind.is_namespaced().then(|| meta.namespace());
    let mut spec = root.require(ctx, "spec")?.fields(ctx)?;
    let tier = spec.get("tier").and_then(|at| at.text(ctx)).unwrap_or(DEFAULT_TIER).to_owned();
    let order = Order(spec.get("order").and_then(|at| at.float(ctx)));
    let selector = selector(ctx, &mut spec, namespace.as_deref());
    let scope = |direction| Scope { direction, namespace: namespace.as_deref() };
    let ingress_at = spec.get("ingress");
    let egress_at = spec.get("egress");
    let ingress = rule::rules(ctx, ingress_at, scope(Direction::Ingress));
    let has_egress =
        egress_at.as_ref().is_some_and(|at| at.value.as_array().is_some_and(|list| !list.is_empty()));
    let egress = rule::rules(ctx, egress_at, scope(Direction::Egress));
    let types = types(ctx, &mut spec, &ingress, has_egress);
    let family =
        if namespace.is_none() { family(ctx, &mut spec, has_egress, &types) } else { Family::Normal };
    performance_hints(ctx, &mut spec);
    let inert = kind.is_staged() && staged_action(ctx, &mut spec, &ingress, &egress);
    spec.finish_with(ctx, |key| {
        let global_only = ["preDNAT", "doNotTrack", "applyOnForward", "namespaceSelector"];
        global_only.contains(&key).then(|| "only a GlobalNetworkPolicy has it".to_owned())
    });
    let on_policy_change = match meta.annotations.get(ON_POLICY_CHANGE).map(String::as_str) {
        Some("recheck") => Some(OnPolicyChange::Recheck),
        Some("keep") => Some(OnPolicyChange::Keep),
        _ => None,
    };
    let name = meta.name();
    let policy = Policy {
        kind,
        namespace,
        name,
        tier,
        order,
        selector: selector?,
        family,
        types,
        ingress,
        egress,
        on_policy_change,
    };
    Some(Read { policy, inert })
}

/// `selector`, `namespaceSelector` and `serviceAccountSelector` into one (§1.1); a namespace is ANDed (§1.7).
fn selector(ctx: &mut Context, spec: &mut Fields<'_>, namespace: Option<&str>) -> Option<Selector> {
    let mut valid = true;
    let mut read = |ctx: &mut Context, spec: &mut Fields<'_>, name, wrap: fn(Selector) -> Selector| {
        let at = spec.get(name).filter(|at| at.value.as_str() != Some(""));
        let Some(at) = at else { return Selector::all() };
        let found = at.selector(ctx);
        valid &= found.is_some();
        found.map(wrap).unwrap_or_else(Selector::all)
    };
    let mut result = read(ctx, spec, "selector", |selector| selector);
    match namespace {
        None => result = result.and(read(ctx, spec, "namespaceSelector", in_namespaces)),
        Some(namespace) => result = result.and(Selector::equals(NAMESPACE_LABEL, namespace)),
    }
    result = result.and(read(ctx, spec, "serviceAccountSelector", of_service_accounts));
    valid.then_some(result)
}

/// `types`, or what the rules imply when it is absent (§1.1).
fn types(
    ctx: &mut Context,
    spec: &mut Fields<'_>,
    ingress: &[crate::policy::Rule],
    has_egress: bool,
) -> BTreeSet<Direction> {
    let Some(at) = spec.get("types") else {
        return match (ingress.is_empty(), has_egress) {
            (_, false) => [Direction::Ingress].into(),
            (true, true) => [Direction::Egress].into(),
            (false, true) => [Direction::Ingress, Direction::Egress].into(),
        };
    };
    let items = at.list(ctx);
    if at.value.as_array().is_some_and(Vec::is_empty) {
        at.error(ctx, "an empty list; write Ingress or Egress, or remove the field");
    }
    let mut types = BTreeSet::new();
    for item in items {
        if item.value.is_object() {
            item.error(ctx, "a rule cannot stand under `types:`; write `ingress:` above these rules");
            continue;
        }
        let choices = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
        if let Some(direction) = item.choice(ctx, &choices)
            && !types.insert(direction)
        {
            item.error(ctx, "stands here twice; remove one");
        }
    }
    types
}

/// The three flags of global policies, which exclude each other as §1.1 says.
fn family(ctx: &mut Context, spec: &mut Fields<'_>, has_egress: bool, types: &BTreeSet<Direction>) -> Family {
    let untracked = spec.flag(ctx, "doNotTrack");
    let pre_dnat = spec.flag(ctx, "preDNAT");
    let forward = spec.flag(ctx, "applyOnForward");
    if untracked && pre_dnat {
        ctx.error("spec.preDNAT", "cannot stand beside `doNotTrack: true`; choose one");
    }
    for (name, set) in [("preDNAT", pre_dnat), ("doNotTrack", untracked)] {
        if set && !forward {
            ctx.error(
                "spec.applyOnForward",
                format!("must be true where `{name}: true` stands; write `applyOnForward: true`"),
            );
        }
    }
    if pre_dnat && has_egress {
        ctx.error(
            "spec.egress",
            "a preDNAT policy judges ingress only; move these rules to a policy of their own",
        );
    }
    if pre_dnat && types.contains(&Direction::Egress) {
        ctx.error("spec.types", "a preDNAT policy judges ingress only; write `types: [Ingress]`");
    }
    match (untracked, pre_dnat, forward) {
        (true, _, _) => Family::Untracked,
        (_, true, _) => Family::PreDnat,
        (_, _, true) => Family::NormalAndForward,
        _ => Family::Normal,
    }
}

fn performance_hints(ctx: &mut Context, spec: &mut Fields<'_>) {
    let mut seen = false;
    for item in spec.list(ctx, "performanceHints") {
        if item.choice(ctx, &[("AssumeNeededOnEveryNode", ())]).is_some()
            && std::mem::replace(&mut seen, true)
        {
            item.error(ctx, "stands here twice; remove one");
        }
    }
}

/// Whether nothing is to be judged in shadow.
fn staged_action(
    ctx: &mut Context,
    spec: &mut Fields<'_>,
    ingress: &[crate::policy::Rule],
    egress: &[crate::policy::Rule],
) -> bool {
    let choices = [("Set", false), ("Learn", false), ("Delete", true), ("Ignore", true)];
    let Some(at) = spec.get("stagedAction") else { return false };
    let inert = at.choice(ctx, &choices).unwrap_or(false);
    if at.value.as_str() == Some("Delete") {
        // Everything else must be absent: the object only says which policy shall go (§12).
        let others =
            ["order", "selector", "types", "namespaceSelector", "serviceAccountSelector", "performanceHints"];
        let flags = ["preDNAT", "doNotTrack", "applyOnForward"];
        let others =
            others.into_iter().filter(|name| spec.get(name).is_some_and(|at| at.value.as_str() != Some("")));
        let others: Vec<&str> = others.collect();
        let set: Vec<&str> = flags
            .into_iter()
            .filter(|name| spec.get(name).is_some_and(|at| at.value.as_bool() == Some(true)))
            .collect();
        if !ingress.is_empty() || !egress.is_empty() || !others.is_empty() || !set.is_empty() {
            at.error(ctx, "with Delete only `tier` may stand beside it; remove the rest");
        }
    }
    inert
}
