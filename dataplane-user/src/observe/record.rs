//! One event as a JSON line, or as a line for people. What is written is read back.

use std::net::IpAddr;

use dataplane_common::abi::{Event, hook_name};
use dataplane_common::packet::{FragmentPart, Packet, flag, protocol, tcp};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::RuleLabel;
use crate::state::API_VERSION;

/// The verdict of a packet that was denied and passed all the same.
pub const WOULD_DENY: &str = "WouldDeny";

/// A line of `observe -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Line {
    /// A packet that was refused, or that met a `Log` rule.
    Event(Box<EventRecord>),
    /// Events that nobody will see.
    Lost(LostRecord),
    /// The last line of what was kept: how complete it is.
    Summary(Summary),
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The end of a packet.
    Verdict,
    /// A `Log` rule matched; the judgement went on.
    Log,
}

/// One event. Absent fields are unknown, or have no meaning for this packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    pub api_version: String,
    /// When the packet was judged.
    pub time: Timestamp,
    pub event: EventKind,
    /// `Deny`; `WouldDeny`: denied, and passed all the same (audit, suspension). Absent for a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    pub stage: String,
    /// Absent for a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub hook: String,
    pub device: String,
    pub ifindex: u32,
    /// Generation that judged.
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// `GlobalNetworkPolicy/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Index of the rule in its policy's list; absent at the end of a tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// `TCP`, or a number.
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// `SYN,ACK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// `first` or `later`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<String>,
    /// Bytes from the network header on.
    pub length: u32,
    /// Events that this CPU left out before this one: over its rate, or the ring was full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_before: u32,
}

/// Events that did not come through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostRecord {
    pub lost: u64,
    pub why: String,
}

/// How complete a listing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Events that could be shown, before any filter.
    pub kept: u64,
    /// Older events that made room for newer ones.
    pub forgotten: u64,
    /// Events that the kernel side left out: over the rate, or the ring was full.
    pub lost: u64,
    /// Where they came from.
    pub from: String,
}

/// What became of the packet, in the words of `status`.
fn verdict(event: &Event) -> &'static str {
    if event.spared != 0 { WOULD_DENY } else { event.decision.verdict.name() }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl EventRecord {
    /// `behind_ns`: how long ago it was; `label`: the rule at the event's position, if any.
    pub fn new(event: &Event, device: String, label: Option<RuleLabel>, time: Timestamp) -> Self {
        let packet = &event.packet;
        let is_log = event.log != 0;
        let tuple = &packet.tuple;
        let ports = packet.flags & flag::PORTS != 0;
        let icmp = matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6)
            && packet.fragment != FragmentPart::Later;
        let stage = match (is_log, &label) {
            (true, Some(label)) => label.stage(),
            (true, None) | (false, _) => event.decision.stage.name(),
        };
        Self {
            api_version: API_VERSION.to_owned(),
            time,
            event: if is_log { EventKind::Log } else { EventKind::Verdict },
            verdict: (!is_log).then(|| verdict(event).to_owned()),
            stage: stage.to_owned(),
            reason: (!is_log).then(|| event.decision.reason.name().to_owned()),
            hook: hook_name(event.hook).to_owned(),
            device,
            ifindex: event.device,
            generation: event.generation,
            tier: label.as_ref().map(|l| l.tier.clone()),
            policy: label.as_ref().and_then(|l| l.policy.clone()),
            rule: label.as_ref().and_then(|l| l.index),
            source: tuple.src.to_ip(),
            destination: tuple.dst.to_ip(),
            protocol: protocol_name(tuple.protocol),
            source_port: ports.then_some(tuple.sport),
            destination_port: ports.then_some(tuple.dport),
            icmp_type: icmp.then_some(packet.icmp_type),
            icmp_code: icmp.then_some(packet.icmp_code),
            tcp_flags: (ports && tuple.protocol == protocol::TCP).then(|| flag_names(packet.tcp_flags)),
            fragment: fragment(packet),
            length: packet.len,
            lost_before: event.lost,
        }
    }

    /// One line for people.
    pub fn compact(&self) -> String {
        let time = self.time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let end = |ip: Option<IpAddr>, port: Option<u16>| match (ip, port) {
            (Some(ip @ IpAddr::V6(_)), Some(port)) => format!("[{ip}]:{port}"),
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (Some(ip), None) => ip.to_string(),
            (None, _) => "-".to_owned(),
        };
        let what = self.verdict.as_deref().map_or_else(|| "Log".to_owned(), |v| v.to_owned());
        let why = match &self.reason {
            Some(reason) => format!("{}/{reason}", self.stage),
            None => self.stage.clone(),
        };
        let mut out = format!(
            "{time} {what:<9} {why:<22} {} {} {} {} -> {}",
            self.device,
            self.hook,
            self.protocol,
            end(self.source, self.source_port),
            end(self.destination, self.destination_port),
        );
        if let Some(kind) = self.icmp_type {
            out += &format!(" type {kind} code {}", self.icmp_code.unwrap_or(0));
        }
        for extra in [&self.tcp_flags, &self.fragment].into_iter().flatten() {
            out += &format!(" [{extra}]");
        }
        match (&self.policy, &self.tier) {
            (Some(policy), _) => {
                let rule = self.rule.map_or_else(String::new, |r| format!(" rule {r}"));
                out += &format!(" by {policy}{rule}");
            }
            (None, Some(tier)) => out += &format!(" by the end of tier {tier}"),
            (None, None) => {}
        }
        out + &format!(" gen {}", self.generation)
    }
}

