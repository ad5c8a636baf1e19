//! The Debian package, in a root of its own: installed, upgraded under enforcement, refused to go while an agent runs,
//! removed, purged. `cargo xtask test --only package` builds the packages and names them in the environment.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tests::{bpffs::BpfFs, can_run, netns::Netns};

/// Packages that the root claims to have, so that dependencies are met.
const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 99\n\
                      Maintainer: test\nDescription: test\n\nPackage: libgcc-s1\nStatus: install ok installed\n\
                      Architecture: amd64\nVersion: 99\nMaintainer: test\nDescription: test\n\n";
/// Instead of systemd: writes down what the scripts ask of it.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$@\" >> /systemctl.log\n";
const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-eth0, labels: {role: host}}
spec: {node: n1, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: https}
spec:
  selector: role == 'host'
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]
";

/// A root with a shell and the C library, in a network namespace with one device, and a bpffs of its own.
struct Root {
    folder: TempDir,
    bpf: BpfFs,
    netns: Netns,
}

impl Root {
    fn new() -> Result<Self> {
        let netns = Netns::new("package")?;
        netns.ip(
            "link add eth0 type veth peer name far\nlink set eth0 up\naddr add 192.0.2.1/24 dev eth0\n",
        )?;
        let root = Self {
            folder: tempfile::Builder::new().prefix("portcullis-root-").tempdir()?,
            bpf: BpfFs::mount()?,
            netns,
        };
        for folder in [
            "bin",
            "usr/bin",
            "proc",
            "sys/fs/bpf",
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "run/systemd/system",
            "tmp",
            "etc",
        ] {
            fs::create_dir_all(root.path(folder))?;
        }
        let busybox = which("busybox")?;
        fs::copy(busybox, root.path("bin/busybox"))?;
        for name in ["sh", "mkdir", "rm", "echo", "cat"] {
            symlink("busybox", root.path("bin").join(name))?;
        }
        fs::write(root.path("usr/bin/systemctl"), SYSTEMCTL)?;
        fs::set_permissions(root.path("usr/bin/systemctl"), fs::Permissions::from_mode(0o755))?;
        fs::write(root.path("var/lib/dpkg/status"), STATUS)?;
        for file in ["available", "info/format"] {
            fs::write(root.path("var/lib/dpkg").join(file), if file == "info/format" { "1\n" } else { "" })?;
        }
        Ok(root)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside.trim_start_matches('/'))
    }

    /// Copies the libraries of the installed binary, as libc6 would bring them.
    fn libraries(&self, binary: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(binary).output().context("ldd")?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            let to = self.path(word);
            fs::create_dir_all(to.parent().context("a library has a folder")?)?;
            fs::copy(word, to).with_context(|| format!("cannot copy {word}"))?;
        }
        Ok(())
    }

    /// A command in the namespace, with /proc and the bpffs in the root; `$0` is the root.
    fn shell(&self, script: &str) -> Command {
        let bpf = self.bpf.pin_dir();
        let bpf = bpf.parent().unwrap_or(&bpf);
        let script = format!(
            "mount --bind /proc \"$0/proc\" && mount --bind '{}' \"$0/sys/fs/bpf\" && {script}",
            bpf.display()
        );
        let mut command = self.netns.command("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(self.folder.path());
        command
    }

    fn dpkg(&self, words: &str) -> Result<Output> {
        let words = format!("exec dpkg --root=\"$0\" --force-confold --force-confdef {words}");
        // As on a host: /sbin in PATH, no questions.
        let mut command = self.shell(&words);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command.output().context("cannot start dpkg")
    }

    fn dpkg_done(&self, words: &str) -> Result<String> {
        let output = self.dpkg(words)?;
        let text = told(&output);
        ensure!(output.status.success(), "dpkg {words}: {}\n{text}", output.status);
        Ok(text)
    }

    fn inside(&self, words: &str) -> Result<Output> {
        self.shell(&format!("exec chroot \"$0\" {words}")).output().context("cannot chroot")
    }

    /// The installed agent, with its own settings file, until it says that it enforces.
    fn agent(&self) -> Result<Running> {
        let mut command =
            self.shell("exec chroot \"$0\" /usr/bin/portcullis run --config /etc/portcullis/config.yaml");
        let log = self.path("tmp/agent.log");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let running = Running(child);
        for line in BufReader::new(stdout).lines() {
            if line?.contains("in force on eth0 (HostEndpoint/n1-eth0)") {
                return Ok(running);
            }
        }
        bail!("the agent ended before it enforced:\n{}", fs::read_to_string(log)?)
    }

    /// Programs of ours at the device, by the kernel's own list of links, and by its clsact filters.
    fn attached(&self) -> Result<usize> {
        let tc = self.netns.command("tc").args(["filter", "show", "dev", "eth0", "ingress"]).output()?;
        let filters = String::from_utf8_lossy(&tc.stdout).matches("pc_tc_ingress").count();
        let links = fs::read_dir(self.bpf.pin_dir().join("links")).map_or(0, |entries| entries.count());
        Ok(filters + links)
    }

    fn systemctl(&self) -> String {
        fs::read_to_string(self.path("systemctl.log")).unwrap_or_default()
    }

    /// Every path in the root, but what dpkg keeps for itself and what the test itself writes.
    fn files(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        walk(self.folder.path(), &mut all);
        let strip = self.folder.path().display().to_string();
        let mine = ["/var/lib/dpkg", "/systemctl.log", "/tmp", "/lib", "/proc", "/sys"];
        all.into_iter()
            .filter_map(|path| path.strip_prefix(&strip).map(str::to_owned))
            .filter(|path| !mine.iter().any(|m| path.starts_with(m)))
            .collect()
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn walk(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        all.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), all);
        }
    }
}

