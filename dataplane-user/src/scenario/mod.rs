//! Scenario files: policy unit tests.
pub mod engine;
pub mod format;
pub mod kernel;
pub mod random;
pub mod runner;

mod conversation;
mod node;
mod packet;
mod state;
#[cfg(test)]
mod tests;

pub use format::{LoadError, Scenario};
pub use runner::{ScenarioResult, StepResult, run};

/// The frame that a description means, alone on the wire (`explain`).
pub fn frame_of(spec: &format::PacketSpec) -> Result<Vec<u8>, String> {
    let macs = packet::Macs { src: [2, 0, 0, 0, 0, 1], dst: [2, 0, 0, 0, 0, 2] };
    packet::frame(spec, macs, &mut conversation::Conversations::default())
}
