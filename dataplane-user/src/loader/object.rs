//! The embedded kernel object: opened, its maps created or taken from their pins.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use dataplane_common::{ABI_VERSION, FLOW_ABI_VERSION, names};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::Error;

/// The object that build.rs left; empty when it could not be built.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-ebpf.o"));

/// Maps of one generation layout: pinned below the ABI version.
pub const POLICY_MAPS: [&str; 19] = [
    names::MAP_CONTROL,
    names::MAP_SETTINGS,
    names::MAP_DEVICES,
    names::MAP_ENDPOINTS,
    names::MAP_LISTS,
    names::MAP_RULES,
    names::MAP_ROWS,
    names::MAP_ADDR_CLASS,
    names::MAP_PORT_CLASS,
    names::MAP_OWN_ADDRS,
    names::MAP_FRONTENDS,
    names::MAP_FAILSAFES,
    names::MAP_INFRA,
    names::MAP_COUNTERS,
    names::MAP_DEV_COUNTERS,
    names::MAP_RULE_HITS,
    names::MAP_ETHERTYPES,
    names::MAP_EVENTS,
    names::MAP_SCRATCH,
];
/// Maps of the flow layout, versioned apart (D49).
pub const FLOW_MAPS: [&str; 6] = [
    names::MAP_FLOWS,
    names::MAP_FLOWS_NEW,
    names::MAP_FLOWS_SAFE,
    names::MAP_FRAGMENTS,
    names::MAP_ROOMS,
    names::MAP_FLOW_EVENTS,
];

/// Where maps are pinned below the pin folder.
pub fn policy_pins(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("v{ABI_VERSION}"))
}

/// Where flow tables are pinned below the pin folder.
pub fn flow_pins(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("flows-v{FLOW_ABI_VERSION}"))
}

/// Whether this build carries the kernel programs.
pub fn is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// Loads the object. With a pin folder, maps that are pinned there are used again, with all they hold.
pub fn load(pin_dir: Option<&Path>) -> Result<Ebpf, Error> {
    if OBJECT.is_empty() {
        return Err(Error::NotEmbedded);
    }
    raise_memlock();
    let mut loader = EbpfLoader::new();
    if let Some(dir) = pin_dir {
        for (folder, maps) in [(policy_pins(dir), &POLICY_MAPS[..]), (flow_pins(dir), &FLOW_MAPS[..])] {
            std::fs::create_dir_all(&folder)
                .map_err(|source| Error::PinFolder { folder: folder.clone(), source })?;
            for map in maps {
                loader.map_pin_path(map, folder.join(map));
            }
        }
    }
    let (coarse, seed) = (u32::from(has_coarse_clock()), seed());
    loader.override_global(names::GLOBAL_COARSE, &coarse, true);
    loader.override_global(names::GLOBAL_SEED, &seed, true);
    loader.load(OBJECT).map_err(|e| Error::object(pin_dir, e))
}

/// Kernel 5.11. Where it cannot be told, the clock that every kernel has will do.
fn has_coarse_clock() -> bool {
    is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)
        .unwrap_or(false)
}

/// A number that nobody outside can guess: the standard library's own secret for hash tables.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Before 5.11 map memory counts against RLIMIT_MEMLOCK. Where that is refused, map creation says so itself.
fn raise_memlock() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK was not raised");
    }
}
