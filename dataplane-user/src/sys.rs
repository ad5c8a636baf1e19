//! What no library of ours offers safely.
#![allow(unsafe_code, reason = "raw system calls, and a promise about a descriptor")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::Pod;
use aya::maps::{MapData, MapType};
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

/// `BPF_MAP_LOOKUP_BATCH` of `bpf(2)`.
const LOOKUP_BATCH: libc::c_int = 24;
/// Entries that are asked for at once.
const BATCH: usize = 4096;
/// Bytes of the longest key whose maps are read in batches.
const MAX_KEY: usize = 64;

/// The attribute of batch commands, as linux/bpf.h lays it out.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where the next batch begins: the kernel's business.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    bytes: [u8; MAX_KEY],
    begun: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { bytes: [0; MAX_KEY], begun: false }
    }
}

/// Appends the next entries of a map. False: these were the last. Kernel: 5.6, for tries 5.13.
///
/// # Errors
/// What the kernel says; a map whose kind, key or value is not what the types say is refused before it is asked.
pub fn lookup_batch<K: Pod, V: Pod>(
    map: &MapData,
    cursor: &mut Cursor,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<bool> {
    let info = map.info().map_err(io::Error::other)?;
    let fits = info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<V>();
    // A map with a value for each CPU writes more than one for each key.
    let one_value =
        matches!(info.map_type(), Ok(MapType::Array | MapType::Hash | MapType::LruHash | MapType::LpmTrie));
    if !fits || !one_value || size_of::<K>() > MAX_KEY {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    keys.reserve(BATCH);
    values.reserve(BATCH);
    let mut next = Cursor { begun: true, ..*cursor };
    let mut attribute = Batch {
        in_batch: if cursor.begun { cursor.bytes.as_ptr() as u64 } else { 0 },
        out_batch: next.bytes.as_mut_ptr() as u64,
        keys: keys.spare_capacity_mut().as_mut_ptr() as u64,
        values: values.spare_capacity_mut().as_mut_ptr() as u64,
        count: BATCH as u32,
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads and writes the live attribute, reads at most a key behind `in_batch`, and writes at most
    // a key behind `out_batch` and `count` keys and values into memory that was reserved for so many; the map's sizes
    // are those of the types.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attribute, size_of::<Batch>()) };
    let ended = match result {
        0 => false,
        _ => match io::Error::last_os_error() {
            end if end.raw_os_error() == Some(libc::ENOENT) => true,
            error => return Err(error),
        },
    };
    let count = (attribute.count as usize).min(BATCH);
    // SAFETY: the kernel has written so many, and whatever bytes stand there are a value of a `Pod`.
    unsafe {
        keys.set_len(keys.len() + count);
        values.set_len(values.len() + count);
    }
    *cursor = next;
    // An answer without entries would never end.
    Ok(!ended && count > 0)
}

/// A descriptor that a task can wait on until there is something to read. Needs a running tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the registration that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
