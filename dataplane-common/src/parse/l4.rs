//! The upper layer: lengths (D34), TCP flags (D35), ports (D9).

use super::{Cursor, IP, Refusal, icmp, malformed};
use crate::frame::Frame;
use crate::packet::{FragmentPart, Packet, flag, protocol, tcp};
use crate::verdict::Reason;

const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const SCTP_HEADER: u32 = 12;
const SCTP_CHUNK_HEADER: u32 = 4;
const SCTP_INIT: u8 = 1;

/// Reads the upper-layer header. `out.l4_header` comes in as the offset of the fragmentable part and leaves as D36
/// wants it: the bytes of headers in that part.
#[inline(never)]
pub(super) fn parse<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> u32 {
    if out.fragment == FragmentPart::Later {
        out.l4_header = 0;
        return IP;
    }
    match upper(frame, at, out) {
        Err(refusal) => refusal.get(),
        Ok(header) => {
            let end = at.offset + header;
            out.l4_header = end.saturating_sub(u32::from(out.l4_header)) as u16;
            IP
        }
    }
}

#[inline(always)]
fn upper<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    match out.tuple.protocol {
        protocol::TCP => tcp_header(frame, at, out),
        protocol::UDP | protocol::UDPLITE => udp(frame, at, out),
        protocol::SCTP => sctp(frame, at, out),
        protocol::ICMP if out.tuple.src.is_v4() => icmp::v4(frame, at, out),
        protocol::ICMPV6 if !out.tuple.src.is_v4() => icmp::v6(frame, at, out),
        _ => Ok(0),
    }
}

#[inline(always)]
fn ports(out: &mut Packet, h: &[u8; 4]) {
    out.tuple.sport = u16::from_be_bytes([h[0], h[1]]);
    out.tuple.dport = u16::from_be_bytes([h[2], h[3]]);
    out.flags |= flag::PORTS;
}

#[inline(always)]
fn tcp_header<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    let available = at.end - at.offset;
    if available < TCP_HEADER {
        return Err(malformed(Reason::ShortL4));
    }
    let Some(h) = frame.load::<20>(at.offset) else { return Err(malformed(Reason::ShortL4)) };
    let length = u32::from(h[12] >> 4) * 4;
    if length < TCP_HEADER || length > available {
        return Err(malformed(Reason::TcpOffset));
    }
    let flags = h[13];
    let set = |bit| flags & bit != 0;
    let main = flags & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK);
    if main == 0 || (set(tcp::SYN) && (set(tcp::FIN) || set(tcp::RST))) || (set(tcp::FIN) && !set(tcp::ACK)) {
        return Err(malformed(Reason::TcpFlags));
    }
    ports(out, &[h[0], h[1], h[2], h[3]]);
    if out.tuple.sport == 0 || out.tuple.dport == 0 {
        return Err(malformed(Reason::PortZero));
    }
    out.tcp_flags = flags;
    out.tcp_seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    out.tcp_ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
    out.tcp_payload = (available - length).min(0xffff) as u16;
    Ok(length)
}

#[inline(always)]
fn udp<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    let available = at.end - at.offset;
    if available < UDP_HEADER {
        return Err(malformed(Reason::ShortL4));
    }
    let Some(h) = frame.load::<8>(at.offset) else { return Err(malformed(Reason::ShortL4)) };
    ports(out, &[h[0], h[1], h[2], h[3]]);
    if out.tuple.protocol == protocol::UDP {
        let length = u32::from(u16::from_be_bytes([h[4], h[5]]));
        // A first fragment names the length of the whole datagram.
        if length < UDP_HEADER || (length > available && out.fragment == FragmentPart::Whole) {
            return Err(malformed(Reason::UdpLength));
        }
        if out.tuple.dport == 0 {
            return Err(malformed(Reason::PortZero));
        }
    }
    Ok(UDP_HEADER)
}

#[inline(always)]
fn sctp<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    if at.end - at.offset < SCTP_HEADER + SCTP_CHUNK_HEADER {
        return Err(malformed(Reason::ShortL4));
    }
    let Some(h) = frame.load::<16>(at.offset) else { return Err(malformed(Reason::ShortL4)) };
    ports(out, &[h[0], h[1], h[2], h[3]]);
    if out.tuple.dport == 0 {
        return Err(malformed(Reason::PortZero));
    }
    if h[12] == SCTP_INIT {
        out.flags |= flag::SCTP_INIT;
    }
    Ok(SCTP_HEADER)
}
