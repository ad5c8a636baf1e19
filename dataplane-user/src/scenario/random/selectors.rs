//! Random selectors over a few labels that the generated objects carry.

use serde_json::{Map, Value};

use super::dice::Dice;

const KEYS: [&str; 3] = ["role", "env", "zone"];
const VALUES: [&str; 4] = ["a", "b", "ab", ""];

/// Some labels of an object.
pub(super) fn labels(dice: &mut Dice) -> Map<String, Value> {
    let mut labels = Map::new();
    for key in KEYS {
        if dice.percent(60) {
            labels.insert(key.into(), dice.pick(&VALUES).into());
        }
    }
    labels
}

/// Selects endpoints that a policy is for: rather all than none.
pub(super) fn of_endpoints(dice: &mut Dice) -> String {
    if dice.percent(55) { "all()".into() } else { expression(dice, 2) }
}

/// Selects peers of a rule.
pub(super) fn of_peers(dice: &mut Dice) -> String {
    match dice.below(10) {
        0 => "all()".into(),
        1 => "projectcalico.org/namespace == 'default'".into(),
        _ => expression(dice, 2),
    }
}

pub(super) fn of_namespaces(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => "global()".into(),
        1 => "all()".into(),
        2 => "projectcalico.org/name == 'default'".into(),
        _ => expression(dice, 1),
    }
}

fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth > 0 && dice.percent(35) {
        let (left, right) = (expression(dice, depth - 1), expression(dice, depth - 1));
        return match dice.below(4) {
            0 => format!("{left} && {right}"),
            1 => format!("{left} || {right}"),
            2 => format!("!({left}) && {right}"),
            _ => format!("({left} || {right})"),
        };
    }
    let (key, value) = (dice.pick(&KEYS), dice.pick(&VALUES));
    match dice.below(9) {
        0 | 1 => format!("{key} == '{value}'"),
        2 => format!("{key} != '{value}'"),
        3 => format!("has({key})"),
        4 => format!("!has({key})"),
        5 => format!("{key} in {{'{value}', 'b'}}"),
        6 => format!("{key} not in {{'{value}'}}"),
        7 => format!("{key} contains '{value}'"),
        _ => format!("{key} starts with '{value}'"),
    }
}
