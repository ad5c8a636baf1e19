//! Addresses with their family. Never v4-mapped: `::/0` must not hold IPv4 (`semantics.md` §6).

/// An IP address, 20 bytes, no padding. IPv4 stands in the first four bytes of `bytes`, the rest is zero, so
/// equal addresses are equal bytes and the struct can be a map key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr {
    /// 4 or 6; 0 in a packet that is not IP.
    pub family: u8,
    /// Always zero.
    pub pad: [u8; 3],
    /// Network order.
    pub bytes: [u8; 16],
}

impl Addr {
    /// No address.
    pub const NONE: Self = Self { family: 0, pad: [0; 3], bytes: [0; 16] };

    /// An IPv4 address.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = b[0];
        bytes[1] = b[1];
        bytes[2] = b[2];
        bytes[3] = b[3];
        Self { family: 4, pad: [0; 3], bytes }
    }
    /// An IPv6 address.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { family: 6, pad: [0; 3], bytes }
    }
    /// Whether this is IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.family == 4
    }
    /// 0.0.0.0 or `::`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        self.bytes == [0; 16]
    }
    /// 224.0.0.0/4 or ff00::/8.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        if self.is_v4() { self.bytes[0] >> 4 == 0xe } else { self.bytes[0] == 0xff }
    }
    /// 255.255.255.255.
    #[inline(always)]
    pub fn is_limited_broadcast(&self) -> bool {
        self.is_v4()
            && self.bytes[0] == 255
            && self.bytes[1] == 255
            && self.bytes[2] == 255
            && self.bytes[3] == 255
    }
    /// fe80::/10.
    #[inline(always)]
    pub fn is_link_local_v6(&self) -> bool {
        !self.is_v4() && self.bytes[0] == 0xfe && self.bytes[1] & 0xc0 == 0x80
    }
}

#[cfg(feature = "user")]
impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(a) => Self::v4(a.octets()),
            core::net::IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }
}

#[cfg(feature = "user")]
impl Addr {
    /// Back to the standard type; `None` for [`Addr::NONE`].
    pub fn to_ip(&self) -> Option<core::net::IpAddr> {
        match self.family {
            4 => Some(
                core::net::Ipv4Addr::new(self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]).into(),
            ),
            6 => Some(core::net::Ipv6Addr::from(self.bytes).into()),
            _ => None,
        }
    }
}
