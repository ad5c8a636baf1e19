//! Flow tables of earlier layouts, and what their entries mean in this one (D49).
//!
//! A layout that was ever released stays here: [`EARLIER`] says how its entries are read. Keys and fragment records
//! have not changed yet; when one does, its layout gets a reader of its own, too.

use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError};
use dataplane_common::FLOW_ABI_VERSION;
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use dataplane_common::names;
use dataplane_common::tables::FlowTable;
use dataplane_common::verdict::NO_RULE;

use super::Error;
use super::batch::entries;

/// Name of the folder of a layout's flow tables, below the pin dir, without its number.
const FOLDER: &str = "flows-v";

/// Bytes of an entry of layout 1.
const BYTES_V1: usize = 96;

type TableV1 = HashMap<MapData, FlowKey, [u8; BYTES_V1]>;

/// A layout that an earlier build wrote.
#[derive(Clone, Copy, Debug)]
struct Layout {
    version: u32,
    read: fn(&[u8; BYTES_V1]) -> FlowEntry,
}

const EARLIER: [Layout; 1] = [Layout { version: 1, read: from_v1 }];

const _: () =
    assert!(EARLIER[EARLIER.len() - 1].version + 1 == FLOW_ABI_VERSION, "every layout has a reader");

/// Layout 1 ended with three spare words instead of one.
fn from_v1(bytes: &[u8; BYTES_V1]) -> FlowEntry {
    let long = |at: usize| u64::from_ne_bytes(cut(bytes, at));
    let word = |at: usize| u32::from_ne_bytes(cut(bytes, at));
    let half = |at: usize| u16::from_ne_bytes(cut(bytes, at));
    FlowEntry {
        last_seen_ns: long(0),
        created_ns: long(8),
        // Generations of the other layout have numbers of their own.
        generation: 0,
        epoch: word(24),
        rule: NO_RULE,
        rule_identity: word(32),
        device: word(36),
        original_next_seq: word(40),
        reply_next_seq: word(44),
        pending_next_seq: word(48),
        flags: bytes[52],
        hooks: bytes[53],
        stage: bytes[54],
        hook: bytes[55],
        state_original: bytes[56],
        state_reply: bytes[57],
        pending: bytes[58],
        pending_hooks: bytes[59],
        syn_payload: half(60),
        pending_payload: half(62),
        pending_hook: bytes[64],
        pending_from_device: bytes[65],
        pad: [0; 2],
        pending_device: word(68),
        spare: [0; 1],
    }
}

fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// What other layouts left below a pin dir.
#[derive(Debug, Default)]
pub struct Others {
    /// Of the latest that can be read.
    pub known: Option<Earlier>,
    /// Folders that this build cannot read, each with the reason.
    pub unknown: Vec<String>,
}

/// The flow tables of an earlier layout, read only. Programs may still write them.
#[derive(Debug)]
pub struct Earlier {
    layout: Layout,
    folder: PathBuf,
    flows: [(FlowTable, TableV1); 3],
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
}

impl Others {
    /// Looks below a pin dir for every layout but this build's.
    pub fn find(pin_dir: &Path) -> Self {
        let mut found = Self::default();
        let folders = std::fs::read_dir(pin_dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut versions: Vec<(u32, PathBuf)> = folders
            .filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix(FOLDER)?.parse().ok()?, path)))
            .filter(|(version, _)| *version != FLOW_ABI_VERSION)
            .collect();
        versions.sort();
        for (version, folder) in versions.into_iter().rev() {
            let Some(layout) = EARLIER.iter().find(|layout| layout.version == version) else {
                found.unknown.push(format!(
                    "{} is of layout {version}, which this build does not know",
                    folder.display()
                ));
                continue;
            };
            match Earlier::open(*layout, &folder) {
                Ok(earlier) if found.known.is_none() => found.known = Some(earlier),
                // An older one that somebody left: what lives is in the later one.
                Ok(_) => {}
                Err(e) => found.unknown.push(format!("{}: {:#}", folder.display(), anyhow::Error::from(e))),
            }
        }
        found
    }
}

impl Earlier {
    fn open(layout: Layout, folder: &Path) -> Result<Self, Error> {
        let flows = |table, name| Ok((table, open(folder, name)?));
        Ok(Self {
            layout,
            flows: [
                flows(FlowTable::Confirmed, names::MAP_FLOWS)?,
                flows(FlowTable::Unconfirmed, names::MAP_FLOWS_NEW)?,
                flows(FlowTable::Failsafe, names::MAP_FLOWS_SAFE)?,
            ],
            fragments: open(folder, names::MAP_FRAGMENTS)?,
            folder: folder.to_owned(),
        })
    }

    /// Where they are pinned.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every flow as it stands now, in this build's layout.
    pub fn flows(&self) -> Result<Vec<(FlowTable, FlowKey, FlowEntry)>, Error> {
        let mut all = Vec::new();
        for (table, map) in &self.flows {
            let read = entries(map, map.iter(), names::MAP_FLOWS)?;
            all.extend(read.iter().map(|(key, bytes)| (*table, *key, (self.layout.read)(bytes))));
        }
        Ok(all)
    }

    /// Every record of a first fragment.
    pub fn fragments(&self) -> Result<Vec<(FragmentKey, FragmentEntry)>, Error> {
        entries(&self.fragments, self.fragments.iter(), names::MAP_FRAGMENTS)
    }
}

fn open<K: aya::Pod, V: aya::Pod>(
    folder: &Path,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, Error> {
    let fail = |e: MapError| Error::map(name, "open", e);
    let map = Map::from_map_data(MapData::from_pin(folder.join(name)).map_err(fail)?).map_err(fail)?;
    HashMap::try_from(map).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each byte of the old entry has a value of its own, so that two fields that are mixed up show.
    #[test]
    fn every_field_of_layout_1_arrives_in_its_place() {
        let bytes: [u8; BYTES_V1] = std::array::from_fn(|at| at as u8 + 1);
        let entry = from_v1(&bytes);
        let first = |value: u64| value.to_ne_bytes()[0];
        let of_word = |value: u32| first(u64::from(value));
        assert_eq!([first(entry.last_seen_ns), first(entry.created_ns)], [1, 9]);
        let words = [
            entry.epoch,
            entry.rule_identity,
            entry.device,
            entry.original_next_seq,
            entry.reply_next_seq,
            entry.pending_next_seq,
            entry.pending_device,
        ];
        assert_eq!(words.map(of_word), [25, 33, 37, 41, 45, 49, 69]);
        let bytes = [
            entry.flags,
            entry.hooks,
            entry.stage,
            entry.hook,
            entry.state_original,
            entry.state_reply,
            entry.pending,
            entry.pending_hooks,
        ];
        assert_eq!(bytes, [53, 54, 55, 56, 57, 58, 59, 60]);
        assert_eq!([entry.syn_payload, entry.pending_payload].map(|p| p.to_ne_bytes()[0]), [61, 63]);
        assert_eq!([entry.pending_hook, entry.pending_from_device], [65, 66]);
        assert_eq!((entry.generation, entry.rule), (0, NO_RULE), "its generations are not ours");
    }

    #[test]
    fn a_layout_that_is_not_known_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["flows-v99", "flows-v", "v99", &format!("{FOLDER}{FLOW_ABI_VERSION}")] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let others = Others::find(dir.path());
        assert!(others.known.is_none());
        let [text] = others.unknown.as_slice() else { panic!("{:?}", others.unknown) };
        assert!(text.contains("flows-v99") && text.contains("layout 99"), "{text}");
    }
}
