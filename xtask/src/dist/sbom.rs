//! What is in the binary: a software bill of materials in CycloneDX's JSON, from what cargo itself resolves for this
//! binary, its target and its features. What is only needed to build, and macros, are not linked and not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::run::{cargo, command, printed, root};

/// The target of the kernel programs, whose object is embedded in the binary.
const BPF: &str = "bpfel-unknown-none";

/// One crate as it is linked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Crate {
    licence: String,
    repository: String,
    features: BTreeSet<String>,
    /// Whether it is of this repository.
    own: bool,
    /// `name@version` of what it links.
    needs: BTreeSet<String>,
}

/// By `name@version`.
type Crates = BTreeMap<String, Crate>;

/// What a bill is about.
pub(crate) struct About<'a> {
    pub(crate) version: &'a str,
    /// E.g. `x86_64-unknown-linux-gnu`.
    pub(crate) target: &'a str,
    /// `Some`: the C library is linked in, from this version of Debian's libc6-dev.
    pub(crate) static_libc: Option<&'a str>,
}

/// The bill. The same tree gives the same bytes: it has no time and no serial number.
pub(crate) fn bill(about: &About<'_>) -> Result<String> {
    let mut crates = linked("dataplane-user", about.target)?;
    let kernel = linked("dataplane-ebpf", BPF)?;
    merge(&mut crates, kernel);
    // Its object stands in the binary as data: cargo knows nothing of that.
    if let Some(agent) = crates.get_mut(&format!("dataplane-user@{}", about.version)) {
        agent.needs.insert(format!("dataplane-ebpf@{}", about.version));
    }
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let rust =
        printed(command("rustc", Duration::from_secs(60)).arg("--version")).context("rustc --version")?;
    let rust = rust.split_whitespace().nth(1).context("rustc says no version")?;
    let text = serde_json::to_string_pretty(&document(about, &crates, &checksums(&lock), rust)?)?;
    Ok(text + "\n")
}

/// What cargo links into a package's binary.
fn linked(package: &str, target: &str) -> Result<Crates> {
    let mut tree = cargo(Duration::from_secs(300));
    tree.args(["tree", "--locked", "--package", package, "--target", target]);
    tree.args(["--edges", "normal,no-proc-macro", "--no-dedupe", "--prefix", "depth"]);
    tree.args(["--format", "|{p}|{l}|{r}|{f}"]);
    let text = printed(&mut tree).with_context(|| format!("cargo tree of {package} failed"))?;
    parse(&text)
}

/// Lines `DEPTH|NAME vVERSION (SOURCE)|LICENCE|REPOSITORY|FEATURES`, each below the one that needs it.
fn parse(text: &str) -> Result<Crates> {
    let mut crates = Crates::new();
    let mut above: Vec<String> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [depth, package, licence, repository, features] = fields.as_slice() else {
            bail!("cargo tree said {line:?}");
        };
        let depth: usize = depth.parse().with_context(|| format!("cargo tree said {line:?}"))?;
        let mut words = package.split_whitespace();
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let id = format!("{name}@{}", version.trim_start_matches('v'));
        above.truncate(depth);
        if let Some(parent) = above.last().and_then(|parent| crates.get_mut(parent)) {
            parent.needs.insert(id.clone());
        }
        above.push(id.clone());
        let entry = crates.entry(id).or_default();
        entry.licence = (*licence).to_owned();
        entry.repository = (*repository).to_owned();
        entry.features.extend(features.split(',').filter(|f| !f.is_empty()).map(str::to_owned));
        entry.own = package.contains(" (/");
    }
    Ok(crates)
}

fn merge(into: &mut Crates, more: Crates) {
    for (id, other) in more {
        let entry = into.entry(id).or_insert_with(|| other.clone());
        entry.features.extend(other.features);
        entry.needs.extend(other.needs);
    }
}

/// `name@version` → SHA-256 of the crate's archive, as Cargo.lock has it.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start_matches(" = ").trim_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let id = format!("{}@{}", value(block, "name")?, value(block, "version")?);
            Some((id, value(block, "checksum")?))
        })
        .collect()
}

