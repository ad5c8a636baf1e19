//! What a change would cut, judged by the reference model before anything is written.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow};
use dataplane_common::abi::Hook;
use dataplane_common::packet::protocol;
use serde_json::json;

use super::session::{Connection, source_for};
use crate::model::Model;
use crate::policy::{NodeView, World};
use crate::scenario::engine::{Engine, FlowTuple, LiveFlow, Outcome, PacketIn};
use crate::scenario::frame_of;

/// Something that works today and would not after the change.
#[derive(Clone, Debug)]
pub struct Cut {
    pub what: &'static str,
    pub device: String,
    pub outcome: Outcome,
}

impl Cut {
    /// `new connections: Deny at stage normal on eth0, by policy web, rule 0`.
    pub fn words(&self) -> String {
        let o = &self.outcome;
        let mut text =
            format!("{}: {} at stage {} ({}) on {}", self.what, o.verdict, o.stage, o.reason, self.device);
        if let Some(policy) = &o.policy {
            let rule = o.rule.map_or_else(|| "its end".to_owned(), |r| format!("rule {r}"));
            text += &format!(", by {policy}, {rule}");
        } else if let Some(tier) = &o.tier {
            text += &format!(", at the end of tier {tier}");
        }
        text
    }
}

/// A segment of a TCP conversation: sent by the client or the server, with what flags and numbers.
struct Segment {
    by_client: bool,
    flags: &'static str,
    seq: u32,
    ack: u32,
    payload: u16,
}

const fn segment(by_client: bool, flags: &'static str, seq: u32, ack: u32, payload: u16) -> Segment {
    Segment { by_client, flags, seq, ack, payload }
}

const HANDSHAKE: [Segment; 3] = [
    segment(true, "SYN", 1000, 0, 0),
    segment(false, "SYN+ACK", 5000, 1001, 0),
    segment(true, "ACK", 1001, 5001, 0),
];
const TALK: [Segment; 2] =
    [segment(true, "PSH+ACK", 1001, 5001, 10), segment(false, "PSH+ACK", 5001, 1011, 10)];

/// What of an inbound connection would be cut: new ones like it, and the one that lives.
pub fn inbound(before: &World, after: &World, view: &NodeView, connection: &Connection) -> Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    if is_local(view, connection.client.ip()) {
        return Ok(cuts); // D5: lo is never governed.
    }
    for device in devices(view, connection) {
        let talk =
            Talk { device: &device, client: connection.client, server: connection.server, at_client: false };
        let new = |world: &World| -> Result<Option<Outcome>> {
            let mut model = model_of(world, view)?;
            Ok(match talk.denied(&mut model, &HANDSHAKE)? {
                None => talk.denied(&mut model, &TALK)?,
                denied => denied,
            })
        };
        let was_cut = new(before)?.is_some();
        if let Some(outcome) = new(after)?.filter(|_| !was_cut) {
            cuts.push(Cut { what: "new connections", device: device.clone(), outcome });
        }
        let mut model = model_of(before, view)?;
        if !talk.all_allowed(&mut model, &HANDSHAKE)? {
            // It lives though this policy did not let it in: it is older, and was adopted (D17).
            model = model_of(before, view)?;
            model.adopt(&[talk.flow()])?;
        }
        model.set_world(after, view)?;
        if let Some(outcome) = talk.denied(&mut model, &TALK)? {
            cuts.push(Cut { what: "the connection that is open", device, outcome });
        }
    }
    Ok(cuts)
}

/// What of a connection from this node to a server (the API server) would be cut.
pub fn outbound(after: &World, view: &NodeView, server: SocketAddr) -> Result<Vec<Cut>> {
    let Some(source) = source_for(server.ip()).filter(|_| !is_local(view, server.ip())) else {
        return Ok(Vec::new());
    };
    let mut cuts = Vec::new();
    for device in holders(view, source) {
        let talk = Talk { device: &device, client: SocketAddr::new(source, 40_000), server, at_client: true };
        if let Some(outcome) = talk.denied(&mut model_of(after, view)?, &HANDSHAKE)? {
            cuts.push(Cut { what: "new connections", device, outcome });
        }
    }
    Ok(cuts)
}

fn model_of(world: &World, view: &NodeView) -> Result<Model> {
    let mut model = Model::new();
    model.set_world(world, view)?;
    Ok(model)
}

/// A conversation as one device of this node sees it.
struct Talk<'a> {
    device: &'a str,
    client: SocketAddr,
    server: SocketAddr,
    /// This node is the client.
    at_client: bool,
}

impl Talk<'_> {
    fn outcomes(&self, model: &mut Model, segments: &[Segment]) -> Result<Vec<Outcome>> {
        segments
            .iter()
            .map(|s| {
                let (from, to) =
                    if s.by_client { (self.client, self.server) } else { (self.server, self.client) };
                let spec = serde_json::from_value(json!({
                    "src": from.ip(), "dst": to.ip(), "protocol": "TCP", "sport": from.port(),
                    "dport": to.port(), "flags": s.flags, "seq": s.seq, "ack": s.ack, "payload": s.payload,
                }))?;
                let hook = if s.by_client == self.at_client { Hook::Egress } else { Hook::Ingress };
                let frame = frame_of(&spec).map_err(|e| anyhow!("{e}"))?;
                model.judge(&PacketIn { device: self.device.to_owned(), hook, from: None, frame })
            })
            .collect()
    }

    fn denied(&self, model: &mut Model, segments: &[Segment]) -> Result<Option<Outcome>> {
        Ok(self.outcomes(model, segments)?.into_iter().find(|o| o.verdict == "Deny"))
    }

    fn all_allowed(&self, model: &mut Model, segments: &[Segment]) -> Result<bool> {
        Ok(self.outcomes(model, segments)?.iter().all(|o| o.verdict == "Allow"))
    }

    fn flow(&self) -> LiveFlow {
        let original = FlowTuple {
            src: self.client.ip(),
            sport: self.client.port(),
            dst: self.server.ip(),
            dport: self.server.port(),
        };
        LiveFlow { protocol: protocol::TCP, original, reply: None }
    }
}

