//! `kubectl portcullis` with a real kubectl, a real API server, and two nodes whose agents enforce. `kubectl exec` goes the
//! whole way, from the API server to a kubelet of each node, which here is a small one of our own. About 30 s.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portcullis::resource::Kind;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    can_run,
    kubernetes::{
        Cluster, V3,
        node::{self, Node, Relay},
        servers::Programs,
    },
    probe::{Got, ask},
    process::{Agent, Home, Said, agent_program},
    skip,
    topology::{INSIDE, Lab, NODE, NODE_PORT, Proxy, policies},
};

/// Somebody without any right of their own.
const VIEWER: &str = "jane";
const PATIENCE: Duration = Duration::from_secs(120);

/// Two nodes under policy, and a person with a kubectl.
struct Case {
    // Dropped in this order.
    agents: Vec<Agent>,
    nodes: Vec<Node>,
    _relay: Relay,
    cluster: Cluster,
    homes: Vec<Home>,
    lab: Lab,
    /// Holds `kubectl` and its plugin.
    bin: TempDir,
}

/// The second node: from outside only its kubelet may be asked, by the first.
const SECOND: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node2-eth0, labels: {second: ''}}
spec: {interfaceName: eth0, node: node2, expectedIPs: [10.240.0.12]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: second}
spec:
  selector: has(second)
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, source: {nets: [10.240.0.11/32]}, destination: {ports: [10250]}}]
";

impl Case {
    fn new(programs: Programs) -> Result<Self> {
        let lab = Lab::new(Proxy::Nftables)?;
        let cluster = Cluster::start(&lab.node, programs)?;
        for file in
            ["kubernetes/rbac.yaml", "kubernetes/viewer.yaml", "crds/nodepolicystatuses.portcullis.dev.yaml"]
        {
            let file = policies().join("../packaging").join(file);
            cluster.apply(&fs::read_to_string(file)?)?;
        }
        cluster.define(V3)?;
        cluster.apply_all(&policies().join("nodeport/base"))?;
        cluster.apply(SECOND)?;
        let relay = Relay::start(&lab.inside, &lab.node, 6443)?;
        let homes = vec![Home::new()?, Home::new()?];
        let (mut agents, mut nodes) = (Vec::new(), Vec::new());
        for (name, netns, address, home) in
            [("node1", &lab.node, NODE, &homes[0]), ("node2", &lab.inside, INSIDE, &homes[1])]
        {
            nodes.push(Node::join(&cluster, netns, name, address, home)?);
            let kubeconfig = cluster.kubeconfig().display().to_string();
            let words = ["--kubernetes", "--kubeconfig", &kubeconfig];
            agents.push(Agent::spawn_on(name, &agent_program()?, netns, home, &words)?);
        }
        let bin = tools(&cluster)?;
        Ok(Self { agents, nodes, _relay: relay, cluster, homes, lab, bin })
    }

    /// Waits until both nodes refuse.
    fn enforced(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.refused()?.iter().any(|got| *got != Got::Silence) {
            if Instant::now() > end {
                let logs: Vec<String> = self.agents.iter().map(Agent::log).collect();
                bail!("not enforced: {}\n{:#}", logs.join("\n--\n"), self.homes[1].status()?);
            }
        }
        Ok(())
    }

    /// One packet that each node refuses, the first node's first.
    fn refused(&self) -> Result<[Got; 2]> {
        Ok([ask(&self.lab.outside, NODE, NODE_PORT)?, ask(&self.lab.outside, INSIDE, 8080)?])
    }

    /// `kubectl portcullis WORDS`, as this kubeconfig's user.
    fn command(&self, kubeconfig: &Path, words: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.lab.node.command(self.bin.path().join("kubectl"));
        command.arg("portcullis").args(words).arg("--kubeconfig").arg(kubeconfig);
        command.env("PATH", format!("{}:{path}", self.bin.path().display())).env_remove("KUBECTL");
        command.stdin(Stdio::null());
        command
    }

