//! The node as it is, for people: pinned maps, links and devices first, the agent's state file for names only.
//!
//! Reading order: `kernel` (what is in force) → `rules` (compiled rules with their hits) → `maps`, `render`, `classes`, `verify` (each
//! map, its entries in words, and whether they are what the policies say) → `health` (what is wrong,
//! the worst first).

pub mod classes;
pub mod health;
pub mod kernel;
pub mod maps;
pub mod render;
pub mod rules;
pub mod verify;

pub use health::{Finding, Health};
pub use kernel::Kernel;
