//! Sequence numbers that continue what the steps so far imply.

use std::collections::BTreeMap;
use std::net::IpAddr;

type End = (IpAddr, u16);

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const ACK: u8 = 0x10;
/// Fixed numbers of an opener, an answerer, and of a packet that continues nothing.
const OPENER: u32 = 1000;
const ANSWERER: u32 = 5000;
const STRANGER: u32 = 9000;

/// The next sequence number of each direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversations {
    next: BTreeMap<(End, End), u32>,
}

impl Conversations {
    /// (seq, ack) of a segment from `src` to `dst`, given or continued.
    pub(crate) fn numbers(
        &mut self,
        src: End,
        dst: End,
        flags: u8,
        payload: u32,
        seq: Option<u32>,
        ack: Option<u32>,
    ) -> (u32, u32) {
        let next = self.next.get(&(src, dst)).copied();
        let seq = seq.unwrap_or(match flags & (SYN | ACK) {
            SYN => OPENER,
            bits if bits & SYN != 0 => ANSWERER,
            _ => next.unwrap_or(STRANGER),
        });
        let ack = ack.unwrap_or_else(|| match flags & ACK {
            0 => 0,
            _ => self.next.get(&(dst, src)).copied().unwrap_or(STRANGER),
        });
        let consumed = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.next.insert((src, dst), seq.wrapping_add(consumed));
        (seq, ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_continues_and_a_retransmission_repeats() {
        let (a, b) = (("10.0.0.1".parse().unwrap(), 1), ("10.0.0.2".parse().unwrap(), 2));
        let mut talk = Conversations::default();
        assert_eq!(talk.numbers(a, b, SYN, 0, None, None), (1000, 0));
        assert_eq!(talk.numbers(a, b, SYN, 0, None, None), (1000, 0));
        assert_eq!(talk.numbers(b, a, SYN | ACK, 0, None, None), (5000, 1001));
        assert_eq!(talk.numbers(a, b, ACK, 8, None, None), (1001, 5001));
        assert_eq!(talk.numbers(b, a, ACK, 0, None, Some(7)), (5001, 7));
    }
}
