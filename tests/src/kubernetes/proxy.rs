//! kube-proxy itself, in the node's namespace.

use std::process::Child;

use anyhow::Result;

use super::{Cluster, end};
use crate::{netns::succeed, topology::Proxy};

/// A running kube-proxy. Its rules outlive it, as on a node.
pub struct KubeProxy {
    child: Option<Child>,
}

impl Cluster {
    /// Starts kube-proxy for `node1`, in place of one of the other mode: that one's rules are removed first.
    pub fn start_proxy(&self, mode: Proxy, more: &[&str]) -> Result<KubeProxy> {
        let mode = match mode {
            Proxy::Nftables => "nftables",
            Proxy::Iptables => "iptables",
            Proxy::Later => anyhow::bail!("kube-proxy has no such mode"),
        };
        let kubeconfig = self.admin_kubeconfig();
        let mut words: Vec<String> = [
            "--hostname-override=node1",
            "--cluster-cidr=192.168.0.0/16,fd00:192::/32",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
            // The machine's own limits are left alone.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]
        .map(str::to_owned)
        .to_vec();
        words.push(format!("--kubeconfig={}", kubeconfig.display()));
        words.push(format!("--proxy-mode={mode}"));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        Ok(KubeProxy { child: Some(self.spawn("kube-proxy", &words)?) })
    }

    /// Removes every rule of a kube-proxy that runs no more.
    pub fn clean_proxy(&self) -> Result<()> {
        let mut command = std::process::Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(self.programs.words("kube-proxy")).arg("--cleanup");
        succeed(&mut command, "")
    }

    /// The last words of kube-proxy.
    pub fn proxy_log(&self) -> String {
        self.log("kube-proxy")
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}
