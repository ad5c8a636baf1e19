//! What no library of ours offers safely.
#![allow(unsafe_code, reason = "a raw system call, and a promise about a descriptor")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `BPF_BTF_GET_FD_BY_ID` of `bpf(2)`.
const BTF_GET_FD_BY_ID: libc::c_int = 19;

/// The attribute of that command, as linux/bpf.h lays it out.
#[repr(C)]
struct GetFdById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens the kernel's copy of a program's types. Needs CAP_SYS_ADMIN or CAP_BPF, as loading does.
pub fn btf_by_id(id: u32) -> io::Result<OwnedFd> {
    let attribute = GetFdById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the kernel reads exactly `size_of` bytes from a pointer to a live, initialised value.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BTF_GET_FD_BY_ID, &raw const attribute, size_of::<GetFdById>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just handed to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A descriptor that a task can wait on until there is something to read. Needs a running tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the registration that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
