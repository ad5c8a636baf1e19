//! Runs one scenario on one or two engines, and holds them to the expectations and to each other.

use std::path::Path;

use dataplane_common::abi::Hook;

use super::conversation::Conversations;
use super::engine::{Engine, Outcome, PacketIn};
use super::format::{Expect, LoadError, PacketSpec, Scenario, Step, StepAction};
use super::node;
use super::packet::{self, Macs};
use super::state::State;
use crate::compile::compile;
use crate::index::Snapshot;
use crate::policy::{NodeView, World};

/// How a scenario went.
#[derive(Debug)]
pub struct ScenarioResult {
    pub file: std::path::PathBuf,
    pub name: String,
    pub passed: bool,
    pub steps: Vec<StepResult>,
}

/// How a step went.
#[derive(Debug)]
pub struct StepResult {
    pub index: usize,
    pub name: String,
    pub line: usize,
    pub expected: Option<Expect>,
    /// Per engine.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// What did not hold, a sentence each; empty: passed.
    pub failures: Vec<String>,
}

impl StepResult {
    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs a scenario. `Err`: it, or a resource of it, could not be read.
pub fn run(scenario: &Scenario, engines: &mut [Box<dyn Engine>]) -> Result<ScenarioResult, LoadError> {
    let fail = |(line, message): (usize, String)| LoadError { file: scenario.file.clone(), line, message };
    let spec = &scenario.spec;
    let mut run = Run {
        view: node::view(spec).map_err(fail)?,
        state: State::new(spec, scenario.file.parent().unwrap_or(Path::new("."))).map_err(fail)?,
        scenario,
        engines,
        talk: Conversations::default(),
    };
    run.publish().map_err(fail)?;
    run.adopt().map_err(|e| fail((scenario.line, e)))?;
    let mut steps = Vec::new();
    for (index, step) in spec.steps.iter().enumerate() {
        let line = step.referenced.line() as usize;
        steps.push(run.step(index, line, &step.value).map_err(fail)?);
    }
    let passed = steps.iter().all(StepResult::passed);
    Ok(ScenarioResult { file: scenario.file.clone(), name: scenario.name.clone(), passed, steps })
}

struct Run<'a> {
    scenario: &'a Scenario,
    engines: &'a mut [Box<dyn Engine>],
    view: NodeView,
    state: State,
    talk: Conversations,
}

