//! Reading a document field by field. All errors are collected, none stops the reading, and what nobody asked for
//! is reported as unknown.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::policy::{Labels, Problem, Severity};
use crate::selector::Selector;

/// Longest value that a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 80;
/// Most problems that are told of one document: whoever repairs these sees the rest.
pub(crate) const MAX_PROBLEMS: usize = 200;

/// Which document is being read, and what was found wrong with it so far.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// `GlobalNetworkPolicy/web`, as far as it is known.
    pub(crate) object: String,
    pub(crate) problems: Vec<Problem>,
    /// Errors that were found behind [`MAX_PROBLEMS`].
    pub(crate) more_errors: usize,
}

impl Context {
    pub(crate) fn report(
        &mut self,
        severity: Severity,
        path: &str,
        value: String,
        message: impl Into<String>,
    ) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.more_errors += usize::from(severity == Severity::Error);
            return;
        }
        self.problems.push(Problem {
            severity,
            file: self.file.clone(),
            line: self.line,
            object: self.object.clone(),
            path: path.to_owned(),
            value,
            message: message.into(),
        });
    }
    /// Something is missing or wrong that has no value of its own.
    pub(crate) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.report(Severity::Error, path, String::new(), message);
    }
    pub(crate) fn has_errors(&self) -> bool {
        self.more_errors > 0 || self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
    /// Says how many errors were left out.
    pub(crate) fn finish(&mut self) {
        if self.more_errors > 0 {
            // The last one makes room for this one.
            let dropped = self.problems.pop().is_some_and(|problem| problem.severity == Severity::Error);
            let count = self.more_errors + usize::from(dropped);
            let message = format!("and {count} more errors; repair these first");
            self.error("", message);
        }
    }
}

/// A value as a message shows it.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub(crate) path: String,
    pub(crate) value: &'a Value,
}

impl<'a> At<'a> {
    pub(crate) fn error(&self, ctx: &mut Context, message: impl Into<String>) {
        ctx.report(Severity::Error, &self.path, shown(self.value), message);
    }
    pub(crate) fn warn(&self, ctx: &mut Context, message: impl Into<String>) {
        ctx.report(Severity::Warning, &self.path, shown(self.value), message);
    }

    pub(crate) fn string(&self, ctx: &mut Context) -> Option<&'a str> {
        if let Value::String(text) = self.value {
            return Some(text);
        }
        match self.value {
            Value::Bool(_) | Value::Number(_) => {
                let message = format!("expected a string; write it in quotes: \"{}\"", self.value);
                self.error(ctx, message);
            }
            _ => self.error(ctx, "expected a string"),
        }
        None
    }

    /// A string that must say something.
    pub(crate) fn text(&self, ctx: &mut Context) -> Option<&'a str> {
        let text = self.string(ctx)?;
        if text.is_empty() {
            self.error(ctx, "must not be empty");
            return None;
        }
        Some(text)
    }

    pub(crate) fn bool(&self, ctx: &mut Context) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.error(ctx, "expected true or false, without quotes");
        }
        found
    }

    pub(crate) fn float(&self, ctx: &mut Context) -> Option<f64> {
        let found = self.value.as_f64();
        if found.is_none() {
            self.error(ctx, "expected a number, without quotes");
        }
        // -0.0 is 0, but sorts before it.
        found.map(|number| number + 0.0)
    }

    /// A whole number from `least` to `most`.
    pub(crate) fn integer(&self, ctx: &mut Context, least: u64, most: u64) -> Option<u64> {
        let found = self.value.as_u64().filter(|number| (least..=most).contains(number));
        if found.is_none() {
            self.error(ctx, format!("expected a whole number from {least} to {most}"));
        }
        found
    }

    pub(crate) fn port(&self, ctx: &mut Context, least: u16) -> Option<u16> {
        self.integer(ctx, least.into(), u16::MAX.into()).and_then(|port| u16::try_from(port).ok())
    }

    pub(crate) fn list(&self, ctx: &mut Context) -> Vec<At<'a>> {
        let Value::Array(items) = self.value else {
            self.error(ctx, "expected a list; write each entry on its own line behind `- `");
            return Vec::new();
        };
        let at = |(index, value)| At { path: format!("{}[{index}]", self.path), value };
        items.iter().enumerate().map(at).collect()
    }

    /// A list with at most `most` entries. An empty one is refused: absent would mean "anything", and what stands
    /// there means "nothing" (D14).
    pub(crate) fn criterion_list(&self, ctx: &mut Context, most: usize) -> Vec<At<'a>> {
        let items = self.list(ctx);
        if self.value.as_array().is_some_and(Vec::is_empty) {
            self.error(ctx, "an empty list does not say whether it means nothing or anything; remove the field to match anything");
        }
        self.check_count(ctx, items.len(), most);
        items
    }

    pub(crate) fn check_count(&self, ctx: &mut Context, count: usize, most: usize) {
        if count > most {
            ctx.error(&self.path, format!("{count} entries, {most} are the limit; split it"));
        }
    }

    /// One of `choices`, in its exact spelling.
    pub(crate) fn choice<T: Copy>(&self, ctx: &mut Context, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(ctx)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let close = closest(text, names.iter().copied());
            let hint = close.map(|name| format!("; write {name}")).unwrap_or_default();
            self.error(ctx, format!("expected one of {}{hint}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// An address without prefix length.
    pub(crate) fn address(&self, ctx: &mut Context) -> Option<IpAddr> {
        let text = self.string(ctx)?;
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
                self.error(ctx, "an IPv4 address in IPv6 clothes; write the IPv4 address");
                None
            }
            Ok(address) => Some(address),
            Err(_) if text.contains('/') => {
                self.error(ctx, "expected one address, not a network; remove the `/` and what follows");
                None
            }
            Err(_) if text.contains("INSERT_") || text.starts_with('<') => {
                self.error(ctx, "a placeholder; write the address itself, as `ip addr` shows it");
                None
            }
            Err(_) => {
                self.error(ctx, "no IPv4 or IPv6 address");
                None
            }
        }
    }

    /// A selector in which `global()` has no place.
    pub(crate) fn selector(&self, ctx: &mut Context) -> Option<Selector> {
        let selector = self.any_selector(ctx)?;
        if selector.mentions_global() {
            self.error(ctx, "global() may only stand alone in the namespaceSelector of a rule");
            return None;
        }
        Some(selector)
    }

    pub(crate) fn any_selector(&self, ctx: &mut Context) -> Option<Selector> {
        let text = self.string(ctx)?;
        match Selector::parse(text) {
            Ok(selector) => Some(selector),
            Err(error) => {
                // The message shows the whole text with a caret: no need to show the value twice.
                ctx.error(&self.path, error.to_string());
                None
            }
        }
    }

    /// A map of strings to strings (labels, annotations).
    pub(crate) fn labels(&self, ctx: &mut Context) -> Labels {
        let mut labels = Labels::new();
        if let Some(map) = self.map(ctx) {
            for (key, value) in map {
                let at = At { path: format!("{}[{key}]", self.path), value };
                if let Some(text) = at.string(ctx) {
                    labels.insert(key.clone(), text.to_owned());
                }
            }
        }
        labels
    }

    fn map(&self, ctx: &mut Context) -> Option<&'a Map<String, Value>> {
        let map = self.value.as_object();
        if map.is_none() {
            self.error(ctx, "expected a mapping (`key: value` lines, indented)");
        }
        map
    }

    pub(crate) fn fields(&self, ctx: &mut Context) -> Option<Fields<'a>> {
        let map = self.map(ctx)?;
        Some(Fields { path: self.path.clone(), map, known: Vec::new() })
    }
}

