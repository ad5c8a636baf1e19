//! The Kubernetes API as the agent's source.
//!
//! Before everything that is watched was read once as a whole, the last good state is what counts, or nothing (D46).
//! After that, what is read counts at once; only while a watch is new (its kind has just begun to be served, or a rule
//! has begun to select pods) it is waited for a little, so that no policy is in force without what it refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;

use super::accepted::Accepted;
use super::report::Reporting;
use super::source::KubernetesOptions;
use super::{Event, Options};
use crate::index::Snapshot;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::discovery::Served;
use crate::kubernetes::follow::{Account, Follower, View};
use crate::kubernetes::kube_proxy::{Answer, Asker};
use crate::kubernetes::plan::{Needs, is_calico};
use crate::policy::{Problem, World, defaults};
use crate::resource::Kind;
use crate::state::KUBERNETES;
use crate::state::lastgood::LastGood;
use crate::state::{KubeProxyState, KubernetesState, State};

/// Longest wait for a new watch: it may never succeed, and other changes must not wait for it.
const NEW_WATCH: Duration = Duration::from_secs(10);

/// The API, and what is valid in it.
pub(super) struct ClusterSource {
    options: KubernetesOptions,
    accepted: Accepted,
    follower: Option<Follower>,
    /// Asks kube-proxy where it answers NodePorts.
    proxy: Option<Asker>,
    reporting: Box<Reporting>,
    /// Cluster of the last good state.
    cluster: Option<String>,
    /// There was a last good state.
    restored: bool,
    /// All was read once.
    synced: bool,
    /// Since when a watch is new.
    new_since: Option<Instant>,
    /// Version of the view that was read last, and what was wrong then.
    version: u64,
    troubles: BTreeMap<String, String>,
    waiting: Vec<String>,
    /// What is known did not count at the last look.
    held: bool,
}

impl ClusterSource {
    pub(super) fn new(options: KubernetesOptions) -> Self {
        Self {
            options,
            accepted: Accepted::default(),
            follower: None,
            proxy: None,
            reporting: Box::default(),
            cluster: None,
            restored: false,
            synced: false,
            new_since: None,
            version: 0,
            troubles: BTreeMap::new(),
            waiting: Vec::new(),
            held: true,
        }
    }

    pub(super) fn restore(&mut self, last: &LastGood) -> Vec<Problem> {
        self.cluster = last.cluster.clone().filter(|_| !self.options.accept_new_cluster);
        self.restored = true;
        self.accepted.restore(last)
    }

    pub(super) fn follow(&mut self, options: &Options, sender: UnboundedSender<Event>) {
        let account =
            Account { kubeconfig: self.options.kubeconfig.clone(), context: self.options.context.clone() };
        self.reporting.start(account.clone(), options, sender.clone());
        let needs = Needs::of(self.accepted.world());
        let wake = move || {
            // An agent that is gone needs no word.
            let _ = sender.send(Event::SourceChanged);
        };
        self.proxy = Some(Asker::start(wake.clone()));
        let (node, cluster) = (options.node.clone(), self.cluster.clone());
        self.follower = Some(Follower::start(account, node, cluster, needs, wake));
    }

    pub(super) fn read(&mut self) -> bool {
        let Some(follower) = &self.follower else { return false };
        let view = follower.view();
        let mut troubles = view.troubles();
        self.waiting = waiting(&view, &self.accepted, self.synced);
        if !self.synced && !self.options.accept_new_cluster {
            self.waiting.extend(not_copied(view.served(), &view.cluster, &self.accepted));
        }
        if !self.synced && self.restored && !self.waiting.is_empty() {
            let text = format!("the last good state counts until this is read: {}", self.waiting.join(", "));
            troubles.insert("first look at the cluster".into(), text);
        }
        let mut changed = troubles != self.troubles;
        self.troubles = troubles;
        if self.waiting.is_empty() && !self.synced {
            self.synced = true;
            changed = true;
        }
        if self.synced && view.version != self.version {
            self.version = view.version;
            changed |= self.accepted.take(view.cluster.documents());
        }
        let needs = Needs::of(self.accepted.world());
        let covered = |planned: Needs| planned.all_pods || !needs.all_pods;
        if self.synced && !view.planned_for.is_some_and(covered) {
            self.waiting.push("pods".to_owned());
        }
        drop(view);
        follower.need(needs);
        self.new_since = match self.waiting.is_empty() {
            true => None,
            false => self.new_since.or_else(|| Some(Instant::now())),
        };
        let held = self.holds();
        changed | (std::mem::replace(&mut self.held, held) != held)
    }

