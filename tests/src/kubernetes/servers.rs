//! Where the real programs come from: the folder `KUBEBUILDER_ASSETS` (as controller tests use it), else the Go program
//! in `tests/kubernetes`, built once into the user's cache.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The Kubernetes that the Go program holds, as it calls itself.
const VERSION: &str = "v1.36.3";
/// What its go.mod asks for.
const GO_MINOR: u32 = 26;
/// What it is made of, so that another version of it is another program.
const SOURCES: [&str; 5] = ["go.mod", "go.sum", "main.go", "helm.go", "kubelet.go"];

/// What runs which program: `etcd`, `kube-apiserver`, `kube-proxy`, `kubectl`, `helm` (of which the Go program knows
/// `template` and `lint`).
#[derive(Clone, Debug)]
pub enum Programs {
    /// One program for each.
    Folder(PathBuf),
    /// One for all: its first word says which.
    One(PathBuf),
}

/// Why there are none: a reason to skip, not a failure.
#[derive(Debug)]
pub struct Missing(pub String);

impl Programs {
    /// Finds or builds them.
    ///
    /// # Errors
    /// The Go program does not compile.
    pub fn find() -> Result<Result<Self, Missing>> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS") {
            let folder = PathBuf::from(folder);
            for name in ["etcd", "kube-apiserver"] {
                if !folder.join(name).is_file() {
                    bail!("KUBEBUILDER_ASSETS is {}, and there is no {name} in it", folder.display());
                }
            }
            return Ok(Ok(Self::Folder(folder)));
        }
        Ok(match go() {
            Ok((program, version)) => build(program, &version)?.map(Self::One),
            Err(missing) => Err(missing),
        })
    }

    /// Why there is no such program: assets of others hold the servers, and seldom the rest.
    pub fn missing(&self, program: &str) -> Option<Missing> {
        match self {
            Self::Folder(folder) if !folder.join(program).is_file() => {
                Some(Missing(format!("KUBEBUILDER_ASSETS is {}, without {program}", folder.display())))
            }
            _ => None,
        }
    }

    /// The file and first words of a program.
    pub fn words(&self, program: &str) -> Vec<String> {
        match self {
            Self::Folder(folder) => vec![folder.join(program).display().to_string()],
            Self::One(file) => vec![file.display().to_string(), program.to_owned()],
        }
    }

    /// A program, ready for its own words.
    pub fn command(&self, program: &str) -> Command {
        let words = self.words(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Where Go may be: in PATH, or where its own archive is unpacked, which root's PATH often lacks.
const PLACES: [&str; 2] = ["go", "/usr/local/go/bin/go"];

/// A Go that is new enough, and its version's words.
fn go() -> Result<(&'static str, String), Missing> {
    let hint = "for etcd and kube-apiserver install Go or set KUBEBUILDER_ASSETS";
    let version = |place| Some((place, Command::new(place).arg("version").output().ok()?));
    let Some((program, output)) = PLACES.into_iter().find_map(version) else {
        return Err(Missing(format!("there is no Go; {hint}")));
    };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let minor = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))
        .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(minor) if minor >= GO_MINOR => Ok((program, text)),
        _ => Err(Missing(format!("Go 1.{GO_MINOR} or newer is needed, here is {text:?}; {hint}"))),
    }
}

fn build(go: &str, version: &str) -> Result<Result<PathBuf, Missing>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes");
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    for name in SOURCES {
        fs::read(source.join(name)).with_context(|| format!("tests/kubernetes/{name}"))?.hash(&mut hasher);
    }
    let folder = cache()?.join(format!("{:016x}", hasher.finish()));
    let program = folder.join("servers");
    if program.is_file() {
        return Ok(Ok(program));
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Whoever comes second waits for the first, and finds its program.
    let lock = fs::File::create(folder.join("lock")).context("cannot lock the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if program.is_file() {
        return Ok(Ok(program));
    }
    eprintln!("building etcd, kube-apiserver, kube-proxy and kubectl, once: some minutes");
    let command = |words: &[&str]| {
        let mut command = Command::new(go);
        command.args(words).current_dir(&source).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        command
    };
    let fetched = command(&["mod", "download"]).output().context("go mod download")?;
    if !fetched.status.success() {
        let why = String::from_utf8_lossy(&fetched.stderr).trim().to_owned();
        return Ok(Err(Missing(format!("the Go modules of Kubernetes cannot be fetched: {why}"))));
    }
    let unfinished = folder.join(format!("servers.{}", std::process::id()));
    let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={VERSION}");
    let built = command(&["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(&unfinished)
        .arg(".")
        .output()
        .context("go build")?;
    if !built.status.success() {
        bail!("tests/kubernetes does not compile: {}", String::from_utf8_lossy(&built.stderr).trim());
    }
    fs::rename(&unfinished, &program)?;
    Ok(Ok(program))
}

fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("portcullis/kubernetes"))
}
