//! ValidatingAdmissionPolicies: what a schema cannot say of one object, or not within the server's budget. They are
//! bound to our definitions to deny; to Calico's own, where an agent is a guest, only to warn.
//!
//! What is large is left to the agents, which refuse it where they must: the time that the server takes for a loop grows
//! with the square of its length (seen with Kubernetes 1.36: 60,000 networks, a minute). `failurePolicy: Ignore` for the
//! same reason: the structure is checked before an admission policy runs, so only the server's budget can make one fail.
//!
//! What is stored already is looked at only where a write changes it. Else a stricter version of a policy would shut in
//! what an earlier one let pass: no finalizer could be taken off, no label set, no stored version migrated.

use serde_json::{Value, json};

use super::admission_text::{changed, in_list, known, list_of, text_list, unknown};
use super::{GROUP, advice, labels};
use crate::resource::Kind;
use crate::resource::entity::NAMESPACE_LABEL;
use crate::resource::meta::ANNOTATION_PREFIX;

const API: &str = "admissionregistration.k8s.io/v1";
/// The group that Calico stores its objects in.
const STORAGE_GROUP: &str = "crd.projectcalico.org";
/// Strings of a selector, and the parentheses between them.
const STRINGS_AND_PARENTHESES: &str = r#"r'"[^"]*"|\x27[^\x27]*\x27|[()]'"#;

/// Policies with more rules are left to the agents.
const MAX_RULES_LOOKED_AT: usize = 500;
/// So are the networks of an object with more.
const MAX_NETS_LOOKED_AT: usize = 2000;

/// What a binding does about a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The object is refused.
    Deny,
    /// The client is told, and the object is taken.
    Warn,
}

/// An admission policy before it is one.
pub(super) struct Policy {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    pub(super) kinds: Vec<Kind>,
    pub(super) operations: &'static [&'static str],
    /// The objects that are small enough to be looked at; all without it.
    pub(super) condition: Option<String>,
    pub(super) variables: Vec<(&'static str, String)>,
    /// What must hold, and the expression of the message.
    pub(super) validations: Vec<(String, String)>,
}

/// The policies. They do nothing until they are bound.
pub(super) fn objects() -> Vec<Value> {
    policies().iter().map(Policy::object).collect()
}

/// Bindings for our definitions.
pub(super) fn bindings() -> Vec<Value> {
    let bind = |policy: &Policy| match policy.effect {
        Effect::Deny => policy.binding(policy.name, GROUP, &["Deny"]),
        Effect::Warn => policy.binding(policy.name, GROUP, &["Warn"]),
    };
    policies().iter().map(bind).collect()
}

/// Bindings for clusters where Calico is: nothing is refused, whoever writes is told.
pub(super) fn calico_bindings() -> Vec<Value> {
    let bind = |policy: &Policy| {
        [("calico", GROUP), ("calico-storage", STORAGE_GROUP)]
            .map(|(suffix, group)| policy.binding(&format!("{}-{suffix}", policy.name), group, &["Warn"]))
    };
    policies().iter().flat_map(bind).collect()
}

impl Policy {
    fn metadata(name: &str) -> Value {
        json!({"name": name, "labels": labels()})
    }

    fn object(&self) -> Value {
        let variables: Vec<Value> = self
            .variables
            .iter()
            .map(|(name, expression)| json!({"name": name, "expression": expression}))
            .collect();
        let validations: Vec<Value> = self
            .validations
            .iter()
            .map(|(holds, message)| json!({"expression": holds, "messageExpression": message, "reason": "Invalid"}))
            .collect();
        let resources: Vec<&str> = self.kinds.iter().map(|kind| kind.plural()).collect();
        let mut object = json!({
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": Self::metadata(self.name),
            "spec": {
                "failurePolicy": "Ignore",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [GROUP, STORAGE_GROUP],
                    "apiVersions": ["v3", "v1"],
                    "operations": self.operations,
                    "resources": resources,
                }]},
                "variables": variables,
                "validations": validations,
            },
        });
        let size = self.condition.clone().map(|expression| ("not-too-large", expression));
        let change = (self.effect == Effect::Deny).then(|| ("changed", changed()));
        let conditions: Vec<Value> = size
            .into_iter()
            .chain(change)
            .map(|(name, expression)| json!({"name": name, "expression": expression}))
            .collect();
        if !conditions.is_empty() {
            object["spec"]["matchConditions"] = conditions.into();
        }
        object
    }

    fn binding(&self, name: &str, group: &str, actions: &[&str]) -> Value {
        json!({
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": Self::metadata(name),
            "spec": {
                "policyName": self.name,
                "validationActions": actions,
                "matchResources": {"resourceRules": [{
                    "apiGroups": [group],
                    "apiVersions": ["v3", "v1"],
                    "operations": self.operations,
                    "resources": self.kinds.iter().map(|kind| kind.plural()).collect::<Vec<_>>(),
                }]},
            },
        })
    }
}

