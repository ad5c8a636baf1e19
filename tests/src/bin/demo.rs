//! The story that `cargo xtask demo` tells: a NodePort of a real node, before policy, with policy, after a live edit,
//! and after the agent was killed. Every line is a real connection through the real kernel; who decided is what the
//! kernel programs counted. Exit 0 only when everything was as expected.

use std::{
    net::Ipv4Addr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use dataplane_common::abi::ListKind;
use tests::{
    netns::Netns,
    probe::{Got, ask},
    process::{Agent, Home, Policies},
    topology::{
        Lab, NODE, NODE_PORT, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, PEER, POD, POD_SAYS, Proxy, SSH_SAYS,
        check_tools, policies,
    },
    witness::Witness,
};

/// The rules that the story may call by name.
const RULES: [(ListKind, &str, u32); 3] = [
    (ListKind::PreDnat, "allow-cluster-internal-ingress-only", 2),
    (ListKind::PreDnat, "allow-nodeport", 1),
    (ListKind::NormalEgress, "allow-outbound-external", 1),
];

/// How far the story is; what must happen depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chapter {
    Before,
    Protected,
    Pinhole,
    Killed,
}

impl Chapter {
    const fn title(self) -> &'static str {
        match self {
            Self::Before => "1. before policy: everybody gets in",
            Self::Protected => "2. with policies/nodeport/base: only the inside gets in, and ssh, always",
            Self::Pinhole => {
                "3. live edit: allow-nodeport.yaml was copied into the folder, and TCP 31852 is open"
            }
            Self::Killed => "4. kill -9 of the agent: enforcement goes on",
        }
    }
}

/// One question that somebody asks in every chapter.
struct Question {
    who: &'static str,
    what: &'static str,
    from: fn(&Lab) -> &Netns,
    source: Ipv4Addr,
    to: (Ipv4Addr, u16),
    words: &'static str,
    /// Whether the answer must come.
    open: fn(Chapter) -> bool,
}

const QUESTIONS: [Question; 6] = [
    Question {
        who: "outside 203.0.113.7",
        what: "NodePort 31852 (HTTP)",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (NODE, NODE_PORT),
        words: POD_SAYS,
        open: |chapter| chapter != Chapter::Protected,
    },
    Question {
        who: "inside  1.2.3.4",
        what: "NodePort 31852 (HTTP)",
        from: |lab| &lab.peer,
        source: PEER,
        to: (NODE, NODE_PORT),
        words: POD_SAYS,
        open: |_| true,
    },
    Question {
        who: "outside 203.0.113.7",
        what: "pod 192.168.1.10:8080",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (POD, 8080),
        words: POD_SAYS,
        open: |chapter| chapter == Chapter::Before,
    },
    Question {
        who: "outside 203.0.113.7",
        what: "node 10.240.0.11:8080",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (NODE, 8080),
        words: NODE_SAYS,
        open: |chapter| chapter == Chapter::Before,
    },
    Question {
        who: "outside 203.0.113.7",
        what: "node 10.240.0.11:22 (ssh)",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (NODE, 22),
        words: SSH_SAYS,
        open: |_| true,
    },
    Question {
        who: "node    10.240.0.11",
        what: "203.0.113.7:443, outgoing",
        from: |lab| &lab.node,
        source: NODE,
        to: (OUTSIDE, 443),
        words: OUTSIDE_SAYS,
        open: |_| true,
    },
];

fn main() -> ExitCode {
    let begin = Instant::now();
    match story() {
        Ok(0) => {
            println!(
                "\nAll as expected, in {:.0} s. Everything was cleaned up.",
                begin.elapsed().as_secs_f32()
            );
            ExitCode::SUCCESS
        }
        Ok(wrong) => {
            println!("\n{wrong} lines were NOT as expected.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells it; how many lines were not as expected.
fn story() -> Result<usize> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs; it needs root: sudo -E cargo xtask demo"
        );
    }
    check_tools()?;
    let lab = Lab::new(Proxy::Nftables)?;
    println!(
        "A node (eth0 10.240.0.11) with a pod behind a NodePort, translated in nftables as kube-proxy does."
    );
    let mut wrong = chapter(&lab, Chapter::Before, None)?;

    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put_all(&policies().join("nodeport/base"))?;
    let (mut agent, generation) = Agent::start(&lab.node, &folder, &home)?;
    println!("\nportcullis run: generation {generation} in force");
    let witness = Witness::open(&home.pin_dir(), &RULES)?;
    wrong += chapter(&lab, Chapter::Protected, Some(&witness))?;

    folder.put_all(&policies().join("nodeport/pinhole"))?;
    println!("\nportcullis run: generation {} in force", agent.next_generation()?);
    wrong += chapter(&lab, Chapter::Pinhole, Some(&witness))?;

    agent.kill_9()?;
    std::thread::sleep(Duration::from_millis(300));
    wrong += chapter(&lab, Chapter::Killed, Some(&witness))?;
    Ok(wrong)
}

fn chapter(lab: &Lab, chapter: Chapter, witness: Option<&Witness>) -> Result<usize> {
    println!("\n{}\n", chapter.title());
    line(["who", "what", "expected", "got", "conntrack", "decided by"]);
    let mut wrong = 0;
    for question in &QUESTIONS {
        wrong += usize::from(!put(lab, question, chapter, witness)?);
    }
    Ok(wrong)
}

/// Asks one question and prints its line; whether everything was as expected, the proof by conntrack included.
fn put(lab: &Lab, question: &Question, chapter: Chapter, witness: Option<&Witness>) -> Result<bool> {
    lab.flush_conntrack()?;
    let before = witness.map(Witness::tally).transpose()?;
    let (address, port) = question.to;
    let got = ask((question.from)(lab), address, port)?;
    let open = (question.open)(chapter);
    let expected = if open { Got::Answer(question.words.to_owned()) } else { Got::Silence };
    let entries = lab.conntrack(question.source, port)?;
    // An entry is made where DNAT is done. Dropped without one: dropped before.
    let proof = match entries.first() {
        Some(entry) if port == NODE_PORT && entry.contains(&format!("src={POD}")) => "translated",
        Some(_) => "tracked",
        None => "no entry",
    };
    let decided = match (witness, &before) {
        (Some(witness), Some(before)) => witness.decided(before, &witness.tally()?),
        _ => "nobody".to_owned(),
    };
    let good = got == expected && entries.is_empty() != open;
    let got = if good { got.to_string() } else { format!("{got}  <-- WRONG") };
    line([question.who, question.what, &expected.to_string(), &got, proof, &decided]);
    Ok(good)
}

fn line([who, what, expected, got, proof, decided]: [&str; 6]) {
    println!("  {who:<20} {what:<26} {expected:<28} {got:<28} {proof:<10} {decided}");
}
