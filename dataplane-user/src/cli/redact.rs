//! What must not leave the node: credentials. Everything else goes as it is.

use std::path::Path;

use serde_json::Value;

use crate::resource::documents_from_str;

/// Written in place of what was left out.
const MARK: &str = "<left out>";

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Treated {
    /// Goes as it is.
    Whole,
    /// Goes without these.
    Changed { text: String, what: Vec<String> },
    /// Does not go, and why.
    LeftOut(String),
}

/// Looks at one file of the policies folder.
pub fn file(path: &Path, bytes: &[u8]) -> Treated {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if ["key", "pem", "p12", "pfx", "jks", "crt", "kubeconfig"].contains(&extension.as_str()) {
        return Treated::LeftOut("a key, certificate or kubeconfig by its name".to_owned());
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Treated::LeftOut("no text: it cannot be searched for secrets".to_owned());
    };
    if text.contains("PRIVATE KEY-----") {
        return Treated::LeftOut("holds a private key".to_owned());
    }
    let (documents, _) = documents_from_str(&path.display().to_string(), text);
    let mut what = Vec::new();
    let mut parts = Vec::new();
    for document in &documents {
        if document.unreadable.is_some() {
            // Half a Secret is a secret still.
            return match suspicious(text) {
                true => Treated::LeftOut("cannot be read as YAML, and has words of secrets".to_owned()),
                false => Treated::Whole,
            };
        }
        let mut value = Value::clone(&document.value);
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = format!("document in line {}", document.line);
        clean(&mut value, kind == "Secret", &place, &mut what);
        parts.push(serde_saphyr::to_string(&value).unwrap_or_else(|_| MARK.to_owned()));
    }
    if what.is_empty() { Treated::Whole } else { Treated::Changed { text: parts.join("---\n"), what } }
}

/// Whether a field's name says that its value is a credential.
fn is_secret_name(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    [
        "password",
        "passwd",
        "passphrase",
        "token",
        "privatekey",
        "clientkeydata",
        "secretkey",
        "apikey",
        "credentials",
    ]
    .iter()
    .any(|word| name.ends_with(word))
}

fn suspicious(text: &str) -> bool {
    text.lines().any(|line| {
        let key = line.split(':').next().unwrap_or_default().trim();
        line.contains("kind: Secret") || is_secret_name(key)
    })
}

fn clean(value: &mut Value, secret: bool, place: &str, what: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let whole = secret && ["data", "stringData"].contains(&name.as_str());
                // kubectl keeps the whole document there once more.
                let copy = secret && name == "kubectl.kubernetes.io/last-applied-configuration";
                if (whole || copy || is_secret_name(name)) && !field.is_null() {
                    what.push(format!("{place}: {name}"));
                    *field = Value::String(MARK.to_owned());
                } else {
                    clean(field, secret, place, what);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, secret, place, what)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn treated(name: &str, text: &str) -> Treated {
        file(Path::new(name), text.as_bytes())
    }

    #[test]
    fn policies_go_as_they_are_and_secrets_do_not() {
        let policy = "kind: GlobalNetworkPolicy\nmetadata: {name: a}\nspec: {selector: has(token)}\n";
        assert_eq!(treated("a.yaml", policy), Treated::Whole);
        let secret = format!(
            "{policy}---\nkind: Secret\nmetadata:\n  name: s\n  annotations:\n    \
             kubectl.kubernetes.io/last-applied-configuration: '{{hidden1}}'\ndata: {{a: hidden2}}\n---\nkind: \
             Other\nspec: {{users: [{{client-key-data: hidden3, bearerToken: hidden4, name: shown}}]}}\n"
        );
        let Treated::Changed { text, what } = treated("a.yaml", &secret) else { panic!("not changed") };
        assert!(!text.contains("hidden") && text.contains("shown") && text.contains("has(token)"), "{text}");
        assert_eq!(what.len(), 4, "{what:?}");
    }

    #[test]
    fn what_cannot_be_searched_does_not_go() {
        assert!(matches!(treated("tls.key", "x"), Treated::LeftOut(_)));
        assert!(matches!(treated("a.txt", "-----BEGIN RSA PRIVATE KEY-----"), Treated::LeftOut(_)));
        assert!(matches!(file(Path::new("a.yaml"), &[0xff, 0xfe]), Treated::LeftOut(_)));
        assert!(matches!(treated("a.yaml", "kind: Secret\ndata: {a: [hidden\n"), Treated::LeftOut(_)));
        assert_eq!(
            treated("a.yaml", "kind: GlobalNetworkPolicy\nspec: [\n"),
            Treated::Whole,
            "a broken policy goes"
        );
    }
}
