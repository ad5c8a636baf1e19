//! The task against a mocked API server, in time that stands still but for its waits: every request is expected, and
//! none is missing.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower_test::mock::{Handle, SendResponse, pair};

use super::{facts, policy, rejected};
use crate::kubernetes::report::build::Hooks;
use crate::kubernetes::report::facts::Facts;
use crate::kubernetes::report::schedule::{HEARTBEAT, PAUSE, RETRY_NO_KIND};
use crate::kubernetes::report::task::{Access, Look, Reporter};

const OBJECT: &str = "/apis/portcullis.dev/v1alpha1/nodepolicystatuses/node1";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

struct NoHooks;

impl Look for NoHooks {
    fn look<'a>(
        &'a mut self,
        _devices: &'a BTreeSet<String>,
    ) -> Pin<Box<dyn Future<Output = Option<Hooks>> + Send + 'a>> {
        Box::pin(async { Some(Hooks::new()) })
    }
}

struct Mock {
    requests: Handle<Request<Body>, Response<Body>>,
    reporter: Reporter,
    woken: Arc<AtomicU32>,
}

/// What was asked, and what will be answered.
struct Asked {
    method: String,
    path: String,
    query: String,
    body: Value,
    answer: SendResponse<Response<Body>>,
}

impl Asked {
    fn answer(self, code: u16, body: Value) {
        let body = Body::from(body.to_string().into_bytes());
        self.answer.send_response(Response::builder().status(code).body(body).unwrap());
    }

