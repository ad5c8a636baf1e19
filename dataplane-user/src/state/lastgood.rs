//! The last good version of every object, on disk (D46): what an agent accepted, and put in force, goes on in the
//! next one when its file is broken by then.
//!
//! One line of head (`portcullis-last-good FORMAT CRC32 BYTES`), then JSON. Written beside, synced, renamed. A file
//! that is damaged, of another format or of another folder is told and ignored, never half-used.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::KUBERNETES;
use crate::policy::{Problem, Severity};
use crate::resource::{Document, Group, Kind};

/// Name in the state dir.
pub const FILE: &str = "last-good.json";
const MAGIC: &str = "portcullis-last-good";
/// Moves with any change of what follows the head.
const FORMAT: u32 = 1;
/// So many objects are written quickly, whatever changed.
const MANY: usize = 2000;
/// Longest age of pods, endpoints and nodes in the file of a large cluster.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Device and inode of a folder.
pub type Identity = (u64, u64);

/// Larger files are not ours.
const MAX_BYTES: u64 = 1 << 30;
/// The head is one short line.
const MAX_HEAD: usize = 128;

/// One object, as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// `Kind/name`
    pub object: String,
    pub file: String,
    pub line: usize,
    /// The document.
    pub text: Text,
    /// Unix seconds.
    pub accepted: u64,
    /// Since when its file says something else, Unix seconds.
    pub kept: Option<u64>,
}

impl Saved {
    fn is_core(&self) -> bool {
        let kind = self.object.split_once('/').and_then(|(kind, _)| Kind::from_name(kind));
        kind.is_some_and(|kind| kind.group() != Group::Calico)
    }
}

/// A document, in the file a string of JSON: one that cannot be read does not cost the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Json(Arc<Value>),
    Unreadable { text: String, error: String },
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => serializer.collect_str(value),
            Self::Unreadable { text, .. } => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match serde_json::from_str(&text) {
            Ok(value) => Self::Json(Arc::new(value)),
            Err(error) => Self::Unreadable { text, error: error.to_string() },
        })
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    pub folder: PathBuf,
    /// Device and inode of the folder that held the documents.
    pub identity: Option<Identity>,
    /// UID of the cluster, where the Kubernetes API was the source: its folder is [`KUBERNETES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    pub objects: Vec<Saved>,
}

impl LastGood {
    /// What an agent saved for this policies folder. `None`: there is no such file.
    pub fn load(state_dir: &Path, folder: &Path) -> Result<Option<Self>> {
        let Some(last) = Self::read(state_dir)? else { return Ok(None) };
        if last.folder != folder {
            bail!("{} is of {}", state_dir.join(FILE).display(), source_name(&last.folder));
        }
        Ok(Some(last))
    }

    /// What an agent saved, whatever its source was. `None`: there is no such file.
    pub fn read(state_dir: &Path) -> Result<Option<Self>> {
        let path = state_dir.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::decode(&bytes).with_context(|| path.display().to_string()).map(Some)
    }

