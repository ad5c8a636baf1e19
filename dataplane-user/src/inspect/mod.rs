//! The node as it is, for people: pinned maps, links and devices first, the agent's state file for names only.
//!
//! Reading order: `kernel` (what is in force) → `rules` (compiled rules with their hits) → `health` (what is wrong,
//! the worst first).

pub mod health;
pub mod kernel;
pub mod rules;

pub use health::{Finding, Health};
pub use kernel::Kernel;
