//! An index that was kept up to date says what one made from scratch says, whatever happened on the way.

use std::collections::BTreeMap;

use super::view;
use crate::compile::compile;
use crate::index::{Index, Snapshot};
use crate::policy::NodeView;
use crate::resource::{Document, Store, documents_from_str};

/// Sequences, and steps of each.
const SEQUENCES: u64 = 12;
const STEPS: u32 = 25;

/// xorshift64*, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const LABELS: [&str; 6] = ["app: web", "app: db", "app: web, env: prod", "env: test", "", "env: prod"];
const SELECTORS: [&str; 12] = [
    "app == 'web'",
    "app in {'web', 'db', 'web'}",
    "has(app) && env != 'prod'",
    "!has(app)",
    "all()",
    "app == 'web' || env == 'test'",
    "app == 'nobody'",
    "env starts with 'p'",
    "a == 'b'",
    "projectcalico.org/namespace == 'red'",
    "pcns.team == 'x'",
    "pcsa.role == 'r'",
];

/// Object `number` of a kind, in some version. Names and kinds are few, so that versions follow each other.
fn peer(kind: u64, number: u64, dice: &mut Dice) -> (String, String) {
    let number = if kind == 3 { number % 2 } else { number };
    let namespace = ["red", "blue"][(number % 2) as usize];
    let labels = dice.of(&LABELS);
    let meta = format!("metadata: {{name: o{number}, namespace: {namespace}, labels: {{{labels}}}}}");
    let text = match kind {
        0 => {
            let ports = dice.of(&[
                "",
                "{name: http, containerPort: 80}",
                "{name: http, containerPort: 8080}",
                "{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}",
                "{name: http, containerPort: 80, hostPort: 8000}",
            ]);
            let account = dice.of(&["one", "two"]);
            let address = dice.of(&[
                "{podIP: 10.1.0.1}",
                "{podIP: 10.1.0.2}",
                "{podIPs: [{ip: 10.1.0.3}, {ip: fd00::3}]}",
                "{}",
            ]);
            let more = dice.of(&["", "", "", "hostNetwork: true, "]);
            format!(
                "apiVersion: v1\nkind: Pod\n{meta}\nspec: {{{more}nodeName: node1, serviceAccountName: {account}, containers: \
                 [{{name: c, ports: [{ports}]}}]}}\nstatus: {address}\n"
            )
        }
        1 => {
            let nets = dice.of(&[
                "10.1.0.0/24",
                "10.1.0.1/32, 10.2.0.0/16",
                "fd00::/64",
                "10.1.0.2/32, 10.1.0.2/32",
            ]);
            format!("apiVersion: projectcalico.org/v3\nkind: NetworkSet\n{meta}\nspec: {{nets: [{nets}]}}\n")
        }
        2 => {
            let nets = dice.of(&["10.1.0.0/24", "10.1.0.1/32, 10.2.0.0/16"]);
            format!(
                "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: o{number}, labels: {{{labels}}}}}\n\
                 spec: {{nets: [{nets}]}}\n"
            )
        }
        3 => {
            let labels = dice.of(&["team: x", "team: y", ""]);
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{labels}}}}}\n"
            )
        }
        4 => {
            let (name, labels) = (["one", "two"][(number / 2 % 2) as usize], dice.of(&["role: r", ""]));
            format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n"
            )
        }
        5 => format!(
            "apiVersion: v1\nkind: Service\n{meta}\nspec: {{clusterIP: 10.96.0.{}, ports: [{{name: p, port: 80, nodePort: {}}}]}}\n",
            number + 1,
            30000 + number
        ),
        _ => {
            let (port, address) =
                (dice.of(&["8080", "8081"]), dice.of(&["10.1.0.1", "10.1.0.2", "10.0.0.2"]));
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: o{number}, namespace: {namespace}, labels: \
                 {{kubernetes.io/service-name: o{number}}}}}\naddressType: IPv4\nports: [{{name: p, port: {port}, protocol: TCP}}]\n\
                 endpoints: [{{addresses: [{address}]}}]\n"
            )
        }
    };
    (format!("peer {kind} {number}"), text)
}

