//! What is in force, read from pins, links and devices.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use dataplane_common::abi::{HOOK_XDP, Hook, hook_name};
use dataplane_common::limits;
use dataplane_common::verdict::{Reason, Verdict};
use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use crate::compile::Tables;
use crate::loader::attach::HOOKS;
use crate::loader::chain::{Place, chain, own_programs, xdp_chain};
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::observe::record::WOULD_DENY;
use crate::safety::Standing;
use crate::state::State;

const NS: u64 = 1_000_000_000;

/// `status -o json`, field `kernel`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// 0: nothing is in force.
    pub generation: u64,
    /// Policy epoch (D15).
    pub epoch: u32,
    /// Audit, suspension, an apply on trial.
    pub safety: Standing,
    /// Node-wide: flows are only recorded and learnt, for so many seconds more (D17).
    pub adoption_seconds: u64,
    pub devices: Vec<DeviceView>,
    pub counters: Vec<CounterView>,
    pub tables: Vec<TableView>,
    /// Hooks could not be looked at, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks_unknown: Option<String>,
}

/// A device that the generation knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    pub name: String,
    pub ifindex: u32,
    /// Host endpoint that governs it.
    pub endpoint: Option<String>,
    /// Mid-flow packets may begin flows here for so many seconds more (D17).
    pub grace_seconds: u64,
    pub hooks: Vec<HookView>,
}

/// One hook of a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookView {
    pub hook: String,
    /// `tcx`, `clsact`; at XDP its mode; absent: no program of ours runs here.
    pub attached_by: Option<String>,
    /// 1: the first to see a packet.
    pub position: Option<usize>,
    /// All that runs at this hook, in order.
    pub chain: Vec<Place>,
}

impl HookView {
    fn new(hook: &str, chain: Vec<Place>) -> Self {
        let ours = chain.iter().position(|p| p.ours);
        Self {
            hook: hook.to_owned(),
            attached_by: ours.map(|i| chain[i].by.clone()),
            position: ours.map(|i| i + 1),
            chain,
        }
    }
}

/// Packets since the maps were made.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterView {
    pub hook: String,
    /// `Ungoverned`, `Allow`, `Deny`; `WouldDeny`: denied, and passed all the same (audit, suspension).
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableView {
    pub name: &'static str,
    pub entries: u64,
    pub limit: u64,
}

impl TableView {
    /// Whole percent, rounded up: a table with something in it is never 0 % full.
    pub fn percent(&self) -> u64 {
        (self.entries * 100).div_ceil(self.limit.max(1))
    }
}

impl Kernel {
    /// Reads it all. Fails where even the control word cannot be read: then nothing can be told.
    pub fn read(state: &State) -> Result<Self> {
        let pinned = Pinned::new(&state.pin_dir);
        let control = pinned.control()?;
        let now = now_ns(&control);
        let slot = slot_in_force(&control, now);
        let tables = slot.map(|slot| pinned.tables(slot)).transpose()?.unwrap_or_default();
        let maps = pinned.state()?;
        let left = |until: u64| until.saturating_sub(now).div_ceil(NS);
        let mut kernel = Self {
            generation: tables.settings.generation,
            epoch: control.in_force(now).1,
            safety: Standing::of(&control, now),
            adoption_seconds: left(control.grace_until_ns),
            counters: counters(&maps)?,
            tables: fill(&tables, &maps.counts()),
            ..Self::default()
        };
        for (ifindex, device) in &tables.devices {
            let endpoint = (device.endpoint as usize)
                .checked_sub(1)
                .map(|i| state.endpoints.get(i).map_or_else(|| format!("endpoint {i}"), |e| e.name.clone()));
            kernel.devices.push(DeviceView {
                name: format!("ifindex {ifindex}"),
                ifindex: *ifindex,
                endpoint,
                grace_seconds: left(device.grace_until_ns),
                hooks: Vec::new(),
            });
        }
        if let Err(e) = kernel.look_at_hooks(state) {
            kernel.hooks_unknown = Some(format!("{e:#}"));
        }
        Ok(kernel)
    }

