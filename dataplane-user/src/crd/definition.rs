//! The frame around a kind's schema: names, scope, printer columns.

use serde_json::{Value, json};

use super::schema::{Schema, optional, required};
use super::{GROUP, config, endpoint, labels, policy};
use crate::resource::Kind;

/// The definition of a kind.
pub(super) fn of(kind: Kind) -> Value {
    let short = kind.short_name();
    let singular = kind.as_str().to_lowercase();
    let mut names = json!({
        "kind": kind.as_str(),
        "listKind": format!("{kind}List"),
        "plural": kind.plural(),
        "singular": singular,
        "categories": ["portcullis"],
    });
    if short != singular {
        names["shortNames"] = json!([short]);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", kind.plural()),
            "labels": labels(),
        },
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": "v3",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": columns(kind),
                "schema": {"openAPIV3Schema": root(kind).into_value()},
            }],
        },
    })
}

fn root(kind: Kind) -> Schema {
    let text = Schema::string;
    let frame = |spec| {
        Schema::object([
            required("apiVersion", text()),
            required("kind", text()),
            required("metadata", Schema::metadata()),
            spec,
        ])
    };
    match kind {
        Kind::GlobalNetworkPolicy => frame(required("spec", policy::spec(false)))
            .rule(policy::NAME_RULE.0, policy::NAME_RULE.1)
            .describe("Policy for host endpoints: what may come in and go out."),
        Kind::StagedGlobalNetworkPolicy => frame(required("spec", policy::spec(true)))
            .rule(policy::NAME_RULE.0, policy::NAME_RULE.1)
            .describe("A policy on trial: it is judged and counted, and decides nothing."),
        Kind::Tier => endpoint::tier_rules()
            .into_iter()
            .fold(frame(optional("spec", endpoint::tier())), |schema, (rule, message)| schema.rule(rule, message))
            .describe("Policies that are judged together, in one place of the order."),
        Kind::HostEndpoint => frame(required("spec", endpoint::host_endpoint()))
            .describe("A device of a node that policies govern."),
        Kind::GlobalNetworkSet => frame(optional("spec", endpoint::network_set()))
            .describe("Networks with labels, for selectors of rules."),
        Kind::NetworkSet => frame(optional("spec", endpoint::network_set()))
            .describe("Networks with labels, of one namespace, for selectors of rules."),
        Kind::FelixConfiguration => frame(optional("spec", config::felix()))
            .describe("Settings: `default` for every node; `node.NAME` for the node NAME, whose fields go before those of `default`. Of both only these fields are read."),
        Kind::KubeControllersConfiguration => frame(optional("spec", config::kube_controllers())).describe(
            "Host endpoints for nodes that have none; only the one called `default` is read, and of it only these fields.",
        ),
        Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::Profile
        | Kind::Node
        | Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod => Schema::anything(),
    }
}

/// What `kubectl get` shows, besides the name.
fn columns(kind: Kind) -> Value {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let mut columns = match kind {
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => vec![
            column("Tier", "string", ".spec.tier"),
            column("Order", "number", ".spec.order"),
            column("Selector", "string", ".spec.selector"),
            column("PreDNAT", "boolean", ".spec.preDNAT"),
            column("Untracked", "boolean", ".spec.doNotTrack"),
            column("Forward", "boolean", ".spec.applyOnForward"),
        ],
        Kind::Tier => {
            vec![column("Order", "number", ".spec.order"), column("Default", "string", ".spec.defaultAction")]
        }
        Kind::HostEndpoint => vec![
            column("Node", "string", ".spec.node"),
            column("Interface", "string", ".spec.interfaceName"),
            column("IPs", "string", ".spec.expectedIPs"),
        ],
        Kind::GlobalNetworkSet | Kind::NetworkSet => vec![column("Nets", "string", ".spec.nets")],
        Kind::KubeControllersConfiguration => {
            vec![column("Auto-HEPs", "string", ".spec.controllers.node.hostEndpoint.autoCreate")]
        }
        Kind::FelixConfiguration
        | Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::Profile
        | Kind::Node
        | Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod => Vec::new(),
    };
    if kind == Kind::StagedGlobalNetworkPolicy {
        columns.insert(0, column("Action", "string", ".spec.stagedAction"));
    }
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    columns.into()
}
