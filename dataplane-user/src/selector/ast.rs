//! The tree of a selector, and its text.

use std::fmt;

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    All,
    /// `global()`: true in evaluation; validation rewrites it before use (§1.3).
    Global,
    Has(String),
    Equals(String, String),
    NotEquals(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Node>),
    /// Two nodes or more.
    And(Vec<Node>),
    /// Two nodes or more.
    Or(Vec<Node>),
}

impl Node {
    /// The opposite; a double negation disappears, so that equal meanings stay equal trees.
    pub(super) fn negate(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Calls `change` with every label key of the tree.
    pub(super) fn for_each_key(&mut self, change: &mut impl FnMut(&mut String)) {
        match self {
            Self::All | Self::Global => {}
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => change(key),
            Self::Not(inner) => inner.for_each_key(change),
            Self::And(nodes) | Self::Or(nodes) => nodes.iter_mut().for_each(|node| node.for_each_key(change)),
        }
    }

    /// See [`super::Selector::narrowing`].
    pub(super) fn narrowing(&self) -> Option<(&str, Option<Vec<&str>>)> {
        match self {
            Self::Equals(key, value) => Some((key, Some(vec![value]))),
            Self::In(key, values) => Some((key, Some(values.iter().map(String::as_str).collect()))),
            Self::Has(key) | Self::Contains(key, _) | Self::StartsWith(key, _) | Self::EndsWith(key, _) => {
                Some((key, None))
            }
            // Any part narrows; one with values narrows most.
            Self::And(nodes) => {
                let parts = nodes.iter().filter_map(Self::narrowing);
                parts.min_by_key(|(_, values)| values.as_ref().map_or(usize::MAX, Vec::len))
            }
            Self::All | Self::Global | Self::NotEquals(..) | Self::NotIn(..) | Self::Not(_) | Self::Or(_) => {
                None
            }
        }
    }

    /// The label key of a comparison.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => Some(key),
            Self::All | Self::Global | Self::Not(_) | Self::And(_) | Self::Or(_) => None,
        }
    }

    /// Whether `test` holds for any node of the tree.
    pub(super) fn any(&self, test: &impl Fn(&Self) -> bool) -> bool {
        test(self)
            || match self {
                Self::Not(inner) => inner.any(test),
                Self::And(nodes) | Self::Or(nodes) => nodes.iter().any(|node| node.any(test)),
                _ => false,
            }
    }

    /// How tightly the node binds: what needs parentheses inside something that binds tighter.
    fn strength(&self) -> u8 {
        match self {
            Self::Or(_) => 0,
            Self::And(_) => 1,
            _ => 2,
        }
    }

    fn write_inside(&self, f: &mut fmt::Formatter<'_>, least: u8) -> fmt::Result {
        if self.strength() < least { write!(f, "({self})") } else { write!(f, "{self}") }
    }
}

/// A string in the quotes that it does not hold itself: the language has no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, key: &str, word: &str, values: &[String]) -> fmt::Result {
    write!(f, "{key} {word} {{")?;
    for (index, value) in values.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{}", Quoted(value))?;
    }
    write!(f, "}}")
}

fn write_joined(f: &mut fmt::Formatter<'_>, nodes: &[Node], word: &str, least: u8) -> fmt::Result {
    for (index, node) in nodes.iter().enumerate() {
        if index > 0 {
            write!(f, " {word} ")?;
        }
        node.write_inside(f, least)?;
    }
    Ok(())
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all()"),
            Self::Global => write!(f, "global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write_set(f, key, "in", values),
            Self::NotIn(key, values) => write_set(f, key, "not in", values),
            Self::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Self::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Self::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Self::Not(inner) => {
                write!(f, "!")?;
                inner.write_inside(f, 2)
            }
            // A nested node of the same kind keeps its parentheses: the text then reads back as the same tree.
            Self::And(nodes) => write_joined(f, nodes, "&&", 2),
            Self::Or(nodes) => write_joined(f, nodes, "||", 1),
        }
    }
}
