//! One netlink dump: total and bounded, whatever the kernel sends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

/// For one answer of the kernel.
const PATIENCE: TimeVal = TimeVal::new(2, 0);
/// For all of them.
const LIMIT: Duration = Duration::from_secs(8);
/// The kernel never sends more at once.
const BUFFER: usize = 64 << 10;

/// How a dump ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// Messages that could not be read.
    pub unreadable: u64,
    /// The table changed meanwhile: entries may be missing.
    pub interrupted: bool,
}

/// Asks, and hands on every answer, until there are no more or `each` says that it is enough.
pub(super) fn dump<M>(protocol: isize, request: M, mut each: impl FnMut(M) -> bool) -> Result<Ended>
where
    M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
{
    let mut socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &PATIENCE)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot ask the kernel")?;

    let end = Instant::now() + LIMIT;
    let mut ended = Ended::default();
    let mut buffer = vec![0_u8; BUFFER];
    while Instant::now() < end {
        let length = socket.recv(&mut &mut buffer[..], 0).context("the kernel does not answer")?;
        if take::<M>(&buffer[..length.min(BUFFER)], &mut ended, &mut each)? {
            return Ok(ended);
        }
    }
    bail!("the kernel still answers after {LIMIT:?}")
}

/// The messages of one answer. True at the end of the dump.
fn take<M: NetlinkDeserializable>(
    mut bytes: &[u8],
    ended: &mut Ended,
    each: &mut impl FnMut(M) -> bool,
) -> Result<bool> {
    while !bytes.is_empty() {
        // Checks that the length covers the header and lies within the bytes.
        let Ok(frame) = NetlinkBuffer::new_checked(bytes) else {
            ended.unreadable += 1;
            return Ok(false);
        };
        let length = frame.length() as usize;
        ended.interrupted |= frame.flags() & NLM_F_DUMP_INTR != 0;
        match NetlinkMessage::<M>::deserialize(bytes).map(|m| m.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(e)) if e.code.is_some() => {
                return Err(e.to_io()).context("the kernel refuses");
            }
            Ok(NetlinkPayload::InnerMessage(message)) => {
                if !each(message) {
                    return Ok(true);
                }
            }
            Ok(_) => {}
            Err(_) => ended.unreadable += 1,
        }
        // Messages stand on multiples of four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_sock_diag::SockDiagMessage;

    /// Cut, stretched and random answers end, and never panic.
    #[test]
    fn nonsense_is_survived() {
        let mut seed = 7_u64;
        for round in 0..20_000_u32 {
            let mut bytes = vec![0_u8; (round % 200) as usize];
            for byte in &mut bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 56) as u8;
            }
            if bytes.len() >= 8 {
                bytes[0] = (round % 97) as u8;
                bytes[1] = 0;
                bytes[2] = 0;
                bytes[3] = 0;
                bytes[4] = 20;
                bytes[5] = 0;
            }
            let _ = take::<SockDiagMessage>(&bytes, &mut Ended::default(), &mut |_| true);
            let _ = take::<netlink_packet_netfilter::NetfilterMessage>(
                &bytes,
                &mut Ended::default(),
                &mut |_| true,
            );
        }
    }
}
