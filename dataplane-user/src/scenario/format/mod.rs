//! The file format, read strictly: what a scenario says, before anything is built from it.

mod packet;
mod step;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

pub use self::packet::{Chunk, FragmentSpec, IcmpSpec, PacketSpec, ProtocolName};
pub use self::step::{Expect, ExpectedVerdict, OneOrMany, Step, StepAction};
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
        step::check_expect(step.value.expect.as_ref())
            .map_err(|why| (at, format!("spec.steps[{index}].expect{why}")))?;
    }
    Ok(())
}
