//! The table: the same questions in every chapter, asked through the real kernel. Who decided is what the kernel programs
//! counted.

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::abi::ListKind;
use tests::{
    netns::Netns,
    probe::{Got, ask},
    topology::{Lab, NODE, NODE_PORT, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, PEER, POD, POD_SAYS, SSH_SAYS},
    witness::Witness,
};

/// The rules that the story may call by name.
pub const RULES: [(ListKind, &str, u32); 3] = [
    (ListKind::PreDnat, "allow-cluster-internal-ingress-only", 2),
    (ListKind::PreDnat, "allow-nodeport", 1),
    (ListKind::NormalEgress, "allow-outbound-external", 1),
];

/// What is in force; what must happen depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    None,
    /// policies/nodeport/base
    Base,
    /// With policies/nodeport/pinhole
    Pinhole,
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
    open: fn(Policy) -> bool,
}

const QUESTIONS: [Question; 6] = [
    Question {
        who: "outside 203.0.113.7",
        what: "NodePort 31852 (HTTP)",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (NODE, NODE_PORT),
        words: POD_SAYS,
        open: |policy| policy != Policy::Base,
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
        open: |policy| policy == Policy::None,
    },
    Question {
        who: "outside 203.0.113.7",
        what: "node 10.240.0.11:8080",
        from: |lab| &lab.outside,
        source: OUTSIDE,
        to: (NODE, 8080),
        words: NODE_SAYS,
        open: |policy| policy == Policy::None,
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

/// Prints a chapter; how many lines were not as expected.
pub fn chapter(lab: &Lab, title: &str, policy: Policy, witness: Option<&Witness>) -> Result<usize> {
    println!("\n{title}\n");
    line(["who", "what", "expected", "got", "conntrack", "decided by"]);
    let mut wrong = 0;
    for question in &QUESTIONS {
        wrong += usize::from(!put(lab, question, policy, witness)?);
    }
    println!();
    Ok(wrong)
}

/// Asks one question and prints its line; whether everything was as expected, the proof by conntrack included.
fn put(lab: &Lab, question: &Question, policy: Policy, witness: Option<&Witness>) -> Result<bool> {
    lab.flush_conntrack()?;
    let before = witness.map(Witness::tally).transpose()?;
    let (address, port) = question.to;
    let got = ask((question.from)(lab), address, port)?;
    let open = (question.open)(policy);
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
