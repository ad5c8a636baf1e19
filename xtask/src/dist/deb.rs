//! A Debian package: an `ar` archive of two compressed tars. Written here and not by `dpkg-deb`, so that the same input
//! gives the same bytes on every machine: names in order, one time, owner root.

use std::{collections::BTreeMap, io::Write};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};

/// Files by their path without a leading `/`; the folders above them follow from that.
#[derive(Default)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
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

    /// As `Installed-Size` counts: KiB, each file rounded up, each folder 1.
    pub(crate) fn installed_kib(&self) -> usize {
        let size = |entry: &Entry| match entry {
            Entry::Folder => 1,
            Entry::File { content, .. } => content.len().div_ceil(1024),
        };
        self.entries.values().map(size).sum()
    }

    fn tar_gz(&self, time: u64) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "./", &Entry::Folder, time)?;
        for (path, entry) in &self.entries {
            let slash = if matches!(entry, Entry::Folder) { "/" } else { "" };
            append(&mut tar, &format!("./{path}{slash}"), entry, time)?;
        }
        gzip(&tar.into_inner()?)
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
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}

/// The bytes of the `.deb`. `time`: Unix seconds, for everything in it.
pub(crate) fn package(control: &Tree, data: &Tree, time: u64) -> Result<Vec<u8>> {
    let mut archive = ar::Builder::new(Vec::new());
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", control.tar_gz(time)?),
        ("data.tar.gz", data.tar_gz(time)?),
    ];
    for (name, content) in members {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(time);
        archive.append(&header, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::{Tree, package};

    fn tree(names: &[&str]) -> Tree {
        let mut tree = Tree::default();
        names.iter().for_each(|name| tree.file(name, 0o644, *name));
        tree
    }

    #[test]
    fn the_bytes_depend_on_the_content_alone() {
        let control = tree(&["control"]);
        let one = package(&control, &tree(&["usr/bin/a", "etc/b"]), 7).unwrap();
        let two = package(&control, &tree(&["etc/b", "usr/bin/a"]), 7).unwrap();
        assert_eq!(one, two);
        assert_eq!(&one[..21], b"!<arch>\ndebian-binary");
        assert_ne!(one, package(&control, &tree(&["etc/b"]), 7).unwrap());
    }

    #[test]
    fn folders_above_a_file_are_there() {
        let tree = tree(&["usr/share/doc/x"]);
        let names: Vec<&str> = tree.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["usr", "usr/share", "usr/share/doc", "usr/share/doc/x"]);
        assert_eq!(tree.installed_kib(), 4);
    }
}
