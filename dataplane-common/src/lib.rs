//! What the kernel program and the agent share, and nothing else: the map ABI, the packet parser and the one
//! decision function. `no_std`, no allocation, every loop bounded by a constant of [`limits`].
//!
//! Byte order: addresses are kept as on the wire (network order bytes). Ports, lengths, sequence numbers and
//! ids are host-order integers everywhere but inside map keys whose field names end in `_be`.
//!
//! Reading order is the order of the packet: `frame` (bytes) → `parse` → `decide` (with `tables`) → `verdict`.
#![no_std]
#![warn(missing_docs)]

pub mod limits;
pub mod names;

pub mod addr;
pub mod packet;

pub mod frame;
pub mod parse;

pub mod scan;
pub mod tables;
pub mod verdict;

pub mod flow;
pub mod room;

pub mod abi;
pub mod decide;

#[cfg(feature = "user")]
mod pod;
#[cfg(feature = "user")]
pub use pod::event_from_bytes;

/// Version of the layout of every map but the flow tables. Part of the pin path. Bump it with any change in
/// [`abi`].
pub const ABI_VERSION: u32 = 6;
/// Version of [`flow::FlowKey`] and [`flow::FlowEntry`], apart from the others because flows must survive an
/// upgrade (D49). When it moves, [`ABI_VERSION`] moves too: the programs' scratch memory holds an entry, and a build that
/// takes over needs a control word of its own.
pub const FLOW_ABI_VERSION: u32 = 2;
