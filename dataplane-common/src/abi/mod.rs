//! Layout of the maps: `#[repr(C)]`, named, non-generic, no hidden padding. [`crate::ABI_VERSION`] moves with
//! any change here.

mod control;
mod counters;
mod keys;
mod lists;
mod node;
mod work;

pub use control::*;
pub use counters::*;
pub use keys::*;
pub use lists::*;
pub use node::*;
pub use work::*;
