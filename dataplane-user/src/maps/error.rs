//! Errors of the map layer. Whatever fails here, the generation that was active stays active (D22).

use aya::maps::MapError;

/// Why tables could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The loaded object has no such map: agent and kernel program are of different versions.
    #[error("the kernel object has no map {0}; rebuild the agent so that both come from one source tree")]
    Missing(&'static str),
    /// Nothing of ours is there, or it is of another version.
    #[error(
        "{} is not there: nothing was put in force with this --pin-dir, or by another version; start the agent with \
         `portcullis run`, or name its --pin-dir", .0.display()
    )]
    NotPinned(std::path::PathBuf),
    /// A system call on a map failed.
    #[error("cannot {action} map {map}: {source}. {remedy}")]
    Map { map: &'static str, action: &'static str, source: Box<MapError>, remedy: &'static str },
    /// Read-back differs from what was written.
    #[error(
        "map {map} does not read back as it was written (entry {entry}); the new generation was not activated, the \
         old one stays in force"
    )]
    ReadBack { map: &'static str, entry: String },
}

impl Error {
    /// A failed call, with the remedy that its kind suggests.
    pub fn map(map: &'static str, action: &'static str, source: MapError) -> Self {
        let text = format!("{source:?}");
        let remedy = if text.contains("PermissionDenied") || text.contains("Operation not permitted") {
            "Run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON."
        } else if text.contains("OutOfMemory") || text.contains("Cannot allocate") {
            "The kernel has no memory for this generation; free memory or use fewer rules."
        } else {
            "See the kernel log (dmesg) for details."
        };
        Self::Map { map, action, source: Box::new(source), remedy }
    }
}
