//! Programs on devices. TCX links (kernel ≥ 6.6), pinned, so that enforcement outlives the agent and is replaced
//! atomically (D22); clsact filters on older kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use dataplane_common::abi::Hook;
use dataplane_common::names;

use super::clsact::{attach_clsact, detach_clsact};
use super::hold::HeldLinks;
use super::pins::{PinDir, pin_path, pins, remove_if_there};

/// Both hooks.
pub const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// The program of a hook, by its name in the object.
pub const fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => names::PROG_TC_INGRESS,
        Hook::Egress => names::PROG_TC_EGRESS,
    }
}

pub(super) const fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mechanism {
    /// Links (kernel ≥ 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// The best that this kernel has.
    pub fn of_this_kernel() -> Self {
        let linked = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        if linked { Self::Tcx } else { Self::Clsact }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The devices that carry our programs.
pub struct Attacher {
    links: PathBuf,
    mechanism: Mechanism,
    /// ifindex → name, both hooks done with the programs of this agent.
    done: BTreeMap<u32, String>,
    held: HeldLinks,
}

impl Attacher {
    /// For a locked pin dir.
    pub fn new(pin_dir: &PinDir, mechanism: Mechanism) -> Self {
        Self { links: pin_dir.links(), mechanism, done: BTreeMap::new(), held: HeldLinks::default() }
    }

    /// How.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether this device is done.
    pub fn has(&self, ifindex: u32) -> bool {
        self.done.contains_key(&ifindex)
    }

    /// Whether an agent put its programs on this device, and nobody took them away. An earlier agent's clsact filters
    /// cannot be asked for: they count as there.
    pub fn carries(&self, ifindex: u32) -> bool {
        self.has(ifindex)
            || self.mechanism == Mechanism::Clsact
            || HOOKS.iter().all(|hook| self.pin_path(*hook, ifindex).exists())
    }

    /// Whether any device carries programs of this agent or of one before it.
    pub fn carries_any(&self) -> bool {
        !self.done.is_empty() || pins(&self.links).is_ok_and(|pins| !pins.is_empty())
    }

    /// Attaches one hook of one device, replacing what an agent before us left there. The other programs of the
    /// device stay as they are (D11).
    pub fn attach(
        &mut self,
        program: &mut SchedClassifier,
        hook: Hook,
        device: &str,
        ifindex: u32,
    ) -> Result<()> {
        match self.mechanism {
            Mechanism::Tcx => {
                self.attach_tcx(program, hook, device, ifindex)?;
                // An agent under an older kernel, or with another flag, may have left a filter.
                detach_clsact(device, hook).map(drop)
            }
            Mechanism::Clsact => attach_clsact(program, hook, device),
        }
        .with_context(|| format!("cannot attach {} to {device} by {}", program_name(hook), self.mechanism))
    }

    /// Notes that both hooks of a device are done.
    pub fn finished(&mut self, device: &str, ifindex: u32) {
        self.done.insert(ifindex, device.to_owned());
    }

    /// Somebody took a program of this device away: it is to be attached again.
    pub fn forget(&mut self, ifindex: u32) {
        self.done.remove(&ifindex);
        self.held.retain(|held| held != ifindex);
    }

    /// Pins links again whose pins somebody removed. Says how many; no packet passed unjudged meanwhile.
    pub fn pin_again(&mut self) -> Result<usize> {
        self.held.pin_again(&self.links)
    }

    fn pin_path(&self, hook: Hook, ifindex: u32) -> PathBuf {
        pin_path(&self.links, hook, ifindex)
    }

    fn attach_tcx(
        &mut self,
        program: &mut SchedClassifier,
        hook: Hook,
        device: &str,
        ifindex: u32,
    ) -> Result<()> {
        let path = self.pin_path(hook, ifindex);
        if let Some(link) = self.adopt(program, &path)?
            && runs(program, hook, device)?
        {
            self.held.insert(ifindex, hook, link);
            return Ok(());
        }
        // No link yet, or one of a device that is gone or lives in another namespace.
        self.held.remove(ifindex, hook);
        remove_if_there(&path)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(device, attach_type(hook), options)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        let pinned =
            link.pin(&path).with_context(|| format!("cannot pin the link at {}", path.display()))?;
        self.held.insert(ifindex, hook, pinned.into());
        Ok(())
    }

    /// Puts `program` into the pinned link, atomically. `None` when there is no usable link.
    fn adopt(&self, program: &mut SchedClassifier, path: &Path) -> Result<Option<FdLink>> {
        let pinned = match PinnedLink::from_pin(path) {
            Ok(pinned) => pinned,
            Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(e) => {
                return Err(e).with_context(|| format!("cannot open the pinned link {}", path.display()));
            }
        };
        let link = SchedClassifierLink::try_from(FdLink::from(pinned))
            .with_context(|| format!("{} is no TCX link; remove it", path.display()))?;
        match program.attach_to_link(link) {
            Ok(id) => Ok(Some(program.take_link(id)?.try_into()?)),
            // The device is gone.
            Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOLINK) => {
                Ok(None)
            }
            Err(e) => Err(e).with_context(|| format!("cannot replace the program of {}", path.display())),
        }
    }

    /// Detaches every device of ours that is not in `wanted`, and forgets those that are gone. Says which.
    pub fn retain(&mut self, wanted: &BTreeSet<u32>) -> Result<Vec<String>> {
        let mut removed = BTreeSet::new();
        self.held.retain(|ifindex| wanted.contains(&ifindex));
        for (ifindex, hook, path) in pins(&self.links)? {
            if !wanted.contains(&ifindex) {
                remove_if_there(&path)?;
                let name = self.done.get(&ifindex).cloned().unwrap_or_else(|| format!("ifindex {ifindex}"));
                tracing::debug!(device = name, hook = hook.name(), "removed the link");
                removed.insert(name);
            }
        }
        let gone: Vec<(u32, String)> =
            self.done.iter().filter(|(i, _)| !wanted.contains(i)).map(|(i, n)| (*i, n.clone())).collect();
        for (ifindex, name) in gone {
            if self.mechanism == Mechanism::Clsact {
                for hook in HOOKS {
                    detach_clsact(&name, hook)?;
                }
            }
            self.done.remove(&ifindex);
            removed.insert(name);
        }
        Ok(removed.into_iter().collect())
    }
}

/// Whether this very program is in the chain of the device, in this network namespace.
fn runs(program: &SchedClassifier, hook: Hook, device: &str) -> Result<bool> {
    let own = program.info()?.id();
    let (_, chain) = SchedClassifier::query_tcx(device, attach_type(hook))?;
    Ok(chain.iter().any(|p| p.id() == own))
}
