//! `/metrics`. Reading order: `catalog` (what there is) → `kernel`, `agent`, `process` (where it comes from) → here,
//! where it becomes text. Nothing is counted here: every scrape reads what is.

mod agent;
pub mod catalog;
mod kernel;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::catalog::{Kind, METRICS, Metric};
use super::Sources;
use crate::maps;
use crate::state::telemetry::{BOUNDS, Durations};

/// Of what [`Scraper::scrape`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// One number.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Count(u64),
    Number(f64),
    /// Of a counter of time.
    Seconds(f64),
    Durations(Box<Durations>),
    Info,
}

/// What was found, by metric and labels: the order of a scrape depends on nothing else.
#[derive(Debug, Default)]
struct Found(BTreeMap<&'static str, BTreeMap<Labels, Value>>);

impl Found {
    fn put(&mut self, name: &'static str, labels: Labels, value: Value) {
        debug_assert!(
            catalog::find(name).is_some_and(|m| m.labels.iter().eq(labels.iter().map(|(k, _)| k))),
            "{name} {labels:?} is not in the catalog"
        );
        self.0.entry(name).or_default().insert(labels, value);
    }
    fn count(&mut self, name: &'static str, labels: Labels, value: u64) {
        self.put(name, labels, Value::Count(value));
    }
    fn number(&mut self, name: &'static str, labels: Labels, value: f64) {
        self.put(name, labels, Value::Number(value));
    }
    fn flag(&mut self, name: &'static str, labels: Labels, holds: bool) {
        self.number(name, labels, f64::from(u8::from(holds)));
    }
    /// A counter that more than one source adds to.
    fn add(&mut self, name: &'static str, labels: Labels, value: u64) {
        match self.0.entry(name).or_default().entry(labels).or_insert(Value::Count(0)) {
            Value::Count(sum) => *sum += value,
            Value::Number(_) | Value::Seconds(_) | Value::Durations(_) | Value::Info => {}
        }
    }
}

fn label(key: &'static str, value: impl fmt::Display) -> Labels {
    vec![(key, value.to_string())]
}

/// Reads, and writes OpenMetrics.
pub struct Scraper {
    sources: Sources,
    /// The maps, once they are there. They are this agent's until it ends.
    maps: Mutex<Option<maps::State>>,
    kernel: kernel::Memory,
}

impl fmt::Debug for Scraper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraper").finish_non_exhaustive()
    }
}

impl Scraper {
    /// Reads nothing yet.
    pub fn new(sources: Sources) -> Self {
        Self { sources, maps: Mutex::default(), kernel: kernel::Memory::default() }
    }

    /// All metrics as they are now. `policies`: the hits of rules too.
    pub fn scrape(&self, policies: bool) -> String {
        let mut found = Found::default();
        agent::collect(&mut found, &self.sources.telemetry);
        kernel::collect(&mut found, self, policies);
        process::collect(&mut found);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page(found)));
        let mut page = String::new();
        match text::encode(&mut page, &registry) {
            Ok(()) => page,
            // Only a writer can fail, and a string does not.
            Err(fmt::Error) => "# EOF\n".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Page(Found);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let Some(samples) = self.0.0.get(metric.name) else { continue };
            let (name, kind) = of_library(metric);
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for (labels, value) in samples {
                write(&mut family, labels, value)?;
            }
        }
        Ok(())
    }
}

/// The name without what the library appends.
fn of_library(metric: &Metric) -> (&'static str, MetricType) {
    let without = |end: &str| metric.name.strip_suffix(end).unwrap_or(metric.name);
    match metric.kind {
        Kind::Counter => (without("_total"), MetricType::Counter),
        Kind::Gauge => (metric.name, MetricType::Gauge),
        Kind::Histogram => (metric.name, MetricType::Histogram),
        Kind::Info => (without("_info"), MetricType::Info),
    }
}

fn write(family: &mut MetricEncoder<'_>, labels: &Labels, value: &Value) -> fmt::Result {
    if *value == Value::Info {
        return family.encode_info(labels);
    }
    match labels.is_empty() {
        true => write_value(family, value),
        false => write_value(&mut family.encode_family(labels)?, value),
    }
}

fn write_value(encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Count(count) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
        Value::Seconds(seconds) => encoder.encode_counter::<NoLabelSet, _, u64>(seconds, None),
        Value::Number(number) => encoder.encode_gauge(number),
        Value::Durations(durations) => {
            let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(durations.counts).collect();
            encoder.encode_histogram::<NoLabelSet>(durations.sum, durations.count(), &buckets, None)
        }
        Value::Info => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::telemetry::Telemetry;

    #[test]
    fn a_scrape_needs_no_kernel_and_ends_as_it_must() {
        let telemetry = Arc::new(Telemetry::default());
        telemetry.failed("compile");
        let scraper = Scraper::new(Sources { telemetry, pin_dir: "/nowhere".into() });
        let page = scraper.scrape(false);
        assert!(page.ends_with("\n# EOF\n"), "{page}");
        for line in [
            "# TYPE portcullis_apply_failures counter",
            "portcullis_apply_failures_total{reason=\"compile\"} 1",
            "portcullis_compile_duration_seconds_bucket{le=\"+Inf\"} 0",
            "portcullis_in_sync 0.0",
            "portcullis_scrape_errors 1.0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\nis not in\n{page}");
        }
    }

    #[test]
    fn labels_of_a_sample_are_those_of_the_catalog() {
        let unknown = std::panic::catch_unwind(|| {
            Found::default().count("portcullis_packets_total", label("pod", "x"), 1);
        });
        assert!(unknown.is_err());
    }
}
