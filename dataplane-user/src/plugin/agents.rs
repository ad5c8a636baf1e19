//! The agents' pods, as the API shows them.

use std::collections::BTreeMap;

use serde_json::Value;

/// Pods of agents carry it.
pub const LABEL: &str = "app.kubernetes.io/name=portcullis";
/// How the program is called in the agent's image, and its container in the pod.
const NAME: &str = "portcullis";

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    pub node: String,
    pub pod: String,
    pub container: String,
    /// The program in the container.
    pub program: String,
    /// `--state-dir`, where the container's arguments name one.
    pub state_dir: Option<String>,
    /// Why it does not run, if so: `Pending`, `CrashLoopBackOff`.
    pub not_running: Option<String>,
}

/// One for each node. While a node's pod is replaced there are two: the one that runs counts, the newer one among equals.
pub fn of_list(list: &Value) -> Vec<AgentPod> {
    let mut best: BTreeMap<String, ((bool, String), AgentPod)> = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let Some(agent) = of_pod(pod) else { continue };
        let dies = !pod["metadata"]["deletionTimestamp"].is_null();
        let rank = (agent.not_running.is_none() && !dies, text(&pod["metadata"]["creationTimestamp"]));
        match best.get(&agent.node) {
            Some((other, _)) if *other >= rank => {}
            _ => {
                best.insert(agent.node.clone(), (rank, agent));
            }
        }
    }
    best.into_values().map(|(_, agent)| agent).collect()
}

/// `None`: on no node yet, or without any container.
fn of_pod(pod: &Value) -> Option<AgentPod> {
    let node = text(&pod["spec"]["nodeName"]);
    let containers = pod["spec"]["containers"].as_array()?;
    let container = containers.iter().find(|c| c["name"] == NAME).or_else(|| containers.first())?;
    if node.is_empty() {
        return None;
    }
    let words: Vec<String> = ["command", "args"]
        .iter()
        .flat_map(|field| container[*field].as_array().into_iter().flatten())
        .map(text)
        .collect();
    // The chart's mode `detach`.
    let detaches = words.iter().find(|w| !w.ends_with(NAME)).is_some_and(|word| word == "detach");
    let not_running = match detaches {
        true => Some("its pod takes policy off the node (detach)".to_owned()),
        false => not_running(pod, &text(&container["name"])),
    };
    let is_ours = |word: &&String| word.rsplit('/').next() == Some(NAME);
    Some(AgentPod {
        node,
        pod: text(&pod["metadata"]["name"]),
        container: text(&container["name"]),
        program: words.first().filter(is_ours).map_or_else(|| NAME.to_owned(), Clone::clone),
        state_dir: option(&words, "--state-dir"),
        not_running,
    })
}

/// The value of `--name VALUE` or `--name=VALUE`.
fn option(words: &[String], name: &str) -> Option<String> {
    let at = words.iter().position(|word| word.split('=').next() == Some(name))?;
    let value = words[at].split_once('=').map(|(_, value)| value.to_owned());
    value.or_else(|| words.get(at + 1).cloned())
}

fn not_running(pod: &Value, container: &str) -> Option<String> {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let state = statuses.into_iter().flatten().find(|s| s["name"] == container).map(|s| &s["state"]);
    if let Some(waiting) = state.and_then(|s| s.get("waiting").or_else(|| s.get("terminated"))) {
        let reason = text(&waiting["reason"]);
        return Some(if reason.is_empty() { "not running".to_owned() } else { reason });
    }
    match text(&pod["status"]["phase"]).as_str() {
        "Running" => None,
        "" => Some("Pending".to_owned()),
        other => Some(other.to_owned()),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, born: &str, phase: &str) -> Value {
        json!({
            "metadata": {"name": name, "creationTimestamp": born},
            "spec": {"nodeName": node, "containers": [{"name": "portcullis", "args": ["run", "--kubernetes"]}]},
            "status": {"phase": phase},
        })
    }

    #[test]
    fn one_agent_for_each_node() {
        let list = json!({"items": [
            pod("old", "n1", "2026-01-01T00:00:00Z", "Running"),
            pod("new", "n1", "2026-01-02T00:00:00Z", "Pending"),
            pod("b", "n2", "2026-01-01T00:00:00Z", "Running"),
            pod("c", "n2", "2026-01-03T00:00:00Z", "Running"),
            pod("nowhere", "", "2026-01-03T00:00:00Z", "Pending"),
        ]});
        let names: Vec<_> = of_list(&list).into_iter().map(|a| (a.node, a.pod, a.not_running)).collect();
        assert_eq!(names, [("n1".into(), "old".into(), None), ("n2".into(), "c".into(), None)]);
    }

    #[test]
    fn a_pod_that_detaches_is_no_agent() {
        let mut pod = pod("p", "n1", "", "Running");
        pod["spec"]["containers"][0]["args"] = json!(["detach", "--stay"]);
        let why = of_pod(&pod).unwrap().not_running.unwrap();
        assert!(why.contains("detach"), "{why}");
    }

    #[test]
    fn what_the_container_says_of_itself_counts() {
        let mut pod = pod("p", "n1", "", "Running");
        pod["spec"]["containers"] = json!([
            {"name": "sidecar"},
            {"name": "portcullis", "command": ["/bin/portcullis", "run"], "args": ["--state-dir=/state"]},
        ]);
        pod["status"]["containerStatuses"] =
            json!([{"name": "portcullis", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        let agent = of_pod(&pod).unwrap();
        assert_eq!((agent.container.as_str(), agent.program.as_str()), ("portcullis", "/bin/portcullis"));
        assert_eq!(agent.state_dir.as_deref(), Some("/state"));
        assert_eq!(agent.not_running.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(option(&["--state-dir".into(), "/x".into()], "--state-dir").as_deref(), Some("/x"));
    }
}
