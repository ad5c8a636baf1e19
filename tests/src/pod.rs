//! The agent's pod as a kubelet starts it from the manifests of this repository: the image's root file system, the
//! mounts, capabilities and words of the DaemonSet. What the manifest does not say, the pod does not get.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portcullis::resource::documents_from_str;
use serde_json::Value;
use tempfile::TempDir;

use crate::{netns::Netns, process::Home};

/// Loading the programs takes the longest.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where a pod finds who it is for the API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The folder of rendered manifests.
pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes")
}

/// The image's root file system: `cargo xtask test --only image` makes it and names it.
pub fn image_root() -> Option<PathBuf> {
    env::var_os("PORTCULLIS_IMAGE_ROOT").map(PathBuf::from)
}

/// A manifest with the agent's DaemonSet in it.
pub struct Manifest {
    pub objects: Vec<Value>,
    pub container: Value,
    volumes: BTreeMap<String, Value>,
}

impl Manifest {
    /// Reads a file of [`manifests`].
    pub fn read(file: &str) -> Result<Self> {
        let text = fs::read_to_string(manifests().join(file)).with_context(|| file.to_owned())?;
        let (documents, problems) = documents_from_str(file, &text);
        ensure!(problems.is_empty(), "{problems:?}");
        let objects: Vec<Value> = documents.iter().map(|d| Value::clone(&d.value)).collect();
        let set = objects.iter().find(|o| o["kind"] == "DaemonSet").context("no DaemonSet")?;
        let pod = &set["spec"]["template"]["spec"];
        ensure!(pod["hostNetwork"] == true, "the pod is not in the node's network");
        // What a kubelet would do beside, and we do not: a hook before the end that takes policy away, say.
        let alone = list(&pod["containers"]).count() == 1 && pod["initContainers"].is_null();
        ensure!(
            alone && pod["containers"][0]["lifecycle"].is_null(),
            "{file}: more than one container, or hooks"
        );
        let volumes = list(&pod["volumes"]).map(|v| (word(&v["name"]), v.clone())).collect();
        let container = pod["containers"][0].clone();
        Ok(Self { container, volumes, objects })
    }

    /// Names without `CAP_`, all that is not dropped.
    pub fn capabilities(&self) -> Vec<String> {
        list(&self.container["securityContext"]["capabilities"]["add"]).map(word).collect()
    }

    pub fn security(&self) -> &Value {
        &self.container["securityContext"]
    }

    /// The file that the ConfigMap becomes.
    pub fn settings(&self) -> Result<String> {
        let map = self.objects.iter().find(|o| o["kind"] == "ConfigMap").context("no ConfigMap")?;
        Ok(map["data"]["config.yaml"].as_str().context("no config.yaml")?.to_owned())
    }
}

/// What a test does otherwise than the manifest.
#[derive(Default)]
pub struct Twist<'a> {
    /// Takes this capability away.
    pub without: Option<&'a str>,
    /// Refuses bpf(2) by seccomp, whatever the capabilities.
    pub refuse_bpf: bool,
    /// Documents come from this folder of the host and not from the API.
    pub policies: Option<&'a Path>,
    /// `token`, `ca.crt`: who the pod is for the API server of the lab.
    pub account: Option<&'a Path>,
}

/// A running pod; killed when dropped.
pub struct Pod {
    child: Child,
    log: PathBuf,
    _root: TempDir,
}

