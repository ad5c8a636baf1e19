//! Calico's selector language (`semantics.md` §2).

use std::collections::BTreeMap;

/// A parsed selector. Having one proves that its text is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub(crate) root: Node,
}

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    All,
}

impl Selector {
    /// `all()`.
    pub fn all() -> Self {
        Self { root: Node::All }
    }
    /// Whether an object with these labels is selected.
    pub fn matches(&self, _labels: &BTreeMap<String, String>) -> bool {
        match &self.root {
            Node::All => true,
        }
    }
}
