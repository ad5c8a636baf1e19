//! A cluster's control plane in the node's namespace: a real etcd and a real kube-apiserver, and objects written
//! through the API as `kubectl apply` does (server-side).

mod account;
pub mod audit;
pub mod batch;
pub mod case;
pub mod node;
pub mod proxy;
pub mod servers;

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portcullis::resource::{Kind, documents_from_str};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netns::{Netns, succeed};
use servers::Programs;

/// The API server comes up in some seconds; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(240);
const SERVER: &str = "https://127.0.0.1:6443";
const ADMIN: &str = "admin-token";
const AGENT: &str = "agent-token";
/// Calico's API.
pub const V3: &str = "projectcalico.org/v3";
/// What Calico keeps its objects in where no API server of its own runs.
pub const STORAGE: &str = "crd.projectcalico.org/v1";
/// Who the agent is: as its pod would be.
pub const AGENT_USER: &str = "system:serviceaccount:portcullis:portcullis";

/// Ends with its value; so do the servers.
pub struct Cluster {
    programs: Programs,
    /// `nsenter …` into the node's namespace.
    enter: Vec<OsString>,
    folder: TempDir,
    etcd: Option<Child>,
    api: Option<Child>,
}

impl Cluster {
    /// Starts both servers in the node's namespace, where the lab's addresses are its own.
    pub fn start(node: &Netns, programs: Programs) -> Result<Self> {
        let inner = node.command("true");
        let mut enter = vec![inner.get_program().to_owned()];
        enter.extend(inner.get_args().map(OsString::from));
        enter.pop();
        let folder = tempfile::Builder::new().prefix("portcullis-cluster-").tempdir()?;
        let mut cluster = Self { programs, enter, folder, etcd: None, api: None };
        let tokens = format!("{ADMIN},admin,1,system:masters\n{AGENT},{AGENT_USER},2\n");
        fs::write(cluster.path("tokens.csv"), tokens)?;
        fs::write(cluster.path("audit.yaml"), AUDIT)?;
        let key = cluster.path("service-account.key");
        succeed(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"), "")?;
        fs::write(cluster.path("kubeconfig"), cluster.kubeconfig_text(&json!({"token": AGENT})))?;
        fs::write(cluster.path("admin.kubeconfig"), cluster.kubeconfig_text(&json!({"token": ADMIN})))?;
        cluster.up()?;
        Ok(cluster)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kubeconfig_text(&self, user: &Value) -> String {
        let authority = self.path("certs/apiserver.crt");
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": SERVER, "certificate-authority": authority}}],
            "users": [{"name": "lab", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        })
        .to_string()
    }

    /// For the agent: its service account's rights and no others.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// For `kubectl` and whoever else may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// For somebody by this name, who has the rights that a binding gives him.
    pub fn kubeconfig_as(&self, user: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{user}.kubeconfig"));
        fs::write(&path, self.kubeconfig_text(&json!({"token": ADMIN, "as": user})))?;
        Ok(path)
    }

    /// What runs here.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Runs `kubectl WORDS` as the administrator, with this text on its standard input, and returns what it printed.
    pub fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(self.programs.words("kubectl")).args(words);
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        command.arg("--cache-dir").arg(self.path("kubectl-cache"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        // A command that reads nothing closes its input early.
        let _ = child.stdin.take().context("kubectl has no stdin")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            bail!("kubectl {}: {}", words.join(" "), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Starts what does not run, and waits until the API server is ready.
    pub fn up(&mut self) -> Result<()> {
        if self.etcd.is_none() {
            let data = self.path("etcd").display().to_string();
            let words = ["--unsafe-no-fsync", "--data-dir", &data, "--logger=zap", "--log-level=error"];
            self.etcd = Some(self.spawn("etcd", &words.map(str::to_owned))?);
        }
        if self.api.is_none() {
            self.api = Some(self.spawn("kube-apiserver", &self.api_words())?);
        }
        let end = Instant::now() + PATIENCE;
        while !self.request("GET", "/readyz", None).is_ok_and(|(code, _)| code == 200)
            || !self.request("GET", "/api/v1/namespaces/kube-system", None).is_ok_and(|(code, _)| code == 200)
        {
            if Instant::now() > end {
                bail!("the API server is not ready after {PATIENCE:?}: {}", self.log("kube-apiserver"));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn api_words(&self) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        let key = file("service-account.key");
        vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=6443".into(),
            format!("--cert-dir={}", file("certs")),
            "--service-cluster-ip-range=10.20.30.0/24,fd00:10:20::/108".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--endpoint-reconciler-type=none".into(),
            "--advertise-address=192.0.2.1".into(),
            // Asked to end, it ends its watches properly; killed, it does not.
            "--shutdown-watch-termination-grace-period=10s".into(),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ]
    }

    fn spawn(&self, server: &str, words: &[String]) -> Result<Child> {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{server}.log")))?;
        // Goes down with us even when we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(&self.enter).args(self.programs.words(server)).args(words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {server}"))
    }

    fn log(&self, server: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{server}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// `kill -9` of the API server.
    pub fn kill_api(&mut self) -> Result<()> {
        end(&mut self.api)
    }

    /// Asks the API server to end, and waits until it has: its watches end as they do when they are over.
    pub fn stop_api(&mut self) -> Result<()> {
        if let Some(child) = &mut self.api {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)
                .context("cannot signal the API server")?;
            child.wait()?;
        }
        self.api = None;
        Ok(())
    }

    /// The store forgets its history up to now, as it does every few minutes.
    pub fn compact(&self) -> Result<()> {
        let (_, list) = self.request("GET", "/api/v1/nodes", None)?;
        let revision = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
        let body = json!({"revision": revision, "physical": true}).to_string();
        let mut curl = Command::new(&self.enter[0]);
        curl.args(&self.enter[1..]).args(["curl", "-sf", "-d", &body]);
        succeed(curl.arg("http://127.0.0.1:2379/v3/kv/compaction"), "")
    }

    /// Both servers die and the store is gone.
    pub fn wipe(&mut self) -> Result<()> {
        end(&mut self.api)?;
        end(&mut self.etcd)?;
        fs::remove_dir_all(self.path("etcd")).context("cannot remove the store")
    }

    /// One request as the administrator: status code and body.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.request_as(ADMIN, method, path, body)
    }

    /// One request as whoever has this token.
    pub fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let mut curl = Command::new(&self.enter[0]);
        curl.args(&self.enter[1..]).args(["curl", "-sk", "--max-time", "20", "-w", "\n%{http_code}"]);
        curl.args(["-X", method, "-H", &format!("Authorization: Bearer {token}")]);
        if let Some(body) = body {
            let file = self.path("body.json");
            fs::write(&file, body.to_string())?;
            let kind = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
            curl.args(["-H", &format!("Content-Type: {kind}"), "--data-binary"]);
            curl.arg(format!("@{}", file.display()));
        }
        let output = curl.arg(format!("{SERVER}{path}")).output().context("cannot run curl")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, code) = text.trim_end().rsplit_once('\n').context("curl got no answer")?;
        Ok((code.parse()?, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// Applies every document of a text.
    pub fn apply(&self, text: &str) -> Result<()> {
        let (documents, problems) = documents_from_str("applied", text);
        if !problems.is_empty() {
            bail!("{problems:?}");
        }
        documents.iter().try_for_each(|document| self.apply_value(&document.value))
    }

    /// Applies one object. A resource that was defined a moment ago is waited for, and so is a server under pressure.
    pub fn apply_value(&self, object: &Value) -> Result<()> {
        let path = format!("{}?fieldManager=lab&force=true", path_of(object)?);
        let end = Instant::now() + PATIENCE;
        loop {
            match self.request("PATCH", &path, Some(object))? {
                (200 | 201, _) => return Ok(()),
                (0 | 404 | 429 | 500..=504, _) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(200))
                }
                (code, answer) => bail!("{path}: {code} {answer}\n{object:#}"),
            }
        }
    }

    /// Applies every manifest of a folder.
    pub fn apply_all(&self, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                self.apply(&fs::read_to_string(&path)?)?;
            }
        }
        Ok(())
    }

    /// Deletes an object.
    pub fn delete(&self, api_version: &str, kind: Kind, name: &str) -> Result<()> {
        let object = json!({"apiVersion": api_version, "kind": kind.as_str(), "metadata": {"name": name}});
        let path = path_of(&object)?;
        match self.request("DELETE", &path, None)? {
            (200, _) => Ok(()),
            (code, answer) => bail!("{path}: {code} {answer}"),
        }
    }

    /// Defines Calico's kinds in a group (`projectcalico.org/v3`), without any schema.
    pub fn define(&self, api_version: &str) -> Result<()> {
        let (group, version) = api_version.split_once('/').context("group/version")?;
        for kind in Kind::CALICO_FOR_HOSTS {
            let plural = kind.plural();
            let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
            self.apply_value(&json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.{group}")},
                "spec": {
                    "group": group, "scope": scope,
                    "names": {"plural": plural, "singular": kind.as_str().to_lowercase(), "kind": kind.as_str()},
                    "versions": [{
                        "name": version, "served": true, "storage": true,
                        "schema": {"openAPIV3Schema": {
                            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        }},
                    }],
                },
            }))?;
        }
        Ok(())
    }

    /// Defines Calico's kinds as this program does for clusters without Calico.
    pub fn define_ours(&self) -> Result<()> {
        portcullis::crd::calico().iter().try_for_each(|manifest| self.apply_value(&manifest.object))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The API server first: without its store it does not end.
        let _ = end(&mut self.api);
        let _ = end(&mut self.etcd);
    }
}

fn end(child: &mut Option<Child>) -> Result<()> {
    if let Some(mut child) = child.take() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{level: Metadata}]
";

/// Where an object lives in the API.
fn path_of(object: &Value) -> Result<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (word(&object["apiVersion"]), word(&object["kind"]));
    let (name, namespace) = (word(&object["metadata"]["name"]), word(&object["metadata"]["namespace"]));
    let plural = match Kind::from_name(&kind) {
        Some(kind) => kind.plural().to_owned(),
        None => match kind.to_lowercase().strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{}s", kind.to_lowercase()),
        },
    };
    if name.is_empty() || version.is_empty() {
        bail!("no object: {object}");
    }
    let top = if version.contains('/') { "apis" } else { "api" };
    let folder = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    Ok(format!("/{top}/{version}{folder}/{plural}/{name}"))
}
