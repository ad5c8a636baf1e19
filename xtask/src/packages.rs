//! Debian packages: installing the ones that are missing, and unpacking single ones of other releases
//! (kernels, rust-src) without installing them.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::run::{command, has_program, is_root, printed, run, say, succeeds};

/// A program that the tests call, and the Debian package that brings it.
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// For the namespaces.
pub(crate) const NAMESPACE_TOOLS: [Tool; 10] = [
    tool("mount", "mount"),
    tool("nsenter", "util-linux"),
    tool("ip", "iproute2"),
    tool("ping", "iputils-ping"),
    tool("nft", "nftables"),
    tool("iptables-restore", "iptables"),
    tool("conntrack", "conntrack"),
    tool("curl", "curl"),
    tool("openssl", "openssl"),
    tool("bpftool", "bpftool"),
];

/// For the VM kernels.
pub(crate) const VM_TOOLS: [Tool; 1] = [tool("qemu-system-x86_64", "qemu-system-x86")];

/// For the package's installation into a root of its own.
pub(crate) const PACKAGE_TOOLS: [Tool; 3] =
    [tool("dpkg", "dpkg"), tool("busybox", "busybox-static"), tool("unshare", "util-linux")];

/// For the container image of a test.
pub(crate) const IMAGE_TOOLS: [Tool; 1] = [tool("strip", "binutils")];

/// For the VM that boots with a network.
pub(crate) const BOOT_TOOLS: [Tool; 1] = [tool("busybox", "busybox-static")];

pub(crate) fn missing(tools: &[Tool]) -> Vec<&'static str> {
    tools.iter().filter(|tool| !has_program(tool.program)).map(|tool| tool.package).collect()
}

/// Installs what is missing. An error names what remains and how to get it.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let wanted = missing(tools);
    if wanted.is_empty() {
        return Ok(());
    }
    let list = wanted.join(" ");
    if !has_program("apt-get") {
        bail!(
            "missing: {list} (names as in Debian); there is no apt-get here: install them with your own package manager"
        );
    }
    if !is_root() {
        bail!(
            "missing: {list}; as root: apt-get update && apt-get install --no-install-recommends -y {list}"
        );
    }
    say(&format!("installing Debian packages: {list}"));
    // A list that cannot be refreshed (one dead third-party source is enough) may still be good: try the install anyhow.
    if !succeeds(&mut apt("update", &["-q"], Duration::from_secs(300)))? {
        say("apt-get update had errors; going on with the lists that there are");
    }
    let mut words = vec!["--no-install-recommends", "-y", "-q"];
    words.extend(&wanted);
    run(&mut apt("install", &words, Duration::from_secs(900))).with_context(|| {
        format!("packages {list} could not be installed; see apt's own message, then try again")
    })?;
    let still = missing(tools);
    if !still.is_empty() {
        bail!("installed {list}, but the programs of {} are still not in PATH", still.join(" "));
    }
    Ok(())
}

fn apt(verb: &str, words: &[&str], limit: Duration) -> Command {
    let mut apt = command("apt-get", limit);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args([
        "-o",
        "Acquire::Retries=3",
        "-o",
        "Acquire::http::Timeout=30",
        "-o",
        "DPkg::Lock::Timeout=120",
        verb,
    ]);
    apt.args(words);
    apt
}

/// A release of Debian, read through a private list of sources, so that the machine's own lists stay as they are.
pub(crate) struct Release {
    /// One line per suite, e.g. `debian bookworm`: archive, suite.
    pub(crate) suites: &'static [(&'static str, &'static str)],
}

impl Release {
    /// Fetches the lists into `cache`, once.
    pub(crate) fn open<'a>(&'a self, cache: &'a Path) -> Result<OpenRelease<'a>> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(cache.join(folder))
                .with_context(|| format!("cannot make {}", cache.display()))?;
        }
        let mirror = mirror();
        let lines: Vec<String> = self
            .suites
            .iter()
            .map(|(archive, suite)| format!("deb {mirror}/{archive} {suite} main\n"))
            .collect();
        fs::write(cache.join("sources.list"), lines.concat())
            .context("cannot write the private sources.list")?;
        // An empty list of installed packages: what this machine has must not hold anything back.
        fs::write(cache.join("status"), "").context("cannot write the private dpkg status")?;
        let release = OpenRelease { cache };
        run(&mut release.apt("apt-get", &["-q", "update"], Duration::from_secs(240))).context(
            "the Debian lists for another release could not be read: is a Debian mirror reachable?",
        )?;
        Ok(release)
    }
}

pub(crate) struct OpenRelease<'a> {
    cache: &'a Path,
}

impl OpenRelease<'_> {
    fn apt(&self, program: &str, words: &[&str], limit: Duration) -> Command {
        let cache = self.cache.display();
        let mut apt = command(program, limit);
        apt.args([
            format!("-oDir::Etc::sourcelist={cache}/sources.list"),
            "-oDir::Etc::sourceparts=-".to_owned(),
            format!("-oDir::State::Lists={cache}/lists"),
            format!("-oDir::State::status={cache}/status"),
            format!("-oDir::Cache={cache}/cache"),
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAPT::Architecture=amd64".to_owned(),
            "-oAcquire::Retries=3".to_owned(),
            "-oAcquire::http::Timeout=30".to_owned(),
        ]);
        apt.args(words).current_dir(self.cache);
        apt
    }

    /// The first package that `package` depends on whose name begins with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let words = ["depends", package];
        let text = printed(&mut self.apt("apt-cache", &words, Duration::from_secs(60)))
            .with_context(|| format!("apt-cache knows no package {package}"))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on nothing that begins with {prefix}:\n{text}"))
    }

    /// Downloads a package (`name` or `name=version`) and unpacks it into `into`. Nothing is installed.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        say(&format!("fetching Debian's {package} (unpacked, not installed)"));
        run(&mut self.apt("apt-get", &["-q", "download", package], Duration::from_secs(600)))?;
        let name = package.split('=').next().unwrap_or(package);
        let file = fs::read_dir(self.cache)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                let file =
                    path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
                file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
            })
            .with_context(|| format!("apt-get download {package} left no .deb"))?;
        fs::create_dir_all(into)?;
        run(command("dpkg", Duration::from_secs(300)).arg("-x").arg(&file).arg(into))?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// The version of `package` that begins with `prefix`, if the release holds one.
    pub(crate) fn version(&self, package: &str, prefix: &str) -> Option<String> {
        let text = printed(&mut self.apt("apt-cache", &["madison", package], Duration::from_secs(60)))?;
        text.lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|version| version.starts_with(prefix))
            .map(str::to_owned)
    }
}

/// The mirror that this machine uses for Debian itself, without the archive's name; else Debian's own.
fn mirror() -> String {
    let lists = printed(command("sh", Duration::from_secs(5)).args([
        "-c",
        "cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null; true",
    ]))
    .unwrap_or_default();
    lists
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("http"))
        .find_map(|word| word.trim_end_matches('/').strip_suffix("/debian").map(str::to_owned))
        .unwrap_or_else(|| "http://deb.debian.org".to_owned())
}
