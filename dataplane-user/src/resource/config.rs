//! FelixConfiguration and KubeControllersConfiguration. Both are read in part: other fields may stand there (D13),
//! and each of them is told, because a setting that silently does nothing is a trap.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::fields::{At, Context, Fields};
use super::meta::Meta;
use super::scalar::Bare;
use crate::policy::{AutoTemplate, Failsafe, FelixConfiguration, KubeControllersConfiguration, PortRange};
use crate::selector::Selector;

/// Longest regular expression over device names.
pub(crate) const MAX_PATTERN_CHARS: usize = 256;
/// Bytes that a compiled regular expression may take: one of a few characters can ask for gigabytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most templates of host endpoints.
pub(crate) const MAX_TEMPLATES: usize = 256;

/// The name of the configuration that holds for everybody.
pub(crate) const DEFAULT_NAME: &str = "default";

/// The node whose own FelixConfiguration has this name.
pub(crate) fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("node.").filter(|node| !node.is_empty())
}

/// Settings of Felix whose subject is decided here in another way.
pub(crate) const DECIDED_OTHERWISE: [(&str, &str); 16] = [
    ("bpfEnabled", "this program always enforces by eBPF, beside kube-proxy (D11)"),
    ("bpfEnforceRPF", "write the annotation portcullis.dev/anti-spoof on the HostEndpoint (D27)"),
    ("bpfDataIfacePattern", "host endpoints say which devices are governed (D6)"),
    ("bpfConntrackTimeouts", "the timeouts of flows are fixed"),
    ("defaultEndpointToHostAction", "what pods send to their own host is left to the CNI (D26)"),
    ("disableConntrackInvalidCheck", "packets without a flow that begin none are always dropped (D17)"),
    ("failsafeInboundHostPort", "the field is called failsafeInboundHostPorts"),
    ("failsafeOutboundHostPort", "the field is called failsafeOutboundHostPorts"),
    ("iptablesFilterDenyAction", "denied packets are dropped, never rejected (D11)"),
    ("iptablesFilterAllowAction", "allowed packets go on to netfilter (D11)"),
    ("iptablesMangleAllowAction", "allowed packets go on to netfilter (D11)"),
    ("chainInsertMode", "netfilter is not touched (D11)"),
    ("logPrefix", "a Log rule makes an event, not a kernel log line"),
    ("xdpEnabled", "untracked policy is judged at TC whatever stands here (D10)"),
    ("genericXDPEnabled", "untracked policy is judged at TC whatever stands here (D10)"),
    ("workloadSourceSpoofing", "pods are the CNI's business (D47)"),
];

pub(crate) fn felix(ctx: &mut Context, _meta: &Meta, root: &mut Fields<'_>) -> Option<FelixConfiguration> {
    let mut felix = FelixConfiguration::default();
    let Some(mut spec) = root.fields(ctx, "spec") else { return Some(felix) };
    felix.failsafe_inbound = failsafes(ctx, spec.get("failsafeInboundHostPorts"));
    felix.failsafe_outbound = failsafes(ctx, spec.get("failsafeOutboundHostPorts"));
    felix.node_port_ranges = spec.get("kubeNodePortRanges").map(|at| node_port_ranges(ctx, &at));
    felix.interface_prefixes = spec.get("interfacePrefix").and_then(|at| comma_separated(ctx, &at));
    felix.interface_exclude = spec.get("interfaceExclude").and_then(|at| comma_separated(ctx, &at));
    if let Some(at) = spec.get("interfaceExclude") {
        for entry in felix.interface_exclude.iter().flatten() {
            if let Some(pattern) = entry.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
                check_pattern(ctx, &at, pattern);
            }
        }
    }
    let otherwise = |key: &str| DECIDED_OTHERWISE.iter().find(|(name, _)| *name == key).map(|(_, why)| *why);
    spec.finish_with_notes(ctx, otherwise);
    Some(felix)
}

fn comma_separated(ctx: &mut Context, at: &At<'_>) -> Option<Vec<String>> {
    let text = at.string(ctx)?;
    Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

fn node_port_ranges(ctx: &mut Context, at: &At<'_>) -> Vec<PortRange> {
    let items = at.list(ctx);
    at.check_count(ctx, items.len(), dataplane_common::limits::MAX_NODE_PORT_RANGES);
    items.iter().filter_map(|item| item.port_range(ctx)).collect()
}

/// `[]` turns the failsafes off; absent means the default list (§5).
fn failsafes(ctx: &mut Context, at: Option<At<'_>>) -> Option<Vec<Failsafe>> {
    let at = at?;
    let items = at.list(ctx);
    at.check_count(ctx, items.len(), dataplane_common::limits::MAX_FAILSAFES as usize / 2);
    Some(items.iter().filter_map(|item| failsafe(ctx, item)).collect())
}

fn failsafe(ctx: &mut Context, at: &At<'_>) -> Option<Failsafe> {
    let Some(mut fields) = at.value.as_object().and_then(|_| at.fields(ctx)) else {
        at.error(
            ctx,
            "a failsafe is a mapping; write {protocol: tcp, port: 22}, and `net: 10.0.0.0/8` if you like",
        );
        return None;
    };
    let protocol = match fields.get("protocol").filter(|at| at.value.as_str() != Some("")) {
        None => Some(6),
        Some(at) => {
            // The default is written in lower case by Calico, so any case is right here (D13).
            let text = at.string(ctx)?;
            let known = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];
            let found =
                known.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
            if found.is_none() {
                at.error(ctx, "a failsafe has protocol tcp, udp or sctp");
            }
            found
        }
    };
    let port = fields.require(ctx, "port").and_then(|at| at.port(ctx, 0));
    let net_at = fields.get("net").filter(|at| at.value.as_str() != Some(""));
    let net: Option<IpNet> = net_at.as_ref().and_then(|at| at.net(ctx, Bare::Warn));
    // A misspelt `net` would open the port to everybody.
    fields.finish(ctx);
    // A net that cannot be read must not become "from everywhere".
    (net_at.is_some() == net.is_some()).then_some(Failsafe { protocol: protocol?, port: port?, net })
}