/// A message without parts that vary.
pub(super) fn said(text: &str) -> String {
    format!("'{}'", text.replace('\'', "\\'"))
}

pub(super) const WRITES: &[&str] = &["CREATE", "UPDATE"];

fn policies() -> Vec<Policy> {
    vec![
        policy_objects(),
        endpoint_objects(),
        set_objects(),
        tier_objects(),
        settings_objects(),
        advice::on_policies(),
        advice::on_settings(),
        advice::on_deletions(),
    ]
}

/// The parts of a policy: rules, their sides, and what stands there.
pub(super) fn policy_variables() -> Vec<(&'static str, String)> {
    let both = |from: &str, first: &str, second: &str| {
        format!("{} + {}", in_list(from, first), in_list(from, second))
    };
    vec![
        ("spec", "has(object.spec) && object.spec != null ? dyn(object.spec) : dyn({})".to_owned()),
        (
            "rules",
            format!("{} + {}", list_of("variables.spec", "ingress"), list_of("variables.spec", "egress")),
        ),
        ("sides", both("variables.rules", "source", "destination")),
        ("ports", both("variables.sides", "ports", "notPorts")),
        ("allNets", both("variables.sides", "nets", "notNets")),
        ("nets", few("variables.allNets", "variables.allNets.map(ns, ns.size()).sum()")),
        ("accounts", in_list("variables.sides", "serviceAccounts")),
        (
            "selectors",
            [
                in_list("[variables.spec]", "selector"),
                in_list("[variables.spec]", "namespaceSelector"),
                in_list("[variables.spec]", "serviceAccountSelector"),
                in_list("variables.sides", "selector"),
                in_list("variables.sides", "notSelector"),
                in_list("variables.sides", "namespaceSelector"),
                in_list("variables.accounts", "selector"),
            ]
            .join(" + "),
        ),
    ]
}

/// `portcullis.dev/NAME` says one of these, or is not there.
fn annotation(name: &str, values: &[&str]) -> (String, String) {
    let key = format!("{ANNOTATION_PREFIX}{name}");
    let holds = format!(
        "!has(object.metadata.annotations) || !('{key}' in object.metadata.annotations) || \
         object.metadata.annotations['{key}'] in {}",
        text_list(values.iter().copied())
    );
    (holds, said(&format!("metadata.annotations[{key}]: expected one of {}", values.join(", "))))
}

fn reversed_range(ports: &str) -> String {
    format!(
        "{ports}.all(p, type(p) != string || !p.contains(':') || int(p.split(':')[0]) <= int(p.split(':')[1]))"
    )
}

