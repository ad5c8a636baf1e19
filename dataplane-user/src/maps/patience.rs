//! Maps without preallocated entries (tries, flows) take them from a small stock per CPU, which the kernel fills up in
//! the background (since Linux 6.1). A writer that is quicker gets ENOMEM although memory is plenty.

use std::time::Duration;

use aya::maps::MapError;

/// How often a write is tried again, and after how long: a second in all.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Writes, and waits for the kernel's stock where it is short.
///
/// # Errors
/// That of the last attempt.
pub(super) fn patiently(mut write: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    for _ in 0..TRIES {
        match write() {
            Err(error) if is_short(&error) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    write()
}

fn is_short(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn refused(errno: i32) -> MapError {
        let io_error = std::io::Error::from_raw_os_error(errno);
        MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error })
    }

    #[test]
    fn a_short_stock_is_waited_for_and_nothing_else_is() {
        let mut calls = 0;
        let outcome = patiently(|| {
            calls += 1;
            if calls < 3 { Err(refused(libc::ENOMEM)) } else { Ok(()) }
        });
        assert!(outcome.is_ok() && calls == 3);
        let mut calls = 0;
        let outcome = patiently(|| {
            calls += 1;
            Err(refused(libc::E2BIG))
        });
        assert!(outcome.is_err() && calls == 1);
    }
}
