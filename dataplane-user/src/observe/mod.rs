//! Sampled events: what packets were refused and which `Log` rules they met.
//!
//! A ring buffer has one consumer. While the agent runs it is the agent: it keeps the latest events and serves any
//! number of observers over a socket in the state dir. When it is dead, an observer reads the ring itself. A lock on
//! the pinned maps' folder makes sure that there is never a second consumer. None of this can hold up a packet: the
//! programs drop and count an event that finds no room.
//!
//! Reading order: `record` (an event for people and programs) → `filter` → `names` (what its numbers mean) → `ring`
//! (the consumer) → `server` (in the agent) → `client`.

pub mod client;
pub mod filter;
pub mod names;
pub mod record;
pub mod ring;
pub mod server;

pub use filter::Filter;
pub use record::{EventKind, EventRecord, Line};
pub use server::Publisher;