    /// Names of devices, and what runs at their hooks. Enters the agent's network namespace where it is another one.
    fn look_at_hooks(&mut self, state: &State) -> Result<()> {
        enter(state)?;
        let own = own_programs(&state.pin_dir);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink route socket")?;
            tokio::spawn(connection);
            for device in &mut self.devices {
                let Some(name) = device_name(device.ifindex) else { continue };
                device.name = name;
                for hook in HOOKS {
                    device.hooks.push(look(&handle, &own, hook, device).await?);
                }
                let chain = xdp_chain(&own, device.ifindex)?;
                // Of interest where it is ours or ought to be.
                if chain.iter().any(|p| p.ours) || state.xdp.contains_key(&device.name) {
                    device.hooks.push(HookView::new(hook_name(HOOK_XDP), chain));
                }
            }
            Ok(())
        })
    }

    /// A device by its name.
    pub fn device(&self, name: &str) -> Option<&DeviceView> {
        self.devices.iter().find(|d| d.name == name)
    }
}

async fn look(
    handle: &rtnetlink::Handle,
    own: &BTreeSet<u32>,
    hook: Hook,
    device: &DeviceView,
) -> Result<HookView> {
    let chain = chain(handle, own, hook, &device.name, device.ifindex).await?;
    Ok(HookView::new(hook.name(), chain))
}

/// The name that the device has now.
pub fn device_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// Number of a process's network namespace.
pub fn netns_of(process: &str) -> Option<u64> {
    fs::metadata(Path::new("/proc").join(process).join("ns/net")).ok().map(|m| m.ino())
}

/// Goes to the network namespace that the agent governs, if this process is in another one.
pub fn enter(state: &State) -> Result<()> {
    if state.netns == 0 || netns_of("self") == Some(state.netns) {
        return Ok(());
    }
    let process = state.pid.to_string();
    if !state.agent_runs() || netns_of(&process) != Some(state.netns) {
        bail!(
            "the agent ran in another network namespace ({}): run this command there, with `nsenter --net=…`",
            state.netns
        );
    }
    let file = File::open(format!("/proc/{process}/ns/net")).context("cannot open its network namespace")?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .context("cannot enter the agent's network namespace: run it as root")
}

fn counters(maps: &crate::maps::State) -> Result<Vec<CounterView>> {
    let mut out = Vec::new();
    for ((hook, verdict, reason), counter) in maps.counters()? {
        let hook = hook_name(hook);
        let verdict = [Verdict::Ungoverned, Verdict::Allow, Verdict::Deny]
            .into_iter()
            .find(|v| *v as u8 == verdict)
            .map_or("?", Verdict::name);
        let reason = Reason::from_number(reason).map_or("?", Reason::name);
        out.push(CounterView {
            hook: hook.to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
        });
    }
    for ((hook, reason), counter) in maps.spared()? {
        out.push(CounterView {
            hook: hook.name().to_owned(),
            verdict: WOULD_DENY.to_owned(),
            reason: reason.to_owned(),
            packets: counter.packets,
            bytes: counter.bytes,
        });
    }
    Ok(out)
}

fn fill(tables: &Tables, counts: &crate::maps::FlowCounts) -> Vec<TableView> {
    let table =
        |name, entries: usize, limit: u32| TableView { name, entries: entries as u64, limit: limit.into() };
    let longest = tables.lists.iter().map(|l| l.rule_count as usize).max().unwrap_or(0);
    vec![
        table("flows, confirmed", counts.confirmed, limits::MAX_FLOWS_CONFIRMED),
        table("flows, unconfirmed", counts.unconfirmed, limits::MAX_FLOWS_UNCONFIRMED),
        table("flows of failsafes", counts.failsafe, limits::MAX_FLOWS_FAILSAFE),
        table("first fragments", counts.fragments, limits::MAX_FRAGMENTS),
        table("rules", tables.rules.len(), limits::MAX_RULES),
        table("rules of the longest list", longest, limits::MAX_RULES_PER_LIST),
        table("lists", tables.lists.iter().filter(|l| l.rule_count > 0).count(), limits::MAX_LISTS),
        table("address prefixes", tables.addr_class.len(), limits::MAX_PREFIXES),
        table("port prefixes", tables.port_class.len(), limits::MAX_PORT_PREFIXES),
        table("bitmap words", tables.rows.len(), limits::MAX_ROW_WORDS),
        table("devices", tables.devices.len(), limits::MAX_DEVICES),
        table("own addresses", tables.own_addrs.len(), limits::MAX_OWN_ADDRESSES),
        table("Service frontends", tables.frontends.len(), limits::MAX_FRONTENDS),
        table("failsafes", tables.failsafes.len(), limits::MAX_FAILSAFES),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_used_is_never_empty() {
        let table = |entries| TableView { name: "t", entries, limit: 1000 };
        assert_eq!((table(0).percent(), table(1).percent(), table(1000).percent()), (0, 1, 100));
    }
}
