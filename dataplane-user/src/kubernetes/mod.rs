//! The Kubernetes API as a source of documents: what the cluster serves ([`discovery`]), what this node needs of it
//! ([`plan`]), one watch for each ([`watch`]), the task that drives them ([`follow`]), and the
//! state that they add up to ([`cluster`], pure). What comes out is
//! the same [`crate::resource::Document`] that files give, and nothing is ever written to Calico's objects.

pub mod client;
pub mod cluster;
pub mod discovery;
pub mod follow;
pub mod kube_proxy;
pub mod plan;
pub mod report;
mod slim;
pub mod watch;

#[cfg(all(test, feature = "http"))]
mod mocked;
#[cfg(test)]
mod tests;

use std::sync::Arc;

/// What a watch tells. A list is taken over as a whole, at its end (no state in between is ever enforced, D46).
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Which watch.
    pub watch: plan::WatchKey,
    /// What happened.
    pub what: What,
}

/// The events of one watch, in the order in which the API server gives them.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A list begins; `Listed` objects follow.
    ListBegins,
    /// An object of the list.
    Listed(Arc<serde_json::Value>),
    /// The list is whole. `cluster`: UID of the namespace `kube-system`, which names the cluster.
    ListEnds { cluster: String },
    /// Created or changed.
    Applied(Arc<serde_json::Value>),
    /// Deleted.
    Deleted(Arc<serde_json::Value>),
    /// The watch has trouble; it goes on by itself.
    Failed(String),
}
