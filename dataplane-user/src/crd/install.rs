//! Installs the definitions into a cluster, and never over those of somebody else.
//!
//! Definitions of Calico's kinds beside Calico's own would do harm that nobody sees: whoever follows policies reads
//! `projectcalico.org/v3` where it is served, so an empty group of ours would hide the policies that are stored in
//! `crd.projectcalico.org/v1`. Hence two guards: what the cluster serves is looked at first, and everything is written by
//! server-side apply without force, which the API server refuses where another manager owns a field.
//!
//! What a Helm release installed stays Helm's: two managers of one field would stop each other's next update. It is held
//! against what this program would write; the same is as good as installed, another version is for `helm upgrade`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Client, Error};
use serde_json::Value;

use super::{GROUP, MANAGED_BY, PART_OF, admission, definitions};

/// Who we are to server-side apply.
pub const FIELD_MANAGER: &str = "portcullis";
/// For a definition to be served.
const PATIENCE: Duration = Duration::from_secs(60);
/// Annotations by which Helm knows what is of a release: its name, and its namespace.
const HELM_RELEASE: [&str; 2] = ["meta.helm.sh/release-name", "meta.helm.sh/release-namespace"];
/// Calico's groups.
const CALICO_GROUPS: [&str; 2] = [GROUP, "crd.projectcalico.org"];

/// What is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Calico's kinds and ours, and admission policies that refuse.
    WithoutCalico,
    /// Only our own kinds, and admission policies that warn.
    BesideCalico,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every object: what was written, and what a Helm release holds as it would have been.
    Installed(Vec<String>),
    /// Nothing was written; why, one reason a line, and what to do.
    Refused { reasons: Vec<String>, remedy: &'static str },
}

const BESIDE_CALICO: &str =
    "Where Calico is, use its definitions: `portcullis crds install --beside-calico`.";
const ASK_THE_OWNER: &str =
    "Whoever owns them brings them to this version: `helm upgrade`, or the manager that is named.";

/// Installs or updates everything of the scope.
///
/// # Errors
/// The API server does not answer, or the user may not do that.
pub async fn install(client: &Client, scope: Scope) -> Result<Outcome> {
    if scope == Scope::WithoutCalico {
        let reasons = strangers(client).await?;
        if !reasons.is_empty() {
            return Ok(Outcome::Refused { reasons, remedy: BESIDE_CALICO });
        }
    }
    let (mut lines, mut ours, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    // Everything on trial first: half an installation is worse than none.
    for object in objects(scope)? {
        match of_helm(client, &object).await? {
            Some(Helm { release, is_same: true }) => {
                lines.push(format!("{} is there: of the Helm release {release}", name_of(&object)));
            }
            Some(Helm { release, is_same: false }) => reasons
                .push(format!("{} is of the Helm release {release}, in another version", name_of(&object))),
            None => {
                reasons.extend(apply(client, &object, true).await?);
                lines.push(name_of(&object));
                ours.push(object);
            }
        }
    }
    if !reasons.is_empty() {
        return Ok(Outcome::Refused { reasons, remedy: ASK_THE_OWNER });
    }
    for object in &ours {
        if let Some(conflict) = apply(client, object, false).await? {
            bail!("{conflict}, a moment after the trial found it free: run this again");
        }
    }
    for object in ours.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        wait_until_served(client, object).await?;
    }
    Ok(Outcome::Installed(lines))
}

/// An object that a Helm release installed.
struct Helm {
    /// `NAMESPACE/NAME`
    release: String,
    /// It says what this program would write.
    is_same: bool,
}

