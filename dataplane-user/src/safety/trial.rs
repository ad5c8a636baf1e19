//! `apply --confirm`: an apply that undoes itself. The folder holds its record, the control word its deadline.
//!
//! | record in the folder | control word | so |
//! |---|---|---|
//! | waits | another apply's number | the agent begins it; an agent that only starts undoes it |
//! | waits | its number, deadline ahead | on trial |
//! | waits | its number, deadline past | the kernel went back: the folder goes back too |
//! | waits | its number, confirmed | the record goes, the files stay |
//! | waits | its number, undone | the folder goes back too |
//! | none | deadline ahead or past | somebody removed the record: what the kernel went back to stays in force until the folder changes |
//!
//! A record of another boot is undone: the kernel forgot what it went back to, and nobody confirmed.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::journal::{Change, Locked};
use super::word::{Standing, Word};

const RECORD: &str = "trial.json";
const LAST: &str = "last-trial.json";
/// Shortest and longest time to confirm.
pub const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// An apply that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Never 0; the control word names it.
    pub id: u64,
    pub seconds: u64,
    /// The kernel's boot id: the deadline is on that boot's clock.
    pub boot: String,
    /// The files as they were: path below the folder → text; none: there was no such file.
    pub before: BTreeMap<String, Option<String>>,
    /// The files as the apply wrote them.
    pub after: BTreeMap<String, Option<String>>,
}

/// How the last trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub id: u64,
    pub kept: bool,
    /// For people.
    pub why: String,
}

impl Trial {
    /// Of changes that are about to be made.
    pub fn new(locked: &Locked, changes: &[Change], limit: Duration) -> Result<Self> {
        let mut trial = Self {
            // Nanoseconds since 1970 until the year 2554: no two applies to a folder share one.
            id: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |d| u64::try_from(d.as_nanos()).unwrap_or(1).max(1)),
            seconds: limit.as_secs(),
            boot: boot_id(),
            before: BTreeMap::new(),
            after: BTreeMap::new(),
        };
        for change in changes {
            trial.before.insert(change.path.clone(), locked.read(&change.path)?);
            trial.after.insert(change.path.clone(), change.text.clone());
        }
        Ok(trial)
    }

    /// What the folder holds, if an apply waits.
    pub fn load(locked: &Locked) -> Result<Option<Self>> {
        let path = Locked::own(RECORD);
        let Some(text) = locked.read(&path)? else { return Ok(None) };
        let trial = serde_json::from_str(&text).with_context(|| {
            format!("{}/{path} is damaged: remove it, then look at the folder", locked.folder().display())
        })?;
        Ok(Some(trial))
    }

    /// The change that writes the record; to be committed with the files.
    pub fn record(&self) -> Result<Change> {
        let text = serde_json::to_string(self).context("cannot write the trial as JSON")?;
        Ok(Change { path: Locked::own(RECORD), text: Some(text) })
    }

    /// Whether this boot's kernel can know of it.
    pub fn of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }

    /// Keeps the files, and forgets how they were.
    pub fn keep(&self, locked: &Locked) -> Result<()> {
        self.end(locked, Vec::new(), true, "confirmed")
    }

    /// Puts the files back. What somebody edited since is kept beside, under a hidden name: the policy that is undone
    /// must not stay in force because of it, and no text is lost.
    pub fn put_back(&self, locked: &Locked, why: &str) -> Result<Vec<String>> {
        let mut changes = Vec::new();
        let mut kept = Vec::new();
        for (path, before) in &self.before {
            let now = locked.read(path)?;
            let untouched = self.after.get(path) == Some(&now) || now == *before;
            if let (Some(text), false) = (now, untouched) {
                let aside = aside(path);
                changes.push(Change { path: aside.clone(), text: Some(text) });
                kept.push(aside);
            }
            changes.push(Change { path: path.clone(), text: before.clone() });
        }
        self.end(locked, changes, false, why)?;
        Ok(kept)
    }

    fn end(&self, locked: &Locked, mut changes: Vec<Change>, kept: bool, why: &str) -> Result<()> {
        let ended = Ended { id: self.id, kept, why: why.to_owned() };
        let text = serde_json::to_string(&ended).context("cannot write the trial's end as JSON")?;
        changes.push(Change { path: Locked::own(LAST), text: Some(text) });
        changes.push(Change { path: Locked::own(RECORD), text: None });
        locked.commit(&changes)
    }
}

/// How the last trial of a folder ended.
pub fn last(locked: &Locked) -> Result<Option<Ended>> {
    let Some(text) = locked.read(&Locked::own(LAST))? else { return Ok(None) };
    Ok(serde_json::from_str(&text).ok())
}

/// `sub/web.yaml` → `sub/.web.yaml.edited`.
fn aside(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{slash}.{name}.edited")
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What is to be done about a folder's trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: no trial, or it runs.
    Nothing,
    /// The agent makes the folder's policies a generation on trial.
    Begin(Trial),
    /// The record is gone; the kernel went back, or will. Nothing of the folder may come into force until it changes.
    Hold,
    /// It ended just now, and folder and kernel say the same again.
    Ended { kept: bool, words: String },
}

