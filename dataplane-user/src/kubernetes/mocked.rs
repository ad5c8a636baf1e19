//! Discovery, watches and the task that drives them, before an API server that answers by a script: a request that is
//! not in it, or one that never comes, fails the test.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

// `http` is the web server's as much as the client's.
use axum::body::Body as Reply;
use axum::http::{Request, Response};
use futures::FutureExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tower_test::mock;

use super::discovery::{cluster_id, discover};
use super::follow::{Connect, Follower, Pace};
use super::plan::{Needs, Scope, WatchKey};
use super::watch::Watches;
use super::{Notice, What};
use crate::resource::Kind;

const V3: &str = "projectcalico.org/v3";
const STORAGE: &str = "crd.projectcalico.org/v1";
const PATIENCE: Duration = Duration::from_secs(20);

/// What is answered to one request.
#[derive(Clone, Debug)]
enum Answer {
    Object(Value),
    /// Status code and message.
    Refusal(u16, &'static str),
    /// Events of a watch, and then nothing more, for ever.
    Events(Vec<Value>),
    /// Events of a watch, which then ends.
    Ended(Vec<Value>),
}

/// What is yet to be asked, and what was asked without being in the script.
#[derive(Debug, Default)]
struct Script {
    left: Vec<(String, Answer)>,
    surplus: Vec<String>,
}

/// An API server of its own task.
struct Server {
    script: Arc<Mutex<Script>>,
    client: Client,
}

impl Server {
    fn start(script: Vec<(&str, Answer)>) -> Self {
        let left = script.into_iter().map(|(request, answer)| (request.to_owned(), answer)).collect();
        let script = Arc::new(Mutex::new(Script { left, surplus: Vec::new() }));
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Reply>>();
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Some((request, respond)) = handle.next_request().await {
                let asked = words(&request);
                let mut script = shared.lock().unwrap();
                let place = script.left.iter().position(|(wanted, _)| *wanted == asked);
                let answer = match place {
                    Some(place) => script.left.remove(place).1,
                    None => {
                        script.surplus.push(asked);
                        Answer::Refusal(500, "not in the script")
                    }
                };
                respond.send_response(response(answer));
            }
        });
        Self { script, client: Client::new(service, "default") }
    }

    fn expect(&self, more: Vec<(&str, Answer)>) {
        let more = more.into_iter().map(|(request, answer)| (request.to_owned(), answer));
        self.script.lock().unwrap().left.extend(more);
    }

    /// Waits until all was asked, and a little longer for what should not be.
    async fn was_asked_exactly_this(&self) {
        let all = async {
            while !self.script.lock().unwrap().left.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let script = self.script.lock().unwrap();
        let left: Vec<&String> = script.left.iter().map(|(request, _)| request).collect();
        assert!(
            left.is_empty() && script.surplus.is_empty(),
            "missing: {left:#?}, surplus: {:#?}",
            script.surplus
        );
    }
}

/// `PATH`, or `watch PATH VERSION`; with the field selector if there is one, and `metadata` where only that is asked for.
fn words(request: &Request<Body>) -> String {
    assert_eq!(request.method(), "GET", "nothing is ever written");
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let field = |key: &str| query.split('&').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let mut words = match field("watch") {
        Some("true") => format!("watch {path} {}", field("resourceVersion").unwrap_or("-")),
        _ => path.to_owned(),
    };
    if let Some(fields) = field("fieldSelector") {
        words += &format!(" {fields}");
    }
    let accept = request.headers().get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("PartialObjectMetadata") {
        words += " metadata";
    }
    words
}

fn response(answer: Answer) -> Response<Reply> {
    let lines = |events: Vec<Value>| events.iter().map(|event| format!("{event}\n")).collect::<String>();
    let (code, body) = match answer {
        Answer::Object(object) => (200, Reply::from(object.to_string().into_bytes())),
        Answer::Refusal(code, message) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                                "reason": "Test", "message": message, "metadata": {}});
            (code, Reply::from(status.to_string().into_bytes()))
        }
        Answer::Ended(events) => (200, Reply::from(lines(events).into_bytes())),
        Answer::Events(events) => (200, endless(lines(events))),
    };
    Response::builder().status(code).body(body).unwrap()
}

/// These bytes, and no end.
fn endless(text: String) -> Reply {
    use futures::StreamExt;
    let bytes = futures::stream::iter([Ok::<_, std::convert::Infallible>(text.into_bytes())]);
    Reply::from_stream(bytes.chain(futures::stream::pending()))
}

