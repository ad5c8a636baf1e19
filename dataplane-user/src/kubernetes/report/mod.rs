//! What a node says about itself to the cluster: its `NodePolicyStatus` ([`types`], [`crd`]) and Events.
//!
//! [`facts`] come from the agent, [`build`] makes a report of them and [`announce`] what has become worth an Event (all
//! pure), [`task`] writes both. Nothing of Calico's is written, and nothing here can disturb enforcement.

pub mod announce;
pub mod build;
mod conditions;
pub mod crd;
pub mod events;
pub mod facts;
pub mod limits;
pub mod page;
pub mod schedule;
pub mod store;
pub mod task;
mod text;
pub mod types;

#[cfg(test)]
mod tests;
