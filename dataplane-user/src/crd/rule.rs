//! Rules and their sides (`resource::rule`, `resource::entity`).

use super::patterns::{excluded_nets, nets, protocol, rule_port, selector, selector_or_global};
use super::schema::{Schema, optional, required};
use crate::policy::Direction;
use crate::resource::entity::{MAX_PORTS, MAX_SERVICE_ACCOUNTS};
use crate::resource::rule::MAX_RULES;

/// The two sides of a rule.
const SIDES: [&str; 2] = ["source", "destination"];

/// `ingress` or `egress`.
pub(super) fn rules(direction: Direction) -> Schema {
    let text = match direction {
        Direction::Ingress => {
            "Rules for what comes in, in their order; the first that matches and decides, decides."
        }
        Direction::Egress => {
            "Rules for what goes out, in their order; the first that matches and decides, decides."
        }
    };
    Schema::list(rule(direction), MAX_RULES).describe(text)
}

fn rule(direction: Direction) -> Schema {
    let rule = Schema::object([
        required(
            "action",
            Schema::string()
                .choices(["Allow", "Deny", "Log", "Pass"])
                .describe("What becomes of a packet that matches. Log makes an event and goes on; Pass leaves the tier."),
        ),
        optional("protocol", protocol("TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255.")),
        optional("notProtocol", protocol("Every protocol but this one.")),
        optional("icmp", icmp("The ICMP message.")),
        optional("notICMP", icmp("Every ICMP message but this one.")),
        optional(
            "ipVersion",
            // 4 or 6; a list of choices would refuse null.
            Schema::integer(4, 6).with("multipleOf", 2).describe("4 or 6; absent: both."),
        ),
        optional("source", entity(direction, "source")),
        optional("destination", entity(direction, "destination")),
        optional("http", Schema::anything().describe("Refused: HTTP is not looked into.")),
        optional(
            "metadata",
            Schema::object([optional("annotations", Schema::strings())]).describe("For people. No effect."),
        ),
    ]);
    cross_checks(rule)
}

fn icmp(text: &str) -> Schema {
    Schema::object([required("type", Schema::integer(0, 254)), optional("code", Schema::integer(0, 255))])
        .describe(text)
}

/// What the fields of a rule ask of each other.
fn cross_checks(rule: Schema) -> Schema {
    let any_list = |names: [&str; 2], test: &dyn Fn(&str) -> String| {
        let lists = SIDES.iter().flat_map(|side| names.map(|name| (side, format!("self.{side}.{name}"))));
        let tests = lists.map(|(side, list)| format!("has(self.{side}) && has({list}) && {}", test(&list)));
        format!("({})", tests.map(|test| format!("({test})")).collect::<Vec<_>>().join(" || "))
    };
    let any_ports = any_list(["ports", "notPorts"], &|_| "true".to_owned());
    let numbers = any_list(["ports", "notPorts"], &|list| format!("{list}.exists(p, type(p) == int)"));
    let v6_nets =
        any_list(["nets", "notNets"], &|list| format!("{list}.size() > 0 && {list}[0].contains(':')"));
    let v4_nets =
        any_list(["nets", "notNets"], &|list| format!("{list}.size() > 0 && !{list}[0].contains(':')"));
    let is = |field: &str, names: &str, numbers: &str| {
        format!("(has(self.{field}) && (self.{field} in [{names}] || self.{field} in [{numbers}]))")
    };
    let either = |names: &str, number: &str| {
        format!("({} || {})", is("protocol", names, number), is("notProtocol", names, number))
    };
    let icmp_v4 = either("'ICMP', '1'", "1");
    let icmp_v6 = either("'ICMPv6', '58'", "58");
    let version = |number| format!("(has(self.ipVersion) && self.ipVersion == {number})");
    rule.rule(
        format!(
            "!has(self.protocol) || {} || !{any_ports}",
            is("protocol", "'TCP', 'UDP', 'SCTP', '6', '17', '132'", "6, 17, 132")
        ),
        "this protocol has no ports here; write TCP, UDP or SCTP as protocol, or remove the ports",
    )
    .rule(
        format!("has(self.protocol) || !{numbers}"),
        "port numbers need `protocol: TCP`, `UDP` or `SCTP` in the rule",
    )
    .rule(
        format!("!has(self.icmp) || {}", is("protocol", "'ICMP', 'ICMPv6', '1', '58'", "1, 58")),
        "icmp needs `protocol: ICMP` or `protocol: ICMPv6` beside it",
    )
    .rule(
        format!("!({icmp_v4} && ({icmp_v6} || {})) && !({icmp_v6} && {})", version(6), version(4)),
        "ICMP exists in IPv4 only and ICMPv6 in IPv6 only, and the rule is for the other version",
    )
    .rule(format!("!({v4_nets} && {v6_nets})"), "mixes IPv4 and IPv6 in one rule; write one rule for each")
    .rule(
        format!(
            "!({v6_nets} && ({icmp_v4} || {})) && !({v4_nets} && ({icmp_v6} || {}))",
            version(4),
            version(6)
        ),
        "is for one IP version (ipVersion or protocol), but names networks of the other",
    )
    .rule(
        "!has(self.http)",
        "HTTP is not looked into here; remove it, and let a proxy judge methods and paths",
    )
}

fn entity(direction: Direction, side: &'static str) -> Schema {
    let right_side = match direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    };
    let entity = Schema::object([
        optional("nets", nets("Networks of one family; absent: any.")),
        optional("notNets", excluded_nets("Networks that do not match.")),
        optional("ports", ports("Ports; absent: any.")),
        optional("notPorts", ports("Ports that do not match.")),
        optional("selector", selector("Endpoints and network sets, by their labels.")),
        optional("notSelector", selector("Endpoints and network sets that do not match.")),
        optional(
            "namespaceSelector",
            selector_or_global(
                "Namespaces of the endpoints; `global()` for host endpoints and global sets only.",
            ),
        ),
        optional("serviceAccounts", service_accounts()),
        optional("services", service()),
    ])
    .describe("What this side of the packet must be; everything that stands here must hold.");
    if side != right_side {
        let message = format!("services may only stand in `{right_side}` of this direction's rules");
        return entity.rule("!has(self.services)", message);
    }
    let mut others =
        vec!["selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets"];
    if side == "destination" {
        others.extend(["ports", "notPorts"]);
    }
    let beside: Vec<String> = others.iter().map(|name| format!("has(self.{name})")).collect();
    entity.rule(
        format!("!has(self.services) || !({})", beside.join(" || ")),
        format!("services cannot stand beside {}; make two rules of it", others.join(", ")),
    )
}

fn ports(text: &str) -> Schema {
    Schema::list(rule_port(), MAX_PORTS).not_empty().describe(text)
}

fn service_accounts() -> Schema {
    let name = Schema::string().not_empty();
    Schema::object([
        optional("names", Schema::list(name, MAX_SERVICE_ACCOUNTS).not_empty()),
        optional("selector", selector("Service accounts by their labels.")),
    ])
    .rule(
        "has(self.names) || has(self.selector) && self.selector != ''",
        "says nothing; write `names:` or `selector:`, or remove it",
    )
    .describe("Pods that run as one of these service accounts.")
}

fn service() -> Schema {
    Schema::object([
        required("name", Schema::string().not_empty()),
        required("namespace", Schema::string().not_empty()),
    ])
    .describe("The backends of a Service.")
}