fn structure(kind: u64, number: u64, dice: &mut Dice) -> (String, String) {
    let number = if matches!(kind, 3 | 4) { 0 } else { number };
    let (one, two) = (dice.of(&SELECTORS), dice.of(&SELECTORS));
    let calico = |kind: &str, name: &str, labels: &str, spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{{spec}}}\n"
        )
    };
    let text = match kind {
        0 | 1 => {
            let ports = dice.of(&["http, 443", "dns, http", "22"]);
            let service = dice.of(&["o0", "o1"]);
            let namespace = if service == "o0" { "red" } else { "blue" };
            let spec = format!(
                "order: {}, selector: has(a), ingress: [\
                 {{action: Allow, protocol: TCP, source: {{selector: \"{one}\"}}, destination: {{ports: [{ports}]}}}}, \
                 {{action: Deny, source: {{namespaceSelector: \"team == 'x'\", selector: \"{two}\"}}}}, \
                 {{action: Deny, source: {{namespaceSelector: global(), notSelector: \"{two}\"}}}}, \
                 {{action: Allow, protocol: TCP, destination: {{selector: \"{one}\", notPorts: [http]}}}}], \
                 egress: [{{action: Allow, destination: {{services: {{name: {service}, namespace: {namespace}}}}}}}]",
                dice.below(3)
            );
            calico("GlobalNetworkPolicy", &format!("p{kind}-{number}"), "", &spec)
        }
        2 => {
            let spec = format!(
                "node: {}, interfaceName: eth{number}, expectedIPs: [10.0.0.{}], profiles: [prof]",
                dice.of(&["node1", "node1", "node2"]),
                number + 2
            );
            let ports = dice.of(&["", ", ports: [{name: http, port: 80, protocol: TCP}]"]);
            calico(
                "HostEndpoint",
                &format!("h{number}"),
                dice.of(&[
                    "a: b",
                    "a: b, app: web",
                    "c: d",
                    "a: b}, annotations: {portcullis.dev/anti-spoof: \"true\"",
                ]),
                &(spec + ports),
            )
        }
        3 => calico(
            "Profile",
            "prof",
            "",
            dice.of(&["labelsToApply: {app: db}", "ingress: [{action: Allow}]"]),
        ),
        4 => calico(
            "KubeControllersConfiguration",
            "default",
            "",
            "controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}",
        ),
        _ => format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node{number}, labels: {{{}}}}}\n\
             status: {{addresses: [{{type: InternalIP, address: 10.0.0.{}}}]}}\n",
            dice.of(&["a: b", "app: web"]),
            number + 1
        ),
    };
    (format!("structure {kind} {number}"), text)
}

fn documents(texts: &BTreeMap<String, String>) -> Vec<Document> {
    texts.iter().flat_map(|(name, text)| documents_from_str(&format!("{name}.yaml"), text).0).collect()
}

fn views() -> [NodeView; 2] {
    [
        view(&[("eth0", &["10.0.0.2/24"]), ("eth1", &["10.0.0.3/24"]), ("cali1", &[])]),
        view(&[("eth0", &["10.0.0.2/24"]), ("eth1", &["10.8.0.1/24"])]),
    ]
}

/// Everything that a compiler or a person could read of it, ids of sets included.
fn bytes(snapshot: &Snapshot) -> String {
    format!("{snapshot:?}")
}

/// One sequence. Gives how many updates left the lists alone.
fn sequence(seed: u64) -> u32 {
    let mut dice = Dice(seed);
    let mut texts = BTreeMap::new();
    for number in 0..2 {
        for kind in 0..4 {
            let (name, text) = structure(kind, number, &mut dice);
            texts.insert(name, text);
        }
    }
    let (mut store, views) = (Store::default(), views());
    store.replace(documents(&texts));
    store.take_changes();
    let mut view = &views[0];
    let mut index = Index::new(store.world(), view);
    let mut quick = 0;
    let mut last = None;
    for step in 0..STEPS {
        for _ in 0..=dice.below(2) {
            let number = dice.below(4);
            let (name, text) = match dice.below(6) {
                0 => structure(dice.below(6), number, &mut dice),
                _ => peer(dice.below(7), number, &mut dice),
            };
            if dice.below(3) == 0 {
                texts.remove(&name)
            } else {
                texts.insert(name, text)
            };
        }
        if dice.below(8) == 0 {
            view = &views[dice.below(2) as usize];
        }
        let report = store.replace(documents(&texts));
        assert!(!report.has_errors(), "{:?}", report.errors().collect::<Vec<_>>());
        let (changes, made) = (store.take_changes(), index.made);
        let live = index.update(store.world(), view, &changes);
        quick += u32::from(index.made == made && !changes.is_empty());
        let mut cold = Store::default();
        cold.replace(documents(&texts));
        let expected = Snapshot::build(cold.world(), view);
        assert_eq!(bytes(&live), bytes(&expected), "seed {seed}, step {step}, {changes:?}");
        last = Some((live, expected));
    }
    // The compiler is pure, so once is enough.
    let (live, expected) = last.expect("there are steps");
    assert_eq!(compile(&live).unwrap(), compile(&expected).unwrap(), "seed {seed}");
    quick
}

