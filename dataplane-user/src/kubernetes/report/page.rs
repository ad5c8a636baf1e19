//! `docs/reference/node-status.md`, made from what the agent can say.

use super::announce::EventReason;
use super::conditions::{AS_ASKED, IN_FORCE, STOPPED};
use crate::state::cause::Cause;

/// Where it is kept in the repository.
pub const PAGE_FILE: &str = "docs/reference/node-status.md";

/// The page.
pub fn page() -> String {
    let mut page = format!(
        "# Reasons of NodePolicyStatus and Events\n\n<!-- Generated from the program, like cli.md. -->\n\n\
         `kubectl get nps` shows each node's worst reason. What the object holds besides: `kubectl explain nps.status`.\n\n\
         ## Reasons of conditions\n\n`Degraded` has the worst of these, in this order; its message has all of them. \
         `Ready` and `Programmed` have the one that keeps them from being true, else `{IN_FORCE}`. `Degraded` that is \
         false has `{AS_ASKED}`; `Ready` of an agent that was asked to end has `{STOPPED}`.\n\n| reason | what it means \
         | what to do |\n|---|---|---|\n"
    );
    for cause in Cause::ALL {
        page += &format!("| `{}` | {} | {} |\n", cause.name(), cause.meaning(), cause.remedy());
    }
    page += "\n## Events\n\nOf transitions only. An Event has `reportingController: portcullis.dev/agent` and the node as \
             `reportingInstance`.\n\n| reason | type | about | when |\n|---|---|---|---|\n";
    for reason in EventReason::all() {
        page += &format!(
            "| `{}` | {} | {} | {} |\n",
            reason.name(),
            reason.kind(),
            reason.about(),
            reason.meaning()
        );
    }
    page
}
