//! Other kernels, in qemu: their verifiers are older than the one of the machine that we write on, and stricter.
//! The kernel comes from Debian's package, unpacked and not installed; the test is PID 1 of an initramfs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cpio::Archive,
    packages::{self, Release, VM_TOOLS},
    run::{self, cargo, command, has_program, printed, root, say, target},
    setup::vm_cache,
    test::{self, Outcome},
};

pub(crate) struct Kernel {
    pub(crate) version: &'static str,
    release: Release,
    /// Whether BPF_PROG_TEST_RUN takes an ingress device beside the device itself: what is forwarded cannot be
    /// simulated without it.
    test_run_forwards: bool,
}

pub(crate) const KERNELS: [Kernel; 2] = [
    Kernel {
        version: "5.10",
        release: Release { suites: &[("debian-security", "bullseye-security")] },
        test_run_forwards: false,
    },
    Kernel {
        version: "6.1",
        release: Release { suites: &[("debian", "bookworm")] },
        test_run_forwards: true,
    },
];

/// Modules of the cloud kernels that we need, in the order of their dependencies.
const MODULES: [&str; 3] = ["sch_ingress", "cls_bpf", "veth"];

/// Why a kernel was not tested.
pub(crate) enum Missing {
    /// Nothing is wrong with us: no qemu, no mirror.
    Infrastructure(String),
    Failure(String),
}

pub(crate) fn run(options: &[&str]) -> Result<bool> {
    let wanted = chosen(options)?;
    crate::setup::kernel_build()?;
    match test_kernels(&wanted)? {
        Outcome::Passed => Ok(true),
        Outcome::Skipped(why) => {
            println!("SKIPPED vm: {why}");
            // Asked for by name, so not having done it is a failure.
            Ok(false)
        }
        Outcome::Failed(why) => {
            println!("FAILED vm: {why}");
            Ok(false)
        }
    }
}

/// The step of `cargo xtask test`.
pub(crate) fn step() -> Result<Outcome> {
    test_kernels(&KERNELS.iter().collect::<Vec<_>>())
}

/// What every VM needs; else why there can be none.
pub(crate) fn unavailable() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the VM tests know x86_64 only".into());
    }
    if let Err(error) = packages::install(&VM_TOOLS) {
        return Some(format!("no qemu: {error:#}"));
    }
    (!has_program("dpkg") || !has_program("apt-get"))
        .then(|| "the kernels come from Debian's packages, and there is no apt-get here".into())
}

fn chosen(options: &[&str]) -> Result<Vec<&'static Kernel>> {
    let mut wanted = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let version = match (*word, words.next()) {
            ("--kernel", Some(version)) => *version,
            _ => bail!("usage: cargo xtask vm [--kernel 5.10|6.1]…"),
        };
        let kernel = KERNELS.iter().find(|kernel| kernel.version == version);
        wanted.push(kernel.with_context(|| format!("no kernel `{version}`; there are 5.10 and 6.1"))?);
    }
    Ok(if wanted.is_empty() { KERNELS.iter().collect() } else { wanted })
}

fn test_kernels(kernels: &[&Kernel]) -> Result<Outcome> {
    if let Some(why) = unavailable() {
        return Ok(Outcome::Skipped(why));
    }
    let test = build_test()?;
    let (mut skipped, mut failed) = (Vec::new(), Vec::new());
    for kernel in kernels {
        match test_kernel(kernel, &test) {
            Ok(()) => say(&format!("kernel {}: passed", kernel.version)),
            Err(Missing::Infrastructure(why)) => skipped.push(format!("kernel {}: {why}", kernel.version)),
            Err(Missing::Failure(why)) => failed.push(format!("kernel {}: {why}", kernel.version)),
        }
    }
    failed.iter().chain(&skipped).for_each(|why| say(why));
    Ok(match (failed.is_empty(), skipped.is_empty()) {
        (true, true) => Outcome::Passed,
        (true, false) => Outcome::Skipped(skipped.join("; ")),
        (false, _) => Outcome::Failed(failed.into_iter().chain(skipped).collect::<Vec<_>>().join("; ")),
    })
}

