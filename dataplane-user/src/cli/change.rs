//! What apply and delete share: a look at what would be cut, the write as a whole (D45), and the trial.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Answer;
use super::explain::live_view;
use super::output::{print_lines, tell};
use super::run::hostname;
use super::settings::Places;
use super::suspend::duration;
use crate::compile::compile;
use crate::config::Config;
use crate::index::Snapshot;
use crate::lint::{self, Finding};
use crate::policy::{NodeView, Problem, World};
use crate::resource::Store;
use crate::safety::journal::Locked;
use crate::safety::plan::{Plan, Step};
use crate::safety::trial::{self, LIMITS, Trial};
use crate::safety::word::in_words;
use crate::safety::{Word, guard, session};
use crate::state::State;

/// How long the agent may take to put an apply in force.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Say what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it even if it cuts the connection you are typing on
    #[arg(long)]
    force: bool,
    /// On trial: unless `portcullis confirm` follows within this time (90s, 10m), the policies before come back by
    /// themselves
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm: Option<Duration>,
    /// Name of this node. Default: that of the agent, or of the settings, or the hostname
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// A change that is about to be made.
pub struct Change<'a> {
    args: &'a ChangeArgs,
    config: Config,
    pub locked: Locked,
}

impl ChangeArgs {
    /// The folder, for us alone. Refused while an apply is on trial: what it goes back to could no longer be told.
    pub fn begin(&self) -> Result<Change<'_>> {
        let config = self.places.resolve()?;
        if config.kubernetes {
            bail!(
                "the agent takes its policies from the Kubernetes API (`kubernetes: true` in the settings): change them \
                 with kubectl; to change a folder, name it with --policies"
            );
        }
        let folder = &config.policies;
        if !folder.is_dir() {
            bail!("{} is no folder: create it, or name another with --policies", folder.display());
        }
        if self.confirm.is_some_and(|limit| limit < LIMITS.0 || limit > LIMITS.1) {
            bail!("--confirm takes 1s to 1h");
        }
        let locked = Locked::wait(folder)?;
        if Trial::load(&locked)?.is_some() {
            bail!(
                "an apply to {} is on trial: keep it with `portcullis confirm` or undo it with `portcullis confirm \
                 --undo` first",
                folder.display()
            );
        }
        Ok(Change { args: self, config, locked })
    }
}

