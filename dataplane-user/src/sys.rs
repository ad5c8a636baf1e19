//! The one system call that no library of ours offers.
#![allow(unsafe_code, reason = "a raw system call")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

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
