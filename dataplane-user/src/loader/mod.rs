//! The kernel side in the agent's hands: programs and maps of one loaded object.

pub mod attach;
pub mod capabilities;
pub mod chain;
mod clsact;
pub mod detach;
pub mod hold;
pub mod link;
#[cfg(test)]
mod maps_page;
pub mod object;
pub mod pins;
pub mod turnstile;
pub mod xdp;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError};
use dataplane_common::abi::{Control, Hook};
use dataplane_common::names;

use crate::compile::Tables;
use crate::maps::{self, Generation, Generations, State};

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Folder in a bpffs. `None`: nothing is pinned, everything ends with the process (tests).
    pub pin_dir: Option<PathBuf>,
}

/// Why the kernel side could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this build carries no kernel programs: bpf-linker or rust-src was missing when it was built. Run \
         `cargo xtask setup` and build again"
    )]
    NotEmbedded,
    #[error("cannot create {}: {source}. Mount a bpffs there: mount -t bpf bpf /sys/fs/bpf", folder.display())]
    PinFolder { folder: PathBuf, source: std::io::Error },
    #[error("cannot load the kernel object: {source:#}. {remedy}")]
    Object { source: Box<EbpfError>, remedy: String },
    #[error("the kernel object has no program {0}; rebuild the agent so that both come from one source tree")]
    NoProgram(&'static str),
    #[error("the kernel refused program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error(transparent)]
    Maps(#[from] maps::Error),
}

impl Error {
    fn object(pin_dir: Option<&Path>, source: EbpfError) -> Self {
        let text = format!("{source:?}");
        let remedy = if text.contains("PermissionDenied") || text.contains("code: 1,") {
            "Run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.".to_owned()
        } else if let (Some(dir), true) = (pin_dir, text.contains("PinError")) {
            format!("Is {} in a bpffs? Mount one: mount -t bpf bpf /sys/fs/bpf", dir.display())
        } else {
            "Linux 5.10 or newer with BPF and BTF is needed.".to_owned()
        };
        Self::Object { source: Box::new(source), remedy }
    }
}

/// Programs and maps, loaded.
pub struct Dataplane {
    ebpf: Ebpf,
    generations: Generations,
    state: State,
    fresh_flows: bool,
}

impl Dataplane {
    /// Loads object, maps and programs; attaches nothing. Pinned maps keep what they hold (D49).
    pub fn load(options: &LoadOptions) -> Result<Self, Error> {
        let flows = options.pin_dir.as_deref().map(|dir| object::flow_pins(dir).join(names::MAP_FLOWS));
        let fresh_flows = !flows.is_some_and(|path| path.exists());
        let mut ebpf = object::load(options.pin_dir.as_deref())?;
        for name in [names::PROG_TC_INGRESS, names::PROG_TC_EGRESS] {
            let program = classifier(&mut ebpf, name)?;
            program.load().map_err(|source| Error::Program { name, source: Box::new(source) })?;
        }
        let state = State::take(&mut ebpf, options.pin_dir.as_deref().map(object::policy_pins))?;
        let templates = maps::Templates::read(object::OBJECT)?;
        let policies = options.pin_dir.as_deref().map(object::policy_pins);
        let mut generations = Generations::take(&mut ebpf, templates, policies)?;
        generations.reread(&state)?;
        Ok(Self { ebpf, generations, state, fresh_flows })
    }
    /// Makes these tables the generation in force, or changes nothing (D22).
    pub fn apply(&mut self, tables: &Tables) -> Result<Generation, maps::Error> {
        self.generations.apply(tables, &mut self.state, None)
    }
    /// As [`Self::apply`]; what is in force now comes back by itself after `limit`, unless somebody confirms.
    pub fn apply_on_trial(
        &mut self,
        tables: &Tables,
        trial: u64,
        limit: Duration,
    ) -> Result<Generation, maps::Error> {
        self.generations.apply(tables, &mut self.state, Some((trial, limit)))
    }
    /// Reads again what is in force, after somebody else (a deadline, `portcullis confirm --undo`) changed it.
    pub fn reread(&mut self) -> Result<(), maps::Error> {
        self.generations.reread(&self.state)
    }
    /// Gives the memory of generations back that neither packets nor the fallback need. Call it off the hot path.
    pub fn free_retired(&mut self) -> Result<(), maps::Error> {
        let control = self.state.control()?;
        self.generations.free_retired(&control);
        Ok(())
    }
    /// Whether the flow tables were made by [`Self::load`]: they know nothing of what lives (D17).
    pub fn has_fresh_flows(&self) -> bool {
        self.fresh_flows
    }
    /// At the next apply every governed device begins its grace (D17), as when flow state was lost.
    pub fn begin_grace_anew(&mut self) {
        self.generations.forget_devices();
    }
    /// Programs were not on this device for a while; see [`Generations::was_unseen`].
    pub fn was_unseen(&mut self, ifindex: u32) {
        self.generations.was_unseen(ifindex);
    }
    /// The program of a hook, loaded.
    pub fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier, Error> {
        let name = match hook {
            Hook::Ingress => names::PROG_TC_INGRESS,
            Hook::Egress => names::PROG_TC_EGRESS,
        };
        classifier(&mut self.ebpf, name)
    }
    /// The XDP program, loaded at its first use: most nodes have no untracked policy (D10).
    pub fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let name = names::PROG_XDP;
        let refused = |source| Error::Program { name, source: Box::new(source) };
        let program = self.ebpf.program_mut(name).ok_or(Error::NoProgram(name))?;
        let program: &mut Xdp = program.try_into().map_err(refused)?;
        if program.fd().is_err() {
            program.load().map_err(refused)?;
        }
        Ok(program)
    }
    /// The control word.
    pub fn control(&self) -> Result<Control, maps::Error> {
        self.state.control()
    }
    /// Changes the control word; its other writers are `portcullis confirm` and `suspend`.
    pub fn update_control(&mut self, change: impl FnOnce(&mut Control)) -> Result<(), maps::Error> {
        self.state.change_control(|control, _| change(control))
    }
    /// The clock that the programs see, ns.
    pub fn now_ns(&self) -> Result<u64, maps::Error> {
        Ok(self.state.now_ns(&self.state.control()?))
    }
    /// Flows, counters, events.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }
    /// The generation in force and its devices.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::NoProgram(name))?;
    program.try_into().map_err(|source| Error::Program { name, source: Box::new(source) })
}