    fn holds(&self) -> bool {
        match (self.synced, self.new_since) {
            (false, _) => !self.restored,
            (true, Some(since)) => since.elapsed() < NEW_WATCH,
            (true, None) => false,
        }
    }

    pub(super) fn holds_back(&self) -> Option<String> {
        if !self.holds() {
            return None;
        }
        let known = if self.waiting.is_empty() { "the cluster".into() } else { self.waiting.join(", ") };
        Some(format!(
            "not read as a whole yet, so it does not count: {known}; what is in force stays in force"
        ))
    }

    pub(super) fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    pub(super) fn accepted_mut(&mut self) -> &mut Accepted {
        &mut self.accepted
    }

    pub(super) fn troubles(&self) -> &BTreeMap<String, String> {
        &self.troubles
    }

    pub(super) fn last_good(&self) -> LastGood {
        let followed = self.follower.as_ref().and_then(|f| f.view().cluster.id().map(str::to_owned));
        LastGood {
            folder: KUBERNETES.into(),
            identity: None,
            cluster: followed.or_else(|| self.cluster.clone()),
            objects: self.accepted.saved(),
        }
    }

    /// Where NodePorts are frontends (D3). `given`: the setting; `node`: this one's name.
    pub(super) fn node_ports(&self, given: &[IpNet], node: &str) -> NodePortsAt {
        let answer = self.proxy.as_ref().map(Asker::answer).unwrap_or_default();
        node_ports_at(given, &answer, self.accepted.world(), node)
    }

    pub(super) fn came_into_force(&mut self) {
        self.reporting.came_into_force(&self.accepted);
    }

    pub(super) fn report(&self, state: &mut State, snapshot: &Snapshot) {
        self.reporting.report(&self.accepted, state, snapshot);
    }

    pub(super) async fn stop(&mut self) {
        self.reporting.stop().await;
    }

    pub(super) fn state(&self, given: &[IpNet], node: &str) -> KubernetesState {
        let view = self.follower.as_ref().map(Follower::view);
        let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        KubernetesState {
            cluster: view.as_ref().and_then(|v| v.cluster.id().map(str::to_owned)),
            in_sync: self.synced && self.waiting.is_empty() && self.troubles.is_empty(),
            stale_since: view.as_ref().and_then(|v| v.stale_since()).map(seconds),
            waiting: self.waiting.clone(),
            watches: view.as_ref().map(|v| v.cluster.counts()).unwrap_or_default(),
            kube_proxy: Some(self.kube_proxy(given, node)),
            report: None,
        }
    }

    fn kube_proxy(&self, given: &[IpNet], node: &str) -> KubeProxyState {
        let answer = self.proxy.as_ref().map(Asker::answer).unwrap_or_default();
        let world = self.accepted.world();
        let NodePortsAt { nets, because } = node_ports_at(given, &answer, world, node);
        KubeProxyState {
            mode: answer.told.as_ref().map(|told| told.mode.clone()),
            silent: answer.silent,
            node_port_addresses: nets.iter().map(ToString::to_string).collect(),
            because,
            node_ports: node_ports_in_use(world, node),
        }
    }
}

/// Own addresses in these networks answer NodePorts; none: all do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodePortsAt {
    pub nets: Vec<IpNet>,
    /// How we know.
    pub because: String,
}

