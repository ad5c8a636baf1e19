//! What an agent tells over HTTP: `/livez`, `/readyz` and `/metrics`. It only answers, and changes nothing.
//!
//! A thread with a runtime of its own: a loop that hangs must not take along the one who says so, and whoever asks
//! slowly, or too much, holds up nobody else. Reading order: [`health`] and
//! [`metrics`] (what is said) → `serve` (to whom).

pub mod health;
pub mod metrics;
mod serve;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::Listen;
use crate::state::telemetry::Telemetry;
use health::Health;
use metrics::Scraper;

/// What a request is answered from.
#[derive(Clone, Debug)]
pub struct Sources {
    pub telemetry: Arc<Telemetry>,
    pub pin_dir: PathBuf,
}

/// Answers until the process ends.
#[derive(Clone, Debug, Default)]
pub struct Server {
    trouble: Arc<Mutex<Option<String>>>,
}

/// An address may come (a lease), and who has the port may go.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl Server {
    /// Begins to answer, now or when the port becomes free. An address that cannot be had is told in
    /// [`Self::trouble`]; enforcement does not wait for it.
    pub fn start(listen: Listen, sources: Sources) -> Result<Self> {
        let this = Self::default();
        let Some(address) = listen.address else { return Ok(this) };
        let socket = SocketAddr::new(address, listen.port);
        let trouble = Arc::clone(&this.trouble);
        std::thread::Builder::new()
            .name("pc-http".to_owned())
            .spawn(move || {
                let listener = wait_for(socket, &trouble);
                let scraper = Arc::new(Scraper::new(sources.clone()));
                if let Err(error) = serve::run(listener, Health::new(sources), scraper) {
                    tracing::error!("metrics and health are not served: {error:#}; enforcement goes on");
                    tell(&trouble, Some(format!("{error:#}")));
                }
            })
            .context("cannot start the thread of metrics and health")?;
        Ok(this)
    }

    /// Why nobody is answered, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn tell(trouble: &Mutex<Option<String>>, text: Option<String>) {
    *trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

fn wait_for(socket: SocketAddr, trouble: &Mutex<Option<String>>) -> TcpListener {
    let mut told = None;
    loop {
        match listen_on(socket) {
            Ok(listener) => {
                tell(trouble, None);
                tracing::info!(%socket, "metrics and health are served");
                return listener;
            }
            Err(error) => {
                let text = format!(
                    "cannot listen on {socket}: {error}; metrics and health are not served until that works (settings \
                     httpAddress and httpPort)"
                );
                if told.as_ref() != Some(&text) {
                    tracing::error!("{text}; enforcement goes on");
                    tell(trouble, Some(text.clone()));
                    told = Some(text);
                }
            }
        }
        std::thread::sleep(TRY_AGAIN);
    }
}

fn listen_on(socket: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
