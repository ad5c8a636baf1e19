//! `apiVersion`, `kind` and `metadata`: which object a document is.

use serde_json::Value;

use super::fields::{At, Context, Fields, closest};
use super::kind::{Found, Kind, ObjectKey, STORAGE_VERSION};
use crate::policy::{Labels, Severity};

/// Longest object name (§1.1).
pub(crate) const MAX_NAME_CHARS: usize = 253;
/// Longest DNS label.
pub(crate) const MAX_LABEL_CHARS: usize = 63;
/// Prefix of our own annotations (D40).
pub(crate) const ANNOTATION_PREFIX: &str = "portcullis.dev/";
/// Where the storage form keeps the object's own labels and annotations (§1.0).
const STORED_METADATA: &str = "projectcalico.org/metadata";

/// Fields of metadata that only servers write.
const SERVER_FIELDS: [&str; 10] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "generation",
    "generateName",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
];

/// Who the object is, and what hangs on it.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) key: ObjectKey,
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
}

impl Meta {
    pub(crate) fn name(&self) -> String {
        self.key.name.clone()
    }
    pub(crate) fn namespace(&self) -> String {
        self.key.namespace.clone()
    }
}

/// What the head of a document says.
pub(crate) enum Head {
    Ours(Box<Meta>),
    /// Not among the kinds that we read (D43).
    OtherKind(String),
    /// Reported. The kind and name may be unknown.
    Broken(Option<ObjectKey>),
}

/// Reads the head. `root` is left with `spec`, `status` and whatever else unread.
pub(crate) fn head(ctx: &mut Context, root: &mut Fields<'_>) -> Head {
    let api_version = root.require(ctx, "apiVersion").and_then(|at| at.text(ctx)).map(str::to_owned);
    let kind_at = root.require(ctx, "kind");
    let kind_name = kind_at.as_ref().and_then(|at| at.text(ctx)).map(str::to_owned);
    let (Some(api_version), Some(kind_at), Some(kind_name)) = (api_version, kind_at, kind_name) else {
        return Head::Broken(None);
    };
    let kind = match Kind::find(&api_version, &kind_name) {
        Found::Known(kind) => kind,
        Found::WrongVersion(right) => {
            ctx.object = kind_name.clone();
            let message = format!("{kind_name} has no version {api_version}; write {right}");
            ctx.report(Severity::Error, "apiVersion", api_version, message);
            return Head::Broken(None);
        }
        Found::Other => return other_kind(ctx, &kind_at, &api_version, kind_name),
    };
    ctx.object = kind_name;
    metadata(ctx, root, kind, api_version == STORAGE_VERSION)
}

/// A kind that is probably a misspelt one of ours must not pass as somebody else's: its policy would silently not
/// be enforced.
fn other_kind(ctx: &mut Context, at: &At<'_>, api_version: &str, kind_name: String) -> Head {
    let ours = Kind::all().map(Kind::as_str);
    match closest(&kind_name, ours) {
        Some(close) if close != kind_name && api_version.contains("projectcalico.org") => {
            at.error(ctx, format!("no kind of {api_version}; did you mean {close}?"));
            Head::Broken(None)
        }
        _ => Head::OtherKind(kind_name),
    }
}

