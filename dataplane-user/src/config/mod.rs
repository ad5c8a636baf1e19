//! The agent's settings: one YAML file, every field optional. Read strictly: what is unknown or unreadable refuses the
//! file, with every finding at once, and an agent never starts on half of it.

mod reference;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::loader::attach::Mechanism;
use crate::loader::pins::default_pin_dir;
use crate::loader::xdp::Mode;
use crate::policy::defaults::node_port_networks;
use crate::policy::{OnPolicyChange, Problem, Settings};
use crate::resource::documents_from_str;
use crate::resource::fields::{At, Context, Fields};
use crate::resource::scalar::Bare;

pub use reference::{SETTINGS, Setting, example, reference_page};

/// Where the packages put it, and where `run` looks when no file is named.
pub const DEFAULT_CONFIG: &str = "/etc/portcullis/config.yaml";
/// The folder that is watched when none is named.
pub const DEFAULT_POLICIES: &str = "/etc/portcullis/policies";
/// Where the agent keeps its last good state, for the next boot, and what `status` reads.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/portcullis";
/// Where metrics and health are asked for when nothing else is said. Beyond the ports of Prometheus exporters and of
/// Kubernetes, below those that kernels and node ports take.
pub const DEFAULT_HTTP_PORT: u16 = 10187;
/// Longest grace (D17): for as long as it lasts, mid-flow packets may begin flows.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// Most networks of `nodePortAddresses`.
const MAX_NODE_PORT_NETS: usize = 256;

/// Where metrics and health are answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `None`: nowhere.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: Some(Ipv4Addr::LOCALHOST.into()), port: DEFAULT_HTTP_PORT }
    }
}

/// What the agent is told. [`Config::default`] is what an empty file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `None`: the hostname.
    pub node: Option<String>,
    pub policies: PathBuf,
    /// Take policies from the Kubernetes API instead of the folder.
    pub kubernetes: bool,
    /// `None`: as `kubectl` finds it, else the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    pub pin_dir: PathBuf,
    /// `None`: found from the pin dir.
    pub bpffs: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// `None`: the best that the kernel has.
    pub attach: Option<Mechanism>,
    /// How untracked policy drops early (D10).
    pub xdp: Mode,
    pub http: Listen,
    pub settings: Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            policies: DEFAULT_POLICIES.into(),
            kubernetes: false,
            kubeconfig: None,
            pin_dir: default_pin_dir(),
            bpffs: None,
            state_dir: DEFAULT_STATE_DIR.into(),
            attach: None,
            xdp: Mode::default(),
            http: Listen::default(),
            settings: Settings::default(),
        }
    }
}

/// Settings, or why there are none; with warnings either way.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// `None` when a problem is an error.
    pub config: Option<Config>,
    pub problems: Vec<Problem>,
}

/// Reads a file.
pub fn read_file(path: &Path) -> std::io::Result<Reading> {
    Ok(read_str(&path.display().to_string(), &std::fs::read_to_string(path)?))
}

/// Reads a text; `file` is what messages call it.
pub fn read_str(file: &str, text: &str) -> Reading {
    let (documents, unreadable) = documents_from_str(file, text);
    let mut ctx = Context { file: file.to_owned(), line: 1, problems: unreadable, ..Context::default() };
    let mut config = Config::default();
    match documents.as_slice() {
        // Nothing but comments: all defaults.
        [] => {}
        [document] if document.unreadable.is_some() => {}
        [document] => {
            ctx.line = document.line;
            let at = At { path: String::new(), value: &document.value };
            if let Some(fields) = at.fields(&mut ctx) {
                read(&mut ctx, fields, &mut config);
            }
        }
        [_, second, ..] => {
            ctx.line = second.line;
            ctx.error("", "a second document; settings are one document: remove the line `---`");
        }
    }
    let config = (!ctx.has_errors()).then_some(config);
    Reading { config, problems: ctx.problems }
}

