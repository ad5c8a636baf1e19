//! FelixConfiguration and KubeControllersConfiguration. Both are read in part: other fields may stand there (D13).

use ipnet::IpNet;

use super::fields::{At, Context, Fields};
use super::meta::Meta;
use super::scalar::Bare;
use crate::policy::{AutoTemplate, Failsafe, FelixConfiguration, KubeControllersConfiguration, PortRange};
use crate::selector::Selector;

/// Longest regular expression over device names.
const MAX_PATTERN_CHARS: usize = 256;

/// The name of the configuration that holds for everybody.
pub(crate) const DEFAULT_NAME: &str = "default";

pub(crate) fn felix(ctx: &mut Context, _meta: &Meta, root: &mut Fields<'_>) -> Option<FelixConfiguration> {
    let mut felix = FelixConfiguration::default();
    let Some(mut spec) = root.fields(ctx, "spec") else { return Some(felix) };
    felix.failsafe_inbound = failsafes(ctx, spec.get("failsafeInboundHostPorts"));
    felix.failsafe_outbound = failsafes(ctx, spec.get("failsafeOutboundHostPorts"));
    felix.node_port_ranges = spec.get("kubeNodePortRanges").map(|at| node_port_ranges(ctx, &at));
    felix.interface_prefixes = spec.get("interfacePrefix").and_then(|at| comma_separated(ctx, &at));
    felix.interface_exclude = spec.get("interfaceExclude").and_then(|at| comma_separated(ctx, &at));
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
    let mut fields = at.fields(ctx)?;
    let protocol = match fields.get("protocol") {
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
    // A net that cannot be read must not become "from everywhere".
    (net_at.is_some() == net.is_some()).then_some(Failsafe { protocol: protocol?, port: port?, net })
}

pub(crate) fn kube_controllers(
    ctx: &mut Context,
    _meta: &Meta,
    root: &mut Fields<'_>,
) -> Option<KubeControllersConfiguration> {
    let mut result = KubeControllersConfiguration { create_default: true, ..Default::default() };
    let Some(mut host_endpoint) = root
        .fields(ctx, "spec")
        .and_then(|mut spec| spec.fields(ctx, "controllers"))
        .and_then(|mut controllers| controllers.fields(ctx, "node"))
        .and_then(|mut node| node.fields(ctx, "hostEndpoint"))
    else {
        return Some(result);
    };
    let choices = [("Enabled", true), ("Disabled", false)];
    let mut switch = |ctx: &mut Context, name, default| {
        host_endpoint.get(name).and_then(|at| at.choice(ctx, &choices)).unwrap_or(default)
    };
    result.auto_create = switch(ctx, "autoCreate", false);
    result.create_default = switch(ctx, "createDefaultHostEndpoint", true);
    let templates = host_endpoint.list(ctx, "templates");
    result.templates = templates.iter().filter_map(|at| template(ctx, at)).collect();
    Some(result)
}

fn template(ctx: &mut Context, at: &At<'_>) -> Option<AutoTemplate> {
    let mut fields = at.fields(ctx)?;
    let generate_name = fields.require(ctx, "generateName").and_then(|at| at.text(ctx));
    let node_selector =
        fields.get("nodeSelector").map_or_else(|| Some(Selector::all()), |at| at.selector(ctx));
    let labels = fields.get("labels").map(|at| at.labels(ctx)).unwrap_or_default();
    let cidrs = fields.list(ctx, "interfaceCIDRs");
    let interface_cidrs = cidrs.iter().filter_map(|at| at.net(ctx, Bare::Warn)).collect();
    let pattern_at = fields.get("interfacePattern").filter(|at| at.value.as_str() != Some(""));
    let interface_pattern = pattern_at.as_ref().and_then(|at| at.text(ctx)).map(str::to_owned);
    if let (Some(at), Some(pattern)) = (&pattern_at, &interface_pattern)
        && pattern.chars().count() > MAX_PATTERN_CHARS
    {
        at.error(ctx, format!("a pattern has at most {MAX_PATTERN_CHARS} characters"));
    }
    Some(AutoTemplate {
        generate_name: generate_name?.to_owned(),
        node_selector: node_selector?,
        labels,
        interface_cidrs,
        interface_pattern,
    })
}
