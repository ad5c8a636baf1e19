//! Admission policies that warn: what is valid and probably not meant, or dangerous. They never refuse.

use super::admission::{Effect, FAILSAFES, Policy, WRITES, few_rules, policy_variables, said, spec_variable};
use super::admission_text::{known, list_of, text_list};
use crate::resource::Kind;
use crate::resource::config::DEFAULT_NAME;
use crate::resource::meta::ANNOTATION_PREFIX;

pub(super) fn on_policies() -> Policy {
    let host_bits = "isCIDR(n) && cidr(n) != cidr(n).masked()";
    let ours = format!("k.startsWith('{ANNOTATION_PREFIX}') && k != '{ANNOTATION_PREFIX}on-policy-change'");
    let ignored = |direction: &str, list: &str| {
        let has_types = "!('types' in variables.spec) || variables.spec.types == null";
        (
            format!(
                "{has_types} || '{direction}' in variables.spec.types || {}.size() == 0",
                list_of("variables.spec", list)
            ),
            said(&format!("the rules under {list} are ignored: types does not name {direction}")),
        )
    };
    let everybody = "!('selector' in variables.spec) || variables.spec.selector == null || variables.spec.selector in ['', 'all()']";
    let is_normal = "!('doNotTrack' in variables.spec && variables.spec.doNotTrack == true) && \
                     !('preDNAT' in variables.spec && variables.spec.preDNAT == true)";
    Policy {
        name: "portcullis-advice-policies",
        effect: Effect::Warn,
        kinds: vec![Kind::GlobalNetworkPolicy, Kind::StagedGlobalNetworkPolicy],
        operations: WRITES,
        condition: Some(few_rules()),
        variables: policy_variables(),
        validations: vec![
            ignored("Ingress", "ingress"),
            ignored("Egress", "egress"),
            (
                format!("variables.nets.all(ns, !ns.exists(n, {host_bits}))"),
                format!(
                    "'bits behind the prefix are ignored: ' + variables.nets.map(ns, ns.filter(n, {host_bits}).join(', ')).join(' ').trim()"
                ),
            ),
            (
                format!(
                    "!has(object.metadata.annotations) || !object.metadata.annotations.exists(k, {ours})"
                ),
                format!("'no effect here: ' + object.metadata.annotations.filter(k, {ours}).join(', ')"),
            ),
            (
                format!(
                    "object.kind != 'GlobalNetworkPolicy' || !({everybody}) || !({is_normal}) || variables.rules.exists(r, r.action != 'Deny')"
                ),
                said(
                    "on every host endpoint this lets nothing in or out but failsafe ports and what policies before it allow; \
                     try it as a StagedGlobalNetworkPolicy first",
                ),
            ),
        ],
    }
}

pub(super) fn on_settings() -> Policy {
    let read = text_list(known(Kind::FelixConfiguration, &["spec"]).iter().map(String::as_str));
    let failsafes = list_of("variables.spec", FAILSAFES[0]);
    Policy {
        name: "portcullis-advice-settings",
        effect: Effect::Warn,
        kinds: vec![Kind::FelixConfiguration],
        operations: WRITES,
        condition: None,
        variables: vec![spec_variable()],
        validations: vec![
            (
                format!(
                    "object.metadata.name == '{DEFAULT_NAME}' || object.metadata.name.startsWith('node.')"
                ),
                said(
                    "only `default` and, for the node NAME, `node.NAME` are read; this one has no effect on host policy",
                ),
            ),
            (
                format!("variables.spec.all(k, k in {read})"),
                format!("'no effect on host policy: ' + variables.spec.filter(k, !(k in {read})).join(', ')"),
            ),
            (
                format!(
                    "!('{0}' in variables.spec) || variables.spec.{0} == null || {failsafes}.exists(f, f.port == 22)",
                    FAILSAFES[0]
                ),
                said(
                    "failsafeInboundHostPorts without TCP 22: a wrong policy can lock you out of every node",
                ),
            ),
        ],
    }
}

pub(super) fn on_deletions() -> Policy {
    let spec = "has(oldObject.spec) && oldObject.spec != null ? dyn(oldObject.spec) : dyn({})";
    let device = "('interfaceName' in variables.spec && variables.spec.interfaceName != null ? string(variables.spec.interfaceName) : 'with these addresses')";
    Policy {
        name: "portcullis-advice-deletions",
        effect: Effect::Warn,
        kinds: vec![Kind::HostEndpoint, Kind::Tier],
        operations: &["DELETE"],
        condition: None,
        variables: vec![("spec", spec.to_owned())],
        validations: vec![
            (
                "oldObject.kind != 'HostEndpoint'".to_owned(),
                format!(
                    "'no policy governs device ' + {device} + ' of node ' + string(variables.spec.node) + ' any more, unless another HostEndpoint is for it'"
                ),
            ),
            (
                "oldObject.kind != 'Tier' || oldObject.metadata.name in ['default', 'kube-admin', 'kube-baseline']".to_owned(),
                "'policies that still name the tier ' + oldObject.metadata.name + ' are judged after all tiers from now on, with Deny at the end'"
                    .to_owned(),
            ),
        ],
    }
}
