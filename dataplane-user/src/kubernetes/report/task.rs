//! The task that keeps the node's object, and its Events, to what the agent knows. Whatever fails here disturbs
//! nothing else: it is told in the agent's own status, and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::announce::Known;
use super::build::{Hooks, report};
use super::events::{Queue, event};
use super::facts::Facts;
use super::limits::MAX_REPORT_BYTES;
use super::schedule::{
    HEARTBEAT, LOOK, PAUSE_COUNTS, RETRY_NO_KIND, SETTLE, Schedule, Weight, jittered, spread, weight,
};
use super::store::{Failure, Store};
use super::types::Report;
use crate::kubernetes::client::connect;
use crate::kubernetes::follow::Account;
use crate::state::ReportState;
use crate::state::cause::Cause;

/// An agent that ends waits so long for its last word to be written.
const LAST_WORD: Duration = Duration::from_secs(3);
/// What may pass by itself is worth an Event when it lasts so long.
const LASTS: Duration = Duration::from_secs(25);
/// Smaller reports are not tried.
const MIN_REPORT_BYTES: usize = 50_000;

/// Looks what runs at the hooks of devices. `None`: it could not be told; what was seen last counts.
pub trait Look: Send {
    fn look<'a>(
        &'a mut self,
        devices: &'a BTreeSet<String>,
    ) -> Pin<Box<dyn Future<Output = Option<Hooks>> + Send + 'a>>;
}

/// How to reach the API server.
pub enum Access {
    /// As the agent reads.
    Account(Account),
    /// A connection that is there.
    Client(Client),
}

/// The task, from the agent's side. Dropping it ends the task.
pub struct Reporter {
    facts: watch::Sender<Option<Arc<Facts>>>,
    told: Told,
    task: JoinHandle<()>,
}

impl Reporter {
    /// Starts it, in a tokio runtime. `wake` is called after every change of [`Self::state`] that the agent did not
    /// cause by [`Self::tell`].
    pub fn start(
        access: Access,
        node: String,
        look: impl Look + 'static,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (sender, facts) = watch::channel(None);
        let told = Told {
            state: Arc::new(Mutex::new(ReportState { name: node.clone(), ..ReportState::default() })),
            wake: Arc::new(wake),
        };
        let now = Instant::now();
        let task = Task {
            access,
            node,
            look: Box::new(look),
            facts,
            told: told.clone(),
            store: None,
            known: None,
            began: BTreeMap::new(),
            written: None,
            written_at: now,
            hooks: Hooks::new(),
            schedule: Schedule::new(now),
            heartbeat: now,
            settled: now + SETTLE,
            bytes: MAX_REPORT_BYTES,
            passing: false,
            queue: Queue::new(now),
        };
        Self { facts: sender, told, task: tokio::spawn(task.run()) }
    }

