//! The packaged alerts, as far as they can be held against a single scrape.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::{openmetrics::Scrape, topology::policies};

/// An alert of `packaging/prometheus/alerts.yaml`.
#[derive(Clone, Debug)]
pub struct Alert {
    pub name: String,
    pub expr: String,
}

/// A metric that an expression asks for, with what its labels are compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub metric: String,
    /// Label and values: one of them.
    pub labels: Vec<(String, Vec<String>)>,
}

/// A file of `packaging/prometheus`.
pub fn packaged(file: &str) -> Result<String> {
    let path = policies().join("../packaging/prometheus").join(file);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// All of them, in order.
pub fn alerts() -> Result<Vec<Alert>> {
    let text = packaged("alerts.yaml")?;
    let mut alerts = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("  - alert: ") else { continue };
        let first = lines.next().and_then(|l| l.strip_prefix("    expr: ")).context("no expr")?;
        let mut expr = if first == ">-" { String::new() } else { first.to_owned() };
        while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("      ")).filter(|_| first == ">-") {
            expr += more;
            expr.push(' ');
            lines.next();
        }
        alerts.push(Alert { name: name.to_owned(), expr: expr.trim().to_owned() });
    }
    ensure!(alerts.len() == text.matches("alert:").count(), "an alert was not read");
    Ok(alerts)
}

/// What an expression asks for. Knows metrics by their prefix.
pub fn asked(expr: &str) -> Result<BTreeSet<Asked>> {
    let mut found = BTreeSet::new();
    let mut rest = expr;
    while let Some(start) = rest.find("portcullis_") {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let mut asked = Asked { metric: rest[..end].to_owned(), labels: Vec::new() };
        rest = &rest[end..];
        if let Some(inner) = rest.strip_prefix('{') {
            let (inner, after) = inner.split_once('}').context("an open brace")?;
            for part in inner.split(',') {
                let (key, value) = part.split_once('=').context("a label without =")?;
                let value = value.trim_start_matches('~').trim_matches('"');
                asked.labels.push((key.to_owned(), value.split('|').map(str::to_owned).collect()));
            }
            rest = after;
        }
        found.insert(asked);
    }
    Ok(found)
}

/// Whether an alert of the form `metric{labels} OPERATOR number` would begin with this scrape; `None`: of another form.
pub fn fires(alert: &Alert, scrape: &Scrape) -> Result<Option<bool>> {
    let words: Vec<&str> = alert.expr.split(' ').collect();
    let &[selector, operator, limit] = words.as_slice() else { return Ok(None) };
    if !selector.starts_with("portcullis_") {
        return Ok(None);
    }
    let limit: f64 = limit.parse().with_context(|| format!("{} is no number", alert.expr))?;
    let asked = asked(selector)?;
    let asked = asked.first().context("no metric")?;
    let series = scrape.of(&asked.metric);
    let matching = series.iter().filter(|(labels, _)| {
        asked.labels.iter().all(|(key, values)| labels.get(key).is_some_and(|found| values.contains(found)))
    });
    Ok(Some(matching.map(|(_, value)| *value).any(|value| match operator {
        ">" => value > limit,
        "==" => value == limit,
        _ => panic!("{operator} in {}", alert.expr),
    })))
}
