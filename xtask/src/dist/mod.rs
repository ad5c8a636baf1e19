//! `cargo xtask dist`: the release binary and all that belongs to it, as a Debian package in `target/dist`.

mod deb;
#[cfg(test)]
mod dockerfile;
mod image;
mod oci;
mod sbom;
mod tree;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS, PACKAGE_TOOLS},
    run::{self, cargo, command, is_root, printed, root, say, target},
    setup,
    test::{self, Notes, Outcome},
};
use tree::{Tree, gzip};

/// The binary that goes into the package.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Release,
    /// For tests, which need not wait for an optimised build.
    Dev,
}

/// Shells, and where Debian looks for their completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/portcullis"),
    ("zsh", "usr/share/zsh/vendor-completions/_portcullis"),
    ("fish", "usr/share/fish/vendor_completions.d/portcullis.fish"),
];

const UNITS: [&str; 2] = ["portcullis.service", "portcullis-floor.service"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

pub(crate) use image::{run as image, step as image_step};

pub(crate) fn run() -> Result<bool> {
    setup::kernel_build()?;
    let binary = build(Profile::Release)?;
    let file = write(&binary, VERSION, &target().join("dist"), &[])?;
    println!("{}", file.display());
    Ok(true)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The step of `cargo xtask test`: two versions, from a quick build, given to `tests/tests/package.rs`.
pub(crate) fn step(notes: &mut Notes) -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped("installing a package into a chroot needs root".into()));
    }
    packages::install(&NAMESPACE_TOOLS)?;
    if let Err(error) = packages::install(&PACKAGE_TOOLS) {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let binary = build(Profile::Dev)?;
    let folder = target().join("dist/test");
    let first = write(&binary, VERSION, &folder, &[])?;
    let bytes = fs::read(&first)?;
    if fs::read(write(&binary, VERSION, &folder.join("again"), &[])?)? != bytes {
        return Ok(Outcome::Failed("two packages of the same build differ".into()));
    }
    // What a later release does: another version, and another default in the settings file.
    let next = write(&binary, &format!("{VERSION}+next"), &folder, &["# Shipped by a later version."])?;
    let mut test = cargo(Duration::from_secs(1200));
    test.args(["test", "--package", "tests", "--test", "package", "--", "--test-threads=1"]);
    test.env("PORTCULLIS_DEB", first).env("PORTCULLIS_DEB_NEXT", next);
    test::cargo_test(&mut test, notes)
}

fn build(profile: Profile) -> Result<PathBuf> {
    if profile == Profile::Dev {
        return test::build_agent();
    }
    say("building the release (some minutes when nothing is built yet)");
    let mut build = cargo(Duration::from_secs(2400));
    build.args(["build", "--release", "--locked", "--package", "dataplane-user", "--bin", "portcullis"]);
    // Names of functions stay, for a backtrace that somebody sends us.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    run::run(&mut build)?;
    Ok(target().join("release/portcullis"))
}

/// Packs `binary` and writes the package into `folder`; the path.
fn write(binary: &Path, version: &str, folder: &Path, more_settings: &[&str]) -> Result<PathBuf> {
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no name in Debian is known for the architecture {other}"),
    };
    let data = data(binary, more_settings)?;
    let content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut control = Tree::default();
    let text = packaging("deb/control")?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@DEPENDS@", &depends(&content)?)
        .replace("@SIZE@", &data.installed_kib().to_string());
    control.file("control", 0o644, text);
    control.file("conffiles", 0o644, packaging("deb/conffiles")?);
    for script in SCRIPTS {
        control.file(script, 0o755, packaging(&format!("deb/{script}"))?);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("portcullis_{version}_{architecture}.deb"));
    let bytes = deb::package(&control, &data, time()?)?;
    fs::write(&file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    say(&format!("{} ({} KiB)", file.display(), bytes.len().div_ceil(1024)));
    Ok(file)
}