pub(crate) fn kube_controllers(
    ctx: &mut Context,
    _meta: &Meta,
    root: &mut Fields<'_>,
) -> Option<KubeControllersConfiguration> {
    let mut result = KubeControllersConfiguration { create_default: true, ..Default::default() };
    let Some(mut spec) = root.fields(ctx, "spec") else { return Some(result) };
    let controllers = spec.fields(ctx, "controllers");
    spec.finish_with_near_misses(ctx);
    let Some(mut controllers) = controllers else { return Some(result) };
    let node = controllers.fields(ctx, "node");
    controllers.finish_with_near_misses(ctx);
    let Some(mut node) = node else { return Some(result) };
    let host_endpoint = node.fields(ctx, "hostEndpoint");
    node.finish_with_near_misses(ctx);
    let Some(mut host_endpoint) = host_endpoint else { return Some(result) };
    let choices = [("Enabled", true), ("Disabled", false)];
    let mut switch = |ctx: &mut Context, name, default| {
        host_endpoint.get(name).and_then(|at| at.choice(ctx, &choices)).unwrap_or(default)
    };
    result.auto_create = switch(ctx, "autoCreate", false);
    result.create_default = switch(ctx, "createDefaultHostEndpoint", true);
    let templates = host_endpoint.list(ctx, "templates");
    if let Some(at) = host_endpoint.get("templates") {
        at.check_count(ctx, templates.len(), MAX_TEMPLATES);
    }
    host_endpoint.finish_with_notes(ctx, |_| None);
    let mut names = BTreeSet::new();
    for at in templates {
        let Some(template) = template(ctx, &at) else { continue };
        if !names.insert(template.generate_name.clone()) {
            // Both would make host endpoints of one name.
            at.error(
                ctx,
                format!("generateName {:?} stands here twice; choose another", template.generate_name),
            );
        }
        result.templates.push(template);
    }
    if !result.auto_create && !result.templates.is_empty() {
        let message = "templates without `autoCreate: Enabled` make no host endpoint";
        ctx.report(
            crate::policy::Severity::Warning,
            &host_endpoint_path("templates"),
            String::new(),
            message,
        );
    }
    Some(result)
}

fn host_endpoint_path(field: &str) -> String {
    format!("spec.controllers.node.hostEndpoint.{field}")
}

fn template(ctx: &mut Context, at: &At<'_>) -> Option<AutoTemplate> {
    let mut fields = at.fields(ctx)?;
    let name_at = fields.require(ctx, "generateName");
    let generate_name = name_at.as_ref().and_then(|at| at.text(ctx));
    if let (Some(at), Some(name)) = (&name_at, generate_name)
        && !(name.len() <= super::meta::MAX_LABEL_CHARS && super::meta::is_dns_label(name))
    {
        at.error(ctx, "becomes part of a name: lower-case letters, digits and `-`, at most 63");
    }
    let node_selector =
        fields.get("nodeSelector").map_or_else(|| Some(Selector::all()), |at| at.selector(ctx));
    let labels = fields.get("labels").map(|at| at.labels(ctx)).unwrap_or_default();
    let cidrs_at = fields.get("interfaceCIDRs");
    let cidrs = cidrs_at.as_ref().map(|at| at.list(ctx)).unwrap_or_default();
    if let Some(at) = &cidrs_at {
        at.check_count(ctx, cidrs.len(), super::entity::MAX_NETS);
    }
    let interface_cidrs = cidrs.iter().filter_map(|at| at.net(ctx, Bare::Warn)).collect();
    let pattern_at = fields.get("interfacePattern").filter(|at| at.value.as_str() != Some(""));
    let interface_pattern = pattern_at.as_ref().and_then(|at| at.text(ctx)).map(str::to_owned);
    if let (Some(at), Some(pattern)) = (&pattern_at, &interface_pattern) {
        check_pattern(ctx, at, pattern);
    }
    fields.finish_with_notes(ctx, |_| None);
    Some(AutoTemplate {
        generate_name: generate_name?.to_owned(),
        node_selector: node_selector?,
        labels,
        interface_cidrs,
        interface_pattern,
    })
}

/// A pattern that selects no device because it cannot be read would leave the device open.
fn check_pattern(ctx: &mut Context, at: &At<'_>, pattern: &str) {
    if pattern.chars().count() > MAX_PATTERN_CHARS {
        at.error(ctx, format!("a pattern has at most {MAX_PATTERN_CHARS} characters"));
        return;
    }
    if let Err(error) = regex::RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build() {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        at.error(ctx, format!("no regular expression: {why}"));
    }
}
