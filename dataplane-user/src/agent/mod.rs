//! The agent: a closed set of events drives one owner task: folder or Kubernetes API → store → snapshot → tables → maps → devices.
//! Whatever fails is told, and what is in force stays in force (D22).

pub mod accepted;
mod adopt;
mod answers;
#[cfg(feature = "kubernetes")]
mod cluster;
mod devices;
mod enforce;
pub mod folder;
mod gc;
#[cfg(feature = "kubernetes")]
mod report;
mod safety;
pub mod source;
mod succeed;
mod supervisor;
mod tamper;
mod tell;
mod watch;
mod xdp;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use dataplane_common::abi::{FAILSAFE_INBOUND, FAILSAFE_OUTBOUND};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::compile::Tables;
use crate::config::Listen;
use crate::index::{Index, Snapshot};
use crate::inspect::maps::lengths;
use crate::loader::attach::{Attacher, Mechanism};
use crate::loader::hold::{HeldMaps, allow_many_links};
use crate::loader::link::Links;
use crate::loader::pins::PinDir;
use crate::loader::xdp::{Mode, XdpAttacher};
use crate::loader::{Dataplane, LoadOptions};
use crate::observe::Publisher;
use crate::policy::{NodeView, Problem, Settings, World};
use crate::state::cause::Cause;
use crate::state::lastgood::LastGood;
use crate::state::telemetry::{Sizes, Telemetry};
use crate::state::{self, State};
use safety::Safety;
use source::{KubernetesOptions, Restored, Source};

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A file of the policies folder changed, or what is known of the cluster.
    SourceChanged,
    /// The API server has the node's status, or does not take it.
    Reported,
    /// A device, address or route changed.
    LinkChanged,
    /// Time for what must not depend on notices alone, and for flow garbage.
    Tick,
    /// Asked to stop. Enforcement stays.
    Signal,
    /// Another portcullis wants to take over from this floor.
    Relieved,
}

/// Who we are to the next portcullis on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stays until it is stopped.
    Agent,
    /// Enforces what is there from the first moment of the boot on, and leaves when an agent comes.
    Floor,
}

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub role: Role,
    /// The folder, or [`crate::state::KUBERNETES`].
    pub policies: PathBuf,
    /// `None`: documents come from the folder.
    pub kubernetes: Option<KubernetesOptions>,
    /// `HostEndpoint.spec.node` of this node.
    pub node: String,
    pub pin_dir: PathBuf,
    /// `None`: found from the pin dir.
    pub bpffs: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// `None`: the best that the kernel has.
    pub attach: Option<Mechanism>,
    /// How untracked policy drops early (D10).
    pub xdp: Mode,
    /// Where metrics and health are answered for.
    pub http: Listen,
    pub settings: Settings,
    /// Count what is denied, drop nothing.
    pub audit: bool,
}

/// Changes that arrive together are handled together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Nothing waits longer than this, however busy the sources are.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);

/// What is to be looked at again, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pending {
    source: bool,
    links: bool,
    /// First and latest notice.
    since: Option<(Instant, Instant)>,
}

impl Pending {
    fn note(&mut self, source: bool, links: bool, now: Instant) {
        self.source |= source;
        self.links |= links;
        self.since = Some((self.since.map_or(now, |(first, _)| first), now));
    }
    fn due(&self) -> Option<Instant> {
        self.since.map(|(first, last)| (last + DEBOUNCE).min(first + DEBOUNCE_MAX))
    }
}

