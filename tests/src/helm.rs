//! The chart through Helm's own engine: what a release of it would install.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use portcullis::resource::documents_from_str;
use serde_json::{Value, json};

use crate::{kubernetes::servers::Programs, skip};

/// Of a server that knows everything that the chart can use.
const KUBERNETES: &str = "1.36.0";

/// Our chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/chart")
}

/// Helm, where there is one, and the release that it renders.
pub struct Helm {
    words: Vec<String>,
    pub release: &'static str,
    pub namespace: &'static str,
    pub kubernetes: &'static str,
}

impl Helm {
    /// Finds it, with the release that our manifests are rendered for, or says why the test is skipped.
    pub fn find(test: &str) -> Option<Self> {
        let words = match Programs::find().unwrap() {
            Ok(programs) => programs.words("helm"),
            Err(missing) => {
                skip(test, &missing.0);
                return None;
            }
        };
        let helm = Self { words, release: "portcullis", namespace: "portcullis", kubernetes: KUBERNETES };
        // Assets of others hold the servers, and seldom Helm.
        if helm.run(&["template", "--help"], &[]).is_ok_and(|(works, ..)| works) {
            return Some(helm);
        }
        skip(test, &format!("there is no helm: {:?} does not work", helm.words));
        None
    }

    /// Whether it went well, standard output, standard error.
    pub fn run(&self, words: &[&str], values: &[&str]) -> Result<(bool, String, String)> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(words);
        for value in values {
            command.args(["--set", value]);
        }
        let output = command.output().context("cannot run helm")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }

    pub fn template(&self, values: &[&str]) -> Result<(bool, String, String)> {
        let chart = chart().display().to_string();
        let words =
            ["template", self.release, &chart, "-n", self.namespace, "--kube-version", self.kubernetes];
        self.run(&words, values)
    }

    pub fn objects(&self, values: &[&str]) -> Result<Vec<Value>> {
        let (done, text, error) = self.template(values)?;
        ensure!(done, "{values:?}: {error}");
        let (documents, problems) = documents_from_str("rendered", &text);
        ensure!(problems.is_empty(), "{values:?}: {problems:?}");
        Ok(documents.iter().map(|document| Value::clone(&document.value)).collect())
    }

    /// The same as `helm install` writes them: it says whose they are.
    pub fn installed(&self, values: &[&str]) -> Result<Vec<Value>> {
        let mut objects = self.objects(values)?;
        for object in &mut objects {
            let metadata = &mut object["metadata"];
            metadata["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
            metadata["annotations"]["meta.helm.sh/release-name"] = json!(self.release);
            metadata["annotations"]["meta.helm.sh/release-namespace"] = json!(self.namespace);
        }
        Ok(objects)
    }
}
