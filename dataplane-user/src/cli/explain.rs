//! `portcullis explain`: what would become of a packet that begins a connection, and why.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use dataplane_common::abi::Hook;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Answer;
use super::output::{policies_of, print_json, print_lines, read_documents, tell, tell_if_behind};
use super::run::{DEFAULT_STATE_DIR, hostname};
use crate::loader::link::Links;
use crate::model::Model;
use crate::policy::{NodeView, Severity, World};
use crate::resource::Store;
use crate::scenario::engine::{Engine, Outcome, PacketIn};
use crate::scenario::{format::PacketSpec, frame_of};
use crate::state::lastgood::LastGood;
use crate::state::{API_VERSION, State};

/// Say what policy does with the first packet of a connection, which rule decides, and every rule looked at.
/// Judged by the reference model, on this node's devices and addresses
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExplainArgs {
    #[command(flatten)]
    packet: PacketArgs,
    /// Folder of policies. Default: the one that the agent watches
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Name of this node. Default: that of the agent, or the hostname
    #[arg(long)]
    node: Option<String>,
    #[arg(short, long, value_enum, default_value = "text")]
    output: ExplainOutput,
}

/// The packet, as a command line describes it.
#[derive(Clone, Debug, Args)]
pub struct PacketArgs {
    /// Device that receives the packet
    #[arg(long = "in", value_name = "DEV", required_unless_present = "out", conflicts_with = "out")]
    ingress: Option<String>,
    /// Device that sends it
    #[arg(long, value_name = "DEV")]
    out: Option<String>,
    /// With --out: the device that a forwarded packet came from. Default: a local process sends it
    #[arg(long, value_name = "DEV", requires = "out")]
    pub forwarded_from: Option<String>,
    /// Source address
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// Destination address, before any DNAT
    #[arg(long, value_name = "IP")]
    to: IpAddr,
    /// tcp, udp, icmp, icmpv6, sctp, udplite, or a number
    #[arg(long, default_value = "tcp")]
    proto: String,
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    sport: u16,
}

const HELP: &str = "Examples:
  portcullis explain --in eth0 --from 203.0.113.7 --to 10.240.0.11 --dport 22
  portcullis explain --out eth0 --from 10.240.0.11 --to 192.0.2.53 --proto udp --dport 53
  portcullis explain --out eth1 --forwarded-from eth0 --from 203.0.113.7 --to 10.0.0.5 --dport 80
  portcullis explain --policies ./new --in eth0 --from 2001:db8::7 --to 2001:db8::11 --proto icmpv6

Exit codes: 0 the packet passes; 1 it is denied; 2 wrong usage, or it cannot be told.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExplainOutput {
    Text,
    Json,
}

pub fn run(args: &ExplainArgs) -> Result<Answer> {
    let mut store = Store::default();
    let policies = policies_of(args.policies.as_deref(), &args.state_dir);
    let documents = read_documents(&policies)?;
    // As the agent does: what is broken now goes on in its last good version (D13).
    if let Ok(Some(last)) = LastGood::load(&args.state_dir, &policies) {
        store.replace(last.documents());
    }
    let report = store.replace(documents);
    tell(report.problems.iter().filter(|p| p.severity == Severity::Error));
    let agent = State::load(&args.state_dir).ok();
    if args.policies.is_none() {
        tell_if_behind(agent.as_ref());
    }
    let view = view_by_agent(args.node.clone(), agent.as_ref())?;
    let explanation = args.packet.judge(store.world(), &view)?;
    match args.output {
        ExplainOutput::Text => print_lines(explanation.lines())?,
        ExplainOutput::Json => print_json(&serde_json::to_value(&explanation)?)?,
    }
    Ok(explanation.answer())
}

/// What policy does with a packet, and why: `explain -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub api_version: String,
    pub kind: String,
    /// `Allow`, `Deny` or `Ungoverned`.
    pub verdict: String,
    pub stage: String,
    pub reason: String,
    pub tier: Option<String>,
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub trace: Vec<String>,
}

impl Explanation {
    fn new(outcome: Outcome) -> Self {
        let Outcome { verdict, stage, tier, policy, rule, reason, trace } = outcome;
        let (api_version, kind) = (API_VERSION.to_owned(), "Explanation".to_owned());
        Self { api_version, kind, verdict, stage, reason, tier, policy, rule, trace }
    }

