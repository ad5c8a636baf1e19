//! HostEndpoint, network sets and Tier (`resource::endpoint`).

use super::patterns::{address, net};
use super::schema::{Schema, optional, required};
use crate::policy::TierDefault;
use crate::policy::defaults::built_in_tiers;
use crate::resource::endpoint::{MAX_DEVICE_CHARS, MAX_ENDPOINT_ITEMS, MAX_SET_NETS};
use crate::resource::meta::{MAX_LABEL_CHARS, MAX_NAME_CHARS};
use crate::resource::scalar::PORT_PROTOCOLS;

pub(super) fn host_endpoint() -> Schema {
    Schema::object([
        required("node", Schema::string().length(1, MAX_NAME_CHARS).describe("The node's name.")),
        optional(
            "interfaceName",
            Schema::string()
                .pattern(&format!(r"^(\*|[A-Za-z0-9_.-]{{0,{MAX_DEVICE_CHARS}}})$"))
                .describe("The device, or \"*\" for every one that no other host endpoint is for."),
        ),
        optional(
            "expectedIPs",
            Schema::list(address(), MAX_ENDPOINT_ITEMS)
                .describe("The node's addresses on the device; without interfaceName they say which device is meant."),
        ),
        optional(
            "profiles",
            Schema::list(Schema::string().not_empty(), MAX_ENDPOINT_ITEMS)
                .describe("Profiles to ask when no policy decides."),
        ),
        optional("ports", Schema::list(port(), MAX_ENDPOINT_ITEMS).describe("Names for ports, which rules may use.")),
    ])
    .rule(
        "has(self.interfaceName) && self.interfaceName != '' || has(self.expectedIPs) && self.expectedIPs.size() > 0",
        "neither interfaceName nor expectedIPs says which device is meant; write `interfaceName: eth0`, or \
         `interfaceName: \"*\"` for all",
    )
}

fn port() -> Schema {
    let spellings = PORT_PROTOCOLS.iter().map(|(name, number)| format!("{name}|{number}"));
    let numbers: Vec<String> = PORT_PROTOCOLS.iter().map(|(_, number)| number.to_string()).collect();
    Schema::object([
        required("name", Schema::string().not_empty()),
        required(
            "protocol",
            Schema::integer_or_string(1, 255)
                .pattern(&format!("^({})$", spellings.collect::<Vec<_>>().join("|"))),
        ),
        required("port", Schema::integer(1, u16::MAX.into())),
    ])
    .rule(
        format!("type(self.protocol) != int || self.protocol in [{}]", numbers.join(", ")),
        "a port has protocol TCP, UDP or SCTP",
    )
}

/// GlobalNetworkSet and NetworkSet.
pub(super) fn network_set() -> Schema {
    Schema::object([optional(
        "nets",
        Schema::list(net(), MAX_SET_NETS).describe("Networks and addresses of both families."),
    )])
}

pub(super) fn tier() -> Schema {
    Schema::object([
        optional(
            "order",
            Schema::number().describe("Place among the tiers: lower ones first; absent: last."),
        ),
        optional(
            "defaultAction",
            Schema::string().choices(["Deny", "Pass"]).describe(
                "What becomes of a packet that policies of this tier select and none decides; absent: Deny.",
            ),
        ),
    ])
}

/// What a tier's name may be, and that built-in ones do not change.
pub(super) fn tier_rules() -> Vec<(String, String)> {
    let mut rules = vec![(
        format!("!self.metadata.name.contains('.') && self.metadata.name.size() <= {MAX_LABEL_CHARS}"),
        format!("a tier name has no dot and at most {MAX_LABEL_CHARS} characters"),
    )];
    for tier in built_in_tiers().into_values() {
        let action = match tier.default_action {
            TierDefault::Deny => "Deny",
            TierDefault::Pass => "Pass",
        };
        let order = tier.order.0.unwrap_or(f64::INFINITY);
        let rule = format!(
            "self.metadata.name != '{}' || !has(self.spec) || (!has(self.spec.order) || self.spec.order == {order:.1}) && \
             (!has(self.spec.defaultAction) || self.spec.defaultAction == '{action}')",
            tier.name
        );
        rules.push((rule, format!("is built in and cannot change: order {order}, defaultAction {action}")));
    }
    rules
}
