//! GlobalNetworkPolicy and StagedGlobalNetworkPolicy (`resource::network_policy`).

use super::patterns::selector;
use super::rule::rules;
use super::schema::{Field, Schema, optional};
use crate::policy::Direction;

/// Policies carry at most one dot, behind the prefix of the storage form.
pub(super) const NAME_RULE: (&str, &str) = (
    "self.metadata.name.split('.').size() <= (self.metadata.name.startsWith('default.') ? 3 : 2)",
    "a policy name has at most one dot (`tier.name`)",
);

pub(super) fn spec(is_staged: bool) -> Schema {
    let mut fields: Vec<Field> = vec![
        optional("tier", Schema::string().not_empty().describe("The tier; absent: `default`.")),
        optional(
            "order",
            Schema::number()
                .describe("Place among the policies of its tier: lower ones first; absent: last."),
        ),
        optional("selector", selector("Which endpoints this is for, by their labels; absent or empty: all.")),
        optional("namespaceSelector", selector("Only endpoints of namespaces with these labels: pods.")),
        optional("serviceAccountSelector", selector("Only endpoints of these service accounts: pods.")),
        optional("types", types()),
        optional("ingress", rules(Direction::Ingress)),
        optional("egress", rules(Direction::Egress)),
        optional("doNotTrack", Schema::boolean().describe("Judged before any flow, without state.")),
        optional(
            "preDNAT",
            Schema::boolean().describe("Judged before the addresses of Services are translated."),
        ),
        optional("applyOnForward", Schema::boolean().describe("For forwarded packets too.")),
        optional(
            "performanceHints",
            Schema::set(Schema::string().choices(["AssumeNeededOnEveryNode"]), 1).describe("No effect here."),
        ),
    ];
    if is_staged {
        let actions = ["Set", "Learn", "Delete", "Ignore"];
        fields.push(optional(
            "stagedAction",
            Schema::string()
                .choices(actions)
                .describe("What the policy shall become; Delete and Ignore judge nothing."),
        ));
    }
    let spec = Schema::object(fields)
        .rule(
            "!isset(doNotTrack) || !isset(preDNAT)".set(),
            "preDNAT cannot stand beside `doNotTrack: true`; choose one",
        )
        .rule(
            "!isset(preDNAT) && !isset(doNotTrack) || isset(applyOnForward)".set(),
            "preDNAT and doNotTrack need `applyOnForward: true` beside them",
        )
        .rule(
            "!isset(preDNAT) || !has(self.egress) || self.egress.size() == 0".set(),
            "a preDNAT policy judges ingress only; move the egress rules to a policy of their own",
        )
        .rule(
            "!isset(preDNAT) || !has(self.types) || !self.types.exists(t, t == 'Egress')".set(),
            "a preDNAT policy judges ingress only; write `types: [Ingress]`",
        );
    if is_staged {
        spec.rule(delete_rule().set(), "with Delete only `tier` may stand beside it; remove the rest")
    } else {
        spec
    }
}

fn types() -> Schema {
    Schema::set(Schema::string().choices(["Ingress", "Egress"]), 2)
        .not_empty()
        .describe("The directions that this is for; absent: those that have rules, or Ingress.")
}

fn delete_rule() -> String {
    let present = ["order", "types", "performanceHints"].map(|name| format!("has(self.{name})"));
    let said = ["selector", "namespaceSelector", "serviceAccountSelector"]
        .map(|name| format!("has(self.{name}) && self.{name} != ''"));
    let filled = ["ingress", "egress"].map(|name| format!("has(self.{name}) && self.{name}.size() > 0"));
    let flags = ["preDNAT", "doNotTrack", "applyOnForward"].map(|name| format!("isset({name})"));
    let others: Vec<String> = [&present[..], &said, &filled, &flags].concat();
    format!("!has(self.stagedAction) || self.stagedAction != 'Delete' || !({})", others.join(" || "))
}

/// `isset(x)`: the flag stands there and is true.
trait Flags {
    fn set(&self) -> String;
}

impl Flags for str {
    fn set(&self) -> String {
        ["doNotTrack", "preDNAT", "applyOnForward"].iter().fold(self.to_owned(), |text, flag| {
            text.replace(&format!("isset({flag})"), &format!("(has(self.{flag}) && self.{flag})"))
        })
    }
}
