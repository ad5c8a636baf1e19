//! The one task that talks to the API server. It looks what the cluster serves and which cluster it is, keeps the
//! watches to that, and puts what they say into a [`View`] that the agent reads when it is woken.
//!
//! Looks come every few minutes, more often while there is nothing of Calico's, and soon after any watch fails: a
//! failed watch may mean that its kind is gone, that the API server is, or that another cluster stands in its place.
//! A watch with a place in the former cluster would wait there for ever without an error, so another cluster begins
//! all of them again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::connect;
use super::cluster::{Cluster, Trouble, stamp};
use super::discovery::{Served, cluster_id, discover};
use super::plan::{Needs, plan};
use super::watch::Watches;
use super::{Notice, What};

/// How long to wait between two looks at the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// With which all is well.
    pub well: Duration,
    /// While it serves nothing of Calico's.
    pub without_calico: Duration,
}

/// Of an agent.
const PACE: Pace = Pace { well: Duration::from_secs(300), without_calico: Duration::from_secs(10) };
/// How a connection is made.
pub(super) type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Client>> + Send>;
/// After the first failure; doubled by each further one.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause while something fails.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An API server that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// `None`: as `kubectl` finds it, else the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the current one.
    pub context: Option<String>,
}

/// What is known of the cluster.
pub struct View {
    pub cluster: Cluster,
    /// Moves with everything that may change the documents.
    pub version: u64,
    /// What the watches were planned for.
    pub planned_for: Option<Needs>,
    served: Option<Served>,
    api: Option<Trouble>,
}

impl View {
    /// What is wrong, by place. While the API server does not answer, only that: every watch fails then.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        let mut troubles = self.cluster.troubles();
        match &self.api {
            Some(api) => {
                let text = format!(
                    "cannot be followed since {}: {}; what was read before stays in force",
                    stamp(api.since),
                    api.text
                );
                troubles.insert("kubernetes".into(), text);
            }
            None => troubles.extend(self.cluster.watch_troubles()),
        }
        if self.served.as_ref().is_some_and(|served| !served.has_calico()) {
            let text = "the cluster serves no kind of Calico's: there is no policy to follow; it is asked again every \
                        few seconds";
            troubles.insert("custom resources".into(), text.into());
        }
        troubles
    }

    /// Of the last look that succeeded.
    pub fn served(&self) -> Option<&Served> {
        self.served.as_ref()
    }

    /// Since when what is known may be out of date; `None`: it is followed.
    pub fn stale_since(&self) -> Option<SystemTime> {
        self.api.as_ref().map(|t| t.since).into_iter().chain(self.cluster.stale_since()).min()
    }
}

/// The task, from the agent's side. Dropping it ends the task and its watches.
pub struct Follower {
    view: Arc<Mutex<View>>,
    needs: watch::Sender<Needs>,
    task: AbortHandle,
}

impl Follower {
    /// Starts it. `node`: whose pods are "of this node". `cluster`: UID of the cluster that was followed before.
    /// `wake` is called after every change of the view.
    pub fn start(
        account: Account,
        node: String,
        cluster: Option<String>,
        needs: Needs,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let connect: Connect = Box::new(move || {
            let account = account.clone();
            async move { connect(account.kubeconfig.as_deref(), account.context.as_deref()).await }.boxed()
        });
        Self::start_with(connect, PACE, node, cluster, needs, wake)
    }

    pub(super) fn start_with(
        connect: Connect,
        pace: Pace,
        node: String,
        cluster: Option<String>,
        needs: Needs,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let view =
            View { cluster: Cluster::new(cluster), version: 0, planned_for: None, served: None, api: None };
        let view = Arc::new(Mutex::new(view));
        let (needs, asked) = watch::channel(needs);
        let (sender, notices) = unbounded_channel();
        let task = Task {
            connect,
            pace,
            node,
            view: Arc::clone(&view),
            needs: asked,
            sender,
            notices,
            watches: None,
            seen: None,
            next: Instant::now(),
            failures: 0,
            wake: Box::new(wake),
        };
        Self { view, needs, task: tokio::spawn(task.run()).abort_handle() }
    }

