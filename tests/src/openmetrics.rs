//! A strict reader of OpenMetrics text 1.0, as far as an exporter without exemplars and timestamps needs it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// Labels of a sample, by name.
pub type Labels = BTreeMap<String, String>;

/// A scrape, read.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// Family → type, in order.
    pub families: Vec<(String, String)>,
    /// In order.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Scrape {
    /// # Errors
    /// Whatever the standard forbids, with the line.
    pub fn read(text: &str) -> Result<Self> {
        ensure!(text.ends_with("\n# EOF\n"), "it does not end with `# EOF`");
        let mut this = Self::default();
        let mut seen = BTreeSet::new();
        let mut described: Option<String> = None;
        for line in text.lines().take(text.lines().count() - 1) {
            this.line(line, &mut seen, &mut described).with_context(|| format!("in {line:?}"))?;
        }
        Ok(this)
    }

    fn line(
        &mut self,
        line: &str,
        seen: &mut BTreeSet<(String, Labels)>,
        described: &mut Option<String>,
    ) -> Result<()> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("no help text")?;
            ensure!(!help.is_empty() && self.families.iter().all(|(f, _)| f != name), "a family twice");
            *described = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("no type")?;
            ensure!(described.as_deref() == Some(name), "no help right before its type");
            ensure!(["counter", "gauge", "histogram", "info"].contains(&kind), "type {kind}");
            ensure!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "name");
            self.families.push((name.to_owned(), kind.to_owned()));
        } else {
            ensure!(!line.starts_with('#') && !line.is_empty(), "neither help, type nor sample");
            let (name, labels, value) = sample(line)?;
            let (family, kind) = self.families.last().context("a sample before its type")?;
            let suffix = name.strip_prefix(family.as_str()).context("a sample of another family")?;
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_sum", "_count", "_bucket"],
                "info" => &["_info"],
                _ => &[""],
            };
            ensure!(suffixes.contains(&suffix), "suffix {suffix:?} of a {kind}");
            ensure!((suffix == "_bucket") == labels.contains_key("le"), "le belongs to buckets");
            ensure!(kind == "gauge" || value >= 0.0, "a negative {kind}");
            ensure!(kind != "info" || value == 1.0, "an info that is not 1");
            ensure!(seen.insert((name.clone(), labels.clone())), "a series twice");
            self.samples.push((name, labels, value));
        }
        Ok(())
    }

    /// All series of a name, by labels.
    pub fn of(&self, name: &str) -> BTreeMap<Labels, f64> {
        self.samples.iter().filter(|(n, ..)| n == name).map(|(_, l, v)| (l.clone(), *v)).collect()
    }

    /// The sum of the series of a name that have these labels; `None`: there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |l: &Labels| labels.iter().all(|(k, v)| l.get(*k).is_some_and(|found| found == v));
        let found: Vec<f64> = self.of(name).iter().filter(|(l, _)| has(l)).map(|(_, v)| *v).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }
}

fn sample(line: &str) -> Result<(String, Labels, f64)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").context("a label without quotes")?;
            let value_end = closing_quote(after).context("an open quote")?;
            let value = after[..value_end].replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\");
            ensure!(labels.insert(key.to_owned(), value).is_none(), "a label twice");
            rest = &after[value_end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').context("no value")?;
    ensure!(!value.contains(' '), "something behind the value");
    Ok((name.to_owned(), labels, value.parse().context("no number")?))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let good = "# HELP a x.\n# TYPE a counter\na_total{k=\"v,\\\"}\"} 3\n# EOF\n";
        let read = Scrape::read(good).unwrap();
        assert_eq!(read.of("a_total"), BTreeMap::from([(Labels::from([("k".into(), "v,\"}".into())]), 3.0)]));
        for bad in [
            "a 1\n# EOF\n",
            "# HELP a x.\n# TYPE a counter\na 3\n# EOF\n",
            "# HELP a x.\n# TYPE a counter\na_total 3\na_total 3\n# EOF\n",
            "# HELP a x.\n# TYPE a gauge\na 3",
            "# HELP a x.\n# TYPE a gauge\na x\n# EOF\n",
            "# HELP a x.\n# TYPE a gauge\n\n# EOF\n",
            "# TYPE a gauge\na 3\n# EOF\n",
        ] {
            assert!(Scrape::read(bad).is_err(), "{bad}");
        }
    }
}
