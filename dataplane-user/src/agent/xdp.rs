//! Which devices drop early at XDP (D10), and bringing that about. Nothing here is trouble: TC judges every packet.

use std::collections::BTreeMap;

use aya::util::KernelVersion;
use dataplane_common::abi::{ListKind, RuleAction, device_flag, rule_flag};

use super::Agent;
use crate::compile::Tables;
use crate::loader::xdp::{Mode, Outcome};
use crate::policy::NodeView;

/// Device → what became of it. Only of devices whose endpoint has an untracked ingress list with a Deny.
pub(super) type Report = BTreeMap<String, Outcome>;

/// Devices (by number) that have something to drop early; with a reason, those on which XDP could not tell apart what
/// TC does.
fn wanted(tables: &Tables, view: &NodeView) -> BTreeMap<u32, (String, Option<String>)> {
    let mut wanted = BTreeMap::new();
    for (name, device) in &view.devices {
        let Some(entry) = tables.devices.get(&device.ifindex) else { continue };
        if entry.flags & (device_flag::LOOPBACK | device_flag::WORKLOAD) != 0
            || !denies_untracked(tables, entry.endpoint)
        {
            continue;
        }
        let above = view.devices.values().find(|d| d.vlan.as_ref().is_some_and(|(parent, _)| parent == name));
        let not = if device.no_link_layer {
            Some("it has no Ethernet header".to_owned())
        } else {
            above.map(|d| {
                format!("VLAN device {} lies above it: a driver may hide VLAN tags from XDP", d.name)
            })
        };
        wanted.insert(device.ifindex, (name.clone(), not));
    }
    wanted
}

/// Whether the untracked ingress list of an endpoint (its index plus one) may deny anything.
fn denies_untracked(tables: &Tables, endpoint: u32) -> bool {
    let at = |index: u32| (index as usize).checked_sub(1);
    let endpoint = at(endpoint).and_then(|i| tables.endpoints.get(i));
    let list = endpoint.and_then(|e| tables.lists.get(at(e.lists[ListKind::UntrackedIngress as usize])?));
    let Some(list) = list else { return false };
    let rules = tables.rules.iter().skip(list.rule_base as usize).take(list.rule_count as usize);
    rules.into_iter().any(|r| r.action == RuleAction::Deny as u8 && r.flags & rule_flag::STAGED == 0)
}

/// Older verifiers gave no answer within minutes, and the agent must not wait for them.
fn is_known_to_load() -> bool {
    KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0))
}

impl Agent {
    /// After TC: each device to where it should be. True if something is another way now.
    pub(super) fn follow_xdp(&mut self) -> bool {
        // Until the tables are known again what an earlier agent left goes on.
        let Some(tables) = &self.tables else { return false };
        let off = self.xdp_attacher.mode() == Mode::Off;
        let wanted = if off { BTreeMap::new() } else { wanted(tables, &self.view) };
        // What a trial goes back to may want what the trial does not.
        let removed = if self.on_trial() { Ok(Vec::new()) } else { self.xdp_attacher.retain(&wanted) };
        match removed {
            Ok(removed) => removed.iter().for_each(|ifindex| tracing::info!(ifindex, "XDP detached")),
            Err(e) => tracing::warn!("XDP stays where it is not wanted: {e:#}"),
        }
        let mut report = Report::new();
        for (ifindex, (device, not)) in wanted {
            let outcome = match not {
                Some(why) => self.xdp_attacher.remove(ifindex).map(|_| Outcome::Left(why)),
                None if !is_known_to_load() => {
                    Ok(Outcome::Left("it is not known to load on kernels before 6.6".to_owned()))
                }
                None => self.attach_xdp(ifindex),
            };
            let outcome = outcome.unwrap_or_else(|e| Outcome::Left(format!("{e:#}")));
            if self.xdp.get(&device) != Some(&outcome) {
                match &outcome {
                    Outcome::Attached(mode) => tracing::info!(device, %mode, "XDP attached"),
                    Outcome::Left(why) => {
                        tracing::warn!(device, "no XDP: {why}; its untracked list is enforced at TC");
                    }
                }
            }
            report.insert(device, outcome);
        }
        let changed = report != self.xdp;
        self.xdp = report;
        changed
    }

    fn attach_xdp(&mut self, ifindex: u32) -> anyhow::Result<Outcome> {
        self.xdp_attacher.attach(self.dataplane.xdp()?, ifindex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Device;
    use dataplane_common::abi::{DeviceEntry, EndpointEntry, ListEntry, RuleEntry};

    fn tables(action: RuleAction, flags: u8) -> Tables {
        let mut endpoint = EndpointEntry::default();
        endpoint.lists[ListKind::UntrackedIngress as usize] = 1;
        let rule = RuleEntry { action: action as u8, flags, ..RuleEntry::default() };
        Tables {
            devices: BTreeMap::from([(2, DeviceEntry { endpoint: 1, ..DeviceEntry::default() })]),
            endpoints: vec![endpoint],
            lists: vec![ListEntry { rule_base: 1, rule_count: 1, ..ListEntry::default() }],
            // The first is of another list.
            rules: vec![RuleEntry::default(), rule],
            ..Tables::default()
        }
    }

    fn view(vlan: bool) -> NodeView {
        let eth0 = Device { name: "eth0".into(), ifindex: 2, ..Device::default() };
        let above =
            Device { name: "eth0.7".into(), ifindex: 3, vlan: Some(("eth0".into(), 7)), ..Device::default() };
        let devices = [eth0].into_iter().chain(vlan.then_some(above)).map(|d| (d.name.clone(), d));
        NodeView { devices: devices.collect(), ..NodeView::default() }
    }

    #[test]
    fn only_a_list_that_denies_is_worth_it() {
        assert!(wanted(&tables(RuleAction::Allow, 0), &view(false)).is_empty());
        assert!(wanted(&tables(RuleAction::Deny, rule_flag::STAGED), &view(false)).is_empty());
        let found = wanted(&tables(RuleAction::Deny, rule_flag::TIER_END), &view(false));
        assert_eq!(found, BTreeMap::from([(2, ("eth0".into(), None))]));
        assert!(wanted(&Tables::default(), &view(false)).is_empty());
    }

    #[test]
    fn a_device_below_vlans_is_left_to_tc() {
        let found = wanted(&tables(RuleAction::Deny, 0), &view(true));
        let why = found[&2].1.as_deref().unwrap_or_default();
        assert!(why.contains("eth0.7"), "{why}");
    }
}
