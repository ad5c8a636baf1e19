//! The `Dockerfile` without a container engine: `cargo xtask dist image` makes the image, and what the file says of it,
//! of the compiler and of the files that it needs has to be that.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    image::{self, FOLDER, ROOT},
    oci,
    tree::Entry,
};
use crate::{run::root, setup};

/// Where the first stage works.
const WORK: &str = "/portcullis";

/// The stages, each as its lines without comments; a line that ends in a backslash goes on in the next.
fn stages() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("Dockerfile")).unwrap().replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stages: Vec<Vec<String>> = Vec::new();
    for line in lines {
        match (line.starts_with("FROM "), stages.last_mut()) {
            (false, Some(stage)) => stage.push(line.to_owned()),
            _ => stages.push(vec![line.to_owned()]),
        }
    }
    stages
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// The image that comes out is the one whose configuration we write.
#[test]
fn the_image_is_the_one_that_we_write() {
    let config = oci::runtime();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut wanted = vec![
        "FROM scratch".to_owned(),
        format!("COPY --from=build {WORK}/target/{FOLDER}/{ROOT}/ /"),
        format!("USER {}", text(&config["User"])),
        format!("WORKDIR {}", text(&config["WorkingDir"])),
        format!("ENTRYPOINT {}", config["Entrypoint"]),
        format!("CMD {}", config["Cmd"]),
    ];
    wanted.extend(config["Env"].as_array().unwrap().iter().map(|value| format!("ENV {}", text(value))));
    let labels = config["Labels"].as_object().unwrap();
    wanted.extend(labels.iter().map(|(key, value)| format!("LABEL {key}={value}")));
    assert_eq!(config.as_object().unwrap().len(), 6, "a part of the configuration that nothing here knows");
    assert_eq!(sorted(stages().pop().unwrap()), sorted(wanted));
}

/// The program that the image starts is in the tree that is copied, and can be run.
#[test]
fn what_it_starts_is_in_the_tree() {
    let program = std::env::current_exe().unwrap();
    let tree = image::contents(&program, "{}", false).unwrap();
    let config = oci::runtime();
    let entry = config["Entrypoint"][0].as_str().unwrap().trim_start_matches('/');
    let found = tree.entries().find(|(path, _)| *path == entry);
    assert!(matches!(found, Some((_, Entry::File { mode: 0o755, .. }))), "{entry} is not in the tree");
    let path = config["Env"][0].as_str().unwrap().strip_prefix("PATH=/").unwrap();
    assert!(entry.starts_with(path), "the entrypoint is not in PATH");
}

/// The first stage has the compiler that `rust-toolchain.toml` pins, so that rustup fetches no second one, works where
/// the second stage copies from, and builds with the command that we test.
#[test]
fn it_builds_with_the_pinned_compiler() {
    let release = setup::pinned_release().unwrap();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let least = manifest.lines().find_map(|l| l.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(release == least || release.starts_with(&format!("{least}.")), "{release}, and at least {least}");
    let wanted = [
        &format!("FROM rust:{release}-bookworm AS build"),
        "ARG SOURCE_DATE_EPOCH=0",
        &format!("WORKDIR {WORK}"),
        "COPY . .",
        "RUN cargo xtask dist image",
    ];
    let stages = stages();
    assert_eq!((stages.len(), &stages[0][..]), (2, &wanted.map(str::to_owned)[..]));
}

/// `COPY . .` copies what `.dockerignore` lets through: every package of the workspace and what the build reads besides.
#[test]
fn it_is_given_what_the_build_reads() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let rules: Vec<&str> =
        ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(rules[0] == "*" && *rules.last().unwrap() == "**/target", "{rules:?}");
    let is_let_in = |path: &str| {
        rules.iter().filter_map(|rule| rule.strip_prefix('!')).any(|rule| match rule.strip_suffix('*') {
            Some(start) => path.starts_with(start) && !path[start.len()..].contains('/'),
            None => Path::new(path).starts_with(rule),
        })
    };
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    assert!(members.len() > 3, "{members:?}");
    let files = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"].map(str::to_owned);
    for path in members.into_iter().chain(files).chain(image::inputs()) {
        assert!(root().join(&path).exists(), "there is no {path}");
        assert!(is_let_in(&path), "{path} does not reach the build: .dockerignore");
    }
    assert!(!is_let_in("docs"));
}
