//! Builds the kernel programs (`dataplane-ebpf`) for the BPF target and leaves the object in `OUT_DIR`, where the
//! loader embeds it. Where the BPF linker or the standard library's source is missing, the object is empty: the
//! library, its tests and the `model` engine work without, and the loader says what to do.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const OBJECT: &str = "portcullis-ebpf.o";

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    for input in [
        "dataplane-ebpf/src",
        "dataplane-ebpf/Cargo.toml",
        "dataplane-common/src",
        "dataplane-common/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PATH");
    let out = PathBuf::from(variable("OUT_DIR"));
    let object = out.join(OBJECT);
    if let Err(problem) = missing_tool().map_or(Ok(()), Err).and_then(|()| build(&root, &out, &object)) {
        println!("cargo:warning=the kernel programs were not built: {problem}");
        if let Err(e) = fs::write(&object, []) {
            panic!("cannot write {}: {e}", object.display());
        }
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo did not set {name}"))
}

/// What the build lacks, with the remedy.
fn missing_tool() -> Option<String> {
    let linker = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|d| d.join("bpf-linker").is_file()));
    if !linker {
        return Some("bpf-linker is not in PATH; run `cargo xtask setup`".into());
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    (!source.is_file()).then(|| "the component rust-src is missing; run `cargo xtask setup`".into())
}

fn build(root: &Path, out: &Path, object: &Path) -> Result<(), String> {
    let target = out.join("ebpf");
    // The BPF target has its architecture as a cfg, not as a target: pt_regs and the like differ.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| "x86_64".into());
    let flags = format!("--cfg=bpf_target_arch=\"{arch}\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf");
    let mut cargo = Command::new(variable("CARGO"));
    // What the outer cargo sets for this script would change the inner build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"].contains(&text.as_ref())
            || text.starts_with("CARGO_REGISTR");
        if !keep
            && (text.starts_with("CARGO")
                || text.starts_with("RUSTC")
                || text == "RUSTFLAGS"
                || text == "TARGET")
        {
            cargo.env_remove(&name);
        }
    }
    let run = cargo
        .current_dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args([
            "build",
            "-p",
            "dataplane-ebpf",
            "--release",
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(&target)
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !run.status.success() {
        // A broken kernel program is an error of the source, not of the machine: never an empty object.
        panic!("building dataplane-ebpf failed:\n{}", String::from_utf8_lossy(&run.stderr));
    }
    let built = target.join("bpfel-unknown-none/release/portcullis-ebpf");
    // Anew, not over: a target folder that was copied by hard links shares its files with the one that it was copied from.
    if object.exists() {
        fs::remove_file(object).map_err(|e| format!("cannot remove {}: {e}", object.display()))?;
    }
    fs::copy(&built, object).map(drop).map_err(|e| format!("cannot copy {}: {e}", built.display()))
}
