//! Document → validated object. The only way from wire to domain.

use std::sync::Arc;

use super::document::Document;
use super::fields::{At, Context};
use super::kind::{Kind, ObjectKey};
use super::meta::{Head, Meta, head};
use super::{config, core, endpoint, network_policy};
use crate::policy::{
    EndpointSlice, FelixConfiguration, HostEndpoint, KubeControllersConfiguration, Namespace, NetworkSet,
    Node, Pod, Policy, Problem, Profile, Service, ServiceAccount, Severity, Tier, World,
};

/// A valid object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Policy(Policy),
    /// A staged policy that asks for nothing (`stagedAction` Delete or Ignore).
    InertPolicy(Policy),
    Tier(Tier),
    HostEndpoint(HostEndpoint),
    NetworkSet(NetworkSet),
    Profile(Profile),
    Felix(FelixConfiguration),
    KubeControllers(KubeControllersConfiguration),
    Node(Node),
    Namespace(Namespace),
    ServiceAccount(ServiceAccount),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
}

/// What a document amounts to. The problems hold an error exactly when it is `Refused`.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) outcome: Outcome,
    pub(crate) problems: Vec<Problem>,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Accepted(ObjectKey, Arc<Object>),
    /// With the key, when the document could be read that far.
    Refused(Option<ObjectKey>),
    /// A kind that we do not read, by name (D43).
    OtherKind(String),
}

pub(crate) fn read(document: &Document) -> Reading {
    let mut ctx = Context { file: document.file.clone(), line: document.line, ..Context::default() };
    if let Some(problem) = &document.unreadable {
        return Reading { outcome: Outcome::Refused(None), problems: vec![(**problem).clone()] };
    }
    let outcome = read_into(&mut ctx, document);
    ctx.finish();
    let outcome = match outcome {
        Outcome::Accepted(key, _) if ctx.has_errors() => Outcome::Refused(Some(key)),
        other => other,
    };
    Reading { outcome, problems: ctx.problems }
}

fn read_into(ctx: &mut Context, document: &Document) -> Outcome {
    let at = At { path: String::new(), value: &document.value };
    let Some(mut root) = at.fields(ctx) else { return Outcome::Refused(None) };
    let meta = match head(ctx, &mut root) {
        Head::Ours(meta) => meta,
        Head::OtherKind(name) => return Outcome::OtherKind(name),
        Head::Broken(key) => return Outcome::Refused(key),
    };
    root.ignore(&["spec", "status"]);
    let object = convert(ctx, &meta, &mut root);
    if is_owned(meta.key.kind) {
        root.finish(ctx);
    }
    match object {
        Some(object) => Outcome::Accepted(meta.key, Arc::new(object)),
        // Whoever returns nothing has said why.
        None => Outcome::Refused(Some(meta.key)),
    }
}

/// Kinds whose meaning is ours as a whole: unknown fields are refused (D13).
fn is_owned(kind: Kind) -> bool {
    match kind {
        Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::Tier
        | Kind::HostEndpoint
        | Kind::GlobalNetworkSet
        | Kind::NetworkSet => true,
        Kind::Profile
        | Kind::FelixConfiguration
        | Kind::KubeControllersConfiguration
        | Kind::Node
        | Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod => false,
    }
}

fn convert(ctx: &mut Context, meta: &Meta, root: &mut super::fields::Fields<'_>) -> Option<Object> {
    Some(match meta.key.kind {
        Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy => {
            let read = network_policy::policy(ctx, meta, root)?;
            if read.inert { Object::InertPolicy(read.policy) } else { Object::Policy(read.policy) }
        }
        Kind::Tier => Object::Tier(endpoint::tier(ctx, meta, root)?),
        Kind::HostEndpoint => Object::HostEndpoint(endpoint::host_endpoint(ctx, meta, root)?),
        Kind::GlobalNetworkSet | Kind::NetworkSet => {
            Object::NetworkSet(endpoint::network_set(ctx, meta, root)?)
        }
        Kind::Profile => Object::Profile(endpoint::profile(ctx, meta, root)?),
        Kind::FelixConfiguration => {
            let name = &meta.key.name;
            if name != config::DEFAULT_NAME && config::node_of(name).is_none() {
                let message =
                    "only `default` and, for the node NAME, `node.NAME` are read; this one has no effect";
                ctx.report(Severity::Note, "metadata.name", meta.name(), message);
            }
            Object::Felix(config::felix(ctx, meta, root)?)
        }
        Kind::KubeControllersConfiguration => {
            note_other_name(ctx, meta);
            Object::KubeControllers(config::kube_controllers(ctx, meta, root)?)
        }
        Kind::Node => Object::Node(core::node(ctx, meta, root)?),
        Kind::Namespace => Object::Namespace(Namespace { name: meta.name(), labels: meta.labels.clone() }),
        Kind::ServiceAccount => Object::ServiceAccount(ServiceAccount {
            namespace: meta.namespace(),
            name: meta.name(),
            labels: meta.labels.clone(),
        }),
        Kind::Service => Object::Service(core::service(ctx, meta, root)?),
        Kind::EndpointSlice => Object::EndpointSlice(core::endpoint_slice(ctx, meta, root)?),
        Kind::Pod => Object::Pod(core::pod(ctx, meta, root)?),
    })
}

