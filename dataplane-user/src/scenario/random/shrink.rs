//! Makes a disagreement small: takes away packets, documents and fields as long as the engines still disagree in
//! the same way at the last step.

use std::time::Instant;

use serde_json::Value;

use super::case::Case;
use super::judge::{self, Disagreement};

/// The smallest case found until the deadline.
pub(super) fn shrink(case: &Case, found: &Disagreement, deadline: Instant) -> Case {
    let mut best = case.clone();
    if let Some(steps) = best.spec["steps"].as_array_mut() {
        steps.truncate(found.step + 1);
    }
    let mut shrinker = Shrinker { best, found, deadline };
    shrinker.chunks("steps");
    shrinker.chunks("documents");
    // What went makes room for more to go.
    while shrinker.parts() && Instant::now() < deadline {}
    shrinker.best
}

struct Shrinker<'a> {
    best: Case,
    found: &'a Disagreement,
    deadline: Instant,
}

impl Shrinker<'_> {
    /// Takes a candidate if it still shows the disagreement.
    fn take(&mut self, candidate: Case) -> bool {
        if Instant::now() > self.deadline
            || judge::model_at_the_end(&candidate).as_ref() != Some(&self.found.model)
        {
            return false;
        }
        let last = candidate.steps().wrapping_sub(1);
        let same = judge::both(&candidate)
            .is_ok_and(|got| got.disagreement.is_some_and(|d| d.step == last && d.same_kind(self.found)));
        if same {
            self.best = candidate;
        }
        same
    }

    /// Takes runs of items out of a list, long ones first. The last step stays: it is what is disagreed about.
    fn chunks(&mut self, list: &str) {
        let keep = usize::from(list == "steps");
        let count = |case: &Case| case.spec[list].as_array().map_or(0, |l| l.len().saturating_sub(keep));
        let mut size = count(&self.best).div_ceil(2);
        while size > 0 {
            let mut end = count(&self.best);
            while end > 0 {
                let begin = end.saturating_sub(size);
                let mut candidate = self.best.clone();
                if let Some(items) = candidate.spec[list].as_array_mut() {
                    items.drain(begin..end);
                }
                self.take(candidate);
                end = begin;
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Takes away single entries, big ones first; whether any went.
    fn parts(&mut self) -> bool {
        let mut paths = Vec::new();
        entries(&self.best.spec, "", &mut paths);
        let mut any = false;
        for path in paths {
            let mut candidate = self.best.clone();
            if remove(&mut candidate.spec, &path) {
                any |= self.take(candidate);
            }
        }
        any
    }
}

/// Paths of everything that may go, parents before children, later items before earlier ones.
fn entries(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let inside = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                if !matches!(
                    key.as_str(),
                    "apiVersion" | "kind" | "name" | "node" | "steps" | "documents" | "in" | "out"
                ) {
                    out.push(inside.clone());
                }
                entries(value, &inside, out);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate().rev() {
                let inside = format!("{path}/{index}");
                out.push(inside.clone());
                entries(value, &inside, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether there was something to take away.
fn remove(spec: &mut Value, path: &str) -> bool {
    let Some((parent, key)) = path.rsplit_once('/') else { return false };
    match spec.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&key.replace("~1", "/").replace("~0", "~")).is_some(),
        Some(Value::Array(items)) => match key.parse::<usize>() {
            Ok(index) if index < items.len() => {
                items.remove(index);
                true
            }
            Ok(_) | Err(_) => false,
        },
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => false,
    }
}
