//! Where events come from: the folder, the kernel's network configuration, time, signals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use super::folder::identity;
use crate::loader::link::Changes;
use crate::loader::turnstile;
use crate::state::lastgood::Identity;

/// The safety net below all notices.
const TICK: Duration = Duration::from_secs(5);

/// Notices of the policies folder, of whatever folder stands at its path now.
pub(super) struct FolderWatch {
    watcher: RecommendedWatcher,
    path: PathBuf,
    watched: Option<Identity>,
}

impl FolderWatch {
    fn new(path: &Path, sender: UnboundedSender<Event>) -> Result<Self> {
        let notice = move |event: notify::Result<notify::Event>| {
            // Reading the folder is an access event itself: it must not wake the agent. An error means lost notices.
            let matters = event.map_or(true, |e| !matches!(e.kind, EventKind::Access(_)));
            if matters {
                let _ = sender.send(Event::SourceChanged);
            }
        };
        let watcher = notify::recommended_watcher(notice).context("cannot watch files (inotify)")?;
        let mut this = Self { watcher, path: path.to_owned(), watched: None };
        this.follow()?;
        Ok(this)
    }

    /// A watch is of a folder, not of a path: a folder that was replaced, or mounted over, needs a new one. One that
    /// is not there is looked for at every tick.
    pub(super) fn follow(&mut self) -> Result<()> {
        let found = identity(&self.path);
        if found == self.watched {
            return Ok(());
        }
        if self.watched.take().is_some() {
            // Of a folder that is gone the kernel has already taken the watch away.
            let _ = self.watcher.unwatch(&self.path);
        }
        if found.is_some() {
            self.watcher.watch(&self.path, RecursiveMode::Recursive).with_context(|| {
                format!(
                    "cannot watch {}, its changes are seen every {} s only; is fs.inotify.max_user_watches too low?",
                    self.path.display(),
                    TICK.as_secs()
                )
            })?;
            self.watched = found;
        }
        Ok(())
    }
}

/// Starts all sources. `policies`: the folder, if there is one. Its watch works until it is dropped.
pub(super) fn start(
    policies: Option<&Path>,
    changes: Changes,
    sender: UnboundedSender<Event>,
) -> Result<Option<FolderWatch>> {
    let watch = policies.map(|path| FolderWatch::new(path, sender.clone())).transpose()?;
    tokio::spawn(links(changes, sender.clone()));
    tokio::spawn(ticks(sender.clone()));
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).context("cannot listen for signals")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            stream.recv().await;
            let _ = sender.send(Event::Signal);
        });
    }
    Ok(watch)
}

async fn links(mut changes: Changes, sender: UnboundedSender<Event>) {
    while changes.next().await {
        if sender.send(Event::LinkChanged).is_err() {
            return;
        }
    }
    tracing::error!("the netlink socket ended; changes of devices are seen at the next tick only");
}

/// How often a floor looks whether it is relieved.
const RELIEF: Duration = Duration::from_millis(100);

/// Says when another portcullis waits for the pin dir.
pub(super) fn relief(pin_dir: &Path, sender: UnboundedSender<Event>) {
    let pin_dir = pin_dir.to_owned();
    tokio::spawn(async move {
        while !turnstile::wanted(&pin_dir) {
            tokio::time::sleep(RELIEF).await;
        }
        let _ = sender.send(Event::Relieved);
    });
}

async fn ticks(sender: UnboundedSender<Event>) {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if sender.send(Event::Tick).is_err() {
            return;
        }
    }
}