impl Run<'_> {
    /// Tells the engines what the world is now.
    fn publish(&mut self) -> Result<(), (usize, String)> {
        let mut world = self.state.world();
        node::add_pods(&self.scenario.spec, &mut world)?;
        for engine in self.engines.iter_mut() {
            let name = engine.name();
            engine
                .set_world(&world, &self.view)
                .map_err(|e| (self.scenario.line, format!("the {name} engine refused the world: {e:#}")))?;
        }
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), String> {
        let live: Vec<_> = self.scenario.spec.conntrack.iter().map(super::format::Live::flow).collect();
        if live.is_empty() || !self.state.has_endpoints() {
            return Ok(());
        }
        for engine in self.engines.iter_mut() {
            engine.adopt(&live).map_err(|e| format!("the {} engine cannot adopt: {e:#}", engine.name()))?;
        }
        Ok(())
    }

    fn step(&mut self, index: usize, line: usize, step: &Step) -> Result<StepResult, (usize, String)> {
        let mut result = StepResult {
            index,
            name: step.name.clone().unwrap_or_default(),
            line,
            expected: step.expect.clone(),
            outcomes: Vec::new(),
            failures: Vec::new(),
        };
        match step.action().map_err(|why| (line, why))? {
            StepAction::Packet(spec) => self.packet(line, spec, &mut result)?,
            StepAction::Apply(text) => {
                let file = format!("{} steps[{index}].apply", self.scenario.file.display());
                let (spec, view) = (&self.scenario.spec, &self.view);
                // Too large is refused as a whole, too, before anything is written (D50).
                let limits = |mut world: World| {
                    node::add_pods(spec, &mut world).ok()?;
                    compile(&Snapshot::build(&world, view)).err().map(|e| e.to_string())
                };
                result.failures = self.state.apply(&file, &text.value, step, limits);
                self.publish()?;
            }
            StepAction::Folder(text) => {
                let file = format!("{} steps[{index}].folder", self.scenario.file.display());
                result.failures = self.state.folder(&file, &text.value, step);
                self.publish()?;
            }
            StepAction::Delete(names) => {
                for name in names {
                    result.failures.extend(self.state.delete(name).err());
                }
                self.publish()?;
            }
            StepAction::Advance(by) => {
                for engine in self.engines.iter_mut() {
                    if let Err(e) = engine.advance(by) {
                        result
                            .failures
                            .push(format!("the {} engine's clock does not move: {e:#}", engine.name()));
                    }
                }
            }
        }
        Ok(result)
    }

    fn packet(
        &mut self,
        line: usize,
        spec: &PacketSpec,
        result: &mut StepResult,
    ) -> Result<(), (usize, String)> {
        let (device, hook) = match (&spec.ingress, &spec.egress) {
            (Some(device), _) => (device, Hook::Ingress),
            (None, Some(device)) => (device, Hook::Egress),
            (None, None) => return Err((line, "a packet needs `in` or `out`".into())),
        };
        for name in [Some(device), spec.from.as_ref()].into_iter().flatten() {
            if !self.view.devices.contains_key(name) {
                return Err((
                    line,
                    format!("packet: device {name:?} is not in spec.interfaces: add it there"),
                ));
            }
        }
        let own = node::mac(self.view.devices[device].ifindex);
        let peer = [0x02, 0xff, 0, 0, 0, 1];
        let macs = match hook {
            Hook::Ingress => Macs { src: peer, dst: own },
            Hook::Egress => Macs { src: own, dst: peer },
        };
        let frame = packet::frame(spec, macs, &mut self.talk).map_err(|why| (line, why))?;
        let packet = PacketIn { device: device.clone(), hook, from: spec.from.clone(), frame };
        for engine in self.engines.iter_mut() {
            match engine.judge(&packet) {
                Ok(outcome) => result.outcomes.push((engine.name(), outcome)),
                Err(e) => {
                    result.failures.push(format!("the {} engine could not judge: {e:#}", engine.name()));
                }
            }
        }
        for (engine, outcome) in &result.outcomes {
            if let Some(expect) = &result.expected {
                result.failures.extend(unmet(engine, expect, outcome));
            }
        }
        result.failures.extend(disagreement(&result.outcomes));
        Ok(())
    }
}

fn unmet(engine: &str, expect: &Expect, got: &Outcome) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |key: &str, wanted: Option<String>, got: Option<String>| {
        if let Some(wanted) = wanted
            && got.as_ref() != Some(&wanted)
        {
            let got = got.unwrap_or_else(|| "none".into());
            failures.push(format!("{engine}: {key}: expected {wanted}, got {got}"));
        }
    };
    check("verdict", expect.verdict.map(|v| format!("{v:?}")), Some(got.verdict.clone()));
    check("stage", expect.stage.clone(), Some(got.stage.clone()));
    check("tier", expect.tier.clone(), got.tier.clone());
    check("policy", expect.policy.clone(), got.policy.clone());
    check("rule", expect.rule.map(|r| r.to_string()), got.rule.map(|r| r.to_string()));
    check("reason", expect.reason.clone(), Some(got.reason.clone()));
    failures
}

/// What the engines do not agree about.
pub(crate) fn disagreement(outcomes: &[(&'static str, Outcome)]) -> Option<String> {
    let [(first, a), rest @ ..] = outcomes else { return None };
    let bare = |o: &Outcome| Outcome { trace: Vec::new(), ..o.clone() };
    let (other, b) = rest.iter().find(|(_, b)| bare(b) != bare(a))?;
    Some(format!("the engines disagree: {first} says {}, {other} says {}", describe(a), describe(b)))
}

/// An outcome in one line.
pub fn describe(outcome: &Outcome) -> String {
    let mut text = format!("{} at {} ({})", outcome.verdict, outcome.stage, outcome.reason);
    if let Some(tier) = &outcome.tier {
        text += &format!(", tier {tier}");
    }
    if let Some(policy) = &outcome.policy {
        text += &format!(", policy {policy}");
    }
    if let Some(rule) = outcome.rule {
        text += &format!(", rule {rule}");
    }
    text
}