impl Change<'_> {
    /// From plan to folder, and into force where a trial asks for that. `before`: the world of now; `after`: the
    /// candidate.
    pub fn carry_out(self, plan: &Plan, before: &World, after: &Store) -> Result<Answer> {
        let view = self.view()?;
        warn(plan, before, after, &view);
        if !self.is_harmless(before, after.world(), &view)? {
            eprintln!("nothing was changed");
            return Ok(Answer::No);
        }
        let locked = &self.locked;
        let dry = if self.args.dry_run { " (dry run)" } else { "" };
        let line =
            |s: &Step| format!("{} {} ({}){dry}", s.key, s.word, locked.folder().join(&s.file).display());
        let said: Vec<String> = plan.steps.iter().map(line).collect();
        if self.args.dry_run || plan.changes.is_empty() {
            print_lines(said)?;
            return Ok(Answer::Yes);
        }
        match self.args.confirm {
            None => {
                locked.commit(&plan.changes)?;
                print_lines(said)?;
                self.tell_unwatched();
                Ok(Answer::Yes)
            }
            Some(limit) => {
                let mut word = self.word()?;
                let trial = Trial::new(locked, &plan.changes, limit)?;
                let mut changes = plan.changes.clone();
                changes.push(trial.record()?);
                locked.commit(&changes)?;
                // The agent cannot read the folder before it is free again.
                drop(self.locked);
                print_lines(said)?;
                wait(&self.config.policies, &mut word, &trial)
            }
        }
    }

    /// What nobody watches does not come into force, and that must not pass unseen.
    fn tell_unwatched(&self) {
        let Ok(state) = State::load(&self.config.state_dir) else { return };
        let folder = &self.config.policies;
        if !state.agent_runs() {
            eprintln!("note: no agent runs here; this comes into force when one is started");
        } else if state.policies.canonicalize().ok() != folder.canonicalize().ok() {
            let watched = state.policies.display();
            eprintln!(
                "note: the agent here watches {watched}, so nothing of {} comes into force",
                folder.display()
            );
        }
    }

    /// A trial needs an agent: without one nothing would come into force, and nothing back.
    fn word(&self) -> Result<Word> {
        let runs = State::load(&self.config.state_dir).is_ok_and(|s| s.agent_runs());
        match Word::open(&self.config.pin_dir)? {
            Some(word) if runs => Ok(word),
            Some(_) | None => bail!(
                "--confirm needs a running agent (state in {}, pins in {}): start it, or apply without --confirm; \
                 nothing was changed",
                self.config.state_dir.display(),
                self.config.pin_dir.display()
            ),
        }
    }

    /// False: refused. Tells what would be cut, and warns of what is no reason to refuse.
    fn is_harmless(&self, before: &World, after: &World, view: &NodeView) -> Result<bool> {
        if let Err(e) = compile(&Snapshot::build(after, view)) {
            // D50: the agent would keep the old generation, and folder and kernel would disagree.
            eprintln!("refused: {e}");
            return Ok(false);
        }
        for server in session::api_servers() {
            for cut in guard::outbound(after, view, server)? {
                eprintln!("warning: this cuts the API server {server}: {}", cut.words());
            }
        }
        let mut harmless = true;
        for connection in session::connections() {
            let cuts = guard::inbound(before, after, view, &connection)?;
            if cuts.is_empty() {
                continue;
            }
            let word = if self.args.force { "warning" } else { "refused" };
            eprintln!(
                "{word}: this cuts {} -> {} (from {})",
                connection.client, connection.server, connection.known_from
            );
            cuts.iter().for_each(|cut| eprintln!("  {}", cut.words()));
            harmless = false;
        }
        if !harmless && !self.args.force {
            eprintln!(
                "allow it before that rule, or keep a failsafe for its port; or repeat with --force (and with \
                 --confirm 2m, so that it undoes itself)"
            );
        }
        Ok(harmless || self.args.force)
    }

    fn view(&self) -> Result<NodeView> {
        let of_agent = || State::load(&self.config.state_dir).ok().map(|s| s.node);
        let known = self.args.node.clone().or_else(of_agent).or_else(|| self.config.node.clone());
        let node = known.map_or_else(hostname, Ok)?;
        let view =
            live_view(&node).context("cannot look at this node, so not at what would be cut either")?;
        Ok(NodeView { settings: self.config.settings.clone(), ..view })
    }
}

/// What `lint` says about the objects of the plan, and about others if the plan brings it about: what is old news is
/// not repeated with every apply.
fn warn(plan: &Plan, before: &World, after: &Store, view: &NodeView) {
    let old = lint::check(before, view);
    let planned: BTreeSet<String> = plan.steps.iter().map(|s| s.key.to_string()).collect();
    let concerns = |f: &Finding| planned.contains(&f.object) || !old.contains(f);
    let mut found: Vec<Problem> =
        lint::check(after.world(), view).into_iter().filter(concerns).map(Problem::from).collect();
    lint::locate(&mut found, after);
    tell(&found);
}

/// Until the agent has put it in force, or has said why not.
fn wait(folder: &Path, word: &mut Word, trial: &Trial) -> Result<Answer> {
    let end = Instant::now() + PATIENCE;
    loop {
        let standing = word.standing()?;
        if let (true, Some(seconds)) = (standing.trial == trial.id, standing.confirm_seconds) {
            print_lines([format!(
                "in force on trial: undone in {} unless you run `portcullis confirm`",
                in_words(seconds)
            )])?;
            return Ok(Answer::Yes);
        }
        let locked = Locked::wait(folder)?;
        if standing.trial == trial.id || Trial::load(&locked)?.is_none() {
            let ended = trial::last(&locked)?.filter(|e| e.id == trial.id);
            if ended.as_ref().is_some_and(|e| e.kept) {
                print_lines(["confirmed by somebody else: it stays in force"])?;
                return Ok(Answer::Yes);
            }
            let why = ended.map_or_else(String::new, |e| e.why);
            bail!("the agent did not keep it: {why}; the files are as before (see `portcullis status`)");
        }
        if Instant::now() >= end {
            trial.put_back(&locked, "the agent did not put it in force")?;
            bail!(
                "the agent did not put it in force within {}; the files are as before (see `portcullis status`; \
                 does it watch {}?)",
                in_words(PATIENCE.as_secs()),
                folder.display()
            );
        }
        drop(locked);
        std::thread::sleep(Duration::from_millis(100));
    }
}
