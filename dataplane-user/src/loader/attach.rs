//! Programs on devices. TCX links (kernel ≥ 6.6), pinned, so that enforcement outlives the agent and is replaced
//! atomically (D22); clsact filters on older kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use dataplane_common::abi::Hook;
use dataplane_common::names;
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::clsact::{self, attach_clsact, detach_clsact};
use super::hold::HeldLinks;
use super::pins::{PinDir, is_bpffs, pin_path, pins, remove_if_there};
use crate::sys::tcx_programs;

/// End of the name of a link that waits for its place.
const NEXT: &str = "_next";

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

/// A program beside that of another build, on one hook of one device. Dropped: taken off, and with our process, too.
pub struct Beside {
    ifindex: u32,
    hook: Hook,
    link: SchedClassifierLink,
}

/// The devices that carry our programs.
pub struct Attacher {
    links: PathBuf,
    mechanism: Mechanism,
    /// Both hooks done with the programs of this agent.
    done: BTreeSet<u32>,
    held: HeldLinks,
    /// ifindex → hooks that run a filter of an agent before this one.
    filters: BTreeMap<u32, BTreeSet<Hook>>,
}

impl Attacher {
    /// For a locked pin dir.
    pub fn new(pin_dir: &PinDir, mechanism: Mechanism) -> Self {
        Self {
            links: pin_dir.links(),
            mechanism,
            done: BTreeSet::new(),
            held: HeldLinks::default(),
            filters: BTreeMap::new(),
        }
    }

    /// How.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether this device is done.
    pub fn has(&self, ifindex: u32) -> bool {
        self.done.contains(&ifindex)
    }

    /// What [`super::link::Links::filters`] found before this agent attached anything.
    pub fn found(&mut self, filters: BTreeMap<u32, BTreeSet<Hook>>) {
        self.filters = filters;
    }

    /// Whether an agent put its programs on this device, and nobody took them away.
    pub fn carries(&self, ifindex: u32) -> bool {
        let filtered = |hook: &Hook| self.filters.get(&ifindex).is_some_and(|hooks| hooks.contains(hook));
        self.has(ifindex) || HOOKS.iter().all(|hook| filtered(hook) || self.linked(*hook, ifindex))
    }

    /// Whether the program of the pinned link is in the device's chain: a link that somebody detached keeps its pin.
    fn linked(&self, hook: Hook, ifindex: u32) -> bool {
        let program = || {
            let link = FdLink::from(PinnedLink::from_pin(self.pin_path(hook, ifindex)).ok()?);
            link.info().ok().map(|info| info.program_id())
        };
        let runs = |program| runs_by_link(program, hook, &name_now(ifindex)?).ok();
        program().and_then(runs).unwrap_or(false)
    }

    /// Whether any device carries programs of this agent or of one before it.
    pub fn carries_any(&self) -> bool {
        !self.done.is_empty()
            || !self.filters.is_empty()
            || pins(&self.links).is_ok_and(|pins| !pins.is_empty())
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
        // Names move between devices; the number says which one is meant.
        if name_now(ifindex).as_deref() != Some(device) {
            bail!(
                "device {device} was renamed or removed just now; the next look attaches to what is there then"
            );
        }
        match self.mechanism {
            Mechanism::Tcx => {
                self.attach_tcx(program, hook, device, ifindex)?;
                // An agent under an older kernel, or with another flag, may have left a filter.
                detach_clsact(device, hook).map(drop)
            }
            // As for the link of an agent with another flag.
            Mechanism::Clsact => attach_clsact(program, hook, device)
                .and_then(|()| remove_if_there(&self.pin_path(hook, ifindex))),
        }
        .with_context(|| format!("cannot attach {} to {device} by {}", program_name(hook), self.mechanism))
    }

    /// Attaches one hook behind the program that another build left there, which goes on enforcing (D49). `None`: there is
    /// none.
    pub fn attach_beside(
        &mut self,
        program: &mut SchedClassifier,
        hook: Hook,
        device: &str,
        ifindex: u32,
    ) -> Result<Option<Beside>> {
        if !self.carries(ifindex) || name_now(ifindex).as_deref() != Some(device) {
            return Ok(None);
        }
        let link = match self.mechanism {
            Mechanism::Tcx => {
                // Held until ours is attached: its place is told by the other's descriptor.
                let other = PinnedLink::from_pin(self.pin_path(hook, ifindex))
                    .ok()
                    .map(|pinned| SchedClassifierLink::try_from(FdLink::from(pinned)))
                    .transpose()?;
                let order = match &other {
                    Some(other) => LinkOrder::after_link(other)?,
                    None => LinkOrder::last(),
                };
                let options = TcAttachOptions::TcxOrder(order);
                let id = program.attach_with_options(device, attach_type(hook), options)?;
                program.take_link(id)?
            }
            Mechanism::Clsact => clsact::attach_beside(program, hook, device)?,
        };
        Ok(Some(Beside { ifindex, hook, link }))
    }

