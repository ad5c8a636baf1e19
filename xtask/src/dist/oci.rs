//! An image of one layer as an OCI image layout: a tar archive that every engine loads. Written here, as no engine has to
//! run for it, and the same input gives the same digests.

use std::{
    collections::BTreeMap,
    env,
    io::{Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder};
use serde_json::{Value, json};

use super::tree::{Tree, gzip_as};
use crate::run::{command, printed};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What runs. The Dockerfile says the same, which a test holds it to.
pub(crate) const ENTRYPOINT: &str = "/usr/bin/portcullis";
const COMMAND: &str = "run";
/// Labels that are the same for every version.
const LABELS: [(&str, &str); 3] = [
    ("org.opencontainers.image.title", "Portcullis"),
    (
        "org.opencontainers.image.description",
        "Host firewall that reads Calico's policy and enforces it with eBPF",
    ),
    ("org.opencontainers.image.licenses", "Apache-2.0 OR MIT"),
];

/// What an image is called and when it was made.
pub(crate) struct About<'a> {
    pub(crate) version: &'a str,
    /// Unix seconds.
    pub(crate) time: u64,
    pub(crate) compression: Compression,
}

/// The layout's tar, and the digest of the manifest in it, by which an image is pulled.
pub(crate) struct Image {
    pub(crate) layout: Vec<u8>,
    pub(crate) digest: String,
}

/// How it runs, but for the label of its version.
pub(crate) fn runtime() -> Value {
    let labels: BTreeMap<&str, &str> = LABELS.into_iter().collect();
    json!({
        "User": "0:0",
        "Env": ["PATH=/usr/bin"],
        "Entrypoint": [ENTRYPOINT],
        "Cmd": [COMMAND],
        "WorkingDir": "/",
        "Labels": labels,
    })
}

/// An image whose only layer is this tree.
pub(crate) fn image(tree: &Tree, about: &About<'_>) -> Result<Image> {
    let tar = tree.tar(about.time)?;
    let layer = gzip_as(&tar, about.compression)?;
    let created = rfc3339(about.time)?;
    let mut runtime = runtime();
    runtime["Labels"]["org.opencontainers.image.version"] = about.version.into();
    let config = json!({
        "created": created,
        "architecture": architecture()?,
        "os": "linux",
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)?]},
        "history": [{"created": created, "created_by": "cargo xtask dist image"}],
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config)?,
        "layers": [descriptor(LAYER, &layer)?],
        "annotations": {"org.opencontainers.image.created": created, "org.opencontainers.image.version": about.version},
    })
    .to_string()
    .into_bytes();
    let mut entry = descriptor(MANIFEST, &manifest)?;
    entry["platform"] = json!({"architecture": architecture()?, "os": "linux"});
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": about.version});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();

    let mut layout = Tree::default();
    layout.file("oci-layout", 0o644, json!({"imageLayoutVersion": "1.0.0"}).to_string());
    layout.file("index.json", 0o644, index);
    let digest_of_manifest = digest(&manifest)?;
    for blob in [config, manifest, layer] {
        layout.file(&blob_path(&digest(&blob)?)?, 0o644, blob);
    }
    Ok(Image { layout: layout.tar(about.time)?, digest: digest_of_manifest })
}