impl Pod {
    /// Starts the pod on node1, with the node's bpffs and state of `home`.
    pub fn start(
        manifest: &Manifest,
        image: &Path,
        node: &Netns,
        home: &Home,
        twist: &Twist<'_>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-pod-").tempdir()?;
        let root = folder.path().join("root");
        // A copy, as a runtime's writable layer is: it makes the places for the mounts there.
        let copied = Command::new("cp").arg("-a").arg(image).arg(&root).status()?;
        ensure!(copied.success(), "cannot copy {}", image.display());
        let settings = folder.path().join("settings");
        fs::create_dir(&settings)?;
        fs::write(settings.join("config.yaml"), with_source(&manifest.settings()?, twist)?)?;

        let log = folder.path().join("log");
        let output = fs::File::create(&log)?;
        let mut command = node_command(node)?;
        command.arg(&root);
        for mount in list(&manifest.container["volumeMounts"]) {
            let volume = manifest.volumes.get(&word(&mount["name"])).context("a mount of no volume")?;
            let from = match (volume["hostPath"]["path"].as_str(), &volume["configMap"]) {
                (Some("/sys/fs/bpf"), _) => bpffs(home),
                (Some("/var/lib/portcullis"), _) => home.state_dir().to_owned(),
                (None, map) if map.is_object() => settings.clone(),
                other => bail!("what is {other:?}?"),
            };
            bind(&mut command, &from, &word(&mount["mountPath"]), mount["readOnly"] == true);
        }
        if let Some(policies) = twist.policies {
            bind(&mut command, policies, "/policies", true);
        }
        if let Some(account) = twist.account {
            bind(&mut command, account, ACCOUNT, true);
        }
        let security = manifest.security();
        ensure!(security["readOnlyRootFilesystem"] == true && security["allowPrivilegeEscalation"] == false);
        ensure!(
            list(&security["capabilities"]["drop"]).map(word).eq(["ALL".to_owned()]),
            "not all is dropped"
        );
        for capability in manifest.capabilities().iter().filter(|c| Some(c.as_str()) != twist.without) {
            command.args(["--cap", capability]);
        }
        if security["seccompProfile"]["type"] == "RuntimeDefault" {
            command.arg("--filter");
        }
        if twist.refuse_bpf {
            command.arg("--refuse-bpf");
        }
        command.args(["--", "/usr/bin/portcullis"]);
        command.args(list(&manifest.container["args"]).map(|w| word(w).replace("$(NODE_NAME)", "node1")));
        // Nothing of this machine's environment.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "6443");
        for entry in list(&manifest.container["env"]) {
            command.env(word(&entry["name"]), entry["value"].as_str().unwrap_or("node1"));
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("cannot start the pod")?;
        Ok(Self { child, log, _root: folder })
    }

    /// What the container wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds some words.
    pub fn says(&mut self, words: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the pod ended with {status} before it said {words:?}:\n{}", self.log());
            }
            ensure!(Instant::now() < end, "not within {PATIENCE:?}: {words:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its first process, by the number that it has here.
    pub fn pid(&self) -> Result<i32> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let first = children.split_whitespace().next().context("the container has no process")?;
        Ok(first.parse()?)
    }

    /// A line of its first process's `/proc/PID/status`.
    pub fn status(&self, key: &str) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
        Ok(line.trim_start_matches(':').trim().to_owned())
    }

    /// As the kubelet stops a container. How long it took.
    pub fn terminate(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        kill(Pid::from_raw(self.pid()?), Signal::SIGTERM)?;
        let code = self.ends()?;
        ensure!(code == 0, "the pod ended with {code} after SIGTERM:\n{}", self.log());
        Ok(begin.elapsed())
    }

    /// Waits for its end: the exit code.
    pub fn ends(&mut self) -> Result<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            ensure!(Instant::now() < end, "it runs still after {PATIENCE:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `container` in the node's network, with mounts and processes of its own. Goes down with us.
fn node_command(node: &Netns) -> Result<Command> {
    let own = env::current_exe()?;
    let container = own.ancestors().skip(1).take(2).map(|f| f.join("container")).find(|p| p.is_file());
    let container = container.context("there is no `container` beside this program: cargo build -p tests")?;
    let inner = node.command("unshare");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(inner.get_program()).args(inner.get_args());
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL"]).arg(container);
    Ok(command)
}

fn bind(command: &mut Command, from: &Path, to: &str, read_only: bool) {
    let flag = if read_only { "--bind-ro" } else { "--bind" };
    command.arg(flag).arg(format!("{}:{to}", from.display()));
}

fn bpffs(home: &Home) -> PathBuf {
    let pins = home.pin_dir();
    pins.parent().unwrap_or(&pins).to_owned()
}

/// The settings, with the folder as their source where a test brings one.
fn with_source(settings: &str, twist: &Twist<'_>) -> Result<String> {
    if twist.policies.is_none() {
        return Ok(settings.to_owned());
    }
    ensure!(settings.contains("kubernetes: true\n"), "no source in\n{settings}");
    Ok(settings.replace("kubernetes: true\n", "policies: /policies\n"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