    /// Our program has seen what passed: it stays, and that of the other build goes. What is left is to be dropped when
    /// [`Self::attach`] has replaced the other's filter.
    pub fn settle(&mut self, beside: Beside) -> Result<Option<Beside>> {
        if self.mechanism == Mechanism::Clsact {
            return Ok(Some(beside));
        }
        // The kernel takes no program twice, so ours cannot go into the other's link: our link takes its pin.
        let (path, next) = (self.pin_path(beside.hook, beside.ifindex), self.next_path(&beside));
        remove_if_there(&next)?;
        let link: FdLink = beside.link.try_into()?;
        let pinned = link.pin(&next).with_context(|| format!("cannot pin the link at {}", next.display()))?;
        // One rename: there is always one of the two on the device.
        fs::rename(&next, &path).with_context(|| format!("cannot replace the link {}", path.display()))?;
        self.held.insert(beside.ifindex, beside.hook, pinned.into());
        Ok(None)
    }

    /// Where a link waits for the pin of the other build's.
    fn next_path(&self, beside: &Beside) -> PathBuf {
        self.links.join(format!("{}_{}{NEXT}", beside.ifindex, beside.hook.name()))
    }

    /// Removes what an agent left that was killed while it settled.
    pub fn forget_unsettled(&self) -> Result<()> {
        for entry in fs::read_dir(&self.links)?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(NEXT) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Notes that both hooks of a device are done.
    pub fn finished(&mut self, ifindex: u32) {
        self.done.insert(ifindex);
        self.filters.remove(&ifindex);
    }

    /// Somebody took a program of this device away: it is to be attached again.
    pub fn forget(&mut self, ifindex: u32) {
        self.done.remove(&ifindex);
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
        if self.held.has(ifindex, hook) && runs_by_link(program.info()?.id(), hook, device)? {
            return Ok(()); // settled
        }
        if let Some(link) = self.adopt(program, &path)?
            && runs_by_link(program.info()?.id(), hook, device)?
        {
            self.held.insert(ifindex, hook, link);
            return Ok(());
        }
        // No link yet, or one of a device that is gone or lives in another namespace.
        self.held.remove(ifindex, hook);
        remove_if_there(&path)?;
        // Pinning consumes the link, so a failure takes the program off again: ask first.
        ensure!(is_bpffs(&self.links), "{} is not on a bpffs any more", self.links.display());
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(device, attach_type(hook), options)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        let pinned = link.pin(&path).with_context(|| format!("cannot pin the link at {}", path.display()))?;
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
                tracing::debug!(ifindex, hook = hook.name(), "removed the link");
                removed.insert(ifindex);
            }
        }
        let gone = |ifindex: &u32| !wanted.contains(ifindex);
        removed.extend(self.done.iter().copied().filter(gone));
        let filtered: BTreeSet<u32> = match self.mechanism {
            Mechanism::Tcx => self.filters.keys().copied().filter(gone).collect(),
            Mechanism::Clsact => self.filters.keys().chain(&self.done).copied().filter(gone).collect(),
        };
        for ifindex in filtered {
            // By the name that the device has now: another device may have the one that it had.
            if let Some(device) = name_now(ifindex) {
                for hook in HOOKS {
                    detach_clsact(&device, hook)?;
                }
            }
            self.filters.remove(&ifindex);
            removed.insert(ifindex);
        }
        self.done.retain(|ifindex| !gone(ifindex));
        Ok(removed.into_iter().map(|i| name_now(i).unwrap_or_else(|| format!("ifindex {i}"))).collect())
    }
}

/// The name of a device of this network namespace; `None`: it is gone.
fn name_now(ifindex: u32) -> Option<String> {
    if_indextoname(ifindex).ok()?.into_string().ok()
}

/// Whether this very program is in the chain of links of the device, in this network namespace.
pub(super) fn runs_by_link(program: u32, hook: Hook, device: &str) -> Result<bool> {
    let ifindex = if_nametoindex(device).with_context(|| format!("device {device}"))?;
    let chain = tcx_programs(ifindex, hook)
        .with_context(|| format!("cannot ask what runs at {} of {device}", hook.name()))?;
    Ok(chain.contains(&program))
}
