//! The kinds that are read (D43), their names and their API groups.

use std::fmt;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GlobalNetworkPolicy,
    StagedGlobalNetworkPolicy,
    NetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    HostEndpoint,
    GlobalNetworkSet,
    NetworkSet,
    Profile,
    FelixConfiguration,
    KubeControllersConfiguration,
    Node,
    Namespace,
    ServiceAccount,
    Service,
    EndpointSlice,
    Pod,
}

/// Where a kind lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `projectcalico.org/v3`, or its storage form `crd.projectcalico.org/v1` (§1.0).
    Calico,
    /// `v1`
    Core,
    /// `discovery.k8s.io/v1`
    Discovery,
}

impl Group {
    /// The apiVersion to write.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Calico => "projectcalico.org/v3",
            Self::Core => "v1",
            Self::Discovery => "discovery.k8s.io/v1",
        }
    }
    fn has(self, api_version: &str) -> bool {
        api_version == self.api_version() || self == Self::Calico && api_version == STORAGE_VERSION
    }
}

/// The apiVersion of objects as Calico stores them (§1.0).
pub const STORAGE_VERSION: &str = "crd.projectcalico.org/v1";

/// (kind, name, plural, short name, group, lives in a namespace)
const KINDS: [(Kind, &str, &str, &str, Group, bool); 17] = {
    use Group::{Calico, Core, Discovery};
    use Kind as K;
    [
        (K::GlobalNetworkPolicy, "GlobalNetworkPolicy", "globalnetworkpolicies", "gnp", Calico, false),
        (
            K::StagedGlobalNetworkPolicy,
            "StagedGlobalNetworkPolicy",
            "stagedglobalnetworkpolicies",
            "sgnp",
            Calico,
            false,
        ),
        (K::NetworkPolicy, "NetworkPolicy", "networkpolicies", "np", Calico, true),
        (K::StagedNetworkPolicy, "StagedNetworkPolicy", "stagednetworkpolicies", "snp", Calico, true),
        (K::Tier, "Tier", "tiers", "tier", Calico, false),
        (K::HostEndpoint, "HostEndpoint", "hostendpoints", "hep", Calico, false),
        (K::GlobalNetworkSet, "GlobalNetworkSet", "globalnetworksets", "gns", Calico, false),
        (K::NetworkSet, "NetworkSet", "networksets", "netset", Calico, true),
        (K::Profile, "Profile", "profiles", "profile", Calico, false),
        (K::FelixConfiguration, "FelixConfiguration", "felixconfigurations", "felixconfig", Calico, false),
        (
            K::KubeControllersConfiguration,
            "KubeControllersConfiguration",
            "kubecontrollersconfigurations",
            "kubecontrollersconfig",
            Calico,
            false,
        ),
        (K::Node, "Node", "nodes", "no", Core, false),
        (K::Namespace, "Namespace", "namespaces", "ns", Core, false),
        (K::ServiceAccount, "ServiceAccount", "serviceaccounts", "sa", Core, true),
        (K::Service, "Service", "services", "svc", Core, true),
        (K::EndpointSlice, "EndpointSlice", "endpointslices", "eps", Discovery, true),
        (K::Pod, "Pod", "pods", "po", Core, true),
    ]
};

/// What `apiVersion` and `kind` of a document amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Known(Kind),
    /// A kind of somebody else, which D43 passes over.
    Other,
    /// A kind of ours under an apiVersion that it does not have.
    WrongVersion(&'static str),
}

impl Kind {
    /// Calico's kinds that can matter to hosts. Policies of pods (NetworkPolicy) select no host: a node does not ask the
    /// API for them.
    pub const CALICO_FOR_HOSTS: [Self; 8] = [
        Self::GlobalNetworkPolicy,
        Self::StagedGlobalNetworkPolicy,
        Self::Tier,
        Self::HostEndpoint,
        Self::GlobalNetworkSet,
        Self::NetworkSet,
        Self::FelixConfiguration,
        Self::KubeControllersConfiguration,
    ];

    fn row(self) -> &'static (Kind, &'static str, &'static str, &'static str, Group, bool) {
        // The table holds every kind in the order of the enum (checked by a test).
        &KINDS[self as usize]
    }
    /// `GlobalNetworkPolicy`
    pub fn as_str(self) -> &'static str {
        self.row().1
    }
    /// `globalnetworkpolicies`
    pub fn plural(self) -> &'static str {
        self.row().2
    }
    /// `gnp`
    pub fn short_name(self) -> &'static str {
        self.row().3
    }
    pub fn group(self) -> Group {
        self.row().4
    }
    /// Lives in a namespace?
    pub fn is_namespaced(self) -> bool {
        self.row().5
    }
    /// Name, plural or short name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let is = |known: &str| {
            known.eq_ignore_ascii_case(name) || name.to_lowercase() == format!("{}s", known.to_lowercase())
        };
        KINDS.iter().find(|row| is(row.1) || row.2.eq_ignore_ascii_case(name) || is(row.3)).map(|row| row.0)
    }
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|row| row.0)
    }

    pub(crate) fn find(api_version: &str, name: &str) -> Found {
        let Some(row) = KINDS.iter().find(|row| row.1 == name) else { return Found::Other };
        let group = row.4;
        if group.has(api_version) {
            return Found::Known(row.0);
        }
        // Names that others use too.
        let foreign = match row.0 {
            Kind::NetworkPolicy => api_version.starts_with("networking.k8s.io/"),
            Kind::Node | Kind::Namespace | Kind::ServiceAccount | Kind::Service | Kind::Pod => {
                api_version.contains('/')
            }
            _ => false,
        };
        if foreign { Found::Other } else { Found::WrongVersion(group.api_version()) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an object is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for kinds that live in no namespace.
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    /// `Kind/name` or `Kind/namespace/name`; a namespaced kind without namespace is in `default`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, name] => (Kind::from_name(kind)?, "", *name),
            [kind, namespace, name] => (Kind::from_name(kind)?, *namespace, *name),
            _ => return None,
        };
        Some(Self::new(kind, namespace, name))
    }
    /// With the namespace that the kind has.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = match (kind.is_namespaced(), namespace) {
            (false, _) => "",
            (true, "") => "default",
            (true, given) => given,
        };
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (index, row) in KINDS.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(Kind::from_name(row.1), Some(row.0));
            assert_eq!(Kind::from_name(row.2), Some(row.0));
            assert_eq!(Kind::from_name(row.3), Some(row.0));
        }
    }

    #[test]
    fn keys() {
        assert_eq!(ObjectKey::parse("hep/n1").unwrap().to_string(), "HostEndpoint/n1");
        assert_eq!(ObjectKey::parse("Service/web").unwrap().to_string(), "Service/default/web");
        assert_eq!(ObjectKey::parse("Pod/prod/web").unwrap().to_string(), "Pod/prod/web");
        assert_eq!(ObjectKey::parse("Nonsense/web"), None);
    }

    #[test]
    fn names_that_others_use_too() {
        assert_eq!(Kind::find("networking.k8s.io/v1", "NetworkPolicy"), Found::Other);
        assert_eq!(
            Kind::find("crd.projectcalico.org/v1", "NetworkPolicy"),
            Found::Known(Kind::NetworkPolicy)
        );
        assert_eq!(Kind::find("projectcalico.org/v3", "Node"), Found::Other);
        assert_eq!(Kind::find("projectcalico.org/v1", "Tier"), Found::WrongVersion("projectcalico.org/v3"));
    }
}
