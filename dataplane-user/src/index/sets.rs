//! Address sets.

use std::sync::Arc;

use ipnet::IpNet;

/// Index of a set in [`Sets`].
pub type SetId = u32;

/// Sets of prefixes by id. A set is told from another by what it stands for, not by what it holds at the moment: a pod
/// that comes changes the content of some sets, and no id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sets {
    contents: Vec<Arc<Vec<IpNet>>>,
}

impl Sets {
    /// Adds a set of these prefixes, in whatever order.
    pub fn add(&mut self, nets: Vec<IpNet>) -> SetId {
        self.share(Arc::new(normalized(nets)))
    }
    /// Adds a set that somebody keeps up to date. It is [`normalized`].
    pub(super) fn share(&mut self, nets: Arc<Vec<IpNet>>) -> SetId {
        let id = self.contents.len() as SetId;
        self.contents.push(nets);
        id
    }
    /// The set holds something else now. True when it was or becomes empty by that.
    pub(super) fn replace(&mut self, id: SetId, nets: Arc<Vec<IpNet>>) -> bool {
        let old = std::mem::replace(&mut self.contents[id as usize], nets);
        old.is_empty() != self.get(id).is_empty()
    }
    /// The prefixes of a set, sorted.
    pub fn get(&self, id: SetId) -> &[IpNet] {
        &self.contents[id as usize]
    }
    /// Every set with its id.
    pub fn iter(&self) -> impl Iterator<Item = (SetId, &[IpNet])> {
        self.contents.iter().enumerate().map(|(i, c)| (i as SetId, c.as_slice()))
    }
    /// Whether any prefix of the set holds this address. Slow: for tests and explanations.
    pub fn contains(&self, id: SetId, ip: std::net::IpAddr) -> bool {
        self.get(id).iter().any(|n| n.contains(&ip))
    }
}

/// Host bits off, sorted, each once.
pub(super) fn normalized(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    nets.iter_mut().for_each(|n| *n = n.trunc());
    nets.sort_unstable();
    nets.dedup();
    nets
}
