//! What is wrong, in one word for programs: reasons of conditions and Events, the worst first.

use std::io;

use serde::{Deserialize, Serialize};

/// A cause. The order is by how much it leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    NothingInForce,
    NotAttached,
    VerifierRejected,
    LimitExceeded,
    MapFull,
    GenerationFailed,
    Suspended,
    Audit,
    TrialExpired,
    AnotherCluster,
    ApiUnreachable,
    WatchFailed,
    KindNotServed,
    NotInSync,
    InvalidSelector,
    InvalidObject,
    HostEndpointConflict,
    HostEndpointBindsNothing,
    NothingGoverned,
    AgentTrouble,
}

impl Cause {
    /// The worst first.
    pub const ALL: [Self; 20] = [
        Self::NothingInForce,
        Self::NotAttached,
        Self::VerifierRejected,
        Self::LimitExceeded,
        Self::MapFull,
        Self::GenerationFailed,
        Self::Suspended,
        Self::Audit,
        Self::TrialExpired,
        Self::AnotherCluster,
        Self::ApiUnreachable,
        Self::WatchFailed,
        Self::KindNotServed,
        Self::NotInSync,
        Self::InvalidSelector,
        Self::InvalidObject,
        Self::HostEndpointConflict,
        Self::HostEndpointBindsNothing,
        Self::NothingGoverned,
        Self::AgentTrouble,
    ];

    /// `LimitExceeded`
    pub fn name(self) -> &'static str {
        self.describe().0
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        self.describe().1
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.describe().2
    }

    fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NothingInForce => (
                "NothingInForce",
                "no generation is active: every packet passes",
                "see the troubles; right after the first start it passes by itself",
            ),
            Self::NotAttached => (
                "NotAttached",
                "the programs are not on a device that a HostEndpoint governs: its policy is not enforced",
                "see the trouble of the device",
            ),
            Self::VerifierRejected => (
                "VerifierRejected",
                "the kernel refused to load a program",
                "report the kernel's version and the agent's log; what an earlier agent put in force goes on. An agent that \
                 is refused at its start ends before it can report: its log says so, and this report grows old",
            ),
            Self::LimitExceeded => (
                "LimitExceeded",
                "the policies need more than a generation holds; the generation before goes on",
                "the message names the limit, the object that crossed it, and what to write instead",
            ),
            Self::MapFull => (
                "MapFull",
                "the kernel has no room for the generation; the one before goes on",
                "free memory on the node, or use fewer rules",
            ),
            Self::GenerationFailed => (
                "GenerationFailed",
                "a generation could not be put in force; the one before goes on",
                "see the message and the agent's log",
            ),
            Self::Suspended => (
                "Suspended",
                "somebody suspended enforcement on the node: what policy denies passes",
                "it ends by itself; `portcullis suspend --end` on the node ends it now",
            ),
            Self::Audit => (
                "Audit",
                "the agent runs with --audit: what policy denies is counted and passes",
                "start it without",
            ),
            Self::TrialExpired => (
                "TrialExpired",
                "an apply on trial was not confirmed: the policies before it are in force",
                "change the policies, or start the agent again",
            ),
            Self::AnotherCluster => (
                "AnotherCluster",
                "another cluster answers, without any HostEndpoint: a wiped store, perhaps; the former one's policies \
                 go on",
                "create the HostEndpoints there, or start the agent with --accept-new-cluster",
            ),
            Self::ApiUnreachable => (
                "ApiUnreachable",
                "the API server cannot be followed; what was read before goes on",
                "see the message",
            ),
            Self::WatchFailed => (
                "WatchFailed",
                "a kind cannot be watched; what was read of it before goes on",
                "the message names the right that is missing, if it is that",
            ),
            Self::KindNotServed => (
                "KindNotServed",
                "the cluster does not serve a kind; its objects go on as they were",
                "install the CustomResourceDefinitions again",
            ),
            Self::NotInSync => (
                "NotInSync",
                "not everything was read yet; what is in force goes on",
                "it passes when everything was read once",
            ),
            Self::InvalidSelector => (
                "InvalidSelector",
                "a selector cannot be understood; the object goes on in its last good version, if it has one",
                "correct the object: its errors stand in its entry",
            ),
            Self::InvalidObject => (
                "InvalidObject",
                "an object cannot be understood; it goes on in its last good version, if it has one",
                "correct the object: its errors stand in its entry",
            ),
            Self::HostEndpointConflict => (
                "HostEndpointConflict",
                "another HostEndpoint governs the device that this one is for",
                "delete one of the two, or give them different devices",
            ),
            Self::HostEndpointBindsNothing => (
                "HostEndpointBindsNothing",
                "a HostEndpoint of this node governs no device",
                "correct its interfaceName or expectedIPs",
            ),
            Self::NothingGoverned => (
                "NothingGoverned",
                "there are policies for hosts, and no HostEndpoint governs a device here",
                "write a HostEndpoint for this node",
            ),
            Self::AgentTrouble => {
                ("AgentTrouble", "the agent could not do something else", "see the message")
            }
        }
    }

    /// What an error is about, where it says so.
    pub fn of_error(error: &anyhow::Error) -> Option<Self> {
        use crate::compile::Error as Compile;
        use aya::programs::ProgramError;
        let full = |e: &io::Error| {
            matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC | libc::E2BIG | libc::EDQUOT))
        };
        error.chain().find_map(|e| {
            if e.downcast_ref::<Compile>().is_some() {
                Some(Self::LimitExceeded)
            } else if matches!(e.downcast_ref::<ProgramError>(), Some(ProgramError::LoadError { .. })) {
                Some(Self::VerifierRejected)
            } else if e.downcast_ref::<io::Error>().is_some_and(full) {
                Some(Self::MapFull)
            } else {
                None
            }
        })
    }

    /// What a place of trouble is about, where its error does not say more.
    pub fn of_place(place: &str) -> Self {
        match place {
            "compile" | "maps" | "trial" => Self::GenerationFailed,
            "detach" => Self::NotAttached,
            "kubernetes" => Self::ApiUnreachable,
            "cluster" => Self::AnotherCluster,
            "custom resources" => Self::KindNotServed,
            "source" | "first look at the cluster" => Self::NotInSync,
            "folder" => Self::InvalidObject,
            other if other.starts_with("device ") => Self::NotAttached,
            other if other.starts_with("watch of ") => Self::WatchFailed,
            other if other.starts_with("kind ") => Self::KindNotServed,
            _ => Self::AgentTrouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_in_order() {
        assert!(Cause::ALL.is_sorted());
        let last = Cause::ALL.last().copied().unwrap();
        assert_eq!(last as usize + 1, Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(cause.name(), format!("{cause:?}"));
        }
    }

    #[test]
    fn errors_say_what_they_are_about() {
        let limit = crate::compile::error::check(crate::compile::error::Limit::Rules, usize::MAX, "x");
        let error = anyhow::Error::from(limit.unwrap_err()).context("more");
        assert_eq!(Cause::of_error(&error), Some(Cause::LimitExceeded));
        let full = |number| {
            let source = aya::maps::MapError::from(aya::sys::SyscallError {
                call: "bpf_map_update_elem",
                io_error: io::Error::from_raw_os_error(number),
            });
            Cause::of_error(&crate::maps::Error::map("m", "write", source).into())
        };
        assert_eq!(full(libc::ENOMEM), Some(Cause::MapFull));
        assert_eq!(full(libc::EPERM), None);
    }
}
