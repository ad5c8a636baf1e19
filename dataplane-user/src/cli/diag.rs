//! `portcullis diag bundle`: one file for support.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde_json::json;

use super::Answer;
use super::output::{policies_of, print_lines};
use super::redact::{self, Treated};
use super::run::DEFAULT_STATE_DIR;
use crate::inspect::Kernel;
use crate::inspect::health::findings;
use crate::inspect::kernel::enter;
use crate::inspect::maps::{all, list};
use crate::inspect::render::entries;
use crate::inspect::rules::read as read_rules;
use crate::inspect::verify::verify;
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::observe::client;
use crate::observe::ring::Ring;
use crate::observe::server::Question;
use crate::state::State;

/// Collect what support needs
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct DiagArgs {
    #[command(subcommand)]
    command: DiagCommand,
}

const HELP: &str = "Examples:
  portcullis diag bundle
  portcullis diag bundle -o /tmp/node1.tar.gz && tar tzf /tmp/node1.tar.gz

Exit codes: 0 written, with MISSING.txt naming what could not be collected; 2 wrong usage, or it could not be written.";

#[derive(Debug, Subcommand)]
enum DiagCommand {
    Bundle(BundleArgs),
}

/// One tar.gz: state, status, rules, maps, events, policies as they are read, facts of the kernel, recent log
///
/// Secrets are left out, and nothing else: values of Secret documents, fields that hold credentials, and files that are
/// keys. LEFT-OUT.txt in the bundle names each of them; what could not be collected stands in MISSING.txt.
/// Addresses, names and policies of this node are in it: look before you send it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
struct BundleArgs {
    /// File to write. Default: portcullis-NODE-TIME.tar.gz here
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

pub fn run(args: &DiagArgs) -> Result<Answer> {
    match &args.command {
        DiagCommand::Bundle(args) => bundle(args),
    }
}

/// Facts of the machine that matter to BPF and networking.
const FACTS: [&str; 12] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/net/dev",
    "/proc/meminfo",
];
/// Lines of the kernel's configuration that matter.
const CONFIG_WORDS: [&str; 6] =
    ["BPF", "NET_CLS", "NET_SCH_INGRESS", "NET_XGRESS", "DEBUG_INFO_BTF", "NF_CONNTRACK"];

/// What other tools say; a tool that is not there is told.
const TOOLS: [(&str, &[&str]); 6] = [
    ("ip-link.txt", &["ip", "-d", "link"]),
    ("ip-address.txt", &["ip", "address"]),
    ("ip-route.txt", &["ip", "route", "show", "table", "all"]),
    ("bpf-programs.txt", &["bpftool", "prog", "show"]),
    ("bpf-links.txt", &["bpftool", "link", "show"]),
    ("log.txt", &["journalctl", "--unit", "portcullis*", "--lines", "2000", "--no-pager"]),
];

struct Bundle {
    tar: tar::Builder<GzEncoder<File>>,
    folder: String,
    files: usize,
    left_out: Vec<String>,
    missing: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let bytes = text.as_ref();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
        let path = format!("{}/{name}", self.folder);
        self.tar.append_data(&mut header, &path, bytes).with_context(|| format!("cannot write {path}"))?;
        self.files += 1;
        Ok(())
    }
    /// Adds it, or notes why it is missing: a bundle of a broken node is wanted most.
    fn try_add<T: AsRef<[u8]>>(&mut self, name: &str, made: Result<T>) -> Result<()> {
        match made {
            Ok(text) => self.add(name, text),
            Err(e) => {
                self.missing.push(format!("{name}: {e:#}"));
                Ok(())
            }
        }
    }
}

