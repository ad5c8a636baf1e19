//! Files of a package or image, packed so that the same input gives the same bytes on every machine: names in order,
//! one time, owner root.

use std::{collections::BTreeMap, fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};

/// Files by their path without a leading `/`; the folders above them follow from that.
#[derive(Default)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
}

pub(crate) enum Entry {
    Folder,
    File { mode: u32, content: Vec<u8> },
}

impl Tree {
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.folders_above(path);
        self.entries.insert(path.to_owned(), Entry::File { mode, content: content.into() });
    }

    pub(crate) fn folder(&mut self, path: &str) {
        self.folders_above(path);
        self.entries.insert(path.to_owned(), Entry::Folder);
    }

    fn folders_above(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// As `Installed-Size` counts: KiB, each file rounded up, each folder 1.
    pub(crate) fn installed_kib(&self) -> usize {
        let size = |entry: &Entry| match entry {
            Entry::Folder => 1,
            Entry::File { content, .. } => content.len().div_ceil(1024),
        };
        self.entries.values().map(size).sum()
    }

    /// A tar archive. `time`: Unix seconds, for everything in it.
    pub(crate) fn tar(&self, time: u64) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "./", &Entry::Folder, time)?;
        for (path, entry) in &self.entries {
            let slash = if matches!(entry, Entry::Folder) { "/" } else { "" };
            append(&mut tar, &format!("./{path}{slash}"), entry, time)?;
        }
        Ok(tar.into_inner()?)
    }

    pub(crate) fn tar_gz(&self, time: u64) -> Result<Vec<u8>> {
        gzip(&self.tar(time)?)
    }

    /// Writes it as files and folders into a folder of its own, which is emptied first.
    pub(crate) fn unpack(&self, into: &Path) -> Result<()> {
        if into.exists() {
            fs::remove_dir_all(into).with_context(|| format!("cannot empty {}", into.display()))?;
        }
        fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
        for (path, entry) in &self.entries {
            let to = into.join(path);
            let written = match entry {
                Entry::Folder => fs::create_dir(&to),
                Entry::File { mode, content } => fs::write(&to, content)
                    .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(*mode))),
            };
            written.with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, entry: &Entry, time: u64) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().context("a GNU header is one")?;
    // The library would take the `./` away, which every Debian package has.
    if name.len() >= gnu.name.len() {
        bail!("{name} is too long for a member of a package");
    }
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    let (kind, mode, content): (_, _, &[u8]) = match entry {
        Entry::Folder => (tar::EntryType::Directory, 0o755, &[]),
        Entry::File { mode, content } => (tar::EntryType::Regular, *mode, content),
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_mtime(time);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).with_context(|| format!("cannot pack {name}"))
}

/// Without name and time, so that the bytes depend on the content alone.
pub(crate) fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    gzip_as(content, Compression::best())
}

pub(crate) fn gzip_as(content: &[u8], how: Compression) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), how);
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn folders_above_a_file_are_there() {
        let mut tree = Tree::default();
        tree.file("usr/share/doc/x", 0o644, "x");
        let names: Vec<&str> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(names, ["usr", "usr/share", "usr/share/doc", "usr/share/doc/x"]);
        assert_eq!(tree.installed_kib(), 4);
    }
}
