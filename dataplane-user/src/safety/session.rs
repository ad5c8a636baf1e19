//! The connection that the operator is typing on, and others that a change must not cut unseen.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// `TCP_ESTABLISHED` and `TCP_LISTEN` in /proc/net/tcp.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";
const SSH: u16 = 22;
/// Names of ssh servers' processes.
const SERVERS: [&str; 4] = ["sshd", "sshd-session", "sshd-auth", "dropbear"];
/// A process tree is never deeper; a loop in what /proc says must not hold us.
const DEEPEST: usize = 64;

/// A TCP connection to this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// Where we know it from.
    pub known_from: &'static str,
}

/// The operator's own connection; when there is none, every ssh connection to this node. `SSH_CONNECTION` of this
/// process, then of its ancestors (sudo takes it away), then the sockets of an ssh server among the ancestors.
pub fn connections() -> Vec<Connection> {
    let sockets = Sockets::read();
    let own = std::env::vars().find_map(|(name, value)| from_variable(&name, &value, &sockets));
    if let Some(own) = own {
        return vec![own];
    }
    let ancestors = ancestors();
    if let Some(own) = ancestors.iter().find_map(|pid| from_environment(*pid, &sockets)) {
        return vec![own];
    }
    let servers = ancestors.iter().filter(|pid| is_server(**pid));
    if let Some(own) =
        servers.flat_map(|pid| sockets.of(&inodes(*pid), "an ssh server above this process")).next()
    {
        return vec![own];
    }
    let ports = sockets.server_ports();
    sockets.established(|s| ports.contains(&s.local.port()), "an ssh connection to this node")
}

/// `CLIENT PORT SERVER PORT`, or (`SSH_CLIENT`) `CLIENT PORT PORT`.
fn from_variable(name: &str, value: &str, sockets: &Sockets) -> Option<Connection> {
    let words: Vec<&str> = value.split_whitespace().collect();
    match (name, words.as_slice()) {
        ("SSH_CONNECTION", [client, cport, server, sport]) => Some(Connection {
            client: address(client, cport)?,
            server: address(server, sport)?,
            known_from: "SSH_CONNECTION",
        }),
        ("SSH_CLIENT", [client, cport, _]) => {
            let client = address(client, cport)?;
            sockets.established(|s| s.remote == client, "SSH_CLIENT").into_iter().next()
        }
        _ => None,
    }
}

fn address(ip: &str, port: &str) -> Option<SocketAddr> {
    let bare = ip.split_once('%').map_or(ip, |(bare, _)| bare);
    Some(plain(SocketAddr::new(bare.parse().ok()?, port.parse().ok()?)))
}

/// ::ffff:a.b.c.d as the IPv4 address that is on the wire.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn from_environment(pid: u32, sockets: &Sockets) -> Option<Connection> {
    let text = fs::read(format!("/proc/{pid}/environ")).ok()?;
    text.split(|b| *b == 0).find_map(|entry| {
        let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        from_variable(name, value, sockets)
    })
}

/// Parent first.
fn ancestors() -> Vec<u32> {
    let mut found = Vec::new();
    let mut pid = std::os::unix::process::parent_id();
    while pid > 1 && found.len() < DEEPEST {
        found.push(pid);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok());
        pid = parent.unwrap_or(0);
    }
    found
}

fn is_server(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    SERVERS.contains(&name.trim())
}

fn inodes(pid: u32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(Result::ok).filter_map(inode).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    inode: u64,
}

/// TCP sockets of this network namespace.
#[derive(Debug, Default)]
struct Sockets(Vec<Socket>);

impl Sockets {
    fn read() -> Self {
        let tables =
            ["tcp", "tcp6"].map(|t| fs::read_to_string(format!("/proc/net/{t}")).unwrap_or_default());
        Self(tables.iter().flat_map(|text| text.lines().filter_map(socket)).collect())
    }

    fn established(&self, wanted: impl Fn(&Socket) -> bool, known_from: &'static str) -> Vec<Connection> {
        self.0
            .iter()
            .filter(|s| !s.listens && wanted(s))
            .map(|s| Connection { client: s.remote, server: s.local, known_from })
            .collect()
    }

    fn of(&self, inodes: &BTreeSet<u64>, known_from: &'static str) -> Vec<Connection> {
        self.established(|s| inodes.contains(&s.inode), known_from)
    }

