//! The container image, run as the DaemonSet runs it: from its own root file system, with exactly the capabilities,
//! mounts and words of the manifest, and real packets through the lab. `cargo xtask test --only image` makes the root
//! file system and names it in the environment.

mod cluster;
mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    can_run,
    netns::Netns,
    pod::{Manifest, Pod, Twist, image_root},
    probe::Got,
    process::{Agent, Home, Policies},
    skip,
    topology::{Lab, NODE_PORT, OUTSIDE, POD_SAYS, Proxy, policies},
};
use traffic::Traffic;

const ENFORCE: &str = "portcullis.yaml";
const DETACH: &str = "portcullis-detach.yaml";
const IN_FORCE: &str = "in force on eth0 (HostEndpoint/node1-eth0)";

struct Case {
    // Dropped in this order.
    home: Home,
    policies: Policies,
    lab: Lab,
    image: PathBuf,
    manifest: Manifest,
}

fn run(test: &str, body: fn(&Case) -> Result<()>) {
    let Some(image) = image_root() else {
        // `cargo xtask test` has a step of its own for this, which names it.
        eprintln!("SKIPPED {test}: no image; run cargo xtask test --only image");
        return;
    };
    if !can_run(test) {
        return;
    }
    let case = Case {
        home: Home::new().unwrap(),
        policies: Policies::empty().unwrap(),
        lab: Lab::new(Proxy::Nftables).unwrap(),
        image,
        manifest: Manifest::read(ENFORCE).unwrap(),
    };
    case.policies.put_all(&policies().join("nodeport/base")).unwrap();
    body(&case).unwrap();
}

impl Case {
    fn pod(&self, twist: Twist<'_>) -> Result<Pod> {
        let twist = Twist { policies: Some(self.policies.path()), ..twist };
        Pod::start(&self.manifest, &self.image, &self.lab.node, &self.home, &twist)
    }

    /// The pod, once it enforces.
    fn enforcing(&self) -> Result<Pod> {
        let mut pod = self.pod(Twist::default())?;
        pod.says(IN_FORCE)?;
        Ok(pod)
    }

