//! A Debian package: an `ar` archive of two compressed tars. Written here and not by `dpkg-deb`, so that the same input
//! gives the same bytes on every machine.

use anyhow::Result;

use super::tree::Tree;

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
}
