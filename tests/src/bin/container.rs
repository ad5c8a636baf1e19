//! What a container runtime does to a process, and no more: mounts, a root of its own that is read-only, capabilities,
//! `no_new_privs`, a seccomp filter; then it becomes the program. It is started in fresh mount and PID namespaces
//! (`unshare --mount --pid --fork`) and in the network namespace of the node.
//!
//! `container ROOT [--bind FROM:TO | --bind-ro FROM:TO]… [--cap NAME]… [--filter] [--refuse-bpf] -- PROGRAM WORDS…`

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability};
use nix::{
    mount::{MsFlags, mount},
    sys::prctl::set_no_new_privs,
    unistd::{chdir, chroot},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

#[derive(Default)]
struct Wanted {
    root: PathBuf,
    binds: Vec<(PathBuf, PathBuf, bool)>,
    caps: BTreeSet<String>,
    filter: bool,
    refuse_bpf: bool,
    program: Vec<String>,
}

fn main() -> Result<()> {
    let wanted = read(env::args().skip(1))?;
    mounts(&wanted).context("container: mounts")?;
    chroot(&wanted.root).context("container: chroot")?;
    chdir("/").context("container: chdir")?;
    drop_capabilities(&wanted.caps).context("container: capabilities")?;
    set_no_new_privs().context("container: no_new_privs")?;
    if wanted.filter {
        apply_filter(&filter(wanted.caps.contains("BPF") && !wanted.refuse_bpf)?)
            .context("container: seccomp")?;
    }
    let (program, words) = wanted.program.split_first().context("container: no program")?;
    Err(Command::new(program).args(words).exec()).with_context(|| format!("container: cannot run {program}"))
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted { root: words.next().context("no root")?.into(), ..Wanted::default() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bind" | "--bind-ro" => {
                let pair = words.next().context("--bind FROM:TO")?;
                let (from, to) = pair.split_once(':').context("--bind FROM:TO")?;
                wanted.binds.push((from.into(), to.trim_start_matches('/').into(), word == "--bind-ro"));
            }
            "--cap" => drop(wanted.caps.insert(words.next().context("--cap NAME")?)),
            "--filter" => wanted.filter = true,
            "--refuse-bpf" => wanted.refuse_bpf = true,
            "--" => wanted.program = words.by_ref().collect(),
            other => bail!("container: what is {other}?"),
        }
    }
    Ok(wanted)
}

fn mounts(wanted: &Wanted) -> Result<()> {
    let root = wanted.root.as_path();
    let none = None::<&str>;
    bind(root, root)?;
    let special = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &root.join("proc"), Some("proc"), special, none).context("proc")?;
    // Of the network namespace that this process is in, as for a pod with `hostNetwork`.
    let sys = special | MsFlags::MS_RDONLY;
    mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), sys, none).context("sysfs")?;
    mount(Some("tmpfs"), &root.join("dev"), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))
        .context("dev")?;
    for device in ["null", "zero", "random", "urandom"] {
        let to = root.join("dev").join(device);
        fs::write(&to, "")?;
        bind(&Path::new("/dev").join(device), &to)?;
    }
    for (from, to, read_only) in &wanted.binds {
        let to = root.join(to);
        match from.is_dir() {
            true => fs::create_dir_all(&to),
            false => fs::create_dir_all(to.parent().unwrap_or(root)).and_then(|()| fs::write(&to, "")),
        }
        // In /sys nothing can be made, and what is mounted over is there.
        .or_else(|e| if to.exists() { Ok(()) } else { Err(e) })
        .with_context(|| format!("{}", to.display()))?;
        bind(from, &to)?;
        if *read_only {
            read_only_now(&to)?;
        }
    }
    read_only_now(&root.join("proc/sys")).or_else(|_| {
        bind(&root.join("proc/sys"), &root.join("proc/sys"))
            .and_then(|()| read_only_now(&root.join("proc/sys")))
    })?;
    read_only_now(root)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

fn read_only_now(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot make {} read-only", path.display()))
}

/// Root gets on `exec` what the bounding set holds.
fn drop_capabilities(keep: &BTreeSet<String>) -> Result<()> {
    let keep: caps::CapsHashSet =
        keep.iter().map(|name| Ok(format!("CAP_{name}").parse::<Capability>()?)).collect::<Result<_>>()?;
    for capability in caps::runtime::thread_all_supported() {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(())
}

/// What the default profiles of runtimes keep from a container with the agent's capabilities: it is refused with EPERM.
fn filter(bpf: bool) -> Result<BpfProgram> {
    let mut refused = vec![
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_chroot,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_fanotify_init,
        libc::SYS_finit_module,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_get_mempolicy,
        libc::SYS_init_module,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_kcmp,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_lookup_dcookie,
        libc::SYS_mbind,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_pivot_root,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_set_mempolicy,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
        libc::SYS_setns,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_syslog,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_userfaultfd,
        libc::SYS_vhangup,
    ];
    if !bpf {
        refused.push(libc::SYS_bpf);
    }
    let rules: BTreeMap<i64, Vec<_>> = refused.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}