/// A mapping whose fields are asked for one by one.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The field, unless it is absent or null (which Kubernetes treats alike).
    pub(crate) fn get(&mut self, key: &'static str) -> Option<At<'a>> {
        self.known.push(key);
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(At { path: self.path_of(key), value })
    }

    pub(crate) fn require(&mut self, ctx: &mut Context, key: &'static str) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            let example = if key == "apiVersion" { " projectcalico.org/v3" } else { "" };
            ctx.error(&self.path_of(key), format!("is missing; write `{key}:{example}`"));
        }
        found
    }

    pub(crate) fn string(&mut self, ctx: &mut Context, key: &'static str) -> Option<&'a str> {
        self.get(key)?.string(ctx)
    }

    pub(crate) fn flag(&mut self, ctx: &mut Context, key: &'static str) -> bool {
        self.get(key).and_then(|at| at.bool(ctx)).unwrap_or(false)
    }

    pub(crate) fn list(&mut self, ctx: &mut Context, key: &'static str) -> Vec<At<'a>> {
        self.get(key).map(|at| at.list(ctx)).unwrap_or_default()
    }

    pub(crate) fn fields(&mut self, ctx: &mut Context, key: &'static str) -> Option<Fields<'a>> {
        self.get(key)?.fields(ctx)
    }

    /// Fields that are allowed and mean nothing to us.
    pub(crate) fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Refuses what was not asked for. `advice` may know better than the nearest name.
    pub(crate) fn finish_with(self, ctx: &mut Context, advice: impl Fn(&str) -> Option<String>) {
        for (key, value) in self.map {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let hint = advice(key)
                .or_else(|| {
                    closest(key, self.known.iter().copied()).map(|name| format!("did you mean `{name}`?"))
                })
                .unwrap_or_else(|| format!("known here: {}", self.known.join(", ")));
            let at = At { path: self.path_of(key), value };
            at.error(ctx, format!("unknown field; {hint}"));
        }
    }

    pub(crate) fn finish(self, ctx: &mut Context) {
        self.finish_with(ctx, |_| None);
    }

    /// Tells what has no effect, in a kind that is read in part (D13): a probable misspelling as a warning, with what
    /// was probably meant, the rest as notes. `why` may know what is done instead.
    pub(crate) fn finish_with_notes(self, ctx: &mut Context, why: impl Fn(&str) -> Option<&'static str>) {
        self.tell_unread(ctx, |key| Some(why(key).unwrap_or("is not used by this program")));
    }

    /// As [`Self::finish_with_notes`], without the notes: the rest is known to be somebody else's.
    pub(crate) fn finish_with_near_misses(self, ctx: &mut Context) {
        self.tell_unread(ctx, |_| None);
    }

    fn tell_unread(self, ctx: &mut Context, note: impl Fn(&str) -> Option<&'static str>) {
        for (key, value) in self.map.iter().filter(|(key, _)| !self.known.contains(&key.as_str())) {
            let at = At { path: self.path_of(key), value };
            if let Some(name) = closest(key, self.known.iter().copied()) {
                at.warn(ctx, format!("unknown field, it has no effect; did you mean `{name}`?"));
            } else if let Some(why) = note(key) {
                ctx.report(Severity::Note, &at.path, shown(value), format!("has no effect here: {why}"));
            }
        }
    }
}

/// The name that was probably meant: same letters in another case, or at most two changes away.
pub(crate) fn closest<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (distance(&text.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len().min(text.len()))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes. Long texts are never close.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
