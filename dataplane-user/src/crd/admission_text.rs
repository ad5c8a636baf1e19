//! Pieces of expressions for admission policies, which see objects as they are: fields that nobody knows included, and
//! null where a file says null.

use super::definition;
use crate::resource::Kind;
use crate::resource::entity::NAMESPACE_LABEL;
use crate::resource::meta::ANNOTATION_PREFIX;

/// Fields that the schema of a kind has at a place; `[]` is an item of a list.
pub(super) fn known(kind: Kind, steps: &[&str]) -> Vec<String> {
    let definition = definition::of(kind);
    let mut schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for step in steps {
        schema = if *step == "[]" { &schema["items"] } else { &schema["properties"][*step] };
    }
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    // Nobody's business, and kept by some servers.
    let status = steps.is_empty().then(|| "status".to_owned());
    fields.chain(status).collect()
}

/// `['a', 'b']`
pub(super) fn text_list<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| format!("'{text}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The list in a field, or an empty one.
pub(super) fn list_of(object: &str, field: &str) -> String {
    format!("('{field}' in {object} && {object}.{field} != null ? dyn({object}.{field}) : dyn([]))")
}

/// The field's values in a list of objects, those left out that have none.
pub(super) fn in_list(objects: &str, field: &str) -> String {
    format!("({objects}).filter(o, '{field}' in o && o.{field} != null).map(o, dyn(o.{field}))")
}

/// None of the objects has a field that is not known: what must hold, and the message.
pub(super) fn unknown(objects: &str, place: &str, known: &[String]) -> (String, String) {
    let names = text_list(known.iter().map(String::as_str));
    let place = if place.is_empty() { String::new() } else { format!(" in {place}").replace('\'', "\\'") };
    (
        format!("({objects}).all(o, o.all(k, k in {names}))"),
        format!(
            "'unknown field{place}: ' + ({objects}).map(o, o.filter(k, !(k in {names})).join(', ')).filter(t, t != '').join(', ') + \
             '; known are {}'",
            known.join(", ")
        ),
    )
}

/// The write creates the object, or changes something of it that these policies look at.
pub(super) fn changed() -> String {
    let (prefix, label) = (ANNOTATION_PREFIX, NAMESPACE_LABEL);
    let has = |object: &str, field: &str, key: &str| {
        format!("has({object}.metadata.{field}) && {key} in {object}.metadata.{field}")
    };
    let label = format!("'{label}'");
    let annotation = format!(
        "has(object.metadata.annotations) && object.metadata.annotations.exists(k, k.startsWith('{prefix}') && \
         !({} && oldObject.metadata.annotations[k] == object.metadata.annotations[k]))",
        has("oldObject", "annotations", "k")
    );
    [
        "request.operation != 'UPDATE'".to_owned(),
        "dyn(object).exists(k, !(k in ['metadata', 'status']) && \
         !(k in dyn(oldObject) && dyn(oldObject)[k] == dyn(object)[k]))"
            .to_owned(),
        annotation,
        format!("{} && !({})", has("object", "labels", &label), has("oldObject", "labels", &label)),
    ]
    .join(" || ")
}
