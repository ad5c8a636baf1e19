//! What is kept of an object of the API: what somebody here reads. A cluster has tens of thousands of pods, whose
//! status changes often and means nothing here; a change that is not kept is no change.

use kube::api::ApiResource;
use serde_json::{Map, Value};

use Keep::{All, Fields};

/// A field that `kubectl apply` repeats the whole object in.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is kept of a value; of a list, of each of its items.
enum Keep {
    All,
    /// These fields.
    Fields(&'static [(&'static str, Keep)]),
}

const NAMED: &[(&str, Keep)] = &[("name", All), ("namespace", All), ("labels", All)];
const PORTS: Keep =
    Fields(&[("name", All), ("protocol", All), ("port", All), ("nodePort", All), ("targetPort", All)]);
const CONTAINERS: Keep = Fields(&[(
    "ports",
    Fields(&[("name", All), ("protocol", All), ("containerPort", All), ("hostPort", All), ("hostIP", All)]),
)]);
const POD: Keep = Fields(&[
    ("metadata", Fields(NAMED)),
    (
        "spec",
        Fields(&[
            ("nodeName", All),
            ("serviceAccountName", All),
            ("hostNetwork", All),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    ("status", Fields(&[("phase", All), ("podIP", All), ("podIPs", All)])),
]);
const SERVICE: Keep = Fields(&[
    ("metadata", Fields(NAMED)),
    ("spec", Fields(&[("clusterIP", All), ("clusterIPs", All), ("externalIPs", All), ("ports", PORTS)])),
    ("status", Fields(&[("loadBalancer", Fields(&[("ingress", Fields(&[("ip", All), ("ipMode", All)]))]))])),
]);
const ENDPOINT_SLICE: Keep = Fields(&[
    ("metadata", Fields(NAMED)),
    ("addressType", All),
    ("endpoints", Fields(&[("addresses", All), ("conditions", All)])),
    ("ports", PORTS),
]);
// A node's heartbeat and its list of images are the bulk of it.
const NODE: Keep = Fields(&[
    // The UID: the node owns what its agent reports.
    ("metadata", Fields(&[("name", All), ("uid", All), ("labels", All), ("annotations", All)])),
    ("spec", Fields(&[("podCIDR", All), ("podCIDRs", All)])),
    ("status", Fields(&[("addresses", All)])),
]);
const ONLY_NAMED: Keep = Fields(&[("metadata", Fields(NAMED))]);

/// The object with what is kept of its kind, and with version and kind, which items of a list do not carry.
pub(super) fn slim(mut object: Value, resource: &ApiResource) -> Value {
    match resource.kind.as_str() {
        "Pod" => keep(&mut object, &POD),
        "Service" => keep(&mut object, &SERVICE),
        "EndpointSlice" => keep(&mut object, &ENDPOINT_SLICE),
        "Node" => keep(&mut object, &NODE),
        "Namespace" | "ServiceAccount" => keep(&mut object, &ONLY_NAMED),
        // Policy: what is not known there is refused, so nothing of it may get lost.
        _ => {}
    }
    object["apiVersion"] = Value::from(resource.api_version.clone());
    object["kind"] = Value::from(resource.kind.clone());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        // A new version of an object that means the same is no change.
        metadata.remove("resourceVersion");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    object
}

fn keep(value: &mut Value, what: &Keep) {
    let Fields(fields) = what else { return };
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| keep(item, what)),
        Value::Object(map) => {
            let mut kept = Map::new();
            for (name, what) in *fields {
                if let Some(mut inner) = map.remove(*name) {
                    keep(&mut inner, what);
                    kept.insert((*name).to_owned(), inner);
                }
            }
            *map = kept;
        }
        // The reader says what is wrong with it.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{Document, Kind, Object, Store};

    fn resource(kind: Kind) -> ApiResource {
        ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: kind.group().api_version().into(),
            kind: kind.as_str().into(),
            plural: kind.plural().into(),
        }
    }

    fn read(object: Value, kind: Kind) -> Object {
        let mut store = Store::default();
        let report = store.replace(vec![Document::new("a", 0, object)]);
        assert!(!report.has_errors(), "{report:?}");
        let stored = store.list(kind.as_str());
        (*stored.first().expect("it is read").object).clone()
    }

    /// Objects as full as the API gives them: every field that is read has a value that is not its default.
    fn full() -> Vec<(Kind, Value, usize)> {
        let metadata = json!({
            "name": "n", "namespace": "s", "uid": "u", "resourceVersion": "7", "generation": 2,
            "labels": {"app": "web", "kubernetes.io/service-name": "web"},
            "annotations": {"a": "b", LAST_APPLIED: "{}"}, "managedFields": [{}], "ownerReferences": [{"name": "x"}],
        });
        let port = json!({"name": "http", "protocol": "UDP", "containerPort": 80, "hostPort": 8000, "hostIP": "10.0.0.1"});
        vec![
            (
                Kind::Pod,
                json!({
                    "metadata": metadata,
                    "spec": {
                        "nodeName": "node1", "serviceAccountName": "web", "hostNetwork": true, "volumes": [{"name": "v"}],
                        "containers": [{"name": "c", "image": "i", "ports": [port]}],
                        "initContainers": [{"name": "d", "ports": [{"containerPort": 90}]}],
                    },
                    "status": {
                        "phase": "Failed", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}],
                        "conditions": [{"type": "Ready"}], "containerStatuses": [{"image": "i"}],
                    },
                }),
                11,
            ),
            (
                Kind::Service,
                json!({
                    "metadata": metadata,
                    "spec": {
                        "clusterIP": "10.2.0.1", "clusterIPs": ["10.2.0.1", "fd00::2"], "externalIPs": ["192.0.2.1"],
                        "ports": [{"name": "http", "protocol": "UDP", "port": 80, "nodePort": 30080}], "selector": {"a": "b"},
                    },
                    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}]}},
                }),
                11,
            ),
            (
                Kind::EndpointSlice,
                json!({
                    "metadata": metadata, "addressType": "IPv4",
                    "endpoints": [{
                        "addresses": ["10.1.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true},
                        "nodeName": "node1", "targetRef": {"kind": "Pod"}, "zone": "z",
                    }],
                    "ports": [{"name": "http", "protocol": "UDP", "port": 80}],
                }),
                12,
            ),
            (
                Kind::Node,
                json!({
                    "metadata": metadata,
                    "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"], "taints": [{}]},
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "192.0.2.9"}],
                        "images": [{"names": ["i"]}], "conditions": [{"type": "Ready"}],
                    },
                }),
                9,
            ),
            (Kind::Namespace, json!({"metadata": metadata, "status": {"phase": "Active"}}), 4),
            (Kind::ServiceAccount, json!({"metadata": metadata, "secrets": [{}]}), 4),
        ]
    }

    /// Removes the field at each place in turn.
    fn without_one_field(value: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let mut without = map.clone();
                    without.remove(name);
                    all.push(Value::Object(without));
                    for inner in without_one_field(inner) {
                        let mut changed = map.clone();
                        changed.insert(name.clone(), inner);
                        all.push(Value::Object(changed));
                    }
                }
            }
            Value::Array(items) => {
                for (index, inner) in items.iter().enumerate() {
                    for inner in without_one_field(inner) {
                        let mut changed = items.clone();
                        changed[index] = inner;
                        all.push(Value::Array(changed));
                    }
                }
            }
            _ => {}
        }
        all
    }

    #[test]
    fn what_is_left_out_is_read_by_nobody() {
        for (kind, object, least) in full() {
            let resource = resource(kind);
            let mut dressed = object.clone();
            dressed["apiVersion"] = resource.api_version.clone().into();
            dressed["kind"] = resource.kind.clone().into();
            dressed["metadata"]["annotations"] = json!({"a": "b"});
            let kept = slim(object, &resource);
            let meaning = read(kept.clone(), kind);
            assert_eq!(read(dressed, kind), meaning, "{kind}");
            // What is kept is kept for something: most single fields change the meaning when they go.
            let telling = without_one_field(&kept)
                .into_iter()
                .filter(|less| {
                    let mut store = Store::default();
                    store.replace(vec![Document::new("a", 0, less.clone())]);
                    store.list(kind.as_str()).first().is_none_or(|stored| *stored.object != meaning)
                })
                .count();
            assert!(telling >= least, "{kind}: only {telling} fields matter; is the object full?");
            assert!(kept.to_string().find("managedFields").is_none() && !kept.to_string().contains("images"));
        }
    }

    #[test]
    fn policy_is_kept_whole() {
        let policy = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "p", "generation": 3, "uid": "u"}, "spec": {"anything": {"deep": [1]}},
        });
        let noisy =
            json!({"name": "p", "generation": 3, "uid": "u", "resourceVersion": "9", "managedFields": [{}]});
        let mut given = policy.clone();
        given["metadata"] = noisy;
        assert_eq!(slim(given, &resource(Kind::GlobalNetworkPolicy)), policy);
    }
}
