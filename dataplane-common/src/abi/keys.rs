//! Keys and values of the tables that packets are looked up in.

use crate::addr::Addr;

/// LPM key of address maps. The prefix length counts the 32 bits of family and padding first:
/// `10.0.0.0/8` is 40 bits.
pub type AddrKey = Addr;
/// Bits before the address in an [`AddrKey`] prefix.
pub const ADDR_PREFIX_BASE: u32 = 32;

/// `pc_own_addrs` values.
pub mod own_flag {
    /// An own address.
    pub const OWN: u32 = 1 << 0;
    /// A subnet broadcast address.
    pub const BROADCAST: u32 = 1 << 1;
    /// In `nodePortAddresses`: node ports are frontends here.
    pub const NODE_PORTS: u32 = 1 << 2;
    /// In a range of pods, Services or nodes (D27).
    pub const INTERNAL: u32 = 1 << 3;
    /// A Service's own address: nobody sends from it (D27).
    pub const SERVICE: u32 = 1 << 4;
}

/// LPM key of `pc_port_class`: 8 bits protocol, 8 bits side, 16 bits port. A prefix of 16 bits stands for "this
/// protocol, no port rule matches".
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    /// 0: destination port (for ICMP: type << 8 | code), 1: source port.
    pub side: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Network order.
    pub port_be: [u8; 2],
}

/// [`PortKey::side`] of destination ports and ICMP types.
pub const SIDE_DESTINATION: u8 = 0;
/// [`PortKey::side`] of source ports.
pub const SIDE_SOURCE: u8 = 1;

/// LPM key of `pc_frontends`: always a full prefix (192 bits).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FrontendKey {
    /// Where the client dials.
    pub addr: Addr,
    /// Network order.
    pub port_be: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}

/// `pc_frontends` values.
pub mod frontend_flag {
    /// A frontend: treated as forwarded.
    pub const SERVICE: u32 = 1 << 0;
    /// All its endpoints are own addresses: treated as local, and suspends no failsafe (D1, D3).
    pub const LOCAL: u32 = 1 << 1;
}

/// LPM key of `pc_failsafes`: 32 bits for direction, protocol and port, then the address with its family.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FailsafeKey {
    /// 0: inbound, 1: outbound.
    pub direction: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Network order.
    pub port_be: [u8; 2],
    /// Inbound: source; outbound: destination. A failsafe without CIDR has a prefix of 32 bits.
    pub addr: Addr,
}

/// [`FailsafeKey::direction`] of inbound failsafes.
pub const FAILSAFE_INBOUND: u8 = 0;
/// [`FailsafeKey::direction`] of outbound failsafes.
pub const FAILSAFE_OUTBOUND: u8 = 1;

/// LPM key of `pc_infra` (D39): always a full prefix. The tunnel's peer, protocol and, for UDP, port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InfraKey {
    /// InternalIP of another Node.
    pub peer: Addr,
    /// Outer UDP destination port, network order; 0 for other protocols.
    pub port_be: [u8; 2],
    /// Outer IP protocol.
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
}
