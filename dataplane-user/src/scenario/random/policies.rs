//! Random tiers, policies of every list, and profiles.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::rules::{self, Side};
use super::selectors;

const TIERS: [&str; 3] = ["default", "first", "second"];

pub(super) fn tiers(dice: &mut Dice) -> Vec<Value> {
    TIERS[1..]
        .iter()
        .map(|name| {
            let mut spec = Map::new();
            if dice.percent(80) {
                spec.insert("order".into(), dice.one(&[json!(1), json!(5), json!(5), json!(2_000_000), json!(0.5)]));
            }
            if dice.percent(50) {
                spec.insert("defaultAction".into(), dice.pick(&["Deny", "Pass", "Pass"]).into());
            }
            json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name}, "spec": spec})
        })
        .collect()
}

/// One policy; `number` tells it from the others.
pub(super) fn policy(dice: &mut Dice, number: usize) -> Value {
    let mut spec = Map::new();
    let tier = dice.weighted(&[(6, TIERS[0]), (2, TIERS[1]), (2, TIERS[2])]);
    // Names that tie in order and differ at the separator (D24).
    let name = format!("{}{number}", dice.pick(&["p", "p-", "q", "a"]));
    if tier != TIERS[0] {
        spec.insert("tier".into(), tier.into());
    }
    if dice.percent(80) {
        spec.insert(
            "order".into(),
            dice.one(&[json!(1), json!(1), json!(2), json!(10), json!(-1), json!(1.5)]),
        );
    }
    let list = dice.weighted(&[(30, "preDNAT"), (15, "doNotTrack"), (25, "applyOnForward"), (30, "normal")]);
    if list != "normal" {
        spec.insert("applyOnForward".into(), true.into());
        spec.insert(list.into(), true.into());
    }
    spec.insert("selector".into(), selectors::of_endpoints(dice).into());
    if dice.percent(4) {
        spec.insert("namespaceSelector".into(), selectors::of_namespaces(dice).into());
    }
    let egress_too = list != "preDNAT";
    if dice.percent(30) {
        let types = if egress_too {
            dice.one(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])])
        } else {
            json!(["Ingress"])
        };
        spec.insert("types".into(), types);
    }
    spec.insert("ingress".into(), rule_list(dice, Side::Ingress));
    if egress_too && dice.percent(60) {
        spec.insert("egress".into(), rule_list(dice, Side::Egress));
    }
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    if dice.percent(8) {
        let wanted = dice.pick(&["keep", "recheck"]);
        metadata.insert("annotations".into(), json!({"portcullis.dev/on-policy-change": wanted}));
    }
    let kind = if dice.percent(6) { "StagedGlobalNetworkPolicy" } else { "GlobalNetworkPolicy" };
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}

/// A policy whose first rules fill a word of a compiled row or two and are about few packets each, so that it is the
/// later ones that decide.
pub(super) fn long(dice: &mut Dice) -> Value {
    let list = dice.one(&["preDNAT", "doNotTrack", "applyOnForward", "normal", "normal"]);
    let mut spec = Map::new();
    if list != "normal" {
        spec.insert("applyOnForward".into(), true.into());
        spec.insert(list.into(), true.into());
    }
    spec.insert("order".into(), dice.one(&[json!(-5), json!(-5), json!(3)]));
    spec.insert("selector".into(), "all()".into());
    spec.insert("ingress".into(), long_list(dice, Side::Ingress));
    if list != "preDNAT" && dice.percent(40) {
        spec.insert("egress".into(), long_list(dice, Side::Egress));
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "long"}, "spec": spec})
}

/// Name of the policy that [`shut`] makes.
pub(super) const SHUT: &str = "shut";

/// A policy in front of all others that denies much of what they allow.
pub(super) fn shut(dice: &mut Dice) -> Value {
    let list = dice.one(&["preDNAT", "applyOnForward", "applyOnForward", "normal"]);
    let mut deny = json!({"action": "Deny"});
    if dice.percent(40) {
        deny["protocol"] = dice.pick(&["TCP", "UDP"]).into();
    }
    let mut spec = json!({"order": -20, "selector": "all()", "ingress": [deny]});
    if list != "normal" {
        spec["applyOnForward"] = true.into();
        spec[list] = true.into();
    }
    if list != "preDNAT" {
        spec["egress"] = json!([deny]);
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": SHUT}, "spec": spec})
}

fn long_list(dice: &mut Dice, side: Side) -> Value {
    let narrow = dice.weighted(&[(4, 60), (4, 64), (2, 63), (2, 100), (2, 128), (1, 190)]) + dice.below(3);
    let mut rules: Vec<Value> = (0..narrow).map(|_| rules::narrow(dice)).collect();
    if dice.percent(50) {
        // Log goes on from where it stands: at the end of a word, too.
        let at = dice.one(&[0, 62, 63, 64, 65]).min(rules.len());
        rules.insert(at, json!({"action": "Log"}));
    }
    let count = dice.between(2, 10);
    rules.extend((0..count).map(|_| rules::rule(dice, side)));
    rules.push(json!({"action": dice.pick(&["Allow", "Deny", "Deny"])}));
    rules.into()
}

fn rule_list(dice: &mut Dice, side: Side) -> Value {
    // Now and then more than the 64 rules of one word of a compiled row.
    let many = dice.between(60, 140);
    let count = dice.weighted(&[(20, 0), (60, 1), (60, 2), (40, 3), (20, 5), (5, many)]);
    let mut rules: Vec<Value> = (0..count).map(|_| rules::rule(dice, side)).collect();
    if dice.percent(25) {
        rules.push(json!({"action": dice.pick(&["Allow", "Deny", "Pass"])}));
    }
    rules.into()
}

pub(super) fn profile(dice: &mut Dice) -> Value {
    let rules = |dice: &mut Dice| -> Value {
        let count = dice.between(0, 2);
        (0..count).map(|_| rules::rule(dice, Side::Profile)).collect()
    };
    let (ingress, egress) = (rules(dice), rules(dice));
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": {"name": "own-profile"},
        "spec": {"ingress": ingress, "egress": egress, "labelsToApply": selectors::labels(dice)},
    })
}
