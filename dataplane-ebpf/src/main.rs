//! The kernel programs of Portcullis: `pc_tc_ingress` and `pc_tc_egress`.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// TC ingress of a device.
#[classifier]
pub fn pc_tc_ingress(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// TC egress of a device.
#[classifier]
pub fn pc_tc_egress(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// bpf_fib_lookup, the ring buffer and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