    /// Where ssh servers listen; 22 in any case.
    fn server_ports(&self) -> BTreeSet<u16> {
        let all = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let theirs: BTreeSet<u64> = pids.filter(|pid| is_server(*pid)).flat_map(inodes).collect();
        let listening = self.0.iter().filter(|s| s.listens && theirs.contains(&s.inode));
        listening.map(|s| s.local.port()).chain([SSH]).collect()
    }
}

/// One line of /proc/net/tcp or tcp6 (proc(5)).
fn socket(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, remote, state, inode) = (words.get(1)?, words.get(2)?, *words.get(3)?, words.get(9)?);
    if state != ESTABLISHED && state != LISTEN {
        return None;
    }
    Some(Socket {
        local: hex_address(local)?,
        remote: hex_address(remote)?,
        listens: state == LISTEN,
        inode: inode.parse().ok()?,
    })
}

/// 32-bit words in the machine's order, then the port as a number.
fn hex_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[index * 4..index * 4 + 4].copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// The address that the kernel would send from to that peer. Connecting a UDP socket sends nothing.
pub fn source_for(peer: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Any port: only the route matters.
    socket.connect((peer, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Where this node's kubelet finds its API server, as addresses; names are looked for in /etc/hosts only, since a
/// question to a name server may hang just when the network is broken.
pub fn api_servers() -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    if let (Ok(host), Ok(port)) =
        (std::env::var("KUBERNETES_SERVICE_HOST"), std::env::var("KUBERNETES_SERVICE_PORT"))
    {
        found.extend(resolve(&format!("{host}:{port}")));
    }
    for path in ["/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        found.extend(servers_of(&text).into_iter().flat_map(resolve));
    }
    found.into_iter().collect()
}

/// `server: https://HOST:PORT` lines of a kubeconfig, as HOST:PORT.
fn servers_of(text: &str) -> Vec<&str> {
    let url = |line: &'_ str| line.trim().strip_prefix("server:").map(str::len);
    text.lines()
        .filter(|line| url(line).is_some())
        .filter_map(|line| line.split_once("://"))
        .map(|(_, rest)| rest.trim().trim_matches(['"', '\'']).split('/').next().unwrap_or_default())
        .collect()
}

fn resolve(text: &str) -> Vec<SocketAddr> {
    if let Ok(address) = text.parse() {
        return vec![address];
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().unwrap_or(443)),
        _ => (text, 443),
    };
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, port)];
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().map(|l| l.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let ip = words.next()?.parse::<IpAddr>().ok()?;
            words.any(|name| name == host).then(|| SocketAddr::new(ip, port))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_tcp() {
        let line = "   1: 0B00F00A:0016 0771 00 01";
        assert_eq!(socket(line), None);
        let line = "   1: 0B00F00A:0016 077100CB:C738 01 00000000:00000000 02:000A7B2F 00000000     0        0 4711 2 0";
        let found = socket(line).unwrap();
        assert_eq!((found.local, found.inode), ("10.240.0.11:22".parse().unwrap(), 4711));
        assert_eq!(found.remote, "203.0.113.7:51000".parse().unwrap());
        let mapped = "0000000000000000FFFF00000B00F00A:0016";
        assert_eq!(hex_address(mapped), Some("10.240.0.11:22".parse().unwrap()));
    }

    #[test]
    fn variables_of_ssh() {
        let none = Sockets::default();
        let found = from_variable("SSH_CONNECTION", "203.0.113.7 51000 10.240.0.11 22", &none).unwrap();
        assert_eq!(found.server, "10.240.0.11:22".parse().unwrap());
        assert!(from_variable("SSH_CONNECTION", "nonsense", &none).is_none());
        let link = from_variable("SSH_CONNECTION", "fe80::1%eth0 5 fe80::2%eth0 22", &none).unwrap();
        assert_eq!(link.client, "[fe80::1]:5".parse().unwrap());
    }

    #[test]
    fn servers_of_a_kubeconfig() {
        let text = "clusters:\n- cluster:\n    server: https://10.0.0.1:6443\n  name: x\n- cluster:\n    server: \"https://[fd00::1]:6443/\"\n";
        assert_eq!(servers_of(text), ["10.0.0.1:6443", "[fd00::1]:6443"]);
        assert_eq!(resolve("[fd00::1]:6443"), ["[fd00::1]:6443".parse().unwrap()]);
        assert_eq!(resolve("10.0.0.1"), ["10.0.0.1:443".parse().unwrap()]);
    }
}
