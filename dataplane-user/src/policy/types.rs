//! The validated domain. Having one of these values proves that every check of `semantics.md` §1 passed:
//! no unparsed string is left that could change what a rule means. Only [`super::validate`] makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::selector::Selector;

/// Label map of an object. Sorted, so that output never depends on the order of arrival.
pub type Labels = BTreeMap<String, String>;

/// `spec.order`: a finite number, or absent (`None` in Calico), which sorts last (§3.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order(pub Option<f64>);

impl Eq for Order {}
impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // `-0.0 + 0.0` is `0.0`: both zeros tie, as they do in Calico's float comparison.
        let key = |o: &Self| o.0.map_or(f64::INFINITY, |v| v + 0.0);
        key(self).total_cmp(&key(other))
    }
}

/// Direction of policy, seen from the node: Ingress is what the device receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Which of the four list families a policy belongs to (§3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Untracked,
    PreDnat,
    /// `applyOnForward`: in the normal list **and** in the forward list.
    NormalAndForward,
    Normal,
}

/// What kind of object a policy came from. The names are part of the tie-break (D24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    GlobalNetworkPolicy,
    NetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
}

impl PolicyKind {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
        }
    }
    /// Staged policies are counted in shadow and never enforced.
    pub fn is_staged(self) -> bool {
        matches!(self, Self::StagedGlobalNetworkPolicy | Self::StagedNetworkPolicy)
    }
}

/// A valid policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub kind: PolicyKind,
    /// `None` for global kinds.
    pub namespace: Option<String>,
    /// The object's own name, without a `default.` prefix.
    pub name: String,
    pub tier: String,
    pub order: Order,
    /// Selects endpoints: `selector`, `namespaceSelector` and `serviceAccountSelector` already ANDed, with the
    /// `pcns.`/`pcsa.` prefixes (§1.1); for namespaced kinds with the namespace ANDed (§1.7).
    pub selector: Selector,
    pub family: Family,
    pub types: BTreeSet<Direction>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
    /// Annotation `portcullis.dev/on-policy-change`, D15.
    pub on_policy_change: Option<OnPolicyChange>,
}

impl Policy {
    /// Rules of one direction; empty when `types` leaves the direction out (§1.1: accepted and ignored).
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            _ if !self.types.contains(&direction) => &[],
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
    /// The tie-break string of D24: `name/namespace/kind`, compared bytewise.
    pub fn tie_break(&self) -> String {
        format!("{}/{}/{}", self.name, self.namespace.as_deref().unwrap_or(""), self.kind.as_str())
    }
}

/// D15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPolicyChange {
    #[default]
    Keep,
    Recheck,
}

/// What a rule does (§3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Records and goes on; never a verdict.
    Log,
    /// Leaves the tier.
    Pass,
}

/// A protocol match. Numbers are IP protocol numbers, 1–255.
pub type Protocol = u8;

/// ICMP type, and code where given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    pub kind: u8,
    pub code: Option<u8>,
}

/// Inclusive range of port numbers, 1–65535, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// One entry of `ports` or `notPorts`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    Range(PortRange),
    Named(String),
}

/// IP version a rule is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    V4,
    V6,
}

/// A valid rule. Every present criterion is ANDed (§6).
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub action: Action,
    /// As written, or as the protocol forces it (ICMP → 4, ICMPv6 → 6).
    pub ip_version: Option<IpVersion>,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<Icmp>,
    pub not_icmp: Option<Icmp>,
    pub source: EntityRule,
    pub destination: EntityRule,
}

/// One side of a rule. An empty `Vec` means that the criterion is absent: validation refuses lists that are
/// present and could become empty (D14).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityRule {
    /// Host bits already masked (D12).
    pub nets: Vec<IpNet>,
    pub not_nets: Vec<IpNet>,
    /// Positive selector: `selector`, `namespaceSelector` and `serviceAccounts` already combined (§6), and so
    /// combined with `notSelector` when both stand there. `None`: no such criterion. Evaluated over known pods, host endpoints and
    /// network sets; see [`PeerSelector`].
    pub selector: Option<PeerSelector>,
    /// `notSelector` alone: true for every address outside of the set. Only set when `selector` is `None`.
    pub not_selector: Option<PeerSelector>,
    pub ports: Vec<Port>,
    pub not_ports: Vec<Port>,
    /// `services`: (namespace, name).
    pub service: Option<(String, String)>,
}

/// A selector over peers, with the two scopes that `namespaceSelector` can give.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSelector {
    /// Label expression, prefixes applied, namespace part ANDed.
    pub selector: Selector,
    /// `global()`: only host endpoints and GlobalNetworkSets (§6).
    pub global_only: bool,
    /// As the user wrote it, for messages.
    pub text: String,
}

/// A tier (§1.6).
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    pub name: String,
    pub order: Order,
    pub default_action: TierDefault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierDefault {
    Deny,
    Pass,
}

/// A host endpoint, written by hand or made from a Node (D44).
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpoint {
    pub name: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub node: String,
    pub interface: HepInterface,
    pub expected_ips: Vec<IpAddr>,
    pub profiles: Vec<String>,
    /// (name, protocol, port)
    pub ports: Vec<(String, Protocol, u16)>,
}

/// `spec.interfaceName` (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HepInterface {
    /// `*`
    All,
    Named(String),
    /// Absent: bound by expectedIPs.
    ByAddress,
}

