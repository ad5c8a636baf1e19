//! The file format, read strictly: what a scenario says, before anything is built from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::engine::{FlowTuple, LiveFlow};

/// Version of the format.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";

/// A scenario file that cannot be read: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {message}", file.display(), if *line > 0 { format!(":{line}") } else { String::new() })]
pub struct LoadError {
    pub file: PathBuf,
    /// 1-based; 0 when unknown.
    pub line: usize,
    pub message: String,
}

/// One scenario with the file it came from.
#[derive(Debug)]
pub struct Scenario {
    pub file: PathBuf,
    pub name: String,
    pub line: usize,
    pub spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spanned<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub node: String,
    #[serde(default)]
    pub resources: Vec<PathBuf>,
    pub documents: Option<Spanned<String>>,
    #[serde(default)]
    pub interfaces: Vec<Spanned<Interface>>,
    #[serde(default)]
    pub on_policy_change: PolicyChange,
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub conntrack: Vec<Live>,
    #[serde(default)]
    pub steps: Vec<Spanned<Step>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyChange {
    #[default]
    Keep,
    Recheck,
}

/// Settings of ours that a scenario may change.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    pub node_port_addresses: Option<Vec<String>>,
    pub infra_tunnels: Option<bool>,
    pub govern_loopback: Option<bool>,
    pub grace_seconds: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interface {
    pub name: String,
    #[serde(default)]
    pub addresses: Vec<String>,
    pub vlan: Option<Vlan>,
    #[serde(default)]
    pub accept_ra: bool,
    pub workload: Option<Workload>,
    pub tunnel: Option<TunnelSpec>,
    pub link_layer: Option<LinkLayer>,
    #[serde(default)]
    pub default_route: bool,
    pub bridge_ports: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    pub parent: String,
    pub id: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSpec {
    pub kind: TunnelKind,
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    Vxlan,
    Geneve,
    Wireguard,
    Ipip,
    Sit,
    Gre,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkLayer {
    Ethernet,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    pub protocol: ProtocolName,
    pub src: IpAddr,
    #[serde(default)]
    pub sport: u16,
    pub dst: IpAddr,
    #[serde(default)]
    pub dport: u16,
    pub reply: Option<Tuple>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuple {
    pub src: IpAddr,
    #[serde(default)]
    pub sport: u16,
    pub dst: IpAddr,
    #[serde(default)]
    pub dport: u16,
}

impl Live {
    pub(crate) fn flow(&self) -> LiveFlow {
        LiveFlow {
            protocol: self.protocol.0,
            original: FlowTuple { src: self.src, sport: self.sport, dst: self.dst, dport: self.dport },
            reply: self.reply.as_ref().map(|r| FlowTuple {
                src: r.src,
                sport: r.sport,
                dst: r.dst,
                dport: r.dport,
            }),
        }
    }
}

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

/// One step as written. [`Step::action`] says which of its kinds it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    pub name: Option<String>,
    pub packet: Option<PacketSpec>,
    pub expect: Option<Expect>,
    pub apply: Option<Spanned<String>>,
    pub delete: Option<Vec<String>>,
    pub advance: Option<String>,
    pub expect_rejected: Option<OneOrMany>,
    pub expect_warnings: Option<OneOrMany>,
}

/// A string, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(s) => std::slice::from_ref(s),
            Self::Many(v) => v,
        }
    }
}

