//! `portcullis get`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Answer;
use super::output::{print_json, print_lines, print_table, read_documents, tell};
use crate::agent::state::API_VERSION;
use crate::policy::{HepInterface, Severity};
use crate::resource::{Kind, Object, Store, StoredObject};

/// Show objects of the policies folder, as they are accepted
#[derive(Debug, Args)]
pub struct GetArgs {
    /// gnp, hep, gns, or another kind by name
    kind: String,
    /// Only this object
    name: Option<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: GetOutput,
    /// Folder of policies
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    /// Of namespaced kinds
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GetOutput {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

pub fn run(args: &GetArgs) -> Result<Answer> {
    let Some(kind) = Kind::from_name(&args.kind) else {
        let known: Vec<&str> = Kind::all().map(Kind::as_str).collect();
        bail!("{:?} is no kind; write one of {}", args.kind, known.join(", "));
    };
    let mut store = Store::default();
    let report = store.replace(read_documents(&args.policies)?);
    tell(report.problems.iter().filter(|p| p.severity == Severity::Error));
    let objects = match &args.name {
        None => store.list(kind.as_str()),
        Some(name) => match store.get(kind.as_str(), &args.namespace, name) {
            Some(object) => vec![object],
            None => {
                eprintln!("{kind}/{name} does not exist in {}", args.policies.display());
                return Ok(Answer::No);
            }
        },
    };
    print(&objects, args, kind)?;
    Ok(Answer::Yes)
}

fn print(objects: &[&StoredObject], args: &GetArgs, kind: Kind) -> Result<()> {
    match args.output {
        GetOutput::Name => print_lines(objects.iter().map(|o| o.key.to_string())),
        GetOutput::Json => {
            let items: Vec<_> = objects.iter().map(|o| &o.value).collect();
            print_json(&json!({"apiVersion": API_VERSION, "kind": "List", "items": items}))
        }
        GetOutput::Yaml => {
            let texts: Result<Vec<String>, _> =
                objects.iter().map(|o| serde_saphyr::to_string(&o.value)).collect();
            print_lines(texts?.join("---\n").lines())
        }
        GetOutput::Table | GetOutput::Wide if objects.is_empty() => {
            eprintln!("No {kind} found in {}", args.policies.display());
            Ok(())
        }
        GetOutput::Table | GetOutput::Wide => table(objects, args.output == GetOutput::Wide),
    }
}

fn table(objects: &[&StoredObject], wide: bool) -> Result<()> {
    let mut header = vec!["NAME"];
    header.extend(objects.first().map(|o| columns(&o.object).0).unwrap_or_default());
    if wide {
        header.extend(["FILE", "LABELS"]);
    }
    let rows = objects.iter().map(|o| {
        let mut row = vec![match o.key.namespace.as_str() {
            "" => o.key.name.clone(),
            namespace => format!("{namespace}/{}", o.key.name),
        }];
        row.extend(columns(&o.object).1);
        if wide {
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
