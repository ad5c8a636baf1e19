//! The agent's part in safe changes: audit, and trials (`apply --confirm`): it begins them, and puts the folder back
//! when the kernel went back by itself, so that folder, agent and kernel say the same.

use std::time::Duration;

use anyhow::{Context, Result};
use dataplane_common::abi::control_flag;

use super::Agent;
use crate::compile::Tables;
use crate::safety::journal::Locked;
use crate::safety::trial::{Next, Trial, settle};
use crate::safety::{Standing, Word};

/// What is on trial or held.
#[derive(Debug, Default)]
pub(super) struct Safety {
    /// The next generation is to be this trial.
    pub begin: Option<Trial>,
    /// Nothing of the folder comes into force until it changes.
    pub held: bool,
    /// A command had the folder at the last look.
    pub busy: bool,
    /// What the last headline said of audit, suspension and trial.
    pub shown: String,
}

const HELD: &str = "an apply on trial was not confirmed and its record is gone: the policies before it are in force, \
                    though the folder holds others; they come into force when the folder changes";

impl Agent {
    /// `run --audit`, or its end: before anything is judged by this agent's generations.
    pub(super) fn audit(&mut self) -> Result<()> {
        let audit = self.options.audit;
        self.dataplane.update_control(|control| {
            control.flags &= !control_flag::AUDIT;
            control.flags |= if audit { control_flag::AUDIT } else { 0 };
        })?;
        if audit {
            tracing::warn!(
                "AUDIT: what policy denies is counted and passes; nothing is dropped on this node"
            );
        }
        Ok(())
    }

    /// What the control word says now.
    pub(super) fn standing(&self) -> Standing {
        match (self.dataplane.control(), self.dataplane.now_ns()) {
            (Ok(control), Ok(now_ns)) => Standing::of(&control, now_ns),
            // The maps that enforce are gone or foreign: other reads say so in `trouble`.
            (Err(_), _) | (_, Err(_)) => Standing::default(),
        }
    }

    /// Whether what is in force may yet be undone.
    pub(super) fn on_trial(&self) -> bool {
        let standing = self.standing();
        standing.confirm_seconds.is_some() || standing.went_back
    }

    /// The first look at the folder. Never a half-read one (D46): an agent that cannot have the folder for itself does
    /// not start, and what is in force stays.
    pub(super) fn first_read(&mut self) -> Result<()> {
        if self.source.folder_path(&self.options).is_none() {
            self.end_foreign_trial()?;
            self.source.read();
            return Ok(());
        }
        if !self.options.policies.is_dir() {
            // The reader says so; `restore` has decided whether to go on without it.
            self.source.read();
            return Ok(());
        }
        let locked = Locked::wait(&self.options.policies)?;
        self.read_locked(&locked, true);
        Ok(())
    }

    /// A trial of a folder's agent that ran here before: nobody can confirm it to us.
    fn end_foreign_trial(&mut self) -> Result<()> {
        if self.standing().confirm_seconds.is_some() {
            tracing::warn!("an apply on trial is undone: policies come from the Kubernetes API now");
            self.word()?.undo()?;
            self.forget_generation();
        }
        Ok(())
    }

    /// Reads what the source says. A folder: unless a command is at work in it: then soon again. True when something changed.
    pub(super) fn read_source(&mut self) -> bool {
        let _span = tracing::info_span!("resource").entered();
        if self.source.folder_path(&self.options).is_none() {
            return self.source.read();
        }
        let locked = Locked::try_now(&self.options.policies);
        self.safety.busy = matches!(locked, Ok(None));
        match locked {
            Ok(Some(locked)) => self.read_locked(&locked, false),
            Ok(None) => false,
            Err(e) if self.options.policies.is_dir() => {
                self.fails("folder lock", &e);
                false
            }
            // Gone: the reader says so, and keeps what is in force.
            Err(_) => self.source.read(),
        }
    }

    fn read_locked(&mut self, locked: &Locked, starting: bool) -> bool {
        self.trouble.remove("folder lock");
        let next = self.word().and_then(|mut word| settle(locked, &mut word, starting));
        let was_held = std::mem::take(&mut self.safety.held);
        self.safety.begin = None;
        let next = match next {
            Ok(next) => next,
            Err(e) => {
                // Unknown whether the folder may come into force: it does not, unless nothing is.
                self.fails("trial", &e);
                self.safety.held = self.dataplane.generations().number() > 0;
                return self.source.read();
            }
        };
        if next != Next::Hold {
            self.trouble.remove("trial");
        }
        match next {
            Next::Nothing => self.source.read(),
            Next::Begin(trial) => {
                self.source.read();
                self.safety.begin = Some(trial);
                true
            }
            Next::Hold => self.hold(was_held),
            Next::Ended { kept, words } => {
                tracing::warn!("{words}");
                self.source.read();
                if !kept {
                    self.forget_generation();
                }
                true
            }
        }
    }

    /// Until the folder changes after the hold began.
    fn hold(&mut self, was_held: bool) -> bool {
        let changed = self.source.read();
        if was_held && changed {
            let released = self.word().and_then(|mut word| word.undo());
            match released {
                Ok(()) => {
                    self.trouble.remove("trial");
                    self.forget_generation();
                    return true;
                }
                Err(e) => self.fails("trial", &e),
            }
        }
        self.safety.held = true;
        if self.trouble.insert("trial".into(), HELD.into()).is_none() {
            tracing::error!("{HELD}");
        }
        changed || !was_held
    }

    /// What is in force is no longer what this agent put there: the next look at the folder makes a new generation.
    fn forget_generation(&mut self) {
        self.tables = None;
        if let Err(e) = self.dataplane.reread() {
            self.fails("maps", &e.into());
        }
    }

    fn word(&self) -> Result<Word> {
        Word::open(&self.options.pin_dir)?.context("the control word is no longer pinned: restart the agent")
    }

    /// Makes the tables the generation in force, on trial if an apply asked for that.
    pub(super) fn flip(&mut self, tables: &Tables) -> Result<()> {
        self.publisher.announce(self.dataplane.generations().number() + 1, &tables.names);
        match &self.safety.begin {
            None => self.dataplane.apply(tables)?,
            Some(trial) => {
                let limit = Duration::from_secs(trial.seconds);
                self.dataplane.apply_on_trial(tables, trial.id, limit)?
            }
        };
        if let Some(trial) = self.safety.begin.take() {
            tracing::warn!(seconds = trial.seconds, "on trial: undone unless somebody confirms");
        }
        Ok(())
    }

    /// A trial that could not begin is undone at once: its policies would wait in the folder for no one.
    pub(super) fn refuse_trial(&mut self) {
        let Some(trial) = self.safety.begin.take() else { return };
        let why = ["compile", "maps"].iter().find_map(|place| self.trouble.get(*place)).cloned();
        let why = format!("it could not be put in force: {}", why.unwrap_or_default());
        // Busy: the command waits for its trial and puts the files back itself.
        let undone = Locked::try_now(&self.options.policies)
            .and_then(|locked| locked.map(|l| trial.put_back(&l, &why)).transpose());
        match undone {
            Ok(_) => tracing::error!("an apply on trial was undone: {why}"),
            Err(e) => self.fails("trial", &e),
        }
    }
}
