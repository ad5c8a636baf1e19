//! Layout of the maps: `#[repr(C)]`, named, non-generic, no hidden padding. [`crate::ABI_VERSION`] moves with
//! any change here.

use crate::addr::Addr;
use crate::packet::Packet;
use crate::verdict::{Decision, Reason, Verdict};

/// The single word that a packet reads first.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Active slot of the outer maps plus one; 0: no generation, nothing is enforced (D46).
    pub active: u32,
    /// Policy epoch (D15): moves with every generation and every membership that is taken away.
    pub epoch: u32,
    /// Added to the kernel's clock: tests advance time with it; 0 in production. ns.
    pub clock_offset_ns: u64,
    /// Until then (kernel clock, ns) flows are only recorded and learnt, per D17 (a): 0 = enforce.
    pub grace_until_ns: u64,
    /// `apply --confirm`: at this time (kernel clock, ns) go back to `fallback`; 0 = none.
    pub confirm_until_ns: u64,
    /// Slot plus one of the generation before.
    pub fallback: u32,
    /// Bits of [`control_flag`].
    pub flags: u32,
    /// Until then (kernel clock, ns) enforcement is suspended: counts, does not drop.
    pub suspend_until_ns: u64,
    /// Which apply waits for its confirmation, or was the last that did; 0: there was none.
    pub trial: u64,
    /// Always zero.
    pub spare: [u64; 3],
}

/// [`Control::flags`].
pub mod control_flag {
    /// Node-wide audit: counts, does not drop.
    pub const AUDIT: u32 = 1 << 0;
    /// [`super::Control::trial`] was confirmed.
    pub const CONFIRMED: u32 = 1 << 1;
    /// [`super::Control::trial`] was undone.
    pub const UNDONE: u32 = 1 << 2;
}

impl Control {
    /// Whether an apply waits for its confirmation, in time or not.
    #[inline(always)]
    pub const fn waits(&self) -> bool {
        self.confirm_until_ns != 0
    }
    /// Whether nobody confirmed in time: the generation before is in force, though nobody has written so.
    #[inline(always)]
    pub const fn expired(&self, now_ns: u64) -> bool {
        self.confirm_until_ns != 0 && now_ns >= self.confirm_until_ns && self.fallback != 0
    }
    /// What is in force: slot plus one (0: nothing), and the policy epoch. Going back is a change of policy like
    /// any other, so it has an epoch of its own: flows that only the undone generation would admit are judged again
    /// where `recheck` asks for it (D15).
    #[inline(always)]
    pub const fn in_force(&self, now_ns: u64) -> (u32, u32) {
        if self.expired(now_ns) {
            (self.fallback, self.epoch.wrapping_add(1))
        } else {
            (self.active, self.epoch)
        }
    }
    /// Whether what is denied passes nevertheless: audit, or a suspension that still runs.
    #[inline(always)]
    pub const fn spares(&self, now_ns: u64) -> bool {
        self.flags & control_flag::AUDIT != 0 || now_ns < self.suspend_until_ns
    }
}

/// Per-generation settings, array of one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Number of the generation, for people; grows with every apply.
    pub generation: u64,
    /// Bits of [`settings_flag`].
    pub flags: u32,
    /// Entries used of `node_ports`.
    pub node_port_ranges: u32,
    /// FelixConfiguration `kubeNodePortRanges`, inclusive, host order; only without any Service document (D3).
    pub node_ports: [PortRange; crate::limits::MAX_NODE_PORT_RANGES],
    /// Grace of a device that becomes governed, ns (D17).
    pub grace_ns: u64,
    /// Always zero.
    pub spare: [u64; 4],
}

/// [`Settings::flags`].
pub mod settings_flag {
    /// `onPolicyChange: recheck` node-wide (D15).
    pub const RECHECK: u32 = 1 << 0;
    /// At least one device is governed: flows are recorded (D42).
    pub const GOVERNED: u32 = 1 << 1;
    /// Some rule looks at the source port.
    pub const SPORT: u32 = 1 << 2;
    /// `pc_infra` has entries (D39).
    pub const INFRA: u32 = 1 << 3;
    /// Some address is a frontend, or there are ranges of node ports (D3).
    pub const FRONTENDS: u32 = 1 << 4;
    /// Some endpoint has an untracked list (D41).
    pub const UNTRACKED: u32 = 1 << 5;
}

/// Inclusive, host order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// A device of this node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceEntry {
    /// Index into `pc_endpoints` plus one; 0: no host endpoint governs this device.
    pub endpoint: u32,
    /// Bits of [`device_flag`].
    pub flags: u32,
    /// Kernel clock, ns: grace of this device ends (D17); 0: none.
    pub grace_until_ns: u64,
}

