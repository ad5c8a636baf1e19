//! The validated domain, and what is said about documents that do not reach it.
pub mod defaults;
pub mod problem;
pub mod types;
pub use problem::{Problem, Severity};
pub use types::*;
