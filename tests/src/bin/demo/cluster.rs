//! Driven by kubectl.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tests::{
    kubernetes::{Cluster, node, servers::Programs},
    probe::Got,
    process::{Agent, Home, agent_program},
    topology::{Lab, NODE, POD_SAYS, Proxy},
    witness::Witness,
};

use crate::{
    Clock,
    table::{Policy, RULES, chapter},
};

/// For a change to take effect.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it cannot do without.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-proxy", "kubectl"];

/// Where kubectl runs: the paths that it is shown with are those that a reader types.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

struct Story<'a> {
    clock: &'a Clock,
    lab: &'a Lab,
    cluster: Cluster,
}

/// Tells it; how many lines were not as expected.
pub fn story(clock: &Clock) -> Result<usize> {
    let programs = programs(clock)?;
    std::env::set_current_dir(ROOT)?;
    let lab = Lab::new(Proxy::Later)?;
    clock.say("A node (eth0 10.240.0.11) with a pod behind a NodePort, in network namespaces.");
    clock.say("starting etcd and kube-apiserver in the node's namespace");
    let cluster = Cluster::start(&lab.node, programs)?;
    let story = Story { clock, lab: &lab, cluster };
    story.kubectl(&["version"])?;
    story.kubectl(&["apply", "-f", "packaging/crds"])?;
    story.kubectl(&["wait", "--for=condition=Established", "crd", "--all"])?;
    story.kubectl(&["apply", "-f", "packaging/kubernetes/rbac.yaml"])?;
    node::add(&story.cluster, "node1", NODE)?;
    story.kubectl(&["apply", "-f", "policies/cluster-ips/services"])?;
    clock.say("starting kube-proxy (nftables) in the node's namespace");
    let _proxy = story.cluster.start_proxy(Proxy::Nftables, &[])?;
    story.outsider_gets(&Got::Answer(POD_SAYS.to_owned())).context("kube-proxy does not translate")?;
    let mut wrong = chapter(&lab, "1. before policy: everybody gets in", Policy::None, None)?;

    story.kubectl(&["apply", "-f", "policies/nodeport/base"])?;
    let home = Home::new()?;
    let mut agent = story.agent(&home)?;
    let generation = agent.next_generation()?;
    clock.say(&format!("portcullis run --kubernetes: generation {generation} in force"));
    story.outsider_gets(&Got::Silence)?;
    let witness = Witness::open(&home.pin_dir(), &RULES)?;
    let title = "2. with policies/nodeport/base: only the inside gets in, and ssh, always";
    wrong += chapter(&lab, title, Policy::Base, Some(&witness))?;

    story.kubectl(&["apply", "-f", "policies/nodeport/pinhole"])?;
    story.outsider_gets(&Got::Answer(POD_SAYS.to_owned()))?;
    let title = "3. live edit: allow-nodeport was applied, and TCP 31852 is open";
    wrong += chapter(&lab, title, Policy::Pinhole, Some(&witness))?;

    agent.kill_9()?;
    clock.say("kill -9 of the agent");
    thread::sleep(Duration::from_millis(300));
    let title = "4. kill -9 of the agent: enforcement goes on";
    wrong += chapter(&lab, title, Policy::Pinhole, Some(&witness))?;

    story.kubectl(&["delete", "-f", "policies/nodeport/pinhole"])?;
    let mut agent = story.agent(&home)?;
    let generation = agent.next_generation()?;
    clock.say(&format!("portcullis run --kubernetes: generation {generation} in force"));
    story.outsider_gets(&Got::Silence)?;
    let title = "5. allow-nodeport was deleted meanwhile, and the agent is back: TCP 31852 is closed";
    wrong += chapter(&lab, title, Policy::Base, Some(&witness))?;
    Ok(wrong)
}

/// Finds or builds the servers, and says loudly why it cannot.
fn programs(clock: &Clock) -> Result<Programs> {
    clock.say("looking for etcd, kube-apiserver, kube-proxy and kubectl; the first time they are built, for some minutes");
    let missing = match Programs::find()? {
        Ok(programs) => match PROGRAMS.into_iter().find_map(|name| programs.missing(name)) {
            None => return Ok(programs),
            Some(missing) => missing,
        },
        Err(missing) => missing,
    };
    Err(NoKubernetes(missing.0).into())
}

/// There is nothing to show it with.
#[derive(Debug)]
pub struct NoKubernetes(String);

impl fmt::Display for NoKubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "THERE IS NO KUBERNETES HERE: {}. `cargo xtask demo` without --kubernetes shows the same table from a \
             folder of policies",
            self.0
        )
    }
}

impl std::error::Error for NoKubernetes {}

impl Story<'_> {
    /// Shows the command as a person types it, and what it says.
    fn kubectl(&self, words: &[&str]) -> Result<()> {
        self.clock.say(&format!("$ kubectl {}", words.join(" ")));
        let said = self.cluster.kubectl(words, "")?;
        self.clock.say(&said.lines().map(|line| format!("  {line}\n")).collect::<String>());
        Ok(())
    }

    fn agent(&self, home: &Home) -> Result<Agent> {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let words = ["--kubernetes", "--kubeconfig", &kubeconfig];
        Agent::spawn_with(&agent_program()?, &self.lab.node, home, &words)
    }

    /// Waits until somebody outside gets this from the NodePort.
    fn outsider_gets(&self, wanted: &Got) -> Result<()> {
        let begin = Instant::now();
        loop {
            let got = self.lab.ask_node_port(&self.lab.outside)?;
            if got == *wanted {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("an outsider gets {got} from the NodePort, and not {wanted}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
