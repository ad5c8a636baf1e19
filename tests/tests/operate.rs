//! What an operator asks a node every day, of a real agent and of what it left behind. About 15 s in all.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use dataplane_common::abi::{RuleAction, RuleEntry};
use dataplane_common::names;
use portcullis::{
    inspect::{maps::all, render::is_sliced},
    maps::{
        Pinned,
        pinned::{now_ns, slot_in_force},
    },
};
use serde_json::Value;
use tests::{
    can_run,
    probe::{Got, ask},
    process::{Agent, Home, Policies, Said, agent_program},
    topology::{Lab, NODE, OUTSIDE, Proxy, SSH_SAYS, policies},
};

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// Logs what comes to port 8080, then denies all that comes in.
const LOG_AND_DENY: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: watch-8080}
spec:
  order: 1
  selector: role == 'node'
  types: [Ingress]
  ingress:
  - {action: Log, protocol: TCP, destination: {ports: [8080]}}
  - {action: Deny, protocol: TCP, destination: {ports: [8080]}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";

/// For the agent to see what changed, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer holds, or says what the last one was.
fn until(home: &Home, lab: &Lab, words: &[&str], holds: impl Fn(&Said) -> bool) -> Result<Said> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = home.portcullis(&lab.node, words)?;
        if holds(&said) {
            return Ok(said);
        }
        anyhow::ensure!(Instant::now() < end, "{words:?} did not come to it: {said:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

fn events(text: &str) -> Vec<Value> {
    json_lines(text).into_iter().filter(|l| l["kind"] == "Event").collect()
}

#[test]
fn observe_with_and_without_an_agent() {
    run("observe_with_and_without_an_agent", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("all.yaml", LOG_AND_DENY)?;
        let (agent, generation) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());

        let observe = ["observe", "-o", "json", "--policy", "gnp/watch-8080"];
        // At least the first SYN's, and all that the agent has yet to read.
        let mut last = 0;
        let end = Instant::now() + PATIENCE;
        let said = loop {
            let said = home.portcullis(&lab.node, &observe)?;
            let count = events(&said.stdout).len();
            if count >= 2 && count == last {
                break said;
            }
            anyhow::ensure!(Instant::now() < end, "no events: {said:#?}");
            last = count;
            thread::sleep(Duration::from_millis(500));
        };
        let seen = events(&said.stdout);
        let log = seen.iter().find(|e| e["event"] == "log").context("no log event")?;
        let deny = seen.iter().find(|e| e["event"] == "verdict").context("no verdict event")?;
        for event in [log, deny] {
            assert_eq!(event["source"], OUTSIDE.to_string());
            assert_eq!(event["destination"], NODE.to_string());
            assert_eq!((&event["destinationPort"], &event["protocol"]), (&8080.into(), &"TCP".into()));
            assert_eq!((&event["device"], &event["hook"]), (&"eth0".into(), &"ingress".into()));
            assert_eq!((&event["stage"], &event["generation"]), (&"normal".into(), &generation.into()));
            assert_eq!(event["policy"], "GlobalNetworkPolicy/watch-8080");
        }
        assert_eq!((&log["rule"], &log["verdict"]), (&0.into(), &Value::Null));
        assert_eq!(
            (&deny["rule"], &deny["verdict"], &deny["reason"]),
            (&1.into(), &"Deny".into(), &"rule_deny".into())
        );
        assert_eq!(json_lines(&said.stdout).last().context("no summary")?["kind"], "Summary");

        // Two observers see the same, and a file is read back and filtered like live events.
        let again = home.portcullis(&lab.node, &observe)?;
        assert_eq!(events(&again.stdout), seen);
        let file = home.state_dir().join("events.jsonl");
        std::fs::write(&file, &said.stdout)?;
        let file = file.to_str().context("a readable path")?;
        let back = home.portcullis(&lab.node, &["observe", "-o", "json", "--input-file", file])?;
        assert_eq!(events(&back.stdout), seen);
        let back = home.portcullis(&lab.node, &["observe", "--verdict", "log", "--input-file", file])?;
        let logs = seen.iter().filter(|e| e["event"] == "log").count();
        assert_eq!(back.stdout.lines().count(), logs, "{back:?}");
        assert!(back.stdout.lines().all(|l| l.contains(" Log ")), "{back:?}");

        without_an_agent(&lab, &home, &folder, agent)
    });
}

