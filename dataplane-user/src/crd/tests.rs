//! The schemas against the reader, field by field. The values in them are compared on a real server (`tests/tests/crds`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{KINDS, calico};
use crate::resource::{Document, Kind, Store};

/// No field has this name, or nearly.
const UNKNOWN: &str = "zzzzzzzzzzzz";

fn schema(kind: Kind) -> Value {
    let index = KINDS.iter().position(|known| *known == kind).unwrap();
    calico()[index].object["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Each object below, with the steps that lead there; `None` is an item of a list.
fn objects(schema: &Value, steps: &[Option<String>], found: &mut Vec<(Vec<Option<String>>, Value)>) {
    if let Some(items) = schema.get("items") {
        objects(items, &[steps, &[None]].concat(), found);
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    found.push((steps.to_vec(), schema.clone()));
    for (name, property) in properties {
        objects(property, &[steps, &[Some(name.clone())]].concat(), found);
    }
}

/// An object of the kind that holds `value` there and as little else as possible.
fn document(kind: Kind, steps: &[Option<String>], value: Value) -> Value {
    let inner = steps.iter().rev().fold(value, |value, step| match step {
        Some(name) => json!({name: value}),
        None => json!([value]),
    });
    let mut object =
        json!({"apiVersion": "projectcalico.org/v3", "kind": kind.as_str(), "metadata": {"name": "default"}});
    for (key, value) in inner.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

fn path(steps: &[Option<String>], last: &str) -> String {
    let mut path = String::new();
    for step in steps.iter().map(Option::as_deref).chain([Some(last)]) {
        match step {
            Some(name) if path.is_empty() => path += name,
            Some(name) => path += &format!(".{name}"),
            None => path += "[0]",
        }
    }
    path
}

/// What the reader says of that place.
fn errors(object: Value, path: &str) -> Vec<String> {
    let report = Store::default().replace(vec![Document::new("test", 1, object)]);
    report.errors().filter(|problem| problem.path == path).map(|problem| problem.message.clone()).collect()
}

#[test]
fn the_schema_has_the_fields_that_the_reader_knows() {
    let mut checked = 0;
    for kind in KINDS {
        let mut found = Vec::new();
        objects(&schema(kind), &[], &mut found);
        for (steps, schema) in found {
            let errors = errors(document(kind, &steps, json!({UNKNOWN: 1})), &path(&steps, UNKNOWN));
            // Kinds that are read in part say nothing of other fields.
            let Some(known) = errors.iter().find_map(|e| e.strip_prefix("unknown field; known here: "))
            else {
                assert!(
                    matches!(kind, Kind::FelixConfiguration | Kind::KubeControllersConfiguration),
                    "{kind} {steps:?}"
                );
                continue;
            };
            checked += 1;
            let mut known: BTreeSet<&str> = known.split(", ").collect();
            known.remove("status");
            let properties: BTreeSet<&str> =
                schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(properties, known, "{kind} {steps:?}");
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn the_reader_reads_every_field_of_the_schema() {
    for kind in KINDS {
        let mut found = Vec::new();
        objects(&schema(kind), &[], &mut found);
        for (steps, schema) in found.into_iter().filter(|(steps, _)| !steps.is_empty()) {
            for (name, property) in schema["properties"].as_object().unwrap() {
                // Wrong for everything but lists, and wrong for lists.
                let wrong = if property["type"] == "array" { json!({}) } else { json!([]) };
                let said = errors(document(kind, &steps, json!({name: wrong})), &path(&steps, name));
                assert!(!said.is_empty(), "{kind} {}", path(&steps, name));
            }
        }
    }
}

/// Bounds that the server needs to know what a rule costs, and orders that nobody may mix.
#[test]
fn every_list_has_a_limit_and_a_type() {
    fn walk(schema: &Value, lists: &mut usize) {
        if schema["type"] == "array" {
            *lists += 1;
            assert!(schema["maxItems"].is_u64() && schema["x-kubernetes-list-type"].is_string(), "{schema}");
        }
        for inner in schema.as_object().into_iter().flat_map(|fields| fields.values()) {
            walk(inner, lists);
        }
    }
    let mut lists = 0;
    KINDS.iter().for_each(|kind| walk(&schema(*kind), &mut lists));
    assert!(lists > 40, "{lists}");
}

/// What an agent watches is what is defined.
#[cfg(feature = "kubernetes")]
#[test]
fn the_kinds_are_those_of_the_plan() {
    use crate::kubernetes::{discovery::Served, plan};
    let all = Kind::all().map(|kind| kind.as_str().to_owned()).collect();
    let served = Served::new([("projectcalico.org/v3".to_owned(), all)]);
    let needs = plan::Needs { all_pods: true };
    let watched: BTreeSet<Kind> = plan::plan(&served, needs)
        .into_iter()
        .map(|watch| watch.kind)
        .filter(|kind| plan::is_calico(*kind))
        .collect();
    assert_eq!(watched, KINDS.into_iter().collect());
}
