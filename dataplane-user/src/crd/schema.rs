//! Structural schemas, as CustomResourceDefinitions want them.

use serde_json::{Map, Value, json};

/// A schema of one value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schema(Map<String, Value>);

impl Schema {
    fn of(kind: &str) -> Self {
        Self(Map::from_iter([("type".to_owned(), kind.into())]))
    }
    pub(super) fn string() -> Self {
        Self::of("string")
    }
    pub(super) fn number() -> Self {
        Self::of("number")
    }
    pub(super) fn boolean() -> Self {
        Self::of("boolean")
    }
    pub(super) fn integer(least: u32, most: u32) -> Self {
        Self::of("integer").with("minimum", least).with("maximum", most)
    }
    /// A number in these bounds, or a string; [`Self::pattern`] holds for strings only.
    pub(super) fn integer_or_string(least: u32, most: u32) -> Self {
        Self(Map::new()).with("x-kubernetes-int-or-string", true).with("minimum", least).with("maximum", most)
    }
    /// A list whose order means something, so that no two writers mix theirs.
    pub(super) fn list(item: Self, most: usize) -> Self {
        Self::of("array")
            .with("items", item.0)
            .with("maxItems", most)
            .with("x-kubernetes-list-type", "atomic")
    }
    /// A list that may not hold the same twice.
    pub(super) fn set(item: Self, most: usize) -> Self {
        Self::list(item, most).with("x-kubernetes-list-type", "set")
    }
    /// Strings by any name.
    pub(super) fn strings() -> Self {
        Self::of("object").with("additionalProperties", json!({"type": "string"}))
    }
    /// Fields that are nobody's business here.
    pub(super) fn anything() -> Self {
        Self::of("object").with("x-kubernetes-preserve-unknown-fields", true)
    }
    /// The server has the schema of it.
    pub(super) fn metadata() -> Self {
        Self::of("object")
    }
    /// An object with these fields. Others are kept, so that somebody sees them (see the module's page).
    pub(super) fn object(fields: impl IntoIterator<Item = Field>) -> Self {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for Field { name, schema, is_required } in fields {
            if is_required {
                required.push(name);
            }
            let schema = if is_required { schema } else { schema.nullable() };
            properties.insert(name.to_owned(), schema.0.into());
        }
        let object = Self::anything().with("properties", properties);
        if required.is_empty() { object } else { object.with("required", required) }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }
    pub(super) fn describe(self, text: &str) -> Self {
        self.with("description", text)
    }
    pub(super) fn pattern(self, pattern: &str) -> Self {
        self.with("pattern", pattern)
    }
    pub(super) fn length(self, least: usize, most: usize) -> Self {
        self.with("minLength", least).with("maxLength", most)
    }
    pub(super) fn not_empty(self) -> Self {
        let key = if self.0.get("type") == Some(&"array".into()) { "minItems" } else { "minLength" };
        self.with(key, 1)
    }
    pub(super) fn choices<'n>(self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Vec<Value> = names.into_iter().map(Value::from).collect();
        self.with("enum", names)
    }
    /// A rule of the Common Expression Language, and what to write instead.
    pub(super) fn rule(mut self, rule: impl Into<String>, message: impl Into<String>) -> Self {
        let rules = self.0.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(json!({"rule": rule.into(), "message": message.into()}));
        }
        self
    }
    /// Null is the same as absent.
    fn nullable(mut self) -> Self {
        // To the server null is no choice, even where it stands among them; a pattern is not asked about null.
        if let Some(Value::Array(choices)) = self.0.remove("enum") {
            let names: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
            self = self.pattern(&format!("^({})$", names.join("|")));
        }
        self.with("nullable", true)
    }
    pub(super) fn into_value(self) -> Value {
        self.0.into()
    }
}

/// A field of an object.
pub(super) struct Field {
    name: &'static str,
    schema: Schema,
    is_required: bool,
}

pub(super) fn required(name: &'static str, schema: Schema) -> Field {
    Field { name, schema, is_required: true }
}

pub(super) fn optional(name: &'static str, schema: Schema) -> Field {
    Field { name, schema, is_required: false }
}
