//! CustomResourceDefinitions of Calico's kinds, for clusters that have no Calico, and the admission policies that go
//! with them. Made from tables beside the limits and choices of `resource`, and held against it by tests: the API server
//! must never refuse what an agent accepts, and what only an agent refuses is a named list (`tests/tests/crds.rs`).
//!
//! - **Nothing is pruned.** Every object keeps fields that nobody knows (`x-kubernetes-preserve-unknown-fields`): a rule
//!   whose misspelt `notNets` were cut off on its way would match more than its author wrote. The admission policies
//!   refuse such a field whatever `fieldValidation` a client asks for, and an agent refuses the object (D13).
//! - **Nothing is defaulted.** An object that is read back says what its file said.
//! - **Optional fields may be null**, which is the same as absent, as in a file.

mod admission;
mod admission_text;
mod advice;
mod config;
mod definition;
mod endpoint;
#[cfg(feature = "kubernetes")]
pub mod install;
pub mod page;
mod patterns;
mod policy;
mod rule;
mod schema;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::resource::Kind;

/// Label of everything that we install, and its value. Helm puts its own name there.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portcullis");
/// Label of everything that is ours, whoever installed it, and its value.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "portcullis");
/// The group of the definitions.
pub const GROUP: &str = "projectcalico.org";

/// Kinds of Calico's that an agent reads (`kubernetes::plan`), and so the ones that are defined.
pub const KINDS: [Kind; 8] = Kind::CALICO_FOR_HOSTS;

/// An object to install, and the file that holds it below `packaging/crds`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub file: String,
    pub object: Value,
}

/// The definitions of Calico's kinds.
pub fn calico() -> Vec<Manifest> {
    let of = |kind: Kind| manifest(definition::of(kind));
    KINDS.into_iter().map(of).collect()
}

/// Every definition: Calico's kinds and our own.
///
/// # Errors
/// A definition that is no JSON; there is none.
pub fn definitions() -> Result<Vec<Manifest>> {
    let own: Vec<Value> = Vec::new();
    #[cfg(feature = "kubernetes")]
    let own = [own, vec![crate::kubernetes::report::crd::definition()?]].concat();
    Ok(calico().into_iter().chain(own.into_iter().map(manifest)).collect())
}

/// The labels of everything here.
pub fn labels() -> Value {
    json!({MANAGED_BY.0: MANAGED_BY.1, PART_OF.0: PART_OF.1})
}

fn manifest(object: Value) -> Manifest {
    Manifest { file: format!("{}.yaml", object["metadata"]["name"].as_str().unwrap_or_default()), object }
}

/// The admission policies, by what they are: the policies themselves; bindings for our definitions; bindings for
/// clusters where Calico is, which only warn.
pub fn admission() -> [(&'static str, Vec<Value>); 3] {
    [
        ("policies", admission::objects()),
        ("bindings", admission::bindings()),
        ("bindings-calico", admission::calico_bindings()),
    ]
}

/// As one YAML stream.
///
/// # Errors
/// An object that is no YAML; there is none.
pub fn to_yaml(objects: &[&Value]) -> Result<String> {
    let texts: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(texts
        .context("cannot write YAML")?
        .iter()
        .map(|text| format!("{}\n", text.trim_end()))
        .collect::<Vec<_>>()
        .join("---\n"))
}
