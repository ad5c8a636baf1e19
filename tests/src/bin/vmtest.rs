//! PID 1 of a VM with another kernel: do the programs load there, attach, and see packets? Ends with one line
//! `VMTEST-RC=0`, or with another number and the reason above it, and powers the machine off.
//!
//! Everything is in the initramfs: this file, the kernel's modules in `/modules` (to be loaded in the order of
//! their names), and the object with the programs.

use std::{fs, net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, TcAttachType, tc::qdisc_add_clsact},
};
use dataplane_common::names::{PROG_TC_EGRESS, PROG_TC_INGRESS};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        resource::{RLIM_INFINITY, Resource, setrlimit},
    },
};

/// Present on every kernel, without modules.
const DEVICE: &str = "lo";
const OBJECT: &str = "/portcullis.o";

fn main() {
    if std::process::id() != 1 {
        eprintln!("vmtest is PID 1 of a VM; run it by `cargo xtask vm`");
        std::process::exit(2);
    }
    let code = match test() {
        Ok(()) => 0,
        Err(error) => {
            println!("VMTEST-ERROR {error:#}");
            1
        }
    };
    println!("VMTEST-RC={code}");
    // The console is slow, and power-off does not wait for it.
    std::thread::sleep(Duration::from_millis(200));
    // With `panic=-1` and qemu's -no-reboot, the end of PID 1 stops the VM even where power-off is not to be had.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn test() -> Result<()> {
    mount_all()?;
    println!("VMTEST-KERNEL {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    load_modules()?;
    // Until 5.11 the memory of maps counted against this limit.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).context("RLIMIT_MEMLOCK")?;
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("bpf_stats_enabled")?;
    bring_up(DEVICE)?;
    let mut ebpf = EbpfLoader::new().load_file(OBJECT).context("the object cannot be loaded")?;
    qdisc_add_clsact(DEVICE).context("clsact")?;
    for (name, direction) in
        [(PROG_TC_INGRESS, TcAttachType::Ingress), (PROG_TC_EGRESS, TcAttachType::Egress)]
    {
        attach(&mut ebpf, name, direction)?;
    }
    send_one_packet()?;
    for name in [PROG_TC_INGRESS, PROG_TC_EGRESS] {
        report(&ebpf, name)?;
    }
    Ok(())
}

fn mount_all() -> Result<()> {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("bpf", "/sys/fs/bpf")] {
        fs::create_dir_all(path)?;
        mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {path}"))?;
    }
    Ok(())
}

/// In the order of the files' names, which is the order of their dependencies.
fn load_modules() -> Result<()> {
    let mut modules: Vec<_> =
        fs::read_dir("/modules")?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    modules.sort();
    for path in modules {
        let file = fs::File::open(&path)?;
        finit_module(&file, c"", ModuleInitFlags::empty())
            .with_context(|| format!("module {}", path.display()))?;
    }
    Ok(())
}

/// Sets IFF_UP, as `ip link set DEVICE up` does; there is no `ip` in here.
fn bring_up(device: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("a socket for the ioctl")?;
    // SAFETY: all of ifreq is plain data, for which zeros are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open, and the kernel reads one ifreq from a pointer to one.
    if unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) } != 0 {
        bail!("cannot bring {device} up: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

fn attach(ebpf: &mut Ebpf, name: &str, direction: TcAttachType) -> Result<()> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
    match program.load() {
        Ok(()) => {}
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            bail!(
                "{name}: {io_error}; the verifier's last words:\n{}",
                last_lines(&verifier_log.to_string(), 60)
            )
        }
        Err(error) => return Err(error).with_context(|| format!("{name} cannot be loaded")),
    }
    program.attach(DEVICE, direction).with_context(|| format!("{name} cannot be attached to {DEVICE}"))?;
    Ok(())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// To ourselves over `lo`: egress and ingress of the same device see it. It must arrive: `lo` is never governed (D5).
fn send_one_packet() -> Result<()> {
    let receiver = UdpSocket::bind("127.0.0.1:4000")?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    UdpSocket::bind("127.0.0.1:0")?.send_to(b"through", "127.0.0.1:4000").context("lo: cannot send")?;
    let mut buffer = [0; 16];
    let length = receiver.recv(&mut buffer).context("lo: the packet did not arrive")?;
    if &buffer[..length] != b"through" {
        bail!("lo: the packet was changed");
    }
    Ok(())
}

/// Instructions as the verifier counted them (from 5.16 on), the size after translation, and how often it ran.
fn report(ebpf: &Ebpf, name: &str) -> Result<()> {
    let program: &SchedClassifier =
        ebpf.program(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
    let info = program.info()?;
    let verified = info.verified_instruction_count().map_or("not told".to_owned(), |count| count.to_string());
    let instructions = info.size_translated().map_or("not told".to_owned(), |bytes| (bytes / 8).to_string());
    let runs = info.run_count();
    println!("VMTEST-PROGRAM {name} verified={verified} translated={instructions} runs={runs}");
    if runs == 0 {
        bail!("{name} is attached to {DEVICE}, but no packet came to it");
    }
    Ok(())
}