/// [`DeviceEntry::flags`].
pub mod device_flag {
    /// A workload device (D47): preDNAT and forward lists only.
    pub const WORKLOAD: u32 = 1 << 0;
    /// Accepts router advertisements (D7).
    pub const ACCEPT_RA: u32 = 1 << 1;
    /// Anti-spoof is on (D27).
    pub const ANTI_SPOOF: u32 = 1 << 2;
    /// Unknown ethertypes are dropped (D20).
    pub const DROP_UNKNOWN_ETHERTYPES: u32 = 1 << 3;
    /// The loopback device.
    pub const LOOPBACK: u32 = 1 << 4;
    /// No Ethernet header in front of the network header (D48).
    pub const NO_LINK_LAYER: u32 = 1 << 5;
}

/// Which list: index into [`EndpointEntry::lists`].
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    /// doNotTrack, ingress.
    UntrackedIngress = 0,
    /// doNotTrack, egress.
    UntrackedEgress = 1,
    /// preDNAT, ingress.
    PreDnat = 2,
    /// applyOnForward, ingress.
    ForwardIngress = 3,
    /// applyOnForward, egress.
    ForwardEgress = 4,
    /// Normal, ingress.
    NormalIngress = 5,
    /// Normal, egress.
    NormalEgress = 6,
    /// Profiles, ingress.
    ProfileIngress = 7,
    /// Profiles, egress.
    ProfileEgress = 8,
}

/// Number of [`ListKind`]s.
pub const LIST_KINDS: usize = 9;

/// What governs a device.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointEntry {
    /// Per [`ListKind`]: index into `pc_lists` plus one; 0: no policy there.
    pub lists: [u32; LIST_KINDS],
    /// Bits of [`endpoint_flag`].
    pub flags: u32,
}

/// [`EndpointEntry::flags`].
pub mod endpoint_flag {
    /// Bound by `*`.
    pub const WILDCARD: u32 = 1 << 0;
}

/// A range of the global rule order, and where its bitmap rows lie.
///
/// A row has `1 + words` u64: a summary (bit `w`: word `w` is not zero) and the words (bit `b` of word `w`: rule
/// `rule_base + 64 w + b` matches this class). The row of class `c` starts at `*_rows + c * (1 + words)`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListEntry {
    /// First rule, index into `pc_rules`.
    pub rule_base: u32,
    /// Number of rules.
    pub rule_count: u32,
    /// 64-rule words of a row, at most [`crate::limits::MAX_WORDS_PER_LIST`].
    pub words: u32,
    /// Rows of source-address classes, index into `pc_rows`.
    pub source_rows: u32,
    /// Rows of destination-address classes.
    pub destination_rows: u32,
    /// Rows of (protocol, destination port) classes.
    pub dport_rows: u32,
    /// Rows of (protocol, source port) classes.
    pub sport_rows: u32,
    /// Always zero.
    pub spare: u32,
}

/// What the scan does when a rule matches.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RuleAction {
    /// Final: deny. The zero value, so that a torn entry is closed.
    #[default]
    Deny = 0,
    /// Final: allow, for this stage.
    Allow = 1,
    /// Record, go on with the next rule.
    Log = 2,
    /// Go on at [`RuleEntry::resume`]: Pass, the end of a tier that passes, a negated named port.
    Skip = 3,
}

/// [`RuleEntry::flags`].
pub mod rule_flag {
    /// The end of a tier, not a rule that somebody wrote.
    pub const TIER_END: u8 = 1 << 0;
    /// Its policy says `recheck`: flows that it admits are judged again in a newer epoch (D15).
    pub const RECHECK: u8 = 1 << 1;
    /// Belongs to a staged policy: counted, never decides.
    pub const STAGED: u8 = 1 << 2;
    /// A helper of the rule behind it, which it jumps over: no hit of that rule.
    pub const UNCOUNTED: u8 = 1 << 3;
    /// Its policy says `keep`: flows that it admits are never judged again (D15).
    pub const KEEP: u8 = 1 << 4;
}

/// One compiled rule.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleEntry {
    /// A [`RuleAction`].
    pub action: u8,
    /// Bits of [`rule_flag`].
    pub flags: u8,
    /// Index of the rule in its policy's list; 0xffff for the end of a tier.
    pub index: u16,
    /// Id of the policy (a table of the agent); `u32::MAX` for the end of a tier.
    pub policy: u32,
    /// For [`RuleAction::Skip`]: position **within the list** at which the scan goes on.
    pub resume: u32,
    /// Stable identity for `pc_rule_hits`: hash of list kind, tier, policy and rule. Survives generations.
    pub identity: u32,
}

