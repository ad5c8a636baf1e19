//! What a packet costs, by the number of rules: the programs in this kernel, through `BPF_PROG_TEST_RUN`.
//!
//! `cargo bench -p dataplane-user --bench packets`, as root. Each figure is nanoseconds beyond what the same packet
//! costs on a node without a host endpoint, measured in the same round; the last columns say how it grows. Machines are
//! noisy: ratios count.
//!
//! Nothing is attached: a test run has the loopback device, which stands here for a governed `eth0`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use dataplane_common::abi::{Control, Hook};
use ipnet::{IpNet, Ipv4Net};
use portcullis::compile::{Tables, compile};
use portcullis::index::Snapshot;
use portcullis::loader::{Dataplane, LoadOptions};
use portcullis::policy::{
    Action, Device, Direction, EntityRule, Family, HepInterface, HostEndpoint, NodeView, Order, Policy,
    PolicyKind, Port, PortRange, Rule, World,
};
use portcullis::selector::Selector;

/// Rules of the one list; a list holds at most 4096.
const RULES: [u32; 5] = [1, 10, 100, 1_000, 4_000];
const ROUNDS: usize = 21;
/// Different packets of a round, each run once.
const DIFFERENT: u32 = 2_000;
/// Runs of the same packet: few milliseconds, so that most rounds are not interrupted.
const SAME: u32 = 4_000;
const UDP: u8 = 17;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Port that every list allows, after its other rules.
const OPEN: u16 = 9;
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;
/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// What is sent.
#[derive(Clone, Copy)]
enum Workload {
    /// Each from another rule's net to its port: denied by that rule.
    Different,
    /// The one that the middle rule denies.
    Same,
    /// A flow that both directions confirmed.
    Established,
}

impl Workload {
    const ALL: [(Self, &str); 3] = [
        (Self::Different, "new, each for another rule"),
        (Self::Same, "new, the same again"),
        (Self::Established, "of an established flow"),
    ];
}

/// Rule `i` has a net and a port of its own.
fn net(i: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + i * 256), 24)
}

fn port(i: u32) -> u16 {
    1_000 + (i * 7 % 50_000) as u16
}

fn rule(action: Action, nets: Vec<IpNet>, port: u16) -> Rule {
    let ports = vec![Port::Range(PortRange { first: port, last: port })];
    Rule {
        action,
        ip_version: None,
        protocol: Some(UDP),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: EntityRule { nets, ..EntityRule::default() },
        destination: EntityRule { ports, ..EntityRule::default() },
    }
}

fn world(rules: u32) -> World {
    let mut ingress: Vec<Rule> =
        (0..rules).map(|i| rule(Action::Deny, vec![net(i).into()], port(i))).collect();
    ingress.push(rule(Action::Allow, vec![IpNet::V4(Ipv4Net::default())], OPEN));
    let policy = Policy {
        kind: PolicyKind::GlobalNetworkPolicy,
        namespace: None,
        name: "p".to_owned(),
        tier: "default".to_owned(),
        order: Order(Some(1.0)),
        selector: Selector::parse("all()").expect("a valid selector"),
        family: Family::Normal,
        types: [Direction::Ingress].into(),
        ingress,
        egress: Vec::new(),
        on_policy_change: None,
    };
    let endpoint = HostEndpoint {
        name: "node1-eth0".to_owned(),
        labels: Default::default(),
        annotations: Default::default(),
        node: "node1".to_owned(),
        interface: HepInterface::Named("eth0".to_owned()),
        expected_ips: Vec::new(),
        profiles: Vec::new(),
        ports: Vec::new(),
    };
    let mut world = World::default();
    world.policies.insert(policy.tie_break(), policy);
    world.host_endpoints.insert(endpoint.name.clone(), endpoint);
    world
}

fn tables(world: &World) -> Result<Tables> {
    let address = IpNet::V4(Ipv4Net::new_assert(NODE, 24));
    let eth0 =
        Device { name: "eth0".to_owned(), ifindex: LOOPBACK, addresses: vec![address], ..Device::default() };
    let view = NodeView {
        name: "node1".to_owned(),
        devices: [("eth0".to_owned(), eth0)].into(),
        ..NodeView::default()
    };
    Ok(compile(&Snapshot::build(world, &view))?)
}