    /// What is to be reported now. Returns what is known of the object in the API.
    pub fn tell(&self, facts: Facts) -> ReportState {
        let changed = self.facts.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&facts);
            if changed {
                *known = Some(Arc::new(facts));
            }
            changed
        });
        let mut state = self.told.lock();
        state.current &= !changed;
        state.clone()
    }

    /// What is known of the object in the API.
    pub fn state(&self) -> ReportState {
        self.told.lock().clone()
    }

    /// Says that the agent ends, and waits a little for that to be written.
    pub async fn stop(self) {
        let Some(last) = self.facts.borrow().clone().filter(|_| self.state().trouble.is_none()) else {
            return;
        };
        self.tell(Facts { stopped: true, ..(*last).clone() });
        let written = async {
            while !self.state().current {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LAST_WORD, written).await.is_err() {
            tracing::warn!("the NodePolicyStatus of this node does not say that the agent ended");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the agent may know of the task.
#[derive(Clone)]
struct Told {
    state: Arc<Mutex<ReportState>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, ReportState> {
        // A state is replaced field by field; none of them can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ReportState)) {
        let mut state = self.lock();
        let before = state.clone();
        change(&mut state);
        let changed = *state != before;
        drop(state);
        if changed {
            (self.wake)();
        }
    }
}

struct Task {
    access: Access,
    node: String,
    look: Box<dyn Look>,
    facts: watch::Receiver<Option<Arc<Facts>>>,
    told: Told,
    store: Option<Store>,
    /// What Events were worked out from last; `None`: what an earlier agent reported was not read yet.
    known: Option<Known>,
    /// Since when something is wrong.
    began: BTreeMap<Cause, Instant>,
    /// As the API server has it.
    written: Option<Report>,
    written_at: Instant,
    hooks: Hooks,
    schedule: Schedule,
    /// When it is written again though nothing changed.
    heartbeat: Instant,
    /// Until then the first report waits for the agent to have read everything.
    settled: Instant,
    /// What the API server takes.
    bytes: usize,
    /// The last failure may be over soon.
    passing: bool,
    queue: Queue,
}

impl Task {
    async fn run(mut self) {
        loop {
            let (turn, post) = (self.schedule.due(), self.queue.due());
            tokio::select! {
                // What changed is taken in before anything is written of what was before.
                biased;
                changed = self.facts.changed() => match changed {
                    Ok(()) => self.notice(),
                    Err(_) => return,
                },
                () = at(turn) => self.turn().await,
                () = at(post) => self.post().await,
            }
        }
    }

    fn notice(&mut self) {
        let facts = self.facts.borrow_and_update();
        let Some(facts) = facts.as_ref() else { return };
        let now = Instant::now();
        if facts.stopped {
            self.schedule.by(now);
            return;
        }
        if facts.in_sync() {
            // The API server answers the agent's other questions.
            if self.passing {
                self.schedule.hurry(now);
            }
            self.settled = now;
        }
        self.schedule.by((now + spread(facts.nodes())).max(self.settled));
    }

    async fn turn(&mut self) {
        self.schedule.turn();
        let Some(facts) = self.facts.borrow_and_update().clone() else { return };
        let devices = facts.state.governed.keys().chain(&facts.state.unprotected).cloned().collect();
        if let Some(hooks) = self.look.look(&devices).await {
            self.hooks = hooks;
        }
        if let Err(failure) = self.meet().await {
            return self.failed(failure);
        }
        let report = report(&facts, &self.hooks, self.written.as_ref(), unix_now(), self.bytes);
        let now = Instant::now();
        let wait = match weight(self.written.as_ref(), &report) {
            Weight::Change => now,
            Weight::Counts => self.written_at + PAUSE_COUNTS,
            Weight::None => self.heartbeat,
        };
        if wait > now {
            self.schedule.by(wait.min(now + LOOK));
            self.told.change(|told| told.current = true);
            self.announce(&facts);
            return;
        }
        self.write(&facts, report).await;
    }

    /// Connects, and reads what an agent before this one reported.
    async fn meet(&mut self) -> Result<(), Failure> {
        let store = match &self.store {
            Some(store) => store,
            None => {
                let client = match &self.access {
                    Access::Client(client) => client.clone(),
                    Access::Account(account) => {
                        connect(account.kubeconfig.as_deref(), account.context.as_deref())
                            .await
                            .map_err(|e| Failure::NotNow(format!("{e:#}")))?
                    }
                };
                self.store.insert(Store::new(client, self.node.clone()))
            }
        };
        if self.known.is_none() {
            self.written = store.read().await?;
            self.known = Some(self.written.as_ref().map(Known::of_report).unwrap_or_default());
        }
        Ok(())
    }

    async fn write(&mut self, facts: &Facts, report: Report) {
        let Some(store) = &self.store else { return };
        let answer = store.write(&report, facts.node_uid.as_deref()).await;
        let now = Instant::now();
        // The API server answered: Events may be taken even if the object is not.
        if !matches!(answer, Err(Failure::NotNow(_))) {
            self.announce(facts);
        }
        match answer {
            Ok(()) => {
                self.written = Some(report);
                self.written_at = now;
                self.heartbeat = now + jittered(HEARTBEAT) * 2 / 3;
                self.passing = false;
                self.schedule.wrote(now);
                self.schedule.by(now + LOOK);
                let newer = self.facts.has_changed().unwrap_or(false);
                self.told.change(|told| {
                    told.written = Some(unix_now());
                    told.current = !newer;
                    told.no_such_kind = false;
                    told.trouble = None;
                });
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn announce(&mut self, facts: &Facts) {
        let Some(known) = &self.known else { return };
        let now = Instant::now();
        let causes = facts.causes();
        self.began.retain(|cause, _| causes.iter().any(|(c, _)| c == cause));
        for (cause, _) in &causes {
            self.began.entry(*cause).or_insert(now);
        }
        let passing = |cause: Cause| {
            let since = self.began.get(&cause).copied().unwrap_or(now);
            may_pass(cause) && now.duration_since(since) < LASTS
        };
        let after = Known::of(facts).without(known, passing);
        let announcements = known.announce(&after, facts);
        self.known = Some(after);
        self.queue.add(announcements, Timestamp::now());
    }

    fn failed(&mut self, failure: Failure) {
        let now = Instant::now();
        self.passing = matches!(failure, Failure::NotNow(_) | Failure::TooLarge(_));
        if matches!(failure, Failure::TooLarge(_)) && self.bytes > MIN_REPORT_BYTES {
            self.bytes /= 2;
        }
        let no_such_kind = failure == Failure::NoSuchKind;
        self.schedule.failed(now, no_such_kind.then_some(RETRY_NO_KIND));
        let text = failure.text();
        self.told.change(|told| {
            let said = told.trouble.as_ref() == Some(&text);
            match (said, no_such_kind) {
                (true, _) => {}
                (false, true) => tracing::info!("this node has no NodePolicyStatus: {text}"),
                (false, false) => {
                    tracing::warn!("the NodePolicyStatus of this node cannot be written: {text}")
                }
            }
            told.current = false;
            told.no_such_kind = no_such_kind;
            told.trouble = Some(text);
        });
    }

    async fn post(&mut self) {
        let now = Instant::now();
        let Some((announcement, at)) = self.queue.next(now) else { return };
        let Some(store) = &self.store else { return };
        let uid = self.facts.borrow().as_ref().and_then(|facts| facts.node_uid.clone());
        let (namespace, event) = event(&announcement, &self.node, uid.as_deref(), at);
        match store.post(&namespace, &event).await {
            Ok(()) => {
                self.queue.done();
                self.told.change(|told| told.events = None);
            }
            Err(Failure::NotNow(text)) => {
                tracing::debug!("an Event waits: {text}");
                self.queue.pause(Instant::now() + jittered(LOOK));
            }
            Err(failure) => {
                // A namespace that is gone, a right that is missing: waiting changes nothing.
                let text = failure.text();
                self.queue.done();
                if matches!(failure, Failure::Refused(_)) {
                    self.queue.clear();
                }
                self.told.change(|told| {
                    if told.events.as_ref() != Some(&text) {
                        tracing::warn!("Events cannot be written: {text}");
                    }
                    told.events = Some(text);
                });
            }
        }
    }
}

/// What every API server that starts again shows for a moment.
fn may_pass(cause: Cause) -> bool {
    matches!(cause, Cause::ApiUnreachable | Cause::WatchFailed | Cause::KindNotServed | Cause::AnotherCluster)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