/// Whether a Helm release holds the object.
async fn of_helm(client: &Client, object: &Value) -> Result<Option<Helm>> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = word(&object["metadata"]["name"]);
    let api = api(client, &word(&object["apiVersion"]), &word(&object["kind"]));
    let Some(found) = api.get_opt(&name).await.with_context(|| format!("cannot read {}", name_of(object)))?
    else {
        return Ok(None);
    };
    let [Some(release), Some(namespace)] =
        HELM_RELEASE.map(|key| found.metadata.annotations.as_ref().and_then(|all| all.get(key)))
    else {
        return Ok(None);
    };
    let release = format!("{namespace}/{release}");
    // The server fills in what nobody wrote, so it is asked what it would make of ours.
    let mut wanted = found.clone();
    wanted.metadata.managed_fields = None;
    wanted.data["spec"] = object["spec"].clone();
    let on_trial = PostParams { dry_run: true, ..PostParams::default() };
    let wanted = api
        .replace(&name, &on_trial, &wanted)
        .await
        .with_context(|| format!("cannot compare {}", name_of(object)))?;
    Ok(Some(Helm { release, is_same: wanted.data["spec"] == found.data["spec"] }))
}

fn objects(scope: Scope) -> Result<Vec<Value>> {
    let is_ours = |object: &Value| scope == Scope::WithoutCalico || object["spec"]["group"] != GROUP;
    let definitions = definitions()?.into_iter().map(|manifest| manifest.object).filter(is_ours);
    let [(_, policies), (_, bindings), (_, for_calico)] = admission();
    let bindings = match scope {
        Scope::WithoutCalico => bindings,
        Scope::BesideCalico => for_calico,
    };
    Ok(definitions.chain(policies).chain(bindings).collect())
}

fn name_of(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", word(&object["kind"]), word(&object["metadata"]["name"]))
}

fn api(client: &Client, api_version: &str, kind: &str) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// Who serves Calico's kinds here already.
async fn strangers(client: &Client) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let definitions = api(client, "apiextensions.k8s.io/v1", "CustomResourceDefinition");
    for definition in
        definitions.list(&ListParams::default()).await.context("cannot list CustomResourceDefinitions")?
    {
        let group = definition.data["spec"]["group"].as_str().unwrap_or_default();
        let says =
            |(label, us): (&str, &str)| definition.metadata.labels.as_ref()?.get(label).map(|v| v == us);
        let is_ours = [MANAGED_BY, PART_OF].into_iter().any(|label| says(label) == Some(true));
        if CALICO_GROUPS.contains(&group) && !is_ours {
            let managers: Vec<String> = definition
                .metadata
                .managed_fields
                .iter()
                .flatten()
                // The server writes the status of every definition.
                .filter(|entry| entry.subresource.is_none())
                .filter_map(|entry| entry.manager.clone())
                .collect();
            found.push(format!(
                "CustomResourceDefinition/{} is not ours (managed by {})",
                definition.metadata.name.unwrap_or_default(),
                if managers.is_empty() { "nobody knows whom".to_owned() } else { managers.join(", ") }
            ));
        }
    }
    let services = api(client, "apiregistration.k8s.io/v1", "APIService");
    for service in services.list(&ListParams::default()).await.context("cannot list APIServices")? {
        let group = service.data["spec"]["group"].as_str().unwrap_or_default();
        if CALICO_GROUPS.contains(&group) && !service.data["spec"]["service"].is_null() {
            found.push(format!(
                "APIService/{}: Calico's own API server serves the group",
                service.metadata.name.unwrap_or_default()
            ));
        }
    }
    Ok(found)
}

/// Why it cannot be written, if somebody else owns it.
async fn apply(client: &Client, object: &Value, on_trial: bool) -> Result<Option<String>> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = word(&object["metadata"]["name"]);
    let params = PatchParams {
        dry_run: on_trial,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let api = api(client, &word(&object["apiVersion"]), &word(&object["kind"]));
    match api.patch(&name, &params, &Patch::Apply(object)).await {
        Ok(_) => Ok(None),
        Err(Error::Api(status)) if status.code == 409 => {
            Ok(Some(format!("{}: {}", name_of(object), status.message)))
        }
        Err(error) => Err(error).with_context(|| format!("cannot apply {}", name_of(object))),
    }
}

async fn wait_until_served(client: &Client, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let api = api(client, "apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = api.get(name).await.with_context(|| format!("cannot read {}", name_of(object)))?;
        let conditions = found.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return Ok(());
        }
        if tokio::time::Instant::now() > end {
            bail!("{} is not served after {PATIENCE:?}: {}", name_of(object), Value::from(conditions));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