/// Runs until a signal. The caller has a current-thread runtime with I/O and time.
pub async fn run(options: Options) -> Result<()> {
    let pin_dir = PinDir::open(&options.pin_dir, options.bpffs.as_deref())?;
    std::fs::create_dir_all(&options.state_dir)
        .with_context(|| format!("cannot create the state dir {}", options.state_dir.display()))?;
    let mut source = Source::new(&options)?;
    let restored = source.restore(&options)?;
    let telemetry = Arc::new(Telemetry::default());
    let answers = answers::Answers::start(&options, &telemetry)?;
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let mechanism = options.attach.unwrap_or_else(Mechanism::of_this_kernel);
    let (links, changes) = Links::connect_for(mechanism)?;
    allow_many_links();
    if options.role == Role::Floor {
        watch::relief(pin_dir.path(), sender.clone());
    }
    let watch = watch::start(source.folder_path(&options), changes, sender.clone())?;
    // The folder is not read yet: this is what the last agent had in force.
    let last_world = restored.complete.then(|| source.world().clone());
    let dataplane = Dataplane::load(&LoadOptions { pin_dir: Some(pin_dir.path().to_owned()) })?;
    let held = HeldMaps::open(pin_dir.path())?;
    let publisher = Publisher::start(pin_dir.path(), &options.state_dir, Arc::clone(&telemetry))?;
    let mut agent = Agent {
        attacher: Attacher::new(&pin_dir, mechanism),
        xdp_attacher: XdpAttacher::new(&pin_dir, options.xdp),
        xdp: xdp::Report::new(),
        source,
        watch,
        restored,
        saved: None,
        saved_at: None,
        unsaved: false,
        last_world,
        flows_lost: dataplane.has_fresh_flows(),
        adopted: None,
        retired: true,
        held,
        taken_away: BTreeMap::new(),
        pin_dir,
        options,
        links,
        dataplane,
        view: NodeView::default(),
        index: None,
        tables: None,
        shown: String::new(),
        since: SystemTime::now(),
        trouble: BTreeMap::new(),
        causes: BTreeMap::new(),
        published: None,
        publisher,
        telemetry,
        noticed: None,
        answers,
        safety: Safety::default(),
    };
    agent.audit()?;
    agent.view = agent.look().await?;
    agent.attacher.found(agent.links.filters(&agent.view).await?);
    agent.source.follow(&agent.options, &sender);
    drop(sender);
    agent.first_read()?;
    agent.reconcile();
    supervisor::ready();
    agent.turn(events).await;
    Ok(())
}

struct Agent {
    options: Options,
    source: Source,
    watch: Option<watch::FolderWatch>,
    links: Links,
    dataplane: Dataplane,
    attacher: Attacher,
    xdp_attacher: XdpAttacher,
    /// What became of the devices that drop early.
    xdp: xdp::Report,
    view: NodeView,
    /// Of folder and view, since the first look.
    index: Option<Index>,
    /// In force.
    tables: Option<Tables>,
    /// The last line on stdout.
    shown: String,
    /// When the generation in force began.
    since: SystemTime,
    /// Where → what the agent itself could not do, until it can.
    trouble: BTreeMap<String, String>,
    /// Of those places, as far as the error says it.
    causes: BTreeMap<String, Cause>,
    /// What the last published state was made of.
    published: Option<Arc<Snapshot>>,
    /// What is on trial or held.
    safety: Safety,
    /// Tells observers what the numbers in events mean.
    publisher: Publisher,
    telemetry: Arc<Telemetry>,
    /// When what is worked on was first heard of.
    noticed: Option<Instant>,
    answers: answers::Answers,
    restored: Restored,
    /// What the file of the last good state holds.
    saved: Option<LastGood>,
    saved_at: Option<Instant>,
    /// It differs from what is in force, in pods and the like.
    unsaved: bool,
    /// What the last agent had in force.
    last_world: Option<World>,
    /// The flow tables are new: nothing in them tells what lives.
    flows_lost: bool,
    adopted: Option<enforce::Adopted>,
    /// Generations that nobody needs hold memory.
    retired: bool,
    held: HeldMaps,
    /// Where → what somebody else took from us.
    taken_away: BTreeMap<String, tamper::TakenAway>,
    pin_dir: PinDir,
}

impl Agent {
    async fn turn(&mut self, mut events: UnboundedReceiver<Event>) {
        let mut pending = Pending::default();
        loop {
            self.telemetry.turn();
            let due = pending.due();
            if due.is_some_and(|at| at <= Instant::now()) {
                self.refresh(std::mem::take(&mut pending)).await;
                supervisor::alive();
                if self.safety.busy {
                    pending.note(true, false, Instant::now());
                }
                continue;
            }
            let event = match due {
                None => events.recv().await,
                Some(at) => match tokio::time::timeout_at(at.into(), events.recv()).await {
                    Ok(event) => event,
                    Err(_) => continue,
                },
            };
            match event {
                Some(Event::SourceChanged) => pending.note(true, false, Instant::now()),
                Some(Event::LinkChanged) => pending.note(false, true, Instant::now()),
                Some(Event::Reported) => self.publish_again(),
                Some(Event::Tick) => {
                    pending.note(true, true, Instant::now());
                    self.collect_flows();
                    self.free_retired();
                    self.save_what_waited(false);
                }
                Some(Event::Relieved) => {
                    tracing::info!("an agent takes over");
                    break;
                }
                // All senders are gone only when the watchers died: without them the agent is blind.
                Some(Event::Signal) | None => break,
            }
        }
        self.save_what_waited(true);
        self.source.stop().await;
        tracing::info!("stopped; what is in force stays in force (`portcullis detach` removes it)");
    }

