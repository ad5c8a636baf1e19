//! `cargo xtask dist image`: the container image, without a container engine. Its root file system holds the static
//! binary, the folders that are mounted over, licences and the bill of materials, and nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::Compression;

use super::{Profile, VERSION, build, oci, packaging, sbom, time, tree::Tree};
use crate::{
    packages::{self, IMAGE_TOOLS, NAMESPACE_TOOLS},
    run::{self, cargo, command, is_root, printed, root, say, target},
    setup,
    test::{self, Notes, Outcome},
};

/// Where something is mounted, or written on a host without Kubernetes.
const FOLDERS: [&str; 8] = [
    "dev",
    "etc/portcullis/policies",
    "proc",
    "run/portcullis",
    "sys",
    "tmp",
    "var/lib/portcullis",
    "usr/bin",
];
const DOC: &str = "usr/share/doc/portcullis";
/// Below cargo's target folder: what is made, and the root file system in it. The Dockerfile copies it.
pub(super) const FOLDER: &str = "dist/image";
pub(super) const ROOT: &str = "rootfs";
/// What is read besides the workspace's packages.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
const COPYRIGHT: &str = "deb/copyright";

/// `cargo xtask dist image`.
pub(crate) fn run() -> Result<bool> {
    setup::kernel_build()?;
    let triple = triple()?;
    let binary = build_static(&triple)?;
    let folder = target().join(FOLDER);
    let libc =
        printed(command("dpkg-query", Duration::from_secs(20)).args(["-W", "-f", "${Version}", "libc6-dev"]));
    let made = write(&binary, &triple, libc.as_deref().or(Some("unknown")), &folder, Compression::best())?;
    println!("{}\n{}", made.layout.display(), made.digest);
    Ok(true)
}

/// The step of `cargo xtask test`: from the build that is there anyway, with the libraries that it is linked with.
pub(crate) fn step(notes: &mut Notes) -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped("running a container's root file system needs root".into()));
    }
    packages::install(&NAMESPACE_TOOLS)?;
    packages::install(&IMAGE_TOOLS)?;
    let folder = target().join("dist/test-image");
    fs::create_dir_all(&folder)?;
    // Without what a debugger reads, which is most of it.
    let binary = folder.join("portcullis");
    let mut strip = command("strip", Duration::from_secs(120));
    run::run(strip.arg("-o").arg(&binary).arg(build(Profile::Dev)?))?;
    let one = write(&binary, &triple()?, None, &folder, Compression::fast())?;
    let two = write(&binary, &triple()?, None, &folder.join("again"), Compression::fast())?;
    if one.digest != two.digest {
        return Ok(Outcome::Failed(format!(
            "two images of the same build differ: {} {}",
            one.digest, two.digest
        )));
    }
    let mut test = cargo(Duration::from_secs(1200));
    test.args(["test", "--package", "tests", "--test", "image", "--", "--test-threads=1"]);
    test.env("PORTCULLIS_IMAGE_ROOT", one.root);
    test::cargo_test(&mut test, notes)
}

struct Made {
    root: PathBuf,
    layout: PathBuf,
    digest: String,
}

fn write(
    binary: &Path,
    triple: &str,
    static_libc: Option<&str>,
    folder: &Path,
    compression: Compression,
) -> Result<Made> {
    let bill = sbom::bill(&sbom::About { version: VERSION, target: triple, static_libc })?;
    let tree = contents(binary, &bill, static_libc.is_some())?;
    let about = oci::About { version: VERSION, time: time()?, compression };
    let image = oci::image(&tree, &about)?;
    let digest = oci::check(&image.layout, &tree)?;
    ensure!(digest == image.digest, "the layout's manifest is {digest}, not {}", image.digest);

    let made = Made {
        root: folder.join(ROOT),
        layout: folder.join(format!("portcullis-{VERSION}.oci.tar")),
        digest,
    };
    tree.unpack(&made.root)?;
    fs::write(folder.join(format!("portcullis-{VERSION}.cdx.json")), bill)?;
    fs::write(&made.layout, &image.layout)?;
    say(&format!("{} ({} KiB), {}", made.layout.display(), image.layout.len().div_ceil(1024), made.digest));
    Ok(made)
}

/// Everything that is in the image.
pub(super) fn contents(binary: &Path, bill: &str, is_static: bool) -> Result<Tree> {
    let program = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut tree = Tree::default();
    FOLDERS.iter().for_each(|folder| tree.folder(folder));
    let libraries = libraries(binary)?;
    if is_static {
        ensure!(libraries.is_empty(), "the binary is not static: it wants {libraries:?}");
    }
    for library in libraries {
        let content = fs::read(&library).with_context(|| format!("cannot read {library}"))?;
        tree.file(library.trim_start_matches('/'), 0o755, content);
    }
    tree.file(oci::ENTRYPOINT.trim_start_matches('/'), 0o755, program);
    for licence in LICENCES {
        tree.file(&format!("{DOC}/{licence}"), 0o644, fs::read(root().join(licence))?);
    }
    tree.file(&format!("{DOC}/copyright"), 0o644, packaging(COPYRIGHT)?);
    tree.file(&format!("{DOC}/portcullis.cdx.json"), 0o644, bill);
    Ok(tree)
}

/// Files and folders of the repository that [`run`] reads: what a build in a container has to be given.
#[cfg(test)]
pub(super) fn inputs() -> Vec<String> {
    let packaging = format!("packaging/{COPYRIGHT}");
    LICENCES.into_iter().map(str::to_owned).chain([packaging]).collect()
}

/// Paths of what a binary is linked with, the loader included; none for a static one.
fn libraries(binary: &Path) -> Result<BTreeSet<String>> {
    let Some(text) = printed(command("ldd", Duration::from_secs(20)).arg(binary)) else {
        return Ok(BTreeSet::new());
    };
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// A release that needs no library at run time. Paths of this machine are kept out of it, so that other machines build
/// the same.
fn build_static(triple: &str) -> Result<PathBuf> {
    say("building the static release (some minutes when nothing is built yet)");
    let mut build = cargo(Duration::from_secs(2400));
    build.args(["build", "--release", "--locked", "--package", "dataplane-user", "--bin", "portcullis"]);
    build.args(["--target", triple]).env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    let home =
        printed(command("sh", Duration::from_secs(5)).args(["-c", "echo ${CARGO_HOME:-$HOME/.cargo}"]));
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/portcullis", root().canonicalize()?.display()),
        format!("--remap-path-prefix={}=/cargo", home.unwrap_or_default()),
    ];
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run::run(&mut build)?;
    Ok(target().join(triple).join("release/portcullis"))
}

/// The machine's own target, with the C library of GNU: the one that rustup installs by itself.
fn triple() -> Result<String> {
    let text = printed(command("rustc", Duration::from_secs(60)).arg("-vV")).context("rustc -vV")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc says no host")?;
    if !host.ends_with("-linux-gnu") {
        bail!("images are built on Linux with the GNU C library; this is {host}");
    }
    Ok(host.to_owned())
}
