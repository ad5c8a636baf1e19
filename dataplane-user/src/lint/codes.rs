//! The findings' codes. Each has a page of its name in `docs/lint/` (a test checks it). Append only.

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    PreDnatWithoutDeny = 1,
    NoHostEgress = 2,
    EndpointsWithoutAddresses = 3,
    WildcardShutsPods = 4,
    HostBits = 5,
    LogOnly = 6,
    DenyOnFailsafe = 7,
    NegativeNamespaceSelector = 8,
    RulesOutsideTypes = 9,
    ContendingEndpoints = 10,
    ForwardWithoutPods = 11,
    NodeNeeds = 12,
    UnorderedAllow = 13,
    SshShut = 14,
    ApiServerShut = 15,
    Shadowed = 16,
    MatchesNothing = 17,
    SelectsNothing = 18,
    SpoofableTrust = 19,
    BindsNothing = 20,
    Unprotected = 21,
    MissingProfile = 22,
    UntrackedOnWildcard = 23,
    UnreachableTier = 24,
    UntrackedOneWay = 25,
}

impl Code {
    /// Every code, in order.
    pub const ALL: [Self; 25] = [
        Self::PreDnatWithoutDeny,
        Self::NoHostEgress,
        Self::EndpointsWithoutAddresses,
        Self::WildcardShutsPods,
        Self::HostBits,
        Self::LogOnly,
        Self::DenyOnFailsafe,
        Self::NegativeNamespaceSelector,
        Self::RulesOutsideTypes,
        Self::ContendingEndpoints,
        Self::ForwardWithoutPods,
        Self::NodeNeeds,
        Self::UnorderedAllow,
        Self::SshShut,
        Self::ApiServerShut,
        Self::Shadowed,
        Self::MatchesNothing,
        Self::SelectsNothing,
        Self::SpoofableTrust,
        Self::BindsNothing,
        Self::Unprotected,
        Self::MissingProfile,
        Self::UntrackedOnWildcard,
        Self::UnreachableTier,
        Self::UntrackedOneWay,
    ];
    /// `docs/lint/L03.md`
    pub fn page(self) -> String {
        format!("docs/lint/{self}.md")
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L{:02}", *self as u8)
    }
}
