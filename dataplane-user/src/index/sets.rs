//! Address sets, one for each distinct content.

use std::collections::HashMap;

use ipnet::IpNet;

/// Index of a set in [`Sets`].
pub type SetId = u32;

/// Sets of prefixes by id. Equal contents have equal ids, whoever refers to them.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    contents: Vec<Vec<IpNet>>,
    by_content: HashMap<Vec<IpNet>, SetId>,
}

impl Sets {
    /// The id of this content.
    pub fn intern(&mut self, mut nets: Vec<IpNet>) -> SetId {
        nets.iter_mut().for_each(|n| *n = n.trunc());
        nets.sort_unstable();
        nets.dedup();
        if let Some(&id) = self.by_content.get(&nets) {
            return id;
        }
        let id = self.contents.len() as SetId;
        self.contents.push(nets.clone());
        self.by_content.insert(nets, id);
        id
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