fn is_local(view: &NodeView, ip: IpAddr) -> bool {
    ip.is_loopback() || view.devices.values().any(|d| d.addresses.iter().any(|a| a.addr() == ip))
}

/// Devices that have this address, but `lo`.
fn holders(view: &NodeView, ip: IpAddr) -> BTreeSet<String> {
    let has = |d: &crate::policy::Device| !d.loopback && d.addresses.iter().any(|a| a.addr() == ip);
    view.devices.values().filter(|d| has(d)).map(|d| d.name.clone()).collect()
}

/// Where packets of the connection may come in and go out: by the server's address, and by the route to the client.
fn devices(view: &NodeView, connection: &Connection) -> BTreeSet<String> {
    let mut found = holders(view, connection.server.ip());
    if let Some(source) = source_for(connection.client.ip()) {
        found.extend(holders(view, source));
    }
    if found.is_empty() {
        // The address is on no device that we know: ask all that lead out.
        found.extend(view.devices.values().filter(|d| !d.loopback).map(|d| d.name.clone()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Device;
    use crate::resource::{Store, documents_from_str};

    const NODE: &str = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h, labels: {role: n}}
spec: {node: n1, interfaceName: eth0}
";
    const NO_FAILSAFES: &str = "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: []}
";

    fn world(texts: &[&str]) -> World {
        let mut store = Store::default();
        let report = store.replace(documents_from_str("f", &texts.join("---\n")).0);
        assert!(!report.has_errors(), "{:?}", report.problems);
        store.world().clone()
    }

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{selector: \"role == 'n'\", {spec}}}\n"
        )
    }

    fn cuts(before: &World, after: &World) -> Vec<String> {
        let device = Device {
            name: "eth0".into(),
            ifindex: 2,
            addresses: vec!["198.51.100.11/24".parse().unwrap()],
            default_route: true,
            ..Device::default()
        };
        let view = NodeView {
            name: "n1".into(),
            devices: [("eth0".to_owned(), device)].into(),
            ..NodeView::default()
        };
        let connection = Connection {
            client: "203.0.113.7:51000".parse().unwrap(),
            server: "198.51.100.11:22".parse().unwrap(),
            known_from: "test",
        };
        inbound(before, after, &view, &connection).unwrap().iter().map(Cut::words).collect()
    }

    #[test]
    fn a_failsafe_saves_the_operator_and_nothing_else_does() {
        let open = world(&[]);
        assert_eq!(cuts(&open, &world(&[NODE])), Vec::<String>::new());
        let closed = world(&[NODE, NO_FAILSAFES]);
        let found = cuts(&open, &closed);
        assert!(
            found[0].starts_with("new connections: Deny at stage profile (profile_end) on eth0"),
            "{found:?}"
        );
        let allow = policy(
            "ssh",
            "types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [22]}}]",
        );
        assert_eq!(cuts(&open, &world(&[NODE, NO_FAILSAFES, &allow])), Vec::<String>::new());
        // It is cut already: this change is not to blame.
        assert!(cuts(&closed, &closed).iter().all(|c| !c.starts_with("new")), "{:?}", cuts(&closed, &closed));
    }

    #[test]
    fn the_rule_that_cuts_is_named() {
        let deny = policy(
            "shut",
            "order: 1, types: [Ingress], ingress: [{action: Allow, protocol: UDP}, {action: Deny, source: {nets: [203.0.113.0/24]}}]",
        );
        let found = cuts(&world(&[NODE, NO_FAILSAFES]), &world(&[NODE, NO_FAILSAFES, &deny]));
        assert_eq!(found, Vec::<String>::new(), "cut before, and kept by its flow");
        let allow = policy("ssh", "order: 9, types: [Ingress], ingress: [{action: Allow, protocol: TCP}]");
        let found = cuts(&world(&[NODE, NO_FAILSAFES, &allow]), &world(&[NODE, NO_FAILSAFES, &allow, &deny]));
        assert_eq!(found, ["new connections: Deny at stage normal (rule_deny) on eth0, by shut, rule 1"]);
    }

    #[test]
    fn an_open_connection_that_is_judged_again_is_seen() {
        let allow = policy("ssh", "order: 9, types: [Ingress], ingress: [{action: Allow, protocol: TCP}]")
            .replace("{name: ssh}", "{name: ssh, annotations: {portcullis.dev/on-policy-change: recheck}}");
        let deny = policy("shut", "order: 1, types: [Ingress], ingress: [{action: Deny}]");
        let found = cuts(&world(&[NODE, NO_FAILSAFES, &allow]), &world(&[NODE, NO_FAILSAFES, &allow, &deny]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].starts_with("the connection that is open: Deny at stage flow (flow_rechecked)"),
            "{found:?}"
        );
    }
}