fn policy_objects() -> Policy {
    let kind = Kind::StagedGlobalNetworkPolicy;
    let rule = ["spec", "ingress", "[]"];
    let at = |more: &[&'static str]| known(kind, &[&rule[..], more].concat());
    let is_number = "type(p) == int || p.matches('^[0-9:]+$')";
    let mut validations = vec![
        unknown("[dyn(object)]", "", &known(kind, &[])),
        unknown("[variables.spec]", "spec", &known(kind, &["spec"])),
        // Only the staged kind has an action.
        (
            "object.kind != 'GlobalNetworkPolicy' || !('stagedAction' in variables.spec)".to_owned(),
            said("unknown field in spec: stagedAction"),
        ),
        unknown("variables.rules", "a rule", &at(&[])),
        unknown("variables.sides", "a rule's source or destination", &at(&["source"])),
        unknown(&in_list("variables.rules", "icmp"), "icmp", &at(&["icmp"])),
        unknown(&in_list("variables.rules", "notICMP"), "notICMP", &at(&["notICMP"])),
        unknown(&in_list("variables.rules", "metadata"), "a rule's metadata", &at(&["metadata"])),
        unknown("variables.accounts", "serviceAccounts", &at(&["source", "serviceAccounts"])),
        unknown(&in_list("variables.sides", "services"), "services", &at(&["source", "services"])),
        (
            format!("variables.ports.all(ps, {})", reversed_range("ps")),
            "'a range of ports runs backwards: ' + variables.ports.map(ps, ps.filter(p, type(p) == string && p.contains(':') \
             && int(p.split(':')[0]) > int(p.split(':')[1])).join(', ')).join(' ').trim() + '; write the lower port first'"
                .to_owned(),
        ),
        (
            format!(
                "variables.rules.all(r, ('protocol' in r && r.protocol != null) || ({}).all(s, !({}).exists(ps, ps.exists(p, {is_number}))))",
                format_args!("{} + {}", in_list("[r]", "source"), in_list("[r]", "destination")),
                format_args!("{} + {}", in_list("[s]", "ports"), in_list("[s]", "notPorts")),
            ),
            said("port numbers need `protocol: TCP`, `UDP` or `SCTP` in the rule"),
        ),
        (
            "variables.nets.all(ns, ns.all(n, isIP(n) || isCIDR(n)))".to_owned(),
            "'no network: ' + variables.nets.map(ns, ns.filter(n, !isIP(n) && !isCIDR(n)).join(', ')).join(' ').trim() + '; write \
             address/prefix length, such as 10.0.0.0/8 or fd00::/8'"
                .to_owned(),
        ),
        (
            format!(
                "variables.selectors.map(s, s.findAll({STRINGS_AND_PARENTHESES})).all(ts, ts.filter(t, t == '(').size() == ts.filter(t, t == ')').size())"
            ),
            said("a selector does not close each of its parentheses once"),
        ),
    ];
    validations.push(annotation("on-policy-change", &["keep", "recheck"]));
    Policy {
        name: "portcullis-policies",
        effect: Effect::Deny,
        kinds: vec![Kind::GlobalNetworkPolicy, kind],
        operations: WRITES,
        condition: Some(few_rules()),
        variables: policy_variables(),
        validations,
    }
}

/// The list, or none of it when there are too many networks. Expressions of messages are evaluated whether or not
/// something is wrong, so it is the list that must be short.
fn few(list: &str, count: &str) -> String {
    format!("{count} > {MAX_NETS_LOOKED_AT} ? dyn([]) : dyn({list})")
}

/// The policy is small enough to be looked at rule by rule.
pub(super) fn few_rules() -> String {
    let rules = |name| list_of("dyn(object.spec)", name);
    format!(
        "!has(object.spec) || object.spec == null || {}.size() + {}.size() <= {MAX_RULES_LOOKED_AT}",
        rules("ingress"),
        rules("egress")
    )
}

pub(super) fn spec_variable() -> (&'static str, String) {
    policy_variables().swap_remove(0)
}

fn endpoint_objects() -> Policy {
    let kind = Kind::HostEndpoint;
    let flag = ["true", "false"];
    Policy {
        name: "portcullis-endpoints",
        effect: Effect::Deny,
        kinds: vec![kind],
        operations: WRITES,
        condition: None,
        variables: vec![spec_variable()],
        validations: vec![
            unknown("[dyn(object)]", "", &known(kind, &[])),
            unknown("[variables.spec]", "spec", &known(kind, &["spec"])),
            unknown(
                &list_of("variables.spec", "ports"),
                "spec.ports",
                &known(kind, &["spec", "ports", "[]"]),
            ),
            annotation("anti-spoof", &flag),
            annotation("drop-unknown-ethertypes", &flag),
            annotation("accept-ra", &flag),
        ],
    }
}

fn set_objects() -> Policy {
    let kind = Kind::GlobalNetworkSet;
    let label = NAMESPACE_LABEL;
    Policy {
        name: "portcullis-sets",
        effect: Effect::Deny,
        kinds: vec![kind, Kind::NetworkSet],
        operations: WRITES,
        condition: None,
        variables: vec![spec_variable(), ("allNets", list_of("variables.spec", "nets")), ("nets", few("variables.allNets", "variables.allNets.size()"))],
        validations: vec![
            unknown("[dyn(object)]", "", &known(kind, &[])),
            unknown("[variables.spec]", "spec", &known(kind, &["spec"])),
            // An IPv4 address has been looked at by the schema, and a set may hold many.
            (
                "variables.nets.all(n, !n.contains(':') || isIP(n) || isCIDR(n))".to_owned(),
                "'no network: ' + variables.nets.filter(n, n.contains(':') && !isIP(n) && !isCIDR(n)).join(', ')".to_owned(),
            ),
            (
                format!("!has(object.metadata.labels) || !('{label}' in object.metadata.labels)"),
                said(&format!("metadata.labels[{label}] is set by the system; remove it")),
            ),
        ],
    }
}

fn tier_objects() -> Policy {
    Policy {
        name: "portcullis-tiers",
        effect: Effect::Deny,
        kinds: vec![Kind::Tier],
        operations: WRITES,
        condition: None,
        variables: vec![spec_variable()],
        validations: vec![
            unknown("[dyn(object)]", "", &known(Kind::Tier, &[])),
            unknown("[variables.spec]", "spec", &known(Kind::Tier, &["spec"])),
        ],
    }
}

pub(super) const FAILSAFES: [&str; 2] = ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"];

fn settings_objects() -> Policy {
    let kind = Kind::FelixConfiguration;
    let failsafes = FAILSAFES.map(|name| list_of("variables.spec", name)).join(" + ");
    Policy {
        name: "portcullis-settings",
        effect: Effect::Deny,
        kinds: vec![kind],
        operations: WRITES,
        condition: None,
        variables: vec![
            spec_variable(),
            ("failsafes", failsafes),
            ("ranges", list_of("variables.spec", "kubeNodePortRanges")),
        ],
        validations: vec![
            // A misspelt `net` would open the port to everybody.
            unknown("variables.failsafes", "a failsafe", &known(kind, &["spec", FAILSAFES[0], "[]"])),
            (
                reversed_range("variables.ranges"),
                said("a range of kubeNodePortRanges runs backwards; write the lower port first"),
            ),
        ],
    }
}