/// LPM key of address maps. The prefix length counts the 32 bits of family and padding first:
/// `10.0.0.0/8` is 40 bits.
pub type AddrKey = Addr;
/// Bits before the address in an [`AddrKey`] prefix.
pub const ADDR_PREFIX_BASE: u32 = 32;

/// `pc_own_addrs` values.
pub mod own_flag {
    /// An own address.
    pub const OWN: u32 = 1 << 0;
    /// A subnet broadcast address.
    pub const BROADCAST: u32 = 1 << 1;
    /// In `nodePortAddresses`: node ports are frontends here.
    pub const NODE_PORTS: u32 = 1 << 2;
    /// In a range of pods, Services or nodes (D27).
    pub const INTERNAL: u32 = 1 << 3;
    /// A Service's own address: nobody sends from it (D27).
    pub const SERVICE: u32 = 1 << 4;
}

/// LPM key of `pc_port_class`: 8 bits protocol, 8 bits side, 16 bits port. A prefix of 16 bits stands for "this
/// protocol, no port rule matches".
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    /// 0: destination port (for ICMP: type << 8 | code), 1: source port.
    pub side: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Network order.
    pub port_be: [u8; 2],
}

/// [`PortKey::side`] of destination ports and ICMP types.
pub const SIDE_DESTINATION: u8 = 0;
/// [`PortKey::side`] of source ports.
pub const SIDE_SOURCE: u8 = 1;

/// LPM key of `pc_frontends`: always a full prefix (192 bits).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FrontendKey {
    /// Where the client dials.
    pub addr: Addr,
    /// Network order.
    pub port_be: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}

/// `pc_frontends` values.
pub mod frontend_flag {
    /// A frontend: treated as forwarded.
    pub const SERVICE: u32 = 1 << 0;
    /// All its endpoints are own addresses: treated as local, and suspends no failsafe (D1, D3).
    pub const LOCAL: u32 = 1 << 1;
}

/// LPM key of `pc_failsafes`: 32 bits for direction, protocol and port, then the address with its family.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FailsafeKey {
    /// 0: inbound, 1: outbound.
    pub direction: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Network order.
    pub port_be: [u8; 2],
    /// Inbound: source; outbound: destination. A failsafe without CIDR has a prefix of 32 bits.
    pub addr: Addr,
}

/// [`FailsafeKey::direction`] of inbound failsafes.
pub const FAILSAFE_INBOUND: u8 = 0;
/// [`FailsafeKey::direction`] of outbound failsafes.
pub const FAILSAFE_OUTBOUND: u8 = 1;

/// LPM key of `pc_infra` (D39): always a full prefix. The tunnel's peer, protocol and, for UDP, port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InfraKey {
    /// InternalIP of another Node.
    pub peer: Addr,
    /// Outer UDP destination port, network order; 0 for other protocols.
    pub port_be: [u8; 2],
    /// Outer IP protocol.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}

/// Packets and bytes, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

/// Hits of a rule, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleHits {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
    /// Kernel clock of the last of them, ns: the latest CPU's counts.
    pub last_seen_ns: u64,
}

/// What happens to flow tables, entries of `pc_flow_events` (D18): per CPU, a u64 each.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FlowEvent {
    /// A flow that a reply confirmed found the confirmed table full, and stays where it is.
    ConfirmedFull = 0,
    /// An unconfirmed flow made room for another.
    UnconfirmedGone = 1,
    /// An unconfirmed flow of a failsafe made room for another.
    FailsafeGone = 2,
    /// A new flow found no room at all: its packet passed, its answer may be refused.
    NotRecorded = 3,
    /// A record of a fragmented datagram made room for another (D36).
    FragmentGone = 4,
}

impl FlowEvent {
    /// Every event, by number.
    pub const ALL: [Self; 5] = [
        Self::ConfirmedFull,
        Self::UnconfirmedGone,
        Self::FailsafeGone,
        Self::NotRecorded,
        Self::FragmentGone,
    ];
    /// As metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfirmedFull => "confirmed_full",
            Self::UnconfirmedGone => "unconfirmed_evicted",
            Self::FailsafeGone => "failsafe_evicted",
            Self::NotRecorded => "not_recorded",
            Self::FragmentGone => "fragment_evicted",
        }
    }
}