fn key(kind: Kind, api_version: &str) -> WatchKey {
    WatchKey { kind, api_version: api_version.to_owned(), scope: Scope::All }
}

fn list(names: &[&str], version: &str) -> Answer {
    let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    Answer::Object(json!({"metadata": {"resourceVersion": version}, "items": items}))
}

fn event(what: &str, name: &str, version: &str) -> Value {
    json!({"type": what, "object": {
        "apiVersion": V3, "kind": "HostEndpoint", "metadata": {"name": name, "resourceVersion": version},
    }})
}

fn kube_system() -> (&'static str, Answer) {
    let uid = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                     "metadata": {"name": "kube-system", "uid": "c1"}});
    ("/api/v1/namespaces/kube-system metadata", Answer::Object(uid))
}

/// The groups that the server lists.
fn groups(versions: &[&str]) -> (&'static str, Answer) {
    let group = |version: &&str| {
        let one = json!({"groupVersion": version, "version": version.rsplit('/').next()});
        json!({"name": version.split('/').next(), "versions": [one], "preferredVersion": one})
    };
    let groups: Vec<Value> = versions.iter().map(group).collect();
    ("/apis", Answer::Object(json!({"kind": "APIGroupList", "groups": groups})))
}

/// What the server serves in a group.
fn served(version: &str, kinds: &[Kind]) -> Answer {
    let resource = |kind: &Kind| json!({"name": kind.plural(), "singularName": "", "namespaced": false, "kind": kind.as_str(), "verbs": ["watch"]});
    let resources: Vec<Value> = kinds.iter().map(resource).collect();
    Answer::Object(json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}))
}

async fn next(notices: &mut UnboundedReceiver<Notice>) -> What {
    tokio::time::timeout(PATIENCE, notices.recv()).await.expect("a notice in time").expect("a notice").what
}

/// Short words for a notice.
fn told(what: &What) -> String {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match what {
        What::ListBegins => "list".into(),
        What::Listed(object) => format!("listed {}", name(object)),
        What::ListEnds { cluster } => format!("whole, of {cluster}"),
        What::Applied(object) => format!("applied {}", name(object)),
        What::Deleted(object) => format!("deleted {}", name(object)),
        What::Failed(text) => format!("failed: {text}"),
    }
}

async fn are_told(notices: &mut UnboundedReceiver<Notice>, wanted: &[&str]) {
    for words in wanted {
        assert_eq!(told(&next(notices).await), *words);
    }
}

