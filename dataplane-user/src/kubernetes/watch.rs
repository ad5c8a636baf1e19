//! One task per watch. Paging or watch-list, backoff with jitter and relists are `kube`'s; what is ours is that a list
//! is only taken over from the cluster that we know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::{ApiResource, DynamicObject};
use kube::core::metadata::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::discovery::cluster_id;
use super::follow::{jittered, retry};
use super::plan::{Scope, WatchKey};
use super::slim::slim;
use super::{Notice, What};

/// Watch-list is on by default from this minor version of Kubernetes 1 on.
const WATCH_LIST_SINCE: u32 = 32;
/// HTTP status of a place in the history that the store has compacted. A whole list follows by itself.
const GONE: u16 = 410;

/// The running watches. Dropping it ends them.
pub struct Watches {
    client: Client,
    node: String,
    sender: UnboundedSender<Notice>,
    tasks: BTreeMap<WatchKey, AbortHandle>,
    strategy: InitialListStrategy,
}

impl Watches {
    /// Nothing runs yet. `node`: whose pods are "of this node".
    pub fn new(client: Client, node: String, sender: UnboundedSender<Notice>) -> Self {
        Self { client, node, sender, tasks: BTreeMap::new(), strategy: InitialListStrategy::ListWatch }
    }

    /// Streams lists where the server can, which spares it the memory of whole lists.
    ///
    /// # Errors
    /// The API server does not say its version.
    pub async fn choose_strategy(&mut self) -> kube::Result<()> {
        let version = self.client.apiserver_version().await?;
        let minor = version.minor.trim_end_matches('+').parse::<u32>().unwrap_or(0);
        if minor >= WATCH_LIST_SINCE {
            self.strategy = InitialListStrategy::StreamingList;
        }
        Ok(())
    }

    /// Begins these again, with a list, if they run.
    pub fn restart(&mut self, keys: &[WatchKey]) {
        let planned: BTreeSet<WatchKey> = self.tasks.keys().cloned().collect();
        for task in keys.iter().filter_map(|key| self.tasks.remove(key)) {
            task.abort();
        }
        self.replan(&planned);
    }

    /// Begins all again: another cluster answers, and their place in the former one means nothing there.
    pub fn restart_all(&mut self) {
        let all: Vec<WatchKey> = self.tasks.keys().cloned().collect();
        self.restart(&all);
    }

    /// Ends what is not planned and starts what is missing.
    pub fn replan(&mut self, planned: &BTreeSet<WatchKey>) {
        let ended: Vec<WatchKey> = self.tasks.keys().filter(|key| !planned.contains(*key)).cloned().collect();
        for task in ended.iter().filter_map(|key| self.tasks.remove(key)) {
            task.abort();
        }
        for key in planned {
            if !self.tasks.contains_key(key) {
                let task = tokio::spawn(run(
                    self.client.clone(),
                    key.clone(),
                    self.node.clone(),
                    self.strategy.clone(),
                    self.sender.clone(),
                ));
                self.tasks.insert(key.clone(), task.abort_handle());
            }
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

fn resource_of(key: &WatchKey) -> ApiResource {
    let (group, version) = key.api_version.split_once('/').unwrap_or(("", &key.api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: key.api_version.clone(),
        kind: key.kind.as_str().to_owned(),
        plural: key.kind.plural().to_owned(),
    }
}

async fn run(
    client: Client,
    key: WatchKey,
    node: String,
    strategy: InitialListStrategy,
    sender: UnboundedSender<Notice>,
) {
    let mut strategy = strategy;
    loop {
        let resource = resource_of(&key);
        let mut config =
            watcher::Config { initial_list_strategy: strategy.clone(), ..watcher::Config::default() };
        if key.scope == Scope::ThisNode {
            config = config.fields(&format!("spec.nodeName={node}"));
        }
        let again = if key.scope == Scope::Metadata {
            let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &resource);
            let stream = watcher::watcher(api, config).map_ok(|event| convert(event, &resource));
            follow(&client, &key, &sender, stream).await
        } else {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let stream = watcher::watcher(api, config).map_ok(|event| convert(event, &resource));
            follow(&client, &key, &sender, stream).await
        };
        match again {
            // This server (an aggregated one, say) cannot stream lists.
            End::NoWatchList => strategy = InitialListStrategy::ListWatch,
            End::Closed => return,
        }
    }
}

enum End {
    /// Nobody listens any more.
    Closed,
    NoWatchList,
}

async fn follow(
    client: &Client,
    key: &WatchKey,
    sender: &UnboundedSender<Notice>,
    stream: impl Stream<Item = watcher::Result<Event<Value>>> + Send,
) -> End {
    let mut stream = std::pin::pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        let what = match event {
            Ok(Event::Init) => What::ListBegins,
            Ok(Event::InitApply(object)) => What::Listed(Arc::new(object)),
            Ok(Event::InitDone) => match known_cluster(client, key, sender).await {
                Some(cluster) => What::ListEnds { cluster },
                None => return End::Closed,
            },
            Ok(Event::Apply(object)) => What::Applied(Arc::new(object)),
            Ok(Event::Delete(object)) => What::Deleted(Arc::new(object)),
            Err(error) if refuses_watch_list(&error) => return End::NoWatchList,
            Err(watcher::Error::WatchError(status)) if status.code == GONE => {
                tracing::info!(
                    "what changed of {} meanwhile is not known any more; they are listed again",
                    key.kind.plural()
                );
                continue;
            }
            Err(error) => What::Failed(explain(&error, key)),
        };
        if sender.send(Notice { watch: key.clone(), what }).is_err() {
            return End::Closed;
        }
    }
    End::Closed
}

/// Asks until it is answered; `None` when nobody listens any more.
async fn known_cluster(client: &Client, key: &WatchKey, sender: &UnboundedSender<Notice>) -> Option<String> {
    let mut failures = 0;
    loop {
        match cluster_id(client).await {
            Ok(id) => return Some(id),
            Err(error) => {
                let what = What::Failed(format!("{error:#}"));
                sender.send(Notice { watch: key.clone(), what }).ok()?;
            }
        }
        // Every watch of every node asks.
        tokio::time::sleep(jittered(retry(failures))).await;
        failures = failures.saturating_add(1);
    }
}

fn refuses_watch_list(error: &watcher::Error) -> bool {
    let text = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if (400..=422).contains(&status.code) => {
            &status.message
        }
        _ => return false,
    };
    text.contains("sendInitialEvents") || text.contains("resourceVersionMatch")
}

/// The error, with what to do about it where that is known.
fn explain(error: &watcher::Error, key: &WatchKey) -> String {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        _ => 0,
    };
    let remedy = match code {
        401 => "; the credentials are refused: was the service account deleted, or did its token expire?"
            .to_owned(),
        403 => format!(
            "; the agent's ClusterRole must allow get, list and watch of {} in {}",
            key.kind.plural(),
            key.api_version
        ),
        _ => String::new(),
    };
    format!("{}{remedy}", chain(error))
}

pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

fn convert<K: Serialize + Debug>(event: Event<K>, resource: &ApiResource) -> Event<Value> {
    let value = |object: K| slim(serde_json::to_value(object).unwrap_or_default(), resource);
    match event {
        Event::Apply(object) => Event::Apply(value(object)),
        Event::Delete(object) => Event::Delete(value(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(value(object)),
        Event::InitDone => Event::InitDone,
    }
}