/// As policies write it; others by number.
pub fn protocol_name(number: u8) -> String {
    let known = match number {
        protocol::ICMP => "ICMP",
        protocol::IGMP => "IGMP",
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::ICMPV6 => "ICMPv6",
        protocol::SCTP => "SCTP",
        protocol::UDPLITE => "UDPLite",
        other => return other.to_string(),
    };
    known.to_owned()
}

fn flag_names(bits: u8) -> String {
    let all = [
        (tcp::SYN, "SYN"),
        (tcp::FIN, "FIN"),
        (tcp::RST, "RST"),
        (tcp::PSH, "PSH"),
        (tcp::ACK, "ACK"),
        (tcp::URG, "URG"),
    ];
    let set: Vec<&str> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    set.join(",")
}

fn fragment(packet: &Packet) -> Option<String> {
    match packet.fragment {
        FragmentPart::Whole => None,
        FragmentPart::First => Some("first".to_owned()),
        FragmentPart::Later => Some("later".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use dataplane_common::abi::ListKind;
    use dataplane_common::addr::Addr;
    use dataplane_common::packet::Tuple;
    use dataplane_common::verdict::{Decision, Reason, Stage, Verdict};

    use super::*;

    pub(crate) fn event() -> Event {
        let tuple = Tuple {
            src: Addr::v4([203, 0, 113, 7]),
            dst: Addr::v4([10, 240, 0, 11]),
            sport: 40000,
            dport: 31852,
            protocol: protocol::TCP,
            pad: [0; 3],
        };
        let packet = Packet { tuple, flags: flag::PORTS, tcp_flags: tcp::SYN, len: 60, ..Packet::default() };
        let decision = Decision { rule: 3, ..Decision::new(Verdict::Deny, Stage::PreDnat, Reason::RuleDeny) };
        Event { packet, decision, generation: 4, device: 7, ..Event::default() }
    }

    pub(crate) fn label() -> RuleLabel {
        RuleLabel {
            list: ListKind::PreDnat,
            tier: "default".into(),
            policy: Some("GlobalNetworkPolicy/drop-nodeports".into()),
            index: Some(0),
        }
    }

    pub(crate) fn record() -> EventRecord {
        let time = "2026-01-02T03:04:05.678Z".parse().unwrap();
        EventRecord::new(&event(), "eth0".into(), Some(label()), time)
    }

    #[test]
    fn a_line_for_people_names_everything() {
        assert_eq!(
            record().compact(),
            "2026-01-02T03:04:05.678Z Deny      preDNAT/rule_deny      eth0 ingress TCP 203.0.113.7:40000 -> \
             10.240.0.11:31852 [SYN] by GlobalNetworkPolicy/drop-nodeports rule 0 gen 4"
        );
    }

    #[test]
    fn a_packet_that_passed_is_not_called_denied() {
        let event = Event { spared: 1, ..event() };
        let record = EventRecord::new(&event, "eth0".into(), Some(label()), Timestamp::UNIX_EPOCH);
        assert_eq!((record.verdict.as_deref(), record.event), (Some("WouldDeny"), EventKind::Verdict));
        assert_eq!(record.reason.as_deref(), Some("rule_deny"), "why it would have been");
        assert!(record.compact().contains("Z WouldDeny preDNAT/rule_deny "), "{}", record.compact());
    }

    #[test]
    fn a_log_is_no_verdict_and_has_the_stage_of_its_rule() {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        // The decision of a packet in work says nothing yet.
        let event = Event { log: 1, decision: Decision { rule: 3, ..Decision::default() }, ..event() };
        let record = EventRecord::new(&event, "eth0".into(), Some(label()), time);
        assert_eq!((record.verdict.as_deref(), record.reason.as_deref()), (None, None));
        assert_eq!((record.event, record.stage.as_str()), (EventKind::Log, "preDNAT"));
        assert!(record.compact().contains(" Log       preDNAT "), "{}", record.compact());
    }

    #[test]
    fn json_lines_are_read_back() {
        for line in [
            Line::Event(Box::new(record())),
            Line::Lost(LostRecord { lost: 3, why: "slow".into() }),
            Line::Summary(Summary { kept: 1, ..Summary::default() }),
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }

    #[test]
    fn ports_are_shown_only_where_the_packet_has_them() {
        let mut event = event();
        event.packet.flags = 0;
        event.packet.tuple.protocol = protocol::ICMP;
        event.packet.icmp_type = 8;
        let record = EventRecord::new(&event, "eth0".into(), None, Timestamp::UNIX_EPOCH);
        assert_eq!((record.source_port, record.tcp_flags.as_deref()), (None, None));
        assert_eq!(record.icmp_type, Some(8));
        assert!(record.compact().contains("203.0.113.7 -> 10.240.0.11 type 8 code 0 gen 4"));
    }
}
