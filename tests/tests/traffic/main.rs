//! Life under load: agents are killed, replaced and told new things 200 times while traffic runs. What is forbidden is
//! never delivered, what is allowed is never cut (D22, D23, D49).
//!
//! `PORTCULLIS_LIFE_EVENTS` and `PORTCULLIS_LIFE_SEED` make it longer, or the same again.

mod load;

use std::{
    env, fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use load::Traffic;
use tempfile::TempDir;
use tests::{
    can_run,
    probe::{Server, Speech},
    process::{Agent, Home, Policies, agent_program},
    topology::{Lab, OUTSIDE, Proxy},
};

const ENDPOINTS: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-all, labels: {role: node}}
spec: {node: node1, interfaceName: '*', expectedIPs: [10.240.0.11]}
";
/// Comes and goes on eth0.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 50);
/// The node's address on the device that comes and goes.
const EXTRA: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FORBIDDEN: u16 = 8081;
const FORBIDDEN_UDP: u16 = 8082;
const ALLOWED_UDP: u16 = 5000;

/// Small, seeded, the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The world that changes, and what was done to it.
struct Life {
    lab: Lab,
    folder: Policies,
    home: Home,
    /// This build, and "another" one.
    builds: [PathBuf; 2],
    _copy: TempDir,
    agent: Option<Agent>,
    chance: Chance,
    extra: Option<&'static str>,
    second: bool,
    log: Vec<String>,
}

impl Life {
    fn new(seed: u64) -> Result<Self> {
        let program = agent_program()?;
        let copy = tempfile::tempdir()?;
        let other = copy.path().join("portcullis");
        fs::copy(&program, &other)?;
        let life = Self {
            lab: Lab::new(Proxy::Nftables)?,
            folder: Policies::empty()?,
            home: Home::new()?,
            builds: [program, other],
            _copy: copy,
            agent: None,
            chance: Chance(seed),
            extra: None,
            second: false,
            log: Vec::new(),
        };
        life.folder.put("endpoints.yaml", ENDPOINTS)?;
        life.folder.put("clients.yaml", &clients(0))?;
        life.folder.put("allow.yaml", &allow(0))?;
        Ok(life)
    }

    fn spawn(&mut self) -> Result<()> {
        let build = self.chance.below(2) as usize;
        let agent = Agent::spawn(&self.builds[build], &self.lab.node, &self.folder, &self.home, &[])?;
        self.agent = Some(agent);
        Ok(())
    }

    /// One thing happens. It must not matter to what is allowed and forbidden.
    fn event(&mut self, traffic: &Traffic) -> Result<String> {
        Ok(match self.chance.below(13) {
            0 | 1 => {
                let form = self.chance.below(4);
                self.folder.put("allow.yaml", &allow(form))?;
                format!("the policy in form {form}")
            }
            2 | 3 => {
                let form = self.chance.below(50);
                self.folder.put("clients.yaml", &clients(form))?;
                format!("the set with {form} more nets")
            }
            4 => {
                let name = ["allow.yaml", "clients.yaml", "endpoints.yaml"][self.chance.below(3) as usize];
                self.folder.put(name, "apiVersion: [ this is no YAML\n")?;
                format!("{name} broken")
            }
            5 => {
                self.folder.put("endpoints.yaml", ENDPOINTS)?;
                self.folder.put("allow.yaml", &allow(0))?;
                self.folder.put("clients.yaml", &clients(0))?;
                "all repaired".to_owned()
            }
            6 => {
                let port = 9000 + self.chance.below(100);
                self.folder.put("other.yaml", &other(port))?;
                format!("a policy for port {port}")
            }
            7 => {
                let _ = self.folder.remove("other.yaml");
                "that policy removed".to_owned()
            }
            8 => self.address()?,
            9 | 10 => self.device(traffic)?,
            _ => self.replace()?,
        })
    }

    fn address(&mut self) -> Result<String> {
        let word = if self.second { "del" } else { "add" };
        self.lab.node.ip(&format!("addr {word} {SECOND}/24 dev eth0\n"))?;
        self.second = !self.second;
        Ok(format!("addr {word} {SECOND}"))
    }

    fn device(&mut self, traffic: &Traffic) -> Result<String> {
        match self.extra {
            None => {
                self.lab.node.ip(&format!(
                    "link add dmz0 type veth peer name dmz netns {}\naddr add {EXTRA}/24 dev dmz0\nlink set dmz0 up\n",
                    self.lab.inside.name()
                ))?;
                self.lab.inside.ip("addr add 10.99.0.2/24 dev dmz\nlink set dmz up\n")?;
                self.extra = Some("dmz0");
                Ok("device dmz0 appears".to_owned())
            }
            Some(name) if self.chance.below(3) > 0 => {
                // Once it carries programs, nothing may open it again; a new name neither.
                let carries =
                    |s: &serde_json::Value| s["attached"].to_string().contains(&format!("\"{name}\""));
                if self.agent.is_some() && self.home.status().is_ok_and(|s| carries(&s)) {
                    traffic.aim_at_extra(true);
                }
                let next = if name == "dmz0" { "dmz1" } else { "dmz0" };
                self.lab.node.ip(&format!("link set {name} name {next}\n"))?;
                self.extra = Some(next);
                Ok(format!("device {name} becomes {next}"))
            }
            Some(name) => {
                traffic.aim_at_extra(false);
                self.lab.node.ip(&format!("link del {name}\n"))?;
                self.extra = None;
                Ok(format!("device {name} vanishes"))
            }
        }
    }

