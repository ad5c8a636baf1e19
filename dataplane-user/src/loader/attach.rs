//! Programs on devices. TCX links (kernel ≥ 6.6), pinned, so that enforcement outlives the agent and is replaced
//! atomically (D22); clsact filters of a fixed priority and handle on older kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use dataplane_common::abi::Hook;
use dataplane_common::names;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Filters of this priority run first.
const CLSACT_PRIORITY: u16 = 1;
/// Ours alone ("PC"), so that a new agent replaces its own filter and no other.
const CLSACT_HANDLE: TcHandle = TcHandle::new(0x5043, 1);
/// Folder of pinned links below the pin dir.
const LINKS: &str = "links";
/// Where bpffs lives on every distribution.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// How long the kernel may take to release a link.
const DETACH_PATIENCE: Duration = Duration::from_secs(3);

/// Both hooks.
pub const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// The program of a hook, by its name in the object.
pub const fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => names::PROG_TC_INGRESS,
        Hook::Egress => names::PROG_TC_EGRESS,
    }
}

const fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mechanism {
    /// Links (kernel ≥ 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// The best that this kernel has.
    pub fn of_this_kernel() -> Self {
        let linked = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        if linked { Self::Tcx } else { Self::Clsact }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The default pin dir: versioned, so that another layout never meets our maps.
pub fn default_pin_dir() -> PathBuf {
    Path::new(names::PIN_DIR).join(format!("v{}", dataplane_common::ABI_VERSION))
}

/// Exclusive use of a pin dir. Dropped: free for the next agent.
pub struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PinDir {
    /// Creates the folder, on a bpffs that is mounted where there is none, and locks it.
    pub fn open(path: &Path, bpffs: Option<&Path>) -> Result<Self> {
        ensure_bpffs(path, bpffs)?;
        let links = path.join(LINKS);
        fs::create_dir_all(&links).with_context(|| format!("cannot create {}", links.display()))?;
        let lock = lock_dir(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where maps are pinned.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// bpffs holds no plain files, but a folder can be locked like one.
fn lock_dir(path: &Path) -> Result<Flock<File>> {
    let dir = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow!(
            "another portcullis uses the pin dir {} ({errno}): stop it first, or give this one its own with --pin-dir",
            path.display()
        )
    })
}

fn is_bpffs(path: &Path) -> bool {
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

/// The devices that carry our programs.
pub struct Attacher {
    links: PathBuf,
    mechanism: Mechanism,
    /// ifindex → name, both hooks done with the programs of this agent.
    done: BTreeMap<u32, String>,
}

impl Attacher {
    /// For a locked pin dir.
    pub fn new(pin_dir: &PinDir, mechanism: Mechanism) -> Self {
        Self { links: pin_dir.path.join(LINKS), mechanism, done: BTreeMap::new() }
    }

    /// How.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether this device is done.
    pub fn has(&self, ifindex: u32) -> bool {
        self.done.contains_key(&ifindex)
    }

    /// Attaches one hook of one device, replacing what an agent before us left there. The other programs of the
    /// device stay as they are (D11).
    pub fn attach(
        &self,
        program: &mut SchedClassifier,
        hook: Hook,
        device: &str,
        ifindex: u32,
    ) -> Result<()> {
        match self.mechanism {
            Mechanism::Tcx => {
                self.attach_tcx(program, hook, device, ifindex)?;
                // An agent under an older kernel, or with another flag, may have left a filter.
                detach_clsact(device, hook).map(drop)
            }
            Mechanism::Clsact => attach_clsact(program, hook, device),
        }
        .with_context(|| format!("cannot attach {} to {device} by {}", program_name(hook), self.mechanism))
    }

    /// Notes that both hooks of a device are done.
    pub fn finished(&mut self, device: &str, ifindex: u32) {
        self.done.insert(ifindex, device.to_owned());
    }

    fn pin_path(&self, hook: Hook, ifindex: u32) -> PathBuf {
        // bpffs forbids dots in names and devices may have them: the number it is.
        self.links.join(format!("{ifindex}_{}", hook.name()))
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        hook: Hook,
        device: &str,
        ifindex: u32,
    ) -> Result<()> {
        let path = self.pin_path(hook, ifindex);
        if self.adopt(program, &path)? && runs(program, hook, device)? {
            return Ok(());
        }
        // No link yet, or one of a device that is gone or lives in another namespace.
        remove_if_there(&path)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(device, attach_type(hook), options)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&path).with_context(|| format!("cannot pin the link at {}", path.display()))?;
        Ok(())
    }

    /// Puts `program` into the pinned link, atomically. False when there is no usable link.
    fn adopt(&self, program: &mut SchedClassifier, path: &Path) -> Result<bool> {
        let pinned = match PinnedLink::from_pin(path) {
            Ok(pinned) => pinned,
            Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(e) => {
                return Err(e).with_context(|| format!("cannot open the pinned link {}", path.display()));
            }
        };
        let link = SchedClassifierLink::try_from(FdLink::from(pinned))
            .with_context(|| format!("{} is no TCX link; remove it", path.display()))?;
        match program.attach_to_link(link) {
            // The pin keeps the link; our descriptor may go.
            Ok(id) => program.take_link(id).map(|_| true).map_err(Into::into),
            // The device is gone.
            Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOLINK) => {
                Ok(false)
            }
            Err(e) => Err(e).with_context(|| format!("cannot replace the program of {}", path.display())),
        }
    }

    /// Detaches every device of ours that is not in `wanted`, and forgets those that are gone. Says which.
    pub fn retain(&mut self, wanted: &BTreeSet<u32>) -> Result<Vec<String>> {
        let mut removed = BTreeSet::new();
        for (ifindex, hook, path) in pins(&self.links)? {
            if !wanted.contains(&ifindex) {
                remove_if_there(&path)?;
                let name = self.done.get(&ifindex).cloned().unwrap_or_else(|| format!("ifindex {ifindex}"));
                tracing::debug!(device = name, hook = hook.name(), "removed the link");
                removed.insert(name);
            }
        }
        let gone: Vec<(u32, String)> =
            self.done.iter().filter(|(i, _)| !wanted.contains(i)).map(|(i, n)| (*i, n.clone())).collect();
        for (ifindex, name) in gone {
            if self.mechanism == Mechanism::Clsact {
                for hook in HOOKS {
                    detach_clsact(&name, hook)?;
                }
            }
            self.done.remove(&ifindex);
            removed.insert(name);
        }
        Ok(removed.into_iter().collect())
    }
}

/// Whether this very program is in the chain of the device, in this network namespace.
fn runs(program: &SchedClassifier, hook: Hook, device: &str) -> Result<bool> {
    let own = program.info()?.id();
    let (_, chain) = SchedClassifier::query_tcx(device, attach_type(hook))?;
    Ok(chain.iter().any(|p| p.id() == own))
}

fn attach_clsact(program: &mut SchedClassifier, hook: Hook, device: &str) -> Result<()> {
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

/// Removes our clsact filter. False when there was none.
fn detach_clsact(device: &str, hook: Hook) -> Result<bool> {
    match tc::qdisc_detach_program(device, attach_type(hook), program_name(hook)) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // No clsact, or no such device: then no filter of ours either.
        Err(TcError::NetlinkError(_)) | Err(TcError::IoError(_)) => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot remove the filter of {device}")),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// (ifindex, hook, path) of every pinned link.
fn pins(links: &Path) -> Result<Vec<(u32, Hook, PathBuf)>> {
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

fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (index, hook) = name.split_once('_')?;
    let hook = HOOKS.into_iter().find(|h| h.name() == hook)?;
    Some((index.parse().ok()?, hook))
}

/// What [`detach`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pinned links.
    pub links: usize,
    /// clsact filters.
    pub filters: usize,
    /// Pinned maps and programs.
    pub pins: usize,
}

/// Takes everything of ours off this node: links, filters, pins. Refused while an agent runs.
pub fn detach(pin_dir: &Path) -> Result<Detached> {
    let mut done = Detached::default();
    let _lock = if pin_dir.is_dir() { Some(lock_dir(pin_dir)?) } else { None };
    let mut programs = BTreeSet::new();
    for (_, _, path) in pins(&pin_dir.join(LINKS))? {
        programs.extend(program_of(&path));
        remove_if_there(&path)?;
        done.links += 1;
    }
    let devices = device_names()?;
    for device in &devices {
        for hook in HOOKS {
            if detach_clsact(device, hook)? {
                done.filters += 1;
            }
        }
    }
    if pin_dir.is_dir() {
        done.pins = remove_tree(pin_dir)?;
    }
    wait_until_gone(&devices, &programs)?;
    Ok(done)
}

/// Devices of this network namespace.
fn device_names() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc/sys/net/ipv4/conf").context("cannot list network devices")? {
        let name = entry.context("cannot list network devices")?.file_name().to_string_lossy().into_owned();
        if name != "all" && name != "default" {
            all.push(name);
        }
    }
    Ok(all)
}

/// Number of the program behind a pinned link.
fn program_of(path: &Path) -> Option<u32> {
    FdLink::from(PinnedLink::from_pin(path).ok()?).info().ok().map(|info| info.program_id())
}

/// The kernel takes a link off its device a moment after the last reference went: before that, packets still meet it.
fn wait_until_gone(devices: &[String], programs: &BTreeSet<u32>) -> Result<()> {
    let end = Instant::now() + DETACH_PATIENCE;
    let carries = |device: &&String| {
        HOOKS.into_iter().any(|hook| {
            let chain = SchedClassifier::query_tcx(device, attach_type(hook));
            chain.is_ok_and(|(_, chain)| chain.iter().any(|p| programs.contains(&p.id())))
        })
    };
    while let Some(device) = devices.iter().find(carries).filter(|_| !programs.is_empty()) {
        if Instant::now() > end {
            bail!(
                "device {device} still carries our program {DETACH_PATIENCE:?} after its pin was removed: another \
                 process holds the link; find it with `bpftool link show`"
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes the pins below a folder; a mount point itself stays.
fn remove_tree(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        // The kernel's own files at the root of a bpffs cannot be removed, and are nobody's pins.
        if ["maps.debug", "progs.debug"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            count += remove_tree(&entry.path())?;
        } else {
            remove_if_there(&entry.path())?;
            count += 1;
        }
    }
    if let Err(e) = fs::remove_dir(dir) {
        tracing::debug!(path = %dir.display(), error = %e, "folder kept");
    }
    Ok(count)
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
