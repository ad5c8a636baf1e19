//! The rendered manifests in a real cluster, as far as one goes without a kubelet.

use std::{
    fs,
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    kubernetes::{Cluster, servers::Programs},
    pod::{Manifest, Pod, Twist},
    probe::Got,
    process::agent_program,
    skip,
    topology::policies,
};

use super::{DETACH, ENFORCE, Floor, IN_FORCE, answer, run};

/// Where an object lives in the API; kinds of the manifests.
fn path_of(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = word(&object["apiVersion"]);
    let top = if version.contains('/') { "apis" } else { "api" };
    let namespace = match word(&object["metadata"]["namespace"]) {
        none if none.is_empty() => none,
        name => format!("/namespaces/{name}"),
    };
    let kind = word(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("/{top}/{version}{namespace}/{plural}/{}", word(&object["metadata"]["name"]))
}

/// The rendered manifests are taken by a real API server, strictly, and what they install works: the pod finds the server
/// by its service account, follows it, and is ready by the probe of the manifest.
#[test]
fn the_manifests_work_in_a_cluster() {
    let test = "the_manifests_work_in_a_cluster";
    let programs = match Programs::find().unwrap() {
        Ok(programs) => programs,
        Err(missing) => return skip(test, &missing.0),
    };
    PROGRAMS.set(programs).unwrap_or_default();
    run(test, |case| {
        let cluster = Cluster::start(&case.lab.node, PROGRAMS.get().context("no programs")?.clone())?;
        for file in [ENFORCE, DETACH] {
            for object in &Manifest::read(file)?.objects {
                let path = path_of(object);
                let strictly = format!("{path}?fieldManager=lab&force=true&fieldValidation=Strict");
                let (code, said) =
                    cluster.request("PATCH", &format!("{strictly}&dryRun=All"), Some(object))?;
                ensure!(code == 200 || code == 201, "{file}: {path}: {code} {said}");
                // The DaemonSet is ours to run: there is no kubelet.
                if file == ENFORCE && object["kind"] != "DaemonSet" {
                    cluster.request("PATCH", &strictly, Some(object))?;
                }
            }
        }
        // A server that takes anything would prove nothing.
        let mut wrong =
            case.manifest.objects.iter().find(|o| o["kind"] == "DaemonSet").context("none")?.clone();
        wrong["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
        let path = format!("{}?fieldManager=lab&fieldValidation=Strict&dryRun=All", path_of(&wrong));
        let (code, said) = cluster.request("PATCH", &path, Some(&wrong))?;
        ensure!(code == 400 || code == 500, "a misspelt field was taken: {code} {said}");

        let account = account(&cluster)?;
        let twist = Twist { account: Some(account.path()), ..Twist::default() };
        cluster.define("projectcalico.org/v3")?;
        cluster.apply_all(&policies().join("nodeport/base"))?;
        let mut pod = Pod::start(&case.manifest, &case.image, &case.lab.node, &case.home, &twist)?;
        pod.says(IN_FORCE)?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence, "{}", pod.log());
        assert_eq!(case.node_port(&case.lab.peer)?, answer(), "{}", pod.log());

        // What it says of its node passes the admission policy that came with the manifests.
        let end = Instant::now() + Duration::from_secs(20);
        let report = "/apis/portcullis.dev/v1alpha1/nodepolicystatuses/node1";
        while cluster.request("GET", report, None)?.0 != 200 {
            ensure!(Instant::now() < end, "no NodePolicyStatus: {:#}\n{}", case.home.status()?, pod.log());
            thread::sleep(Duration::from_millis(200));
        }

        // As the kubelet asks.
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &case.manifest.container[probe]["httpGet"];
            let word = |key: &str| get[key].as_str().unwrap_or_default().to_owned();
            let url = format!("http://{}:{}{}", word("host"), get["port"], word("path"));
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let output =
                    case.lab.node.command("curl").args(["-s", "-w", " %{http_code}", &url]).output()?;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                if said.ends_with(" 200") {
                    break;
                }
                ensure!(Instant::now() < end, "{url}: {said}\n{}", pod.log());
                thread::sleep(Duration::from_millis(200));
            }
        }
        pod.terminate()?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence);

        // A boot: nothing is pinned any more, and there is no API server. The host's floor knows what the pod enforced.
        drop(cluster);
        let detached =
            Command::new(agent_program()?).args(["detach", "--pin-dir"]).arg(case.home.pin_dir()).status()?;
        ensure!(detached.success(), "detach");
        assert_eq!(case.node_port(&case.lab.outside)?, answer());
        let floor = Floor::start(case, &["--kubernetes"])?;
        assert_eq!(case.node_port(&case.lab.outside)?, Got::Silence);
        assert_eq!(case.node_port(&case.lab.peer)?, answer());
        drop(floor);
        Ok(())
    });
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// What the kubelet mounts into a pod of the manifests' service account.
fn account(cluster: &Cluster) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let config: Value = serde_json::from_str(&fs::read_to_string(cluster.kubeconfig())?)?;
    let authority =
        config["clusters"][0]["cluster"]["certificate-authority"].as_str().context("no authority")?;
    fs::copy(authority, folder.path().join("ca.crt"))?;
    let token = cluster.pod_token("portcullis", "portcullis", "node1")?;
    fs::write(folder.path().join("token"), token)?;
    fs::write(folder.path().join("namespace"), "portcullis")?;
    Ok(folder)
}
