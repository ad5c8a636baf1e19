//! The agent's part in the node's `NodePolicyStatus`: what it knows, and what runs at the hooks of its devices.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Context, Result};
use dataplane_common::abi::HOOK_XDP;
use dataplane_common::abi::hook_name;
use rtnetlink::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::accepted::Accepted;
use super::{Event, Options};
use crate::index::{LostReason, Snapshot};
use crate::kubernetes::follow::Account;
use crate::kubernetes::report::build::Hooks;
use crate::kubernetes::report::facts::{Applied, Facts};
use crate::kubernetes::report::task::{Access, Look, Reporter};
use crate::kubernetes::report::types::HookReport;
use crate::loader::attach::HOOKS;
use crate::loader::chain::{Place, chain, own_programs, xdp_chain};
use crate::resource::Kind;
use crate::state::State;

/// What our own program is called in a chain, whatever its name in the kernel is.
const OURS: &str = "portcullis";

/// Who tells the cluster.
#[derive(Default)]
pub(super) struct Reporting {
    reporter: Option<Reporter>,
    /// Of what is in force; `None`: an earlier agent put it there.
    applied: Option<Applied>,
}

impl Reporting {
    pub(super) fn start(&mut self, account: Account, options: &Options, sender: UnboundedSender<Event>) {
        let look = KernelLook { pin_dir: options.pin_dir.clone(), handle: None };
        let wake = move || {
            // An agent that is gone needs no word.
            let _ = sender.send(Event::Reported);
        };
        self.reporter = Some(Reporter::start(Access::Account(account), options.node.clone(), look, wake));
    }

    pub(super) fn came_into_force(&mut self, accepted: &Accepted) {
        if self.reporter.is_some() {
            self.applied = Some(accepted.applied());
        }
    }

    /// Hands over what is known now, and says in the state what became of the last report.
    pub(super) fn report(&self, accepted: &Accepted, state: &mut State, snapshot: &Snapshot) {
        let Some(reporter) = &self.reporter else { return };
        let lost = snapshot.facts.lost.iter();
        let lost_to: BTreeMap<String, String> = lost
            .filter_map(|lost| match &lost.reason {
                LostReason::LostTo(winner, _) => Some((lost.name.clone(), winner.clone())),
                LostReason::NoDevice(_)
                | LostReason::NoAddress
                | LostReason::Workload(_)
                | LostReason::Excluded(_)
                | LostReason::Loopback(_)
                | LostReason::NothingLeft => None,
            })
            .collect();
        // The Node of another cluster is no owner: the object would be collected as garbage.
        let same_cluster = !state.trouble.contains_key("cluster");
        let facts = Facts {
            objects: accepted.facts(),
            lost_to,
            applied: self.applied.clone(),
            node_uid: same_cluster.then(|| accepted.uid(Kind::Node, &state.node)).flatten(),
            ..Facts::new(state.clone())
        };
        let told = reporter.tell(facts);
        if let Some(kubernetes) = &mut state.kubernetes {
            kubernetes.report = Some(told);
        }
    }

    pub(super) async fn stop(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            reporter.stop().await;
        }
    }
}

/// The hooks of this network namespace.
struct KernelLook {
    pin_dir: PathBuf,
    handle: Option<Handle>,
}

impl Look for KernelLook {
    fn look<'a>(
        &'a mut self,
        devices: &'a BTreeSet<String>,
    ) -> Pin<Box<dyn Future<Output = Option<Hooks>> + Send + 'a>> {
        Box::pin(async {
            match self.hooks(devices).await {
                Ok(hooks) => Some(hooks),
                Err(error) => {
                    tracing::warn!("what runs at the hooks of devices is not reported: {error:#}");
                    None
                }
            }
        })
    }
}

impl KernelLook {
    async fn hooks(&mut self, devices: &BTreeSet<String>) -> Result<Hooks> {
        let handle = match &self.handle {
            Some(handle) => handle,
            None => {
                let (connection, handle, _) =
                    rtnetlink::new_connection().context("cannot open a netlink route socket")?;
                tokio::spawn(connection);
                self.handle.insert(handle)
            }
        };
        let own = own_programs(&self.pin_dir);
        let mut hooks = Hooks::new();
        for device in devices {
            // A device that went away since has no hooks.
            let Ok(ifindex) = nix::net::if_::if_nametoindex(device.as_str()) else { continue };
            let mut of_device = Vec::new();
            for hook in HOOKS {
                let places = chain(handle, &own, hook, device, ifindex).await?;
                of_device.push(hook_report(hook.name(), &places));
            }
            let xdp = xdp_chain(&own, ifindex)?;
            if !xdp.is_empty() {
                of_device.push(hook_report(hook_name(HOOK_XDP), &xdp));
            }
            hooks.insert(device.clone(), of_device);
        }
        Ok(hooks)
    }
}

fn hook_report(hook: &str, places: &[Place]) -> HookReport {
    let name = |place: &Place| match place.ours {
        true => OURS.to_owned(),
        false => format!("{} ({})", place.name, place.by),
    };
    let position = places.iter().position(|place| place.ours);
    HookReport {
        hook: hook.to_owned(),
        position: position.and_then(|index| u32::try_from(index + 1).ok()),
        chain: places.iter().map(name).collect(),
    }
}
