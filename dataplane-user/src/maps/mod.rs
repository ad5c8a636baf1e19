//! Compiled tables → BPF maps: fresh inner maps, read back, then one store that makes them active (D22, D23).
//!
//! Reading order: `inner` (one inner map from one table) → `generations` (slots and the flip) → `state` (what
//! outlives generations: control word, flows, counters).

pub mod error;
pub mod generations;
pub mod inner;
pub mod state;
mod template;

pub use error::Error;
pub use generations::{Generation, Generations};
pub use state::State;
pub use template::Templates;
