//! Scenario files: policy unit tests.
pub mod engine;
pub mod format;
pub mod kernel;
pub mod runner;

mod conversation;
mod node;
mod packet;
mod state;

pub use format::{LoadError, Scenario};
pub use runner::{ScenarioResult, StepResult, run};