/// The programs: the test (PID 1) and the agent.
pub(crate) struct Test {
    pub(crate) program: PathBuf,
    pub(crate) agent: PathBuf,
}

pub(crate) fn build_test() -> Result<Test> {
    say("building the test program for the VMs");
    let mut build = cargo(Duration::from_secs(1200));
    // The same build as everything else uses: a static one would compile every dependency once more.
    build.args(["build", "--package", "tests", "--bin", "vmtest", "--package", "dataplane-user", "--bin"]);
    build.arg("portcullis");
    run::run(&mut build)?;
    let folder = target().join("debug");
    Ok(Test { program: folder.join("vmtest"), agent: folder.join("portcullis") })
}

fn test_kernel(kernel: &Kernel, programs: &Test) -> Result<(), Missing> {
    let failure = |error: anyhow::Error| Missing::Failure(format!("{error:#}"));
    let files = fetch(kernel).map_err(|error| Missing::Infrastructure(format!("{error:#}")))?;
    let initramfs = vm_cache().join(kernel.version).join("initramfs.cpio");
    pack(kernel, &files, programs, &initramfs).map_err(failure)?;
    // A VM that ends without a word is qemu's or the machine's fault: once more, then it counts.
    let mut console = boot(&files, &initramfs, &[], "").map_err(failure)?;
    if result(&console).is_none() {
        say(&format!("kernel {}: the VM ended without a result; once more", kernel.version));
        console = boot(&files, &initramfs, &[], "").map_err(failure)?;
    }
    judge(kernel.version, &console)
}

/// Shows what a VM said, and what it means.
pub(crate) fn judge(name: &str, console: &str) -> Result<(), Missing> {
    for line in console.lines() {
        // The firmware leaves control characters in front of the first line.
        if let Some(at) = line.find("VMTEST-") {
            println!("{name}: {}", line[at..].trim());
        }
    }
    match result(console) {
        Some("0") => Ok(()),
        Some(_) => Err(Missing::Failure(after(console, "VMTEST-ERROR"))),
        None => {
            Err(Missing::Failure(format!("no result from the VM; its last words:\n{}", tail(console, 30))))
        }
    }
}

pub(crate) fn result(console: &str) -> Option<&str> {
    console.lines().find_map(|line| line.trim().strip_prefix("VMTEST-RC="))
}

/// From the mark up to the result.
fn after(console: &str, mark: &str) -> String {
    let Some(at) = console.find(mark) else { return tail(console, 30) };
    let message = &console[at + mark.len()..];
    message.split("VMTEST-RC=").next().unwrap_or(message).trim().to_owned()
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

pub(crate) struct KernelFiles {
    image: PathBuf,
    /// `kernel` in the folder of modules.
    tree: PathBuf,
    modules: Vec<PathBuf>,
}

impl KernelFiles {
    /// More modules, by their path in the kernel's tree, in the order of their dependencies.
    pub(crate) fn with(mut self, names: &[&str]) -> Result<Self> {
        for name in names {
            let path = self.tree.join(format!("{name}.ko"));
            if !path.is_file() {
                bail!("the kernel's package has no {}", path.display());
            }
            self.modules.push(path);
        }
        Ok(self)
    }
}

/// Unpacks the newest cloud kernel of the release into the cache, or takes what is there. A new build of the same
/// kernel is fetched when the folder is deleted.
pub(crate) fn fetch(kernel: &Kernel) -> Result<KernelFiles> {
    let folder = vm_cache().join(kernel.version);
    let unpacked = folder.join("kernel");
    if let Ok(files) = find(&unpacked) {
        return Ok(files);
    }
    let release = kernel.release.open(&folder)?;
    let package =
        release.dependency("linux-image-cloud-amd64", &format!("linux-image-{}.", kernel.version))?;
    release.unpack(&package, &unpacked)?;
    find(&unpacked)
}

fn find(unpacked: &Path) -> Result<KernelFiles> {
    let image = only_child(&unpacked.join("boot"), "vmlinuz-")?;
    let drivers = only_child(&unpacked.join("lib/modules"), "")?.join("kernel");
    let folders = [drivers.join("net/sched"), drivers.join("net/sched"), drivers.join("drivers/net")];
    let modules: Vec<_> =
        folders.iter().zip(MODULES).map(|(folder, name)| folder.join(format!("{name}.ko"))).collect();
    if let Some(missing) = modules.iter().find(|path| !path.is_file()) {
        bail!("the kernel's package has no {}", missing.display());
    }
    Ok(KernelFiles { image, tree: drivers, modules })
}

fn only_child(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("nothing named {prefix}… in {}", folder.display()))
}

