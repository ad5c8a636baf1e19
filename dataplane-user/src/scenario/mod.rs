//! Scenario files: policy unit tests.
pub mod engine;
pub mod kernel;
