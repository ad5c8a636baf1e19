//! The pin dir: a folder on a bpffs, locked by the one agent that uses it, and the links pinned in it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use dataplane_common::abi::{HOOK_XDP, Hook, hook_name};
use dataplane_common::names;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::attach::HOOKS;
use super::detach::remove_tree;
use super::object::{flow_pins, policy_pins};
use super::turnstile;

/// Folder of pinned links below the pin dir.
pub(crate) const LINKS: &str = "links";
/// Where bpffs lives on every distribution.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// The default pin dir. Not versioned: maps of each layout lie in folders of their own below it, while the lock and
/// the links are shared, so that another build takes the devices over without a gap (D49).
pub fn default_pin_dir() -> PathBuf {
    PathBuf::from(names::PIN_DIR)
}

/// Exclusive use of a pin dir. Dropped: free for the next agent.
pub struct PinDir {
    path: PathBuf,
    lock: Flock<File>,
}

impl PinDir {
    /// Creates the folder, on a bpffs that is mounted where there is none, and locks it.
    pub fn open(path: &Path, bpffs: Option<&Path>) -> Result<Self> {
        ensure_bpffs(path, bpffs)?;
        let links = path.join(LINKS);
        fs::create_dir_all(&links).with_context(|| format!("cannot create {}", links.display()))?;
        let lock = turnstile::enter(path)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Where maps are pinned.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unpins the maps of other layouts. What still uses them keeps them; nothing of ours does once every link holds
    /// a program of this layout.
    pub fn forget_other_layouts(&self) -> Result<()> {
        for path in self.other_layouts()? {
            let count = remove_tree(&path)?;
            tracing::info!(path = %path.display(), count, "unpinned the maps of another layout");
        }
        Ok(())
    }

    /// Whether a build of another layout left its maps, so that it may still enforce.
    pub fn has_other_layouts(&self) -> bool {
        self.other_layouts().is_ok_and(|all| !all.is_empty())
    }

    fn other_layouts(&self) -> Result<Vec<PathBuf>> {
        let own = [policy_pins(&self.path), flow_pins(&self.path)];
        let cannot = || format!("cannot list {}", self.path.display());
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.strip_prefix("flows-v").or_else(|| name.strip_prefix('v'));
            if number.is_some_and(|n| n.parse::<u32>().is_ok()) && !own.contains(&path) {
                all.push(path);
            }
        }
        Ok(all)
    }

    /// Makes the folder, its bpffs and the lock anew where somebody removed them. True when that was needed.
    pub fn mend(&mut self, bpffs: Option<&Path>) -> Result<bool> {
        if self.links().is_dir() && self.is_locked() {
            return Ok(false);
        }
        ensure_bpffs(&self.path, bpffs)?;
        let links = self.links();
        fs::create_dir_all(&links).with_context(|| format!("cannot create {}", links.display()))?;
        if !self.is_locked() {
            self.lock = lock_dir(&self.path)?;
        }
        Ok(true)
    }

    /// Whether the lock is of the folder that stands at the path now.
    fn is_locked(&self) -> bool {
        let id = |metadata: io::Result<fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
        let found = id(fs::metadata(&self.path));
        found.is_some() && found == id(self.lock.metadata())
    }

    /// Where links are pinned.
    pub(super) fn links(&self) -> PathBuf {
        self.path.join(LINKS)
    }
}

/// bpffs holds no plain files, but a folder can be locked like one.
pub(super) fn lock_dir(path: &Path) -> Result<Flock<File>> {
    let dir = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => anyhow!(
            "another portcullis uses the pin dir {}: stop it first, or give this one its own with --pin-dir",
            path.display()
        ),
        _ => anyhow!("cannot lock the pin dir {}: {errno}", path.display()),
    })
}

pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes sure that `pin_dir` lies on a bpffs; mounts one at `bpffs`, or at /sys/fs/bpf, or at the pin dir itself.
fn ensure_bpffs(pin_dir: &Path, bpffs: Option<&Path>) -> Result<()> {
    let existing = pin_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    let target = match bpffs {
        Some(dir) if pin_dir.starts_with(dir) => dir,
        Some(dir) => bail!(
            "the pin dir {} is not below the bpffs {}: give --pin-dir a path below it",
            pin_dir.display(),
            dir.display()
        ),
        None if pin_dir.starts_with(DEFAULT_BPFFS) => Path::new(DEFAULT_BPFFS),
        None => pin_dir,
    };
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(|| {
        format!(
            "cannot mount a bpffs at {0}: mount it with `mount -t bpf bpf {0}`, as root",
            target.display()
        )
    })?;
    tracing::info!(path = %target.display(), "mounted a bpffs");
    if own_mount_namespace() {
        tracing::warn!(
            path = %target.display(),
            "this bpffs is in a mount namespace of its own (`ip netns exec` makes one): enforcement ends with it; \
             use `nsenter --net` or a --pin-dir on a bpffs of the host"
        );
    }
    Ok(())
}

fn own_mount_namespace() -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    matches!((of("self"), of("1")), (Some(own), Some(init)) if own != init)
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// (ifindex, hook, path) of every pinned link.
pub(super) fn pins(links: &Path) -> Result<Vec<(u32, Hook, PathBuf)>> {
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot list {}", links.display())),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", links.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((index, hook)) = parse_pin(&name) {
            all.push((index, hook, path));
        }
    }
    all.sort_by_key(|(index, hook, _)| (*index, hook.bit()));
    Ok(all)
}

/// Where the link of a hook of a device is pinned. bpffs forbids dots in names and devices may have them: the number it
/// is.
pub(super) fn pin_path(links: &Path, hook: Hook, ifindex: u32) -> PathBuf {
    links.join(format!("{ifindex}_{}", hook.name()))
}

/// Where the XDP link of a device is pinned.
pub(super) fn xdp_pin(links: &Path, device: u32) -> PathBuf {
    links.join(format!("{device}_{}", hook_name(HOOK_XDP)))
}

/// (ifindex, path) of every pinned XDP link.
pub(super) fn xdp_pins(links: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot list {}", links.display())),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", links.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let device = name.strip_suffix(&format!("_{}", hook_name(HOOK_XDP))).and_then(|n| n.parse().ok());
        all.extend(device.map(|device| (device, path)));
    }
    all.sort();
    Ok(all)
}

fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (index, hook) = name.split_once('_')?;
    let hook = HOOKS.into_iter().find(|h| h.name() == hook)?;
    Some((index.parse().ok()?, hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_are_read_back() {
        assert_eq!(parse_pin("12_ingress"), Some((12, Hook::Ingress)));
        assert_eq!(parse_pin("12_egress"), Some((12, Hook::Egress)));
        assert_eq!(parse_pin("12_other"), None);
        assert_eq!(parse_pin("x_egress"), None);
    }

    #[test]
    fn a_pin_dir_outside_of_the_given_bpffs_is_refused() {
        let error = ensure_bpffs(Path::new("/tmp/pc-none/a"), Some(Path::new("/tmp/pc-other"))).unwrap_err();
        assert!(error.to_string().contains("not below the bpffs"), "{error}");
    }
}
