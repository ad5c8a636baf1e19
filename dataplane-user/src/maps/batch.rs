//! Whole maps in a few system calls: one for some thousand entries, where the kernel can (arrays and hashes from
//! Linux 5.6, tries from 5.13 on), else one or two for each.

use aya::Pod;
use aya::maps::{IterableMap, MapData, MapError};

use super::Error;
use crate::sys;

/// Every entry; `each` goes from one to the next. One that vanishes meanwhile is simply no longer there.
pub(super) fn entries<K: Pod, V: Pod>(
    map: &impl IterableMap<K, V>,
    each: impl Iterator<Item = Result<(K, V), MapError>>,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    match read(map.map()) {
        Some((keys, values)) => Ok(keys.into_iter().zip(values).collect()),
        None => one_by_one(each, name),
    }
}

/// Every value of an array, in order.
pub(super) fn values<V: Pod>(
    map: &impl IterableMap<u32, V>,
    each: impl Iterator<Item = Result<V, MapError>>,
    name: &'static str,
) -> Result<Vec<V>, Error> {
    match read::<u32, V>(map.map()) {
        Some((_, values)) => Ok(values),
        None => one_by_one(each, name),
    }
}

/// How many entries there are.
pub(super) fn count<K: Pod, V: Pod>(
    map: &impl IterableMap<K, V>,
    each: impl Iterator<Item = Result<K, MapError>>,
) -> usize {
    match read::<K, V>(map.map()) {
        Some((keys, _)) => keys.len(),
        None => each.filter(Result::is_ok).count(),
    }
}

/// `None`: the kernel cannot, or not now. Whoever asks goes from entry to entry then, and meets the error there, if it
/// is one.
fn read<K: Pod, V: Pod>(map: &MapData) -> Option<(Vec<K>, Vec<V>)> {
    let mut cursor = sys::Cursor::default();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    while sys::lookup_batch(map, &mut cursor, &mut keys, &mut values).ok()? {}
    Some((keys, values))
}

/// Entry by entry.
pub(super) fn one_by_one<T>(
    each: impl Iterator<Item = Result<T, MapError>>,
    name: &'static str,
) -> Result<Vec<T>, Error> {
    // An entry may vanish between its key and its value.
    each.filter(|e| !matches!(e, Err(MapError::KeyNotFound)))
        .collect::<Result<_, _>>()
        .map_err(|e| Error::map(name, "read", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_common::abi::AddrKey;

    /// Reads more than one chunk of each kind, against what was written. Needs the right to make maps.
    #[test]
    fn what_was_written_is_read_whole_and_in_order() {
        use aya::maps::lpm_trie::{Key, LpmTrie};
        use aya::maps::{Array, HashMap, Map};
        use aya_obj::generated::bpf_map_type::{
            BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE,
        };

        const ENTRIES: u32 = 10_000;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: reading maps needs root");
            return;
        }
        let create = |kind: u32, key: u32, value: u32, flags: u32| {
            let mut declared = aya_obj::Map::Legacy(aya_obj::maps::LegacyMap {
                section_index: 0,
                section_kind: aya_obj::EbpfSectionKind::Maps,
                symbol_index: None,
                def: aya_obj::maps::bpf_map_def {
                    map_type: kind,
                    key_size: key,
                    value_size: value,
                    max_entries: ENTRIES,
                    map_flags: flags,
                    ..Default::default()
                },
                inner_def: None,
                data: Vec::new(),
            });
            declared.set_max_entries(ENTRIES);
            MapData::create(declared, "batch_test", None).expect("a map")
        };
        let mut array: Array<_, u64> =
            Map::Array(create(BPF_MAP_TYPE_ARRAY as u32, 4, 8, 0)).try_into().expect("an array");
        let mut hash: HashMap<_, u32, u64> =
            Map::HashMap(create(BPF_MAP_TYPE_HASH as u32, 4, 8, 0)).try_into().expect("a hash");
        let key_size = size_of::<Key<AddrKey>>() as u32;
        let mut trie: LpmTrie<_, AddrKey, u32> =
            Map::LpmTrie(create(BPF_MAP_TYPE_LPM_TRIE as u32, key_size, 4, 1)).try_into().expect("a trie");
        let address = |i: u32| {
            let key = AddrKey::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(i)));
            Key::new(dataplane_common::abi::ADDR_PREFIX_BASE + 32, key)
        };
        for i in 0..ENTRIES {
            array.set(i, u64::from(i) * 3, 0).expect("room");
            hash.insert(i, u64::from(i) * 5, 0).expect("room");
            trie.insert(&address(i), i, 0).expect("room");
        }
        let wanted: Vec<u64> = (0..u64::from(ENTRIES)).map(|i| i * 3).collect();
        assert_eq!(values(&array, array.iter(), "array").unwrap(), wanted);
        let (_, batched) = read::<u32, u64>(array.map()).expect("this kernel reads arrays in batches");
        assert_eq!(batched, one_by_one(array.iter(), "array").unwrap());

        let mut found = entries(&hash, hash.iter(), "hash").unwrap();
        found.sort_unstable();
        assert_eq!(found, (0..ENTRIES).map(|i| (i, u64::from(i) * 5)).collect::<Vec<_>>());
        assert_eq!(count(&hash, hash.keys()), ENTRIES as usize);

        let sorted = |mut all: Vec<(Key<AddrKey>, u32)>| {
            all.sort_unstable_by_key(|(_, value)| *value);
            all.into_iter().map(|(key, value)| (key.prefix_len(), key.data(), value)).collect::<Vec<_>>()
        };
        let found = sorted(entries(&trie, trie.iter(), "trie").unwrap());
        assert_eq!(found, sorted(one_by_one(trie.iter(), "trie").unwrap()));
        assert_eq!(found.len(), ENTRIES as usize);
        // A map of another shape is never written into.
        let mut cursor = sys::Cursor::default();
        assert!(
            sys::lookup_batch::<u32, u32>(array.map(), &mut cursor, &mut Vec::new(), &mut Vec::new())
                .is_err()
        );
    }
}
