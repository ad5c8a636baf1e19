//! What is worth an Event: transitions, never states. Pure: what was known at the last report, what is known now.
//!
//! Objects that a cluster shares are seen by each of its nodes. An Event about such an object has a name made of the
//! object's UID, its generation and what is said, so that the first node's Event is the only one: the API server
//! refuses the others as already there. What concerns a node alone is about its Node object, for `kubectl describe`.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, Fnv, ObjectFacts};
use super::limits::MAX_NOTE_BYTES;
use super::text::{bounded, shorten_bytes};
use super::types::{DeviceState, HostEndpointState, PolicyState, Report};
use crate::resource::{Kind, ObjectKey};
use crate::state::cause::Cause;

/// Reason of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventReason {
    /// The latest version of an object was refused.
    ObjectRejected,
    /// An object that was refused is accepted.
    ObjectAccepted,
    /// A host device is under no HostEndpoint.
    DeviceUnprotected,
    /// Somebody took programs or pins away; they are back.
    ProgramsTakenAway,
    /// As the reason of Degraded.
    Began(Cause),
    /// None of those is left, or fewer are.
    Recovered,
}

impl EventReason {
    /// Every reason that an Event can have.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::ObjectRejected,
            Self::ObjectAccepted,
            Self::DeviceUnprotected,
            Self::ProgramsTakenAway,
            Self::Recovered,
        ];
        own.into_iter().chain(Cause::ALL.into_iter().filter(|c| is_told(*c)).map(Self::Began))
    }

    /// In CamelCase.
    pub fn name(self) -> &'static str {
        match self {
            Self::ObjectRejected => "ObjectRejected",
            Self::ObjectAccepted => "ObjectAccepted",
            Self::DeviceUnprotected => "DeviceUnprotected",
            Self::ProgramsTakenAway => "ProgramsTakenAway",
            Self::Recovered => "Recovered",
            Self::Began(cause) => cause.name(),
        }
    }

    /// `Warning` or `Normal`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ObjectAccepted | Self::Recovered => "Normal",
            Self::ObjectRejected | Self::DeviceUnprotected | Self::ProgramsTakenAway | Self::Began(_) => {
                "Warning"
            }
        }
    }

    /// What the agent was doing.
    pub fn action(self) -> &'static str {
        match self {
            Self::ObjectRejected | Self::ObjectAccepted => "Read",
            Self::DeviceUnprotected | Self::ProgramsTakenAway | Self::Recovered | Self::Began(_) => "Enforce",
        }
    }

    /// What it is about.
    pub fn about(self) -> &'static str {
        match self {
            Self::ObjectRejected | Self::ObjectAccepted => "the object",
            Self::Began(Cause::HostEndpointConflict | Cause::HostEndpointBindsNothing) => "the HostEndpoint",
            Self::DeviceUnprotected | Self::ProgramsTakenAway | Self::Recovered | Self::Began(_) => {
                "the Node"
            }
        }
    }

    /// When it comes.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ObjectRejected => {
                "the latest version was refused, with all errors: one Event for all nodes"
            }
            Self::ObjectAccepted => "an object that was refused is accepted: one Event for all nodes",
            Self::DeviceUnprotected => "no HostEndpoint covers a device any more, or a new device",
            Self::ProgramsTakenAway => {
                "somebody took the agent's programs off a device, or its pins away; they are back"
            }
            Self::Recovered => "something of the below is over",
            Self::Began(cause) => cause.meaning(),
        }
    }
}

/// What has no Event: object by object it is told by others, and what passes by itself at each start.
fn is_told(cause: Cause) -> bool {
    !matches!(cause, Cause::InvalidObject | Cause::InvalidSelector | Cause::NotInSync | Cause::NothingInForce)
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    Node,
    Object { api_version: String, kind: String, namespace: String, name: String, uid: Option<String> },
}

/// An Event before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub reason: EventReason,
    pub regarding: Regarding,
    pub note: String,
    /// Every node that says the same makes the same of it. `None`: it is of this node alone.
    pub fingerprint: Option<String>,
}

/// What announcements are worked out from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Refused objects (`Kind/name`) → what was said of them.
    refused: BTreeMap<String, String>,
    causes: BTreeSet<Cause>,
    unprotected: BTreeSet<String>,
    /// Host endpoints of this node that bind nothing → who governs instead.
    lost: BTreeMap<String, Option<String>>,
    /// Place → when it was last put back, Unix seconds.
    taken: BTreeMap<String, u64>,
}

