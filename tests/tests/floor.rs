//! The boot floor and the agent as systemd runs them: with the capabilities of their units and no other, telling when
//! they are ready and that they live. A packet source waits from the beginning; what is forbidden never arrives.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{
    can_run,
    netns::Netns,
    process::{Home, Policies, agent_program},
};

const PATIENCE: Duration = Duration::from_secs(90);
const ALLOWED: u16 = 9998;
const FORBIDDEN: u16 = 9999;
const NODE: &str = "192.0.2.1";
const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-eth0, labels: {role: host}}
spec: {node: node1, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: one-port}
spec:
  selector: role == 'host'
  types: [Ingress]
  ingress: [{action: Allow, protocol: UDP, destination: {ports: [9998]}}]
";

/// What systemd is to a service: its capabilities, and an ear for what it tells.
struct Service {
    child: Child,
    ear: UnixDatagram,
    _folder: TempDir,
}

impl Service {
    /// Starts what the unit's ExecStart names, with the folders of this test.
    fn start(unit: &str, netns: &Netns, policies: &Policies, home: &Home) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd").join(unit);
        let text = fs::read_to_string(&file)?;
        let line = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).context(key.to_owned());
        let verb = line("ExecStart=/usr/bin/portcullis ")?.split(' ').next().unwrap_or_default().to_owned();
        let bounds: Vec<String> = line("CapabilityBoundingSet=")?
            .split(' ')
            .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("notify");
        let ear = UnixDatagram::bind(&socket)?;
        ear.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut command = netns.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--no-new-privs", "--inh-caps", "-all"]);
        command.args(["--bounding-set", &format!("-all,{}", bounds.join(","))]);
        command.arg(agent_program()?).args([&verb, "--node", "node1", "--policies"]).arg(policies.path());
        command.arg("--pin-dir").arg(home.pin_dir()).arg("--state-dir").arg(home.state_dir());
        command.env("NOTIFY_SOCKET", &socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("cannot start the service")?;
        Ok(Self { child, ear, _folder: folder })
    }

    fn hears(&mut self, word: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while Instant::now() < end {
            if let Ok(length) = self.ear.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == word)
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("ended with {status} before it said {word}");
            }
        }
        anyhow::bail!("it did not say {word} within {PATIENCE:?}")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends to both ports, for ever.
fn send_always(from: &Netns, stop: &Arc<AtomicBool>) -> Result<thread::JoinHandle<()>> {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let stop = stop.clone();
    Ok(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for port in [ALLOWED, FORBIDDEN] {
                // Until the device is there nobody can be reached.
                let _ = socket.send_to(b"knock", (NODE, port));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }))
}

/// Datagrams that arrived since the last call.
fn arrived(listener: &UdpSocket) -> usize {
    let mut buffer = [0; 64];
    std::iter::from_fn(|| listener.recv(&mut buffer).ok()).count()
}

fn wait_for(listener: &UdpSocket) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while arrived(listener) == 0 {
        ensure!(Instant::now() < end, "what is allowed does not arrive, so nothing is proved");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn world() -> Result<(Netns, Netns, [UdpSocket; 2])> {
    let (node, outside) = (Netns::new("floor")?, Netns::new("source")?);
    let listener = |port: u16| -> Result<UdpSocket> {
        let socket = node.run(|| UdpSocket::bind(("0.0.0.0", port)))??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let listeners = [listener(ALLOWED)?, listener(FORBIDDEN)?];
    Ok((node, outside, listeners))
}

/// The device is there, but down: nothing that configures the network has begun.
fn plug_in(node: &Netns, outside: &Netns) -> Result<()> {
    node.ip(&format!("link add eth0 type veth peer name far netns {}\n", outside.name()))?;
    outside.ip("link set far up\naddr add 192.0.2.2/24 dev far\n")
}

const NETWORK: &str = "addr add 192.0.2.1/24 dev eth0\nlink set eth0 up\n";

#[test]
fn nothing_forbidden_arrives_from_the_boot_to_the_agent() {
    if can_run("nothing_forbidden_arrives_from_the_boot_to_the_agent") {
        boot().unwrap();
    }
}

fn boot() -> Result<()> {
    let (node, outside, [allowed, forbidden]) = world()?;
    let (policies, home) = (Policies::empty()?, Home::new()?);
    policies.put("host.yaml", POLICY)?;
    let stop = Arc::new(AtomicBool::new(false));
    let sender = send_always(&outside, &stop)?;

    plug_in(&node, &outside)?;
    let mut floor = Service::start("portcullis-floor.service", &node, &policies, &home)?;
    floor.hears("READY=1")?;
    node.ip(NETWORK)?;
    wait_for(&allowed)?;
    thread::sleep(Duration::from_millis(500));
    ensure!(arrived(&forbidden) == 0, "forbidden packets arrived under the floor");

    // The agent comes: the floor leaves by itself, and there is no moment between them.
    let mut agent = Service::start("portcullis.service", &node, &policies, &home)?;
    agent.hears("READY=1")?;
    let status = floor.child.wait()?;
    ensure!(status.success(), "the floor ended with {status}");
    arrived(&allowed);
    wait_for(&allowed)?;
    agent.hears("WATCHDOG=1")?;
    ensure!(arrived(&forbidden) == 0, "forbidden packets arrived while the agent took over");

    // A service that is stopped leaves enforcement.
    drop(agent);
    arrived(&allowed);
    wait_for(&allowed)?;
    ensure!(arrived(&forbidden) == 0, "stopping the agent ended enforcement");
    stop.store(true, Ordering::Relaxed);
    let _ = sender.join();
    Ok(())
}

/// The control: without a floor the same source gets through until the agent is there.
#[test]
fn without_a_floor_they_arrive() {
    if !can_run("without_a_floor_they_arrive") {
        return;
    }
    let run = || -> Result<()> {
        let (node, outside, [_, forbidden]) = world()?;
        let stop = Arc::new(AtomicBool::new(false));
        let sender = send_always(&outside, &stop)?;
        plug_in(&node, &outside)?;
        node.ip(NETWORK)?;
        wait_for(&forbidden)?;
        stop.store(true, Ordering::Relaxed);
        let _ = sender.join();
        Ok(())
    };
    run().unwrap();
}
