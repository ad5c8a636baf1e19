//! `portcullis get`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::Answer;
use super::output::{policies_of, print_json, print_lines, print_table, read_documents, tell};
use super::run::DEFAULT_STATE_DIR;
use crate::inspect::rules::{AllHits, Hits};
use crate::maps::Pinned;
use crate::policy::{HepInterface, Severity};
use crate::resource::{Kind, Object, Store, StoredObject};
use crate::state::{API_VERSION, State};

/// Show objects of the policies folder, as they are accepted; or `rules`, as they are enforced
///
/// `get gnp -o wide` adds what each policy was hit by. `get rules` shows the compiled rules of each device's host
/// endpoint in the order in which packets meet them, read from the kernel.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GetArgs {
    /// gnp, hep, gns, another kind by name, or rules
    kind: String,
    /// Only this object
    name: Option<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: GetOutput,
    /// Folder of policies. Default: the one that the agent watches
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// As given to `run`: where the names of what is in force are
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Of `rules`: only those that packets of this device meet
    #[arg(long, value_name = "DEV")]
    device: Option<String>,
    /// Of `rules`: only those of this policy (`web`, `gnp/web`)
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Of namespaced kinds
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

const EXAMPLES: &str = "Examples:
  portcullis get gnp                     policies of the folder that the agent watches
  portcullis get gnp -o wide             with hits and the last hit of each
  portcullis get hep node1-eth0 -o yaml
  portcullis get rules --device eth0     what a packet meets there, in order
  portcullis get rules --policy gnp/web -o json

