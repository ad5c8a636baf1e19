//! What a fresh Debian or Ubuntu machine with rustup, gcc and root lacks. Everything here is idempotent: it
//! looks first, and does nothing when there is nothing to do.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS, PACKAGE_TOOLS, Release, VM_TOOLS},
    run::{self, cargo, command, printed, root, say, succeeds, target},
};

/// The newest that works with the LLVM of our pinned rustc; see rust-toolchain.toml.
const BPF_LINKER: &str = "0.10.3";

/// `cargo xtask setup`: all of it. Every part is tried, so that one report names all that is missing.
pub(crate) fn everything() -> Result<()> {
    let mut problems = Vec::new();
    let mut part = |what: &str, result: Result<()>| match result {
        Ok(()) => say(&format!("{what}: ready")),
        Err(error) => problems.push(format!("{what}: {error:#}")),
    };
    part("to build the kernel programs", kernel_build());
    part("namespace tests and demo", packages::install(&NAMESPACE_TOOLS));
    part("VM kernels", packages::install(&VM_TOOLS));
    part("the package's test and the boot test", packages::install(&PACKAGE_TOOLS));
    if !problems.is_empty() {
        bail!("not everything is there:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// What every build needs: the standard library's source, and the linker for BPF.
pub(crate) fn kernel_build() -> Result<()> {
    rust_src()?;
    bpf_linker()
}

fn rust_src() -> Result<()> {
    let sysroot = printed(command("rustc", Duration::from_secs(300)).args(["--print", "sysroot"]))
        .context("rustc does not run here; install rustup (https://rustup.rs), then try again")?;
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    if library.join("core/src/lib.rs").is_file() {
        return Ok(());
    }
    let release = pinned_release()?;
    say(&format!("rust-src for {release} is missing: rustup component add rust-src"));
    let mut rustup = command("rustup", Duration::from_secs(120));
    rustup.args(["component", "add", "rust-src", "--toolchain", &release]);
    match succeeds(&mut rustup) {
        Ok(true) if library.join("core/src/lib.rs").is_file() => return Ok(()),
        Ok(_) => say("rustup could not fetch rust-src; trying Debian's package of the same version"),
        Err(error) => say(&format!("{error:#}; trying Debian's package of the same version")),
    }
    rust_src_from_debian(&release, &library).with_context(|| {
        format!("rust-src for {release} is not to be had; with a network: rustup component add rust-src --toolchain {release}")
    })
}

/// Debian's `rust-src` of exactly the compiler's version has the same files in another folder. Another version
/// would build, and fail later in ways that nobody understands.
fn rust_src_from_debian(release: &str, library: &Path) -> Result<()> {
    const BACKPORTS: Release = Release { suites: &[("debian", "trixie-backports"), ("debian", "trixie")] };
    let cache = target().join("setup/rust-src");
    let debian = BACKPORTS.open(&cache)?;
    let version = debian
        .version("rust-src", &format!("{release}+"))
        .with_context(|| format!("Debian has no rust-src {release}"))?;
    let unpacked = cache.join("unpacked");
    debian.unpack(&format!("rust-src={version}"), &unpacked)?;
    let from = unpacked.join(format!("usr/src/rustc-{release}/library"));
    if !from.join("core/src/lib.rs").is_file() {
        bail!("Debian's rust-src {version} has no {}", from.display());
    }
    let parent = library.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(parent)?;
    run::run(command("cp", Duration::from_secs(120)).arg("-rT").arg(&from).arg(library))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// The release that rust-toolchain.toml pins, e.g. `1.95.0`.
pub(crate) fn pinned_release() -> Result<String> {
    let text =
        fs::read_to_string(root().join("rust-toolchain.toml")).context("cannot read rust-toolchain.toml")?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel")?.trim_start().strip_prefix('='))
        .map(|value| value.trim().trim_matches('"').to_owned())
        .context("rust-toolchain.toml has no line `channel = \"…\"`")
}

fn bpf_linker() -> Result<()> {
    let wanted = format!("bpf-linker {BPF_LINKER}");
    let found = printed(command("bpf-linker", Duration::from_secs(20)).arg("--version"));
    if found.as_deref().is_some_and(|found| found.split_whitespace().take(2).eq(wanted.split_whitespace())) {
        return Ok(());
    }
    let what = found.map_or_else(|| "is not there".to_owned(), |found| format!("is here as `{found}`"));
    say(&format!("bpf-linker {BPF_LINKER} {what}: cargo install (one to two minutes)"));
    let mut install = cargo(Duration::from_secs(1200));
    // In the workspace's folder the pinned toolchain applies: bpf-linker must link against this one's LLVM.
    install.args(["install", "--locked", "--force", "--version", BPF_LINKER, "bpf-linker"]);
    // A target folder of the caller would otherwise fill with it.
    install.env_remove("CARGO_TARGET_DIR");
    run::run(&mut install).with_context(|| {
        format!("bpf-linker {BPF_LINKER} could not be built; it needs gcc, libc6-dev and crates.io: cargo install --locked bpf-linker@{BPF_LINKER}")
    })
}

/// Where the VM kernels are kept between runs.
pub(crate) fn vm_cache() -> PathBuf {
    target().join("vm")
}
