//! The agent's part in safe changes: audit, and the state of suspension and trial for people to see.

use anyhow::Result;
use dataplane_common::abi::control_flag;

use super::Agent;
use crate::safety::Standing;

impl Agent {
    /// `run --audit`, or its end: before anything is judged by this agent's generations.
    pub(super) fn audit(&mut self) -> Result<()> {
        let audit = self.options.audit;
        self.dataplane.update_control(|control| {
            control.flags &= !control_flag::AUDIT;
            control.flags |= if audit { control_flag::AUDIT } else { 0 };
        })?;
        if audit {
            tracing::warn!(
                "AUDIT: what policy denies is counted and passes; nothing is dropped on this node"
            );
        }
        Ok(())
    }

    /// What the control word says now.
    pub(super) fn standing(&self) -> Standing {
        match (self.dataplane.control(), self.dataplane.now_ns()) {
            (Ok(control), Ok(now_ns)) => Standing::of(&control, now_ns),
            // The maps that enforce are gone or foreign: other reads say so in `trouble`.
            (Err(_), _) | (_, Err(_)) => Standing::default(),
        }
    }
}
