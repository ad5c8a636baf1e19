//! Inner maps exactly as the object declares them, but for their size.
//!
//! An outer map takes only inner maps like the one it was created with. Kernels 5.15 to 6.1 compare even whether a
//! map knows its types (`timer_off` in `bpf_map_meta_equal`), so a map without BTF is refused there. With them,
//! `bpftool map dump` shows words on every kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError};
use aya::programs::SchedClassifier;
use dataplane_common::names;

use super::Error;

/// The declared inner maps, by the name of their outer map.
pub struct Templates {
    /// The kernel's copy of the object's types; none where the kernel has no BTF.
    types: Option<OwnedFd>,
    inner: BTreeMap<String, aya_obj::Map>,
}

impl Templates {
    /// Reads the declarations from the object that `ebpf` was loaded from. Its programs must be loaded.
    pub fn read(object: &[u8], ebpf: &Ebpf) -> Result<Self, Error> {
        let parsed = aya_obj::Object::parse(object).map_err(|_| Error::Missing(names::MAP_SETTINGS))?;
        let inner = parsed.maps.iter().filter_map(|(name, map)| Some((name.clone(), map.inner()?))).collect();
        Ok(Self { types: types_of(ebpf)?, inner })
    }

    /// A fresh inner map for `outer` with room for so many entries.
    pub fn create(&self, outer: &'static str, room: u32) -> Result<MapData, Error> {
        let mut declared = self.inner.get(outer).cloned().ok_or(Error::Missing(outer))?;
        declared.set_max_entries(room);
        let types = self.types.as_ref().map(|types| types.as_fd());
        MapData::create(declared, &format!("{outer}.inner"), types)
            .map_err(|e| Error::map(outer, "create", e))
    }
}

/// Every program of an object has the same types.
fn types_of(ebpf: &Ebpf) -> Result<Option<OwnedFd>, Error> {
    let program: Option<&SchedClassifier> =
        ebpf.program(names::PROG_TC_INGRESS).and_then(|p| p.try_into().ok());
    let Some(id) = program.and_then(|p| p.info().ok()).and_then(|info| info.btf_id()) else {
        return Ok(None);
    };
    let types = crate::sys::btf_by_id(id)
        .map_err(|e| Error::map(names::MAP_SETTINGS, "open the types of", MapError::IoError(e)))?;
    Ok(Some(types))
}

/// The typed map around raw data.
pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(outer: &'static str, map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|e| Error::map(outer, "open", e))
}
