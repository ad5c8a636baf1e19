//! What the agent asked of the API server, by the server's audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{AGENT_USER, Cluster};

impl Cluster {
    /// The agent's watches by resource, and the field selector if there is one: how many are open, and how many were
    /// opened so far.
    pub fn watches(&self) -> Result<(BTreeMap<String, usize>, BTreeMap<String, usize>)> {
        let text = fs::read_to_string(self.path("audit.log")).context("the API server wrote no audit log")?;
        let (mut open, mut opened) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
        for line in text.lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["user"]["username"] != AGENT_USER || event["verb"] != "watch" {
                continue;
            }
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let uri = word(&event["requestURI"]);
            let fields = uri.split(['?', '&']).find_map(|part| part.strip_prefix("fieldSelector="));
            let name = [&word(&event["objectRef"]["resource"]), fields.unwrap_or_default()].join(" ");
            let (id, name) = (word(&event["auditID"]), name.trim_end().to_owned());
            match event["stage"].as_str() {
                Some("ResponseStarted") if event["responseStatus"]["code"] == 200 => {
                    *opened.entry(name.clone()).or_default() += 1;
                    open.insert(id, name);
                }
                Some("ResponseComplete" | "Panic") => drop(open.remove(&id)),
                _ => {}
            }
        }
        let mut now = BTreeMap::new();
        for name in open.into_values() {
            *now.entry(name).or_default() += 1;
        }
        Ok((now, opened))
    }

    /// What the agent asked for so far, `verb group/resource`, and what of it was refused.
    pub fn audit(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let text = fs::read_to_string(self.path("audit.log")).context("the API server wrote no audit log")?;
        let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            // The last line may be half-written.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let object = &event["objectRef"];
            if event["user"]["username"] != AGENT_USER || object["resource"].is_null() {
                continue;
            }
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!(
                "{} {}/{}",
                word(&event["verb"]),
                word(&object["apiGroup"]),
                word(&object["resource"])
            );
            if event["responseStatus"]["code"] == 403 {
                refused.insert(name.clone());
            }
            asked.insert(name);
        }
        Ok((asked, refused))
    }
}