fn metadata(ctx: &mut Context, root: &mut Fields<'_>, kind: Kind, stored: bool) -> Head {
    let Some(at) = root.get("metadata") else {
        ctx.error(
            "metadata",
            "is missing or empty; write `metadata:` and below it, indented, `name:`; was the indentation lost?",
        );
        return Head::Broken(None);
    };
    let Some(mut fields) = at.fields(ctx) else {
        return Head::Broken(None);
    };
    let name_at = fields.require(ctx, "name");
    let name = name_at.as_ref().and_then(|at| at.text(ctx));
    let namespace = fields.string(ctx, "namespace").unwrap_or_default();
    let mut labels = fields.get("labels").map(|at| at.labels(ctx)).unwrap_or_default();
    let mut annotations = fields.get("annotations").map(|at| at.labels(ctx)).unwrap_or_default();
    fields.ignore(&SERVER_FIELDS);
    fields.ignore(&["selfLink"]);
    if !namespace.is_empty() && !kind.is_namespaced() {
        let message = format!("{kind} lives in no namespace; remove the field");
        ctx.report(Severity::Warning, "metadata.namespace", namespace.to_owned(), message);
    }
    fields.finish(ctx);
    if stored {
        restore_metadata(ctx, &mut labels, &mut annotations);
    }
    let (Some(name), Some(name_at)) = (name, name_at) else { return Head::Broken(None) };
    let is_policy = matches!(
        kind,
        Kind::GlobalNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::StagedNetworkPolicy
    );
    // A policy of the default tier may carry the tier's name, which is no part of its own (§1.0).
    let own_name = if is_policy { name.strip_prefix("default.").unwrap_or(name) } else { name };
    check_name(ctx, &name_at, kind, own_name, is_policy);
    let key = ObjectKey::new(kind, namespace, own_name);
    ctx.object = key.to_string();
    Head::Ours(Box::new(Meta { key, labels, annotations }))
}

/// §1.0: in the storage form the object's own labels and annotations stand as JSON in an annotation.
fn restore_metadata(ctx: &mut Context, labels: &mut Labels, annotations: &mut Labels) {
    let Some(text) = annotations.remove(STORED_METADATA) else { return };
    let path = format!("metadata.annotations[{STORED_METADATA}]");
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => {
            ctx.error(&path, format!("no JSON, so the object's labels are unknown: {error}"));
            return;
        }
    };
    let at = At { path, value: &value };
    if let Some(mut fields) = at.fields(ctx) {
        *labels = fields.get("labels").map(|at| at.labels(ctx)).unwrap_or_default();
        *annotations = fields.get("annotations").map(|at| at.labels(ctx)).unwrap_or_default();
    }
}

pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn check_name(ctx: &mut Context, at: &At<'_>, kind: Kind, name: &str, is_policy: bool) {
    let labels: Vec<&str> = name.split('.').collect();
    let storage_of_kubernetes_policy = kind == Kind::NetworkPolicy && name.starts_with("knp.default.");
    if name.len() > MAX_NAME_CHARS {
        at.error(ctx, format!("a name has at most {MAX_NAME_CHARS} characters"));
    } else if !labels.iter().all(|label| is_dns_label(label)) {
        at.error(
            ctx,
            "a name has lower-case letters, digits and `-` only, and begins and ends with a letter or digit",
        );
    } else if is_policy && labels.len() > 2 && !storage_of_kubernetes_policy {
        at.error(ctx, "a policy name has at most one dot (`tier.name`)");
    } else if kind == Kind::Tier && (labels.len() > 1 || name.len() > MAX_LABEL_CHARS) {
        at.error(ctx, format!("a tier name has no dot and at most {MAX_LABEL_CHARS} characters"));
    }
}

/// Our annotations on an object: `known` with their allowed values.
pub(crate) fn check_annotations(ctx: &mut Context, meta: &Meta, known: &[(&str, &[&str])]) {
    for (key, value) in &meta.annotations {
        let Some(own) = key.strip_prefix(ANNOTATION_PREFIX) else { continue };
        let path = format!("metadata.annotations[{key}]");
        match known.iter().find(|(name, _)| *name == own) {
            Some((_, values)) if values.contains(&value.as_str()) => {}
            Some((_, values)) => {
                let message = format!("expected one of {}", values.join(", "));
                ctx.report(Severity::Error, &path, value.clone(), message);
            }
            None => {
                let hint = closest(own, known.iter().map(|(name, _)| *name))
                    .map(|name| format!("; did you mean {ANNOTATION_PREFIX}{name}?"))
                    .unwrap_or_default();
                let message = format!("unknown annotation, it has no effect here{hint}");
                ctx.report(Severity::Warning, &path, value.clone(), message);
            }
        }
    }
}
