//! Nodes as the API server sees them: a Node, the agent's pod on it, and as much of a kubelet as `kubectl exec` into that
//! pod needs (`tests/kubernetes/kubelet.go`).

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Cluster;
use crate::{
    netns::Netns,
    process::{Home, agent_program},
};

/// A kubelet's.
const PORT: u16 = 10250;
/// The agents' namespace.
pub const NAMESPACE: &str = "portcullis";
const PATIENCE: Duration = Duration::from_secs(90);

/// A node with an agent's pod. What is executed in the pod runs in the node's network namespace.
pub struct Node {
    name: String,
    kubelet: Option<Child>,
    words: Vec<String>,
    log: PathBuf,
    address: Ipv4Addr,
}

impl Node {
    /// Makes the Node and its agent's pod, and starts the kubelet. The agent itself is started by others, with this home.
    pub fn join(
        cluster: &Cluster,
        netns: &Netns,
        name: &str,
        address: Ipv4Addr,
        home: &Home,
    ) -> Result<Self> {
        add(cluster, name, address)?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("portcullis-{name}"), "namespace": NAMESPACE,
                "labels": {"app.kubernetes.io/name": "portcullis"},
            },
            "spec": {
                "nodeName": name, "hostNetwork": true,
                "containers": [{
                    "name": "portcullis", "image": "portcullis",
                    "command": [agent_program()?, "run"],
                    "args": ["--kubernetes", "--state-dir", home.state_dir()],
                }],
            },
        });
        cluster.apply_value(&pod)?;
        let mut running = pod;
        running["status"] = json!({"phase": "Running", "hostIP": address, "podIP": address});
        status(cluster, &format!("/api/v1/namespaces/{NAMESPACE}/pods/portcullis-{name}"), &running)?;

        let inner = netns.command("setpriv");
        let mut words: Vec<String> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        // Goes down with us even when we are killed.
        words.extend(["--pdeathsig", "KILL"].map(str::to_owned));
        words.extend(cluster.programs().words("kubelet"));
        words.push(format!("{address}:{PORT}"));
        let log = cluster.path(&format!("kubelet-{name}.log"));
        let mut node = Self { name: name.to_owned(), kubelet: None, words, log, address };
        node.start(netns)?;
        Ok(node)
    }

    /// Starts the kubelet, and waits until it listens.
    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.kubelet = Some(command.spawn().context("cannot start the kubelet")?);
        let address = SocketAddr::from((self.address, PORT));
        let end = Instant::now() + PATIENCE;
        while netns.run(|| TcpStream::connect(address))?.is_err() {
            if Instant::now() > end {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the kubelet of {} does not listen: {said}", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The node cannot be asked any more. What runs in its pods' containers for somebody dies too.
    pub fn stop(&mut self) -> Result<()> {
        super::end(&mut self.kubelet)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A Node without anything on it.
pub fn add(cluster: &Cluster, name: &str, address: Ipv4Addr) -> Result<()> {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    cluster.apply_value(&node)?;
    node["status"] = json!({
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Lab", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    status(cluster, &format!("/api/v1/nodes/{name}"), &node)
}

fn status(cluster: &Cluster, path: &str, object: &Value) -> Result<()> {
    match cluster.request("PATCH", &format!("{path}/status?fieldManager=lab&force=true"), Some(object))? {
        (200 | 201, _) => Ok(()),
        (code, answer) => bail!("{path}: {code} {answer}"),
    }
}

/// Brings connections to a port of one namespace's 127.0.0.1 to the same port of another's: the other node's agent reaches
/// the API server, which listens nowhere else, and no policy of the lab is in its way.
pub struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Relay {
    pub fn start(from: &Netns, to: &Netns, port: u16) -> Result<Self> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let listener = from.run(|| TcpListener::bind(address))?.context("cannot listen for the relay")?;
        listener.set_nonblocking(true)?;
        let target = to.open()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => {
                        // A client whose server does not answer sees its connection end.
                        if let Ok(Ok(far)) = target.run(|| TcpStream::connect(address)) {
                            both_ways(near, far);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => return,
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn both_ways(near: TcpStream, far: TcpStream) {
    let one_way = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // An end on either side ends both.
            let _ = from.set_nonblocking(false).and_then(|()| io::copy(&mut from, &mut to));
            let _ = to.shutdown(Shutdown::Both);
        });
    };
    if let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) {
        one_way(near_too, far);
        one_way(far_too, near);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
