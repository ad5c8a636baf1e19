//! In which of its two groups a cluster serves Calico's kinds (`semantics.md` §1.0).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use kube::Client;

use crate::resource::{Kind, STORAGE_VERSION};

/// Kinds by the API version that serves them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    kinds: BTreeMap<String, BTreeSet<String>>,
}

/// Newest first: where both serve a kind, the first is read.
const CALICO_VERSIONS: [&str; 2] = ["projectcalico.org/v3", STORAGE_VERSION];

impl Served {
    /// `kinds` as the API server names them.
    pub fn new(kinds: impl IntoIterator<Item = (String, BTreeSet<String>)>) -> Self {
        Self { kinds: kinds.into_iter().collect() }
    }

    /// The version to read a kind of Calico's in; `None`: the cluster does not know the kind.
    pub fn version_of(&self, kind: Kind) -> Option<String> {
        CALICO_VERSIONS
            .iter()
            .find(|version| self.kinds.get(**version).is_some_and(|kinds| kinds.contains(kind.as_str())))
            .map(|version| (*version).to_owned())
    }

    /// Does the cluster know any kind of Calico's?
    pub fn has_calico(&self) -> bool {
        self.kinds.values().any(|kinds| !kinds.is_empty())
    }
}

/// Asks the API server.
///
/// # Errors
/// It does not answer, or it lists a group that it cannot serve at the moment (an aggregated API server that is down):
/// that is no reason to believe the group's objects gone.
pub async fn discover(client: &Client) -> Result<Served> {
    let groups = client.list_api_groups().await.context("the API server does not list its groups")?;
    let mut served = Served::default();
    for version in CALICO_VERSIONS {
        let listed =
            groups.groups.iter().any(|group| group.versions.iter().any(|v| v.group_version == version));
        if !listed {
            continue;
        }
        let resources = client.list_api_group_resources(version).await.with_context(|| {
            format!("the API server lists {version}, but does not serve it at the moment")
        })?;
        let kinds: BTreeSet<String> =
            resources.resources.into_iter().filter(|r| !r.name.contains('/')).map(|r| r.kind).collect();
        if kinds.is_empty() {
            bail!("the API server serves {version} without any kind");
        }
        served.kinds.insert(version.to_owned(), kinds);
    }
    Ok(served)
}

/// Names the cluster: the UID of its namespace `kube-system`, which lives as long as the cluster's data.
///
/// # Errors
/// The API server does not answer, or the service account may not read that namespace.
pub async fn cluster_id(client: &Client) -> Result<String> {
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client.clone());
    let namespace =
        namespaces.get_metadata("kube-system").await.context("cannot read the namespace kube-system")?;
    namespace.metadata.uid.context("the namespace kube-system has no UID")
}
