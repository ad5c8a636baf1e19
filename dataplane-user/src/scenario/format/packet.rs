//! A packet as a scenario describes it.

use std::net::IpAddr;

use serde::Deserialize;

/// A protocol by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ProtocolText")]
pub struct ProtocolName(pub u8);

#[derive(Deserialize)]
#[serde(untagged)]
enum ProtocolText {
    Number(u16),
    Name(String),
}

impl TryFrom<ProtocolText> for ProtocolName {
    type Error = String;
    fn try_from(text: ProtocolText) -> Result<Self, String> {
        let help = "write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 0 to 255";
        match text {
            ProtocolText::Number(n) => {
                u8::try_from(n).map(Self).map_err(|_| format!("protocol {n} is no IP protocol: {help}"))
            }
            ProtocolText::Name(name) => Ok(Self(match name.as_str() {
                "TCP" => 6,
                "UDP" => 17,
                "ICMP" => 1,
                "ICMPv6" => 58,
                "SCTP" => 132,
                "UDPLite" => 136,
                other => {
                    return other
                        .parse()
                        .map(Self)
                        .map_err(|_| format!("protocol {other:?} is unknown: {help}"));
                }
            })),
        }
    }
}

/// A packet as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PacketSpec {
    #[serde(rename = "in")]
    pub ingress: Option<String>,
    #[serde(rename = "out")]
    pub egress: Option<String>,
    pub from: Option<String>,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub protocol: Option<ProtocolName>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    pub flags: Option<String>,
    pub seq: Option<u32>,
    pub ack: Option<u32>,
    pub icmp: Option<IcmpSpec>,
    pub ttl: Option<u8>,
    pub vlan: Option<Vec<u16>>,
    pub fragment: Option<FragmentSpec>,
    pub inner: Option<Box<PacketSpec>>,
    pub payload: Option<u16>,
    pub chunk: Option<Chunk>,
    pub raw: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpSpec {
    #[serde(rename = "type")]
    pub kind: u8,
    #[serde(default)]
    pub code: u8,
    pub id: Option<u16>,
}

/// `offset` counts bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FragmentSpec {
    #[serde(default)]
    pub id: u32,
    #[serde(default)]
    pub offset: u16,
    #[serde(default)]
    pub more: bool,
}

/// The first chunk of an SCTP packet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(non_camel_case_types, reason = "names of RFC 9260")]
pub enum Chunk {
    Init,
    InitAck,
    Data,
    Abort,
    CookieEcho,
}

impl PacketSpec {
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.ingress, &self.egress, &self.from) {
            (Some(_), None, None) | (None, Some(_), _) => {}
            (Some(_), None, Some(_)) => return Err("packet.from belongs to `out`: take it away".into()),
            _ => return Err("a packet is either `in: DEVICE` or `out: DEVICE`: write one of them".into()),
        }
        if self.raw.is_some() {
            let others = self.src.is_some()
                || self.dst.is_some()
                || self.protocol.is_some()
                || self.sport.is_some()
                || self.dport.is_some()
                || self.icmp.is_some()
                || self.inner.is_some()
                || self.fragment.is_some()
                || self.vlan.is_some()
                || self.flags.is_some()
                || self.payload.is_some();
            if others {
                return Err("packet.raw is the whole frame: only in, out and from may stand beside it".into());
            }
            return Ok(());
        }
        self.check_fields("packet")
    }

    fn check_fields(&self, path: &str) -> Result<(), String> {
        for (field, missing) in
            [("src", self.src.is_none()), ("dst", self.dst.is_none()), ("protocol", self.protocol.is_none())]
        {
            if missing {
                return Err(format!("{path}.{field} is missing: write it (or the whole frame as raw)"));
            }
        }
        if let (Some(src), Some(dst)) = (self.src, self.dst)
            && src.is_ipv4() != dst.is_ipv4()
        {
            return Err(format!("{path}: src {src} and dst {dst} are of different families"));
        }
        if let Some(fragment) = &self.fragment
            && !fragment.offset.is_multiple_of(8)
        {
            return Err(format!(
                "{path}.fragment.offset {} counts bytes and must be a multiple of 8",
                fragment.offset
            ));
        }
        match &self.inner {
            Some(inner) if inner.ingress.is_some() || inner.egress.is_some() || inner.raw.is_some() => {
                Err(format!("{path}.inner is a quoted packet: it has no in, out or raw"))
            }
            Some(inner) => inner.check_fields(&format!("{path}.inner")),
            None => Ok(()),
        }
    }
}