fn bundle(args: &BundleArgs) -> Result<Answer> {
    let state = State::load(&args.state_dir);
    let node = state.as_ref().map_or_else(|_| "unknown".to_owned(), |s| s.node.clone());
    let folder = format!("portcullis-{node}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let file = create_private(&path)?;
    let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let mut bundle = Bundle { tar, folder, files: 0, left_out: Vec::new(), missing: Vec::new() };
    bundle.add("version.txt", format!("portcullis {}\n", env!("CARGO_PKG_VERSION")))?;
    match &state {
        Ok(state) => of_the_node(&mut bundle, state, &args.state_dir)?,
        Err(e) => bundle.missing.push(format!("state, status, rules, maps, events: {e:#}")),
    }
    policies(&mut bundle, &policies_of(None, &args.state_dir))?;
    machine(&mut bundle)?;
    finish(bundle, &path)
}

/// Only its owner may read it.
fn create_private(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot create {}", path.display()))
}

fn finish(mut bundle: Bundle, path: &Path) -> Result<Answer> {
    let list = |lines: &[String], none: &str| match lines {
        [] => format!("{none}\n"),
        lines => lines.join("\n") + "\n",
    };
    let left_out = list(&bundle.left_out, "Nothing was left out.");
    let missing = list(&bundle.missing, "Everything could be collected.");
    bundle.add("LEFT-OUT.txt", &left_out)?;
    bundle.add("MISSING.txt", &missing)?;
    let encoder = bundle.tar.into_inner().context("cannot finish the bundle")?;
    encoder.finish().and_then(|f| f.sync_all()).context("cannot finish the bundle")?;
    eprintln!("left out: {}", left_out.trim_end());
    if !bundle.missing.is_empty() {
        eprintln!("could not be collected: {}", missing.trim_end());
    }
    eprintln!("it holds addresses, names and policies of this node: look before you send it");
    print_lines([format!("{} ({} files)", path.display(), bundle.files)])?;
    Ok(Answer::Yes)
}

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn of_the_node(bundle: &mut Bundle, state: &State, state_dir: &Path) -> Result<()> {
    bundle.try_add("state.json", pretty(state))?;
    let kernel = Kernel::read(state).map_err(|e| format!("{e:#}"));
    let found = findings(state, kernel.as_ref().map_err(String::as_str));
    bundle.try_add("status.json", pretty(&json!({"findings": found, "kernel": kernel.as_ref().ok()})))?;
    bundle.try_add("rules.json", read_rules(state, |_| true).and_then(|r| pretty(&r)))?;
    bundle.try_add("verify.json", verify(state, state_dir).and_then(|v| pretty(&v)))?;
    if let Err(e) = enter(state) {
        bundle.missing.push(format!("devices of the agent's network namespace: {e:#}"));
    }
    let pinned = Pinned::new(&state.pin_dir);
    let slot = pinned.control().map(|c| slot_in_force(&c, now_ns(&c)));
    match slot {
        Ok(slot) => {
            bundle.try_add("maps/list.json", list(&pinned, slot, state).and_then(|l| pretty(&l)))?;
            for map in all() {
                bundle.try_add(
                    &format!("maps/{map}.json"),
                    entries(&pinned, map, slot, state).and_then(|e| pretty(&e)),
                )?;
            }
        }
        Err(e) => bundle.missing.push(format!("maps: {e}")),
    }
    bundle.try_add("events.jsonl", events(state, state_dir))
}

fn events(state: &State, state_dir: &Path) -> Result<String> {
    let mut text = String::new();
    let each = |line| {
        text += &serde_json::to_string(&line)?;
        text.push('\n');
        Ok(())
    };
    match client::agent(state_dir) {
        Some(stream) => client::from_agent(stream, Question { kept: true, follow: false }, each)?,
        None => {
            let ring = Ring::open(&state.pin_dir)?.context("another observer reads the ring")?;
            client::from_ring(ring, &state.pin_dir, state_dir, false, each)?
        }
    };
    Ok(text)
}

fn policies(bundle: &mut Bundle, folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    walk(folder, &mut files, &mut bundle.missing);
    for path in files {
        let name = format!("policies/{}", path.strip_prefix(folder).unwrap_or(&path).display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) => {
                bundle.missing.push(format!("{name}: {e}"));
                continue;
            }
        };
        match redact::file(&path, &bytes) {
            Treated::Whole => bundle.add(&name, bytes)?,
            Treated::Changed { text, what } => {
                bundle.left_out.extend(what.iter().map(|w| format!("{name}: {w}")));
                bundle.add(&name, text)?;
            }
            Treated::LeftOut(why) => bundle.left_out.push(format!("{name}: {why}")),
        }
    }
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>, missing: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(Result::ok).map(|e| e.path()).collect(),
        Err(e) => return missing.push(format!("{}: {e}", folder.display())),
    };
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, files, missing);
        } else if path.is_file() {
            files.push(path);
        }
    }
}

fn machine(bundle: &mut Bundle) -> Result<()> {
    for path in FACTS {
        let read = fs::read(path).with_context(|| path.to_owned());
        bundle.try_add(&format!("kernel{path}"), read)?;
    }
    bundle.try_add("kernel/config.txt", kernel_config())?;
    for (name, words) in TOOLS {
        bundle.try_add(&format!("tools/{name}"), said(words))?;
    }
    Ok(())
}

fn said(words: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(words[0]).args(&words[1..]).output().with_context(|| words.join(" "))?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

fn kernel_config() -> Result<String> {
    let mut text = String::new();
    if let Ok(packed) = File::open("/proc/config.gz") {
        use std::io::Read as _;
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).context("/proc/config.gz")?;
    } else {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
        let path = format!("/boot/config-{}", release.trim());
        text = fs::read_to_string(&path).with_context(|| format!("neither /proc/config.gz nor {path}"))?;
    }
    let wanted = |line: &&str| CONFIG_WORDS.iter().any(|word| line.contains(word));
    let mut out = Vec::new();
    for line in text.lines().filter(wanted) {
        writeln!(out, "{line}")?;
    }
    Ok(String::from_utf8(out)?)
}
