//! What a node says about itself to the cluster: its `NodePolicyStatus` ([`types`], [`crd`]).

pub mod crd;
pub mod limits;
pub mod types;
