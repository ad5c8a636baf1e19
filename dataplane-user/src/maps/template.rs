//! Inner maps exactly as the object declares them, but for their size.
//!
//! An outer map takes only inner maps like the one it was created with. Kernels 5.15 to 6.1 compare even whether a
//! map knows its types (`timer_off` in `bpf_map_meta_equal`), so a map without BTF is refused there. With them,
//! `bpftool map dump` shows words on every kernel.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, MapError};
use dataplane_common::names;

use super::Error;
use super::slots::Slots;

/// The declared inner maps, by the name of their outer map.
pub struct Templates {
    /// The object's types, as the kernel took them; none where it has no BTF.
    types: Option<OwnedFd>,
    inner: BTreeMap<String, aya_obj::Map>,
}

impl Templates {
    /// Reads the declarations from the object that was loaded.
    pub fn read(object: &[u8]) -> Result<Self, Error> {
        let mut parsed = aya_obj::Object::parse(object).map_err(|_| Error::Missing(names::MAP_SETTINGS))?;
        let inner = parsed.maps.iter().filter_map(|(name, map)| Some((name.clone(), map.inner()?))).collect();
        Ok(Self { types: types_of(&mut parsed)?, inner })
    }

    /// Where fresh inner maps of a slot come from.
    pub fn for_slot<'a>(&'a self, slot: u32, slots: &'a Slots) -> Fresh<'a> {
        Fresh { templates: self, slot, slots }
    }
}

/// Makes the inner maps of one slot.
pub struct Fresh<'a> {
    templates: &'a Templates,
    slot: u32,
    slots: &'a Slots,
}

impl Fresh<'_> {
    /// A fresh inner map for `outer` with room for so many entries.
    pub fn create(&self, outer: &'static str, room: u32) -> Result<MapData, Error> {
        let mut declared = self.templates.inner.get(outer).cloned().ok_or(Error::Missing(outer))?;
        declared.set_max_entries(room);
        let types = self.templates.types.as_ref().map(|types| types.as_fd());
        let map = MapData::create(declared, &format!("{outer}.inner"), types)
            .map_err(|e| Error::map(outer, "create", e))?;
        self.slots.keep(outer, self.slot, &map)?;
        Ok(map)
    }
}

/// A copy of the types of our own, made from the object as the loader makes the one of the programs: the numbers of
/// types are the same. To open the programs' copy by its number would need CAP_SYS_ADMIN.
fn types_of(object: &mut aya_obj::Object) -> Result<Option<OwnedFd>, Error> {
    let failed = |e| Error::map(names::MAP_SETTINGS, "give the kernel the types of", MapError::IoError(e));
    let Some(features) = aya::features().btf() else { return Ok(None) };
    let types = object.fixup_and_sanitize_btf(features).map_err(|e| failed(io::Error::other(e)))?;
    let Some(types) = types else { return Ok(None) };
    crate::sys::load_btf(&types.to_bytes()).map(Some).map_err(failed)
}

/// The typed map around raw data.
pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(outer: &'static str, map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|e| Error::map(outer, "open", e))
}
