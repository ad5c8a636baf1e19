//! A step, and what it must bring about.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::PacketSpec;

/// One step as written. [`Step::action`] says which of its kinds it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    pub name: Option<String>,
    pub packet: Option<PacketSpec>,
    pub expect: Option<Expect>,
    pub apply: Option<Spanned<String>>,
    pub folder: Option<Spanned<String>>,
    pub delete: Option<Vec<String>>,
    pub advance: Option<String>,
    pub expect_rejected: Option<OneOrMany>,
    pub expect_warnings: Option<OneOrMany>,
}

/// A string, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(s) => std::slice::from_ref(s),
            Self::Many(v) => v,
        }
    }
}

/// What a step does.
pub enum StepAction<'a> {
    Packet(&'a PacketSpec),
    Apply(&'a Spanned<String>),
    /// All documents that a watched folder, or the API, holds from now on.
    Folder(&'a Spanned<String>),
    Delete(&'a [String]),
    Advance(Duration),
}

impl Step {
    /// The one thing that this step does, or why it does none.
    pub fn action(&self) -> Result<StepAction<'_>, String> {
        if self.expect.is_some() && self.packet.is_none() {
            return Err("`expect` stands without a `packet`: write what a step applies with expectRejected \
                        or expectWarnings"
                .into());
        }
        let changes = self.apply.is_some() || self.folder.is_some();
        if !changes && (self.expect_rejected.is_some() || self.expect_warnings.is_some()) {
            return Err("expectRejected and expectWarnings belong to `apply` or `folder`: add it".into());
        }
        match (&self.packet, &self.apply, &self.folder, &self.delete, &self.advance) {
            (Some(packet), None, None, None, None) => {
                packet.check()?;
                Ok(StepAction::Packet(packet))
            }
            (None, Some(text), None, None, None) => Ok(StepAction::Apply(text)),
            (None, None, Some(text), None, None) => Ok(StepAction::Folder(text)),
            (None, None, None, Some(names), None) => Ok(StepAction::Delete(names)),
            (None, None, None, None, Some(text)) => Ok(StepAction::Advance(duration(text)?)),
            _ => {
                Err("a step does exactly one thing: write one of packet, apply, folder, delete, advance"
                    .into())
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: u64 =
        digits.parse().map_err(|_| format!("advance {text:?} is no duration: write 500ms, 30s, 5m or 2h"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        "d" => Ok(Duration::from_secs(number * 86_400)),
        _ => Err(format!("advance {text:?} has no known unit: write 500ms, 30s, 5m or 2h")),
    }
}

/// What a packet must get. Only the keys that stand there are compared.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ExpectedVerdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize)]
pub enum ExpectedVerdict {
    Allow,
    Deny,
    Ungoverned,
}

pub(super) fn check_expect(expect: Option<&Expect>) -> Result<(), String> {
    use dataplane_common::verdict::{Reason, Stage};
    let Some(expect) = expect else { return Ok(()) };
    if let Some(stage) = &expect.stage
        && !Stage::ALL.iter().any(|s| s.name() == stage)
    {
        let known: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        return Err(format!(".stage {stage:?} is unknown: write one of {}", known.join(", ")));
    }
    if let Some(reason) = &expect.reason
        && !Reason::ALL.iter().any(|r| r.name() == reason)
    {
        return Err(format!(".reason {reason:?} is unknown: `portcullis test -o json` shows the names"));
    }
    Ok(())
}
