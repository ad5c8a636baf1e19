//! Verdicts, stages and reasons. One append-only list feeds counters, events, metrics and documents.

/// What becomes of the packet.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// No host endpoint covers this device and direction: the packet is left alone.
    #[default]
    Ungoverned = 0,
    /// Goes on to other programs, netfilter and routing (D11).
    Allow = 1,
    /// Dropped here.
    Deny = 2,
}

impl Verdict {
    /// As scenarios write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ungoverned => "Ungoverned",
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

macro_rules! stages {
    ($($(#[doc = $doc:literal])* $variant:ident = $value:literal $name:literal,)*) => {
        /// Where a verdict fell (`scenario-format.md`).
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum Stage { #[default] $($(#[doc = $doc])* $variant = $value,)* }
        impl Stage {
            /// Every stage, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// As scenarios, events and metrics write it.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// One sentence for people.
            pub const fn doc(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),*),)* } }
            /// Back from the number in an event or a map.
            pub const fn from_number(n: u8) -> Option<Self> { match n { $($value => Some(Self::$variant),)* _ => None } }
        }
    };
}

stages! {
    /// No verdict of ours (an ungoverned packet).
    None = 0 "none",
    /// Not IP, or tagged for another device.
    L2 = 1 "l2",
    /// The parser refused it.
    Malformed = 2 "malformed",
    /// Impossible addresses, source routes, redirects.
    Martian = 3 "martian",
    /// D1, D2.
    Failsafe = 4 "failsafe",
    /// D7.
    Nd = 5 "nd",
    /// Inherited from the first fragment.
    Fragment = 6 "fragment",
    /// Established or related.
    Flow = 7 "flow",
    /// No flow, and not what may begin one.
    Invalid = 8 "invalid",
    /// doNotTrack policies.
    Untracked = 9 "untracked",
    /// preDNAT policies.
    PreDnat = 10 "preDNAT",
    /// Known tunnels between nodes, D39.
    Infra = 11 "infra",
    /// Normal policies.
    Normal = 12 "normal",
    /// Profiles, and the drop behind them.
    Profile = 13 "profile",
    /// applyOnForward policies.
    Forward = 14 "forward",
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $value:literal $name:literal,)*) => {
        /// Why, finer than [`Stage`]. Append only: numbers are map indexes and event fields.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum Reason { #[default] $($(#[doc = $doc])* $variant = $value,)* }
        impl Reason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// As counters, events and `expect.reason` write it.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// One sentence for people.
            pub const fn doc(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),*),)* } }
            /// Back from the number in an event or a map.
            pub const fn from_number(n: u8) -> Option<Self> { match n { $($value => Some(Self::$variant),)* _ => None } }
        }
    };
}