    /// What is known now.
    pub fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    /// What the policies look at now.
    pub fn need(&self, needs: Needs) {
        self.needs.send_if_modified(|asked| std::mem::replace(asked, needs) != needs);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Nothing that holds the lock can panic half-way through a change of meaning.
fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Task {
    connect: Connect,
    pace: Pace,
    node: String,
    view: Arc<Mutex<View>>,
    needs: watch::Receiver<Needs>,
    sender: UnboundedSender<Notice>,
    notices: UnboundedReceiver<Notice>,
    watches: Option<(Client, Watches)>,
    /// UID of the cluster at the last look.
    seen: Option<String>,
    /// Time of the next look.
    next: Instant,
    /// Looks in a row that found something failing.
    failures: u32,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Task {
    async fn run(mut self) {
        loop {
            tokio::select! {
                () = sleep_until(self.next) => self.look().await,
                Some(notice) = self.notices.recv() => self.take(notice),
                changed = self.needs.changed() => match changed {
                    Ok(()) => self.replan(),
                    Err(_) => return,
                },
            }
        }
    }

    fn take(&mut self, notice: Notice) {
        let failed = matches!(notice.what, What::Failed(_));
        let ends = matches!(notice.what, What::ListEnds { .. });
        let mut view = lock(&self.view);
        let changed = view.cluster.notice(notice, SystemTime::now());
        view.version += u64::from(changed);
        drop(view);
        if failed {
            self.next = self.next.min(Instant::now() + jittered(retry(self.failures)));
        }
        if changed || failed || ends {
            (self.wake)();
        }
    }

    async fn look(&mut self) {
        let found = match timeout(PATIENCE, self.ask()).await {
            Ok(found) => found,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())),
        };
        let pause = match found {
            Ok((id, served)) => self.saw(id, served),
            Err(error) => {
                let mut view = lock(&self.view);
                let since = view.api.as_ref().map_or_else(SystemTime::now, |t| t.since);
                if view.api.is_none() {
                    tracing::error!(
                        "the Kubernetes API cannot be followed: {error:#}; what is in force stays in force"
                    );
                }
                view.api = Some(Trouble { since, text: format!("{error:#}") });
                self.failures = self.failures.saturating_add(1);
                retry(self.failures)
            }
        };
        self.next = Instant::now() + jittered(pause);
        (self.wake)();
    }

    async fn ask(&mut self) -> Result<(String, Served)> {
        if self.watches.is_none() {
            let client = (self.connect)().await?;
            let mut watches = Watches::new(client.clone(), self.node.clone(), self.sender.clone());
            watches.choose_strategy().await.context("the API server does not say its version")?;
            self.watches = Some((client, watches));
        }
        let Some((client, _)) = &self.watches else { anyhow::bail!("there is no connection") };
        Ok((cluster_id(client).await?, discover(client).await?))
    }

    /// Returns when to look again.
    fn saw(&mut self, id: String, served: Served) -> Duration {
        let calico = served.has_calico();
        let mut view = lock(&self.view);
        if view.api.take().is_some() {
            tracing::info!("the Kubernetes API is followed again");
        }
        view.served = Some(served);
        let troubled = view.cluster.troubled();
        drop(view);
        if let Some((_, watches)) = &mut self.watches {
            if self.seen.as_ref().is_some_and(|seen| *seen != id) {
                tracing::warn!("another cluster answers: UID {id}");
                watches.restart_all();
            } else {
                // Their own pauses may be long by now, and one that goes on without an event would never say so.
                watches.restart(&troubled);
            }
        }
        self.seen = Some(id);
        self.replan();
        if !troubled.is_empty() {
            self.failures = self.failures.saturating_add(1);
            return retry(self.failures);
        }
        self.failures = 0;
        if calico { self.pace.well } else { self.pace.without_calico }
    }

    fn replan(&mut self) {
        let needs = *self.needs.borrow_and_update();
        let mut view = lock(&self.view);
        let (Some(served), Some((_, watches))) = (&view.served, &mut self.watches) else { return };
        let planned = plan(served, needs);
        watches.replan(&planned);
        view.cluster.replan(planned);
        view.planned_for = Some(needs);
        view.version += 1;
        drop(view);
        (self.wake)();
    }
}

/// Before the next attempt, after so many in a row that failed.
pub(super) fn retry(failures: u32) -> Duration {
    (RETRY * 2u32.saturating_pow(failures.min(8))).min(RETRY_MAX)
}

/// Half to one and a half of it, so that the nodes of a cluster do not ask in step.
pub(super) fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 1000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        assert_eq!(retry(0), RETRY);
        assert_eq!(retry(3), RETRY * 8);
        assert_eq!(retry(u32::MAX), RETRY_MAX);
        let pauses: Vec<Duration> = (0..64).map(|_| jittered(PACE.well)).collect();
        assert!(pauses.iter().all(|p| *p >= PACE.well / 2 && *p <= PACE.well * 3 / 2));
        assert!(pauses.iter().any(|p| *p != pauses[0]));
    }
}
