//! What XDP counts (D10). That it drops what TC denies, and nothing else, the lab checks with every packet.

use std::collections::BTreeMap;

use dataplane_common::abi::{HOOK_XDP, Hook};
use dataplane_common::verdict::{Reason, Verdict};

use super::KernelEngine;
use super::tests::{engine, governed, send, syn};

const POLICY: &str = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: u}, spec: {selector: \
    has(a), doNotTrack: true, applyOnForward: true, ingress: [{action: Log}, {action: Deny, protocol: TCP, destination: \
    {ports: [8080]}}, {action: Allow}]}}";

/// Packets that TC and XDP denied by a rule, and hits of every rule.
fn counts(engine: &KernelEngine) -> ([u64; 2], BTreeMap<u32, u64>) {
    engine
        .run(|lab| {
            let counters = lab.dataplane().state().counters()?;
            let denied = [Hook::Ingress as u8, HOOK_XDP]
                .map(|hook| (hook, Verdict::Deny as u8, Reason::RuleDeny as u8))
                .map(|key| counters.get(&key).map_or(0, |c| c.packets));
            let hits = lab.dataplane().state().rule_hits()?;
            Ok((denied, hits.into_iter().map(|(key, hits)| (key.identity, hits.packets)).collect()))
        })
        .unwrap()
}

/// Hits between two counts, the fewest first.
fn moved(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> Vec<u64> {
    let mut moved: Vec<u64> =
        after.iter().map(|(rule, n)| n - before.get(rule).copied().unwrap_or(0)).filter(|n| *n > 0).collect();
    moved.sort_unstable();
    moved
}

/// TC sees again what XDP lets pass, so XDP must count none of its rules; what XDP drops nobody else counts.
#[test]
fn a_packet_is_counted_once_by_who_ends_it() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, POLICY);
    let (denied, hits) = counts(&engine);
    assert_eq!(send(&mut engine, Hook::Ingress, syn()).stage, "untracked");
    let (denied_after, hits_after) = counts(&engine);
    // A test run asks both: on a device the packet would end at the first.
    assert_eq!([denied_after[0] - denied[0], denied_after[1] - denied[1]], [1, 1]);
    assert_eq!(moved(&hits, &hits_after), [2, 2], "the Log rule and the Deny, by each of them");
    let mut allowed = syn();
    allowed[37] = 0x91;
    assert_eq!(send(&mut engine, Hook::Ingress, allowed).stage, "untracked");
    let (denied_last, hits_last) = counts(&engine);
    assert_eq!(denied_last, denied_after);
    assert_eq!(moved(&hits_after, &hits_last), [1, 1], "the Log rule and the Allow, by TC alone");
}