fn note_other_name(ctx: &mut Context, meta: &Meta) {
    if meta.key.name != config::DEFAULT_NAME {
        let message = "only the one called `default` is read; this one has no effect";
        ctx.report(Severity::Note, "metadata.name", meta.name(), message);
    }
}

impl Object {
    /// Puts the object where it is looked for.
    pub(crate) fn place(&self, key: &ObjectKey, world: &mut World) {
        let name = || key.name.clone();
        let pair = || (key.namespace.clone(), key.name.clone());
        match self {
            Self::Policy(policy) => drop(world.policies.insert(policy.tie_break(), policy.clone())),
            Self::InertPolicy(_) => {}
            Self::Tier(tier) => drop(world.tiers.insert(name(), tier.clone())),
            Self::HostEndpoint(endpoint) => drop(world.host_endpoints.insert(name(), endpoint.clone())),
            Self::NetworkSet(set) => drop(world.network_sets.insert(pair(), set.clone())),
            Self::Profile(profile) => drop(world.profiles.insert(name(), profile.clone())),
            Self::Felix(felix) if key.name == config::DEFAULT_NAME => world.felix = felix.clone(),
            Self::KubeControllers(kube) if key.name == config::DEFAULT_NAME => {
                world.kube_controllers = kube.clone()
            }
            Self::Felix(felix) => {
                if let Some(node) = config::node_of(&key.name) {
                    world.felix_of_nodes.insert(node.to_owned(), felix.clone());
                }
            }
            Self::KubeControllers(_) => {}
            Self::Node(node) => drop(world.nodes.insert(name(), node.clone())),
            Self::Namespace(namespace) => drop(world.namespaces.insert(name(), namespace.clone())),
            Self::ServiceAccount(account) => drop(world.service_accounts.insert(pair(), account.clone())),
            Self::Service(service) => drop(world.services.insert(pair(), service.clone())),
            Self::EndpointSlice(slice) => drop(world.endpoint_slices.insert(pair(), slice.clone())),
            Self::Pod(pod) => drop(world.pods.insert(pair(), pod.clone())),
        }
    }

    /// Takes it away from where [`Self::place`] put it.
    pub(crate) fn displace(&self, key: &ObjectKey, world: &mut World) {
        let pair = || (key.namespace.clone(), key.name.clone());
        match self {
            Self::Policy(policy) => drop(world.policies.remove(&policy.tie_break())),
            Self::InertPolicy(_) => {}
            Self::Tier(_) => drop(world.tiers.remove(&key.name)),
            Self::HostEndpoint(_) => drop(world.host_endpoints.remove(&key.name)),
            Self::NetworkSet(_) => drop(world.network_sets.remove(&pair())),
            Self::Profile(_) => drop(world.profiles.remove(&key.name)),
            Self::Felix(_) if key.name == config::DEFAULT_NAME => world.felix = Default::default(),
            Self::KubeControllers(_) if key.name == config::DEFAULT_NAME => {
                world.kube_controllers = Default::default()
            }
            Self::Felix(_) => {
                config::node_of(&key.name).and_then(|node| world.felix_of_nodes.remove(node));
            }
            Self::KubeControllers(_) => {}
            Self::Node(_) => drop(world.nodes.remove(&key.name)),
            Self::Namespace(_) => drop(world.namespaces.remove(&key.name)),
            Self::ServiceAccount(_) => drop(world.service_accounts.remove(&pair())),
            Self::Service(_) => drop(world.services.remove(&pair())),
            Self::EndpointSlice(_) => drop(world.endpoint_slices.remove(&pair())),
            Self::Pod(_) => drop(world.pods.remove(&pair())),
        }
    }
}
