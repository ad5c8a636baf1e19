//! Which capability a failure is about. The kernel says only "not permitted", whichever it asked for.

use std::fs;

/// One that enforcement needs, on every kernel that we run on.
struct Needed {
    name: &'static str,
    /// Its number in linux/capability.h.
    bit: u32,
    why: &'static str,
    /// Whether CAP_SYS_ADMIN stands for it.
    in_sys_admin: bool,
}

const SYS_ADMIN: u32 = 21;

/// Linux 5.8 took BPF and PERFMON out of SYS_ADMIN.
const NEEDED: [Needed; 3] = [
    Needed {
        name: "CAP_BPF",
        bit: 39,
        why: "the kernel makes maps and loads programs for it alone",
        in_sys_admin: true,
    },
    Needed {
        name: "CAP_NET_ADMIN",
        bit: 12,
        why: "the kernel loads network programs and attaches them to devices for it alone",
        in_sys_admin: false,
    },
    Needed {
        name: "CAP_PERFMON",
        bit: 38,
        why: "the verifier lets programs compute with pointers into packets for it alone",
        in_sys_admin: true,
    },
];

/// The error, with the capabilities that this process lacks in front where there are any.
pub fn named(error: anyhow::Error) -> anyhow::Error {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match lacks(&status) {
        Some(text) => error.context(text),
        None => error,
    }
}

/// `status`: /proc/PID/status.
fn lacks(status: &str) -> Option<String> {
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(word.trim(), 16).ok()?;
    let has = |bit: u32| held & (1 << bit) != 0;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|c| !has(c.bit) && !(c.in_sys_admin && has(SYS_ADMIN)))
        .map(|c| format!("{} ({})", c.name, c.why))
        .collect();
    let remedy =
        "add it to `securityContext.capabilities.add` of the pod, or to `CapabilityBoundingSet=` of the unit";
    (!missing.is_empty()).then(|| format!("this process lacks {}: {remedy}", missing.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::lacks;

    fn with(bits: &[u32]) -> String {
        let held = bits.iter().fold(0_u64, |all, bit| all | 1 << bit);
        format!("Name:\tportcullis\nCapEff:\t{held:016x}\n")
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(lacks(&with(&[12, 38, 39])), None);
        assert_eq!(lacks(&with(&[12, 21])), None);
        let text = lacks(&with(&[12, 39])).unwrap();
        assert!(text.contains("CAP_PERFMON") && !text.contains("CAP_BPF"), "{text}");
        assert!(lacks(&with(&[21, 38, 39])).unwrap().contains("CAP_NET_ADMIN"));
        assert_eq!(lacks("nothing"), None);
    }
}