/// Key of `pc_ethertypes` (D20): packets that are not IP, on governed devices.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EthertypeKey {
    /// Host order, behind tags of VID 0; below 0x600: an 802.2 frame.
    pub ethertype: u16,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`Verdict`].
    pub verdict: u8,
}

/// Hooks, and bits of a flow's admission.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Hook {
    /// TC ingress.
    #[default]
    Ingress = 0,
    /// TC egress.
    Egress = 1,
}

impl Hook {
    /// As events and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
    /// This hook's bit.
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Stands for a [`Hook`] where packets are counted and told: XDP judges no packet, it drops before TC ingress what that
/// would deny by the untracked list (D10).
pub const HOOK_XDP: u8 = 2;

/// Name of a [`Hook`], or of [`HOOK_XDP`], by the number in an event.
pub const fn hook_name(number: u8) -> &'static str {
    match number {
        0 => Hook::Ingress.name(),
        1 => Hook::Egress.name(),
        HOOK_XDP => "xdp",
        _ => "?",
    }
}

/// Entries of `pc_counters`: per hook, and for XDP, the three verdicts, and what was denied but spared.
pub const COUNTERS: u32 = 3 * COUNTER_CLASSES * 128;
const COUNTER_CLASSES: u32 = 4;

/// Index into `pc_counters`: hook, verdict and reason.
#[inline(always)]
pub const fn counter_index(hook: Hook, verdict: Verdict, reason: Reason) -> u32 {
    (hook as u32 * COUNTER_CLASSES + verdict as u32) * 128 + (reason as u32 & 127)
}

/// Index into `pc_counters` of packets that XDP dropped.
#[inline(always)]
pub const fn xdp_index(reason: Reason) -> u32 {
    (HOOK_XDP as u32 * COUNTER_CLASSES + Verdict::Deny as u32) * 128 + (reason as u32 & 127)
}

/// Index into `pc_counters` of packets that were denied and passed all the same ([`Control::spares`]).
#[inline(always)]
pub const fn spared_index(hook: Hook, reason: Reason) -> u32 {
    (hook as u32 * COUNTER_CLASSES + COUNTER_CLASSES - 1) * 128 + (reason as u32 & 127)
}

/// Key of `pc_rule_hits`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleCounterKey {
    /// [`RuleEntry::identity`].
    pub identity: u32,
    /// ifindex of the device.
    pub device: u32,
}

/// A sampled event.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Kernel clock, ns.
    pub time_ns: u64,
    /// Generation that judged.
    pub generation: u64,
    /// The packet.
    pub packet: Packet,
    /// Its end.
    pub decision: Decision,
    /// ifindex.
    pub device: u32,
    /// Events that this CPU left out since its last one.
    pub lost: u32,
    /// A [`Hook`], or [`HOOK_XDP`].
    pub hook: u8,
    /// 1: a Log rule, not a verdict.
    pub log: u8,
    /// 1: denied, and passed all the same ([`Control::spares`]).
    pub spared: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

/// What is known of the packet in work. In memory, not in registers: the verifier then has one state per step.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Clock at the packet's start, ns.
    pub now_ns: u64,
    /// Number of the generation that judges.
    pub generation: u64,
    /// [`Settings::flags`].
    pub settings: u32,
    /// Policy epoch.
    pub epoch: u32,
    /// ifindex.
    pub device: u32,
    /// [`DeviceEntry::flags`].
    pub device_flags: u32,
    /// [`DeviceEntry::endpoint`]: 0, not governed.
    pub endpoint: u32,
    /// [`own_flag`] bits of the source.
    pub source_own: u32,
    /// [`own_flag`] bits of the destination.
    pub destination_own: u32,
    /// Class of the source address.
    pub source_class: u32,
    /// Class of the destination address.
    pub destination_class: u32,
    /// Class of (protocol, destination port).
    pub dport_class: u32,
    /// Class of (protocol, source port).
    pub sport_class: u32,
    /// 1: the classes were looked up.
    pub classified: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// 1: sent by a local process (D4).
    pub locally_sent: u8,
    /// 1: came in through a device, seen at egress.
    pub from_device: u8,
    /// 1: grace: anything may begin a flow (D17).
    pub grace: u8,
    /// 1: this packet may have a flow, `key` is its key.
    pub keyed: u8,
    /// 1: the flow found is that of the packet quoted in an ICMP error (D37).
    pub related: u8,
    /// Table of the flow found plus one; 0: none.
    pub found: u8,
    /// 1: the packet goes in the flow's original direction.
    pub original: u8,
    /// 1: may begin a flow.
    pub may_begin: u8,
    /// 1: leaves the flow table alone.
    pub no_record: u8,
    /// 1: the flow is judged again in the packet's direction; 2: against it (D15).
    pub recheck: u8,
    /// [`RuleEntry::flags`] of the rule that decided.
    pub rule_flags: u8,
    /// `hook` of the packet while `recheck` borrows the field.
    pub saved_hook: u8,
    /// `from_device` of the packet while `recheck` borrows the field.
    pub saved_from_device: u8,
    /// TCP flags of the packet while `recheck` borrows the field.
    pub saved_tcp_flags: u8,
    /// ICMP type of the packet while `recheck` borrows the field.
    pub saved_icmp_type: u8,
    /// 1: the flow took the packet for a reply, while `recheck` runs.
    pub saved_is_reply: u8,
    /// 1: the datagram of this fragment has a record.
    pub fragment_known: u8,
    /// Always zero.
    pub pad: u8,
    /// [`RuleEntry::identity`] of the rule that decided.
    pub rule_identity: u32,
    /// `endpoint` of the packet while `recheck` borrows the field.
    pub saved_endpoint: u32,
    /// `device_flags` of the packet while `recheck` borrows the field.
    pub saved_device_flags: u32,
    /// Always zero.
    pub spare: u32,
}