    /// Replaces the file as a whole; it survives a loss of power.
    pub fn save(&self, state_dir: &Path) -> Result<()> {
        let path = state_dir.join(FILE);
        let next = state_dir.join(format!(".{FILE}.next"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(state_dir)?;
            let mut file = File::create(&next)?;
            file.write_all(&self.encode()?)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(state_dir)?.sync_all()
        };
        write().with_context(|| format!("cannot save the last good state as {}", path.display()))
    }

    /// Whether it differs from another only in what a cluster changes by itself, all day: pods, endpoints, nodes.
    pub fn differs_in_core_kinds_only(&self, other: &Self) -> bool {
        fn of_people(state: &LastGood) -> impl Iterator<Item = &Saved> {
            state.objects.iter().filter(|saved| !saved.is_core())
        }
        let head = |state: &Self| (state.folder.clone(), state.identity, state.cluster.clone());
        head(self) == head(other) && of_people(self).eq(of_people(other))
    }

    /// Whether its writing may wait, when `saved` is what the file holds, since `age`: writing thousands of objects
    /// each time that one of a cluster's pods changes would wear out the disk. What people write never waits.
    pub fn may_wait(&self, saved: Option<&Self>, age: Duration) -> bool {
        self.cluster.is_some()
            && self.objects.len() > MANY
            && age < LONGEST_WAIT
            && saved.is_some_and(|saved| saved.differs_in_core_kinds_only(self))
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = serde_json::to_vec(self)?;
        let mut bytes =
            format!("{MAGIC} {FORMAT} {:08x} {}\n", crc32fast::hash(&body), body.len()).into_bytes();
        bytes.extend(body);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let head = bytes.iter().take(MAX_HEAD).position(|b| *b == b'\n').context("has no head of ours")?;
        let (line, body) = (&bytes[..head], &bytes[head + 1..]);
        let line = std::str::from_utf8(line).context("has no head of ours")?;
        let words: Vec<&str> = line.split(' ').collect();
        let [MAGIC, format, sum, length] = words[..] else { bail!("has no head of ours") };
        if format != FORMAT.to_string() {
            bail!("has format {format}, this build reads {FORMAT}");
        }
        if length != body.len().to_string() {
            bail!("is cut: {} bytes of {length}", body.len());
        }
        if sum != format!("{:08x}", crc32fast::hash(body)) {
            bail!("is damaged: its checksum does not fit");
        }
        serde_json::from_slice(body).context("is no state of ours")
    }

    /// As the store takes them.
    pub fn documents(&self) -> Vec<Document> {
        self.objects
            .iter()
            .map(|saved| match &saved.text {
                Text::Json(value) => Document::new(&*saved.file, saved.line, Arc::clone(value)),
                Text::Unreadable { error, .. } => Document::unreadable(Problem {
                    severity: Severity::Error,
                    file: saved.file.clone(),
                    line: saved.line,
                    object: saved.object.clone(),
                    path: String::new(),
                    value: String::new(),
                    message: format!("its last good version cannot be read: {error}"),
                }),
            })
            .collect()
    }
}

fn source_name(folder: &Path) -> String {
    if folder == Path::new(KUBERNETES) {
        return "the Kubernetes API".to_owned();
    }
    format!("the policies folder {}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(dir: &Path) -> LastGood {
        let text = Text::Json(Arc::new(serde_json::json!({"kind": "Tier"})));
        let saved =
            Saved { object: "Tier/a".into(), file: "a".into(), line: 1, text, accepted: 7, kept: None };
        LastGood { folder: dir.to_owned(), identity: Some((1, 2)), cluster: None, objects: vec![saved] }
    }

    #[test]
    fn what_is_saved_is_loaded_and_for_its_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LastGood::load(dir.path(), dir.path()).unwrap(), None);
        let saved = state(dir.path());
        saved.save(dir.path()).unwrap();
        assert_eq!(LastGood::load(dir.path(), dir.path()).unwrap(), Some(saved));
        let error = LastGood::load(dir.path(), Path::new("/other")).unwrap_err();
        assert!(error.to_string().contains("is of the policies folder"), "{error}");
    }

    #[test]
    fn pods_that_come_and_go_are_told_from_policy() {
        let dir = Path::new("/p");
        let mut with_pod = state(dir);
        with_pod.objects.push(Saved { object: "Pod/s/p".into(), ..with_pod.objects[0].clone() });
        assert!(with_pod.differs_in_core_kinds_only(&state(dir)));
        let mut with_policy = state(dir);
        with_policy
            .objects
            .push(Saved { object: "GlobalNetworkPolicy/p".into(), ..with_policy.objects[0].clone() });
        assert!(!with_policy.differs_in_core_kinds_only(&state(dir)));
        let mut changed = state(dir);
        changed.objects[0].text = Text::Json(Arc::new(serde_json::json!({"kind": "Tier", "spec": {}})));
        assert!(!changed.differs_in_core_kinds_only(&state(dir)));
        assert!(
            !LastGood { cluster: Some("u".into()), ..state(dir) }.differs_in_core_kinds_only(&state(dir))
        );
    }

    #[test]
    fn only_a_large_clusters_pods_wait_and_not_for_long() {
        let pod =
            |i: usize| Saved { object: format!("Pod/s/p{i}"), ..state(Path::new("/p")).objects[0].clone() };
        let cluster = |pods: usize| {
            let mut cluster = LastGood { cluster: Some("u".into()), ..state(Path::new("/p")) };
            cluster.objects.extend((0..pods).map(pod));
            cluster
        };
        let (saved, soon) = (cluster(MANY), Duration::from_secs(1));
        let next = cluster(MANY + 1);
        assert!(next.may_wait(Some(&saved), soon));
        assert!(!next.may_wait(Some(&saved), LONGEST_WAIT), "not for long");
        assert!(!next.may_wait(None, soon), "nothing is saved");
        assert!(!cluster(7).may_wait(Some(&cluster(6)), soon), "few objects");
        let folder = LastGood { cluster: None, ..next.clone() };
        assert!(!folder.may_wait(Some(&LastGood { cluster: None, ..saved.clone() }), soon), "a folder");
        let mut policy = next;
        policy.objects[0].text = Text::Json(Arc::new(serde_json::json!({"kind": "Tier", "spec": {}})));
        assert!(!policy.may_wait(Some(&saved), soon), "people wrote");
    }

    /// Every single damaged bit, and every cut.
    #[test]
    fn damage_is_seen() {
        let whole = state(Path::new("/p")).encode().unwrap();
        assert!(LastGood::decode(&whole).is_ok());
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                assert!(LastGood::decode(&broken).is_err(), "byte {at} bit {bit}");
            }
            assert!(LastGood::decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let whole = String::from_utf8(state(Path::new("/p")).encode().unwrap()).unwrap();
        let error = LastGood::decode(whole.replacen(" 1 ", " 2 ", 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("has format 2"), "{error}");
    }
}
