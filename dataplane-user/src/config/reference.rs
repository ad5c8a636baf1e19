//! What people read about the settings. The reference page and the packaged file are written from this table, and
//! tests hold both, and the reader, to it.

use std::fmt::Write as _;

/// One field of the file.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub key: &'static str,
    /// The option of `portcullis run` that overrides it, if there is one.
    pub flag: Option<&'static str>,
    /// What may stand there.
    pub value: &'static str,
    /// What holds when it is absent: a value, or words where no value says it.
    pub default: &'static str,
    /// A value for the packaged file: the default itself where it is one.
    pub example: &'static str,
    /// Whether `example` is the default.
    pub example_is_default: bool,
    /// Sentences, one a line.
    pub text: &'static [&'static str],
}

/// In the order of the file.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "node",
        flag: Some("--node"),
        value: "a node name",
        default: "the hostname",
        example: "node1",
        example_is_default: false,
        text: &["Name of this node, as `spec.node` of its HostEndpoints has it."],
    },
    Setting {
        key: "policies",
        flag: Some("--policies"),
        value: "a path",
        default: "/etc/portcullis/policies",
        example: "/etc/portcullis/policies",
        example_is_default: true,
        text: &[
            "Folder of policies, HostEndpoints and what else they need.",
            "It is watched: an edit takes effect at once.",
        ],
    },
    Setting {
        key: "kubernetes",
        flag: Some("--kubernetes"),
        value: "`true` or `false`",
        default: "false",
        example: "false",
        example_is_default: true,
        text: &["Take policies from the Kubernetes API instead of the folder.", "See docs/kubernetes.md."],
    },
    Setting {
        key: "kubeconfig",
        flag: Some("--kubeconfig"),
        value: "a path",
        default: "$KUBECONFIG, ~/.kube/config, else the service account of the pod",
        example: "/etc/portcullis/kubeconfig",
        example_is_default: false,
        text: &["How to reach the Kubernetes API."],
    },
    Setting {
        key: "pinDir",
        flag: Some("--pin-dir"),
        value: "a path on a bpffs",
        default: "/sys/fs/bpf/portcullis",
        example: "/sys/fs/bpf/portcullis",
        example_is_default: true,
        text: &[
            "Where maps and links are pinned, so that enforcement outlives the agent.",
            "One agent per folder.",
        ],
    },
    Setting {
        key: "bpffs",
        flag: Some("--bpffs"),
        value: "a path",
        default: "found from pinDir",
        example: "/sys/fs/bpf",
        example_is_default: false,
        text: &["Mount point of the bpffs; one is mounted there when there is none."],
    },
    Setting {
        key: "stateDir",
        flag: Some("--state-dir"),
        value: "a path",
        default: "/var/lib/portcullis",
        example: "/var/lib/portcullis",
        example_is_default: true,
        text: &[
            "Where the agent keeps its last good state, and what `portcullis status` reads.",
            "It must outlive a reboot: the boot floor begins with it (D46).",
        ],
    },
    Setting {
        key: "attach",
        flag: Some("--attach"),
        value: "`auto`, `tcx` or `clsact`",
        default: "auto",
        example: "auto",
        example_is_default: true,
        text: &[
            "How programs are attached to devices: TCX links, or filters of a clsact qdisc.",
            "`auto` is TCX from Linux 6.6 on, else clsact.",
        ],
    },
    Setting {
        key: "xdp",
        flag: None,
        value: "`generic`, `native` or `off`",
        default: "generic",
        example: "generic",
        example_is_default: true,
        text: &[
            "Where untracked policy (`doNotTrack`) denies something at ingress, packets are dropped at XDP already, before the rest of the stack sees them.",
            "`native` does so in the driver; some drivers reset the link when it is attached.",
            "`off`, or a device that cannot: TC enforces the same (D10).",
        ],
    },
    Setting {
        key: "httpAddress",
        flag: Some("--http-address"),
        value: "an IP address, or `off`",
        default: "127.0.0.1",
        example: "127.0.0.1",
        example_is_default: true,
        text: &[
            "Where `/metrics`, `/livez` and `/readyz` are answered: an address of this node, or `::` for all of them.",
            "There is no password: beyond this node, policy must say who may ask. See docs/reference/metrics.md.",
        ],
    },
    Setting {
        key: "httpPort",
        flag: Some("--http-port"),
        value: "a port",
        default: "10187",
        example: "10187",
        example_is_default: true,
        text: &[
            "TCP port of `httpAddress`. One that is in use is told by `status`, and enforcement goes on.",
        ],
    },
    Setting {
        key: "onPolicyChange",
        flag: None,
        value: "`keep` or `recheck`",
        default: "keep",
        example: "keep",
        example_is_default: true,
        text: &[
            "Whether a connection that policy admitted lives on when policy changes (`keep`), or is judged again at its next packet (`recheck`).",
            "The annotation `portcullis.dev/on-policy-change` of a policy overrides it (D15).",
        ],
    },
    Setting {
        key: "grace",
        flag: None,
        value: "a duration up to `1h`",
        default: "60s",
        example: "60s",
        example_is_default: true,
        text: &[
            "How long after a device becomes governed a TCP packet of a connection that nobody saw begin is judged by policy, and not dropped as invalid.",
            "`0s`: not at all (D17).",
        ],
    },
    Setting {
        key: "nodePortAddresses",
        flag: None,
        value: "a list of networks or addresses",
        default: "every own address",
        example: "[10.240.0.0/16, fd00:10::/64]",
        example_is_default: false,
        text: &[
            "Own addresses at which NodePorts are answered, as kube-proxy's setting of this name says (D3).",
        ],
    },
    Setting {
        key: "infraTunnels",
        flag: None,
        value: "`true` or `false`",
        default: "true",
        example: "true",
        example_is_default: true,
        text: &[
            "Whether the tunnels between this node and the other Node objects pass without a rule (D39).",
        ],
    },
    Setting {
        key: "governLoopback",
        flag: None,
        value: "`true` or `false`",
        default: "false",
        example: "false",
        example_is_default: true,
        text: &[
            "Whether a `*` HostEndpoint governs `lo` too (D5).",
            "With `true`, a policy without 127.0.0.0/8 breaks most hosts.",
        ],
    },
];

