//! Changes of several files of the policies folder as one (D45). The journal is the point of no return: what is in
//! it happens, whoever has to finish it; before it stands whole on disk, nothing has happened. Readers hold the
//! folder's lock, so they see all of a change or nothing.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Folder of our own in the policies folder. Hidden, so no reader of policies looks into it.
const HIDDEN: &str = ".portcullis";
const JOURNAL: &str = "journal.json";
/// How long another command may hold the folder.
const PATIENCE: Duration = Duration::from_secs(10);

/// One file's new text; none: the file goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Below the folder.
    pub path: String,
    pub text: Option<String>,
}

/// A policies folder that nobody else changes or reads meanwhile.
pub struct Locked {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Locked {
    /// Waits for its turn, and finishes what a command that died left half done.
    pub fn wait(folder: &Path) -> Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(locked) = Self::try_now(folder)? {
                return Ok(locked);
            }
            if Instant::now() >= end {
                bail!(
                    "another portcullis works in {} for more than {PATIENCE:?}: try again",
                    folder.display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `None`: somebody else has it.
    pub fn try_now(folder: &Path) -> Result<Option<Self>> {
        let dir = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let Ok(lock) = Flock::lock(dir, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        let locked = Self { folder: folder.to_owned(), _lock: lock };
        locked.recover()?;
        Ok(Some(locked))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of one of our own files, below the folder.
    pub fn own(name: &str) -> String {
        format!("{HIDDEN}/{name}")
    }

    /// A file's text; none if there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        let path = self.folder.join(path);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes all changes, or none: after an error or a crash before the journal stands, nothing; after it, the next
    /// one who takes the lock finishes.
    pub fn commit(&self, changes: &[Change]) -> Result<()> {
        for change in changes {
            let inside = Path::new(&change.path).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || change.path.is_empty() {
                bail!("{:?} is no path below {}", change.path, self.folder.display());
            }
        }
        let text = serde_json::to_string(changes).context("cannot write the journal as JSON")?;
        write_atomic(&self.journal(), &text)?;
        self.recover()
    }

    fn journal(&self) -> PathBuf {
        self.folder.join(HIDDEN).join(JOURNAL)
    }

    /// Doing it twice does no harm, so a crash in here is one more reason to do it again.
    fn recover(&self) -> Result<()> {
        let journal = self.journal();
        let text = match fs::read_to_string(&journal) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", journal.display())),
        };
        let changes: Vec<Change> = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: remove it, then look at the folder", journal.display())
        })?;
        for change in &changes {
            let path = self.folder.join(&change.path);
            match &change.text {
                Some(text) => write_atomic(&path, text)?,
                None => remove(&path)?,
            }
        }
        remove(&journal)
    }
}

/// A reader sees the old file or the new one, never half of it; after a crash too. The new one keeps the mode of the
/// old one. Its temporary name begins with a dot: readers of the folder pass it over.
fn write_atomic(path: &Path, text: &str) -> Result<()> {
    // A link stays a link: what it points to is what the reader reads.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = path.with_file_name(format!(".{name}.next"));
    let mut file = File::create(&next).with_context(|| format!("cannot create {}", next.display()))?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions())
            .with_context(|| format!("cannot change {}", next.display()))?;
    }
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))?;
    sync_dir(parent)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => sync_dir(path.parent().unwrap_or(Path::new("."))),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    match File::open(dir).and_then(|d| d.sync_all()) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot sync {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, text: Option<&str>) -> Change {
        Change { path: path.into(), text: text.map(Into::into) }
    }

    #[test]
    fn a_command_that_died_behind_the_journal_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.yaml"), "old").unwrap();
        fs::write(dir.path().join("c.yaml"), "old").unwrap();
        let changes = [change("a.yaml", Some("new")), change("b.yaml", Some("new")), change("c.yaml", None)];
        // As the crash leaves it: the journal stands, one file of three is done.
        fs::create_dir(dir.path().join(HIDDEN)).unwrap();
        fs::write(dir.path().join(HIDDEN).join(JOURNAL), serde_json::to_string(&changes).unwrap()).unwrap();
        fs::write(dir.path().join("a.yaml"), "new").unwrap();
        let locked = Locked::wait(dir.path()).unwrap();
        assert_eq!(locked.read("a.yaml").unwrap().as_deref(), Some("new"));
        assert_eq!(locked.read("b.yaml").unwrap().as_deref(), Some("new"));
        assert_eq!(locked.read("c.yaml").unwrap(), None);
        assert!(!locked.journal().exists());
    }

    #[test]
    fn what_died_before_its_journal_stood_did_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "old").unwrap();
        fs::create_dir(dir.path().join(HIDDEN)).unwrap();
        fs::write(dir.path().join(HIDDEN).join(".journal.json.next"), "[{\"pa").unwrap();
        assert_eq!(Locked::wait(dir.path()).unwrap().read("a.yaml").unwrap().as_deref(), Some("old"));
    }

    #[test]
    fn nobody_reads_while_somebody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let first = Locked::wait(dir.path()).unwrap();
        assert!(Locked::try_now(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Locked::try_now(dir.path()).unwrap().is_some());
    }

    #[test]
    fn no_change_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let locked = Locked::wait(dir.path()).unwrap();
        for path in ["../x", "/x", "", "a/../../x"] {
            assert!(locked.commit(&[change(path, Some("x"))]).is_err(), "{path}");
        }
    }
}
