//! Inside the VM that boots with a packet source waiting: PID 1 plays systemd. It starts the floor, waits for its word,
//! only then configures the network, and later starts the agent. `xtask/src/boot.rs` sends the packets.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

const AGENT: &str = "/bin/portcullis";
const POLICIES: &str = "/policies";
/// A busy machine, and an emulated one at that.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long each phase is watched.
const PHASE: Duration = Duration::from_secs(2);
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

/// `mode`: `floor`, or `bare` for the control.
pub fn run(mode: &str) -> Result<()> {
    let floor = match mode {
        "floor" => true,
        "bare" => false,
        other => bail!("PC_BOOT={other}: floor or bare"),
    };
    fs::create_dir_all(POLICIES)?;
    fs::write(format!("{POLICIES}/host.yaml"), POLICY)?;
    let [allowed, forbidden] = [listen(9998)?, listen(9999)?];

    let floor = floor.then(|| start("floor")).transpose()?;
    busybox(&["ip", "addr", "add", "10.0.2.15/24", "dev", "eth0"])?;
    busybox(&["ip", "link", "set", "eth0", "up"])?;
    let begin = Instant::now();
    let mut first = [0, 0];
    while first[0] == 0 || begin.elapsed() < PHASE {
        ensure!(begin.elapsed() < PATIENCE, "no packet of the source arrived, so nothing is proved");
        thread::sleep(Duration::from_millis(20));
        first = [first[0] + arrived(&allowed), first[1] + arrived(&forbidden)];
    }

    let agent = start("run")?;
    let during = [arrived(&allowed), arrived(&forbidden)];
    let begin = Instant::now();
    let mut last = [0, 0];
    while last[0] == 0 || begin.elapsed() < PHASE {
        ensure!(begin.elapsed() < PATIENCE, "what is allowed does not arrive under the agent");
        thread::sleep(Duration::from_millis(20));
        last = [last[0] + arrived(&allowed), last[1] + arrived(&forbidden)];
    }
    println!(
        "VMTEST-BOOT {mode}: [allowed, forbidden] before the agent {first:?}, while it began {during:?}, under it {last:?}"
    );
    ensure!(last[1] == 0, "forbidden packets arrived under the agent");
    match floor {
        Some(mut floor) => {
            ensure!(first[1] + during[1] == 0, "forbidden packets arrived although the floor was there");
            let status = floor.wait()?;
            ensure!(status.success(), "the floor ended with {status}");
        }
        None => {
            ensure!(first[1] > 0, "without a floor nothing forbidden arrived either: the test proves nothing")
        }
    }
    drop(agent);
    Ok(())
}

/// Starts a service and waits until it says that it is ready.
fn start(verb: &str) -> Result<Child> {
    let socket = format!("/run/notify-{verb}");
    let ear = UnixDatagram::bind(&socket)?;
    ear.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut command = Command::new(AGENT);
    command.args([verb, "--node", "node1", "--policies", POLICIES]).env("NOTIFY_SOCKET", &socket);
    let mut child = command.spawn().context(AGENT)?;
    let begin = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        if let Ok(length) = ear.recv(&mut buffer)
            && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1")
        {
            println!("VMTEST-BOOT {verb} ready after {:.1} s", begin.elapsed().as_secs_f32());
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!("portcullis {verb} ended with {status}");
        }
        ensure!(begin.elapsed() < PATIENCE, "portcullis {verb} is not ready after {PATIENCE:?}");
    }
}

fn listen(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn arrived(listener: &UdpSocket) -> usize {
    let mut buffer = [0; 64];
    std::iter::from_fn(|| listener.recv(&mut buffer).ok()).count()
}

fn busybox(words: &[&str]) -> Result<()> {
    let output = Command::new("/bin/busybox").args(words).output().context("busybox")?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
