//! Runs a case on both engines and says where they first disagree.

use std::fmt;

use super::case::Case;
use crate::model::Model;
use crate::scenario::engine::{Engine, Outcome};
use crate::scenario::kernel::KernelEngine;
use crate::scenario::{LoadError, runner};

/// The first step of a case at which the engines part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Disagreement {
    pub step: usize,
    pub model: Said,
    pub kernel: Said,
    /// In whole, for people.
    pub text: String,
    /// How each engine came to its verdict, a line each.
    pub traces: Vec<String>,
}

/// What an engine said, as coarse as two disagreements are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said(pub String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Said {
    fn of(outcome: Option<&Outcome>) -> Self {
        Self(outcome.map_or_else(|| "nothing".into(), |o| format!("{} {} {}", o.verdict, o.stage, o.reason)))
    }
}

impl Disagreement {
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        (&self.model, &self.kernel) == (&other.model, &other.kernel)
    }
}

/// How a case went.
pub(super) struct Judged {
    /// The model's reason for each packet.
    pub reasons: Vec<String>,
    /// `None`: the engines agree about every packet.
    pub disagreement: Option<Disagreement>,
}

pub(super) fn both(case: &Case) -> Result<Judged, LoadError> {
    let scenario = case.scenario()?;
    let kernel = KernelEngine::new().map_err(|e| LoadError {
        file: case.name.clone().into(),
        line: 0,
        message: format!("the kernel engine cannot start: {e:#}"),
    })?;
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Model::new()), Box::new(kernel)];
    let result = runner::run(&scenario, &mut engines)?;
    let reasons =
        result.steps.iter().filter_map(|step| Some(step.outcomes.first()?.1.reason.clone())).collect();
    let disagreement = result.steps.iter().find(|step| !step.passed()).map(|step| {
        let said = |name: &str| Said::of(step.outcomes.iter().find(|(n, _)| *n == name).map(|(_, o)| o));
        let text = step.failures.join("; ");
        let traces = step
            .outcomes
            .iter()
            .flat_map(|(name, outcome)| outcome.trace.iter().map(move |line| format!("{name}: {line}")))
            .collect();
        Disagreement { step: step.index, model: said("model"), kernel: said("kernel"), text, traces }
    });
    Ok(Judged { reasons, disagreement })
}

/// What the model alone says about the last step: cheap, and enough to give up on most shortened cases.
pub(super) fn model_at_the_end(case: &Case) -> Option<Said> {
    let scenario = case.scenario().ok()?;
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Model::new())];
    let result = runner::run(&scenario, &mut engines).ok()?;
    if result.steps.iter().any(|step| !step.passed()) {
        return None;
    }
    result.steps.last().map(|step| Said::of(step.outcomes.first().map(|(_, o)| o)))
}