fn read(ctx: &mut Context, mut fields: Fields<'_>, config: &mut Config) {
    if let Some(at) = fields.get("node") {
        config.node = at.text(ctx).and_then(|name| node_name(ctx, &at, name));
    }
    let mut path = |ctx: &mut Context, key: &'static str, to: &mut PathBuf| {
        if let Some(found) = fields.get(key).and_then(|at| absolute(ctx, &at)) {
            *to = found;
        }
    };
    path(ctx, "policies", &mut config.policies);
    path(ctx, "pinDir", &mut config.pin_dir);
    path(ctx, "stateDir", &mut config.state_dir);
    config.kubeconfig = fields.get("kubeconfig").and_then(|at| absolute(ctx, &at));
    config.bpffs = fields.get("bpffs").and_then(|at| absolute(ctx, &at));
    if let Some(at) = fields.get("attach") {
        let choices = [("auto", None), ("tcx", Some(Mechanism::Tcx)), ("clsact", Some(Mechanism::Clsact))];
        config.attach = at.choice(ctx, &choices).flatten();
    }
    if let Some(at) = fields.get("xdp") {
        let choices = [("generic", Mode::Generic), ("native", Mode::Native), ("off", Mode::Off)];
        config.xdp = at.choice(ctx, &choices).unwrap_or_default();
    }
    if let Some(at) = fields.get("httpAddress") {
        config.http.address = http_address(ctx, &at);
    }
    if let Some(port) = fields.get("httpPort").and_then(|at| at.port(ctx, 1)) {
        config.http.port = port;
    }
    let settings = &mut config.settings;
    if let Some(at) = fields.get("onPolicyChange") {
        let choices = [("keep", OnPolicyChange::Keep), ("recheck", OnPolicyChange::Recheck)];
        settings.on_policy_change = at.choice(ctx, &choices).unwrap_or_default();
    }
    if let Some(seconds) = fields.get("grace").and_then(|at| grace(ctx, &at)) {
        settings.grace_seconds = seconds;
    }
    if let Some(at) = fields.get("nodePortAddresses") {
        let items = at.criterion_list(ctx, MAX_NODE_PORT_NETS);
        let nets = items.iter().filter_map(|item| item.net(ctx, Bare::Usual)).collect();
        settings.node_port_addresses = node_port_networks(nets);
    }
    let mut flag = |ctx: &mut Context, key: &'static str, to: &mut bool| {
        if let Some(found) = fields.get(key).and_then(|at| at.bool(ctx)) {
            *to = found;
        }
    };
    flag(ctx, "kubernetes", &mut config.kubernetes);
    flag(ctx, "infraTunnels", &mut settings.infra_tunnels);
    flag(ctx, "governLoopback", &mut settings.govern_loopback);
    fields.finish_with(ctx, advice);
}

/// Fields that people look for here and that stand elsewhere.
fn advice(key: &str) -> Option<String> {
    let text = match key {
        "apiVersion" | "kind" | "metadata" | "spec" => {
            "this file is no Kubernetes object: write the settings at its top level; policies go into the policies folder"
        }
        "nodeName" | "hostname" => "did you mean `node`?",
        "failsafeInboundHostPorts"
        | "failsafeOutboundHostPorts"
        | "interfacePrefix"
        | "kubeNodePortRanges" => "this belongs into a FelixConfiguration in the policies folder",
        _ => return None,
    };
    Some(text.to_owned())
}

/// As Kubernetes names nodes, because `spec.node` of a HostEndpoint is compared with it byte by byte.
fn node_name(ctx: &mut Context, at: &At<'_>, name: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() <= 253 && name.chars().all(good) && edge(name.chars().next()) && edge(name.chars().last()) {
        return Some(name.to_owned());
    }
    at.error(
        ctx,
        "no node name: lower case letters, digits, `-` and `.`, at most 253, a letter or digit at both ends; write the \
         name that `spec.node` of this node's HostEndpoints has",
    );
    None
}

/// A service has no folder of its own that a path could begin in.
fn absolute(ctx: &mut Context, at: &At<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(at.text(ctx)?);
    if path.is_absolute() {
        return Some(path);
    }
    at.error(ctx, "a path that does not begin with `/`; write the whole path");
    None
}

fn http_address(ctx: &mut Context, at: &At<'_>) -> Option<IpAddr> {
    let found = at.text(ctx).map(listen_address)?;
    if let Err(why) = &found {
        at.error(ctx, why.clone());
    }
    found.ok().flatten()
}

/// `off`, or an address of this node.
pub fn listen_address(text: &str) -> Result<Option<IpAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let found = text.parse().map(Some);
    found.map_err(|_| {
        "expected an IP address, or `off`; write `127.0.0.1`, an address of this node, `::` for all of them; the port \
         has a setting of its own"
            .to_owned()
    })
}

fn grace(ctx: &mut Context, at: &At<'_>) -> Option<u32> {
    if at.value.is_number() {
        at.error(ctx, format!("a number without its unit; write `{}s`", at.value));
        return None;
    }
    let text = at.string(ctx)?;
    let found = humantime::parse_duration(text).ok().filter(|d| *d <= MAX_GRACE && d.subsec_nanos() == 0);
    if found.is_none() {
        at.error(ctx, "expected whole seconds up to one hour, with their unit; write `60s`, `2m` or `0s`");
    }
    found.and_then(|d| u32::try_from(d.as_secs()).ok())
}

#[cfg(test)]
mod tests;