#[test]
fn any_way_of_updates_gives_the_bytes_of_a_cold_build() {
    let quick: u32 = (1..=SEQUENCES).map(|n| sequence(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).sum();
    let all = SEQUENCES as u32 * STEPS;
    assert!(quick > all / 4, "only {quick} of {all} updates left the lists alone: the test tests too little");
}

/// `apply` and `delete`, one object at a time, tell what they changed as well.
#[test]
fn objects_that_come_and_go_one_by_one_give_the_bytes_of_a_cold_build() {
    let mut dice = Dice(0x0b5e_55ed);
    let view = &views()[0];
    let mut store = Store::default();
    let mut index = Index::new(store.world(), view);
    for step in 0..120 {
        let (kind, number) = (dice.below(7), dice.below(4));
        let (_, text) = if step % 9 == 0 {
            structure(kind.min(5), number, &mut dice)
        } else {
            peer(kind, number, &mut dice)
        };
        let report = store.apply(documents_from_str("one.yaml", &text).0);
        assert!(!report.has_errors(), "{:?}", report.errors().collect::<Vec<_>>());
        if dice.below(3) == 0 {
            let some = store.objects().nth(dice.below(store.objects().count() as u64) as usize).unwrap();
            let key = some.key.clone();
            store.delete(key.kind.as_str(), &key.namespace, &key.name).unwrap();
        }
        let live = index.update(store.world(), view, &store.clone().take_changes());
        store.take_changes();
        assert_eq!(bytes(&live), bytes(&Snapshot::build(store.world(), view)), "step {step}");
    }
}

/// Rare in random sequences: what a namespace or service account gives reaches all who inherit it.
#[test]
fn a_relabelled_namespace_or_account_reaches_its_pods_and_network_sets() {
    let state = |team: &str, role: &str| {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: red}\n\
                   spec: {nodeName: n, serviceAccountName: one, containers: []}\nstatus: {podIP: 10.1.0.1}\n";
        let set = "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: s, namespace: red}\n\
                   spec: {nets: [10.2.0.0/16]}\n";
        let policy = super::policy(
            "p",
            "ingress: [{action: Deny, source: {selector: \"pcns.team == 'x'\"}}, \
             {action: Deny, source: {selector: \"pcsa.role == 'r'\"}}]",
        );
        format!(
            "{pod}---\n{set}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: red, labels: {{team: {team}}}}}\n---\n\
             apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: one, namespace: red, labels: {{role: {role}}}}}\n{}{policy}",
            super::hep("h", "interfaceName: eth0")
        )
    };
    let view = &views()[0];
    let mut store = Store::default();
    let mut index = Index::new(store.world(), view);
    for (team, role, sizes) in
        [("x", "r", [2, 1]), ("y", "q", [0, 0]), ("x", "q", [2, 0]), ("x", "r", [2, 1])]
    {
        store.replace(documents_from_str("all.yaml", &state(team, role)).0);
        let changes = store.take_changes();
        let live = index.update(store.world(), view, &changes);
        let found: Vec<usize> = live.sets.iter().map(|(_, nets)| nets.len()).collect();
        assert_eq!(found, sizes, "{team}, {role}, {changes:?}");
    }
    assert_eq!(index.made, 2, "labels of peers leave the lists alone");
}
