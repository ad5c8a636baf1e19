//! Which host endpoint governs which device (`semantics.md` §7, D5, D6, D47).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::policy::{Device, HepInterface, HostEndpoint, NodeView, World, defaults};

/// Calico's default `interfacePrefix`: always a pod's, whatever names it (D47).
const CALICO_PREFIX: &str = "cali";
/// Prefixes that other CNIs give to the node's end of a pod's link (D47).
const OTHER_PREFIXES: [&str; 5] = ["veth", "lxc", "eni", "gke", "azv"];
/// Calico's default `interfaceExclude`.
const EXCLUDED: &str = "kube-ipvs0";

/// A device and who governs it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceBinding {
    /// Kernel number.
    pub ifindex: u32,
    /// Name of the host endpoint, if any.
    pub endpoint: Option<String>,
    /// The loopback device.
    pub loopback: bool,
    /// D47.
    pub workload: bool,
    /// `interfaceExclude`: never governed.
    pub excluded: bool,
    /// D7.
    pub accept_ra: bool,
    /// D48.
    pub no_link_layer: bool,
    /// D27, annotation of the endpoint.
    pub anti_spoof: bool,
    /// D20, annotation of the endpoint.
    pub drop_unknown_ethertypes: bool,
}

impl DeviceBinding {
    /// Whether the programs are on this device, once a host endpoint governs anything here (D42): on all host
    /// devices, so that replies find their flow; on workload devices only where a `*` host endpoint covers them.
    pub fn carries_programs(&self) -> bool {
        self.endpoint.is_some() || !(self.loopback || self.workload || self.excluded)
    }
}

/// A host endpoint of this node that binds nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostEndpoint {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: LostReason,
}

/// Why a host endpoint binds nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LostReason {
    /// Another endpoint's name sorts first: (winner, device).
    LostTo(String, String),
    /// Its device does not exist (yet).
    NoDevice(String),
    /// None of its expectedIPs is on a device.
    NoAddress,
    /// It names a workload device (D47).
    Workload(String),
    /// It names a device that `interfaceExclude` leaves out.
    Excluded(String),
    /// It names the loopback device (D5).
    Loopback(String),
    /// `*`, and every device has an endpoint of its own or must not have one.
    NothingLeft,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostTo(winner, device) if device == "*" => {
                write!(f, "another `*` host endpoint, {winner}, sorts first by name")
            }
            Self::LostTo(winner, device) => {
                write!(f, "device {device} is governed by {winner}, whose name sorts first")
            }
            Self::NoDevice(device) => write!(f, "this node has no device {device}"),
            Self::NoAddress => write!(f, "no device of this node has one of its expectedIPs"),
            Self::Workload(device) => {
                write!(f, "device {device} belongs to a pod; host endpoints do not govern pods")
            }
            Self::Excluded(device) => write!(f, "device {device} is left out by interfaceExclude"),
            Self::Loopback(device) => {
                write!(f, "device {device} is the loopback device, which is not governed")
            }
            Self::NothingLeft => write!(f, "every device has a more specific host endpoint"),
        }
    }
}

/// All bindings of a node.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// By device name.
    pub devices: BTreeMap<String, DeviceBinding>,
    /// Endpoints of this node without a device.
    pub lost: Vec<LostEndpoint>,
}

impl Bindings {
    /// Device → endpoint.
    pub fn governed(&self) -> BTreeMap<String, String> {
        self.devices.iter().filter_map(|(n, d)| Some((n.clone(), d.endpoint.clone()?))).collect()
    }
    /// Host devices that nothing governs (D21). Workload devices are the CNI's business.
    pub fn unprotected(&self) -> BTreeSet<String> {
        let open = |d: &DeviceBinding| d.endpoint.is_none() && !d.loopback && !d.workload && !d.excluded;
        self.devices.iter().filter(|(_, d)| open(d)).map(|(n, _)| n.clone()).collect()
    }
}

/// Binds every endpoint of this node.
pub fn bind(heps: &BTreeMap<String, HostEndpoint>, world: &World, view: &NodeView) -> Bindings {
    let ours: Vec<&HostEndpoint> = heps.values().filter(|h| h.node == view.name).collect();
    let kinds = DeviceKinds::new(&ours, world, view);
    let wildcard = ours.iter().find(|h| h.interface == HepInterface::All);
    let mut bindings = Bindings::default();
    for device in view.devices.values() {
        let kind = kinds.of(device);
        // `heps` is sorted by name, so the first candidate is the winner (§7).
        let specific = ours.iter().find(|h| kind == Kind::Host && is_candidate(h, device));
        let hep = match kind {
            Kind::Host => specific.or(wildcard),
            Kind::Workload => wildcard,
            Kind::Loopback | Kind::Excluded => None,
        };
        let says = |key: &str| hep.is_some_and(|h| h.annotations.get(key).is_some_and(|v| v == "true"));
        bindings.devices.insert(
            device.name.clone(),
            DeviceBinding {
                ifindex: device.ifindex,
                endpoint: hep.map(|h| h.name.clone()),
                loopback: device.loopback,
                workload: kind == Kind::Workload,
                excluded: kind == Kind::Excluded,
                accept_ra: device.accept_ra || says("portcullis.dev/accept-ra"),
                no_link_layer: device.no_link_layer,
                // Nothing comes from outside by `lo` (D27).
                anti_spoof: says("portcullis.dev/anti-spoof") && !device.loopback,
                drop_unknown_ethertypes: says("portcullis.dev/drop-unknown-ethertypes"),
            },
        );
    }
    let winners: BTreeSet<&String> = bindings.devices.values().filter_map(|d| d.endpoint.as_ref()).collect();
    let losers = ours.iter().filter(|h| !winners.contains(&h.name));
    let lost = losers
        .map(|h| LostEndpoint {
            name: h.name.clone(),
            reason: why_lost(h, &bindings, &kinds, view, wildcard.copied()),
        })
        .collect();
    bindings.lost = lost;
    bindings
}