reasons! {
    /// No host endpoint covers this device and direction.
    Ungoverned = 0 "ungoverned",
    /// No generation is loaded, so nothing is enforced yet (D46).
    NoGeneration = 1 "no_generation",
    /// A table of the active generation is missing or torn: refused, never guessed.
    TableMissing = 2 "table_missing",
    /// A rule allowed it.
    RuleAllow = 3 "rule_allow",
    /// A rule denied it.
    RuleDeny = 4 "rule_deny",
    /// The tier ended without a decision and its default action is Deny.
    TierEnd = 5 "tier_end",
    /// No profile allowed it: the last drop of a host endpoint.
    ProfileEnd = 6 "profile_end",
    /// Forwarded, and no policy is armed for forwarded traffic here.
    ForwardDefault = 7 "forward_default",
    /// From the host to one of its own pods (D25).
    HostToPod = 8 "host_to_pod",
    /// From a pod to its own host; left to the CNI (D26).
    PodToHost = 9 "pod_to_host",
    /// A list needed more steps than the limit; the compiler should have refused it.
    ScanLimit = 10 "scan_limit",

    /// Not an IP packet (D20).
    NotIp = 16 "not_ip",
    /// Tagged for a VLAN device (D28).
    OtherVlan = 17 "other_vlan",
    /// Unknown ethertype, and the host endpoint drops these.
    UnknownEthertype = 18 "unknown_ethertype",

    /// The packet ends inside a header.
    Short = 24 "short",
    /// More VLAN tags than are read (D28).
    VlanTags = 25 "vlan_tags",
    /// An IP packet inside an 802.2 SNAP frame (D20).
    Snap = 26 "snap",
    /// The IP version disagrees with the ethertype.
    IpVersion = 27 "ip_version",
    /// IPv4 header length below 5 words or beyond the packet.
    Ipv4HeaderLength = 28 "ipv4_header_length",
    /// The length field is impossible: shorter than the header, longer than the packet, or zero.
    IpLength = 29 "ip_length",
    /// A reserved flag bit of IPv4 is set (D32).
    Ipv4ReservedFlag = 30 "ipv4_reserved_flag",
    /// A bad option length (D31).
    Ipv4Options = 31 "ipv4_options",
    /// IPv6 extension headers in a forbidden order or number (D33).
    ExtensionOrder = 32 "extension_order",
    /// More than 8 extension headers or 256 bytes of them (D33).
    ExtensionLimit = 33 "extension_limit",
    /// UDP or UDPLite length impossible (D34).
    UdpLength = 34 "udp_length",
    /// TCP data offset impossible (D34).
    TcpOffset = 35 "tcp_offset",
    /// TCP flags that no stack sends (D35).
    TcpFlags = 36 "tcp_flags",
    /// Port 0 where it is not allowed (D34).
    PortZero = 37 "port_zero",
    /// The L4 header is not whole; in a first fragment this is RFC 7112 and D36.
    ShortL4 = 38 "short_l4",
    /// ICMP shorter than 8 bytes.
    ShortIcmp = 39 "short_icmp",
    /// Neighbour discovery or MLD shorter than its message needs (D7).
    ShortNd = 40 "short_nd",
    /// Neighbour discovery or MLD behind a Fragment header (RFC 6980).
    NdFragment = 41 "nd_fragment",
    /// A fragment with more to come whose length is no multiple of 8 (D36).
    FragmentLength = 42 "fragment_length",
    /// Offset plus length exceed 65535 (D36).
    FragmentTooLong = 43 "fragment_too_long",
    /// A later fragment whose offset lies inside the L4 header (RFC 3128, D36).
    FragmentOverlap = 44 "fragment_overlap",
    /// A second first fragment with other ports (D36).
    FragmentRewrite = 45 "fragment_rewrite",
    /// An ICMP error that quotes too little, a later fragment, or another ICMP error (C-7).
    IcmpInner = 46 "icmp_inner",

    /// Own address as source, from the wire (D29).
    SourceOwn = 64 "source_own",
    /// Loopback address as source (D29).
    SourceLoopback = 65 "source_loopback",
    /// Multicast or broadcast address as source (D29).
    SourceMulticast = 66 "source_multicast",
    /// 0.0.0.0/8 or `::` as source, and not one of the messages that may (D29).
    SourceZero = 67 "source_zero",
    /// ::ffff:0:0/96 as source (D29).
    SourceMapped = 68 "source_mapped",
    /// Loopback, 0.0.0.0/8 or `::` as destination (D30).
    Destination = 69 "destination",
    /// IPv4 source route (D31).
    SourceRoute = 70 "source_route",
    /// IPv6 routing header type 0, or another with segments left (D33).
    RoutingHeader = 71 "routing_header",
    /// Neighbour discovery with a hop limit other than 255 (D7).
    NdHopLimit = 72 "nd_hop_limit",
    /// ICMP redirect (D7).
    Redirect = 73 "redirect",
    /// A source in an internal range that does not route here, and the host endpoint asks for anti-spoof (D27).
    Spoofed = 74 "spoofed",

    /// Inbound failsafe (D1).
    FailsafeInbound = 80 "failsafe_inbound",
    /// Outbound failsafe (D2).
    FailsafeOutbound = 81 "failsafe_outbound",
    /// The answer of a failsafe's service (D1).
    FailsafeReply = 82 "failsafe_reply",

    /// Neighbour discovery or MLD (D7).
    NdAllowed = 88 "nd_allowed",
    /// Router advertisement where none is accepted (D7).
    RouterAdvertisement = 89 "router_advertisement",

    /// Later fragment of an admitted first one.
    FragmentAllowed = 96 "fragment_allowed",
    /// Later fragment of a refused first one.
    FragmentDenied = 97 "fragment_denied",
    /// Later fragment without a record of its first (D36).
    FragmentUnknown = 98 "fragment_unknown",

    /// Established, in the original direction.
    FlowOriginal = 104 "flow_original",
    /// Established, in the reply direction.
    FlowReply = 105 "flow_reply",
    /// An ICMP error about an established flow (D37).
    FlowRelated = 106 "flow_related",
    /// An established flow that the present policy denies (D15, recheck).
    FlowRechecked = 107 "flow_rechecked",

    /// TCP, no flow, no plain SYN (D17).
    TcpNoFlow = 112 "tcp_no_flow",
    /// SCTP, no flow, no INIT (D38).
    SctpNoFlow = 113 "sctp_no_flow",
    /// TCP in the original direction before any reply, neither SYN nor RST (D42).
    TcpBeforeReply = 114 "tcp_before_reply",
    /// A reply to a half-open flow that does not acknowledge its SYN (T-12).
    TcpBadReply = 115 "tcp_bad_reply",

    /// Outer packet of a known tunnel between nodes (D39).
    InfraTunnel = 120 "infra_tunnel",
}

/// No rule.
pub const NO_RULE: u32 = u32::MAX;

/// The end of one packet: exactly one reason, with the rule where a rule (or the end of a tier) decided.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "a verdict that is dropped is a packet let through"]
pub struct Decision {
    /// Index into the generation's rules, or [`NO_RULE`].
    pub rule: u32,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Where it fell.
    pub stage: Stage,
    /// Why.
    pub reason: Reason,
    /// Always zero.
    pub pad: u8,
}

impl Decision {
    /// A decision without a rule.
    #[inline(always)]
    pub const fn new(verdict: Verdict, stage: Stage, reason: Reason) -> Self {
        Self { rule: NO_RULE, verdict, stage, reason, pad: 0 }
    }
}
