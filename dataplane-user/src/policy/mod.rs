//! The validated domain, and what is said about documents that do not reach it.
pub mod changes;
pub mod defaults;
pub mod problem;
pub mod types;
pub use changes::Changes;
pub use problem::{Problem, Severity};
pub use types::*;