/// What a step does.
pub enum StepAction<'a> {
    Packet(&'a PacketSpec),
    Apply(&'a Spanned<String>),
    Delete(&'a [String]),
    Advance(Duration),
}

impl Step {
    /// The one thing that this step does, or why it does none.
    pub fn action(&self) -> Result<StepAction<'_>, String> {
        if self.expect.is_some() && self.packet.is_none() {
            return Err("`expect` stands without a `packet`: write what a step applies with expectRejected \
                        or expectWarnings"
                .into());
        }
        if self.apply.is_none() && (self.expect_rejected.is_some() || self.expect_warnings.is_some()) {
            return Err("expectRejected and expectWarnings belong to `apply`: add it".into());
        }
        match (&self.packet, &self.apply, &self.delete, &self.advance) {
            (Some(packet), None, None, None) => {
                packet.check()?;
                Ok(StepAction::Packet(packet))
            }
            (None, Some(text), None, None) => Ok(StepAction::Apply(text)),
            (None, None, Some(names), None) => Ok(StepAction::Delete(names)),
            (None, None, None, Some(text)) => Ok(StepAction::Advance(duration(text)?)),
            _ => Err("a step does exactly one thing: write one of packet, apply, delete, advance".into()),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: u64 =
        digits.parse().map_err(|_| format!("advance {text:?} is no duration: write 500ms, 30s, 5m or 2h"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        "d" => Ok(Duration::from_secs(number * 86_400)),
        _ => Err(format!("advance {text:?} has no known unit: write 500ms, 30s, 5m or 2h")),
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
    fn check(&self) -> Result<(), String> {
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

/// What a packet must get. Only the keys that stand there are compared.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ExpectedVerdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize)]
pub enum ExpectedVerdict {
    Allow,
    Deny,
    Ungoverned,
}

/// Whether a text holds a Scenario document.
pub fn is_scenario(text: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix("kind:").is_some_and(|rest| {
            rest.split('#').next().unwrap_or("").trim().trim_matches(['"', '\'']) == "Scenario"
        })
    })
}

/// Reads every scenario of a file.
pub fn load(file: &Path) -> Result<Vec<Scenario>, LoadError> {
    let text = std::fs::read_to_string(file).map_err(|e| LoadError {
        file: file.into(),
        line: 0,
        message: format!("cannot be read: {e}"),
    })?;
    parse(file, &text)
}

/// Reads every scenario of a text.
pub fn parse(file: &Path, text: &str) -> Result<Vec<Scenario>, LoadError> {
    let fail = |line: usize, message: String| LoadError { file: file.into(), line, message };
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).map_err(|e| {
        let line = e.location().map_or(0, |l| l.line() as usize);
        fail(line, e.to_string())
    })?;
    if documents.is_empty() {
        return Err(fail(0, "holds no document: write a Scenario".into()));
    }
    documents
        .into_iter()
        .map(|d| {
            let line = d.spec.referenced.line() as usize;
            if d.api_version != API_VERSION {
                let message = format!("apiVersion {:?} is not known: write {API_VERSION}", d.api_version);
                return Err(fail(line, message));
            }
            if d.kind != "Scenario" {
                return Err(fail(line, format!("kind {:?} is not Scenario", d.kind)));
            }
            check_spec(&d.spec.value).map_err(|(line, message)| fail(line, message))?;
            Ok(Scenario { file: file.into(), name: d.metadata.name, line, spec: d.spec.value })
        })
        .collect()
}

fn check_spec(spec: &Spec) -> Result<(), (usize, String)> {
    for (index, step) in spec.steps.iter().enumerate() {
        let at = step.referenced.line() as usize;
        step.value.action().map_err(|why| (at, format!("spec.steps[{index}]: {why}")))?;
        check_expect(step.value.expect.as_ref())
            .map_err(|why| (at, format!("spec.steps[{index}].expect{why}")))?;
    }
    Ok(())
}

fn check_expect(expect: Option<&Expect>) -> Result<(), String> {
    use dataplane_common::verdict::{Reason, Stage};
    let Some(expect) = expect else { return Ok(()) };
    if let Some(stage) = &expect.stage
        && !Stage::ALL.iter().any(|s| s.name() == stage)
    {
        let known: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        return Err(format!(".stage {stage:?} is unknown: write one of {}", known.join(", ")));
    }
    if let Some(reason) = &expect.reason
        && !Reason::ALL.iter().any(|r| r.name() == reason)
    {
        return Err(format!(".reason {reason:?} is unknown: `portcullis test -o json` shows the names"));
    }
    Ok(())
}
