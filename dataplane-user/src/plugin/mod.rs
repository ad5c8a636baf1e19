//! `kubectl portcullis`: what all nodes of a cluster say, in one place.
//!
//! Everything goes through the user's own kubectl ([`kubectl`]): objects by `kubectl get`, a node's agent by `kubectl exec`
//! into its pod ([`agents`]). So it works with the user's rights and whatever log-in the kubeconfig names, and agents listen
//! on nothing for it.

pub mod agents;
pub mod explain;
pub mod kubectl;
pub mod merge;
pub mod observe;
pub mod status;
pub mod stream;