#[tokio::test(start_paused = true)]
async fn only_served_groups_are_asked_for_their_kinds() {
    let server = Server::start(vec![groups(&["apps/v1"])]);
    assert!(!discover(&server.client).await.unwrap().has_calico());
    server.expect(vec![
        groups(&[STORAGE, V3]),
        ("/apis/projectcalico.org/v3", served(V3, &[Kind::HostEndpoint])),
        ("/apis/crd.projectcalico.org/v1", served(STORAGE, &[Kind::HostEndpoint, Kind::Tier])),
    ]);
    let found = discover(&server.client).await.unwrap();
    assert_eq!(found.version_of(Kind::HostEndpoint).as_deref(), Some(V3));
    assert_eq!(found.version_of(Kind::Tier).as_deref(), Some(STORAGE));
    // Listed, and not served: an aggregated server that is down. That is no reason to believe its objects gone.
    server.expect(vec![groups(&[V3]), ("/apis/projectcalico.org/v3", Answer::Refusal(503, "no endpoints"))]);
    let error = discover(&server.client).await.unwrap_err();
    assert!(error.to_string().contains("does not serve it at the moment"), "{error:#}");
    server.expect(vec![("/api/v1/namespaces/kube-system metadata", Answer::Refusal(403, "cannot get"))]);
    let error = cluster_id(&server.client).await.unwrap_err();
    assert!(format!("{error:#}").contains("cannot read the namespace kube-system"), "{error:#}");
    server.was_asked_exactly_this().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_its_list_ended() {
    const PATH: &str = "/apis/projectcalico.org/v3/hostendpoints";
    let broken = json!({"type": "ADDED", "object": {"metadata": {"name": "b", "labels": {"a": 5}}}});
    let server = Server::start(vec![
        (PATH, list(&["a"], "7")),
        kube_system(),
        (
            "watch /apis/projectcalico.org/v3/hostendpoints 7",
            Answer::Ended(vec![event("ADDED", "b", "8"), broken, event("DELETED", "a", "9")]),
        ),
        // It ended, as a watch does after some minutes: the next one goes on from there, without a list.
        ("watch /apis/projectcalico.org/v3/hostendpoints 9", Answer::Events(vec![event("ADDED", "c", "10")])),
    ]);
    let (sender, mut notices) = unbounded_channel();
    let mut watches = Watches::new(server.client.clone(), "node1".into(), sender);
    watches.replan(&BTreeSet::from([key(Kind::HostEndpoint, V3)]));
    are_told(&mut notices, &["list", "listed a", "whole, of c1", "applied b"]).await;
    // One object that is none: it is told, and the rest goes on.
    let failed = next(&mut notices).await;
    assert!(told(&failed).starts_with("failed: "), "{failed:?}");
    are_told(&mut notices, &["deleted a", "applied c"]).await;
    server.was_asked_exactly_this().await;
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_history_is_no_failure() {
    const PATH: &str = "/apis/projectcalico.org/v3/hostendpoints";
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                      "code": 410, "reason": "Expired", "message": "too old", "metadata": {}}});
    let server = Server::start(vec![
        (PATH, list(&["a", "b"], "7")),
        kube_system(),
        ("watch /apis/projectcalico.org/v3/hostendpoints 7", Answer::Events(vec![gone])),
        (PATH, list(&["b"], "20")),
        kube_system(),
        ("watch /apis/projectcalico.org/v3/hostendpoints 20", Answer::Events(Vec::new())),
    ]);
    let (sender, mut notices) = unbounded_channel();
    let mut watches = Watches::new(server.client.clone(), "node1".into(), sender);
    watches.replan(&BTreeSet::from([key(Kind::HostEndpoint, V3)]));
    are_told(&mut notices, &["list", "listed a", "listed b", "whole, of c1"]).await;
    are_told(&mut notices, &["list", "listed b", "whole, of c1"]).await;
    server.was_asked_exactly_this().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_watch_names_the_right() {
    for (code, words) in
        [(403, "must allow get, list and watch of hostendpoints in projectcalico.org/v3"), (404, "gone")]
    {
        let server =
            Server::start(vec![("/apis/projectcalico.org/v3/hostendpoints", Answer::Refusal(code, "gone"))]);
        let (sender, mut notices) = unbounded_channel();
        let mut watches = Watches::new(server.client.clone(), "node1".into(), sender);
        watches.replan(&BTreeSet::from([key(Kind::HostEndpoint, V3)]));
        are_told(&mut notices, &["list"]).await;
        let failed = told(&next(&mut notices).await);
        assert!(failed.contains(words), "{code}: {failed}");
        drop(watches);
        server.was_asked_exactly_this().await;
    }
}

/// A thousand nodes with ten watches each that all ask which cluster answers, as soon as they may, keep an API server
/// down that has trouble already.
#[tokio::test(start_paused = true)]
async fn which_cluster_answers_is_asked_ever_more_slowly() {
    const PATH: &str = "/apis/projectcalico.org/v3/hostendpoints";
    let server = Server::start(vec![(PATH, list(&["a"], "7"))]);
    let (sender, mut notices) = unbounded_channel();
    let mut watches = Watches::new(server.client.clone(), "node1".into(), sender);
    watches.replan(&BTreeSet::from([key(Kind::HostEndpoint, V3)]));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = server.script.lock().unwrap().surplus.len();
    assert!((10..60).contains(&asked), "{asked} times in ten minutes");
    are_told(&mut notices, &["list", "listed a"]).await;
    assert!(told(&next(&mut notices).await).contains("cannot read the namespace kube-system"));
    // It is taken over when that is known.
    server.script.lock().unwrap().surplus.clear();
    server.expect(vec![
        kube_system(),
        ("watch /apis/projectcalico.org/v3/hostendpoints 7", Answer::Events(Vec::new())),
    ]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    server.was_asked_exactly_this().await;
    while let Ok(notice) = notices.try_recv() {
        if let What::ListEnds { cluster } = notice.what {
            return assert_eq!(cluster, "c1");
        }
    }
    panic!("the list is not taken over");
}

/// Kubernetes 1.33 has streamed lists, and has them off.
#[tokio::test]
async fn a_server_that_streams_no_lists_is_asked_for_them() {
    const PATH: &str = "/apis/projectcalico.org/v3/hostendpoints";
    const OFF: &str = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    let server = Server::start(vec![
        ("/version", version("33")),
        ("watch /apis/projectcalico.org/v3/hostendpoints 0", Answer::Refusal(422, OFF)),
        (PATH, list(&["a"], "7")),
        kube_system(),
        ("watch /apis/projectcalico.org/v3/hostendpoints 7", Answer::Events(Vec::new())),
    ]);
    let (sender, mut notices) = unbounded_channel();
    let mut watches = Watches::new(server.client.clone(), "node1".into(), sender);
    watches.choose_strategy().await.unwrap();
    watches.replan(&BTreeSet::from([key(Kind::HostEndpoint, V3)]));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "whole, of c1") {
        heard.push(told(&next(&mut notices).await));
    }
    assert!(heard.iter().all(|words| !words.starts_with("failed")), "{heard:?}");
    server.was_asked_exactly_this().await;
}