fn which(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").context("no PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| program.to_owned())
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn installed_upgraded_removed_purged() {
    let (Some(first), Some(next)) = (env::var_os("PORTCULLIS_DEB"), env::var_os("PORTCULLIS_DEB_NEXT"))
    else {
        // `cargo xtask test` has a step of its own for this, which names them.
        eprintln!("SKIPPED package: no packages named; run cargo xtask test --only package");
        return;
    };
    if can_run("package") {
        story(Path::new(&first), Path::new(&next)).unwrap();
    }
}

fn story(first: &Path, next: &Path) -> Result<()> {
    let root = Root::new()?;
    let before = root.files();

    // Installed: everything is there, and nothing is enforced or started.
    let said = root.dpkg_done(&format!("-i '{}'", first.display()))?;
    ensure!(said.contains("nothing is enforced yet"), "{said}");
    for file in [
        "usr/bin/portcullis",
        "usr/lib/systemd/system/portcullis.service",
        "usr/lib/systemd/system/portcullis-floor.service",
        "etc/portcullis/config.yaml",
        "etc/portcullis/policies",
        "usr/share/doc/portcullis/copyright",
        "usr/share/doc/portcullis/examples/nodeport/base",
    ] {
        ensure!(root.path(file).exists(), "{file} is not there");
    }
    // Every man page of the repository comes along.
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
    for entry in fs::read_dir(pages).into_iter().flatten().filter_map(Result::ok) {
        let page = format!("usr/share/man/man1/{}.gz", entry.file_name().to_string_lossy());
        ensure!(root.path(&page).is_file(), "{page} is not there");
    }
    ensure!(root.systemctl() == "daemon-reload\n", "{}", root.systemctl());
    ensure!(root.attached()? == 0, "something is attached");
    root.libraries(&root.path("usr/bin/portcullis"))?;
    let check = root.inside("/usr/bin/portcullis validate --config /etc/portcullis/config.yaml")?;
    ensure!(check.status.success(), "{}", told(&check));

    // An administrator's own settings and policy; the agent as the unit starts it.
    let settings = root.path("etc/portcullis/config.yaml");
    let edited = fs::read_to_string(&settings)? + "node: n1\n";
    fs::write(&settings, &edited)?;
    let policy = root.path("etc/portcullis/policies/host.yaml");
    fs::write(&policy, POLICY)?;
    let agent = root.agent()?;
    let enforced = root.attached()?;
    ensure!(enforced >= 2, "{enforced} programs are attached");

    // Upgraded: enforcement, settings and policy stay; the new default lies beside.
    root.dpkg_done(&format!("-i '{}'", next.display()))?;
    ensure!(root.attached()? == enforced, "an upgrade ended enforcement");
    ensure!(fs::read_to_string(&settings)? == edited, "an upgrade changed the settings");
    ensure!(fs::read_to_string(&policy)? == POLICY, "an upgrade changed the policy");
    let shipped = fs::read_to_string(root.path("etc/portcullis/config.yaml.dpkg-dist"))?;
    ensure!(shipped.contains("# Shipped by a later version."), "{shipped}");
    let asked = root.systemctl();
    ensure!(asked.ends_with("try-restart portcullis-floor.service portcullis.service\n"), "{asked}");
    ensure!(!asked.contains("enable"), "{asked}");

    // Not removed while somebody still enforces: nothing is left half done.
    let refused = root.dpkg("-r portcullis")?;
    ensure!(!refused.status.success(), "removed under a running agent");
    ensure!(told(&refused).contains("another portcullis uses the pin dir"), "{}", told(&refused));
    ensure!(root.path("usr/bin/portcullis").exists() && root.attached()? == enforced, "half removed");

    // Killed, then removed: enforcement ends with the package; settings, policy and state stay.
    drop(agent);
    ensure!(root.attached()? == enforced, "enforcement ended with the agent");
    root.dpkg_done("-r portcullis")?;
    wait_until(|| Ok(root.attached()? == 0)).context("enforcement outlived the package")?;
    ensure!(!root.path("usr/bin/portcullis").exists(), "the binary is still there");
    ensure!(settings.exists() && policy.exists(), "remove took settings or policies");

    // Purged: the root is as it was.
    root.dpkg_done("-P portcullis")?;
    let left: Vec<String> = root.files().difference(&before).cloned().collect();
    ensure!(left.is_empty(), "purge left {left:?}");
    let pins = fs::read_dir(root.bpf.pin_dir()).map_or(0, |entries| entries.count());
    ensure!(pins == 0, "purge left {pins} pins");
    Ok(())
}

fn wait_until(done: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !done()? {
        ensure!(Instant::now() < end, "not within 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