/// Per-CPU working memory: the BPF stack has 512 bytes only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scratch {
    /// The packet in work.
    pub packet: Packet,
    /// After the program ended: its decision.
    pub decision: Decision,
    /// What is known of it.
    pub facts: Facts,
    /// Its flow's key.
    pub key: crate::flow::FlowKey,
    /// Its flow.
    pub flow: crate::flow::FlowEntry,
    /// Its datagram's key, if it is a fragment.
    pub fragment_key: crate::flow::FragmentKey,
    /// Its datagram's record.
    pub fragment: crate::flow::FragmentEntry,
    /// Event rate limit: second of the kernel clock.
    pub event_second: u64,
    /// Events in that second.
    pub event_count: u32,
    /// Events left out since the last.
    pub event_lost: u32,
    /// 1: what is denied passes ([`Control::spares`]).
    pub spares: u32,
    /// Bytes in front of the network header.
    pub link_layer: u32,
    /// A [`quiet`] state.
    pub quiet: u32,
    /// Always zero.
    pub spare: u32,
}

/// [`Scratch::quiet`]: TC scans again what XDP lets pass, so XDP's own scan must count nothing (D10).
pub mod quiet {
    /// Rules that match without ending a scan are counted and told.
    pub const OFF: u32 = 0;
    /// They are not.
    pub const ON: u32 = 1;
    /// They are not, and there was one.
    pub const MISSED: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Control = Control {
        active: 2,
        epoch: 7,
        clock_offset_ns: 0,
        grace_until_ns: 0,
        confirm_until_ns: 100,
        fallback: 1,
        flags: 0,
        suspend_until_ns: 0,
        trial: 9,
        spare: [0; 3],
    };

    #[test]
    fn the_generation_before_is_in_force_from_the_deadline_on() {
        assert_eq!(TRIAL.in_force(99), (2, 7));
        assert_eq!(TRIAL.in_force(100), (1, 8));
        assert_eq!(Control { confirm_until_ns: 0, ..TRIAL }.in_force(100), (2, 7));
        // Without a generation to go back to, the one that is there stays: never nothing.
        assert_eq!(Control { fallback: 0, ..TRIAL }.in_force(100), (2, 7));
    }

    #[test]
    fn a_suspension_ends_by_itself_and_audit_does_not() {
        let suspended = Control { suspend_until_ns: 50, ..TRIAL };
        assert!(suspended.spares(49) && !suspended.spares(50) && !TRIAL.spares(0));
        assert!(Control { flags: control_flag::AUDIT, ..TRIAL }.spares(u64::MAX));
    }

    #[test]
    fn spared_packets_have_counters_of_their_own() {
        let mut seen = [false; COUNTERS as usize];
        let mut mark = |index: u32| {
            assert!(!core::mem::replace(&mut seen[index as usize], true), "{index} twice");
        };
        for reason in Reason::ALL {
            mark(xdp_index(*reason));
        }
        for hook in [Hook::Ingress, Hook::Egress] {
            for reason in Reason::ALL {
                for verdict in [Verdict::Ungoverned, Verdict::Allow, Verdict::Deny] {
                    mark(counter_index(hook, verdict, *reason));
                }
                mark(spared_index(hook, *reason));
            }
        }
    }
}
