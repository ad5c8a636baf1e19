//! Events of many nodes, in the order of their time. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::observe::Line;

/// A line and the node that it is from: `observe -o json` with one field more.
#[derive(Debug, Serialize)]
pub struct OfNode<'a> {
    pub node: &'a str,
    #[serde(flatten)]
    pub line: &'a Line,
}

/// Takes lines that are kept from every node and gives them in the order of their time. Each node's own are in order
/// already; so only one line of each is held, and the slowest node is waited for. A line without a time keeps its place
/// among its node's.
///
/// # Errors
/// Those of `each`.
pub fn in_order<I: Iterator<Item = Line>>(
    nodes: Vec<(String, I)>,
    mut each: impl FnMut(&str, Line) -> Result<()>,
) -> Result<()> {
    let mut heads: Vec<(String, I, Option<Line>)> = nodes
        .into_iter()
        .map(|(node, mut lines)| {
            let first = lines.next();
            (node, lines, first)
        })
        .collect();
    loop {
        // Lines without a time come at once.
        let earliest = heads
            .iter_mut()
            .filter(|(_, _, head)| head.is_some())
            .min_by_key(|(_, _, head)| head.as_ref().and_then(time_of));
        let Some((node, lines, head)) = earliest else { return Ok(()) };
        if let Some(line) = std::mem::replace(head, lines.next()) {
            each(node, line)?;
        }
    }
}

fn time_of(line: &Line) -> Option<Timestamp> {
    match line {
        Line::Event(record) => Some(record.time),
        Line::Lost(_) | Line::Summary(_) => None,
    }
}

/// Holds what comes for a moment, so that events of different nodes can be put in order. By arrival, not by the events'
/// time: a node with a wrong clock delays nobody.
#[derive(Debug)]
pub struct Holding {
    hold: Duration,
    /// By time, then by order of arrival.
    held: BTreeMap<(Timestamp, u64), Held>,
    arrived: u64,
}

#[derive(Debug)]
struct Held {
    due: Instant,
    node: String,
    line: Line,
}

impl Holding {
    /// `hold`: how much later than another node's line one may come and still stand before it.
    pub fn new(hold: Duration) -> Self {
        Self { hold, held: BTreeMap::new(), arrived: 0 }
    }

    /// A line came.
    pub fn push(&mut self, now: Instant, node: String, line: Line) {
        self.arrived += 1;
        let time = time_of(&line).unwrap_or(Timestamp::MIN);
        self.held.insert((time, self.arrived), Held { due: now + self.hold, node, line });
    }

    /// What may go now, in order: everything up to the last line whose moment is over.
    pub fn due(&mut self, now: Instant) -> Vec<(String, Line)> {
        let mut over = self.held.iter().filter(|(_, held)| held.due <= now).map(|(key, _)| *key);
        let Some(last) = over.next_back() else { return Vec::new() };
        let later = self.held.split_off(&(last.0, last.1 + 1));
        let due = std::mem::replace(&mut self.held, later);
        due.into_values().map(|held| (held.node, held.line)).collect()
    }

    /// When to ask again; `None`: nothing is held.
    pub fn next(&self) -> Option<Instant> {
        self.held.values().map(|held| held.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::{EventRecord, Summary, tests::record};

    fn event(second: u32) -> Line {
        let time = format!("2026-01-02T03:04:{second:02}Z").parse().unwrap();
        Line::Event(Box::new(EventRecord { time, ..record() }))
    }

    fn second(line: &Line) -> Option<String> {
        time_of(line).map(|t| t.strftime("%S").to_string())
    }

    #[test]
    fn what_is_kept_comes_in_the_order_of_time() {
        let nodes = vec![
            ("a".to_owned(), vec![event(1), event(4), event(4)].into_iter()),
            ("b".to_owned(), vec![event(2), Line::Summary(Summary::default())].into_iter()),
            ("c".to_owned(), vec![].into_iter()),
            ("d".to_owned(), vec![event(3), event(5)].into_iter()),
        ];
        let mut seen = Vec::new();
        in_order(nodes, |node, line| {
            seen.push(format!("{node}{}", second(&line).unwrap_or_default()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["a01", "b02", "b", "d03", "a04", "a04", "d05"]);
    }

    #[test]
    fn what_comes_late_within_the_moment_is_put_in_order() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut holding = Holding::new(Duration::from_millis(300));
        holding.push(after(0), "a".into(), event(2));
        holding.push(after(200), "b".into(), event(1));
        holding.push(after(250), "b".into(), event(3));
        assert_eq!(holding.due(after(299)), []);
        assert_eq!(holding.next(), Some(after(300)));
        let names = |lines: Vec<(String, Line)>| -> Vec<String> {
            lines.iter().map(|(node, line)| format!("{node}{}", second(line).unwrap_or_default())).collect()
        };
        assert_eq!(names(holding.due(after(300))), ["b01", "a02"]);
        assert_eq!(names(holding.due(after(550))), ["b03"]);
        assert_eq!(holding.next(), None);
    }

    #[test]
    fn a_node_whose_clock_is_ahead_is_not_held_for_ever() {
        let begin = Instant::now();
        let mut holding = Holding::new(Duration::from_millis(300));
        holding.push(begin, "ahead".into(), event(59));
        assert_eq!(holding.due(begin + Duration::from_millis(300)).len(), 1);
    }

    #[test]
    fn the_node_is_a_field_of_the_line() {
        let line = event(1);
        let value = serde_json::to_value(OfNode { node: "n1", line: &line }).unwrap();
        assert_eq!((&value["node"], &value["kind"]), (&"n1".into(), &"Event".into()));
        assert_eq!(serde_json::from_value::<Line>(value).unwrap(), line, "and `--input-file` reads it");
    }
}