/// Brings folder and control word together. `starting`: by an agent that has not yet put anything in force.
pub fn settle(locked: &Locked, word: &mut Word, starting: bool) -> Result<Next> {
    let standing = word.standing()?;
    let Some(trial) = Trial::load(locked)? else {
        if !standing.went_back {
            return Ok(Next::Nothing);
        }
        // Put back already, by somebody who died before the word could say so?
        return Ok(match last(locked)?.filter(|ended| ended.id == standing.trial && !ended.kept) {
            Some(ended) => {
                word.undo()?;
                Next::Ended { kept: false, words: undone(&ended.why, &[]) }
            }
            None => Next::Hold,
        });
    };
    match verdict(&trial, &standing, starting) {
        Verdict::Wait => Ok(Next::Nothing),
        Verdict::Begin => Ok(Next::Begin(trial)),
        Verdict::Keep => {
            trial.keep(locked)?;
            Ok(Next::Ended { kept: true, words: "the apply on trial was confirmed".into() })
        }
        Verdict::Undo(why) => {
            // The folder first: as long as the word still says that it went back, nothing new comes into force.
            let kept = trial.put_back(locked, why)?;
            if standing.trial == trial.id {
                word.undo()?;
            }
            Ok(Next::Ended { kept: false, words: undone(why, &kept) })
        }
    }
}

/// For people.
pub fn undone(why: &str, kept: &[String]) -> String {
    let mut words = format!("the apply on trial was undone: {why}; the files are as before it");
    if !kept.is_empty() {
        words += &format!("; what was edited since is kept in {}", kept.join(", "));
    }
    words
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Begin,
    Keep,
    Undo(&'static str),
}

/// The table above.
fn verdict(trial: &Trial, standing: &Standing, starting: bool) -> Verdict {
    if !trial.of_this_boot() {
        return Verdict::Undo("the machine was restarted before anybody confirmed");
    }
    if standing.trial != trial.id {
        return if starting {
            Verdict::Undo("no agent ran that could put it in force")
        } else {
            Verdict::Begin
        };
    }
    if standing.confirmed {
        Verdict::Keep
    } else if standing.undone {
        Verdict::Undo("as asked")
    } else if standing.confirm_seconds.is_some() {
        Verdict::Wait
    } else {
        Verdict::Undo("nobody confirmed it in time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(locked: &Locked, changes: &[Change]) -> Trial {
        let trial = Trial::new(locked, changes, Duration::from_secs(60)).unwrap();
        let mut all = changes.to_vec();
        all.push(trial.record().unwrap());
        locked.commit(&all).unwrap();
        assert_eq!(Trial::load(locked).unwrap().as_ref(), Some(&trial));
        trial
    }

    fn change(path: &str, text: Option<&str>) -> Change {
        Change { path: path.into(), text: text.map(Into::into) }
    }

    #[test]
    fn the_files_come_back_as_they_were_and_later_edits_are_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "a: old # comment").unwrap();
        fs::write(dir.path().join("b.yaml"), "b: old").unwrap();
        let locked = Locked::wait(dir.path()).unwrap();
        let changes =
            [change("a.yaml", Some("a: new")), change("b.yaml", None), change("sub/c.yaml", Some("c: new"))];
        let trial = trial(&locked, &changes);
        assert_eq!(locked.read("b.yaml").unwrap(), None);
        fs::write(dir.path().join("a.yaml"), "a: edited").unwrap();
        assert_eq!(trial.put_back(&locked, "test").unwrap(), [".a.yaml.edited"]);
        assert_eq!(locked.read("a.yaml").unwrap().as_deref(), Some("a: old # comment"));
        assert_eq!(locked.read("b.yaml").unwrap().as_deref(), Some("b: old"));
        assert_eq!(locked.read("sub/c.yaml").unwrap(), None);
        assert_eq!(locked.read(".a.yaml.edited").unwrap().as_deref(), Some("a: edited"));
        assert_eq!(Trial::load(&locked).unwrap(), None);
        assert!(last(&locked).unwrap().is_some_and(|e| e.id == trial.id && !e.kept));
    }

    #[test]
    fn folder_and_kernel_are_never_left_apart() {
        let dir = tempfile::tempdir().unwrap();
        let locked = Locked::wait(dir.path()).unwrap();
        let trial = trial(&locked, &[change("a.yaml", Some("x"))]);
        let running = Standing { trial: trial.id, confirm_seconds: Some(5), ..Standing::default() };
        let past = Standing { went_back: true, confirm_seconds: None, ..running.clone() };
        let other = Standing { trial: 1, ..Standing::default() };
        assert_eq!(verdict(&trial, &running, false), Verdict::Wait);
        assert_eq!(verdict(&trial, &running, true), Verdict::Wait);
        assert_eq!(verdict(&trial, &other, false), Verdict::Begin);
        let confirmed = Standing { confirmed: true, confirm_seconds: None, ..running.clone() };
        assert_eq!(verdict(&trial, &confirmed, false), Verdict::Keep);
        let undone = Standing { undone: true, confirm_seconds: None, ..running.clone() };
        for (standing, starting) in [(&past, false), (&past, true), (&undone, true), (&other, true)] {
            assert!(matches!(verdict(&trial, standing, starting), Verdict::Undo(_)), "{standing:?}");
        }
        let other_boot = Trial { boot: "another".into(), ..trial };
        assert!(matches!(verdict(&other_boot, &running, false), Verdict::Undo(_)));
    }
}