Exit codes: 0 done; 1 there is no such object; 2 wrong usage, or it could not be read.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GetOutput {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

pub fn run(args: &GetArgs) -> Result<Answer> {
    if ["rules", "rule"].contains(&args.kind.as_str()) {
        if args.name.is_some() {
            bail!("rules have no names: filter them with --policy and --device");
        }
        return super::rules::run(
            &args.state_dir,
            args.device.as_deref(),
            args.policy.as_deref(),
            args.output,
        );
    }
    if args.device.is_some() || args.policy.is_some() {
        bail!("--device and --policy are filters of `get rules`");
    }
    let policies = policies_of(args.policies.as_deref(), &args.state_dir);
    let Some(kind) = Kind::from_name(&args.kind) else {
        let known: Vec<&str> = Kind::all().map(Kind::as_str).collect();
        bail!("{:?} is no kind; write rules, or one of {}", args.kind, known.join(", "));
    };
    let mut store = Store::default();
    let report = store.replace(read_documents(&policies)?);
    tell(report.problems.iter().filter(|p| p.severity == Severity::Error));
    let objects = match &args.name {
        None => store.list(kind.as_str()),
        Some(name) => match store.get(kind.as_str(), &args.namespace, name) {
            Some(object) => vec![object],
            None => {
                eprintln!("{kind}/{name} does not exist in {}", policies.display());
                return Ok(Answer::No);
            }
        },
    };
    print(&objects, args, kind, &policies)?;
    Ok(Answer::Yes)
}

fn print(objects: &[&StoredObject], args: &GetArgs, kind: Kind, policies: &Path) -> Result<()> {
    match args.output {
        GetOutput::Name => print_lines(objects.iter().map(|o| o.key.to_string())),
        GetOutput::Json => {
            let items: Vec<_> = objects.iter().map(|o| &*o.value).collect();
            print_json(&json!({"apiVersion": API_VERSION, "kind": "List", "items": items}))
        }
        GetOutput::Yaml => {
            let texts: Result<Vec<String>, _> =
                objects.iter().map(|o| serde_saphyr::to_string(&*o.value)).collect();
            print_lines(texts?.join("---\n").lines())
        }
        GetOutput::Table | GetOutput::Wide if objects.is_empty() => {
            eprintln!("No {kind} found in {}", policies.display());
            Ok(())
        }
        GetOutput::Table => table(objects, None),
        GetOutput::Wide => table(objects, Some(&PolicyHits::read(&args.state_dir))),
    }
}

/// What policies were hit by, if anything is in force and may be read.
struct PolicyHits(Option<BTreeMap<String, Hits>>);

impl PolicyHits {
    fn read(state_dir: &Path) -> Self {
        let read = || -> Result<BTreeMap<String, Hits>> {
            let state = State::load(state_dir)?;
            Ok(AllHits::read(&Pinned::new(&state.pin_dir))?.by_policy(&state.rules))
        };
        match read() {
            Ok(hits) => Self(Some(hits)),
            Err(e) => {
                eprintln!("note: hits are not known: {e:#}");
                Self(None)
            }
        }
    }
    fn columns(&self, policy: &str) -> [String; 2] {
        let Some(all) = &self.0 else { return ["?".to_owned(), "?".to_owned()] };
        match all.get(policy) {
            Some(hits) => [hits.packets.to_string(), hits.last(Timestamp::now())],
            None => ["-".to_owned(), "not in force here".to_owned()],
        }
    }
}

/// `wide`: with hits, labels and the place of each.
fn table(objects: &[&StoredObject], wide: Option<&PolicyHits>) -> Result<()> {
    let mut header = vec!["NAME"];
    header.extend(objects.first().map(|o| columns(&o.object).0).unwrap_or_default());
    let is_policy = |o: &StoredObject| matches!(*o.object, Object::Policy(_) | Object::InertPolicy(_));
    let with_hits = objects.iter().any(|o| is_policy(o));
    if wide.is_some() {
        header.extend(if with_hits { &["HITS", "LAST HIT"][..] } else { &[] });
        header.extend(["FILE", "LABELS"]);
    }
    let rows = objects.iter().map(|o| {
        let mut row = vec![match o.key.namespace.as_str() {
            "" => o.key.name.clone(),
            namespace => format!("{namespace}/{}", o.key.name),
        }];
        row.extend(columns(&o.object).1);
        if let Some(hits) = wide {
            if with_hits {
                row.extend(hits.columns(&o.key.to_string()));
            }
            row.push(format!("{}:{}", o.file, o.line));
            row.push(labels(&o.value));
        }
        row
    });
    print_table(&header, rows.collect())
}

/// Columns of a kind, and their values.
fn columns(object: &Object) -> (Vec<&'static str>, Vec<String>) {
    match object {
        Object::Policy(p) | Object::InertPolicy(p) => {
            let types: Vec<String> = p.types.iter().map(|t| format!("{t:?}")).collect();
            let order = p.order.0.map_or_else(|| "<none>".into(), |o| o.to_string());
            let values = vec![
                p.tier.clone(),
                order,
                format!("{:?}", p.family),
                types.join(","),
                format!("{}/{}", p.ingress.len(), p.egress.len()),
            ];
            (vec!["TIER", "ORDER", "FAMILY", "TYPES", "RULES"], values)
        }
        Object::HostEndpoint(h) => {
            let interface = match &h.interface {
                HepInterface::All => "*".to_owned(),
                HepInterface::Named(name) => name.clone(),
                HepInterface::ByAddress => "<by address>".to_owned(),
            };
            let ips: Vec<String> = h.expected_ips.iter().map(ToString::to_string).collect();
            (vec!["NODE", "INTERFACE", "IPS"], vec![h.node.clone(), interface, or_none(&ips.join(","))])
        }
        Object::NetworkSet(s) => (vec!["NETS"], vec![s.nets.len().to_string()]),
        Object::Tier(t) => {
            let order = t.order.0.map_or_else(|| "<none>".into(), |o| o.to_string());
            (vec!["ORDER", "DEFAULT"], vec![order, format!("{:?}", t.default_action)])
        }
        Object::Profile(_)
        | Object::Felix(_)
        | Object::KubeControllers(_)
        | Object::Node(_)
        | Object::Namespace(_)
        | Object::ServiceAccount(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Pod(_) => (Vec::new(), Vec::new()),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

fn labels(value: &serde_json::Value) -> String {
    let labels = value.pointer("/metadata/labels").and_then(|l| l.as_object());
    let all: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or_none(&all.join(","))
}