/// A UDP datagram of 8 bytes behind an Ethernet header.
fn frame((source, sport): (Ipv4Addr, u16), (destination, dport): (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, UDP, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend([sport, dport, 16, 0].into_iter().flat_map(u16::to_be_bytes));
    frame.extend([0; 8]);
    frame
}

/// For the rule `i`: from the middle of its net, to its port.
fn for_rule(i: u32) -> Vec<u8> {
    let source = Ipv4Addr::from(u32::from(net(i).addr()) + 77);
    frame((source, 40_000), (NODE, port(i)))
}

/// Numbers that look random and are the same in each run.
fn scattered(i: u32) -> u32 {
    i.wrapping_mul(2_654_435_761) >> 7
}

struct Bench {
    dataplane: Dataplane,
    /// Tables with a host endpoint are in force.
    governed: bool,
}

impl Bench {
    /// Nanoseconds of one run. Without a host endpoint nothing is denied.
    fn run(&mut self, hook: Hook, frame: &[u8], repeat: u32, denied: bool) -> Result<f64> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result =
            self.dataplane.program(hook)?.test_run(options).context("the kernel refused a test run")?;
        ensure!(
            (result.return_value == SHOT) == (denied && self.governed),
            "not the verdict that is measured"
        );
        Ok(result.duration.as_nanos() as f64)
    }

    fn measure(&mut self, workload: Workload, rules: u32) -> Result<f64> {
        match workload {
            Workload::Different => {
                let one = |i| self.run(Hook::Ingress, &for_rule(scattered(i) % rules), 1, true);
                Ok(median(&mut (0..DIFFERENT).map(one).collect::<Result<Vec<_>>>()?))
            }
            Workload::Same => self.run(Hook::Ingress, &for_rule(rules / 2), SAME, true),
            Workload::Established => {
                let (peer, node) = ((Ipv4Addr::new(198, 51, 100, 1), 40_000), (NODE, OPEN));
                self.run(Hook::Ingress, &frame(peer, node), 1, false)?;
                self.run(Hook::Egress, &frame(node, peer), 1, false)?;
                self.run(Hook::Ingress, &frame(peer, node), SAME, false)
            }
        }
    }

    /// All workloads with these tables in force.
    fn round(&mut self, tables: &Tables, rules: u32) -> Result<[f64; 3]> {
        self.dataplane.apply(tables)?;
        self.governed = !tables.endpoints.is_empty();
        self.dataplane.free_retired()?;
        let mut costs = [0.0; 3];
        for ((workload, _), cost) in Workload::ALL.iter().zip(&mut costs) {
            *cost = self.measure(*workload, rules)?;
        }
        Ok(costs)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("BPF needs root");
    }
    let mut bench = Bench { dataplane: Dataplane::load(&LoadOptions { pin_dir: None })?, governed: false };
    bench.dataplane.update_control(|control| *control = Control::default())?;
    let free = tables(&World::default())?;
    let of_rules: Vec<Tables> = RULES.iter().map(|n| tables(&world(*n))).collect::<Result<_>>()?;
    let mut beyond: Vec<[Vec<f64>; 3]> = vec![Default::default(); RULES.len()];
    let mut ungoverned = Vec::new();
    for round in 0..ROUNDS {
        eprint!("\rround {} of {ROUNDS}", round + 1);
        for (index, (tables, rules)) in of_rules.iter().zip(RULES).enumerate() {
            let base = bench.round(&free, rules)?;
            let cost = bench.round(tables, rules)?;
            (0..3).for_each(|w| beyond[index][w].push(cost[w] - base[w]));
            ungoverned.push(base[Workload::Same as usize]);
        }
    }
    eprintln!();
    let heads: Vec<String> = RULES.iter().map(|n| format!("{n:>7}")).collect();
    println!("{:<28}{}  largest / smallest", "ns per packet; rules:", heads.concat());
    for (workload, (_, name)) in Workload::ALL.iter().enumerate() {
        let costs: Vec<f64> = beyond.iter_mut().map(|of| median(&mut of[workload])).collect();
        let shown: Vec<String> = costs.iter().map(|ns| format!("{ns:>7.0}")).collect();
        println!("{name:<28}{}  {:.2}", shown.concat(), costs[RULES.len() - 1] / costs[0]);
    }
    println!("without a host endpoint, the test run's own cost included: {:.0}", median(&mut ungoverned));
    Ok(())
}