    fn plugin(&self, words: &[&str]) -> Result<Said> {
        said(&mut self.command(&self.cluster.admin_kubeconfig(), words))
    }

    fn viewer(&self, words: &[&str]) -> Result<Said> {
        said(&mut self.command(&self.cluster.kubeconfig_as(VIEWER)?, words))
    }
}

fn said(command: &mut Command) -> Result<Said> {
    let output = command.output().context("cannot run kubectl")?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A folder for PATH with kubectl and its plugin, which is the agent's program under another name.
fn tools(cluster: &Cluster) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("portcullis-bin-").tempdir()?;
    let kubectl = folder.path().join("kubectl");
    let words: Vec<String> =
        cluster.programs().words("kubectl").iter().map(|word| format!("'{word}'")).collect();
    fs::write(&kubectl, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
    for name in ["kubectl-portcullis", "kubectl_complete-portcullis"] {
        symlink(fs::canonicalize(agent_program()?)?, folder.path().join(name))?;
    }
    Ok(folder)
}

fn json_lines(said: &Said) -> Vec<Value> {
    said.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn all_nodes_are_asked_through_kubectl() {
    let test = "all_nodes_are_asked_through_kubectl";
    if !can_run(test) {
        return;
    }
    let programs = match Programs::find().unwrap() {
        Ok(programs) => programs,
        Err(missing) => return skip(test, &missing.0),
    };
    if let Some(missing) = ["kubectl", "kubelet"].into_iter().find_map(|program| programs.missing(program)) {
        return skip(test, &missing.0);
    }
    let mut case = Case::new(programs).unwrap();
    case.enforced().unwrap();
    what_is_kept_comes_in_order(&case).unwrap();
    a_packet_is_explained(&case).unwrap();
    the_worst_stands_first(&case).unwrap();
    rights(&case).unwrap();
    completion(&case).unwrap();
    a_node_that_is_lost_is_said(&mut case).unwrap();
}

fn what_is_kept_comes_in_order(case: &Case) -> Result<()> {
    case.refused()?;
    let said = case.plugin(&["observe", "-o", "json", "--verdict", "deny"])?;
    assert_eq!(said.code, 0, "{said:?}");
    let lines = json_lines(&said);
    let events: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "Event").collect();
    let of = |name: &str| events.iter().filter(|e| e["node"] == name).count();
    assert!(of("node1") > 1 && of("node2") > 1, "{said:?}");
    let times: Vec<&str> = events.iter().filter_map(|e| e["time"].as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let changes = events.windows(2).filter(|pair| pair[0]["node"] != pair[1]["node"]).count();
    assert!(changes > 1, "events of both nodes are mixed: {said:?}");
    assert_eq!(lines.iter().filter(|line| line["kind"] == "Summary").count(), 2, "{said:?}");

    // Filters are applied on the node.
    let said =
        case.plugin(&["observe", "--node", "node1", "--policy", "allow-cluster-internal-ingress-only"])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.lines().all(|line| line.starts_with("node1  ") && line.contains("31852")),
        "{said:?}"
    );
    assert!(said.stdout.lines().count() > 0 && said.stderr.contains("node1: "), "{said:?}");
    let wrong = case.plugin(&["observe", "--stage", "prednatt"])?;
    assert!(wrong.code == 2 && wrong.stderr.contains("preDNAT"), "{wrong:?}");
    Ok(())
}

fn a_packet_is_explained(case: &Case) -> Result<()> {
    let packet = ["--in", "eth0", "--from", "203.0.113.7", "--to", "10.240.0.11", "--dport", "31852"];
    let explain = |words: &[&str]| case.plugin(&[&["explain"], words, &packet].concat());
    let said = explain(&["--node", "node1"])?;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.starts_with("node node1, by its agent\nDeny at stage preDNAT"), "{said:?}");

    // The same by what the API shows, and a node without an agent is not passed over.
    node::add(&case.cluster, "node3", "10.240.0.13".parse()?)?;
    let said = explain(&["--all-nodes", "-o", "json"])?;
    let answers: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    let row = |number: usize| {
        let item = &answers["items"][number];
        (item["node"].clone(), item["from"].clone(), item["explanation"]["verdict"].clone())
    };
    assert_eq!(row(0), (json!("node1"), json!("agent"), json!("Deny")), "{said:?}");
    assert_eq!(row(1).1, json!("agent"), "{said:?}");
    assert_eq!((row(2).0, row(2).1), (json!("node3"), json!("computed")), "{said:?}");
    assert!(answers["items"][2]["why"].to_string().contains("enforced by nobody"), "{said:?}");
    let computed = explain(&["--node", "node1", "--computed", "-o", "json"])?;
    let computed: Value = serde_json::from_str(&computed.stdout).with_context(|| format!("{computed:?}"))?;
    let (asked, computed) = (&answers["items"][0], &computed["items"][0]);
    assert_eq!(computed["from"], "computed");
    assert_eq!(asked["explanation"], computed["explanation"]);
    let table = explain(&["--all-nodes"])?;
    assert!(table.stdout.contains("node3  ") && table.stdout.contains("COMPUTED HERE"), "{table:?}");
    Ok(())
}

