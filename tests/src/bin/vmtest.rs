//! PID 1 of a VM with another kernel: do the programs load there, attach, and see packets? Ends with one line
//! `VMTEST-RC=0`, or with another number and the reason above it, and powers the machine off.
//!
//! Everything is in the initramfs: this program with the embedded object, the kernel's modules in `/modules` (to be
//! loaded in the order of their names), the agent's program, and the scenarios.

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::programs::ProgramError;
use dataplane_common::abi::Hook;
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        resource::{RLIM_INFINITY, Resource, setrlimit},
    },
};
use portcullis::loader::{
    Dataplane, Error, LoadOptions,
    attach::{Attacher, HOOKS, Mechanism, program_name},
    pins::PinDir,
};

/// Present on every kernel, without modules; always number 1.
const DEVICE: &str = "lo";
const DEVICE_INDEX: u32 = 1;
const PINS: &str = "/sys/fs/bpf/portcullis";
const AGENT: &str = "/bin/portcullis";
const POLICIES: &str = "/policies";

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
    // The kernel hands words of its command line that it does not know to PID 1.
    if let Ok(mode) = std::env::var("PC_BOOT") {
        return tests::boot::run(&mode);
    }
    let mut dataplane = load()?;
    attach(&mut dataplane)?;
    send_one_packet()?;
    for hook in HOOKS {
        report(&mut dataplane, hook)?;
    }
    scenarios()
}

fn load() -> Result<Dataplane> {
    match Dataplane::load(&LoadOptions { pin_dir: Some(PINS.into()) }) {
        Ok(dataplane) => Ok(dataplane),
        Err(Error::Program { name, source }) => match *source {
            ProgramError::LoadError { io_error, verifier_log } => {
                bail!(
                    "{name}: {io_error}; the verifier's last words:\n{}",
                    last_lines(&verifier_log.to_string(), 60)
                )
            }
            other => Err(other).context(name),
        },
        Err(other) => Err(other.into()),
    }
}

fn attach(dataplane: &mut Dataplane) -> Result<()> {
    let pins = PinDir::open(Path::new(PINS), None)?;
    let mut attacher = Attacher::new(&pins, Mechanism::of_this_kernel());
    println!("VMTEST-MECHANISM {}", attacher.mechanism());
    HOOKS.iter().try_for_each(|hook| attacher.attach(dataplane.program(*hook)?, *hook, DEVICE, DEVICE_INDEX))
}

/// The scenarios that were packed, by this kernel's own verdicts.
fn scenarios() -> Result<()> {
    let output =
        Command::new(AGENT).args(["test", POLICIES, "--engine", "kernel"]).output().context(AGENT)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let Some(last) = text.lines().rfind(|line| !line.trim().is_empty()) else {
        bail!("`{AGENT} test` said nothing, so nothing was tested");
    };
    println!("VMTEST-SCENARIOS {last}");
    if !output.status.success() {
        bail!("scenarios: {}:\n{}", output.status, last_lines(&text, 60));
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
fn report(dataplane: &mut Dataplane, hook: Hook) -> Result<()> {
    let name = program_name(hook);
    let info = dataplane.program(hook)?.info()?;
    let verified = info.verified_instruction_count().map_or("not told".to_owned(), |count| count.to_string());
    let instructions = info.size_translated().map_or("not told".to_owned(), |bytes| (bytes / 8).to_string());
    let runs = info.run_count();
    println!("VMTEST-PROGRAM {name} verified={verified} translated={instructions} runs={runs}");
    if runs == 0 {
        bail!("{name} is attached to {DEVICE}, but no packet came to it");
    }
    Ok(())
}
