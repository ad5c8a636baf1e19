//! The only `unsafe` of this crate: the promise to aya that the map types are plain bytes.

use crate::{abi, addr, flow, packet, verdict};

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
);
