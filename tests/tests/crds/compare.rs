//! Server and reader, object by object.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Result, bail};
use portcullis::resource::{Document, Kind, Store};
use serde_json::{Value, json};
use tests::kubernetes::Cluster;

/// Part of what the reader says, of which objects, and why no server can say it.
type Exception = (&'static str, fn(&Value) -> bool, &'static str);

/// What only an agent refuses.
const ONLY_THE_AGENT: &[Exception] = &[
    ("no regular expression", |_| true, "it is another language than the server's"),
    ("characters, 512 are the limit", |_| true, "a schema sees the whole selector, not its keys"),
    ("no network;", |object| count(object, "nets") > 2000, "so many networks take the server too long"),
    (
        "the range runs backwards",
        |object| count(object, "action") > 500,
        "so many rules take the server too long",
    ),
    ("unknown field", |object| count(object, "action") > 500, "likewise"),
];

/// How often a field, or the items of one, stand in it.
fn count(value: &Value, field: &str) -> usize {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match value {
                _ if name != field => count(value, field),
                Value::Array(items) => items.len(),
                _ => 1,
            })
            .sum(),
        Value::Array(items) => items.iter().map(|item| count(item, field)).sum(),
        _ => 0,
    }
}

/// Why the reader refuses an object; empty: it does not.
fn complaints(object: &Value) -> Vec<String> {
    let mut store = Store::default();
    let report = store.replace(vec![Document::new("object", 1, object.clone())]);
    report.errors().map(ToString::to_string).collect()
}

pub fn is_valid(object: &Value) -> bool {
    complaints(object).is_empty()
}

/// What an agent makes of it.
fn meaning(object: &Value) -> String {
    let mut store = Store::default();
    store.replace(vec![Document::new("object", 1, object.clone())]);
    format!("{:?}", store.objects().map(|stored| (&stored.key, &stored.object)).collect::<Vec<_>>())
}

#[derive(Default)]
pub struct Comparison {
    count: usize,
    refused_by_both: usize,
    /// Entries of [`ONLY_THE_AGENT`], with how often each was met.
    met: BTreeMap<&'static str, usize>,
    wrong: String,
}

impl Comparison {
    /// Puts all to the server, as the client that asks for the least checks.
    pub fn add(&mut self, cluster: &Cluster, objects: &[Value]) -> Result<()> {
        let requests: Vec<(String, Value)> =
            objects.iter().map(|object| (path(object), object.clone())).collect();
        for name in objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()) {
            cluster.request("POST", "/api/v1/namespaces", Some(&json!({"metadata": {"name": name}})))?;
        }
        for (object, (code, answer)) in objects.iter().zip(cluster.post_all(&requests)?) {
            self.add_one(object, code, &answer);
        }
        Ok(())
    }

    fn add_one(&mut self, object: &Value, code: u16, answer: &Value) {
        self.count += 1;
        let complaints = complaints(object);
        let said = answer["message"].as_str().unwrap_or_default();
        let problem = match (code, complaints.is_empty()) {
            (201, true) => {
                let (written, read) = (meaning(object), meaning(answer));
                if written == read {
                    return;
                }
                format!("means something else when it is read back:\n  {written}\n  {read}")
            }
            (400 | 403 | 422, false) => {
                self.refused_by_both += 1;
                return;
            }
            (201, false) => match self.unexpected(object, &complaints) {
                None => return,
                Some(complaint) => format!("only the agent refuses it: {complaint}"),
            },
            (_, true) => format!("the server refuses what the agent accepts: {code} {said}"),
            (..) => format!("{code} {said}"),
        };
        let _ = writeln!(self.wrong, "{object}\n  {problem}");
    }

    /// A complaint that the server should have had.
    fn unexpected(&mut self, object: &Value, complaints: &[String]) -> Option<String> {
        for complaint in complaints {
            match ONLY_THE_AGENT.iter().find(|(part, of, _)| complaint.contains(part) && of(object)) {
                Some((part, ..)) => *self.met.entry(part).or_default() += 1,
                None => return Some(complaint.clone()),
            }
        }
        None
    }

    pub fn verdict(self) -> Result<()> {
        eprintln!(
            "{} objects, {} refused by both, only by the agent: {:?}",
            self.count, self.refused_by_both, self.met
        );
        let stale: Vec<&str> = ONLY_THE_AGENT
            .iter()
            .map(|(part, ..)| *part)
            .filter(|part| !self.met.contains_key(part))
            .collect();
        if !self.wrong.is_empty() || !stale.is_empty() {
            bail!("{} differences\n{}\nnever met: {stale:?}", self.wrong.lines().count(), self.wrong);
        }
        Ok(())
    }
}

/// Where it is created, on trial, by a client that asks for no checks of its own.
pub fn path(object: &Value) -> String {
    let kind = object["kind"].as_str().and_then(Kind::from_name).unwrap_or(Kind::GlobalNetworkPolicy);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let folder = if kind.is_namespaced() { format!("/namespaces/{namespace}") } else { String::new() };
    format!("/apis/projectcalico.org/v3{folder}/{}?dryRun=All&fieldValidation=Ignore", kind.plural())
}
