//! Which events are shown. The same for the ring, the agent's events and a file.

use anyhow::{Result, bail};
use dataplane_common::verdict::{Reason, Stage};
use jiff::{SignedDuration, Timestamp};

use super::record::{EventKind, EventRecord};

/// Empty lists let everything through; several values of one list are alternatives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// `deny`, `would-deny` (also `WouldDeny`, as JSON has it) and `log`.
    pub verdicts: Vec<String>,
    pub stages: Vec<String>,
    pub reasons: Vec<String>,
    /// `web`, `GlobalNetworkPolicy/web` or `NetworkPolicy/team/web`.
    pub policies: Vec<String>,
    pub devices: Vec<String>,
    pub since: Option<Timestamp>,
}

impl Filter {
    /// Refuses words that could never match, with those that can.
    pub fn check(&self) -> Result<()> {
        check("--verdict", &self.verdicts, &["deny", "would-deny", "WouldDeny", "log"])?;
        let stages: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        check("--stage", &self.stages, &stages)?;
        let reasons: Vec<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
        check("--reason", &self.reasons, &reasons)
    }

    /// Whether this event is asked for.
    pub fn shows(&self, record: &EventRecord) -> bool {
        let any = |list: &[String], matches: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|word| matches(word))
        };
        let verdict = match record.event {
            EventKind::Log => "log",
            EventKind::Verdict => record.verdict.as_deref().unwrap_or_default(),
        };
        any(&self.verdicts, &|w| w.replace('-', "").eq_ignore_ascii_case(verdict))
            && any(&self.stages, &|w| w.eq_ignore_ascii_case(&record.stage))
            && any(&self.reasons, &|w| record.reason.as_deref().is_some_and(|r| w.eq_ignore_ascii_case(r)))
            && any(&self.policies, &|w| record.policy.as_deref().is_some_and(|p| names_policy(w, p)))
            && any(&self.devices, &|w| w == record.device)
            && self.since.is_none_or(|since| record.time >= since)
    }
}

/// Whether `word` names the policy `Kind/name` or `Kind/namespace/name`. Short kinds (`gnp/web`) are fine.
pub fn names_policy(word: &str, policy: &str) -> bool {
    if word == policy {
        return true;
    }
    match (crate::resource::ObjectKey::parse(word), policy.split_once('/')) {
        (Some(key), Some(_)) if key.to_string() == policy => true,
        (_, Some((_, rest))) => rest == word,
        (_, None) => false,
    }
}

fn check(option: &str, words: &[String], known: &[&str]) -> Result<()> {
    match words.iter().find(|w| !known.iter().any(|k| k.eq_ignore_ascii_case(w))) {
        Some(word) => bail!("{option} {word}: no such value; write one of {}", known.join(", ")),
        None => Ok(()),
    }
}

/// `10m`, `1h30m`, `2d`, or a time such as `2026-01-02T03:04:05Z`.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    match duration(text).and_then(|age| now.checked_sub(age).ok()) {
        Some(time) => Ok(time),
        None => bail!("--since {text}: write an age such as 10m, 1h30m or 2d, or a time such as {now:.0}"),
    }
}

fn duration(text: &str) -> Option<SignedDuration> {
    let (mut seconds, mut number) = (0i64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    // A bare number would leave its unit to a guess.
    (number.is_empty() && !text.is_empty()).then(|| SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::super::record::WOULD_DENY;
    use super::super::record::tests::record;
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn every_condition_must_hold() {
        let record = record();
        assert!(Filter::default().shows(&record));
        let all = Filter {
            verdicts: words(&["log", "Deny"]),
            stages: words(&["preDNAT"]),
            reasons: words(&["rule_deny"]),
            policies: words(&["drop-nodeports"]),
            devices: words(&["eth1", "eth0"]),
            since: Some(record.time),
        };
        assert!(all.check().is_ok() && all.shows(&record));
        for wrong in [
            Filter { verdicts: words(&["log"]), ..all.clone() },
            Filter { stages: words(&["normal"]), ..all.clone() },
            Filter { reasons: words(&["tier_end"]), ..all.clone() },
            Filter { policies: words(&["drop"]), ..all.clone() },
            Filter { devices: words(&["eth"]), ..all.clone() },
            Filter { since: Some(record.time + SignedDuration::from_millis(1)), ..all.clone() },
        ] {
            assert!(wrong.check().is_ok() && !wrong.shows(&record), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_dropped_and_what_would_be_are_told_apart() {
        let dropped = record();
        let passed = EventRecord { verdict: Some(WOULD_DENY.to_owned()), ..record() };
        for (word, shows) in
            [("deny", (true, false)), ("would-deny", (false, true)), ("wouldDeny", (false, true))]
        {
            let filter = Filter { verdicts: words(&[word]), ..Filter::default() };
            assert!(filter.check().is_ok(), "{word}");
            assert_eq!((filter.shows(&dropped), filter.shows(&passed)), shows, "{word}");
        }
    }

    #[test]
    fn a_policy_may_be_named_shortly() {
        for word in ["web", "gnp/web", "GlobalNetworkPolicy/web"] {
            assert!(names_policy(word, "GlobalNetworkPolicy/web"), "{word}");
        }
        assert!(names_policy("team/web", "NetworkPolicy/team/web"));
        assert!(!names_policy("web", "NetworkPolicy/team/web"), "another namespace may have one too");
        assert!(!names_policy("eb", "GlobalNetworkPolicy/web"));
    }

    #[test]
    fn words_that_match_nothing_are_refused() {
        let error = Filter { stages: words(&["prednatt"]), ..Filter::default() }.check().unwrap_err();
        assert!(error.to_string().contains("preDNAT"), "{error}");
    }

    #[test]
    fn ages_and_times() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(parse_since("1h30m", now).unwrap().to_string(), "2026-01-02T01:34:05Z");
        assert_eq!(parse_since("2026-01-01T00:00:00Z", now).unwrap().to_string(), "2026-01-01T00:00:00Z");
        for bad in ["", "10", "m", "10x", "-5m", "99999999999999999999d", "yesterday"] {
            assert!(parse_since(bad, now).is_err(), "{bad}");
        }
    }
}
