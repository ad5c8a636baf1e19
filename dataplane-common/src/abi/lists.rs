//! Lists and their rules.

/// Which list: index into [`EndpointEntry::lists`].
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    /// doNotTrack, ingress.
    UntrackedIngress = 0,
    /// doNotTrack, egress.
    UntrackedEgress = 1,
    /// preDNAT, ingress.
    PreDnat = 2,
    /// applyOnForward, ingress.
    ForwardIngress = 3,
    /// applyOnForward, egress.
    ForwardEgress = 4,
    /// Normal, ingress.
    NormalIngress = 5,
    /// Normal, egress.
    NormalEgress = 6,
    /// Profiles, ingress.
    ProfileIngress = 7,
    /// Profiles, egress.
    ProfileEgress = 8,
}

/// Number of [`ListKind`]s.
pub const LIST_KINDS: usize = 9;

/// What governs a device.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointEntry {
    /// Per [`ListKind`]: index into `pc_lists` plus one; 0: no policy there.
    pub lists: [u32; LIST_KINDS],
    /// Bits of [`endpoint_flag`].
    pub flags: u32,
}

/// [`EndpointEntry::flags`].
pub mod endpoint_flag {
    /// Bound by `*`.
    pub const WILDCARD: u32 = 1 << 0;
}

/// A range of the global rule order, and where its bitmap rows lie.
///
/// A row has `1 + words` u64: a summary (bit `w`: word `w` is not zero) and the words (bit `b` of word `w`: rule
/// `rule_base + 64 w + b` matches this class). The row of class `c` starts at `*_rows + c * (1 + words)`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListEntry {
    /// First rule, index into `pc_rules`.
    pub rule_base: u32,
    /// Number of rules.
    pub rule_count: u32,
    /// 64-rule words of a row, at most [`crate::limits::MAX_WORDS_PER_LIST`].
    pub words: u32,
    /// Rows of source-address classes, index into `pc_rows`.
    pub source_rows: u32,
    /// Rows of destination-address classes.
    pub destination_rows: u32,
    /// Rows of (protocol, destination port) classes.
    pub dport_rows: u32,
    /// Rows of (protocol, source port) classes.
    pub sport_rows: u32,
    /// Always zero.
    pub spare: u32,
}

/// What the scan does when a rule matches.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RuleAction {
    /// Final: deny. The zero value, so that a torn entry is closed.
    #[default]
    Deny = 0,
    /// Final: allow, for this stage.
    Allow = 1,
    /// Record, go on with the next rule.
    Log = 2,
    /// Go on at [`RuleEntry::resume`]: Pass, the end of a tier that passes, a negated named port.
    Skip = 3,
}

/// [`RuleEntry::flags`].
pub mod rule_flag {
    /// The end of a tier, not a rule that somebody wrote.
    pub const TIER_END: u8 = 1 << 0;
    /// Its policy says `recheck`: flows that it admits are judged again in a newer epoch (D15).
    pub const RECHECK: u8 = 1 << 1;
    /// Belongs to a staged policy: counted, never decides.
    pub const STAGED: u8 = 1 << 2;
    /// A helper of the rule behind it, which it jumps over: no hit of that rule.
    pub const UNCOUNTED: u8 = 1 << 3;
    /// Its policy says `keep`: flows that it admits are never judged again (D15).
    pub const KEEP: u8 = 1 << 4;
}

/// One compiled rule.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleEntry {
    /// A [`RuleAction`].
    pub action: u8,
    /// Bits of [`rule_flag`].
    pub flags: u8,
    /// Index of the rule in its policy's list; 0xffff for the end of a tier.
    pub index: u16,
    /// Id of the policy (a table of the agent); `u32::MAX` for the end of a tier.
    pub policy: u32,
    /// For [`RuleAction::Skip`]: position **within the list** at which the scan goes on.
    pub resume: u32,
    /// Stable identity for `pc_rule_hits`: hash of list kind, tier, policy and rule. Survives generations.
    pub identity: u32,
}