fn document(
    about: &About<'_>,
    crates: &Crates,
    checksums: &BTreeMap<String, String>,
    rust: &str,
) -> Result<Value> {
    let main = format!("dataplane-user@{}", about.version);
    let agent = crates.get(&main).with_context(|| format!("cargo tree names no {main}"))?;
    let mut components = vec![json!({
        "type": "library", "bom-ref": format!("rust-std@{rust}"), "name": "rust-std", "version": rust,
        "description": "The Rust standard library, with what it is built from",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    })];
    if let Some(version) = about.static_libc {
        components.push(json!({
            "type": "library", "bom-ref": format!("glibc@{version}"), "name": "glibc", "version": version,
            "purl": format!("pkg:deb/debian/libc6-dev@{version}"),
            "licenses": [{"expression": "LGPL-2.1-or-later"}],
        }));
    }
    for (id, krate) in crates.iter().filter(|(id, _)| **id != main) {
        components.push(component(id, krate, checksums)?);
    }
    let mut needs: Vec<Value> =
        crates.iter().map(|(id, krate)| json!({"ref": id, "dependsOn": krate.needs})).collect();
    needs.sort_by_key(|entry| entry["ref"].to_string());
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": main, "name": "portcullis", "version": about.version,
                "licenses": [{"expression": agent.licence}],
                "properties": [
                    {"name": "cargo:target", "value": about.target},
                    {"name": "cargo:features", "value": words(&agent.features)},
                ],
            },
        },
        "components": components,
        "dependencies": needs,
    }))
}

fn component(id: &str, krate: &Crate, checksums: &BTreeMap<String, String>) -> Result<Value> {
    let (name, version) = id.split_once('@').context("an id is name@version")?;
    let mut entry = json!({
        "type": "library", "bom-ref": id, "name": name, "version": version,
        // Older crates separate licences to choose from by a slash.
        "licenses": [{"expression": krate.licence.replace('/', " OR ")}],
        "properties": [{"name": "cargo:features", "value": words(&krate.features)}],
    });
    if !krate.own {
        let sum = checksums.get(id).with_context(|| format!("Cargo.lock has no checksum of {id}"))?;
        entry["purl"] = json!(format!("pkg:cargo/{id}"));
        entry["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        if !krate.repository.is_empty() {
            entry["externalReferences"] = json!([{"type": "vcs", "url": krate.repository}]);
        }
    }
    Ok(entry)
}

fn words(features: &BTreeSet<String>) -> String {
    features.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0|dataplane-user v0.1.0 (/src/dataplane-user)|Apache-2.0 OR MIT||default,http\n\
                        1|a v1.0.0|MIT/Apache-2.0|https://a.example|std\n\
                        2|b v2.0.0|MIT|https://b.example|\n\
                        1|b v2.0.0|MIT|https://b.example|alloc\n";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\n\
                        checksum = \"aa\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\nchecksum = \"bb\"\n\n\
                        [[package]]\nname = \"unused\"\nversion = \"3.0.0\"\nchecksum = \"cc\"\n";

    #[test]
    fn what_is_linked_is_in_the_bill_and_nothing_else() {
        let crates = parse(TREE).unwrap();
        let about = About { version: "0.1.0", target: "x", static_libc: Some("2.36-9") };
        let bill = document(&about, &crates, &checksums(LOCK), "1.95.0").unwrap();
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|c| c["bom-ref"].clone()).collect();
        assert_eq!(names, ["rust-std@1.95.0", "glibc@2.36-9", "a@1.0.0", "b@2.0.0"]);
        let a = &bill["components"][2];
        assert_eq!(a["hashes"][0]["content"], "aa");
        assert_eq!(a["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][3]["properties"][0]["value"], "alloc");
        let needs = |id: &str| {
            let all = bill["dependencies"].as_array().unwrap();
            all.iter().find(|d| d["ref"] == id).unwrap()["dependsOn"].clone()
        };
        assert_eq!(needs("dataplane-user@0.1.0"), json!(["a@1.0.0", "b@2.0.0"]));
        assert_eq!(needs("a@1.0.0"), json!(["b@2.0.0"]));
        assert_eq!(needs("b@2.0.0"), json!([]));
    }

    #[test]
    fn a_crate_without_a_checksum_is_an_error() {
        let crates = parse(TREE).unwrap();
        let about = About { version: "0.1.0", target: "x", static_libc: None };
        let error =
            document(&about, &crates, &checksums("[[package]]\nname = \"a\"\n"), "1.95.0").unwrap_err();
        assert!(error.to_string().contains("no checksum of a@1.0.0"), "{error}");
    }
}