impl Known {
    /// Of a moment.
    pub fn of(facts: &Facts) -> Self {
        let state = &facts.state;
        let refused = facts.refused().map(|o| (o.key.to_string(), said(o.latest, &bounded(&o.errors))));
        Self {
            refused: refused.collect(),
            causes: facts.causes().into_iter().map(|(cause, _)| cause).filter(|c| is_told(*c)).collect(),
            unprotected: state.unprotected.clone(),
            lost: state.lost.keys().map(|name| (name.clone(), facts.lost_to.get(name).cloned())).collect(),
            taken: state.taken_away.iter().map(|(place, t)| (place.clone(), t.last)).collect(),
        }
    }

    /// Of what an agent before this one reported. What it had to leave out may be told once more.
    pub fn of_report(report: &Report) -> Self {
        let key = |kind: &str, namespace: &str, name: &str| {
            let separate = if namespace.is_empty() { "" } else { "/" };
            format!("{kind}/{namespace}{separate}{name}")
        };
        let mut known = Self::default();
        for p in report.policies.iter().filter(|p| is_refused(p.state)) {
            let latest = p.latest_generation.or(p.observed_generation);
            known.refused.insert(key(&p.kind, "", &p.name), said(latest, &p.errors));
        }
        for o in report.other_objects.iter() {
            let latest = o.latest_generation.or(o.observed_generation);
            known.refused.insert(key(&o.kind, &o.namespace, &o.name), said(latest, &o.errors));
        }
        for h in &report.host_endpoints {
            if !h.errors.is_empty() || h.state == HostEndpointState::Rejected {
                let latest = h.latest_generation.or(h.observed_generation);
                known.refused.insert(key("HostEndpoint", "", &h.name), said(latest, &h.errors));
            }
            if h.state == HostEndpointState::BindsNothing {
                known.lost.insert(h.name.clone(), h.lost_to.clone());
            }
        }
        let unprotected = report.devices.iter().filter(|d| d.state == DeviceState::Unprotected);
        known.unprotected = unprotected.map(|d| d.name.clone()).collect();
        let seconds = |stamp: &str| super::text::seconds(stamp).unwrap_or(0);
        known.taken = report.taken_away.iter().map(|t| (t.place.clone(), seconds(&t.last))).collect();
        let names: BTreeSet<&str> = report
            .conditions
            .iter()
            .map(|c| c.reason.as_str())
            .chain(report.troubles.iter().map(|t| t.reason.as_str()))
            .collect();
        let listed = Cause::ALL.into_iter().filter(|c| is_told(*c) && names.contains(c.name()));
        known.causes = listed.collect();
        // Conditions name the worst only: the others are found in what is reported beside them.
        let safety = report.safety.clone().unwrap_or_default();
        let more = [
            (safety.suspended_until.is_some(), Cause::Suspended),
            (safety.audit, Cause::Audit),
            (safety.went_back, Cause::TrialExpired),
            (report.devices.iter().any(|d| d.state == DeviceState::NotAttached), Cause::NotAttached),
            (known.lost.values().any(Option::is_some), Cause::HostEndpointConflict),
            (known.lost.values().any(Option::is_none), Cause::HostEndpointBindsNothing),
        ];
        known.causes.extend(more.into_iter().filter(|(holds, _)| *holds).map(|(_, cause)| cause));
        known
    }

    /// Without causes that `passing` is true of, unless they were told before.
    pub fn without(mut self, before: &Self, passing: impl Fn(Cause) -> bool) -> Self {
        self.causes.retain(|cause| before.causes.contains(cause) || !passing(*cause));
        self
    }

    /// What is to be said when this is followed by `after`, which is of these facts; what matters most first.
    pub fn announce(&self, after: &Self, facts: &Facts) -> Vec<Announcement> {
        let mut out = self.causes_of_the_node(after, facts);
        out.extend(self.host_endpoints(after, facts));
        out.extend(self.devices(after, facts));
        out.extend(self.objects(after, facts));
        out
    }

    fn causes_of_the_node(&self, after: &Self, facts: &Facts) -> Vec<Announcement> {
        let of_object =
            |cause: &Cause| matches!(cause, Cause::HostEndpointConflict | Cause::HostEndpointBindsNothing);
        let texts = facts.causes();
        let words = |cause: Cause| {
            let of = texts.iter().filter(|(c, _)| *c == cause).map(|(_, text)| text.as_str());
            of.collect::<Vec<_>>().join("; ")
        };
        let began = after.causes.difference(&self.causes).filter(|c| !of_object(c));
        let mut out: Vec<Announcement> = began
            .map(|cause| about_node(EventReason::Began(*cause), &format!("{}{}", words(*cause), of(facts))))
            .collect();
        let over: Vec<&str> = self.causes.difference(&after.causes).map(|c| c.name()).collect();
        if !over.is_empty() {
            let rest = match after.causes.first() {
                None => "nothing of the kind is left".to_owned(),
                Some(_) => {
                    let left: Vec<&str> = after.causes.iter().map(|c| c.name()).collect();
                    format!("still so: {}", left.join(", "))
                }
            };
            let note = format!("over: {}; {rest}{}", over.join(", "), of(facts));
            out.push(about_node(EventReason::Recovered, &note));
        }
        out
    }