fn node_ports_at(given: &[IpNet], answer: &Answer, world: &World, node: &str) -> NodePortsAt {
    let assumed = |why: &str| NodePortsAt {
        nets: Vec::new(),
        because: format!(
            "every own address is assumed, because {why}; the setting nodePortAddresses overrides this"
        ),
    };
    if !given.is_empty() {
        return NodePortsAt { nets: given.to_vec(), because: "the setting nodePortAddresses says so".into() };
    }
    let Some(told) = &answer.told else {
        let why = answer.silent.as_deref().unwrap_or("it was not asked yet");
        return assumed(&format!("kube-proxy is not heard: {why}"));
    };
    let Some(node_ports) = &told.node_ports else {
        return assumed("this kube-proxy tells its mode only");
    };
    let own = world.nodes.get(node).map(|n| n.internal_ips.as_slice()).unwrap_or_default();
    match node_ports.networks(own) {
        Some(nets) => NodePortsAt { nets, because: "kube-proxy says so".into() },
        None => assumed("kube-proxy answers at the addresses of the Node object, which has none"),
    }
}

/// The API tells no range: what its Services use is what counts.
fn node_ports_in_use(world: &World, node: &str) -> String {
    let ports: BTreeSet<u16> =
        world.services.values().flat_map(|s| &s.ports).filter_map(|port| port.node_port).collect();
    match (ports.first(), ports.last(), &defaults::felix_of(world, node).node_port_ranges) {
        (Some(first), Some(last), _) => format!(
            "{} in use by Services, {first} to {last}; the API server does not tell its range, and only these count",
            ports.len()
        ),
        (_, _, Some(ranges)) if world.services.is_empty() => {
            format!("the {} ranges of FelixConfiguration kubeNodePortRanges", ranges.len())
        }
        _ => "none in use by a Service".into(),
    }
}

/// Objects of the last good state whose kind is served in another group now, and that are not there: a copy that is under
/// way is no order to delete them.
fn not_copied(served: Option<&Served>, cluster: &Cluster, accepted: &Accepted) -> Option<String> {
    let served = served?;
    if !cluster.waiting().is_empty() {
        return None;
    }
    let mut missing = accepted.objects().filter_map(|object| {
        // kubernetes:GROUP/VERSION/KINDS/[NAMESPACE/]NAME
        let (head, name) = object.file.strip_prefix("kubernetes:")?.rsplit_once('/')?;
        let (api_version, namespace) = head.split_once(&format!("/{}", object.key.kind.plural()))?;
        let namespace = namespace.trim_start_matches('/');
        let now = served
            .version_of(object.key.kind)
            .filter(|now| is_calico(object.key.kind) && now != api_version)?;
        (!cluster.has(object.key.kind, namespace, name))
            .then(|| format!("{} (not in {now} yet)", object.file))
    });
    let first = missing.next()?;
    Some(match missing.count() {
        0 => first,
        more => format!("{first} and {more} more; start the agent with --accept-new-cluster to drop them"),
    })
}

