//! A bpffs of our own for the agent's pins, so that nothing touches the machine's.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

pub struct BpfFs {
    folder: TempDir,
}

impl BpfFs {
    pub fn mount() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-bpf-").tempdir()?;
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpffs: needs root and a kernel with BPF")?;
        Ok(Self { folder })
    }

    /// Where the agent shall pin.
    pub fn pin_dir(&self) -> PathBuf {
        self.folder.path().join("portcullis")
    }
}

impl Drop for BpfFs {
    /// The pins go with the mount, and with the last pin the programs.
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}