/// The ring fills while nobody reads; an observer reads it, and lets go when an agent comes.
fn without_an_agent(lab: &Lab, home: &Home, folder: &Policies, agent: Agent) -> Result<()> {
    agent.kill_9()?;
    assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence);
    let mut follower = lab
        .node
        .command(agent_program()?)
        .args(["observe", "-f", "-o", "json", "--state-dir"])
        .arg(home.state_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = BufReader::new(follower.stdout.take().context("no stdout")?);
    let (sender, lines) = channel();
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = |what: &str, patience: Duration| -> Result<Value> {
        loop {
            let line = lines.recv_timeout(patience).with_context(|| format!("no more before {what}"))?;
            let line: Value = serde_json::from_str(&line)?;
            if line["kind"] == "Event" && line["destinationPort"] == 8080 {
                return Ok(line);
            }
        }
    };
    let dead = next("the events that nobody had read", PATIENCE)?;
    assert_eq!(
        dead["policy"], "GlobalNetworkPolicy/watch-8080",
        "named from the state file and the kernel's tables"
    );

    // The agent takes over; the observer goes on with it.
    let (agent, _) = Agent::start(&lab.node, folder, home)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let said = home.portcullis(&lab.node, &["observe", "-o", "json", "--since", "1h"])?;
        if json_lines(&said.stdout).last().is_some_and(|l| l["from"] == "agent") {
            break;
        }
        anyhow::ensure!(Instant::now() < end, "the agent does not serve: {said:?}\n{}", agent.log());
    }
    // Where the observer reads from now on is its own matter: asked again until it is seen.
    let inside = tests::topology::INSIDE.to_string();
    let mut seen = false;
    while !seen {
        anyhow::ensure!(Instant::now() < end, "no event by way of the agent\n{}", agent.log());
        assert_eq!(ask(&lab.inside, NODE, 8080)?, Got::Silence);
        while let Ok(event) = next("an event by way of the agent", Duration::from_millis(500)) {
            seen |= event["source"] == inside;
        }
    }
    follower.kill()?;
    follower.wait()?;
    Ok(())
}

#[test]
fn nothing_in_force_is_said_with_a_remedy() {
    run("nothing_in_force_is_said_with_a_remedy", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let home = Home::new()?;
        let pins = home.pin_dir();
        let said =
            home.portcullis(&lab.node, &["observe", "--pin-dir", pins.to_str().context("a readable path")?])?;
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains("portcullis run"), "{said:?}");
        Ok(())
    });
}

fn table_row<'a>(text: &'a str, words: &[&str]) -> &'a str {
    let found = text.lines().find(|l| words.iter().all(|w| l.split_whitespace().any(|x| x == *w)));
    found.unwrap_or_else(|| panic!("no line with {words:?} in\n{text}"))
}

#[test]
fn status_and_rules_tell_the_kernels_truth() {
    run("status_and_rules_tell_the_kernels_truth", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("all.yaml", LOG_AND_DENY)?;
        let (agent, generation) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());

        // lo and the pod's device are no host devices: all that was asked for is enforced.
        let said = home.portcullis(&lab.node, &["status"])?;
        assert_eq!(said.code, 0, "{said:#?}");
        assert!(said.stdout.contains(&format!("generation {generation} in force")), "{}", said.stdout);
        for hook in ["ingress", "egress"] {
            table_row(&said.stdout, &[hook, "tcx", "1", "of"]);
        }
        table_row(&said.stdout, &["rule_deny", "Deny", "ingress"]);
        let page: Value =
            serde_json::from_str(&home.portcullis(&lab.node, &["status", "-o", "json"])?.stdout)?;
        assert_eq!(
            (&page["health"], &page["apiVersion"]),
            (&"healthy".into(), &"portcullis.dev/v1alpha1".into())
        );
        assert_eq!(page["kernel"]["generation"], generation);

        // Rules in order, with what hit them.
        let said = home.portcullis(&lab.node, &["get", "rules", "--device", "eth0", "-o", "json"])?;
        let rules: Value = serde_json::from_str(&said.stdout)?;
        let rules = rules["items"].as_array().context("no items")?;
        assert_eq!((&rules[0]["action"], &rules[1]["action"]), (&"Log".into(), &"Deny".into()));
        for rule in &rules[..2] {
            assert_eq!(rule["list"], "NormalIngress");
            assert!(rule["packets"].as_u64() >= Some(1) && rule["lastHit"].is_string(), "{rule}");
        }
        assert_eq!(home.portcullis(&lab.node, &["get", "rules", "--policy", "other"])?.code, 1);
        assert_eq!(home.portcullis(&lab.node, &["get", "rules", "--device", "eth9"])?.code, 2);
        let said = home.portcullis(&lab.node, &["get", "gnp", "-o", "wide"])?;
        let row = table_row(&said.stdout, &["watch-8080", "ago"]);
        assert!(!row.contains("never"), "{row}");

        // Another program goes to the front, as Cilium's may: said, and no alarm.
        let other_home = Home::new()?;
        let (other, _) = Agent::start(&lab.node, &folder, &other_home)?;
        let said = home.portcullis(&lab.node, &["status"])?;
        assert!(
            said.stdout.starts_with("NOT FIRST: device eth0 ingress: pc_tc_ingress runs before us"),
            "{said:#?}"
        );
        assert!(said.stdout.contains("pc_tc_ingress (tcx) > portcullis"), "{said:#?}");
        drop(other);

        degraded(&lab, &home, &folder, agent)
    });
}

