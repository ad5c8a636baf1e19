//! A build with another layout of the flow tables takes over under traffic (D49): no flow is cut, nothing is judged
//! invalid for having been on the way, and nothing forbidden arrives.
//!
//! The earlier layout's tables are real maps, which this test writes and pins as a build of that time would have left
//! them and keep following the tables of the programs that enforce meanwhile.
//! `PORTCULLIS_EARLIER=PATH` runs a real earlier build instead.

use std::{
    collections::HashSet,
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use dataplane_common::{
    ABI_VERSION, FLOW_ABI_VERSION,
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey},
    names,
    verdict::{Reason, Verdict},
};
use portcullis::maps::{Pinned, State};
use tests::{
    can_run,
    probe::{Got, Server, Speech, ask, connect, exchange, udp_echo},
    process::{Agent, Home, Policies, agent_program},
    topology::{Lab, NODE, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, Proxy},
    witness::{Tally, Witness},
};

const HOST_ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";
const OPEN: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'node'
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [8080]}}
  - {action: Allow, protocol: UDP, destination: {ports: [5000]}}
  egress: [{action: Allow}]
";
/// What lives goes on only because it is known (D15: `keep`).
const SHUT: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {selector: role == 'node', types: [Ingress, Egress]}
";
const FORBIDDEN: u16 = 8081;
/// A real build writes its tables with each packet. What follows them in its place must not be slower than the pause that
/// the agent makes between two looks at them, or it proves nothing of flows that have just begun.
const IN_TIME: Duration = Duration::from_millis(5);
/// How often a stand-in may be too slow, on a busy machine.
const TRIES: usize = 8;
/// Bytes of an entry of layout 1.
const BYTES_V1: usize = 96;

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// As layout 1 had it; the last three words were spare.
fn entry_v1(entry: &FlowEntry) -> [u8; BYTES_V1] {
    let mut bytes = Vec::new();
    for long in [entry.last_seen_ns, entry.created_ns, entry.generation] {
        bytes.extend(long.to_ne_bytes());
    }
    let words = [entry.epoch, entry.rule, entry.rule_identity, entry.device, entry.original_next_seq];
    for word in words.into_iter().chain([entry.reply_next_seq, entry.pending_next_seq]) {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend([entry.flags, entry.hooks, entry.stage, entry.hook]);
    bytes.extend([entry.state_original, entry.state_reply, entry.pending, entry.pending_hooks]);
    bytes.extend(entry.syn_payload.to_ne_bytes());
    bytes.extend(entry.pending_payload.to_ne_bytes());
    bytes.extend([entry.pending_hook, entry.pending_from_device, 0, 0]);
    bytes.extend(entry.pending_device.to_ne_bytes());
    bytes.resize(BYTES_V1, 0);
    bytes.try_into().expect("96 bytes")
}

type MapV1 = HashMap<MapData, FlowKey, [u8; BYTES_V1]>;

/// Flow tables of layout 1. The programs that run write their own tables, without a pin; these follow them.
struct Earlier {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl Earlier {
    /// As if a build with such tables had run until now. `slowest`: the longest time in microseconds that the tables were behind.
    fn stand_in(pins: &Path, slowest: &Arc<AtomicU64>) -> Result<Self> {
        let state = Pinned::new(pins).state()?;
        let folder = pins.join("flows-v1");
        fs::create_dir(&folder)?;
        let table = |name: &str| -> Result<MapV1> {
            MapV1::create(4096, 0)?.pin(folder.join(name))?;
            Ok(Map::HashMap(MapData::from_pin(folder.join(name))?).try_into()?)
        };
        let names = [names::MAP_FLOWS, names::MAP_FLOWS_NEW, names::MAP_FLOWS_SAFE];
        let [flows, new, safe] = names.map(table);
        let mut tables = [flows?, new?, safe?];
        HashMap::<MapData, FragmentKey, FragmentEntry>::create(64, 0)?
            .pin(folder.join(names::MAP_FRAGMENTS))?;
        follow(&state, &mut tables)?;
        away(pins)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let slowest = Arc::clone(slowest);
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let begin = Instant::now();
                follow(&state, &mut tables)?;
                slowest.fetch_max(begin.elapsed().as_micros() as u64, Relaxed);
            }
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().context("once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn follow(state: &State, tables: &mut [MapV1; 3]) -> Result<()> {
    let now = [state.flows()?, state.flows_new()?, state.flows_safe()?];
    for (table, flows) in tables.iter_mut().zip(&now) {
        for (key, entry) in flows {
            table.insert(key, entry_v1(entry), 0)?;
        }
        let known: HashSet<&FlowKey> = flows.iter().map(|(key, _)| key).collect();
        let gone: Vec<FlowKey> = table.keys().flatten().filter(|key| !known.contains(key)).collect();
        for key in gone {
            table.remove(&key)?;
        }
    }
    Ok(())
}

/// The maps of this build leave their pins: the policy maps to those of a layout before, the flow tables to nowhere.
fn away(pins: &Path) -> Result<()> {
    let own = pins.join(format!("flows-v{FLOW_ABI_VERSION}"));
    for entry in fs::read_dir(&own)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(&own)?;
    fs::rename(pins.join(format!("v{ABI_VERSION}")), pins.join("v4")).context("pins of another layout")
}

/// What goes on while agents come and go, each packet of it.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    exchanges: AtomicU64,
    begun: AtomicU64,
    datagrams: AtomicU64,
    tries: AtomicU64,
}

impl Traffic {
    /// Of what went on least, how often.
    fn least(&self) -> u64 {
        let counts = [&self.exchanges, &self.begun, &self.datagrams, &self.tries];
        counts.map(|count| count.load(Relaxed)).into_iter().min().unwrap_or_default()
    }

    fn tcp(&self, mut stream: TcpStream) -> Result<()> {
        while !self.stop.load(Relaxed) {
            let got = exchange(&mut stream);
            ensure!(got == Got::Answer(NODE_SAYS.to_owned()), "a connection in use was cut: {got}");
            self.exchanges.fetch_add(1, Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Connections that begin all the time: who was let in is served, also when that was just now.
    fn new_ones(&self, lab: &Lab) -> Result<()> {
        let to = SocketAddr::new(NODE.into(), 8080);
        while !self.stop.load(Relaxed) {
            let begun = lab.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(20)))?;
            if let Ok(mut stream) = begun {
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let got = exchange(&mut stream);
                ensure!(
                    got == Got::Answer(NODE_SAYS.to_owned()),
                    "a connection that was let in was cut: {got}"
                );
                self.begun.fetch_add(1, Relaxed);
                // Flows stay in the tables for a while: not more of them than can be followed.
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    fn udp(&self, client: &UdpSocket) -> Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        while !self.stop.load(Relaxed) {
            client.send(b"ping")?;
            client.recv(&mut [0; 8]).context("a datagram of a flow that lives got lost")?;
            self.datagrams.fetch_add(1, Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// A panic, unlike a flow that is cut: no stand-in is slow enough to let something in.
    fn forbidden(&self, lab: &Lab) -> Result<()> {
        let to = SocketAddr::new(NODE.into(), FORBIDDEN);
        while !self.stop.load(Relaxed) {
            let made = lab.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(20)))?;
            assert!(made.is_err(), "a forbidden connection was made");
            self.tries.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

/// Every reason for which this build denied a packet.
fn denied(home: &Home) -> Result<Vec<(&'static str, u64)>> {
    let after = Witness::open(&home.pin_dir(), &[])?.tally()?;
    let count = |reason: &Reason| Witness::packets(&Tally::default(), &after, Verdict::Deny, *reason);
    Ok(Reason::ALL.iter().map(|r| (r.name(), count(r))).filter(|(_, packets)| *packets > 0).collect())
}

fn invalid(after: &Tally) -> Vec<(&'static str, u64)> {
    [Reason::TcpNoFlow, Reason::TcpBadReply, Reason::TcpBeforeReply]
        .into_iter()
        .map(|reason| (reason.name(), Witness::packets(&Tally::default(), after, Verdict::Deny, reason)))
        .filter(|(_, packets)| *packets > 0)
        .collect()
}

#[test]
fn flows_of_an_earlier_layout_are_moved_under_traffic() {
    run("flows_of_an_earlier_layout_are_moved_under_traffic", || moved(&[]));
}

/// As on kernels before 6.6.
#[test]
fn filters_move_flows_too() {
    run("filters_move_flows_too", || moved(&["--attach", "clsact"]));
}

/// Once more where the stand-in was too slow, and only for what that can break: a flow that is cut, which is an error.
/// Whatever else is wrong is a panic, and ends the test.
fn moved(options: &[&str]) -> Result<()> {
    for tried in 1.. {
        let slowest = Arc::default();
        let result = moved_once(options, &slowest);
        let slowest = Duration::from_micros(slowest.load(Relaxed));
        match result {
            Err(error) if tried < TRIES && slowest > IN_TIME => {
                eprintln!("the stand-in was {slowest:?} behind, so this says nothing: {error:#}");
            }
            result => return result,
        }
    }
    Ok(())
}

fn moved_once(options: &[&str], slowest: &Arc<AtomicU64>) -> Result<()> {
    let earlier = env::var_os("PORTCULLIS_EARLIER").map(PathBuf::from);
    let lab = Lab::new(Proxy::Nftables)?;
    let _server = Server::start(&lab.node, FORBIDDEN, Speech::Http("forbidden"))?;
    udp_echo(&lab.node, Ipv4Addr::UNSPECIFIED, 5000)?;
    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put("endpoint.yaml", HOST_ENDPOINT)?;
    folder.put("web.yaml", OPEN)?;
    let program = earlier.clone().map_or_else(agent_program, Ok)?;
    let mut first = Agent::spawn(&program, &lab.node, &folder, &home, options)?;
    first.next_generation()?;
    let mut idle = connect(&lab.outside, NODE, 8080)?.expect("allowed");
    let mut out = connect(&lab.node, OUTSIDE, 443)?.expect("allowed");
    assert_eq!(exchange(&mut idle), Got::Answer(NODE_SAYS.to_owned()));
    assert_eq!(exchange(&mut out), Got::Answer(OUTSIDE_SAYS.to_owned()));
    let busy = connect(&lab.outside, NODE, 8080)?.expect("allowed");
    let client = lab.outside.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    client.connect((NODE, 5000))?;
    let traffic = Traffic::default();
    let (second, generation) = thread::scope(|scope| {
        let going = [
            scope.spawn(|| traffic.tcp(busy)),
            scope.spawn(|| traffic.udp(&client)),
            scope.spawn(|| traffic.new_ones(&lab)),
            scope.spawn(|| traffic.new_ones(&lab)),
            scope.spawn(|| traffic.new_ones(&lab)),
            scope.spawn(|| traffic.forbidden(&lab)),
        ];
        let replace = || {
            // Enough of each to prove something, however slow the machine is.
            let end = Instant::now() + Duration::from_secs(30);
            while traffic.least() < 12 && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
            first.kill_9()?;
            let stand_in =
                earlier.is_none().then(|| Earlier::stand_in(&home.pin_dir(), slowest)).transpose()?;
            folder.put("web.yaml", SHUT)?;
            let second = Agent::start_with(&lab.node, &folder, &home, options);
            thread::sleep(Duration::from_millis(300));
            stand_in.map_or(Ok(()), Earlier::end)?;
            second
        };
        let second = replace();
        traffic.stop.store(true, Relaxed);
        let second = second?;
        for thread in going {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.with_context(|| format!("{:?}\n{}", denied(&home), second.0.log()))?;
        }
        anyhow::Ok(second)
    })?;
    assert_eq!(generation, 1, "a layout begins its own count");
    assert_eq!(exchange(&mut idle), Got::Answer(NODE_SAYS.to_owned()), "{}", second.log());
    assert_eq!(exchange(&mut out), Got::Answer(OUTSIDE_SAYS.to_owned()), "{}", second.log());
    let after = Witness::open(&home.pin_dir(), &[])?.tally()?;
    let told = home.portcullis(&lab.node, &["observe", "--stage", "invalid"])?;
    ensure!(invalid(&after).is_empty(), "{:?} {}{}", invalid(&after), told.stdout, second.log());
    assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "the new policy is in force");
    let counts = [&traffic.exchanges, &traffic.begun, &traffic.datagrams, &traffic.tries]
        .map(|count| count.load(Relaxed));
    ensure!(counts.iter().all(|count| *count > 10), "too little traffic to prove anything: {counts:?}");
    home.await_status("said what was moved", |s| s["adoption"]["moved"].as_u64() >= Some(4))?;
    let own = [format!("v{ABI_VERSION}"), format!("flows-v{FLOW_ABI_VERSION}")];
    let names = fs::read_dir(home.pin_dir())?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let left: Vec<String> =
        names.filter(|n| n.ends_with(|c: char| c.is_ascii_digit()) && !own.contains(n)).collect();
    assert!(left.is_empty(), "the earlier layout's maps are still pinned: {left:?}");
    Ok(())
}

/// A downgrade meets tables that it cannot know: it says so, and takes what the kernel knows.
#[test]
fn flows_of_a_layout_that_is_not_known_are_adopted_and_that_is_said() {
    run("flows_of_a_layout_that_is_not_known_are_adopted_and_that_is_said", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        folder.put("web.yaml", OPEN)?;
        let (first, _) = Agent::start(&lab.node, &folder, &home)?;
        let mut held = connect(&lab.outside, NODE, 8080)?.expect("allowed");
        assert_eq!(exchange(&mut held), Got::Answer(NODE_SAYS.to_owned()));
        first.kill_9()?;
        fs::create_dir(home.pin_dir().join("flows-v99"))?;
        away(&home.pin_dir())?;
        folder.put("web.yaml", SHUT)?;
        let (second, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(exchange(&mut held), Got::Answer(NODE_SAYS.to_owned()), "{}", second.log());
        assert!(second.log().contains("layout 99"), "{}", second.log());
        home.await_status("said what was not read", |s| {
            s["adoption"]["errors"].to_string().contains("layout 99")
        })
    });
}