    /// No: the packet is denied.
    pub(super) fn answer(&self) -> Answer {
        if self.verdict == "Deny" { Answer::No } else { Answer::Yes }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut out = vec![format!("{} at stage {} ({})", self.verdict, self.stage, self.reason)];
        if let Some(policy) = &self.policy {
            let rule = self.rule.map_or_else(|| "its end".to_owned(), |r| format!("rule {r}"));
            let tier = self.tier.as_deref().unwrap_or("default");
            out.push(format!("decided by {policy}, {rule}, tier {tier}"));
        }
        out.extend(self.trace.iter().map(|line| format!("  {line}")));
        out
    }
}

/// This node as its agent looks at it, with the settings that it runs with; of another node's name: with the defaults.
pub fn view_by_agent(node: Option<String>, agent: Option<&State>) -> Result<NodeView> {
    let node = node.or_else(|| agent.map(|a| a.node.clone())).map_or_else(hostname, Ok)?;
    let of_agent = agent.filter(|a| a.node == node).map(|a| a.settings.to_settings());
    Ok(NodeView { settings: of_agent.unwrap_or_default(), ..live_view(&node)? })
}

/// This node's devices and addresses, under a name.
pub fn live_view(node: &str) -> Result<NodeView> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (links, _changes) = Links::connect()?;
        links.view(node).await
    })
}

impl PacketArgs {
    /// The device that is asked, and its hook.
    pub fn device(&self) -> Result<(&str, Hook)> {
        match (&self.ingress, &self.out) {
            (Some(device), _) => Ok((device, Hook::Ingress)),
            (None, Some(device)) => Ok((device, Hook::Egress)),
            (None, None) => bail!("name the device with --in or --out"),
        }
    }

    /// Judges it by the reference model.
    ///
    /// # Errors
    /// The node has no such device, or there is no such packet.
    pub fn judge(&self, world: &World, view: &NodeView) -> Result<Explanation> {
        let (device, hook) = self.device()?;
        for name in [Some(device), self.forwarded_from.as_deref()].into_iter().flatten() {
            if !view.devices.contains_key(name) {
                let known: Vec<&str> = view.devices.keys().map(String::as_str).collect();
                bail!("this node has no device {name}; it has {}", known.join(", "));
            }
        }
        let frame = frame_of(&self.spec()?).map_err(|e| anyhow!("{e}"))?;
        let mut model = Model::new();
        model.set_world(world, view)?;
        let packet = PacketIn { device: device.to_owned(), hook, from: self.forwarded_from.clone(), frame };
        Ok(Explanation::new(model.judge(&packet)?))
    }

    /// The same on another command line.
    #[cfg(feature = "kubernetes")]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--from={}", self.from), format!("--to={}", self.to)];
        words.push(format!("--proto={}", self.proto));
        words.push(format!("--sport={}", self.sport));
        let options =
            [("--in", &self.ingress), ("--out", &self.out), ("--forwarded-from", &self.forwarded_from)];
        for (option, value) in options {
            words.extend(value.iter().map(|value| format!("{option}={value}")));
        }
        words.extend(self.dport.map(|port| format!("--dport={port}")));
        words
    }

    /// As a scenario's `packet:` would say it.
    fn spec(&self) -> Result<PacketSpec> {
        if self.from.is_ipv4() != self.to.is_ipv4() {
            bail!("--from {} and --to {} are of different IP versions", self.from, self.to);
        }
        let proto = self.proto.parse::<u8>().map_or_else(|_| json!(protocol_name(&self.proto)), |n| json!(n));
        let mut spec = Map::new();
        spec.insert("src".into(), json!(self.from));
        spec.insert("dst".into(), json!(self.to));
        spec.insert("protocol".into(), proto);
        let has_ports = ["tcp", "udp", "sctp", "udplite", "6", "17", "132", "136"]
            .contains(&self.proto.to_lowercase().as_str());
        match (has_ports, self.dport) {
            (true, None) => bail!("--proto {} needs --dport", self.proto),
            (true, Some(port)) => {
                spec.insert("sport".into(), json!(self.sport));
                spec.insert("dport".into(), json!(port));
            }
            (false, Some(_)) => bail!("--proto {} has no ports: leave --dport out", self.proto),
            (false, None) => {}
        }
        serde_json::from_value(Value::Object(spec)).context("cannot describe this packet")
    }
}

/// Calico's spelling, whatever the case was.
fn protocol_name(text: &str) -> String {
    let known = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];
    known.iter().find(|k| k.eq_ignore_ascii_case(text)).map_or(text, |k| k).to_owned()
}
