//! FelixConfiguration and KubeControllersConfiguration (`resource::config`), which are read in part.

use dataplane_common::limits::{MAX_FAILSAFES, MAX_NODE_PORT_RANGES};

use super::patterns::{checked_net, port_range, selector};
use super::schema::{Schema, optional, required};
use crate::resource::config::{MAX_PATTERN_CHARS, MAX_TEMPLATES};
use crate::resource::entity::MAX_NETS;
use crate::resource::meta::MAX_LABEL_CHARS;

pub(super) fn felix() -> Schema {
    let failsafes = |text: &str| {
        let most = usize::try_from(MAX_FAILSAFES / 2).unwrap_or(usize::MAX);
        Schema::list(failsafe(), most).describe(text)
    };
    Schema::object([
        optional(
            "failsafeInboundHostPorts",
            failsafes(
                "Ports of the node that no policy can close; `[]`: none; absent: a list that keeps the node in reach.",
            ),
        ),
        optional(
            "failsafeOutboundHostPorts",
            failsafes("Ports that the node reaches whatever policies say."),
        ),
        optional(
            "kubeNodePortRanges",
            Schema::list(port_range(), MAX_NODE_PORT_RANGES)
                .describe("Node ports, where no Service is known."),
        ),
        optional(
            "interfacePrefix",
            Schema::string().describe("How names of workload devices begin, comma-separated."),
        ),
        optional(
            "interfaceExclude",
            Schema::string().describe("Devices that are left alone, comma-separated."),
        ),
    ])
}

fn failsafe() -> Schema {
    // An empty net is the same as an absent one.
    let net = checked_net()
        .pattern("^([0-9A-Fa-f:.]+(/[0-9]{1,3})?)?$")
        .with("x-kubernetes-validations", serde_json::Value::Array(Vec::new()))
        .rule(
            "self == '' || isCIDR(self) || isIP(self)",
            "no network; write address/prefix length, such as 10.0.0.0/8",
        );
    Schema::object([
        optional(
            "protocol",
            Schema::string()
                .pattern("^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp])?$")
                .describe("Absent: TCP."),
        ),
        required("port", Schema::integer(0, u16::MAX.into())),
        optional("net", net.describe("Who reaches it; absent: everybody.")),
    ])
}

pub(super) fn kube_controllers() -> Schema {
    let switch = |text: &str| Schema::string().choices(["Enabled", "Disabled"]).describe(text);
    let templates = Schema::list(template(), MAX_TEMPLATES)
        .with("x-kubernetes-list-type", "map")
        .with("x-kubernetes-list-map-keys", vec!["generateName"]);
    let host_endpoint = Schema::object([
        optional("autoCreate", switch("Host endpoints for every node, without objects for them.")),
        optional("createDefaultHostEndpoint", switch("One for all devices of each node.")),
        optional("templates", templates.describe("More of them, by node and device.")),
    ]);
    let node = Schema::object([optional("hostEndpoint", host_endpoint)]);
    Schema::object([optional("controllers", Schema::object([optional("node", node)]))])
}

fn template() -> Schema {
    Schema::object([
        required(
            "generateName",
            Schema::string()
                .pattern("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
                .length(1, MAX_LABEL_CHARS)
                .describe("Part of the host endpoint's name."),
        ),
        optional("nodeSelector", selector("Which nodes, by their labels; absent or empty: all.")),
        optional("labels", Schema::strings().describe("Labels of the host endpoint, besides the node's.")),
        optional(
            "interfaceCIDRs",
            Schema::list(checked_net(), MAX_NETS).describe("Devices with an address in one of these."),
        ),
        optional(
            "interfacePattern",
            Schema::string()
                .with("maxLength", MAX_PATTERN_CHARS)
                .describe("Devices by a regular expression."),
        ),
    ])
}