    /// Killed at whatever it was doing; the next may be killed before it has begun.
    fn replace(&mut self) -> Result<String> {
        if let Some(agent) = self.agent.take() {
            agent.kill_9()?;
        }
        let mut done = "kill -9".to_owned();
        if self.chance.below(3) == 0 {
            let form = self.chance.below(4);
            self.folder.put("allow.yaml", &allow(form))?;
            done += &format!(", the policy in form {form}");
        }
        if self.chance.below(8) == 0 {
            done += &self.layout()?;
        }
        thread::sleep(Duration::from_millis(self.chance.below(100)));
        self.spawn()?;
        Ok(done + ", another agent")
    }

    /// As if a build with another layout of the maps had run until now.
    fn layout(&self) -> Result<String> {
        let pins = self.home.pin_dir();
        let own = pins.join(format!("v{}", dataplane_common::ABI_VERSION));
        let old = pins.join("v9999");
        if old.exists() || !own.exists() {
            return Ok(String::new());
        }
        fs::rename(&own, &old).context("pins of another layout")?;
        Ok(", of another layout".to_owned())
    }
}

/// The same in four words.
fn allow(form: u64) -> String {
    let source = match form {
        0 => "nets: [203.0.113.0/24]",
        1 => "nets: [203.0.113.7/32, 198.51.100.0/24]",
        2 => "selector: clients == 'yes'",
        _ => "notNets: [10.0.0.0/8]",
    };
    format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: allow}}
spec:
  order: {form}
  selector: role == 'node'
  types: [Ingress]
  ingress:
  - {{action: Allow, protocol: TCP, source: {{{source}}}, destination: {{ports: [8080]}}}}
  - {{action: Allow, protocol: UDP, source: {{{source}}}, destination: {{ports: [{ALLOWED_UDP}]}}}}
"
    )
}

fn clients(more: u64) -> String {
    let nets: Vec<String> = (0..more).map(|n| format!("198.18.{n}.0/24")).collect();
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: clients, labels: {{clients: \
         'yes'}}}}\nspec: {{nets: [{OUTSIDE}/32, {}]}}\n",
        nets.join(", ")
    )
}

fn other(port: u64) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: other}}\nspec: {{order: 50, \
         selector: role == 'node', types: [Ingress], ingress: [{{action: Allow, protocol: TCP, destination: {{ports: \
         [{port}]}}}}]}}\n"
    )
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn live(seed: u64, events: u64) -> Result<()> {
    let mut life = Life::new(seed)?;
    let _server = Server::start(&life.lab.node, FORBIDDEN, Speech::Http("forbidden"))?;
    let mut traffic = Traffic::start(&life.lab)?;
    life.spawn()?;
    life.agent.as_mut().context("no agent")?.next_generation()?;
    traffic.forbid(&life.lab)?;
    let begin = Instant::now();
    for number in 0..events {
        let happened = life.event(&traffic)?;
        life.log.push(format!("{number} at {} ms: {happened}", begin.elapsed().as_millis()));
        thread::sleep(Duration::from_millis(20 + life.chance.below(400)));
        if let Err(e) = traffic.counts.verdict() {
            let log = life.agent.as_ref().map(Agent::log).unwrap_or_default();
            bail!(
                "seed {seed}: {e:#}\n{}\n{}\nthe last agent: {log}",
                traffic.counts.summary(),
                life.log.join("\n")
            );
        }
    }
    thread::sleep(Duration::from_secs(1));
    traffic.counts.verdict().with_context(|| format!("seed {seed}\n{}", life.log.join("\n")))?;
    println!("seed {seed}, {events} events in {} s: {}", begin.elapsed().as_secs(), traffic.counts.summary());
    let counts = &traffic.counts;
    for (what, count) in [
        ("exchanges", &counts.exchanges),
        ("connections", &counts.connections),
        ("datagrams", &counts.datagrams),
        ("forbidden tries", &counts.tried),
    ] {
        ensure!(count.load(Relaxed) > events, "too few {what} to prove anything: {}", counts.summary());
    }
    // And the witness is no dead one: with everything taken off, the forbidden arrives.
    drop(life.agent.take());
    let mut detach = life.lab.node.command(agent_program()?);
    ensure!(detach.arg("detach").arg("--pin-dir").arg(life.home.pin_dir()).status()?.success(), "detach");
    let end = Instant::now() + Duration::from_secs(60);
    while counts.leaked.load(Relaxed) == 0 {
        ensure!(Instant::now() < end, "the witness sees nothing even without policy");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn two_hundred_events_under_traffic() {
    if can_run("two_hundred_events_under_traffic") {
        live(number("PORTCULLIS_LIFE_SEED", 1), number("PORTCULLIS_LIFE_EVENTS", 200)).unwrap();
    }
}
