//! What the agent holds beside its pins: whoever deletes a pin then takes nothing off a device while an agent runs,
//! and the agent puts the pin back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::MapData;
use aya::programs::links::FdLink;
use dataplane_common::abi::Hook;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::object::{FLOW_MAPS, POLICY_MAPS, flow_pins, policy_pins};
use super::pins::{is_bpffs, pin_path};

/// Every pinned map of this layout.
pub struct HeldMaps(Vec<(PathBuf, MapData)>);

impl HeldMaps {
    /// Opens the maps that [`super::Dataplane::load`] pinned.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let paths = |folder: PathBuf, maps: &'static [&str]| maps.iter().map(move |map| folder.join(map));
        paths(policy_pins(pin_dir), &POLICY_MAPS)
            .chain(paths(flow_pins(pin_dir), &FLOW_MAPS))
            .map(|path| {
                let map = MapData::from_pin(&path)
                    .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
                Ok((path, map))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Pins again what is not there any more. Says how many.
    pub fn pin_again(&self) -> Result<usize> {
        let mut count = 0;
        for (path, map) in self.0.iter().filter(|(path, _)| !path.exists()) {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot create {}", folder.display()))?;
            }
            map.pin(path).with_context(|| format!("cannot pin the map {} again", path.display()))?;
            count += 1;
        }
        Ok(count)
    }
}

/// Every device takes two descriptors, and a process may have 1024 unless it asks for more.
pub fn allow_many_links() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "RLIMIT_NOFILE was not raised");
    }
}

/// TCX links of this agent. A link lives as long as its pin or a descriptor.
#[derive(Default)]
pub(super) struct HeldLinks(BTreeMap<(u32, Hook), FdLink>);

impl HeldLinks {
    pub(super) fn has(&self, ifindex: u32, hook: Hook) -> bool {
        self.0.contains_key(&(ifindex, hook))
    }
    pub fn insert(&mut self, ifindex: u32, hook: Hook, link: FdLink) {
        self.0.insert((ifindex, hook), link);
    }

    pub fn remove(&mut self, ifindex: u32, hook: Hook) {
        self.0.remove(&(ifindex, hook));
    }

    /// Lets every link go whose device is not wanted.
    pub fn retain(&mut self, wanted: impl Fn(u32) -> bool) {
        self.0.retain(|(ifindex, _), _| wanted(*ifindex));
    }

    /// Pins again what is not there any more. Says how many.
    pub fn pin_again(&mut self, links: &Path) -> Result<usize> {
        let missing: Vec<(u32, Hook)> =
            self.0.keys().copied().filter(|(i, hook)| !pin_path(links, *hook, *i).exists()).collect();
        for (ifindex, hook) in &missing {
            // Pinning consumes the link, so a failure would take the program off the device: ask first.
            anyhow::ensure!(is_bpffs(links), "{} is not on a bpffs any more", links.display());
            let Some(link) = self.0.remove(&(*ifindex, *hook)) else { continue };
            let path = pin_path(links, *hook, *ifindex);
            let pinned =
                link.pin(&path).with_context(|| format!("cannot pin the link {} again", path.display()))?;
            self.0.insert((*ifindex, *hook), FdLink::from(pinned));
        }
        Ok(missing.len())
    }
}