    /// Reads again what changed, and works only when it really did.
    async fn refresh(&mut self, pending: Pending) {
        self.noticed = pending.since.map(|(first, _)| first);
        let mut changed = !self.trouble.is_empty() || self.answers.changed();
        if pending.links {
            match self.look().await {
                Ok(view) => {
                    self.trouble.remove("netlink");
                    changed |= view != self.view;
                    self.view = view;
                }
                Err(e) => self.fails("netlink", &e),
            }
            changed |= self.mend().await;
        }
        if pending.source {
            // First the watch, then the look: what changes in between is noticed.
            match self.watch.as_mut().map_or(Ok(()), watch::FolderWatch::follow) {
                Ok(()) => drop(self.trouble.remove("watch")),
                Err(e) => self.fails("watch", &e),
            }
        }
        // A deadline passes without a notice of the folder: look at both each time.
        changed |= self.read_source();
        changed |= self.take_settings();
        changed |= self.standing().headline() != self.safety.shown;
        // A foreign XDP program may have come or gone.
        changed |= pending.links && self.follow_xdp();
        if !State::is_there(&self.options.state_dir) {
            // Somebody removed the state folder, and the last good state with it.
            self.saved = None;
            changed = true;
        }
        if changed {
            self.reconcile();
        }
    }

    /// The node as it is now, with its settings.
    async fn look(&self) -> Result<NodeView> {
        let view = self.links.view(&self.options.node).await?;
        Ok(NodeView { settings: self.source.settings(&self.options), ..view })
    }

    /// What the source knows of the node may be another now. True when it is.
    fn take_settings(&mut self) -> bool {
        let settings = self.source.settings(&self.options);
        let changed = self.view.settings != settings;
        self.view.settings = settings;
        changed
    }

    fn fails(&mut self, place: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.trouble.get(place) != Some(&text) {
            tracing::error!(place, "{text}; what was in force stays in force");
        }
        self.telemetry.failed(place);
        match Cause::of_error(error) {
            Some(cause) => drop(self.causes.insert(place.to_owned(), cause)),
            None => drop(self.causes.remove(place)),
        }
        self.trouble.insert(place.to_owned(), text);
    }

    /// Of the places of trouble that there are.
    fn causes_now(&self) -> BTreeMap<String, Cause> {
        let of_trouble = |(place, _): &(&String, &Cause)| self.trouble.contains_key(*place);
        self.causes.iter().filter(of_trouble).map(|(place, cause)| (place.clone(), *cause)).collect()
    }

    /// Only what is said of the cluster's copy of the state has changed.
    fn publish_again(&mut self) {
        if let Some(snapshot) = self.published.clone() {
            self.publish(&snapshot);
        }
    }

    fn sizes(&self) -> Sizes {
        let Some(tables) = &self.tables else { return Sizes::default() };
        let failsafes = |direction| tables.failsafes.keys().filter(|p| p.key.direction == direction).count();
        Sizes {
            lengths: lengths(tables).into(),
            longest_list: tables.lists.iter().map(|l| l.rule_count as usize).max().unwrap_or(0),
            failsafes: [FAILSAFE_INBOUND, FAILSAFE_OUTBOUND].map(failsafes),
        }
    }

    /// The state file, then the line on stdout that people and tests wait for: who reads it finds the file.
    fn publish(&mut self, snapshot: &Snapshot) {
        let mut state = tell::state(self, snapshot);
        self.answers.show(state.trouble.get(state::HTTP).cloned());
        // Who reads it reads a state that was written.
        state.trouble.remove("state");
        self.source.report(&mut state, snapshot);
        match state.write(&self.options.state_dir) {
            Ok(()) => drop(self.trouble.remove("state")),
            Err(e) => self.fails("state", &e),
        }
        let state = Arc::new(state);
        self.telemetry.publish(Arc::clone(&state), self.sizes());
        let line = state.headline();
        self.safety.shown = state.safety.headline();
        if line != self.shown {
            let mut out = std::io::stdout().lock();
            // Nobody may be listening, and that must not stop enforcement.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            supervisor::shows(&line);
            self.shown = line;
        }
    }
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == crate::policy::Severity::Error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_wait_for_quiet_but_never_for_long() {
        let start = Instant::now();
        let mut pending = Pending::default();
        assert_eq!(pending.due(), None);
        pending.note(true, false, start);
        assert_eq!(pending.due(), Some(start + DEBOUNCE));
        for step in 1..20 {
            pending.note(false, true, start + Duration::from_millis(50 * step));
        }
        assert_eq!(pending.due(), Some(start + DEBOUNCE_MAX));
        assert!(pending.source && pending.links);
    }
}
