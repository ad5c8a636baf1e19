//! Whether the kernel's tables are what the policies say: derived again from scratch, and compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::kernel::enter;
use super::maps::lengths;
use super::render::{Entry, generation};
use crate::agent::folder::Folder;
use crate::compile::{Tables, compile};
use crate::index::Snapshot;
use crate::loader::link::Links;
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::policy::NodeView;
use crate::state::State;
use crate::state::lastgood::LastGood;

/// One entry that is not as derived.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    pub map: &'static str,
    pub key: String,
    /// Absent: the kernel has no such entry.
    pub kernel: Option<String>,
    /// Absent: the policies give no such entry.
    pub derived: Option<String>,
}

/// What was compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    pub generation: u64,
    pub entries: usize,
    pub differences: Vec<Difference>,
}

/// Compares the generation in force with the policies folder (where the agent follows the Kubernetes API: with what it
/// accepted from there), each object in its last good version, on the node as it
/// is now.
pub fn verify(state: &State, state_dir: &std::path::Path) -> Result<Verification> {
    let pinned = Pinned::new(&state.pin_dir);
    let control = pinned.control()?;
    let Some(slot) = slot_in_force(&control, now_ns(&control)) else {
        bail!("no generation is in force: there is nothing to verify");
    };
    let kernel = pinned.tables(slot)?;
    let mut folder = Folder::new(state.policies.clone());
    if let Some(last) = LastGood::load(state_dir, &state.policies).unwrap_or(None) {
        folder.restore(&last);
    }
    if state.kubernetes.is_none() {
        folder.read();
    }
    enter(state)?;
    let view = view(state)?;
    let derived =
        compile(&Snapshot::build(folder.accepted().world(), &view)).context("the policies do not compile")?;
    let (generation, entries) = (kernel.settings.generation, lengths(&kernel).iter().map(|(_, n)| n).sum());
    Ok(Verification { generation, entries, differences: differences(kernel, derived, state) })
}

fn view(state: &State) -> Result<NodeView> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let view = runtime.block_on(async {
        let (links, _changes) = Links::connect()?;
        links.view(&state.node).await
    })?;
    Ok(NodeView { settings: state.settings.to_settings(), ..view })
}

/// Entry by entry, in words.
fn differences(mut kernel: Tables, mut derived: Tables, state: &State) -> Vec<Difference> {
    // What the writer gives, and no policy says.
    derived.settings.generation = kernel.settings.generation;
    for (ifindex, device) in &mut derived.devices {
        device.grace_until_ns = kernel.devices.get(ifindex).map_or(0, |d| d.grace_until_ns);
    }
    fill_empty(&mut derived);
    drop_equal(&mut kernel, &mut derived);
    let (kernel, derived) = (generation(&kernel, state), generation(&derived, state));
    let mut out = Vec::new();
    for (map, entries) in &kernel {
        let ours = by_key(entries);
        let theirs = by_key(derived.get(map).map(Vec::as_slice).unwrap_or_default());
        for key in ours.keys().chain(theirs.keys().filter(|k| !ours.contains_key(*k))) {
            let (is, should) = (ours.get(key), theirs.get(key));
            if is != should {
                out.push(Difference {
                    map,
                    key: (*key).to_owned(),
                    kernel: is.cloned(),
                    derived: should.cloned(),
                });
            }
        }
    }
    out
}

/// Words for what is equal would be thrown away, and there may be millions of them. Entries of arrays are named by their
/// places, so an array stays whole or goes.
fn drop_equal(kernel: &mut Tables, derived: &mut Tables) {
    fn keyed<K: Ord, V: PartialEq>(a: &mut BTreeMap<K, V>, b: &mut BTreeMap<K, V>) {
        a.retain(|key, value| {
            let equal = b.get(key) == Some(value);
            if equal {
                b.remove(key);
            }
            !equal
        });
    }
    fn numbered<T: PartialEq>(a: &mut Vec<T>, b: &mut Vec<T>) {
        if a == b {
            a.clear();
            b.clear();
        }
    }
    numbered(&mut kernel.endpoints, &mut derived.endpoints);
    numbered(&mut kernel.lists, &mut derived.lists);
    numbered(&mut kernel.rules, &mut derived.rules);
    numbered(&mut kernel.rows, &mut derived.rows);
    keyed(&mut kernel.devices, &mut derived.devices);
    keyed(&mut kernel.addr_class, &mut derived.addr_class);
    keyed(&mut kernel.port_class, &mut derived.port_class);
    keyed(&mut kernel.own_addrs, &mut derived.own_addrs);
    keyed(&mut kernel.frontends, &mut derived.frontends);
    keyed(&mut kernel.failsafes, &mut derived.failsafes);
    keyed(&mut kernel.infra, &mut derived.infra);
}

fn by_key(entries: &[Entry]) -> BTreeMap<&str, String> {
    entries.iter().map(|e| (e.key.as_str(), e.text())).collect()
}

/// The kernel knows no empty array: one zero entry stands there.
fn fill_empty(tables: &mut Tables) {
    fn one<T: Default>(list: &mut Vec<T>) {
        if list.is_empty() {
            list.push(T::default());
        }
    }
    one(&mut tables.endpoints);
    one(&mut tables.lists);
    one(&mut tables.rules);
    one(&mut tables.rows);
}

#[cfg(test)]
mod tests {
    use dataplane_common::abi::RuleEntry;

    use super::*;
    use crate::state::tests::state;

    #[test]
    fn every_difference_is_named_in_both_directions() {
        let rule = |action| RuleEntry { action, identity: 9, ..RuleEntry::default() };
        let tables = |rules: &[RuleEntry]| Tables { rules: rules.to_vec(), ..Tables::default() };
        let mut full = tables(&[rule(1)]);
        fill_empty(&mut full);
        assert_eq!(differences(full.clone(), tables(&[rule(1)]), &state()), []);
        let found = differences(full, tables(&[rule(0), rule(1)]), &state());
        let keys: Vec<(&str, &str, bool)> =
            found.iter().map(|d| (d.map, d.key.as_str(), d.kernel.is_some())).collect();
        assert_eq!(keys, [("pc_rules", "0", true), ("pc_rules", "1", false)]);
        assert!(found[0].kernel.as_deref().is_some_and(|k| k.contains("action=Allow")));
        assert!(found[0].derived.as_deref().is_some_and(|k| k.contains("action=Deny")));
    }
}