/// What must be read before the view counts. Before it did: also kinds of Calico's that the last good state has objects
/// of and that nobody serves, since this is no order to delete them.
fn waiting(view: &View, accepted: &Accepted, synced: bool) -> Vec<String> {
    let Some(served) = view.served() else { return vec!["the API server's list of kinds".to_owned()] };
    let mut out: Vec<String> = view
        .cluster
        .waiting()
        .into_iter()
        .map(|key| format!("{} {}", key.api_version, key.kind.plural()))
        .collect();
    if !synced {
        if !view.cluster.in_sync() && out.is_empty() {
            out.push("the cluster that was followed before".to_owned());
        }
        let known: BTreeSet<Kind> =
            accepted.objects().filter(|o| o.file.starts_with(KUBERNETES)).map(|o| o.key.kind).collect();
        out.extend(
            known
                .into_iter()
                .filter(|kind| is_calico(*kind) && served.version_of(*kind).is_none())
                .map(|kind| format!("{} (the cluster does not serve them)", kind.plural())),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::kubernetes::plan::{Scope, WatchKey, plan};
    use crate::kubernetes::{Notice, What};
    use crate::resource::Document;

    const V3: &str = "projectcalico.org/v3";
    const STORAGE: &str = "crd.projectcalico.org/v1";
    const KINDS: [Kind; 2] = [Kind::GlobalNetworkSet, Kind::NetworkSet];

    fn served(version: &str) -> Served {
        Served::new([(version.to_owned(), KINDS.map(|kind| kind.as_str().to_owned()).into())])
    }

    /// What an agent before us had accepted of a group: `KINDS/NAME` or `KINDS/NAMESPACE/NAME`.
    fn accepted(version: &str, places: &[&str]) -> Accepted {
        let document = |place: &&str| {
            let words: Vec<&str> = place.split('/').collect();
            let kind = KINDS.into_iter().find(|kind| kind.plural() == words[0]).unwrap();
            let namespace = (words.len() > 2).then(|| words[1]);
            let value = json!({
                "apiVersion": V3, "kind": kind.as_str(), "spec": {"nets": ["10.0.0.0/8"]},
                "metadata": {"name": words.last(), "namespace": namespace},
            });
            Document::new(format!("kubernetes:{version}/{place}"), 0, value)
        };
        let mut accepted = Accepted::default();
        accepted.replace(places.iter().map(document).collect(), 0);
        assert_eq!((accepted.objects().count(), accepted.problems()), (places.len(), [].as_slice()));
        accepted
    }

    /// A cluster that serves the kinds in this group and has these names, all of it read.
    fn cluster(version: &str, objects: &[(Kind, &str, &str)]) -> Cluster {
        let mut cluster = Cluster::new(None);
        cluster.replan(plan(&served(version), Needs::default()));
        for key in plan(&served(version), Needs::default()) {
            let mut notice = |what| cluster.notice(Notice { watch: key.clone(), what }, UNIX_EPOCH);
            notice(What::ListBegins);
            for (_, namespace, name) in objects.iter().filter(|(kind, ..)| *kind == key.kind) {
                let metadata = json!({"metadata": {"name": name, "namespace": namespace}});
                notice(What::Listed(Arc::new(metadata)));
            }
            notice(What::ListEnds { cluster: "c1".into() });
        }
        cluster
    }

    #[test]
    fn what_is_not_copied_to_the_newer_group_is_missed() {
        let known = accepted(STORAGE, &["globalnetworksets/default.a", "networksets/team/b"]);
        let missed = |cluster: &Cluster| not_copied(Some(&served(V3)), cluster, &known);
        let both = [(Kind::GlobalNetworkSet, "", "a"), (Kind::NetworkSet, "team", "b")];
        assert_eq!(
            missed(&cluster(V3, &both)),
            None,
            "all is there, under the name that the newer group shows"
        );

        let one = missed(&cluster(V3, &both[1..])).unwrap();
        assert_eq!(
            one,
            "kubernetes:crd.projectcalico.org/v1/globalnetworksets/default.a (not in projectcalico.org/v3 yet)"
        );
        let none = missed(&cluster(V3, &[])).unwrap();
        assert!(none.contains("default.a") && none.contains("and 1 more; start the agent with"), "{none}");

        // One of the same name in another namespace is another one.
        let elsewhere = [both[0], (Kind::NetworkSet, "other", "b")];
        assert!(missed(&cluster(V3, &elsewhere)).unwrap().contains("networksets/team/b"));
    }

    #[test]
    fn what_was_deleted_in_its_own_group_is_not_missed() {
        let known = accepted(V3, &["globalnetworksets/a", "networksets/team/b"]);
        assert_eq!(not_copied(Some(&served(V3)), &cluster(V3, &[]), &known), None);
        let known = accepted(STORAGE, &["globalnetworksets/a"]);
        assert_eq!(not_copied(Some(&served(STORAGE)), &cluster(STORAGE, &[]), &known), None);
        // Not served at all is told as that, and an unfinished list tells nothing yet.
        assert_eq!(not_copied(Some(&served("apps/v1")), &cluster(V3, &[]), &known), None);
        assert_eq!(not_copied(None, &cluster(V3, &[]), &known), None);
        let mut unread = cluster(V3, &[]);
        let later = WatchKey { kind: Kind::Tier, api_version: V3.into(), scope: Scope::All };
        unread.replan([later].into());
        assert_eq!(not_copied(Some(&served(V3)), &unread, &known), None);
    }
}
