//! Evaluation over a label map (§2). An absent label is no empty label: only the negative forms hold for it.

use std::collections::BTreeMap;

use super::ast::Node;

impl Node {
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value_of = |key: &String| labels.get(key).map(String::as_str);
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equals(key, wanted) => value_of(key) == Some(wanted),
            Self::NotEquals(key, wanted) => value_of(key) != Some(wanted),
            Self::In(key, values) => value_of(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Self::NotIn(key, values) => !value_of(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Self::Contains(key, part) => value_of(key).is_some_and(|value| value.contains(part.as_str())),
            Self::StartsWith(key, part) => {
                value_of(key).is_some_and(|value| value.starts_with(part.as_str()))
            }
            Self::EndsWith(key, part) => value_of(key).is_some_and(|value| value.ends_with(part.as_str())),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(labels)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(labels)),
        }
    }
}
