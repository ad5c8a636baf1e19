//! Calico's selector language (`semantics.md` §2): text → tokens ([`lex`]) → tree ([`ast`], built by [`parse`]) →
//! a yes or no about a label map ([`eval`]).

mod ast;
mod error;
mod eval;
mod lex;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use ast::Node;
pub use error::SelectorError;

/// Longest selector text that is accepted, in characters (§1.1).
pub const MAX_SELECTOR_CHARS: usize = 1024;
/// Longest label key, in characters (§2).
pub const MAX_KEY_CHARS: usize = 512;
/// Parentheses inside parentheses. Ours, not Calico's: no text of a stranger may exhaust the stack.
pub const MAX_NESTING: usize = 64;

/// A parsed selector. Having one proves that its text is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    pub(crate) root: Node,
}

impl Selector {
    /// Reads the language of §2. Empty and blank text is `all()`. `global()` is read too, and evaluates to true:
    /// where it may stand is for validation to judge, by [`Self::mentions_global`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text).map(|root| Self { root })
    }
    /// `all()`.
    pub fn all() -> Self {
        Self { root: Node::All }
    }
    /// Matches nothing.
    pub fn none() -> Self {
        Self::all().not()
    }
    /// `key == 'value'`. A value with both kinds of quotes works, but its text cannot be read back.
    pub fn equals(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { root: Node::Equals(key.into(), value.into()) }
    }
    /// `has(key)`.
    pub fn has(key: impl Into<String>) -> Self {
        Self { root: Node::Has(key.into()) }
    }
    /// `key in {values}`.
    pub fn is_in<V: Into<String>>(key: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self { root: Node::In(key.into(), values.into_iter().map(Into::into).collect()) }
    }

    /// Both must hold. `all()` adds nothing and is left out.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.root, other.root) {
            (Node::All, root) | (root, Node::All) => Self { root },
            (Node::And(mut left), right) => {
                left.push(right);
                Self { root: Node::And(left) }
            }
            (left, right) => Self { root: Node::And(vec![left, right]) },
        }
    }
    /// The opposite.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "`!selector` would hide an allocation behind an operator"
    )]
    pub fn not(self) -> Self {
        Self { root: self.root.negate() }
    }
    /// The same expression over keys with `prefix` before them: `pcns.` for labels that were inherited from a
    /// namespace, `pcsa.` for those of a service account.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: &str) -> Self {
        self.root.for_each_key(&mut |key| key.insert_str(0, prefix));
        self
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.root.matches(labels)
    }
    /// Is it `all()` (or empty), as a whole?
    pub fn is_all(&self) -> bool {
        self.root == Node::All
    }
    /// Is it `global()`, as a whole?
    pub fn is_global(&self) -> bool {
        self.root == Node::Global
    }
    /// A label that whoever it matches must have, and the values that it may have there (`None`: any): what an index
    /// over labels can look up. `None`: it may match somebody without labels.
    pub fn narrowing(&self) -> Option<(&str, Option<Vec<&str>>)> {
        self.root.narrowing()
    }
    /// Does it speak of a label whose key begins so?
    pub fn mentions_keys_with(&self, prefix: &str) -> bool {
        self.root.any(&|node| node.key().is_some_and(|key| key.starts_with(prefix)))
    }
    /// Does `global()` stand anywhere in it?
    pub fn mentions_global(&self) -> bool {
        self.root.any(&|node| *node == Node::Global)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