fn pack(kernel: &Kernel, files: &KernelFiles, programs: &Test, to: &Path) -> Result<()> {
    let mut archive = base(files, programs)?;
    // Two sets, not all: under TCG every load of the programs takes seconds, and the packets' cases are judged by the
    // same code on every kernel. What differs is the verifier and the helpers.
    archive.folder("policies");
    archive.folder("policies/cases");
    // The third holds documents that scenarios of the others name, and no scenario.
    for set in ["nodeport", "lab", "cases/fixture"] {
        pack_folder(&mut archive, kernel, &root().join("policies").join(set), &format!("policies/{set}"))?;
    }
    fs::write(to, archive.finish()).with_context(|| format!("cannot write {}", to.display()))
}

/// What every VM needs: PID 1, the agent, the modules.
pub(crate) fn base(files: &KernelFiles, programs: &Test) -> Result<Archive> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp", "run", "modules", "bin"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", 0o755, &fs::read(&programs.program)?);
    archive.file("bin/portcullis", 0o755, &fs::read(&programs.agent)?);
    for library in libraries(&[&programs.program, &programs.agent])? {
        archive.file(library.trim_start_matches('/'), 0o755, &fs::read(&library)?);
    }
    for (number, module) in files.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{number:02}-{name}"), 0o644, &fs::read(module)?);
    }
    Ok(archive)
}

/// What the programs are linked with, the loader included, as paths on this machine.
fn libraries(programs: &[&Path]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for program in programs {
        let text = printed(command("ldd", Duration::from_secs(20)).arg(program))
            .with_context(|| format!("ldd cannot read {}", program.display()))?;
        all.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(all)
}

/// The scenarios with the manifests that they name. What this kernel cannot simulate is named, not hidden.
fn pack_folder(archive: &mut Archive, kernel: &Kernel, from: &Path, name: &str) -> Result<()> {
    archive.folder(name);
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            pack_folder(archive, kernel, &entry.path(), &name)?;
            continue;
        }
        let content = fs::read(entry.path())?;
        let forwards = String::from_utf8_lossy(&content).contains("from: ");
        if forwards && name.ends_with(".scenario.yaml") && !kernel.test_run_forwards {
            test::note_skip(&format!(
                "vm {}: {name}: test runs of this kernel cannot forward",
                kernel.version
            ))?;
            continue;
        }
        archive.file(&name, 0o644, &content);
    }
    Ok(())
}

/// TCG, not KVM: it works wherever qemu does, in a VM too, and a boot takes seconds.
/// `devices`: more words for qemu. `environment`: of PID 1, as `NAME=value`.
pub(crate) fn boot(
    files: &KernelFiles,
    initramfs: &Path,
    devices: &[String],
    environment: &str,
) -> Result<String> {
    let mut qemu = command("qemu-system-x86_64", Duration::from_secs(900));
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024", "-nodefaults", "-no-user-config"]);
    qemu.args(["-nographic", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(&files.image).arg("-initrd").arg(initramfs).current_dir(root());
    let words = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on";
    qemu.arg("-append").arg(format!("{words} {environment}")).args(devices);
    let output = qemu.output().context("qemu cannot be started")?;
    let mut console = String::from_utf8_lossy(&output.stdout).into_owned();
    console.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(console)
}