/// GlobalNetworkSet, or NetworkSet when `namespace` is set.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSet {
    pub namespace: Option<String>,
    pub name: String,
    pub labels: Labels,
    pub nets: Vec<IpNet>,
}

/// A profile. `projectcalico-default-allow` is built in.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub name: String,
    pub labels_to_apply: Labels,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// Part of a core/v1 Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub internal_ips: Vec<IpAddr>,
    pub other_ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
}

/// Part of a core/v1 Pod. Host-networked pods are kept (they own host ports) but are no peers (§2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub node: String,
    pub service_account: String,
    pub host_network: bool,
    pub ips: Vec<IpAddr>,
    /// (name, protocol, containerPort, hostPort, hostIP)
    pub ports: Vec<PodPort>,
    /// Succeeded or Failed: its addresses are free again.
    pub terminated: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPort {
    pub name: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
    pub host_port: Option<u16>,
    pub host_ip: Option<IpAddr>,
}

/// Part of a core/v1 Service: where it can be reached (D3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// Part of a discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    pub namespace: String,
    pub name: String,
    /// Label `kubernetes.io/service-name`.
    pub service: String,
    pub endpoints: Vec<Endpoint>,
    /// (name, protocol, port)
    pub ports: Vec<(String, Protocol, u16)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// One failsafe (§5, D1, D2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failsafe {
    pub protocol: Protocol,
    pub port: u16,
    /// `None`: both families, every address.
    pub net: Option<IpNet>,
}

/// What a FelixConfiguration says that concerns us. `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FelixConfiguration {
    pub failsafe_inbound: Option<Vec<Failsafe>>,
    pub failsafe_outbound: Option<Vec<Failsafe>>,
    pub node_port_ranges: Option<Vec<PortRange>>,
    pub interface_prefixes: Option<Vec<String>>,
    pub interface_exclude: Option<Vec<String>>,
}

/// KubeControllersConfiguration `default`: auto host endpoints (§8, D44).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubeControllersConfiguration {
    pub auto_create: bool,
    /// `createDefaultHostEndpoint`, default true.
    pub create_default: bool,
    pub templates: Vec<AutoTemplate>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AutoTemplate {
    pub generate_name: String,
    pub node_selector: Selector,
    pub labels: Labels,
    pub interface_cidrs: Vec<IpNet>,
    /// Regular expression over device names, as written and checked.
    pub interface_pattern: Option<String>,
}

/// Everything that is valid, by kind and name: the one state from which all output is derived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Keyed by [`Policy::tie_break`].
    pub policies: BTreeMap<String, Policy>,
    /// Without the built-in tiers, unless written.
    pub tiers: BTreeMap<String, Tier>,
    pub host_endpoints: BTreeMap<String, HostEndpoint>,
    /// Keyed by (namespace or "", name).
    pub network_sets: BTreeMap<(String, String), NetworkSet>,
    pub profiles: BTreeMap<String, Profile>,
    pub nodes: BTreeMap<String, Node>,
    pub namespaces: BTreeMap<String, Namespace>,
    pub service_accounts: BTreeMap<(String, String), ServiceAccount>,
    pub pods: BTreeMap<(String, String), Pod>,
    pub services: BTreeMap<(String, String), Service>,
    pub endpoint_slices: BTreeMap<(String, String), EndpointSlice>,
    /// Of the one called `default`.
    pub felix: FelixConfiguration,
    /// Of those called `node.NAME`, by NAME.
    pub felix_of_nodes: BTreeMap<String, FelixConfiguration>,
    pub kube_controllers: KubeControllersConfiguration,
}

/// The node whose packets are judged, as netlink (or a scenario) shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// `HostEndpoint.spec.node` of this node.
    pub name: String,
    /// Keyed by device name. `lo` is always there.
    pub devices: BTreeMap<String, Device>,
    pub settings: Settings,
}

/// A network device of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
    /// Addresses with their prefix, as `ip addr` shows them; link-local ones included.
    pub addresses: Vec<IpNet>,
    pub loopback: bool,
    /// Known to belong to a pod (scenario `workload:`; the agent: never, prefixes decide).
    pub pod: bool,
    /// D7.
    pub accept_ra: bool,
    /// Has no Ethernet header, D48.
    pub no_link_layer: bool,
    /// Holds a default route: never a workload device (D47).
    pub default_route: bool,
    /// Names of the ports when this is a bridge (D47).
    pub bridge_ports: Option<Vec<String>>,
    /// A tunnel that exists on this node (D39).
    pub tunnel: Option<Tunnel>,
    /// (parent device, VLAN id)
    pub vlan: Option<(String, u16)>,
}

/// D39: a tunnel device and what its outer packets look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer IP protocol.
    pub protocol: Protocol,
    /// Outer UDP destination port (vxlan, geneve, wireguard).
    pub port: Option<u16>,
}

/// Settings of ours, not Calico's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub on_policy_change: OnPolicyChange,
    /// D39.
    pub infra_tunnels: bool,
    /// D5: govern `lo` too.
    pub govern_loopback: bool,
    /// D3: where NodePorts are frontends; empty: on every own address.
    pub node_port_addresses: Vec<IpNet>,
    /// D17: seconds.
    pub grace_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            on_policy_change: OnPolicyChange::Keep,
            infra_tunnels: true,
            govern_loopback: false,
            node_port_addresses: Vec::new(),
            grace_seconds: 60,
        }
    }
}
