//! A cpio archive in the "newc" format, as the kernel reads it for an initramfs.

use std::collections::BTreeSet;

#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    /// Those that are there already.
    folders: BTreeSet<String>,
}

/// File types as in `st_mode`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    pub(crate) fn folder(&mut self, name: &str) {
        if !self.folders.insert(name.to_owned()) {
            return;
        }
        self.entry(name, FOLDER | 0o755, (0, 0), &[]);
    }

    /// The kernel makes no folders by itself: those above `name` come first.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        for (at, _) in name.match_indices('/') {
            self.folder(&name[..at]);
        }
        self.entry(name, FILE | permissions, (0, 0), content);
    }

    /// `/dev/console` must be there before PID 1 starts, or it has no standard output.
    pub(crate) fn console(&mut self) {
        self.entry("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.inode += 1;
        let length = |count: usize| u32::try_from(count).expect("a cpio member is below 4 GiB");
        // inode, mode, uid, gid, links, mtime, size, device (major, minor), of a device node (major, minor), name, check
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length(content.len()),
            0,
            0,
            major,
            minor,
            length(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Names and contents end at a multiple of 4 bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn members_start_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        // 110 bytes of header, the name with its zero, and one byte to the next multiple of 4.
        assert_eq!(&bytes[116..121], b"12345");
        assert_eq!(&bytes[124..130], b"070701");
    }
}
