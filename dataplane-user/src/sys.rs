//! What no library of ours offers safely.
#![allow(unsafe_code, reason = "raw system calls, and a promise about a descriptor")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use dataplane_common::abi::Hook;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Commands of `bpf(2)`.
const PROG_QUERY: libc::c_int = 16;
const BTF_LOAD: libc::c_int = 18;
/// Kinds of attachment, as linux/bpf.h numbers them.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// The attribute of `BPF_BTF_LOAD`, as linux/bpf.h lays it out.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
}

/// The attribute of `BPF_PROG_QUERY`, as linux/bpf.h lays it out since 6.6, which is when TCX came.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// More programs at one hook than the kernel takes (`BPF_MPROG_MAX`, 64).
const MANY: usize = 128;

/// Gives the kernel a copy of types. Needs CAP_BPF alone; to open a copy that is there by its number needs
/// CAP_SYS_ADMIN.
pub fn load_btf(types: &[u8]) -> io::Result<OwnedFd> {
    let attribute = BtfLoad {
        btf: types.as_ptr() as u64,
        log: 0,
        btf_size: u32::try_from(types.len()).map_err(io::Error::other)?,
        log_size: 0,
        log_level: 0,
    };
    // SAFETY: the kernel reads exactly `size_of` bytes from a pointer to a live, initialised value, which in turn points
    // to `btf_size` live bytes.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BTF_LOAD, &raw const attribute, size_of::<BtfLoad>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just handed to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Numbers of the programs in a device's chain of TCX links, in their order. Needs CAP_NET_ADMIN alone; to learn their
/// names by these numbers needs CAP_SYS_ADMIN.
///
/// # Errors
/// No such device, or a kernel before 6.6.
pub fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MANY];
    let mut attribute = ProgQuery {
        ifindex,
        attach_type: match hook {
            Hook::Ingress => TCX_INGRESS,
            Hook::Egress => TCX_EGRESS,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: MANY as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the kernel reads and writes exactly `size_of` bytes at a pointer to a live value, and at most `count`
    // numbers at `prog_ids`, which has room for so many.
    let code =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attribute, size_of::<ProgQuery>()) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids[..MANY.min(attribute.count as usize)].to_vec())
}

/// A descriptor that a task can wait on until there is something to read. Needs a running tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the registration that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
