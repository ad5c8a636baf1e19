//! The connection: a kubeconfig, or the service account of a pod.

use std::path::Path;

use anyhow::{Context, Result};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// Connects to the API server. Nothing is asked of it yet, so this works without it.
///
/// `kubeconfig`: a file; `None`: `$KUBECONFIG`, `~/.kube/config`, else the service account of this pod.
/// `context`: of the file; `None`: its current one.
///
/// # Errors
/// No configuration at all, an unreadable one, or certificates that are none.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?
        }
        None if context.is_some() => Config::from_kubeconfig(&options)
            .await
            .context("no kubeconfig has this context; name the file with --kubeconfig")?,
        None => Config::infer().await.context(
            "there is neither a kubeconfig nor a service account; name a file with --kubeconfig, or run in a pod \
             whose service account is mounted",
        )?,
    };
    Client::try_from(config).context("cannot set up TLS for the API server")
}
