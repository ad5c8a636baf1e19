//! Random damage to frames: what a network card may deliver and nobody should send (adversarial.md).

use super::dice::Dice;

/// Where the network header begins in the frames that are damaged here.
const LINK: usize = 14;
/// A frame never grows beyond this.
const LONGEST: usize = 1400;
/// The kernel's test run takes nothing shorter than an Ethernet header with a byte behind it.
const SHORTEST: usize = LINK + 1;

/// Damages a frame of an untagged packet, and says how.
pub(super) fn damage(dice: &mut Dice, frame: &mut Vec<u8>) -> String {
    let mut done = Vec::new();
    let count = dice.weighted(&[(6, 1), (3, 2), (1, 3)]);
    for _ in 0..count {
        done.push(one(dice, frame));
    }
    frame.truncate(LONGEST);
    // The kernel's test run takes no frame whose ethertype promises a header that is not there (EINVAL).
    let least = match frame.get(12..14) {
        Some(&[0x08, 0x00]) => LINK + 20,
        Some(&[0x86, 0xdd]) => LINK + 40,
        Some(_) | None => SHORTEST,
    };
    frame.resize(frame.len().max(least), 0);
    done.join(", ")
}

fn one(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    let v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    match dice.below(16) {
        0 => tags(dice, frame),
        1 => ethertype(dice, frame),
        2 => truncated(dice, frame),
        3 => {
            let extra = dice.between(1, 40);
            frame.extend(vec![0; extra]);
            "padding behind the packet"
        }
        4 => flipped(dice, frame),
        5..=8 if v6 => chain(dice, frame),
        5..=8 => options(dice, frame),
        9 if v6 => v6_header(dice, frame),
        9 | 10 if !v6 => v4_header(dice, frame),
        _ => upper(dice, frame, v6),
    }
}

fn set(frame: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}

fn tags(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    for _ in 0..dice.between(1, 3) {
        let kind = dice.one(&[[0x81, 0x00], [0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]]);
        let tci = dice.one(&[[0x00, 0x00], [0xe0, 0x00], [0x10, 0x00], [0x00, 0x0a], [0x00, 0x01]]);
        let at = 12.min(frame.len());
        frame.splice(at..at, kind.into_iter().chain(tci));
    }
    "VLAN tags"
}

fn ethertype(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    let kind: u16 = dice.one(&[
        0x0806, 0x88cc, 0x8809, 0x888e, 0x8847, 0x8848, 0x8863, 0x8864, 0x88b5, 0x22f3, 0x0800, 0x86dd,
        0x0026, 0x05ff, 0x0600,
    ]);
    if kind < 0x600 && frame.len() > LINK {
        let llc: [u8; 8] = dice.one(&[
            [0xaa, 0xaa, 3, 0, 0, 0, 8, 0],
            [0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd],
            [0xaa, 0xaa, 3, 1, 2, 3, 8, 0],
            [0xaa, 0xaa, 3, 0, 0, 0, 8, 6],
            [0x42, 0x42, 3, 0, 0, 0, 0, 0],
            [0xaa, 0xaa, 0x13, 0, 0, 0, 8, 0],
        ]);
        frame.splice(LINK..LINK, llc);
    }
    set(frame, 12, (kind >> 8) as u8);
    set(frame, 13, kind as u8);
    "another ethertype"
}

fn truncated(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    let length = dice.between(SHORTEST, frame.len().max(SHORTEST));
    frame.truncate(length);
    "cut off"
}

fn flipped(dice: &mut Dice, frame: &mut [u8]) -> &'static str {
    let at = LINK + dice.below(frame.len().saturating_sub(LINK).min(70));
    let bit = 1 << dice.below(8);
    if let Some(byte) = frame.get_mut(at) {
        *byte ^= bit;
    }
    "a bit turned over"
}

fn v4_header(dice: &mut Dice, frame: &mut [u8]) -> &'static str {
    match dice.below(7) {
        0 => set(frame, LINK, dice.one(&[0x44, 0x40, 0x46, 0x4f, 0x55, 0x65])),
        1 => set(frame, LINK + 3, dice.one(&[0, 19, 20, 21, 28, 39, 200])),
        2 => set(frame, LINK + 2, 1),
        3 => set(frame, LINK + 6, dice.one(&[0x80, 0x60, 0xc0, 0x20, 0x00])),
        4 => set(frame, LINK + 9, dice.one(&[0, 1, 2, 4, 6, 17, 41, 44, 47, 51, 58, 60, 132, 136, 255])),
        5 => set(frame, LINK + 7, dice.one(&[1, 2, 3, 185])),
        _ => set(frame, LINK + 10, 0x55),
    }
    "IPv4 header"
}

