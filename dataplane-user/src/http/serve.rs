//! Connections: few, short, one question each. Nobody can hold one for long, and when there are too many the oldest
//! gives way, so that a probe is answered while somebody holds all others.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::health::{Check, Health, is_good, page};
use super::metrics::{CONTENT_TYPE, Scraper};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// A question comes at once, or not at all.
const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// Question and answer together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a question.
const MAX_QUESTION: usize = 8192;

/// Answers for ever.
pub(super) fn run(listener: TcpListener, health: Health, scraper: Arc<Scraper>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .context("cannot start their runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot use the socket")?;
        accept(listener, router(health, scraper)).await;
        Ok(())
    })
}

fn router(health: Health, scraper: Arc<Scraper>) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(scraper);
    Router::new()
        .route("/livez", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .with_state(health)
        .merge(metrics)
}

async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(answer(stream, router.clone())).abort_handle());
            }
            Err(error) => {
                // Out of descriptors, or the client is gone already.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_QUESTION)
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whoever is too slow, or goes away, gets no answer: no business of ours.
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, connection).await {
        tracing::debug!(%error, "a question was not answered");
    }
}

async fn live(State(health): State<Health>, uri: Uri) -> Response {
    // `?within=SECONDS`: with another patience than ours.
    let within = words(&uri).find_map(|word| word.strip_prefix("within="));
    match within.map(str::parse) {
        Some(Err(_)) => {
            (StatusCode::BAD_REQUEST, "within: expected whole seconds, as in ?within=20\n").into_response()
        }
        within => told(&health.live(within.and_then(Result::ok).map(Duration::from_secs)), &uri),
    }
}

async fn ready(State(health): State<Health>, uri: Uri) -> Response {
    told(&health.ready(), &uri)
}

async fn metrics(State(scraper): State<Arc<Scraper>>, uri: Uri) -> Response {
    let policies = words(&uri).any(|word| word == "policies" || word.starts_with("policies="));
    // It asks the kernel, with tables that are full thousands of times: on the one other thread of this runtime, so
    // that probes are answered meanwhile, and scrapes wait for each other.
    match tokio::task::spawn_blocking(move || scraper.scrape(policies)).await {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the scrape broke off\n").into_response(),
    }
}

fn told(checks: &[Check], uri: &Uri) -> Response {
    let status = if is_good(checks) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = words(uri).any(|word| word == "verbose" || word.starts_with("verbose="));
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, head, page(checks, verbose)).into_response()
}

fn words(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&')
}