const HEAD: &str = "\
# Settings

Written from `dataplane-user/src/config/reference.rs`; a test fails when this page differs.

`portcullis run --config FILE` reads its settings from a YAML file. Without `--config` it reads `/etc/portcullis/config.yaml` if that is there.
Every setting may be absent. Options of the command line override the file.
The file is read strictly: an unknown setting or a wrong value is an error, all of them are told at once, and the agent does not start.
`portcullis validate --config FILE` checks a file and changes nothing. A change takes effect when the agent is restarted; enforcement goes on meanwhile.

| setting | option | value | default | meaning |
|---|---|---|---|---|
";

/// `docs/reference/settings.md`.
pub fn reference_page() -> String {
    let mut page = HEAD.to_owned();
    for s in SETTINGS {
        let flag = s.flag.map_or_else(String::new, |flag| format!("`{flag}`"));
        let default = if s.example_is_default { format!("`{}`", s.default) } else { s.default.to_owned() };
        let _ = writeln!(page, "| `{}` | {flag} | {} | {default} | {} |", s.key, s.value, s.text.join(" "));
    }
    page
}

/// `packaging/config.yaml`: every setting as a comment, so that an upgrade may move defaults.
pub fn example() -> String {
    let mut file = "\
# Settings of the Portcullis agent. What is commented out shows the default, or an example where it says so.
# Check an edit: portcullis validate --config /etc/portcullis/config.yaml
# Take it over:  systemctl restart portcullis (enforcement goes on meanwhile)
"
    .to_owned();
    for s in SETTINGS {
        file.push('\n');
        for line in s.text {
            let _ = writeln!(file, "# {line}");
        }
        if !s.example_is_default {
            let _ = writeln!(file, "# Default: {}. Example:", s.default);
        }
        let _ = writeln!(file, "#{}: {}", s.key, s.example);
    }
    file
}