    /// `portcullis status` of the host's package, whose bpffs is the one that the pod has.
    fn status_on_the_node(&self) -> Result<Value> {
        let program = tests::process::agent_program()?;
        let script = "mount --bind \"$0\" /sys/fs/bpf && exec \"$1\" status -o json --state-dir \"$2\"";
        let pins = self.home.pin_dir();
        let mut command = self.lab.node.command("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(pins.parent().unwrap_or(&pins));
        let output = command.arg(program).arg(self.home.state_dir()).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn node_port(&self, who: &Netns) -> Result<Got> {
        self.lab.ask_node_port(who)
    }
}

fn answer() -> Got {
    Got::Answer(POD_SAYS.to_owned())
}

/// With what the DaemonSet gives it, the agent enforces; what a process in a pod is, it is.
#[test]
fn the_agent_enforces_from_the_image() {
    run("the_agent_enforces_from_the_image", |case| {
        ensure!(case.node_port(&case.lab.outside)? == answer(), "the lab is shut by itself");
        let pod = case.enforcing()?;
        case.lab.flush_conntrack()?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence, "{}", pod.log());
        assert_eq!(case.lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new(), "dropped before DNAT");
        assert_eq!(case.node_port(&case.lab.peer)?, answer(), "{}", pod.log());

        // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
        let mask = format!("{:016x}", 1_u64 << 12 | 1 << 38 | 1 << 39);
        for set in ["CapBnd", "CapEff", "CapPrm"] {
            assert_eq!(pod.status(set)?, mask, "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(pod.status(set)?, format!("{:016x}", 0), "{set}");
        }
        assert_eq!((pod.status("NoNewPrivs")?, pod.status("Seccomp")?), ("1".into(), "2".into()));
        assert_eq!(pod.status("NSpid")?.split_whitespace().next_back(), Some("1"));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", pod.pid()?))?;
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("no root")?;
        assert!(root.split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro")), "{root}");

        // What a person on the node sees, where the agent's process has another number.
        let status = case.status_on_the_node()?;
        assert_eq!(
            (&status["agentRuns"], &status["health"]),
            (&true.into(), &"healthy".into()),
            "{status:#}"
        );
        drop(pod);
        assert_eq!(case.status_on_the_node()?["agentRuns"], false);
        Ok(())
    });
}

/// Each capability is needed: without it the agent ends, and names it.
#[test]
fn each_capability_is_needed() {
    run("each_capability_is_needed", |case| {
        let names = case.manifest.capabilities();
        assert_eq!(names, ["BPF", "NET_ADMIN", "PERFMON"]);
        let refusals =
            ["failed to create map", "refused program pc_tc_ingress", "refused program pc_tc_ingress"];
        for (name, refusal) in names.iter().zip(refusals) {
            let mut pod = case.pod(Twist { without: Some(name), ..Twist::default() })?;
            assert_eq!(pod.ends()?, 2, "without {name}: {}", pod.log());
            let log = pod.log();
            assert!(log.contains(&format!("this process lacks CAP_{name} (")), "without {name}: {log}");
            assert!(log.contains(refusal), "without {name}: {log}");
            assert_eq!(case.node_port(&case.lab.outside)?, answer(), "something is half in force");
        }
        // Not a capability, but the same refusal.
        let mut pod = case.pod(Twist { refuse_bpf: true, ..Twist::default() })?;
        assert_eq!(pod.ends()?, 2, "{}", pod.log());
        assert!(pod.log().contains("a seccomp filter is on this process"), "{}", pod.log());
        Ok(())
    });
}

/// As a rolling update does it: SIGTERM, the old pod ends, nobody for a moment, the new pod starts. Before that a floor
/// on the host hands over to the first pod.
#[test]
fn a_rolling_update_leaves_no_gap() {
    run("a_rolling_update_leaves_no_gap", |case| {
        let mut first = case.enforcing()?;
        let traffic = Traffic::start(&case.lab)?;
        let mut after = None;
        let newcomers = Traffic::newcomers(&case.lab, || {
            let took = first.terminate()?;
            // The kubelet waits for 30 s.
            ensure!(took < Duration::from_secs(15), "SIGTERM took {took:?}");
            thread::sleep(Duration::from_millis(500));
            after = Some(case.enforcing()?);
            thread::sleep(Duration::from_millis(500));
            Ok(())
        })?;
        traffic.end()?;
        eprintln!("{newcomers} new connections from inside");
        ensure!(newcomers > 20, "{newcomers} new connections are too few to tell");
        let log = first.log();
        ensure!(log.contains("what is in force stays in force"), "{log}");
        Ok(())
    });
}

/// After the DaemonSet is gone, the policy is not: the manifest for detaching takes it off, and stays.
#[test]
fn the_detach_manifest_ends_enforcement() {
    run("the_detach_manifest_ends_enforcement", |case| {
        let detach = Manifest::read(DETACH)?;
        let mut agent = case.enforcing()?;
        // Not under a running agent: the DaemonSet replaces one by the other.
        let mut early = Pod::start(&detach, &case.image, &case.lab.node, &case.home, &Twist::default())?;
        assert_eq!(early.ends()?, 2, "{}", early.log());
        assert!(early.log().contains("another portcullis uses the pin dir"), "{}", early.log());
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence);

        agent.terminate()?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence, "uninstalled, and still in force");
        let mut pod = Pod::start(&detach, &case.image, &case.lab.node, &case.home, &Twist::default())?;
        pod.says("nothing is enforced")?;
        assert_eq!(case.node_port(&case.lab.outside)?, answer(), "{}", pod.log());
        pod.terminate()?;
        let pins = fs::read_dir(case.home.pin_dir()).map_or(0, Iterator::count);
        assert_eq!(pins, 0, "pins are left");
        Ok(())
    });
}

/// One lock for the node: an agent of the host and one of a pod do not both enforce, whatever mounts they see.
#[test]
fn host_and_pod_share_one_lock() {
    run("host_and_pod_share_one_lock", |case| {
        let (host, _) = Agent::start(&case.lab.node, &case.policies, &case.home)?;
        let mut pod = case.pod(Twist::default())?;
        assert_eq!(pod.ends()?, 2, "{}", pod.log());
        assert!(
            pod.log().contains("another portcullis uses the pin dir /sys/fs/bpf/portcullis"),
            "{}",
            pod.log()
        );
        drop(host);
        // A floor leaves for whoever comes, from a container too.
        let floor = Floor::start(case, &["--policies", &case.policies.path().display().to_string()])?;
        let pod = case.enforcing()?;
        floor.leaves()?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence, "{}", pod.log());
        Ok(())
    });
}

/// The boot floor, as the host's package runs it.
struct Floor(std::process::Child);

impl Floor {
    /// `source`: options that say where its documents come from.
    fn start(case: &Case, source: &[&str]) -> Result<Self> {
        let mut command = case.lab.node.command(tests::process::agent_program()?);
        command.args(["floor", "--node", "node1"]).args(source);
        command.arg("--pin-dir").arg(case.home.pin_dir()).arg("--state-dir").arg(case.home.state_dir());
        let floor = Self(command.stdout(std::process::Stdio::null()).spawn()?);
        let pid = floor.0.id();
        case.home.await_status("that of the floor", |s| s["pid"] == pid && s["generation"] != 0)?;
        Ok(floor)
    }

    fn leaves(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "the floor ended with {status}");
        Ok(())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_image_holds_nothing_else() {
    let Some(image) = image_root() else {
        return skip("the_image_holds_nothing_else", "no image; run cargo xtask test --only image");
    };
    let programs =
        fs::read_dir(image.join("usr/bin")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(programs, ["portcullis"]);
    let bill =
        fs::read_to_string(image.join(Path::new("usr/share/doc/portcullis/portcullis.cdx.json"))).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let has = |name: &str| bill["components"].as_array().unwrap().iter().any(|c| c["name"] == name);
    for linked in ["aya", "aya-ebpf", "kube-client", "tokio", "rust-std"] {
        assert!(has(linked), "{linked} is linked and not in the bill");
    }
    for not in ["criterion", "proptest", "cc", "serde_derive", "aya-build"] {
        assert!(!has(not), "{not} is not linked");
    }
}
