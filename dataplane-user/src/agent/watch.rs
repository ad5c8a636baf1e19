//! Where events come from: the folder, the kernel's network configuration, time, signals.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use crate::loader::link::Changes;

/// The safety net below all notices.
const TICK: Duration = Duration::from_secs(5);

/// Starts all sources. The watcher works until it is dropped.
pub(super) fn start(
    policies: &Path,
    changes: Changes,
    sender: UnboundedSender<Event>,
) -> Result<RecommendedWatcher> {
    let watcher = folder(policies, sender.clone())?;
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
    Ok(watcher)
}

fn folder(policies: &Path, sender: UnboundedSender<Event>) -> Result<RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Reading the folder is an access event itself: it must not wake the agent. An error means lost notices.
        let matters = event.map_or(true, |e| !matches!(e.kind, EventKind::Access(_)));
        if matters {
            let _ = sender.send(Event::FolderChanged);
        }
    };
    let mut watcher = notify::recommended_watcher(notice).context("cannot watch files (inotify)")?;
    watcher.watch(policies, RecursiveMode::Recursive).with_context(|| {
        format!("cannot watch {}; is fs.inotify.max_user_watches too low?", policies.display())
    })?;
    Ok(watcher)
}

async fn links(mut changes: Changes, sender: UnboundedSender<Event>) {
    while changes.next().await {
        if sender.send(Event::LinkChanged).is_err() {
            return;
        }
    }
    tracing::error!("the netlink socket ended; changes of devices are seen at the next tick only");
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