/// Asks again until it holds.
fn until(what: &str, ask: impl Fn() -> Result<Said>, holds: impl Fn(&Said) -> bool) -> Result<Said> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = ask()?;
        if holds(&said) {
            return Ok(said);
        }
        if Instant::now() > end {
            bail!("not {what}: code {}\n{}\n{}", said.code, said.stdout, said.stderr);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Both nodes report; the third has no agent, and a policy is bad.
fn the_worst_stands_first(case: &Case) -> Result<()> {
    let well = |said: &Said| said.code == 0 && said.stdout.matches("  enforced  ").count() == 2;
    until("well", || case.plugin(&["status", "node1", "node2"]), well)?;
    let said = case.plugin(&["status"])?;
    let first = "NO REPORT: node node3: no report, so nothing is known to be enforced there: no agent's pod is there\n";
    assert!(said.code == 1 && said.stdout.starts_with(first), "{said:?}");
    let json = case.plugin(&["status", "-o", "json"])?;
    let json: Value = serde_json::from_str(&json.stdout)?;
    assert_eq!(
        (&json["nodes"][0]["node"], &json["nodes"][0]["standing"]),
        (&json!("node3"), &json!("NoReport"))
    );

    let policy = ["status", "--policy", "gnp/second"];
    let said = until("in force", || case.plugin(&policy), |said| said.code == 0)?;
    assert!(said.stdout.lines().any(|line| line.contains("node2") && line.contains("in force")), "{said:?}");
    assert!(said.stdout.contains("selects nothing here"), "of node1: {said:?}");
    let bad = json!({
        "apiVersion": V3, "kind": "GlobalNetworkPolicy", "metadata": {"name": "bad"},
        "spec": {"selector": "all(", "order": "first"},
    });
    case.cluster.apply_value(&bad)?;
    let refused = "REJECTED: GlobalNetworkPolicy/bad on node1, node2: ";
    let said = until("told", || case.plugin(&["status"]), |said| said.stdout.contains(refused))?;
    assert!(said.code == 1 && said.stdout.contains("spec.order"), "{said:?}");
    assert_eq!(case.plugin(&["status", "--policies"])?.code, 1);
    assert_eq!(case.plugin(&["status", "--policy", "gnp/nobody"])?.code, 2);
    assert_eq!(case.plugin(&["status", "nowhere"])?.code, 2);
    case.cluster.delete(V3, Kind::GlobalNetworkPolicy, "bad")
}

/// The roles suffice, and without them the refusal is told in the API server's words.
fn rights(case: &Case) -> Result<()> {
    let observe = ["observe", "--node", "node1"];
    let refused = case.viewer(&observe)?;
    assert!(refused.code == 2 && refused.stderr.contains("cannot list resource \"pods\""), "{refused:?}");
    let bind = |kind: &str, role: &str, namespace: Option<&str>| {
        let binding = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        case.cluster.apply_value(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": binding,
            "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": VIEWER}],
        }))
    };
    bind("ClusterRole", "portcullis-viewer", None)?;
    until("allowed", || case.viewer(&["status", "node1", "node2"]), |said| said.code == 0)?;
    let refused = case.viewer(&observe)?;
    assert!(refused.code == 2 && refused.stderr.contains("cannot list resource \"pods\""), "{refused:?}");

    bind("Role", "portcullis-operator", Some("portcullis"))?;
    // node3 has no agent, so the answer is not whole.
    let shown =
        |said: &Said| said.code == 1 && said.stdout.contains("node1") && said.stdout.contains("node2");
    let said = until("allowed", || case.viewer(&["observe"]), shown)?;
    assert!(said.stderr.contains("node3: has no agent"), "{said:?}");
    Ok(())
}