    fn host_endpoints(&self, after: &Self, facts: &Facts) -> Vec<Announcement> {
        let new = after.lost.iter().filter(|(name, to)| self.lost.get(*name) != Some(to));
        new.filter_map(|(name, to)| {
            let why = facts.state.lost.get(name)?;
            let cause = match to {
                Some(_) => Cause::HostEndpointConflict,
                None => Cause::HostEndpointBindsNothing,
            };
            let key = ObjectKey::new(Kind::HostEndpoint, "", name);
            let note = format!("it governs no device of node {}: {why}", facts.state.node);
            let regarding = match facts.objects.iter().find(|o| o.key == key) {
                Some(object) => regarding(object),
                // Made from the Node: there is no such object.
                None => Regarding::Node,
            };
            Some(Announcement {
                reason: EventReason::Began(cause),
                regarding,
                note: shorten_bytes(&note, MAX_NOTE_BYTES),
                fingerprint: None,
            })
        })
        .collect()
    }

    fn devices(&self, after: &Self, facts: &Facts) -> Vec<Announcement> {
        let mut out = Vec::new();
        let open: Vec<&str> = after.unprotected.difference(&self.unprotected).map(String::as_str).collect();
        if !open.is_empty() {
            let note =
                format!("no HostEndpoint covers {}: nothing is enforced there{}", open.join(", "), of(facts));
            out.push(about_node(EventReason::DeviceUnprotected, &note));
        }
        let taken: Vec<String> = facts
            .state
            .taken_away
            .iter()
            .filter(|(place, t)| self.taken.get(*place).is_none_or(|last| t.last > *last))
            .map(|(place, t)| format!("{place}: {} (back; {} times by now)", t.what, t.times))
            .collect();
        if !taken.is_empty() {
            let note = format!("somebody took away what enforces: {}{}", taken.join("; "), of(facts));
            out.push(about_node(EventReason::ProgramsTakenAway, &note));
        }
        out
    }

    fn objects(&self, after: &Self, facts: &Facts) -> Vec<Announcement> {
        let mut out = Vec::new();
        for object in &facts.objects {
            let name = object.key.to_string();
            match (self.refused.get(&name), after.refused.get(&name)) {
                (before, Some(now)) if before != Some(now) => out.push(rejected(object, now)),
                (Some(_), None) => out.push(accepted(object)),
                (_, Some(_)) | (None, None) => {}
            }
        }
        out
    }
}

fn is_refused(state: PolicyState) -> bool {
    matches!(state, PolicyState::Rejected | PolicyState::KeptLastGood)
}

/// What was said of an object, to be compared.
fn said(generation: Option<i64>, errors: &[String]) -> String {
    format!("{} {}", generation.unwrap_or(0), errors.join("\n"))
}

fn of(facts: &Facts) -> String {
    format!(" (nodepolicystatus {})", facts.state.node)
}

fn about_node(reason: EventReason, note: &str) -> Announcement {
    let note = shorten_bytes(note, MAX_NOTE_BYTES);
    Announcement { reason, regarding: Regarding::Node, note, fingerprint: None }
}

fn regarding(object: &ObjectFacts) -> Regarding {
    Regarding::Object {
        api_version: object.api_version.clone(),
        kind: object.key.kind.as_str().to_owned(),
        namespace: object.key.namespace.clone(),
        name: object.resource.clone(),
        uid: object.uid.clone(),
    }
}

fn rejected(object: &ObjectFacts, said: &str) -> Announcement {
    let goes_on = match (object.acceptance, object.accepted) {
        (crate::index::status::Acceptance::Rejected, _) => "nothing of it is enforced".to_owned(),
        (_, Some(generation)) => format!("generation {generation} of it stays in force"),
        (_, None) => "its last good version stays in force".to_owned(),
    };
    let note = format!("refused, {goes_on}: {}", object.errors.join("; "));
    shared(EventReason::ObjectRejected, object, &note, said)
}

fn accepted(object: &ObjectFacts) -> Announcement {
    let note = match object.accepted {
        Some(generation) => format!("accepted again, in generation {generation}"),
        None => "accepted again".to_owned(),
    };
    shared(EventReason::ObjectAccepted, object, &note, &note)
}

fn shared(reason: EventReason, object: &ObjectFacts, note: &str, said: &str) -> Announcement {
    let mut hash = Fnv::default();
    for part in [reason.name(), object.uid.as_deref().unwrap_or_default(), said] {
        hash.take(part);
    }
    Announcement {
        reason,
        regarding: regarding(object),
        note: shorten_bytes(note, MAX_NOTE_BYTES),
        fingerprint: Some(hash.to_string()),
    }
}
