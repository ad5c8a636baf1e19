//! Values as YAML that a person likes to read: blocks above, one line for what fits into one.

use serde_json::{Map, Value};

/// What is longer is broken into lines.
const WIDTH: usize = 110;

/// Keys in the order in which people write them; others follow by name.
const ORDER: [&str; 34] = [
    "apiVersion",
    "kind",
    "name",
    "metadata",
    "spec",
    "node",
    "documents",
    "interfaces",
    "steps",
    "in",
    "out",
    "from",
    "src",
    "dst",
    "protocol",
    "sport",
    "dport",
    "flags",
    "tier",
    "order",
    "preDNAT",
    "doNotTrack",
    "applyOnForward",
    "selector",
    "types",
    "action",
    "ipVersion",
    "source",
    "destination",
    "interfaceName",
    "expectedIPs",
    "addresses",
    "type",
    "code",
];

/// A whole document, with a line end behind it.
pub(super) fn block(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |key: &str| ORDER.iter().position(|k| *k == key).unwrap_or(ORDER.len());
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| (rank(key), (*key).clone()));
    entries
}

fn write(out: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in sorted(map) {
                *out += &format!("{pad}{}:", scalar(key));
                entry(out, value, indent, 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let line = flow(item);
                if line.len() + indent + 2 <= WIDTH || !is_tree(item) {
                    *out += &format!("{pad}- {line}\n");
                    continue;
                }
                let mut inner = String::new();
                write(&mut inner, item, indent + 2);
                *out += &format!("{pad}- {}", inner.trim_start());
            }
        }
        other => *out += &format!("{pad}{}\n", flow(other)),
    }
}

/// What stands behind `key:`.
fn entry(out: &mut String, value: &Value, indent: usize, step: usize) {
    match value {
        Value::String(text) if text.contains('\n') => {
            *out += " |\n";
            let pad = " ".repeat(indent + step);
            text.lines().for_each(|line| *out += &format!("{pad}{line}\n"));
        }
        value if is_tree(value) && (flow(value).len() + indent > WIDTH || has_block(value)) => {
            *out += "\n";
            // Lists stand under their key, maps one step to the right.
            write(out, value, if value.is_array() { indent } else { indent + step });
        }
        value => *out += &format!(" {}\n", flow(value)),
    }
}

fn is_tree(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Whether text of several lines stands inside.
fn has_block(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\n'),
        Value::Array(items) => items.iter().any(has_block),
        Value::Object(map) => map.values().any(has_block),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// In one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = sorted(map).into_iter().map(|(k, v)| format!("{}: {}", scalar(k), flow(v)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Quoted unless it is plainly a string: JSON's quoting is YAML's too.
fn scalar(text: &str) -> String {
    let mut letters = text.chars();
    let plain =
        letters.next().is_some_and(|c| c.is_ascii_alphabetic() || (c.is_ascii_digit() && text.contains('.')))
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+".contains(c))
            && text.parse::<f64>().is_err()
            && !matches!(
                text.to_ascii_lowercase().as_str(),
                "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
            );
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_back() {
        let long = "a == 'b' && ".repeat(20) + "c == 'd'";
        let value = json!({
            "spec": {"list": [{"net": "10.0.0.0/8", "v6": "::/0", "no": "no", "n": 5, "text": long}, []], "empty": {}},
            "kind": "K", "lines": "a\nb\n", "one": [1, "2", "1e5", "on"],
        });
        let text = block(&value);
        let back: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(back, value, "{text}");
        assert!(text.starts_with("kind: K\n"), "{text}");
    }
}