/// §7: by exact name, or by address when it has no interfaceName. `*` is nobody's candidate: it is the default.
fn is_candidate(hep: &HostEndpoint, device: &Device) -> bool {
    match &hep.interface {
        HepInterface::All => false,
        HepInterface::Named(name) => *name == device.name,
        HepInterface::ByAddress => device.addresses.iter().any(|a| hep.expected_ips.contains(&a.addr())),
    }
}

fn why_lost(
    hep: &HostEndpoint,
    bindings: &Bindings,
    kinds: &DeviceKinds<'_>,
    view: &NodeView,
    wildcard: Option<&HostEndpoint>,
) -> LostReason {
    if hep.interface == HepInterface::All {
        return match wildcard {
            Some(winner) if winner.name != hep.name => {
                LostReason::LostTo(winner.name.clone(), "*".to_owned())
            }
            _ => LostReason::NothingLeft,
        };
    }
    let candidate_for: Vec<&Device> = view.devices.values().filter(|d| is_candidate(hep, d)).collect();
    let Some(device) = candidate_for.first() else {
        return match &hep.interface {
            HepInterface::Named(name) => LostReason::NoDevice(name.clone()),
            HepInterface::ByAddress | HepInterface::All => LostReason::NoAddress,
        };
    };
    match kinds.of(device) {
        Kind::Workload => LostReason::Workload(device.name.clone()),
        Kind::Excluded => LostReason::Excluded(device.name.clone()),
        Kind::Loopback => LostReason::Loopback(device.name.clone()),
        Kind::Host => {
            let winner =
                bindings.devices.get(&device.name).and_then(|d| d.endpoint.clone()).unwrap_or_default();
            LostReason::LostTo(winner, device.name.clone())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Workload,
    Loopback,
    Excluded,
}

/// D47, D5 and `interfaceExclude`, decided once per node.
struct DeviceKinds<'a> {
    view: &'a NodeView,
    configured_prefixes: Vec<String>,
    excluded: Vec<Exclude>,
    named: BTreeSet<&'a str>,
}

enum Exclude {
    Name(String),
    Pattern(regex::Regex),
}

impl<'a> DeviceKinds<'a> {
    fn new(ours: &[&'a HostEndpoint], world: &World, view: &'a NodeView) -> Self {
        let named = ours.iter().filter_map(|h| match &h.interface {
            HepInterface::Named(name) => Some(name.as_str()),
            HepInterface::All | HepInterface::ByAddress => None,
        });
        let felix = defaults::felix_of(world, &view.name);
        let configured_prefixes = felix.interface_prefixes.into_iter().flatten();
        let configured_prefixes = configured_prefixes.filter(|p| !p.is_empty()).collect();
        let excluded = match felix.interface_exclude {
            Some(entries) => entries.into_iter().map(Exclude::new).collect(),
            None => vec![Exclude::Name(EXCLUDED.to_owned())],
        };
        Self { view, configured_prefixes, excluded, named: named.collect() }
    }
    fn of(&self, device: &Device) -> Kind {
        if device.loopback {
            return if self.view.settings.govern_loopback { Kind::Host } else { Kind::Loopback };
        }
        if self.excluded.iter().any(|e| e.matches(&device.name)) {
            return Kind::Excluded;
        }
        if self.is_workload(device) { Kind::Workload } else { Kind::Host }
    }
    fn is_workload(&self, device: &Device) -> bool {
        if device.pod || device.name.starts_with(CALICO_PREFIX) {
            return true;
        }
        if device.default_route || self.named.contains(device.name.as_str()) {
            return false;
        }
        let mut prefixes = self.configured_prefixes.iter().map(String::as_str).chain(OTHER_PREFIXES);
        if prefixes.any(|p| device.name.starts_with(p)) {
            return true;
        }
        // A bridge has no bridge as a port, so this ends.
        let Some(ports) = &device.bridge_ports else { return false };
        let is_workload_port = |name: &String| match self.view.devices.get(name) {
            Some(port) => port.bridge_ports.is_none() && self.is_workload(port),
            None => false,
        };
        !ports.is_empty() && ports.iter().all(is_workload_port)
    }
}

impl Exclude {
    /// `kube-ipvs0`, or `/^nm-/` as a regular expression.
    fn new(text: String) -> Self {
        let pattern = text.strip_prefix('/').and_then(|t| t.strip_suffix('/'));
        match pattern.and_then(|p| regex::Regex::new(p).ok()) {
            Some(pattern) => Self::Pattern(pattern),
            None => Self::Name(text),
        }
    }
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(n) => n == name,
            Self::Pattern(p) => p.is_match(name),
        }
    }
}
