//! Where documents come from: a folder, or the Kubernetes API. The agent does not care which.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::sync::mpsc::UnboundedSender;

#[cfg(feature = "kubernetes")]
use super::Role;
use super::accepted::{Accepted, Kept};
use super::folder::Folder;
use super::{Event, Options};
use crate::index::Snapshot;
use crate::policy::{Changes, Problem, Settings, World};
use crate::state::lastgood::LastGood;
use crate::state::{KubernetesState, State};

/// How the API is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// `None`: as `kubectl` finds it, else the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the current one.
    pub context: Option<String>,
    /// Follow whatever cluster answers, even an empty one.
    pub accept_new_cluster: bool,
}

/// One of the two.
pub(super) enum Source {
    Folder(Box<Folder>),
    #[cfg(feature = "kubernetes")]
    Cluster(Box<super::cluster::ClusterSource>),
}

/// What became of the last good state that an agent before us left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Restored {
    /// All that was in force is known again.
    pub complete: bool,
    /// Why it is not, if there was one.
    pub ignored: Option<String>,
}

impl Source {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let Some(_kubernetes) = &options.kubernetes else {
            return Ok(Self::Folder(Box::new(Folder::new(options.policies.clone()))));
        };
        #[cfg(feature = "kubernetes")]
        return Ok(Self::Cluster(Box::new(super::cluster::ClusterSource::new(_kubernetes.clone()))));
        #[cfg(not(feature = "kubernetes"))]
        anyhow::bail!(
            "this portcullis was built without Kubernetes: use one built with its feature `kubernetes`"
        );
    }

    /// Takes the last good state. Without one the folder must be readable: a mistyped path must not pass for "no
    /// policies".
    pub(super) fn restore(&mut self, options: &Options) -> Result<Restored> {
        let problem = match LastGood::load(&options.state_dir, &options.policies) {
            Ok(Some(last)) => match self.take(&last).first() {
                None => return Ok(Restored { complete: true, ignored: None }),
                Some(problem) => Some(format!("this build refuses a part of it: {problem}")),
            },
            Ok(None) => None,
            Err(e) => Some(format!("{e:#}")),
        };
        if let Some(why) = &problem {
            tracing::error!("the last good state is ignored: {why}");
        }
        if matches!(self, Self::Folder(_)) {
            std::fs::read_dir(&options.policies).with_context(|| {
                format!(
                    "cannot read the policies folder {}: create it, or name another with --policies",
                    options.policies.display()
                )
            })?;
        }
        Ok(Restored { complete: false, ignored: problem })
    }

    fn take(&mut self, last: &LastGood) -> Vec<Problem> {
        match self {
            Self::Folder(folder) => folder.restore(last),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.restore(last),
        }
    }

    /// Begins to follow what does not stand still for a look. A floor has the last good state only: it must not wait
    /// for the network that it precedes.
    pub(super) fn follow(&mut self, _options: &Options, _sender: &UnboundedSender<Event>) {
        match self {
            Self::Folder(_) => {}
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => {
                if _options.role == Role::Agent {
                    cluster.follow(_options, _sender.clone());
                }
            }
        }
    }

    /// The folder, whose changes can be tried and undone; `None`: the API.
    pub(super) fn folder_path<'a>(&self, options: &'a Options) -> Option<&'a Path> {
        matches!(self, Self::Folder(_)).then_some(options.policies.as_path())
    }

    /// Looks again. False when nothing changed.
    pub(super) fn read(&mut self) -> bool {
        match self {
            Self::Folder(folder) => folder.read(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.read(),
        }
    }

    fn accepted(&self) -> &Accepted {
        match self {
            Self::Folder(folder) => folder.accepted(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.accepted(),
        }
    }

    /// Everything that is valid.
    pub(super) fn world(&self) -> &World {
        self.accepted().world()
    }

    /// What changed in [`Self::world`] since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        match self {
            Self::Folder(folder) => folder.accepted_mut().take_changes(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.accepted_mut().take_changes(),
        }
    }

    /// Of the last look.
    pub(super) fn problems(&self) -> &[Problem] {
        self.accepted().problems()
    }

    /// What goes on in an older version, by name.
    pub(super) fn kept(&self) -> Vec<Kept> {
        self.accepted().kept()
    }

    /// What the next agent needs if it finds this source broken.
    pub(super) fn last_good(&self) -> LastGood {
        match self {
            Self::Folder(folder) => folder.last_good(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.last_good(),
        }
    }

    /// Why what is known may not come into force now: it is not whole (D46). What is in force stays.
    pub(super) fn holds_back(&self) -> Option<String> {
        match self {
            Self::Folder(_) => None,
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.holds_back(),
        }
    }

    /// What is wrong with the source itself, by place.
    pub(super) fn troubles(&self) -> std::collections::BTreeMap<String, String> {
        match self {
            Self::Folder(_) => Default::default(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.troubles().clone(),
        }
    }

    /// The settings of the node's file, with what the source knows better.
    pub(super) fn settings(&self, options: &Options) -> Settings {
        match self {
            Self::Folder(_) => options.settings.clone(),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => Settings {
                node_port_addresses: cluster
                    .node_ports(&options.settings.node_port_addresses, &options.node)
                    .nets,
                ..options.settings.clone()
            },
        }
    }

    /// What is accepted now was put in force.
    pub(super) fn came_into_force(&mut self) {
        match self {
            Self::Folder(_) => {}
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.came_into_force(),
        }
    }

    /// Tells the cluster, if it is the source, and says in the state what is known of that.
    pub(super) fn report(&mut self, _state: &mut State, _snapshot: &Snapshot) {
        match self {
            Self::Folder(_) => {}
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.report(_state, _snapshot),
        }
    }

    /// The agent ends.
    pub(super) async fn stop(&mut self) {
        match self {
            Self::Folder(_) => {}
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => cluster.stop().await,
        }
    }

    /// For `status`; `None`: a folder.
    pub(super) fn kubernetes(&self, _options: &Options) -> Option<KubernetesState> {
        match self {
            Self::Folder(_) => None,
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => {
                Some(cluster.state(&_options.settings.node_port_addresses, &_options.node))
            }
        }
    }
}
