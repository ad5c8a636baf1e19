//! Prefixes of many holders, kept as one sorted set while holders come and go.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

/// The prefixes, each once, and how often each is held. What is taken away must have been added.
#[derive(Debug, Default)]
pub struct Members {
    nets: Arc<Vec<IpNet>>,
    /// Prefixes held more than once → how often beyond the first.
    repeated: HashMap<IpNet, u32>,
    /// Holders, those without a prefix included.
    holders: u32,
}

impl Members {
    /// The prefixes, sorted.
    pub fn nets(&self) -> &Arc<Vec<IpNet>> {
        &self.nets
    }
    pub fn has_holders(&self) -> bool {
        self.holders > 0
    }
    /// One more holder.
    pub fn add(&mut self, nets: &[IpNet]) {
        self.add_all(std::iter::once(nets));
    }
    /// More holders; sorts once.
    pub fn add_all<'a>(&mut self, holders: impl Iterator<Item = &'a [IpNet]>) {
        let mut fresh = Vec::new();
        for nets in holders {
            self.holders += 1;
            for net in nets.iter().map(IpNet::trunc) {
                match self.nets.binary_search(&net) {
                    Ok(_) => *self.repeated.entry(net).or_default() += 1,
                    Err(_) => fresh.push(net),
                }
            }
        }
        fresh.sort_unstable();
        let repeated = &mut self.repeated;
        fresh.dedup_by(|later, kept| {
            let same = later == kept;
            if same {
                *repeated.entry(*kept).or_default() += 1;
            }
            same
        });
        match fresh[..] {
            [] => {}
            [one] => {
                if let Err(at) = self.nets.binary_search(&one) {
                    Arc::make_mut(&mut self.nets).insert(at, one);
                }
            }
            _ => {
                let nets = Arc::make_mut(&mut self.nets);
                nets.append(&mut fresh);
                // Two sorted runs: this sort merges them.
                nets.sort();
            }
        }
    }
    /// One holder less.
    pub fn remove(&mut self, nets: &[IpNet]) {
        self.holders -= 1;
        let mut gone = Vec::new();
        for net in nets.iter().map(IpNet::trunc) {
            match self.repeated.get_mut(&net) {
                Some(1) => drop(self.repeated.remove(&net)),
                Some(more) => *more -= 1,
                None => gone.push(net),
            }
        }
        gone.sort_unstable();
        match gone[..] {
            [] => {}
            [one] => {
                if let Ok(at) = self.nets.binary_search(&one) {
                    Arc::make_mut(&mut self.nets).remove(at);
                }
            }
            _ => Arc::make_mut(&mut self.nets).retain(|net| gone.binary_search(net).is_err()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stays_as_long_as_anybody_holds_it() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let (a, b, a_too) = (net("10.0.0.0/24"), net("10.0.1.0/24"), net("10.0.0.7/24"));
        let mut members = Members::default();
        members.add_all([&[b, a][..], &[a_too], &[]].into_iter());
        assert_eq!(**members.nets(), [a, b]);
        members.remove(&[b, a]);
        assert_eq!(**members.nets(), [a]);
        members.add(&[a, a, b]);
        members.remove(&[a_too]);
        assert_eq!(**members.nets(), [a, b]);
        members.remove(&[a, a, b]);
        assert!(members.nets().is_empty() && members.has_holders());
        members.remove(&[]);
        assert!(!members.has_holders());
    }
}
