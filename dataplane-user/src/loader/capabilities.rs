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

/// The error, with the capabilities that this process lacks in front where there are any; else with a word about the
/// seccomp filter, where the kernel refused something and there is one.
pub fn named(error: anyhow::Error) -> anyhow::Error {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match lacks(&status).or_else(|| filtered(&status, &format!("{error:#}"))) {
        Some(text) => error.context(text),
        None => error,
    }
}

/// A filter refuses with the same number as the kernel does.
fn filtered(status: &str, error: &str) -> Option<String> {
    let filter = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    (filter && error.contains("Operation not permitted")).then(|| {
        "every capability is there, but a seccomp filter is on this process and may refuse bpf(2), as the default \
         profiles of some container runtimes do: set `seccompProfile.type: Unconfined`, or use a runtime that allows \
         it with CAP_BPF"
            .to_owned()
    })
}

/// `status`: /proc/PID/status.
fn lacks(status: &str) -> Option<String> {
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(word.trim(), 16).ok()?;
    let has = |bit: u32| held & (1 << bit) != 0;
    let granted = |c: &Needed| has(c.bit) || c.in_sys_admin && has(SYS_ADMIN);
    let missing: Vec<String> =
        NEEDED.iter().filter(|c| !granted(c)).map(|c| format!("{} ({})", c.name, c.why)).collect();
    let remedy =
        "add it to `securityContext.capabilities.add` of the pod, or to `CapabilityBoundingSet=` of the unit";
    (!missing.is_empty()).then(|| format!("this process lacks {}: {remedy}", missing.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::{filtered, lacks};

    fn with(bits: &[u32]) -> String {
        let held = bits.iter().fold(0_u64, |all, bit| all | 1 << bit);
        format!("Name:\tportcullis\nCapEff:\t{held:016x}\n")
    }

    #[test]
    fn a_filter_is_named_where_the_kernel_would_have_said_yes() {
        let refused = "failed to create map: Operation not permitted (os error 1)";
        assert!(filtered("Seccomp:\t2\nSeccomp_filters:\t1\n", refused).unwrap().contains("Unconfined"));
        assert_eq!(filtered("Seccomp:\t0\nSeccomp_filters:\t0\n", refused), None);
        assert_eq!(filtered("Seccomp:\t2\n", "no such device"), None);
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
