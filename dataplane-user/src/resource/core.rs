//! Kubernetes' own kinds, each read in part: what D3 and §2 need. Other fields may stand there (D13).

use std::net::IpAddr;

use super::fields::{At, Context, Fields};
use super::meta::Meta;
use super::scalar::{Bare, PORT_PROTOCOLS};
use crate::policy::{Endpoint, EndpointSlice, Node, Pod, PodPort, Protocol, Service, ServicePort};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Ports without a protocol are TCP in every core kind.
fn protocol(ctx: &mut Context, fields: &mut Fields<'_>) -> Option<Protocol> {
    fields.get("protocol").map_or(Some(6), |at| at.choice(ctx, &PORT_PROTOCOLS))
}

/// Each once, in the order of its first place.
fn without_repeats<T: Copy + Ord>(items: Vec<T>) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(*item)).collect()
}

fn addresses(ctx: &mut Context, fields: &mut Fields<'_>, name: &'static str) -> Vec<IpAddr> {
    fields.list(ctx, name).iter().filter_map(|at| at.address(ctx)).collect()
}

pub(crate) fn node(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Node> {
    let mut node = Node {
        name: meta.name(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        ..Node::default()
    };
    if let Some(mut spec) = root.fields(ctx, "spec") {
        let single = spec.get("podCIDR").filter(|at| at.value != "");
        let many = spec.list(ctx, "podCIDRs");
        let nets = single.iter().chain(&many).filter_map(|at| at.net(ctx, Bare::Warn)).collect();
        node.pod_cidrs = without_repeats(nets);
    }
    let Some(mut status) = root.fields(ctx, "status") else { return Some(node) };
    for at in status.list(ctx, "addresses") {
        let Some(mut fields) = at.fields(ctx) else { continue };
        let kind = fields.string(ctx, "type").unwrap_or_default();
        let address = fields.get("address");
        match kind {
            "InternalIP" => node.internal_ips.extend(address.and_then(|at| at.address(ctx))),
            "ExternalIP" => node.other_ips.extend(address.and_then(|at| at.address(ctx))),
            // Host names and DNS names.
            _ => {}
        }
    }
    Some(node)
}

pub(crate) fn service(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Service> {
    let mut service = Service { namespace: meta.namespace(), name: meta.name(), ..Service::default() };
    if let Some(mut spec) = root.fields(ctx, "spec") {
        let single = spec.get("clusterIP");
        let many = spec.list(ctx, "clusterIPs");
        for at in single.iter().chain(&many) {
            // "None": a headless service, which has no address of its own.
            if matches!(at.value.as_str(), Some("" | "None")) {
                continue;
            }
            service.cluster_ips.extend(at.address(ctx));
        }
        service.cluster_ips = without_repeats(service.cluster_ips);
        service.external_ips = addresses(ctx, &mut spec, "externalIPs");
        service.ports = spec.list(ctx, "ports").iter().filter_map(|at| service_port(ctx, at)).collect();
    }
    let ingress = root
        .fields(ctx, "status")
        .and_then(|mut status| status.fields(ctx, "loadBalancer"))
        .map(|mut balancer| balancer.list(ctx, "ingress"))
        .unwrap_or_default();
    for at in ingress {
        let Some(mut fields) = at.fields(ctx) else { continue };
        // A balancer that is a proxy sends to the node port; its address never reaches a node as a destination.
        let proxied = fields.string(ctx, "ipMode") == Some("Proxy");
        if let Some(at) = fields.get("ip").filter(|_| !proxied) {
            service.load_balancer_ips.extend(at.address(ctx));
        }
    }
    Some(service)
}

fn service_port(ctx: &mut Context, at: &At<'_>) -> Option<ServicePort> {
    let mut fields = at.fields(ctx)?;
    let name = fields.string(ctx, "name").unwrap_or_default().to_owned();
    let protocol = protocol(ctx, &mut fields);
    let port = fields.require(ctx, "port").and_then(|at| at.port(ctx, 1));
    let node_port = fields.get("nodePort").and_then(|at| at.port(ctx, 0)).filter(|port| *port > 0);
    Some(ServicePort { name, protocol: protocol?, port: port?, node_port })
}

pub(crate) fn endpoint_slice(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<EndpointSlice> {
    let service = meta.labels.get(SERVICE_NAME_LABEL).cloned().unwrap_or_default();
    let mut slice =
        EndpointSlice { namespace: meta.namespace(), name: meta.name(), service, ..Default::default() };
    let has_addresses = root.string(ctx, "addressType") != Some("FQDN");
    for at in root.list(ctx, "endpoints") {
        let Some(mut fields) = at.fields(ctx) else { continue };
        let addresses = if has_addresses { addresses(ctx, &mut fields, "addresses") } else { Vec::new() };
        let mut conditions = fields.fields(ctx, "conditions");
        let mut condition = |ctx: &mut Context, name, default| {
            let at = conditions.as_mut().and_then(|fields| fields.get(name));
            at.and_then(|at| at.bool(ctx)).unwrap_or(default)
        };
        // What is not told counts as ready, and as serving when it is ready.
        let ready = condition(ctx, "ready", true);
        let serving = condition(ctx, "serving", ready);
        let terminating = condition(ctx, "terminating", false);
        slice.endpoints.push(Endpoint { addresses, ready, serving, terminating });
    }
    for at in root.list(ctx, "ports") {
        let Some(mut fields) = at.fields(ctx) else { continue };
        let name = fields.string(ctx, "name").unwrap_or_default().to_owned();
        let protocol = protocol(ctx, &mut fields);
        let port = fields.get("port").and_then(|at| at.port(ctx, 1));
        if let (Some(protocol), Some(port)) = (protocol, port) {
            slice.ports.push((name, protocol, port));
        }
    }
    Some(slice)
}

pub(crate) fn pod(ctx: &mut Context, meta: &Meta, root: &mut Fields<'_>) -> Option<Pod> {
    let mut pod = Pod {
        namespace: meta.namespace(),
        name: meta.name(),
        labels: meta.labels.clone(),
        service_account: "default".to_owned(),
        ..Pod::default()
    };
    if let Some(mut spec) = root.fields(ctx, "spec") {
        pod.node = spec.string(ctx, "nodeName").unwrap_or_default().to_owned();
        if let Some(account) = spec.string(ctx, "serviceAccountName").filter(|name| !name.is_empty()) {
            pod.service_account = account.to_owned();
        }
        pod.host_network = spec.flag(ctx, "hostNetwork");
        let mut containers = spec.list(ctx, "containers");
        // Side cars are init containers that stay.
        containers.extend(spec.list(ctx, "initContainers"));
        for at in containers {
            let Some(mut container) = at.fields(ctx) else { continue };
            pod.ports.extend(container.list(ctx, "ports").iter().filter_map(|at| pod_port(ctx, at)));
        }
    }
    if let Some(mut status) = root.fields(ctx, "status") {
        pod.terminated = matches!(status.string(ctx, "phase"), Some("Succeeded" | "Failed"));
        let single = status.get("podIP").filter(|at| at.value != "");
        let many: Vec<At<'_>> =
            status.list(ctx, "podIPs").iter().filter_map(|at| at.fields(ctx)?.get("ip")).collect();
        pod.ips = without_repeats(single.iter().chain(&many).filter_map(|at| at.address(ctx)).collect());
    }
    Some(pod)
}

fn pod_port(ctx: &mut Context, at: &At<'_>) -> Option<PodPort> {
    let mut fields = at.fields(ctx)?;
    let name = fields.string(ctx, "name").filter(|name| !name.is_empty()).map(str::to_owned);
    let protocol = protocol(ctx, &mut fields);
    let port = fields.require(ctx, "containerPort").and_then(|at| at.port(ctx, 1));
    let host_port = fields.get("hostPort").and_then(|at| at.port(ctx, 0)).filter(|port| *port > 0);
    let host_ip = fields.get("hostIP").filter(|at| at.value != "").and_then(|at| at.address(ctx));
    // 0.0.0.0 and :: mean every address, as absence does.
    let host_ip = host_ip.filter(|address| !address.is_unspecified());
    Some(PodPort { name, protocol: protocol?, port: port?, host_port, host_ip })
}
