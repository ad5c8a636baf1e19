//! The small texts of rules: networks, ports, protocols.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::fields::{At, Context};
use crate::policy::{Port, PortRange, Protocol};

/// Where it is explained, as `lint` tells it.
const HOST_BITS_PAGE: &str = "[L05, docs/lint/L05.md]";
/// Longest name of a port (§1.3).
pub(crate) const MAX_PORT_NAME_CHARS: usize = 128;

/// The protocols that have names, as they must be written.
pub(crate) const PROTOCOLS: [(&str, Protocol); 6] =
    [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];
/// Those that have ports in rules and endpoints (§1.3).
pub(crate) const PORT_PROTOCOLS: [(&str, Protocol); 3] = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];

impl At<'_> {
    /// A network. Host bits are masked with a warning (D12), and so is a bare address, unless `bare` says that it is
    /// usual here.
    pub(crate) fn net(&self, ctx: &mut Context, bare: Bare) -> Option<IpNet> {
        let text = self.string(ctx)?;
        if let Some(end) = text.find(char::is_whitespace) {
            let (net, rest) = (&text[..end], text[end..].trim());
            self.error(
                ctx,
                format!("only a network may stand here; put a # before the comment: `{net} # {rest}`"),
            );
            return None;
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let net = IpNet::from(address);
            if bare == Bare::Warn {
                self.warn(ctx, format!("one address; read as {net} {HOST_BITS_PAGE}"));
            }
            return self.not_mapped(ctx, net);
        }
        match parse_net(text) {
            Some(net) => {
                if net != net.trunc() {
                    self.warn(
                        ctx,
                        format!("has bits behind the prefix; read as {} {HOST_BITS_PAGE}", net.trunc()),
                    );
                }
                self.not_mapped(ctx, net).map(|net| net.trunc())
            }
            None => {
                self.error(ctx, "no network; write address/prefix length, such as 10.0.0.0/8 or fd00::/8");
                None
            }
        }
    }

    fn not_mapped(&self, ctx: &mut Context, net: IpNet) -> Option<IpNet> {
        match net {
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
                self.error(
                    ctx,
                    "an IPv4 network in IPv6 clothes, which no packet has; write the IPv4 network",
                );
                None
            }
            _ => Some(net),
        }
    }

    /// `TCP`, `6` or `"6"` (§1.2).
    pub(crate) fn protocol(&self, ctx: &mut Context) -> Option<Protocol> {
        let number = match self.value {
            // Neither a sign nor leading zeros: what looks like another notation is none of ours.
            Value::String(text) if !text.starts_with(['+', '0']) => match text.parse::<u64>() {
                Ok(number) => Some(number),
                Err(_) => return self.choice(ctx, &PROTOCOLS),
            },
            other => other.as_u64(),
        };
        let found = number.and_then(|number| Protocol::try_from(number).ok()).filter(|number| *number > 0);
        if found.is_none() {
            self.error(ctx, "expected TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255");
        }
        found
    }

    /// `80`, `"80"`, `"8000:8080"`.
    pub(crate) fn port_range(&self, ctx: &mut Context) -> Option<PortRange> {
        match self.rule_port(ctx)? {
            Port::Range(range) => Some(range),
            Port::Named(_) => {
                self.error(ctx, "expected a port number or a range such as \"30000:32767\"");
                None
            }
        }
    }

    /// An entry of `ports`: as [`Self::port_range`], or the name of a port.
    pub(crate) fn rule_port(&self, ctx: &mut Context) -> Option<Port> {
        if self.value.is_number() {
            let port = self.port(ctx, 1)?;
            return Some(Port::Range(PortRange { first: port, last: port }));
        }
        let text = self.string(ctx)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if let Some((first, last)) = text.split_once(':') {
            return self.range_between(ctx, first, last);
        }
        if is_number(text) {
            return self.range_between(ctx, text, text);
        }
        let is_name_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > MAX_PORT_NAME_CHARS || !text.bytes().all(is_name_char) {
            self.error(ctx, "expected a port number, a range such as \"8000:8080\", or the name of a port");
            return None;
        }
        if let Some((first, last)) = text.split_once('-').filter(|(a, b)| is_number(a) && is_number(b)) {
            self.warn(ctx, format!("read as the name of a port; for a range write \"{first}:{last}\""));
        }
        Some(Port::Named(text.to_owned()))
    }

    fn range_between(&self, ctx: &mut Context, first: &str, last: &str) -> Option<Port> {
        // `parse` would take a sign.
        let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
        let number = |text| Some(text).filter(digits)?.parse::<u16>().ok().filter(|port| *port > 0);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(Port::Range(PortRange { first, last })),
            (Some(first), Some(last)) => {
                self.error(ctx, format!("the range runs backwards; write \"{last}:{first}\""));
                None
            }
            _ => {
                self.error(ctx, "port numbers are 1 to 65535; a range is written \"8000:8080\"");
                None
            }
        }
    }
}

/// `IpNet` alone would read 010.0.0.0/8 as 10.0.0.0/8, where others read 8.0.0.0/8.
fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.len() > 1 && length.starts_with('0') {
        return None;
    }
    IpNet::new(address.parse().ok()?, Some(length).filter(|l| !l.starts_with('+'))?.parse().ok()?).ok()
}

/// Whether a bare address among networks deserves a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    Warn,
    /// Calico accepts them in network sets.
    Usual,
}
