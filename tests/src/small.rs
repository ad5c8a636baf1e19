//! The smallest lab: a node with one device, and a host at its other end. No packet passes that a test did not send:
//! no IPv6, and both know each other's link-layer addresses.

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    http::{Answer, get},
    netns::{Netns, sweep},
    process::{Agent, Home, Policies},
};

pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 11);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 12);

/// Governs the device.
pub const HEP: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0}
";

/// Fields are dropped in their order.
pub struct Small {
    pub node: Netns,
    pub other: Netns,
    pub folder: Policies,
    pub home: Home,
}

impl Small {
    /// With [`HEP`] in the folder.
    pub fn new() -> Result<Self> {
        sweep();
        let (node, other) = (Netns::new("node")?, Netns::new("other")?);
        for netns in [&node, &other] {
            netns.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let (mac, far) = ("02:00:00:00:00:11", "02:00:00:00:00:12");
        node.ip(&format!(
            "link add eth0 address {mac} type veth peer name eth0 address {far} netns {}\n\
             addr add {NODE}/24 dev eth0\nlink set eth0 up\n\
             neigh add {OTHER} lladdr {far} dev eth0 nud permanent\n",
            other.name()
        ))?;
        other.ip(&format!(
            "addr add {OTHER}/24 dev eth0\nlink set eth0 up\nneigh add {NODE} lladdr {mac} dev eth0 nud permanent\n"
        ))?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("hep.yaml", HEP)?;
        Ok(Self { node, other, folder, home })
    }

    /// The agent, once something is in force.
    pub fn start(&self) -> Result<Agent> {
        Ok(Agent::start(&self.node, &self.folder, &self.home)?.0)
    }

    /// Asks until the answer is as wanted. The agent's thread may not listen yet.
    pub fn becomes(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match get(&self.node, path) {
                Ok(answer) if wanted(&answer) => return Ok(answer),
                other => ensure!(Instant::now() < end, "{path}: {other:?}\n{:#?}", self.home.status()),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends so many UDP datagrams of `length` bytes to the node.
    pub fn send(&self, port: u16, count: usize, length: usize) -> Result<()> {
        let socket = self.other.run(|| UdpSocket::bind((OTHER, 0)))??;
        for _ in 0..count {
            socket.send_to(&vec![7; length], (NODE, port))?;
        }
        Ok(())
    }
}