/// Whatever the agent wrote: a link that is gone is seen, and so is a dead agent.
fn degraded(lab: &Lab, home: &Home, folder: &Policies, agent: Agent) -> Result<()> {
    // What nobody watches does not pass for applied.
    let (empty, file) = (Policies::empty()?, policies().join("nodeport/base/node1-eth0.yaml"));
    let (elsewhere, file) = (empty.path().display().to_string(), file.display().to_string());
    let apply = ["apply", "-f", &file, "--policies", &elsewhere];
    let said = home.portcullis(&lab.node, &apply)?;
    assert!(said.code == 0 && said.stderr.contains("note: the agent here watches"), "{said:#?}");
    folder.put("bad.yaml", "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nspec: {}\n")?;
    let said = until(home, lab, &["status"], |s| s.stdout.contains("REJECTED: "))?;
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stdout.contains("bad.yaml"), "{said:#?}");
    agent.kill_9()?;
    let links = home.pin_dir().join("links");
    for entry in std::fs::read_dir(&links)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("_egress") {
            std::fs::remove_file(path)?;
        }
    }
    let said = until(home, lab, &["status"], |s| s.stdout.contains("NOT ATTACHED: device eth0"))?;
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stdout.contains("NO AGENT: "), "{said:#?}");
    Ok(())
}

#[test]
fn maps_are_listed_dumped_and_verified() {
    run("maps_are_listed_dumped_and_verified", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put_all(&policies().join("nodeport/base"))?;
        folder.put_all(&policies().join("nodeport/pinhole"))?;
        let (agent, generation) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.outside, NODE, 22)?, Got::Answer(SSH_SAYS.to_owned()), "{}", agent.log());

        let said = home.portcullis(&lab.node, &["maps", "list", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&said.stdout)?;
        let maps = listed["items"].as_array().context("no items")?;
        assert_eq!(maps.len(), all().count(), "{said:#?}");
        assert!(maps.iter().all(|m| m["memory"].as_u64() > Some(0) && m["kind"] != "?"), "{listed}");
        let said = home.portcullis(&lab.node, &["maps", "dump", "rules"])?;
        assert!(said.stdout.contains("GlobalNetworkPolicy/allow-nodeport rule 0 (PreDnat)"), "{said:#?}");
        let said = home.portcullis(&lab.node, &["maps", "dump", "pc_addr_class"])?;
        let row = table_row(&said.stdout, &["1.2.0.0/16"]);
        let rule = "GlobalNetworkPolicy/allow-cluster-internal-ingress-only rule 0 (PreDnat)";
        assert!(row.contains(&format!("sourceOf={rule}")), "what the class stands for: {row}");
        let said = home.portcullis(&lab.node, &["maps", "dump", "rows"])?;
        let row = said.stdout.lines().find(|l| l.contains("holds=1.2.0.0/16")).context("no such row")?;
        assert!(row.contains("source class ") && row.contains(rule), "{row}");
        let said = home.portcullis(&lab.node, &["maps", "dump", "devices"])?;
        table_row(&said.stdout, &["eth0"]);
        let said = home.portcullis(&lab.node, &["maps", "dump", "flows"])?;
        assert!(said.stdout.contains("TCP 203.0.113.7:"), "an answered flow of the ssh failsafe: {said:#?}");
        assert!(said.stdout.contains("stage=failsafe"), "{said:#?}");
        bpftool_prints_words(&home)?;

        let said = home.portcullis(&lab.node, &["maps", "verify"])?;
        assert_eq!(said.code, 0, "{said:#?}");
        // A rejected file changes nothing that is in force: its last good version is what is verified.
        folder.put(
            "allow-nodeport.yaml",
            "kind: GlobalNetworkPolicy\nspec: {ingress: [{action: Perhaps}]}\n",
        )?;
        until(&home, &lab, &["status"], |s| s.stdout.contains("REJECTED: "))?;
        let said = home.portcullis(&lab.node, &["maps", "verify"])?;
        assert_eq!(said.code, 0, "{said:#?}");

        // One rule is turned around behind the agent's back.
        let pinned = Pinned::new(&home.pin_dir());
        let slot = pinned.slot_of(generation)?.context("no slot")?;
        let mut rules: Array<MapData, RuleEntry> =
            Array::try_from(Map::Array(pinned.inner(names::MAP_RULES, slot)?.context("no rules")?))?;
        let before = rules.get(&0, 0)?;
        let action =
            if before.action == RuleAction::Allow as u8 { RuleAction::Deny } else { RuleAction::Allow };
        rules.set(0, RuleEntry { action: action as u8, ..before }, 0)?;
        let said = home.portcullis(&lab.node, &["maps", "verify"])?;
        assert_eq!(said.code, 1, "{said:#?}");
        assert!(
            said.stdout.starts_with("pc_rules 0\n") && said.stdout.contains(&format!("action={action:?}")),
            "{said:#?}"
        );
        let said = home.portcullis(&lab.node, &["maps", "verify", "-o", "json"])?;
        let found: Value = serde_json::from_str(&said.stdout)?;
        assert_eq!(found["differences"].as_array().map(Vec::len), Some(1), "{found}");
        rules.set(0, before, 0)?;
        assert_eq!(home.portcullis(&lab.node, &["maps", "verify"])?.code, 0);
        Ok(())
    });
}

