//! Who answers for the agent, if this build can ([`crate::http`]).

use std::sync::Arc;

use anyhow::Result;

use super::{Options, Role};
use crate::state::telemetry::Telemetry;

/// The thread of metrics and health.
#[derive(Debug, Default)]
pub(super) struct Answers {
    #[cfg(feature = "http")]
    server: crate::http::Server,
    /// The trouble that the state shows.
    shown: Option<String>,
}

impl Answers {
    /// A floor answers nobody: it precedes the network.
    #[cfg(feature = "http")]
    pub(super) fn start(options: &Options, telemetry: &Arc<Telemetry>) -> Result<Self> {
        if options.role == Role::Floor {
            return Ok(Self::default());
        }
        let sources =
            crate::http::Sources { telemetry: Arc::clone(telemetry), pin_dir: options.pin_dir.clone() };
        Ok(Self { server: crate::http::Server::start(options.http, sources)?, shown: None })
    }

    #[cfg(not(feature = "http"))]
    pub(super) fn start(options: &Options, _telemetry: &Arc<Telemetry>) -> Result<Self> {
        if options.role == Role::Agent && options.http.address.is_some() {
            tracing::info!("this portcullis was built without its feature `http`: no metrics, no health");
        }
        Ok(Self::default())
    }

    /// Why nobody is answered, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        #[cfg(feature = "http")]
        return self.server.trouble();
        #[cfg(not(feature = "http"))]
        None
    }

    /// Whether [`Self::trouble`] is not what the state shows.
    pub(super) fn changed(&self) -> bool {
        self.trouble() != self.shown
    }

    /// The state shows this now.
    pub(super) fn show(&mut self, trouble: Option<String>) {
        self.shown = trouble;
    }
}
