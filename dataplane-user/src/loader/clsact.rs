//! Filters of a clsact qdisc, for kernels before 6.6: fixed priority and handle, so that a new agent replaces its
//! own filter in place and no other.

use std::io;

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use dataplane_common::abi::Hook;

use super::attach::{attach_type, program_name};

/// Filters of this priority run first.
const CLSACT_PRIORITY: u16 = 1;
/// Behind our own, for the moment in which another build's programs still enforce (D49).
const BESIDE_PRIORITY: u16 = 2;
const BESIDE_HANDLE: TcHandle = TcHandle::new(0x5043, 2);
/// Ours alone ("PC"), so that a new agent replaces its own filter and no other.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0x5043, 1);

pub(super) fn attach_clsact(program: &mut SchedClassifier, hook: Hook, device: &str) -> Result<()> {
    // Fails when it is already there, which the filter below would tell otherwise.
    if let Err(e) = tc::qdisc_add_clsact(device) {
        tracing::debug!(device, error = %e, "clsact not added");
    }
    let kind = attach_type(hook);
    let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
    let id = match program.attach_with_options(device, kind, TcAttachOptions::Netlink(options)) {
        Ok(id) => id,
        Err(first) => {
            // Our own filter of an earlier agent: replaced in place, without a gap.
            let old = SchedClassifierLink::attached(device, kind, CLSACT_PRIORITY, CLSACT_HANDLE, None)?;
            program.attach_to_link(old).map_err(|_| first)?
        }
    };
    // Dropping the link would remove the filter: it must outlive us (D22).
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Adds a filter behind the one that enforces, until the link is dropped.
pub(super) fn attach_beside(
    program: &mut SchedClassifier,
    hook: Hook,
    device: &str,
) -> Result<SchedClassifierLink> {
    detach_beside(device, hook);
    let options = NlOptions { priority: BESIDE_PRIORITY, handle: BESIDE_HANDLE, classid: None };
    let id = program.attach_with_options(device, attach_type(hook), TcAttachOptions::Netlink(options))?;
    Ok(program.take_link(id)?)
}

/// Removes what an agent left there that was killed in that moment.
pub(super) fn detach_beside(device: &str, hook: Hook) {
    let kind = attach_type(hook);
    let left = SchedClassifierLink::attached(device, kind, BESIDE_PRIORITY, BESIDE_HANDLE, None);
    // Dropped: detached, if it is there at all.
    drop(left);
}

/// Removes our clsact filter. False when there was none.
pub(super) fn detach_clsact(device: &str, hook: Hook) -> Result<bool> {
    match tc::qdisc_detach_program(device, attach_type(hook), program_name(hook)) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // No clsact, or no such device: then no filter of ours either.
        Err(TcError::NetlinkError(_)) | Err(TcError::IoError(_)) => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot remove the filter of {device}")),
    }
}