/// Everything that is installed.
fn data(binary: &Path, more_settings: &[&str]) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.file("usr/bin/portcullis", 0o755, fs::read(binary)?);
    for unit in UNITS {
        let content = packaging(&format!("systemd/{unit}"))?;
        tree.file(&format!("usr/lib/systemd/system/{unit}"), 0o644, content);
    }
    let settings = [packaging("config.yaml")?, more_settings.concat(), "\n".into()];
    tree.file("etc/portcullis/config.yaml", 0o644, settings.concat().trim_end().to_owned() + "\n");
    tree.folder("etc/portcullis/policies");
    let doc = "usr/share/doc/portcullis";
    tree.file(&format!("{doc}/copyright"), 0o644, packaging("deb/copyright")?);
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        tree.file(&format!("{doc}/{licence}"), 0o644, fs::read(root().join(licence))?);
    }
    tree.file(&format!("{doc}/changelog.gz"), 0o644, gzip(&fs::read(root().join("CHANGELOG.md"))?)?);
    tree.file(&format!("{doc}/README.md"), 0o644, fs::read(root().join("README.md"))?);
    add_folder(&mut tree, &root().join("docs"), doc)?;
    add_folder(&mut tree, &root().join("policies"), &format!("{doc}/examples"))?;
    man_pages(&mut tree)?;
    completions(binary, &mut tree)?;
    Ok(tree)
}

/// Copies Markdown, manifests and scenarios; the rest of a source folder is not for a host.
fn add_folder(tree: &mut Tree, from: &Path, to: &str) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = format!("{to}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            // Scenarios of single rules are tests of ours, hundreds of them.
            if entry.file_name() != "cases" {
                add_folder(tree, &entry.path(), &name)?;
            }
        } else if name.ends_with(".md") || name.ends_with(".yaml") {
            tree.file(&name, 0o644, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// The man pages of the repository, which a test holds to the program.
fn man_pages(tree: &mut Tree) -> Result<()> {
    let folder = root().join("docs/man");
    if !folder.is_dir() {
        say("there is no docs/man: the package goes without man pages");
        return Ok(());
    }
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".1") {
            tree.file(&format!("usr/share/man/man1/{name}.gz"), 0o644, gzip(&fs::read(&path)?)?);
        }
    }
    Ok(())
}

/// Completions, as the binary prints them.
fn completions(binary: &Path, tree: &mut Tree) -> Result<()> {
    let say_of = |words: &[&str]| {
        printed(command(&binary.display().to_string(), Duration::from_secs(20)).args(words))
            .filter(|text| !text.is_empty())
    };
    let mut missing = Vec::new();
    for (shell, path) in COMPLETIONS {
        match say_of(&["completions", shell]) {
            Some(text) => tree.file(path, 0o644, text + "\n"),
            None => missing.push(shell),
        }
    }
    if !missing.is_empty() {
        say(&format!(
            "this build prints no completions for {}: the package goes without",
            missing.join(", ")
        ));
    }
    Ok(())
}

/// The libraries that the binary needs, with the oldest C library that has all it asks for.
fn depends(binary: &[u8]) -> Result<String> {
    let newest = glibc_versions(binary).into_iter().next_back();
    let (major, minor) =
        newest.context("the binary names no version of the C library: is it for Linux with glibc?")?;
    Ok(format!("libc6 (>= {major}.{minor}), libgcc-s1"))
}

/// Versions `GLIBC_2.34` that the binary's symbols ask for.
fn glibc_versions(binary: &[u8]) -> BTreeSet<(u32, u32)> {
    const MARK: &[u8] = b"GLIBC_";
    let mut found = BTreeSet::new();
    for at in
        binary.windows(MARK.len()).enumerate().filter(|(_, w)| *w == MARK).map(|(at, _)| at + MARK.len())
    {
        let rest = &binary[at..binary.len().min(at + 8)];
        let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(rest.len());
        let text = String::from_utf8_lossy(&rest[..end]);
        let mut numbers = text.split('.').map(str::parse);
        if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) {
            found.insert((major, minor));
        }
    }
    found
}

fn packaging(name: &str) -> Result<String> {
    let path = root().join("packaging").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// `SOURCE_DATE_EPOCH`, else when the last commit was made, so that the same tree gives the same package.
fn time() -> Result<u64> {
    if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        return text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text:?}: expected Unix seconds"));
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(root());
    Ok(printed(&mut git).and_then(|text| text.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::glibc_versions;

    #[test]
    fn the_newest_c_library_is_found() {
        let binary = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_2.1";
        assert_eq!(glibc_versions(binary).into_iter().next_back(), Some((2, 34)));
        assert!(glibc_versions(b"nothing").is_empty());
    }
}