/// IPv4 options, lengths put right. Or AH.
fn options(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    if frame.len() < LINK + 20 || frame[LINK] != 0x45 {
        return flipped(dice, frame);
    }
    if dice.percent(25) {
        let words = dice.one(&[1u8, 2, 4, 4, 40]);
        let mut header = vec![frame[LINK + 9], words];
        header.resize((usize::from(words) + 2) * 4, 0);
        frame[LINK + 9] = 51;
        frame.splice(LINK + 20..LINK + 20, header);
        v4_length(frame);
        return "AH in IPv4";
    }
    let pieces: [&[u8]; 12] = [
        &[1],
        &[1, 1, 1],
        &[148, 4, 0, 0],
        &[7, 7, 4, 0, 0, 0, 0],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &[131, 7, 4, 10, 0, 0, 1],
        &[137, 7, 4, 10, 0, 0, 1],
        &[0],
        &[7, 1],
        &[7, 0],
        &[7, 40],
        &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut bytes = Vec::new();
    for _ in 0..dice.between(1, 4) {
        bytes.extend_from_slice(dice.one(&pieces));
    }
    bytes.truncate(40);
    bytes.resize(bytes.len().next_multiple_of(4), dice.one(&[0, 0, 1]));
    frame[LINK] = 0x45 + (bytes.len() / 4) as u8;
    frame.splice(LINK + 20..LINK + 20, bytes);
    v4_length(frame);
    "IPv4 options"
}

fn v4_length(frame: &mut [u8]) {
    let length = (frame.len() - LINK) as u16;
    frame[LINK + 2..LINK + 4].copy_from_slice(&length.to_be_bytes());
}

fn v6_header(dice: &mut Dice, frame: &mut [u8]) -> &'static str {
    match dice.below(5) {
        0 => set(frame, LINK, dice.one(&[0x40, 0x50, 0x70, 0x6f])),
        1 => set(frame, LINK + 5, dice.one(&[0, 1, 7, 8, 19, 20, 255])),
        2 => {
            set(frame, LINK + 4, 0);
            set(frame, LINK + 5, 0);
        }
        3 => set(
            frame,
            LINK + 6,
            dice.one(&[0, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135, 136, 139, 140, 200]),
        ),
        _ => set(frame, LINK + 7, dice.one(&[0, 1, 64, 255])),
    }
    "IPv6 header"
}

/// Extension headers in front of what is there, lengths put right.
fn chain(dice: &mut Dice, frame: &mut Vec<u8>) -> &'static str {
    if frame.len() < LINK + 40 {
        return flipped(dice, frame);
    }
    let count = dice.weighted(&[(5, 1), (4, 2), (3, 3), (1, 8), (1, 9)]);
    // From the last to the first, each in front of those behind it.
    for left in (0..count).rev() {
        let kinds: &[u8] =
            if left == 0 { &[0, 0, 60, 60, 43, 44, 51] } else { &[60, 60, 43, 44, 51, 51, 44, 0] };
        let kind = dice.one(kinds);
        let units = dice.weighted(&[(10, 0u8), (2, 1), (1, 5), (1, 30)]);
        let next = frame[LINK + 6];
        let mut header = vec![next, units];
        match kind {
            44 => {
                let word: u16 = dice.one(&[0, 0, 0, 1, 1, 8, 24, 25, 6]);
                header[1] = 0;
                header.extend(word.to_be_bytes());
                header.extend([0, 0, 0, dice.between(1, 3) as u8]);
            }
            51 => {
                header[1] = dice.one(&[1, 2, 4, 4, 0]);
                header.resize((usize::from(header[1]) + 2) * 4, 0);
            }
            43 => {
                header.extend([dice.one(&[0, 2, 3, 4]), dice.one(&[0, 0, 0, 1])]);
                header.resize((usize::from(units) + 1) * 8, 0);
            }
            _ => header.resize((usize::from(units) + 1) * 8, 0),
        }
        frame[LINK + 6] = kind;
        frame.splice(LINK + 40..LINK + 40, header);
    }
    let length = (frame.len() - LINK - 40) as u16;
    frame[LINK + 4..LINK + 6].copy_from_slice(&length.to_be_bytes());
    "IPv6 extension headers"
}

/// The first bytes behind the plain IP header.
fn upper(dice: &mut Dice, frame: &mut [u8], v6: bool) -> &'static str {
    let at = LINK + if v6 { 40 } else { 20 };
    match dice.below(6) {
        0 => set(frame, at + 12, dice.one(&[0x00, 0x40, 0x50, 0x51, 0x60, 0xf0])),
        1 => set(frame, at + 13, dice.bits() as u8),
        2 => {
            let (high, low) = dice.one(&[(0, 0), (0, 7), (0, 8), (0, 9), (0, 200), (255, 255)]);
            set(frame, at + 4, high);
            set(frame, at + 5, low);
        }
        3 => {
            let port = at + dice.one(&[0, 2]);
            set(frame, port, 0);
            set(frame, port + 1, 0);
        }
        4 => set(frame, at, dice.one(&[1, 3, 128, 129, 133, 134, 135, 137, 143])),
        _ => set(frame, at + dice.below(24), dice.bits() as u8),
    }
    "upper-layer header"
}