/// Every map, and the inner maps of every outer one, know their types: bpftool shows fields, not bytes.
fn bpftool_prints_words(home: &Home) -> Result<()> {
    let bpftool =
        |words: &[&str]| Command::new("bpftool").args(["--json", "map", "dump"]).args(words).output();
    let dump = |words: &[&str]| -> Result<Vec<Value>> {
        let output = bpftool(words)?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str::<Vec<Value>>(&text)
            .with_context(|| format!("bpftool map dump {words:?}: {text}"))
    };
    if bpftool(&["id", "0"]).is_err() {
        eprintln!("bpftool is not there: what it prints was not looked at");
        return Ok(());
    }
    let pinned = Pinned::new(&home.pin_dir());
    let control = pinned.control()?;
    let slot = slot_in_force(&control, now_ns(&control)).context("nothing is in force")?;
    // The ring cannot be dumped; the places of unconfirmed flows are too many to be read here.
    for map in all().filter(|m| ![names::MAP_EVENTS, names::MAP_ROOMS].contains(m)) {
        let entries = if is_sliced(map) {
            let inner = pinned.inner(map, slot)?.context("an empty slot")?.info()?.id();
            dump(&["id", &inner.to_string()])?
        } else {
            dump(&["pinned", pinned.path(map).context("not pinned")?.to_str().context("a readable path")?])?
        };
        for entry in &entries {
            assert!(entry.get("formatted").is_some(), "{map} is raw: {entry}");
        }
    }
    Ok(())
}

#[test]
fn a_bundle_holds_everything_but_secrets() {
    run("a_bundle_holds_everything_but_secrets", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("all.yaml", LOG_AND_DENY)?;
        folder.put(
            "s.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hush-hush}\n",
        )?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        until(&home, &lab, &["observe"], |s| s.stdout.contains("watch-8080"))?;
        let path = home.state_dir().join("b.tar.gz");
        let file = path.to_str().context("a readable path")?;
        let said = home.portcullis(&lab.node, &["diag", "bundle", "-o", file])?;
        assert_eq!(said.code, 0, "{said:#?}");
        let out = home.state_dir().join("out");
        std::fs::create_dir(&out)?;
        let tar = Command::new("tar")
            .arg("xzf")
            .arg(&path)
            .arg("-C")
            .arg(&out)
            .arg("--strip-components=1")
            .status()?;
        assert!(tar.success());
        let read = |name: &str| {
            std::fs::read_to_string(out.join(name)).with_context(|| format!("{name}: {said:#?}"))
        };
        assert!(read("policies/all.yaml")?.contains("watch-8080"));
        assert!(!read("policies/s.yaml")?.contains("hush") && read("LEFT-OUT.txt")?.contains("s.yaml"));
        assert!(
            read("maps/pc_rules.json")?.contains("watch-8080") && read("events.jsonl")?.contains("rule_deny")
        );
        for name in
            ["state.json", "status.json", "rules.json", "verify.json", "kernel/proc/version", "MISSING.txt"]
        {
            assert!(!read(name)?.is_empty(), "{name}");
        }
        let everywhere = Command::new("grep").args(["-rl", "hush"]).arg(&out).output()?;
        assert!(everywhere.stdout.is_empty(), "{}", String::from_utf8_lossy(&everywhere.stdout));
        Ok(())
    });
}
