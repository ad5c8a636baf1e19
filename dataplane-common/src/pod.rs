//! The only `unsafe` of this crate: the promise to aya that the map types are plain bytes.

use crate::{abi, addr, flow, packet, room, verdict};

macro_rules! pod {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: `#[repr(C)]`, `Copy`, integers and arrays of integers only (the three `repr(u8)` enums of
            // `Decision` and `Packet` are only written by our own program), with every padding byte named.
            unsafe impl aya::Pod for $t {}
        )*
    };
}

pod!(
    addr::Addr,
    packet::Packet,
    verdict::Decision,
    abi::Control,
    abi::Settings,
    abi::DeviceEntry,
    abi::EndpointEntry,
    abi::ListEntry,
    abi::RuleEntry,
    abi::PortKey,
    abi::FrontendKey,
    abi::FailsafeKey,
    abi::InfraKey,
    abi::Counter,
    abi::DeviceCounterKey,
    abi::RuleCounterKey,
    abi::RuleHits,
    abi::EthertypeKey,
    abi::Event,
    abi::Facts,
    abi::Scratch,
    flow::FlowKey,
    flow::FlowEntry,
    flow::FragmentKey,
    flow::FragmentEntry,
    room::Holder,
    room::Place,
    room::Set,
);

/// Reads an event as the ring buffer hands it out. `None`: another length, or a number that is none of ours (an
/// event of another version).
pub fn event_from_bytes(bytes: &[u8]) -> Option<abi::Event> {
    use core::mem::offset_of;
    let decision = offset_of!(abi::Event, decision);
    let at = |offset: usize| bytes.get(offset).copied();
    let known = bytes.len() == size_of::<abi::Event>()
        && at(decision + offset_of!(verdict::Decision, verdict))? <= verdict::Verdict::Deny as u8
        && verdict::Stage::from_number(at(decision + offset_of!(verdict::Decision, stage))?).is_some()
        && verdict::Reason::from_number(at(decision + offset_of!(verdict::Decision, reason))?).is_some()
        && at(offset_of!(abi::Event, packet) + offset_of!(packet::Packet, fragment))?
            <= packet::FragmentPart::Later as u8;
    // SAFETY: as long as an event; integers take any value, and the only enums were checked above.
    known.then(|| unsafe { bytes.as_ptr().cast::<abi::Event>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_another_version_is_no_event() {
        let mut bytes = [0u8; size_of::<abi::Event>()];
        assert_eq!(event_from_bytes(&bytes), Some(abi::Event::default()));
        assert_eq!(event_from_bytes(&bytes[1..]), None);
        let reason =
            core::mem::offset_of!(abi::Event, decision) + core::mem::offset_of!(verdict::Decision, reason);
        bytes[reason] = 127;
        assert_eq!(event_from_bytes(&bytes), None);
    }
}
