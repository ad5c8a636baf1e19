//! Requests to the API server, and what their failure means.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::time::timeout;

use super::crd::CRD_FILE;
use super::types::{Fields, NodePolicyStatus, Report};
use crate::kubernetes::watch::chain;

/// Under which the fields of a report are ours (server-side apply).
pub const FIELD_MANAGER: &str = "portcullis";
/// An API server that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The cluster has no kind NodePolicyStatus.
    NoSuchKind,
    /// The object is larger than the API server takes.
    TooLarge(String),
    /// It was understood and refused: more of the same will be too.
    Refused(String),
    /// No answer, or one that may be another one later.
    NotNow(String),
}

impl Failure {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::NoSuchKind => {
                format!("the cluster has no kind NodePolicyStatus: kubectl apply -f {CRD_FILE}")
            }
            Self::TooLarge(text) | Self::Refused(text) | Self::NotNow(text) => text.clone(),
        }
    }

    fn of(error: &kube::Error, right: &str) -> Self {
        let kube::Error::Api(status) = error else { return Self::NotNow(chain(error)) };
        let message = status.message.trim();
        match status.code {
            404 => Self::NoSuchKind,
            413 => Self::TooLarge(message.to_owned()),
            _ if message.contains("too large") => Self::TooLarge(message.to_owned()),
            401 => Self::Refused(format!("{message}; the credentials are refused")),
            403 => Self::Refused(format!("{message}; the agent's ClusterRole must allow {right}")),
            400 | 422 => Self::Refused(format!(
                "{message}; is the CustomResourceDefinition of this version? kubectl apply -f {CRD_FILE}"
            )),
            500 if message.contains("field not declared in schema") => Self::Refused(format!(
                "{message}; the CustomResourceDefinition is of another version: kubectl apply -f {CRD_FILE}"
            )),
            code => Self::NotNow(format!("{code}: {message}")),
        }
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>, right: &str) -> Result<T, Failure> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::of(&error, right)),
        Err(_) => Err(Failure::NotNow(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// One node's object.
#[derive(Clone)]
pub struct Store {
    client: Client,
    node: String,
}

impl Store {
    /// `node`: whose.
    pub fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }

    fn api(&self) -> Api<NodePolicyStatus> {
        Api::all(self.client.clone())
    }

    /// What is there; `None`: nothing, or nothing that can be read.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn read(&self) -> Result<Option<Report>, Failure> {
        let right = "get of nodepolicystatuses in portcullis.dev";
        match within(self.api().get_opt(&self.node), right).await {
            Ok(found) => Ok(found.and_then(|object| object.status)),
            // Nothing of the kind; the first write says so.
            Err(Failure::NoSuchKind) => Ok(None),
            // Of another version: what it says of itself cannot be compared.
            Err(Failure::NotNow(text)) if text.contains("deserializ") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Replaces what is there, or makes it. `owner`: UID of the Node, with which the object goes.
    ///
    /// # Errors
    /// It was not written.
    pub async fn write(&self, report: &Report, owner: Option<&str>) -> Result<(), Failure> {
        let owner = owner.map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node.clone(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
        let object = NodePolicyStatus {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Fields {},
            status: Some(report.clone()),
        };
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        let right = "create and patch of nodepolicystatuses in portcullis.dev";
        // Only metadata comes back: the object may be large, and it is ours.
        let api: Api<NodePolicyStatus> = self.api();
        let patch = Patch::Apply(&object);
        within(api.patch_metadata(&self.node, &params, &patch), right).await.map(drop)
    }

    /// Posts an Event. One that is there already is as good.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn post(&self, namespace: &str, event: &Event) -> Result<(), Failure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let right = "create of events in events.k8s.io";
        let answer = timeout(PATIENCE, api.create(&params, event)).await;
        match answer {
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::of(&error, right)),
            Err(_) => Err(Failure::NotNow(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}
