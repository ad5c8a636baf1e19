//! Taking everything of ours off a node.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::links::{FdLink, PinnedLink};

use super::attach::HOOKS;
use super::clsact::detach_clsact;
use super::pins::{LINKS, lock_dir, pins, remove_if_there, xdp_pins};
use super::xdp;
use crate::sys::tcx_programs;

/// How long the kernel may take to release a link.
const DETACH_PATIENCE: Duration = Duration::from_secs(20);

/// What [`detach`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pinned links.
    pub links: usize,
    /// clsact filters.
    pub filters: usize,
    /// Pinned maps and programs.
    pub pins: usize,
}

/// Takes everything of ours off this node: links, filters, pins. Refused while an agent runs.
pub fn detach(pin_dir: &Path) -> Result<Detached> {
    let mut done = Detached::default();
    let _lock = if pin_dir.is_dir() { Some(lock_dir(pin_dir)?) } else { None };
    let mut programs = BTreeSet::new();
    let links = pin_dir.join(LINKS);
    let tc = pins(&links)?.into_iter().map(|(_, _, path)| path);
    for path in xdp_pins(&links)?.into_iter().map(|(_, path)| path).chain(tc) {
        programs.extend(program_of(&path));
        remove_if_there(&path)?;
        done.links += 1;
    }
    let devices = device_names()?;
    for device in &devices {
        for hook in HOOKS {
            if detach_clsact(device, hook)? {
                done.filters += 1;
            }
        }
    }
    if pin_dir.is_dir() {
        done.pins = remove_tree(pin_dir)?;
    }
    wait_until_gone(&devices, &programs)?;
    Ok(done)
}

/// Devices of this network namespace.
fn device_names() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc/sys/net/ipv4/conf").context("cannot list network devices")? {
        let name = entry.context("cannot list network devices")?.file_name().to_string_lossy().into_owned();
        if name != "all" && name != "default" {
            all.push(name);
        }
    }
    Ok(all)
}

/// Number of the program behind a pinned link.
fn program_of(path: &Path) -> Option<u32> {
    FdLink::from(PinnedLink::from_pin(path).ok()?).info().ok().map(|info| info.program_id())
}

/// The kernel takes a link off its device a moment after the last reference went: before that, packets still meet it.
fn wait_until_gone(devices: &[String], programs: &BTreeSet<u32>) -> Result<()> {
    let end = Instant::now() + DETACH_PATIENCE;
    let carries = |device: &&String| {
        let number = nix::net::if_::if_nametoindex(device.as_str());
        let early = number.is_ok_and(|n| {
            xdp::look(n).is_ok_and(|seen| seen.programs.iter().any(|p| programs.contains(&p.program)))
        });
        early
            || HOOKS.into_iter().any(|hook| {
                let chain = number.map_err(io::Error::from).and_then(|n| tcx_programs(n, hook));
                chain.is_ok_and(|chain| chain.iter().any(|p| programs.contains(p)))
            })
    };
    while let Some(device) = devices.iter().find(carries).filter(|_| !programs.is_empty()) {
        if Instant::now() > end {
            bail!(
                "device {device} still carries our program {DETACH_PATIENCE:?} after its pin was removed: another \
                 process holds the link; find it with `bpftool link show`"
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes the pins below a folder; a mount point itself stays.
pub(super) fn remove_tree(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        // The kernel's own files at the root of a bpffs cannot be removed, and are nobody's pins.
        if ["maps.debug", "progs.debug"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            count += remove_tree(&entry.path())?;
        } else {
            remove_if_there(&entry.path())?;
            count += 1;
        }
    }
    if let Err(e) = fs::remove_dir(dir) {
        tracing::debug!(path = %dir.display(), error = %e, "folder kept");
    }
    Ok(count)
}