/// As the shell's completion of kubectl asks for it.
fn completion(case: &Case) -> Result<()> {
    let mut command = case.lab.node.command(case.bin.path().join("kubectl"));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", case.bin.path().display()));
    command.env("KUBECONFIG", case.cluster.admin_kubeconfig());
    let said = said(command.args(["__complete", "portcullis", "observe", "--node", ""]))?;
    let offered: Vec<&str> = said.stdout.lines().take_while(|line| !line.starts_with(':')).collect();
    assert_eq!(offered, ["node1", "node2", "node3"], "{said:?}");
    Ok(())
}

/// A plugin that follows.
struct Following {
    child: Child,
    lines: Receiver<String>,
    said: PathBuf,
}

impl Following {
    fn start(case: &Case, words: &[&str]) -> Result<Self> {
        let said = case.bin.path().join("said");
        let mut command = case.command(&case.cluster.admin_kubeconfig(), words);
        let mut child = command.stdout(Stdio::piped()).stderr(fs::File::create(&said)?).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, lines, said })
    }

    /// What it showed since the last time.
    fn shown(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends packets until it holds.
fn becomes(case: &Case, what: &str, follow: &Following, holds: impl Fn(&[String]) -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut shown = Vec::new();
    loop {
        case.refused()?;
        shown.extend(follow.shown());
        if holds(&shown) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not {what}: {shown:#?}\n{}", follow.said());
        }
    }
}

fn a_node_that_is_lost_is_said(case: &mut Case) -> Result<()> {
    let mut follow = Following::start(case, &["observe", "-f"])?;
    let of = |shown: &[String], node: &str| shown.iter().any(|line| line.starts_with(node));
    becomes(case, "both nodes", &follow, |shown| of(shown, "node1") && of(shown, "node2"))?;

    case.nodes[1].stop()?;
    becomes(case, "said", &follow, |_| follow.said().contains("node2: cannot be observed"))?;
    follow.shown();
    becomes(case, "node1 alone", &follow, |shown| of(shown, "node1"))?;
    case.nodes[1].start(&case.lab.inside)?;
    becomes(case, "node2 again", &follow, |shown| of(shown, "node2"))?;

    // A signal for the plugin alone: neither kubectl nor what it started on the nodes stays behind.
    assert!(!observers(case)?.is_empty(), "they run, and are found");
    kill(Pid::from_raw(follow.child.id().cast_signed()), Signal::SIGTERM)?;
    let end = Instant::now() + PATIENCE;
    while follow.child.try_wait()?.is_none() || !observers(case)?.is_empty() {
        if Instant::now() > end {
            bail!("left behind: {:?}", observers(case)?);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Command lines of what the case's observers run: kubectl, and the program in the pods.
fn observers(case: &Case) -> Result<Vec<String>> {
    let marks = case.homes.iter().map(|home| home.state_dir().display().to_string()).collect::<Vec<_>>();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("--while-stdin") && marks.iter().any(|mark| line.contains(mark)) {
            found.push(line);
        }
    }
    Ok(found)
}
