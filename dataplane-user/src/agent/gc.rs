//! What is given back every tick, apart from anything that waits: confirmed flows that ended (the tables of
//! unconfirmed flows evict by themselves, D18), counters of devices that are gone, and generations that nobody needs.

use std::collections::BTreeSet;
use std::fs;

use dataplane_common::decide::timeout_ns;
use dataplane_common::flow::{FlowEntry, FlowKey, TcpState};
use dataplane_common::packet::protocol;

use super::Agent;

const NS: u64 = 1_000_000_000;

/// Idle times, s: the kernel's own sysctls of conntrack where they can be read, its defaults elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeouts {
    tcp_established: u64,
    tcp_fin: u64,
    tcp_close: u64,
    udp: u64,
    icmp: u64,
    other: u64,
}

impl Timeouts {
    fn read() -> Self {
        let value = |name: &str, default: u64| {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(default)
        };
        Self {
            tcp_established: value("tcp_timeout_established", 432_000),
            tcp_fin: value("tcp_timeout_fin_wait", 120),
            tcp_close: value("tcp_timeout_close", 10),
            udp: value("udp_timeout_stream", 120),
            icmp: value("icmp_timeout", 30),
            other: value("generic_timeout", 600),
        }
    }

    fn of(&self, key: &FlowKey, entry: &FlowEntry) -> u64 {
        let states = [entry.state_original, entry.state_reply];
        match key.protocol {
            protocol::TCP if states.contains(&(TcpState::Closing as u8)) => self.tcp_close,
            protocol::TCP if states.contains(&(TcpState::Fin as u8)) => self.tcp_fin,
            protocol::TCP => self.tcp_established,
            protocol::UDP | protocol::UDPLITE => self.udp,
            protocol::ICMP | protocol::ICMPV6 => self.icmp,
            _ => self.other,
        }
    }

    fn expired(&self, key: &FlowKey, entry: &FlowEntry, now_ns: u64) -> bool {
        let limit = self.of(key, entry).saturating_mul(NS).min(timeout_ns(entry, key.protocol));
        now_ns.saturating_sub(entry.last_seen_ns) > limit
    }
}

impl Agent {
    /// Each freed slot waits for packets in flight: not where an edit waits.
    pub(super) fn free_retired(&mut self) {
        if !std::mem::take(&mut self.retired) {
            return;
        }
        match self.dataplane.free_retired() {
            Ok(()) => drop(self.trouble.remove("old generations")),
            Err(e) => self.fails("old generations", &e.into()),
        }
    }

    /// Every tick.
    pub(super) fn collect_flows(&mut self) {
        let result = self.dataplane.now_ns().and_then(|now| {
            let timeouts = Timeouts::read();
            let state = self.dataplane.state();
            let flows = state.flows()?;
            let mut removed = 0;
            for (key, _) in flows.iter().filter(|(key, entry)| timeouts.expired(key, entry, now)) {
                state.remove_flow(key)?;
                removed += 1;
            }
            let devices: BTreeSet<u32> = self.view.devices.values().map(|d| d.ifindex).collect();
            state.forget_devices(|ifindex| devices.contains(&ifindex))?;
            Ok(removed)
        });
        match result {
            Ok(removed) => {
                self.trouble.remove("flows");
                if removed > 0 {
                    tracing::debug!(removed, "removed flows that ended");
                }
            }
            Err(e) => self.fails("flows", &e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Timeouts =
        Timeouts { tcp_established: 432_000, tcp_fin: 120, tcp_close: 10, udp: 120, icmp: 30, other: 600 };

    #[test]
    fn a_closing_flow_ends_sooner_than_an_open_one() {
        let key = FlowKey { protocol: protocol::TCP, ..FlowKey::default() };
        let open = FlowEntry { state_original: TcpState::Established as u8, ..FlowEntry::default() };
        let closing = FlowEntry { state_reply: TcpState::Closing as u8, ..open };
        assert!(!DEFAULTS.expired(&key, &open, 200 * NS));
        assert!(DEFAULTS.expired(&key, &closing, 11 * NS));
        assert!(!DEFAULTS.expired(&key, &closing, 10 * NS));
        // Clocks of CPUs may differ a little: a flow from the future is not old.
        assert!(!DEFAULTS.expired(&key, &FlowEntry { last_seen_ns: 5, ..closing }, 4));
    }
}
