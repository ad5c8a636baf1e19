//! What was enforced is not lifted by a folder that is found broken at the next start (D13, D22, D46).

use std::{fs, path::Path};

use anyhow::Result;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tests::{
    can_run,
    probe::{Got, ask},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, POD_SAYS, Proxy, policies},
};

const PINHOLE: &str = "allow-nodeport.yaml";
const BROKEN: &str = "kind: GlobalNetworkPolicy\nspec: {ingress: [{action: Perhaps}]}\n";

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// The NodePort policies and their pinhole in force, and the agent gone.
struct Case {
    lab: Lab,
    folder: Policies,
    home: Home,
}

impl Case {
    fn new() -> Result<Self> {
        let case = Self { lab: Lab::new(Proxy::Nftables)?, folder: Policies::empty()?, home: Home::new()? };
        case.folder.put_all(&policies().join("nodeport/base"))?;
        case.folder.put_all(&policies().join("nodeport/pinhole"))?;
        let agent = case.start()?;
        case.open(&agent)?;
        agent.kill_9()?;
        Ok(case)
    }

    fn start(&self) -> Result<Agent> {
        Ok(Agent::start(&self.lab.node, &self.folder, &self.home)?.0)
    }

    /// The policy stands and the pinhole is open.
    fn open(&self, agent: &Agent) -> Result<()> {
        assert_eq!(self.lab.ask_node_port(&self.lab.outside)?, answer(POD_SAYS), "{}", agent.log());
        self.shut(agent)
    }

    /// The policy stands.
    fn shut(&self, agent: &Agent) -> Result<()> {
        assert_eq!(ask(&self.lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        Ok(())
    }

    fn kept(&self) -> Result<Vec<Value>> {
        Ok(self.home.status()?["kept"].as_array().cloned().unwrap_or_default())
    }

    /// Every manifest but the pinhole's becomes this text.
    fn spoil_base(&self, text: &str) -> Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(self.folder.path())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != PINHOLE {
                self.folder.put(&name, text)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

#[test]
fn a_file_broken_while_no_agent_ran_keeps_its_last_good_version() {
    run("a_file_broken_while_no_agent_ran_keeps_its_last_good_version", || {
        let case = Case::new()?;
        // A part is broken, in different ways; a part is removed on purpose; the rest is well.
        case.folder.put("allow-cluster-internal-ingress-only.yaml", BROKEN)?;
        case.folder.remove(PINHOLE)?;
        let agent = case.start()?;
        case.shut(&agent)?;
        assert_eq!(case.lab.ask_node_port(&case.lab.peer)?, answer(POD_SAYS), "{}", agent.log());
        assert_eq!(case.lab.ask_node_port(&case.lab.outside)?, Got::Silence, "removed is removed");
        let kept = case.kept()?;
        assert!(!kept.is_empty(), "{:#}", case.home.status()?);
        for object in &kept {
            assert!(
                object["since"].as_u64() >= object["accepted"].as_u64() && object["since"] != 0,
                "{object}"
            );
            assert!(!object["reasons"][0].as_str().unwrap_or_default().is_empty(), "{object}");
        }
        agent.kill_9()?;

        // And once more: a second restart with the same mistake knows the same.
        let agent = case.start()?;
        case.shut(&agent)?;
        assert_eq!(case.kept()?, kept);
        case.folder.put_all(&policies().join("nodeport/base"))?;
        case.home.await_status("repaired", |s| s["kept"].as_array().is_some_and(Vec::is_empty))?;
        case.shut(&agent)
    });
}

#[test]
fn a_folder_that_is_away_deletes_nothing() {
    run("a_folder_that_is_away_deletes_nothing", || {
        let case = Case::new()?;
        let (path, away) = (case.folder.path().to_owned(), case.folder.path().with_extension("away"));
        fs::rename(&path, &away)?;
        let agent = case.start()?;
        case.open(&agent)?;
        fs::rename(&away, &path)?;
        let errors = |s: &Value| s["problems"].to_string().contains("\"severity\":\"error\"");
        case.home.await_status("well", |s| !errors(s))?;
        case.open(&agent)?;
        let before = case.home.status()?["generation"].as_u64();
        // Watched again, too, and not only at the next tick: a new folder is a new inode.
        case.folder.remove(PINHOLE)?;
        case.home.await_status("closed", |s| s["generation"].as_u64() > before)?;
        assert_eq!(case.lab.ask_node_port(&case.lab.outside)?, Got::Silence, "{}", agent.log());
        Ok(())
    });
}

/// Mounts an empty tmpfs, until dropped.
struct Empty<'a>(&'a Path);

impl<'a> Empty<'a> {
    fn mount(path: &'a Path) -> Result<Self> {
        mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(path))
    }
}

impl Drop for Empty<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn an_empty_mount_point_deletes_nothing_and_an_emptied_folder_everything() {
    run("an_empty_mount_point_deletes_nothing_and_an_emptied_folder_everything", || {
        let case = Case::new()?;
        let empty = Empty::mount(case.folder.path())?;
        let agent = case.start()?;
        case.open(&agent)?;
        let status = case.home.status()?;
        assert!(status["problems"].to_string().contains("volume not mounted"), "{status:#}");
        drop(empty);
        agent.kill_9()?;

        for entry in fs::read_dir(case.folder.path())? {
            fs::remove_file(entry?.path())?;
        }
        let agent = case.start()?;
        assert_ne!(ask(&case.lab.outside, NODE, 8080)?, Got::Silence, "no policy any more\n{}", agent.log());
        Ok(())
    });
}

#[test]
fn a_damaged_last_good_state_is_told_and_what_is_in_force_stays() {
    run("a_damaged_last_good_state_is_told_and_what_is_in_force_stays", || {
        let case = Case::new()?;
        let file = case.home.state_dir().join("last-good.json");
        let mut bytes = fs::read(&file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&file, bytes)?;
        // Only a part is broken: nothing of it may be lifted, and no half of it either.
        case.folder.put("allow-cluster-internal-ingress-only.yaml", BROKEN)?;
        let agent = case.start()?;
        case.open(&agent)?;
        let status = case.home.status()?;
        assert!(status["lastGoodIgnored"].to_string().contains("checksum"), "{status:#}");
        assert!(status["trouble"]["folder"].is_string(), "{status:#}");
        assert!(case.spoil_base(BROKEN)? > 0);
        case.home.await_status("all broken", |s| s["problems"].as_array().is_some_and(|p| p.len() > 1))?;
        case.open(&agent)?;

        case.folder.put_all(&policies().join("nodeport/base"))?;
        case.home.await_status("repaired", |s| s["trouble"]["folder"].is_null())?;
        case.open(&agent)
    });
}
