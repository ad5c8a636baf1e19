//! Compiled tables → BPF maps: fresh inner maps, read back, then one store that makes them active (D22, D23).
//!
//! Reading order: `inner` (one inner map from one table) → `generations` (slots and the flip) → `state` (what
//! outlives generations: control word, flows, counters) → `layouts` (flow tables of earlier builds) → `pinned` (reading what is in force, agent or not).

pub mod adopt;
mod batch;
pub mod error;
pub mod generations;
pub mod inner;
pub mod layouts;
mod patience;
pub mod pinned;
mod slots;
pub mod state;
mod template;

pub use error::Error;
pub use generations::{Generation, Generations, SLICED};
pub use pinned::Pinned;
pub use state::{FlowCounts, State};
pub use template::Templates;