    fn refuse(self, code: u16, message: &str) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "X", "message": message,
        });
        self.answer(code, status);
    }

    fn done(self) {
        let meta = json!({"metadata": {"name": "node1"}, "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
        self.answer(200, meta);
    }
}

impl Mock {
    fn start() -> Self {
        let (service, requests) = pair();
        let woken = Arc::new(AtomicU32::new(0));
        let wakes = Arc::clone(&woken);
        let access = Access::Client(Client::new(service, "default"));
        let reporter = Reporter::start(access, "node1".into(), NoHooks, move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        });
        Self { requests, reporter, woken }
    }

    /// The next request, whenever it comes.
    async fn next(&mut self) -> Asked {
        let (request, answer) = self.requests.next_request().await.expect("the task ended");
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        Asked {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            answer,
        }
    }

    async fn expect(&mut self, method: &str, path: &str) -> Asked {
        let asked = self.next().await;
        assert_eq!((asked.method.as_str(), asked.path.as_str()), (method, path), "{:#}", asked.body);
        asked
    }

    /// Nothing is asked for so long.
    async fn quiet(&mut self, time: Duration) {
        let next = pin!(self.requests.next_request());
        if let Ok(Some((request, _))) = timeout(time, next).await {
            panic!("{} {}", request.method(), request.uri());
        }
    }

    /// The first look, at an API server that has no report of this node, and the first report.
    async fn first(&mut self, facts: Facts) {
        self.reporter.tell(facts);
        self.expect("GET", OBJECT).await.refuse(404, "nodepolicystatuses \"node1\" not found");
        self.expect("PATCH", OBJECT).await.done();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_is_written_when_something_changed_and_then_only_as_a_sign_of_life() {
    let mut mock = Mock::start();
    mock.quiet(HEARTBEAT).await;
    let begin = Instant::now();
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    mock.expect("GET", OBJECT).await.refuse(404, "not found");
    let patch = mock.expect("PATCH", OBJECT).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "who is in sync need not wait");
    for word in ["fieldManager=portcullis", "force=true", "fieldValidation=Strict"] {
        assert!(patch.query.contains(word), "{}", patch.query);
    }
    assert_eq!(patch.body["metadata"]["ownerReferences"][0]["uid"], "uid-of-node");
    assert_eq!(patch.body["status"]["policies"][0]["observedGeneration"], 1);
    assert_eq!(patch.body["kind"], "NodePolicyStatus");
    assert!(!mock.reporter.state().current);
    patch.done();
    // The same again changes nothing: the next request is the sign of life.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(mock.reporter.state().current);
    let again = mock.reporter.tell(facts(vec![policy("web", 1)]));
    assert!(again.current && again.written.is_some());
    mock.quiet(HEARTBEAT / 4).await;
    let life = mock.expect("PATCH", OBJECT).await;
    assert!(begin.elapsed() <= HEARTBEAT + Duration::from_secs(40), "{:?}", begin.elapsed());
    life.done();
    mock.quiet(HEARTBEAT / 4).await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered() {
    let mut mock = Mock::start();
    mock.first(facts(Vec::new())).await;
    let begin = Instant::now();
    for generation in 1..=20 {
        mock.reporter.tell(facts(vec![policy("web", generation)]));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let patch = mock.expect("PATCH", OBJECT).await;
    assert!(begin.elapsed() >= PAUSE - Duration::from_millis(50), "{:?}", begin.elapsed());
    assert_eq!(patch.body["status"]["policies"][0]["observedGeneration"], 20, "the last counts");
    patch.done();
    mock.quiet(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_while_a_report_is_written_is_written_next() {
    let mut mock = Mock::start();
    mock.first(facts(Vec::new())).await;
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    let patch = mock.expect("PATCH", OBJECT).await;
    mock.reporter.tell(facts(vec![policy("web", 2)]));
    patch.done();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!mock.reporter.state().current);
    let patch = mock.expect("PATCH", OBJECT).await;
    assert_eq!(patch.body["status"]["policies"][0]["observedGeneration"], 2);
    patch.done();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(mock.reporter.state().current);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_kind_is_asked_seldom_and_still_gets_events() {
    let mut mock = Mock::start();
    mock.reporter.tell(facts(vec![rejected("bad", 1)]));
    mock.expect("GET", OBJECT).await.refuse(404, "the server could not find the requested resource");
    let begin = Instant::now();
    mock.expect("PATCH", OBJECT).await.refuse(404, "the server could not find the requested resource");
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["reason"], "ObjectRejected");
    event.answer(201, json!({"metadata": {"name": "x"}, "eventTime": null}));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let state = mock.reporter.state();
    assert!(state.no_such_kind && !state.current && state.trouble.unwrap().contains("kubectl apply"));
    // However much changes.
    for generation in 1..5 {
        mock.reporter.tell(facts(vec![policy("web", generation), rejected("bad", 1)]));
        mock.quiet(Duration::from_secs(20)).await;
    }
    let woken = mock.woken.load(Ordering::Relaxed);
    assert!(woken <= 3, "{woken}");
    let patch = mock.expect("PATCH", OBJECT).await;
    assert!(begin.elapsed() >= RETRY_NO_KIND / 2);
    patch.done();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let state = mock.reporter.state();
    assert!(!state.no_such_kind && state.current && state.trouble.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_told_and_tried_ever_more_slowly() {
    let mut mock = Mock::start();
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    mock.expect("GET", OBJECT).await.refuse(403, "nodepolicystatuses is forbidden");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let trouble = mock.reporter.state().trouble.unwrap();
    assert!(trouble.contains("forbidden") && trouble.contains("must allow get"), "{trouble}");
    mock.expect("GET", OBJECT).await.refuse(404, "not found");
    let mut last = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let patch = mock.expect("PATCH", OBJECT).await;
        pauses.push(last.elapsed());
        last = Instant::now();
        patch.refuse(403, "cannot patch");
    }
    assert!(pauses[7] >= Duration::from_secs(30) && pauses[7] <= Duration::from_secs(91), "{pauses:?}");
    // A conflict is nobody's fault, and over when it is tried again.
    mock.expect("PATCH", OBJECT).await.refuse(409, "Operation cannot be fulfilled");
    mock.expect("PATCH", OBJECT).await.done();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(mock.reporter.state().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_comes_back_is_written_to_soon() {
    let mut mock = Mock::start();
    mock.first(facts(Vec::new())).await;
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    for _ in 0..7 {
        mock.expect("PATCH", OBJECT).await.refuse(503, "etcdserver: leader changed");
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(mock.reporter.state().trouble.unwrap().contains("leader changed"));
    // The agent's watches work again: that is known from what it tells.
    let begin = Instant::now();
    mock.reporter.tell(facts(vec![policy("web", 2)]));
    mock.expect("PATCH", OBJECT).await.done();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_large_is_made_smaller() {
    let mut mock = Mock::start();
    mock.first(facts(Vec::new())).await;
    let many = (0..4000).map(|n| policy(&format!("{}{n}", "p".repeat(150)), 1)).collect();
    mock.reporter.tell(facts(many));
    let patch = mock.expect("PATCH", OBJECT).await;
    let large = patch.body.to_string().len();
    patch.refuse(413, "Request entity too large: limit is 3145728");
    let patch = mock.expect("PATCH", OBJECT).await;
    assert!(patch.body.to_string().len() < large * 3 / 4);
    assert!(patch.body["status"]["truncated"].as_str().unwrap().contains("more policies"));
    patch.done();
}

#[tokio::test(start_paused = true)]
async fn an_event_is_posted_once_and_one_that_is_there_is_as_good() {
    let mut mock = Mock::start();
    mock.first(facts(vec![policy("web", 1)])).await;
    mock.reporter.tell(facts(vec![policy("web", 1), rejected("bad", 7)]));
    mock.expect("PATCH", OBJECT).await.done();
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["type"], "Warning");
    assert_eq!(event.body["regarding"]["uid"], "uid-of-bad");
    assert_eq!(event.body["reportingController"], "portcullis.dev/agent");
    assert_eq!(event.body["reportingInstance"], "node1");
    assert!(event.body["note"].as_str().unwrap().contains("spec.selector"));
    let name = event.body["metadata"]["name"].clone();
    // No answer: the same again, later.
    event.refuse(500, "etcd");
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["metadata"]["name"], name);
    event.refuse(409, "events \"bad.0\" already exists");
    mock.quiet(Duration::from_secs(60)).await;
    assert_eq!(mock.reporter.state().events, None);
    // Refused: told, and not tried for ever.
    mock.reporter.tell(facts(vec![policy("web", 1), policy("bad", 8)]));
    mock.expect("PATCH", OBJECT).await.done();
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["reason"], "ObjectAccepted");
    event.refuse(403, "events is forbidden");
    mock.quiet(Duration::from_secs(60)).await;
    assert!(mock.reporter.state().events.unwrap().contains("create of events"));
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_says_nothing_again_and_keeps_the_times() {
    let mut first = Mock::start();
    let known = facts(vec![policy("web", 1), rejected("bad", 7)]);
    first.reporter.tell(known.clone());
    first.expect("GET", OBJECT).await.refuse(404, "not found");
    let patch = first.expect("PATCH", OBJECT).await;
    let mut object = patch.body.clone();
    patch.done();
    first.expect("POST", EVENTS).await.answer(201, json!({"metadata": {"name": "x"}, "eventTime": null}));

    for condition in object["status"]["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
    }
    let mut second = Mock::start();
    second.reporter.tell(known);
    second.expect("GET", OBJECT).await.answer(200, object.clone());
    let patch = second.expect("PATCH", OBJECT).await;
    let status = &patch.body["status"];
    assert_eq!(status["conditions"], object["status"]["conditions"]);
    patch.done();
    second.quiet(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_report_waits_for_the_whole_but_not_for_ever() {
    let mut mock = Mock::start();
    let mut early = facts(Vec::new());
    early.state.kubernetes.as_mut().unwrap().in_sync = false;
    mock.reporter.tell(early.clone());
    mock.quiet(Duration::from_secs(9)).await;
    mock.expect("GET", OBJECT).await.refuse(404, "not found");
    let patch = mock.expect("PATCH", OBJECT).await;
    assert_eq!(patch.body["status"]["conditions"][0]["status"], "False");
    patch.done();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_says_so() {
    let mut mock = Mock::start();
    mock.first(facts(vec![policy("web", 1)])).await;
    let Mock { reporter, mut requests, .. } = mock;
    let server = async {
        let (request, answer) = requests.next_request().await.unwrap();
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        answer.send_response(Response::new(Body::from(br#"{"metadata": {"name": "node1"}}"#.to_vec())));
        body
    };
    let ((), body) = tokio::join!(reporter.stop(), server);
    assert_eq!(body["status"]["conditions"][0]["reason"], "AgentStopped");
    assert_eq!(body["status"]["conditions"][1]["status"], "True", "what is in force stays in force");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_worth_an_event_when_it_lasts() {
    let mut mock = Mock::start();
    mock.first(facts(vec![policy("web", 1)])).await;
    let mut bad = facts(vec![policy("web", 1)]);
    bad.state.trouble.insert("watch of v1 pods".into(), "forbidden".into());
    mock.reporter.tell(bad.clone());
    mock.expect("PATCH", OBJECT).await.done();
    mock.quiet(Duration::from_secs(15)).await;
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    mock.expect("PATCH", OBJECT).await.done();
    mock.quiet(Duration::from_secs(60)).await;

    mock.reporter.tell(bad);
    mock.expect("PATCH", OBJECT).await.done();
    let begin = Instant::now();
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["reason"], "WatchFailed");
    assert!(begin.elapsed() > Duration::from_secs(20), "{:?}", begin.elapsed());
    event.refuse(409, "already exists");
    mock.reporter.tell(facts(vec![policy("web", 1)]));
    mock.expect("PATCH", OBJECT).await.done();
    let event = mock.expect("POST", EVENTS).await;
    assert_eq!(event.body["reason"], "Recovered");
    event.refuse(409, "already exists");
}
