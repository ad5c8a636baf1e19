//! Who makes room for a new flow (D18).
//!
//! A table of flows that anybody may begin is kept in *sets* of [`WAYS`] places. A new flow's key picks its set, with a
//! secret seed. In a full set, the oldest flow of the source that holds most of the set goes. A set is a random sample
//! of the table, so this is what D18 asks for, without a count of anything: a source that fills the table fills every
//! set, and then loses its own flows only.

use crate::addr::Addr;

/// Places of a set.
pub const WAYS: usize = 8;

/// Who holds a place.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// [`share`] of the flow's source.
    pub share: u32,
    /// [`tick`] of its first packet; 0: the place is free.
    pub since: u32,
}

/// A place: the key is that of a flow or of a fragmented datagram, as six words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// A [`crate::flow::FlowKey`] or [`crate::flow::FragmentKey`].
    pub key: [u64; 6],
    /// Who holds it.
    pub holder: Holder,
}

/// Value of `pc_rooms`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Set {
    /// The places, in no order.
    pub places: [Place; WAYS],
}

/// Sets of each room, in the order of [`crate::tables::Room`], then those of fragments. Powers of two.
pub const SETS: [u32; 5] = [4096, 2048, 512, 512, 1024];
/// Number of the room of fragmented datagrams (D36).
pub const FRAGMENT_ROOM: u32 = 4;
/// All sets.
pub const ALL_SETS: u32 = SETS[0] + SETS[1] + SETS[2] + SETS[3] + SETS[4];

/// Index of a key's set.
#[inline(always)]
pub const fn set_of(room: u32, hash: u64) -> u32 {
    // The high bits of a product are the mixed ones.
    let hash = (hash >> 32) as u32;
    match room {
        0 => hash & (SETS[0] - 1),
        1 => SETS[0] + (hash & (SETS[1] - 1)),
        2 => SETS[0] + SETS[1] + (hash & (SETS[2] - 1)),
        3 => SETS[0] + SETS[1] + SETS[2] + (hash & (SETS[3] - 1)),
        _ => SETS[0] + SETS[1] + SETS[2] + SETS[3] + (hash & (SETS[4] - 1)),
    }
}

/// Hash of a key. The seed is secret: nobody outside can aim at another's set (S-3).
#[inline(always)]
pub const fn hash(seed: u64, key: &[u64; 6]) -> u64 {
    let mut hash = seed;
    let mut word = 0;
    while word < 6 {
        hash = (hash ^ key[word]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        word += 1;
    }
    hash.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which is the least that one host has.
#[inline(always)]
pub const fn share(source: &Addr) -> u32 {
    let b = &source.bytes;
    if source.is_v4() {
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]])
    } else {
        let net = u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        (net.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}

/// The clock of [`Holder::since`]: 2^20 ns, about a millisecond; never 0.
#[inline(always)]
pub const fn tick(now_ns: u64) -> u32 {
    (now_ns >> 20) as u32 | 1
}

/// Which place a new flow of `share` takes: a free one, else the oldest of the source that holds most, the new flow
/// counted in. Without branches over the data, so that the BPF verifier sees one path.
#[inline(always)]
pub fn choose(places: &[Place; WAYS], share: u32, now: u32) -> usize {
    let same = |a: u32, b: u32| u64::from(a ^ b).wrapping_sub(1) >> 63;
    let mut best = 0u64;
    let mut at = 0;
    while at < WAYS {
        let holder = places[at].holder;
        let mut held = same(holder.share, share);
        let mut other = 0;
        while other < WAYS {
            held += same(holder.share, places[other].holder.share);
            other += 1;
        }
        // A free place has no share to weigh: it comes before all.
        held += same(holder.since, 0) * 2 * WAYS as u64;
        let score = held << 40 | u64::from(now.wrapping_sub(holder.since)) << 8 | at as u64;
        best = if score > best { score } else { best };
        at += 1;
    }
    best as usize & (WAYS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::vec::Vec;

    fn held(share: u32, since: u32) -> Place {
        Place { key: [0; 6], holder: Holder { share, since } }
    }
    fn holders(shares: [u32; WAYS]) -> [Place; WAYS] {
        let mut since = 100;
        shares.map(|share| {
            since += 2;
            held(share, since)
        })
    }

    #[test]
    fn a_free_place_comes_first() {
        let mut full = holders([1; WAYS]);
        full[5] = Place::default();
        assert_eq!(choose(&full, 1, 1000), 5);
    }

    #[test]
    fn the_source_that_holds_most_loses_its_oldest() {
        assert_eq!(choose(&holders([1, 2, 2, 2, 3, 3, 4, 5]), 9, 1000), 1);
        // The new flow counts: two sources of three, and the one that wants more gives.
        assert_eq!(choose(&holders([1, 1, 1, 2, 2, 2, 3, 3]), 2, 1000), 3);
        // All alike: the oldest.
        assert_eq!(choose(&holders([1, 2, 3, 4, 5, 6, 7, 8]), 9, 1000), 0);
    }

    #[test]
    fn a_flood_from_one_source_leaves_the_others_alone() {
        let mut sets = [[Place::default(); WAYS]; 64];
        let mut place = |flow: u64, source: u32, now: u32| {
            let set = &mut sets[(set_of(0, hash(77, &[flow, 0, 0, 0, 0, 0])) % 64) as usize];
            let at = choose(set, source, now);
            set[at] = held(source, now);
        };
        for flow in 0..100 {
            place(flow, 1000 + flow as u32, 1 + flow as u32);
        }
        for flow in 0..100_000 {
            place(1_000_000 + flow, 7, 1000 + flow as u32);
        }
        let kept: Vec<u32> = sets.iter().flatten().map(|p| p.holder.share).filter(|s| *s != 7).collect();
        assert!(kept.len() >= 98, "{} of 100 are left", kept.len());
    }

    #[test]
    fn rooms_do_not_overlap() {
        for (room, sets) in SETS.iter().enumerate() {
            assert!(sets.is_power_of_two());
            let base: u32 = SETS[..room].iter().sum();
            for value in [0, u64::MAX, 0x1234_5678_9abc_def0] {
                let set = set_of(room as u32, value);
                assert!((base..base + sets).contains(&set), "{room} {set}");
            }
        }
    }
}
