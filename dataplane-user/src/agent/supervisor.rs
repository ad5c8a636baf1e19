//! Word to systemd, where it started us and asks for it (`NOTIFY_SOCKET`); else nothing happens.

use sd_notify::NotifyState;

/// The first look was taken: what can be enforced is in force.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The owner task has just finished its work: it does not hang.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// What `systemctl status` shows.
pub(super) fn shows(line: &str) {
    tell(&[NotifyState::Status(line.trim_start_matches("portcullis: "))]);
}

fn tell(state: &[NotifyState<'_>]) {
    // Enforcement does not depend on whether somebody listens.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
