//! Who pods are for the API server: tokens as the kubelet asks for them.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Cluster;

const CORE: &str = "/api/v1/namespaces";

impl Cluster {
    /// A token as the kubelet gives it to a new pod of this service account on a node: it names pod and node.
    pub fn pod_token(&self, namespace: &str, account: &str, node: &str) -> Result<String> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": format!("{account}-{node}-")},
            "spec": {"serviceAccountName": account, "nodeName": node,
                     "containers": [{"name": "agent", "image": "portcullis"}]},
        });
        let (code, pod) = self.request("POST", &format!("{CORE}/{namespace}/pods"), Some(&pod))?;
        ensure!(code == 201, "{code} {pod:#}");
        let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
        let of = json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
        self.token(namespace, account, json!({"boundObjectRef": of}))
    }

    /// A token of the service account that no pod has.
    pub fn loose_token(&self, namespace: &str, account: &str) -> Result<String> {
        self.token(namespace, account, json!({}))
    }

    fn token(&self, namespace: &str, account: &str, mut spec: Value) -> Result<String> {
        spec["audiences"] = json!(["https://kubernetes.default.svc"]);
        spec["expirationSeconds"] = 3600.into();
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("{CORE}/{namespace}/serviceaccounts/{account}/token");
        let (code, said) = self.request("POST", &path, Some(&wanted))?;
        said["status"]["token"].as_str().map(str::to_owned).with_context(|| format!("{code} {said:#}"))
    }
}
