//! The packet that an ICMP error quotes (D37, C-7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Icmp, Quoted, be16};

/// ICMP messages that quote the packet they are about. Redirects are none of them: nothing inherits by them (D7).
pub(super) fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// The quoted packet, or `None` for the cases of C-7: an error, a later fragment, or too little.
pub(super) fn quoted(v6: bool, bytes: &[u8]) -> Option<Quoted> {
    let (src, dst, protocol, l4) = if v6 { quoted_v6(bytes)? } else { quoted_v4(bytes)? };
    let head = l4.get(..8)?;
    let mut quoted = Quoted { src, dst, protocol, ports: None, icmp: None };
    match (protocol, v6) {
        (6 | 17 | 132 | 136, _) => quoted.ports = Some((be16(head, 0)?, be16(head, 2)?)),
        (1, false) | (58, true) if is_error(v6, head[0]) => return None,
        (1, false) | (58, true) => {
            quoted.icmp = Some(Icmp { kind: head[0], code: head[1], id: be16(head, 4)? });
        }
        _ => {}
    }
    Some(quoted)
}

type QuotedHeader<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn quoted_v4(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let header = bytes.get(..20)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || be16(header, 6)? & 0x1fff != 0 {
        return None;
    }
    let src = Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?);
    let dst = Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?);
    Some((src.into(), dst.into(), header[9], bytes.get(header_len..)?))
}

fn quoted_v6(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let header = bytes.get(..40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let src = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let dst = Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?);
    let mut protocol = header[6];
    let mut at = 40;
    let mut headers = 0;
    while matches!(protocol, 0 | 43 | 44 | 51 | 60) {
        let head = bytes.get(at..at + 8)?;
        headers += 1;
        at += match protocol {
            44 => 8,
            51 => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        if headers > 8 || at > 40 + 256 || (protocol == 44 && be16(head, 2)? & 0xfff8 != 0) {
            return None;
        }
        protocol = head[0];
    }
    Some((src.into(), dst.into(), protocol, bytes.get(at..)?))
}