fn version(minor: &str) -> Answer {
    Answer::Object(
        json!({"major": "1", "minor": minor, "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                          "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
    )
}

/// What every node asks for, where the server serves nothing of Calico's.
fn core() -> Vec<(&'static str, Answer)> {
    let mut script = Vec::new();
    for (path, watch) in [
        ("/api/v1/nodes", "watch /api/v1/nodes 1"),
        ("/api/v1/services", "watch /api/v1/services 1"),
        ("/api/v1/namespaces metadata", "watch /api/v1/namespaces 1 metadata"),
        ("/api/v1/pods spec.nodeName%3Dnode1", "watch /api/v1/pods 1 spec.nodeName%3Dnode1"),
        ("/apis/discovery.k8s.io/v1/endpointslices", "watch /apis/discovery.k8s.io/v1/endpointslices 1"),
    ] {
        script.extend([(path, list(&[], "1")), kube_system(), (watch, Answer::Events(Vec::new()))]);
    }
    script
}

/// A kind that comes in the older group, then in the newer one: read once in each, and never two at a time for long.
#[tokio::test(start_paused = true)]
async fn a_kind_that_moves_is_read_where_it_is_newest() {
    let mut script = core();
    script.extend([("/version", version("30")), kube_system(), groups(&[])]);
    let server = Server::start(script);
    let client = server.client.clone();
    let connect: Connect = Box::new(move || {
        let client = client.clone();
        async move { Ok(client) }.boxed()
    });
    let pace = Pace { well: Duration::from_secs(1), without_calico: Duration::from_secs(1) };
    let follower = Follower::start_with(connect, pace, "node1".into(), None, Needs::default(), || {});
    let names = || -> Vec<String> {
        let view = follower.view();
        view.cluster.documents().iter().map(|document| document.file.to_string()).collect()
    };
    server.was_asked_exactly_this().await;
    assert!(follower.view().troubles()["custom resources"].contains("serves no kind"));

    server.expect(vec![
        kube_system(),
        groups(&[STORAGE]),
        ("/apis/crd.projectcalico.org/v1", served(STORAGE, &[Kind::HostEndpoint])),
        ("/apis/crd.projectcalico.org/v1/hostendpoints", list(&["a"], "3")),
        kube_system(),
        ("watch /apis/crd.projectcalico.org/v1/hostendpoints 3", Answer::Events(Vec::new())),
    ]);
    server.was_asked_exactly_this().await;
    assert_eq!(names(), ["kubernetes:crd.projectcalico.org/v1/hostendpoints/a"]);
    assert!(follower.view().troubles().is_empty(), "{:?}", follower.view().troubles());

    server.expect(vec![
        kube_system(),
        groups(&[STORAGE, V3]),
        ("/apis/crd.projectcalico.org/v1", served(STORAGE, &[Kind::HostEndpoint])),
        ("/apis/projectcalico.org/v3", served(V3, &[Kind::HostEndpoint])),
        ("/apis/projectcalico.org/v3/hostendpoints", list(&["a", "b"], "5")),
        kube_system(),
        ("watch /apis/projectcalico.org/v3/hostendpoints 5", Answer::Events(Vec::new())),
    ]);
    server.was_asked_exactly_this().await;
    let moved = ["a", "b"].map(|name| format!("kubernetes:projectcalico.org/v3/hostendpoints/{name}"));
    assert_eq!(names(), moved);
}
