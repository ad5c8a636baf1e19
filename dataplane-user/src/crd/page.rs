//! `docs/reference/crds.md`: every field and rule of the definitions, for people.

use serde_json::Value;

use super::{KINDS, admission, definition};
use crate::resource::Kind;

const HEAD: &str = "# Custom resources\n\n<!-- Generated from the program, like cli.md. -->\n\nCalico's kinds as \
                    `packaging/crds` defines them for clusters without Calico: [On Kubernetes](../kubernetes.md). Fields \
                    that are not listed are kept and refused, in FelixConfiguration and KubeControllersConfiguration they \
                    have no effect. `null` is the same as absent.\n";

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for kind in KINDS {
        page += &section(kind);
    }
    page += "\n## Admission policies\n\n`packaging/crds/admission`: what a schema cannot say. Those called `advice` warn and \
             refuse nothing.\n\n| policy | for | what it says |\n|---|---|---|\n";
    for policy in &admission()[0].1 {
        page += &admission_row(policy);
    }
    page
}

fn section(kind: Kind) -> String {
    let definition = definition::of(kind);
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let short = text(&definition["spec"]["names"]["shortNames"][0]);
    let names = if short.is_empty() { String::new() } else { format!(", `kubectl get {short}`") };
    let scope = if kind.is_namespaced() { "in a namespace" } else { "for the whole cluster" };
    let mut rows = Vec::new();
    let mut rules = Vec::new();
    walk(schema, "", &mut rows, &mut rules);
    let mut section = format!(
        "\n## {kind}\n\n{} It is {scope}{names}.\n\n| field | value | |\n|---|---|---|\n{}",
        text(&schema["description"]),
        rows.concat()
    );
    if !rules.is_empty() {
        section += &format!("\nRefused:\n\n{}", rules.concat());
    }
    section
}

fn walk(schema: &Value, path: &str, rows: &mut Vec<String>, rules: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let place = if path.is_empty() { "the object" } else { path };
        rules.push(format!("- `{place}`: {}\n", rule["message"].as_str().unwrap_or_default()));
    }
    if schema.get("items").is_some() {
        walk(&schema["items"], &format!("{path}[]"), rows, rules);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        // Every object has these.
        if path.is_empty() && name != "spec" {
            continue;
        }
        let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_required = schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        let mark = if is_required { ", required" } else { "" };
        let text = field["description"].as_str().unwrap_or_default();
        rows.push(format!("| `{place}` | {}{mark} | {text} |\n", value(field)));
        walk(field, &place, rows, rules);
    }
}

/// What a field holds, and how much of it.
fn value(field: &Value) -> String {
    let bounds = match (&field["minimum"], &field["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!(" from {least} to {most}"),
        _ => String::new(),
    };
    if field["x-kubernetes-int-or-string"] == true {
        return format!("number{bounds}, or text");
    }
    let limit = |name: &str, what: &str| {
        field[name].as_u64().map(|most| format!(", at most {most}{what}")).unwrap_or_default()
    };
    match field["type"].as_str().unwrap_or_default() {
        "array" => format!("list of {}{}", value(&field["items"]), limit("maxItems", "")),
        "integer" => format!("whole number{bounds}"),
        "number" => "number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "string" => match choices(field) {
            Some(choices) => choices,
            None => format!("text{}", limit("maxLength", " characters")),
        },
        _ if field.get("additionalProperties").is_some() => "texts by name".to_owned(),
        _ => "fields".to_owned(),
    }
}

/// The words of `enum`, or of a pattern that lists them.
fn choices(field: &Value) -> Option<String> {
    let words: Vec<&str> = match &field["enum"] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        _ => {
            let list = field["pattern"].as_str()?.strip_prefix("^(")?.strip_suffix(")$")?;
            list.split('|').collect()
        }
    };
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic());
    words.iter().all(is_word).then(|| words.join(", "))
}

fn admission_row(policy: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resources: Vec<String> = policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    let mut said: Vec<String> = Vec::new();
    for validation in policy["spec"]["validations"].as_array().into_iter().flatten() {
        let message = text(&validation["messageExpression"]).replace("\\'", "\u{2019}");
        // The first string of an expression says what is wrong.
        let words = message.split('\'').nth(1).unwrap_or_default().trim_end_matches([':', ' ']).to_owned();
        if !words.is_empty() && !said.contains(&words) {
            said.push(words);
        }
    }
    format!("| `{}` | {} | {} |\n", text(&policy["metadata"]["name"]), resources.join(", "), said.join("; "))
}