/// Reads a layout as an engine would, and holds every digest and size in it to what it is about. The digest of the
/// manifest.
pub(crate) fn check(layout: &[u8], tree: &Tree) -> Result<String> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(layout).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).context("no JSON");
    let file = |name: &str| files.get(name).with_context(|| format!("the layout has no {name}"));
    ensure!(json(file("oci-layout")?)?["imageLayoutVersion"] == "1.0.0", "oci-layout");
    // The blob that a descriptor is about, if it is what the descriptor says.
    let blob = |about: &Value, kind: &str| -> Result<&[u8]> {
        let name = about["digest"].as_str().context("a descriptor without a digest")?;
        let content = file(&blob_path(name)?)?;
        ensure!(about["mediaType"] == kind, "{name} is {}", about["mediaType"]);
        ensure!(about["size"] == content.len(), "{name} has {} bytes, not {}", content.len(), about["size"]);
        ensure!(digest(content)? == name, "{name} is something else");
        Ok(content)
    };
    let index = json(file("index.json")?)?;
    let entry = &index["manifests"][0];
    let manifest = json(blob(entry, MANIFEST)?)?;
    let config = json(blob(&manifest["config"], CONFIG)?)?;
    let layer = blob(&manifest["layers"][0], LAYER)?;
    let mut tar = Vec::new();
    GzDecoder::new(layer).read_to_end(&mut tar).context("the layer is no gzip")?;
    ensure!(config["rootfs"]["diff_ids"][0] == digest(&tar)?, "the config's diff_id is of another layer");
    ensure!(
        files.keys().filter(|name| name.starts_with("blobs/sha256/") && !name.ends_with('/')).count() == 3,
        "blobs that nothing is about"
    );

    let program = ENTRYPOINT.trim_start_matches('/');
    let mut packed = 0;
    for entry in tar::Archive::new(tar.as_slice()).entries()? {
        let entry = entry?;
        let header = entry.header();
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
        ensure!(header.uid()? == 0 && header.gid()? == 0, "{path} is not root's");
        ensure!(header.mode()? & 0o6022 == 0, "{path} is set-user-id or writable for others");
        ensure!(path != program || header.mode()? & 0o111 == 0o111, "{path} cannot be run");
        packed += usize::from(!path.is_empty());
    }
    ensure!(packed == tree.entries().count(), "{packed} entries in the layer");
    Ok(entry["digest"].as_str().unwrap_or_default().to_owned())
}

fn descriptor(kind: &str, content: &[u8]) -> Result<Value> {
    Ok(json!({"mediaType": kind, "digest": digest(content)?, "size": content.len()}))
}

fn blob_path(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:").with_context(|| format!("{digest} is no SHA-256"))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// `sha256:…`, by coreutils.
pub(crate) fn digest(content: &[u8]) -> Result<String> {
    let mut sum = command("sha256sum", Duration::from_secs(60));
    let mut child =
        sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run sha256sum")?;
    // It says nothing before it has read all.
    child.stdin.take().context("no stdin")?.write_all(content)?;
    let text = String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned();
    let hex = text.split_whitespace().next().unwrap_or_default();
    ensure!(hex.len() == 64, "sha256sum said {text:?}: it is part of coreutils");
    Ok(format!("sha256:{hex}"))
}

fn rfc3339(time: u64) -> Result<String> {
    let mut date = command("date", Duration::from_secs(5));
    date.args(["-u", "-d", &format!("@{time}"), "+%Y-%m-%dT%H:%M:%SZ"]);
    printed(&mut date).context("date does not run: it is part of coreutils")
}

/// As Go names it.
fn architecture() -> Result<&'static str> {
    Ok(match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no name in an image is known for the architecture {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("usr/bin/portcullis", 0o755, "program");
        tree
    }

    fn about() -> About<'static> {
        About { version: "1.2.3", time: 86_400, compression: Compression::best() }
    }

    #[test]
    fn what_is_written_passes_the_check() {
        let image = image(&tree(), &about()).unwrap();
        assert_eq!(check(&image.layout, &tree()).unwrap(), image.digest);
        assert_eq!(image.digest, super::image(&tree(), &about()).unwrap().digest);
        let later = About { time: 86_401, ..about() };
        assert_ne!(image.digest, super::image(&tree(), &later).unwrap().digest);
        assert_eq!(rfc3339(86_400).unwrap(), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn a_changed_byte_is_found() {
        let image = image(&tree(), &about()).unwrap();
        let at = image.layout.windows(7).position(|w| w == b"sha256:").unwrap();
        let mut wrong = image.layout.clone();
        wrong[at + 7] ^= 1;
        assert!(check(&wrong, &tree()).is_err());
        let at = image.layout.windows(10).position(|w| w == b"Portcullis").unwrap();
        let mut wrong = image.layout;
        wrong[at] ^= 1;
        assert!(check(&wrong, &tree()).unwrap_err().to_string().contains("is something else"));
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let mut open = tree();
        open.file("usr/bin/other", 0o777, "x");
        let image = image(&open, &about()).unwrap();
        assert!(check(&image.layout, &open).unwrap_err().to_string().contains("writable for others"));
        let mut dead = Tree::default();
        dead.file("usr/bin/portcullis", 0o644, "x");
        let image = super::image(&dead, &about()).unwrap();
        assert!(check(&image.layout, &dead).unwrap_err().to_string().contains("cannot be run"));
    }
}
