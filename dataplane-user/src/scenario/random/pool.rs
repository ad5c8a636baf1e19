//! Addresses and ports that a case is about: what its documents name, and the neighbours of that, where an
//! off-by-one would show.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::dice::Dice;

/// Own addresses of the generated nodes, by family.
pub(super) const OWN: [&str; 8] = [
    "10.240.0.11",
    "10.240.0.11",
    "fd00::11",
    "fd00::11",
    "172.16.0.11",
    "fd01::11",
    "10.50.0.11",
    "192.168.1.0",
];
/// Others that many cases talk about: nodes, pods, service addresses, strangers.
pub(super) const OTHERS: [&str; 22] = [
    "10.240.0.12",
    "10.240.0.1",
    "fd00::12",
    "192.168.1.10",
    "192.168.2.10",
    "fd10::10",
    "fd10::20",
    "10.96.0.10",
    "10.96.0.11",
    "fd96::10",
    "203.0.113.7",
    "203.0.113.7",
    "203.0.113.8",
    "198.51.100.1",
    "198.51.100.200",
    "2001:db8::7",
    "2001:db8::7",
    "2001:db8:0:1::1",
    "8.8.8.8",
    "172.16.0.99",
    "fd01::99",
    "192.0.2.55",
];
/// Addresses that mean something by themselves.
const ODD: [&str; 20] = [
    "255.255.255.255",
    "10.240.0.255",
    "10.240.0.0",
    "172.16.0.255",
    "224.0.0.1",
    "239.1.2.3",
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "0.1.2.3",
    "240.0.0.1",
    "169.254.1.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::ff:fe00:2",
    "ff02::1",
    "ff02::1:ff00:11",
    "::ffff:10.240.0.11",
    "ff05::2",
];
const PORTS: [u16; 16] = [22, 53, 67, 68, 80, 179, 443, 546, 547, 4789, 6443, 8080, 30080, 40000, 65535, 1];

/// What packets of a case are made of.
#[derive(Debug, Default)]
pub(super) struct Pool {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Pool {
    pub(super) fn of(documents: &[Value]) -> Self {
        let (mut nets, mut ports) = (BTreeSet::new(), BTreeSet::new());
        documents.iter().for_each(|document| collect(document, "", &mut nets, &mut ports));
        let addresses = nets.into_iter().flat_map(edges).collect::<BTreeSet<_>>();
        Self { addresses: addresses.into_iter().collect(), ports: ports.into_iter().collect() }
    }

    pub(super) fn own(dice: &mut Dice, v6: bool) -> IpAddr {
        address(dice, &OWN, v6)
    }

    /// An address of the same family that is neither own nor this one.
    pub(super) fn other_than(dice: &mut Dice, this: IpAddr) -> IpAddr {
        let mut all = of_family(&OTHERS, this.is_ipv6());
        all.retain(|other| *other != this);
        dice.one(&all)
    }

    /// An address of a family: of the documents, of the others, or an odd one.
    pub(super) fn any(&self, dice: &mut Dice, v6: bool) -> IpAddr {
        let named: Vec<IpAddr> = self.addresses.iter().copied().filter(|a| a.is_ipv6() == v6).collect();
        match dice.below(20) {
            0..=8 if !named.is_empty() => dice.one(&named),
            9 => address(dice, &ODD, v6),
            10 => Self::own(dice, v6),
            _ => address(dice, &OTHERS, v6),
        }
    }

    pub(super) fn port(&self, dice: &mut Dice) -> u16 {
        if !self.ports.is_empty() && dice.percent(60) {
            return dice.one(&self.ports);
        }
        if dice.percent(10) { dice.between(1, 65535) as u16 } else { dice.one(&PORTS) }
    }
}

fn address(dice: &mut Dice, texts: &[&str], v6: bool) -> IpAddr {
    dice.one(&of_family(texts, v6))
}

fn of_family(texts: &[&str], v6: bool) -> Vec<IpAddr> {
    texts.iter().filter_map(|t| t.parse().ok()).filter(|a: &IpAddr| a.is_ipv6() == v6).collect()
}

/// First and last address, and those just outside.
pub(super) fn edges(net: IpNet) -> Vec<IpAddr> {
    let step = |ip: IpAddr, up: bool| match ip {
        IpAddr::V4(a) => {
            let n = u32::from(a);
            IpAddr::V4(Ipv4Addr::from(if up { n.wrapping_add(1) } else { n.wrapping_sub(1) }))
        }
        IpAddr::V6(a) => {
            let n = u128::from(a);
            IpAddr::V6(Ipv6Addr::from(if up { n.wrapping_add(1) } else { n.wrapping_sub(1) }))
        }
    };
    let (first, last) = (net.network(), net.broadcast());
    vec![first, last, step(first, false), step(last, true), step(first, true)]
}

fn collect(value: &Value, key: &str, nets: &mut BTreeSet<IpNet>, ports: &mut BTreeSet<u16>) {
    let about_ports = key.to_ascii_lowercase().contains("port");
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| collect(v, k, nets, ports)),
        Value::Array(items) => items.iter().for_each(|v| collect(v, key, nets, ports)),
        Value::Number(number) if about_ports => number.as_u64().into_iter().for_each(|n| around(n, ports)),
        Value::String(text) => {
            if let Ok(net) = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                nets.insert(net.trunc());
            } else if about_ports && let Some((first, last)) = text.split_once(':') {
                [first, last].into_iter().filter_map(|n| n.parse().ok()).for_each(|n| around(n, ports));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn around(port: u64, ports: &mut BTreeSet<u16>) {
    let near = [port.saturating_sub(1), port, port + 1];
    ports.extend(near.into_iter().filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(pool: &Pool) -> Vec<String> {
        pool.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_net_gives_its_edges_and_their_neighbours() {
        let pool = Pool::of(&[json!({"spec": {"nets": ["10.1.2.8/30", "not a net"]}})]);
        assert_eq!(texts(&pool), ["10.1.2.7", "10.1.2.8", "10.1.2.9", "10.1.2.11", "10.1.2.12"]);
        let pool = Pool::of(&[json!({"expectedIPs": ["2001:db8::1"]})]);
        assert_eq!(texts(&pool), ["2001:db8::", "2001:db8::1", "2001:db8::2"]);
        let pool = Pool::of(&[json!({"nets": ["0.0.0.0/0"]})]);
        assert_eq!(texts(&pool), ["0.0.0.0", "0.0.0.1", "255.255.255.255"], "it goes round at the end");
    }

    #[test]
    fn ports_are_what_stands_below_a_port_and_their_neighbours() {
        let document = json!({"order": 77, "destination": {"ports": [443, "8000:8002", "web"], "icmp": {"type": 8}},
            "nodePort": 65535, "sport": 1});
        assert_eq!(
            Pool::of(&[document]).ports,
            [1, 2, 442, 443, 444, 7999, 8000, 8001, 8002, 8003, 65534, 65535]
        );
    }

    #[test]
    fn an_address_is_of_the_family_that_is_asked_for_and_no_echo_comes_from_its_own_end() {
        let pool = Pool::of(&[json!({"nets": ["10.0.0.0/8", "2001:db8::/32"]})]);
        let mut dice = Dice::new(1);
        for round in 0..2000 {
            let v6 = round % 2 == 0;
            let (any, own) = (pool.any(&mut dice, v6), Pool::own(&mut dice, v6));
            let other = Pool::other_than(&mut dice, any);
            assert!([any, own, other].iter().all(|ip| ip.is_ipv6() == v6), "{any} {own} {other}");
            assert_ne!(other, any);
            assert_ne!(pool.port(&mut dice), 0);
        }
    }
}
