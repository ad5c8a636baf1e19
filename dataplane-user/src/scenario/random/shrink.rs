//! Makes a disagreement small: takes away packets, documents and fields as long as the engines still disagree in
//! the same way at the last step.

use std::time::Instant;

use serde_json::Value;

use super::case::Case;
use super::judge::{self, Disagreement};

/// The smallest case found until the deadline.
pub(super) fn shrink(case: &Case, found: &Disagreement, deadline: Instant) -> Case {
    smallest(until(case, found.step), deadline, &|candidate| {
        let last = candidate.steps().wrapping_sub(1);
        judge::model_at_the_end(candidate).as_ref() == Some(&found.model)
            && judge::both(candidate)
                .is_ok_and(|got| got.disagreement.is_some_and(|d| d.step == last && d.same_kind(found)))
    })
}

/// The smallest case that still shows what is looked for.
fn smallest(case: Case, deadline: Instant, shows: &dyn Fn(&Case) -> bool) -> Case {
    let mut shrinker = Shrinker { best: case, shows, deadline };
    shrinker.chunks("steps");
    shrinker.chunks("documents");
    // What went makes room for more to go.
    while shrinker.parts() && Instant::now() < deadline {}
    shrinker.best
}

/// The case up to a step and with it.
pub(super) fn until(case: &Case, step: usize) -> Case {
    let mut cut = case.clone();
    if let Some(steps) = cut.spec["steps"].as_array_mut() {
        steps.truncate(step + 1);
    }
    cut
}

struct Shrinker<'a> {
    best: Case,
    shows: &'a dyn Fn(&Case) -> bool,
    deadline: Instant,
}

impl Shrinker<'_> {
    /// Takes a candidate if it still shows the disagreement.
    fn take(&mut self, candidate: Case) -> bool {
        let shown = Instant::now() <= self.deadline && (self.shows)(&candidate);
        if shown {
            self.best = candidate;
        }
        shown
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }
    fn case() -> Case {
        let steps: Value = (0..40).map(|n| json!({"packet": {"in": "eth0", "sport": n, "ttl": 3}})).collect();
        let documents: Value =
            (0..11).map(|n| json!({"kind": "K", "spec": {"n": n, "a/b~c": [1, n, 3], "more": {}}})).collect();
        Case { name: "c".into(), spec: json!({"node": "node1", "documents": documents, "steps": steps}) }
    }
    fn ports(case: &Case) -> Vec<u64> {
        let steps = case.spec["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().filter_map(|step| step["packet"]["sport"].as_u64()).collect()
    }

    #[test]
    fn a_case_is_cut_behind_its_step() {
        assert_eq!(ports(&until(&case(), 3)), [0, 1, 2, 3]);
        assert_eq!(until(&case(), 39), case());
    }

    #[test]
    fn only_what_is_needed_stays() {
        let needs = |case: &Case| {
            let ports = ports(case);
            let documents = case.spec["documents"].as_array().cloned().unwrap_or_default();
            let list = |d: &Value| d["spec"]["a/b~c"].as_array().cloned().unwrap_or_default();
            ports.contains(&7)
                && ports.contains(&20)
                && ports.last() == Some(&39)
                && documents.iter().any(|d| list(d).contains(&json!(5)))
        };
        let small = smallest(case(), soon(), &needs);
        let wanted = json!({
            "node": "node1",
            "documents": [{"kind": "K", "spec": {"a/b~c": [5]}}],
            "steps": [
                {"packet": {"in": "eth0", "sport": 7}},
                {"packet": {"in": "eth0", "sport": 20}},
                {"packet": {"in": "eth0", "sport": 39}},
            ],
        });
        assert_eq!(small.spec, wanted);
    }

    #[test]
    fn the_last_step_stays_and_nothing_else_has_to() {
        let last = |case: &Case| {
            case.spec["steps"].as_array().is_some_and(|s| s.last().is_some_and(|s| s["packet"].is_object()))
        };
        let wanted = json!({"node": "node1", "documents": [], "steps": [{"packet": {"in": "eth0"}}]});
        assert_eq!(
            smallest(case(), soon(), &last).spec,
            wanted,
            "where the last packet is seen is no detail"
        );
    }

    #[test]
    fn what_shows_nothing_stays_whole() {
        assert_eq!(smallest(case(), soon(), &|_| false), case());
    }

    #[test]
    fn nothing_is_tried_behind_the_deadline() {
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now);
        assert_eq!(smallest(case(), past, &|_| true), case());
    }
}
