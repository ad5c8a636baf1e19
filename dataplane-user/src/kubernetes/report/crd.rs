//! The manifest of the custom resource, made from the Rust types and kept in `packaging/crds`.

use anyhow::{Context, Result};
use kube::CustomResourceExt as _;
use serde_json::Value;

use super::types::NodePolicyStatus;

/// Where it is kept in the repository.
pub const CRD_FILE: &str = "packaging/crds/nodepolicystatuses.portcullis.dev.yaml";

const HEAD: &str = "\
# Generated from dataplane-user/src/kubernetes/report/types.rs. `PORTCULLIS_BLESS=1 cargo test -p dataplane-user --test
# generated` writes it again.
";

/// The definition.
///
/// # Errors
/// It cannot be written as JSON.
pub fn definition() -> Result<Value> {
    let mut crd = serde_json::to_value(NodePolicyStatus::crd()).context("the definition is no JSON")?;
    crd["metadata"]["labels"] = crate::crd::labels();
    let version = &mut crd["spec"]["versions"][0];
    if let Some(version) = version.as_object_mut() {
        // The agent is the only writer: see `types`.
        version.remove("subresources");
    }
    strip_defaults(&mut version["schema"]["openAPIV3Schema"]);
    Ok(crd)
}

/// The manifest as YAML.
///
/// # Errors
/// The definition cannot be written as YAML.
pub fn manifest() -> Result<String> {
    let yaml = serde_saphyr::to_string(&definition()?).context("the definition is no YAML")?;
    Ok(format!("{HEAD}{yaml}"))
}

/// What an agent does not say must be absent, not filled in by the server.
fn strip_defaults(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("default");
        let inner = schema.get_mut("properties").and_then(Value::as_object_mut);
        inner.into_iter().flat_map(|properties| properties.values_mut()).for_each(strip_defaults);
        schema.get_mut("items").into_iter().for_each(strip_defaults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_structural_and_strict() {
        let text = manifest().unwrap();
        for word in ["preserve-unknown-fields", "subresources", "default:"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        for word in ["x-kubernetes-list-map-keys", "maxItems: 5000", "shortNames"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
