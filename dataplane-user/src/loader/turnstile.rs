//! One portcullis per pin dir, and how it hands over. Both locks are of folders, since a bpffs holds no plain files, and
//! the kernel gives them back when their process dies.
//!
//! Whoever uses the pin dir holds the lock of the folder itself. Who wants it stands in the turnstile, the lock of the
//! folder of links, until it is free. The boot floor looks at the turnstile, and leaves when somebody stands in it; an
//! agent stays.

use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::pins::{LINKS, lock_dir};

/// A floor that is just loading its programs needs its time before it looks.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The lock of the pin dir, as soon as who holds it leaves.
pub(super) fn enter(pin_dir: &Path) -> Result<Flock<File>> {
    let end = Instant::now() + PATIENCE;
    let _turnstile = loop {
        match lock(&pin_dir.join(LINKS), FlockArg::LockExclusiveNonblock)? {
            Some(lock) => break lock,
            None if Instant::now() < end => sleep(PAUSE),
            None => {
                return Err(anyhow!(
                    "two portcullis wait for the pin dir {} already: stop one of them",
                    pin_dir.display()
                ));
            }
        }
    };
    loop {
        match lock_dir(pin_dir) {
            Err(_) if Instant::now() < end => sleep(PAUSE),
            result => return result,
        }
    }
}

/// Whether somebody waits for this pin dir.
pub fn wanted(pin_dir: &Path) -> bool {
    // A shared lock: two who look do not take each other for one who waits.
    matches!(lock(&pin_dir.join(LINKS), FlockArg::LockSharedNonblock), Ok(None))
}

/// Whether somebody uses this pin dir, in whatever container: the lock is the kernel's, and knows no PID namespace.
pub fn in_use(pin_dir: &Path) -> bool {
    matches!(lock(pin_dir, FlockArg::LockSharedNonblock), Ok(None))
}

/// `None`: somebody else has it.
fn lock(folder: &Path, kind: FlockArg) -> Result<Option<Flock<File>>> {
    let file = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    match Flock::lock(file, kind) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_seen_and_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(LINKS)).unwrap();
        let floor = enter(dir.path()).unwrap();
        assert!(!wanted(dir.path()));
        assert!(in_use(dir.path()));
        let path = dir.path().to_owned();
        let agent = std::thread::spawn(move || enter(&path).map(drop));
        let end = Instant::now() + PATIENCE;
        while !wanted(dir.path()) {
            assert!(Instant::now() < end, "nobody in the turnstile");
            sleep(PAUSE);
        }
        drop(floor);
        agent.join().unwrap().unwrap();
        assert!(!wanted(dir.path()));
        assert!(!in_use(dir.path()));
    }
}
