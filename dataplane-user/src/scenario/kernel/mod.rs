//! The kernel as a judge: compiled tables in real maps, the real programs, each packet through
//! `BPF_PROG_TEST_RUN` in a private network namespace.
//!
//! Reading order: `worker` (a thread in its own namespace) → `devices` (the scenario's devices, for real) →
//! `lab` (what is done there) → this file (the [`Engine`]).

mod devices;
mod lab;
mod worker;

use std::time::Duration;

use super::engine::{Engine, LiveFlow, Outcome, PacketIn};
use crate::policy::{NodeView, World};
use worker::Worker;

/// Judges packets by the loaded programs. One at a time runs fastest: programs are loaded once per process and
/// handed from engine to engine.
pub struct KernelEngine {
    worker: Option<Worker>,
}

impl KernelEngine {
    /// An engine without a world. Fails where BPF or namespaces are not to be had, and says why.
    pub fn new() -> anyhow::Result<Self> {
        let worker = Worker::take()?;
        worker.run(lab::Lab::reset)??;
        Ok(Self { worker: Some(worker) })
    }
    /// Whether this process may use BPF and namespaces, and the build carries the programs; if not, why.
    pub fn available() -> Result<(), String> {
        if !nix::unistd::geteuid().is_root() {
            return Err(
                "the kernel engine needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)".to_owned()
            );
        }
        if !crate::loader::object::is_embedded() {
            return Err(crate::loader::Error::NotEmbedded.to_string());
        }
        Ok(())
    }
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut lab::Lab) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        match &self.worker {
            Some(worker) => worker.run(job)?,
            None => anyhow::bail!("the kernel engine has ended"),
        }
    }
}

impl Drop for KernelEngine {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.give_back();
        }
    }
}

impl Engine for KernelEngine {
    fn name(&self) -> &'static str {
        "kernel"
    }
    fn set_world(&mut self, world: &World, view: &NodeView) -> anyhow::Result<()> {
        let (world, view) = (world.clone(), view.clone());
        self.run(move |lab| lab.set_world(&world, view))
    }
    fn adopt(&mut self, flows: &[LiveFlow]) -> anyhow::Result<()> {
        let flows = flows.to_vec();
        self.run(move |lab| lab.adopt(&flows))
    }
    fn advance(&mut self, by: Duration) -> anyhow::Result<()> {
        self.run(move |lab| lab.advance(by))
    }
    fn judge(&mut self, packet: &PacketIn) -> anyhow::Result<Outcome> {
        let packet = packet.clone();
        self.run(move |lab| lab.judge(&packet))
    }
}

#[cfg(test)]
mod flood;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod xdp;
