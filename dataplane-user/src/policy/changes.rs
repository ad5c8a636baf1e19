//! What differs between two worlds, for those who keep something that they derived from the first.

use std::collections::BTreeSet;

/// (namespace or "", name)
type Key = (String, String);

/// Objects that came, changed or went. Naming too many is only slow; leaving one out is a mistake of whoever made this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub pods: BTreeSet<Key>,
    pub network_sets: BTreeSet<Key>,
    pub namespaces: BTreeSet<String>,
    pub service_accounts: BTreeSet<Key>,
    /// Any Service or EndpointSlice.
    pub services: bool,
    /// Anything else: policies, tiers, endpoints, profiles, nodes, configuration.
    pub rest: bool,
}

impl Changes {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
