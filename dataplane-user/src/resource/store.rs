//! All objects by kind and name, each in its last good version (D13), and the world that they make.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::document::Document;
use super::kind::{Kind, ObjectKey};
use super::object::{self, Object, Outcome, Reading};
use crate::policy::defaults::built_in_tiers;
use crate::policy::{Changes, Problem, Severity, World};

/// An accepted object.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredObject {
    pub key: ObjectKey,
    /// Where the accepted version stood.
    pub file: String,
    pub line: usize,
    /// The document as it was written.
    pub value: Arc<Value>,
    pub object: Arc<Object>,
    /// Why this is no longer what the file says: a later version was refused, and this one goes on (D13).
    pub superseded: Vec<Problem>,
    /// Since when, for people: nothing is decided by it.
    pub superseded_since: Option<SystemTime>,
}

/// What became of some documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sorted; errors, warnings and notes of all documents, unreadable ones included.
    pub problems: Vec<Problem>,
    /// `Kind/name`, sorted.
    pub accepted: Vec<String>,
    /// Objects that go on in an older version because the new one was refused.
    pub kept_last_good: Vec<String>,
}

impl Report {
    fn of(&self, severity: Severity) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(move |problem| problem.severity == severity)
    }
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Error)
    }
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Warning)
    }
    pub fn notes(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Note)
    }
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }
    /// Adds what was found while reading the files, without saying anything twice.
    pub fn add(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
        self.tidy();
    }
    fn tidy(&mut self) {
        self.problems.sort_by(|a, b| (&a.file, a.line, a).cmp(&(&b.file, b.line, b)));
        self.problems.dedup();
        for names in [&mut self.accepted, &mut self.kept_last_good] {
            names.sort();
            names.dedup();
        }
    }
}

/// Documents that were read before, by the place of their value in memory, which they hold: a source that gives the
/// same value again does not have it read again.
type Readings = HashMap<usize, (Document, Arc<Reading>)>;

/// Documents after reading: what is good, and what is known about the rest.
#[derive(Default)]
struct Batch {
    good: BTreeMap<ObjectKey, StoredObject>,
    refused: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Files of which some document cannot even be named.
    unknown: BTreeMap<String, Vec<Problem>>,
    other_kinds: Vec<Problem>,
    problems: Vec<Problem>,
    readings: Readings,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Store {
    objects: BTreeMap<ObjectKey, StoredObject>,
    /// Refused, and never good.
    rejected: BTreeMap<ObjectKey, Vec<Problem>>,
    world: World,
    /// Of the last [`Self::replace`].
    readings: Readings,
    /// Since somebody took them.
    changes: Changes,
}

impl Store {
    /// `documents` are all there is: what is not among them disappears. A refused document leaves its object in the
    /// last good version; a file that cannot be read leaves everything that came from it (D13, D22).
    pub fn replace(&mut self, documents: Vec<Document>) -> Report {
        let batch = Batch::read(documents, &self.readings);
        let mut report = Report::default();
        let mut next = batch.good;
        report.accepted = next.keys().map(ObjectKey::to_string).collect();
        let mut changed: Vec<ObjectKey> =
            next.keys().filter(|key| !self.objects.contains_key(key)).cloned().collect();
        for (key, stored) in std::mem::take(&mut self.objects) {
            if let Some(new) = next.get(&key) {
                if !Arc::ptr_eq(&new.object, &stored.object) && new.object != stored.object {
                    stored.object.displace(&key, &mut self.world);
                    changed.push(key);
                }
                continue;
            }
            let reason = batch.refused.get(&key).or_else(|| unknown_in(&batch.unknown, &stored.file));
            if let Some(reason) = reason {
                report.kept_last_good.push(key.to_string());
                let superseded_since = stored.superseded_since.or_else(|| Some(SystemTime::now()));
                let superseded = reason.clone();
                next.insert(key, StoredObject { superseded, superseded_since, ..stored });
            } else {
                stored.object.displace(&key, &mut self.world);
                changed.push(key);
            }
        }
        self.objects = next;
        self.readings = batch.readings;
        self.rejected = batch.refused;
        self.rejected.retain(|key, _| !self.objects.contains_key(key));
        self.place(&changed);
        report.problems = batch.problems;
        // In a watched folder the documents of others may lie about (D43).
        report.problems.extend(batch.other_kinds);
        // A policy whose tier went away is still enforced, last (§3.2); holding it back would open a hole.
        report.problems.extend(self.missing_tiers(self.objects.values(), Severity::Warning));
        report.tidy();
        report
    }

    /// Creates and updates objects, all of them or none (D45).
    pub fn apply(&mut self, documents: Vec<Document>) -> Report {
        let batch = Batch::read(documents, &Readings::new());
        let mut problems = batch.problems;
        problems.extend(batch.other_kinds.into_iter().map(|problem| Problem {
            severity: Severity::Error,
            message: "is no kind that this program reads; apply it with kubectl".to_owned(),
            ..problem
        }));
        let mut next = self.clone();
        let names: Vec<ObjectKey> = batch.good.keys().cloned().collect();
        for (key, new) in batch.good {
            if let Some(old) = next.objects.insert(key.clone(), new) {
                old.object.displace(&key, &mut next.world);
            }
        }
        problems.extend(
            next.missing_tiers(names.iter().filter_map(|key| next.objects.get(key)), Severity::Error),
        );
        let mut report = Report { problems, ..Report::default() };
        if !report.has_errors() {
            next.rejected.retain(|key, _| !next.objects.contains_key(key));
            next.place(&names);
            *self = next;
            report.accepted = names.iter().map(ObjectKey::to_string).collect();
        }
        report.tidy();
        report
    }

    /// Takes an object away. `kind` may be a short name; `namespace` is ignored for kinds that have none.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<StoredObject, Box<Problem>> {
        let fail = |message: String| {
            Box::new(Problem {
                severity: Severity::Error,
                file: String::new(),
                line: 0,
                object: format!("{kind}/{name}"),
                path: String::new(),
                value: String::new(),
                message,
            })
        };
        let known =
            Kind::from_name(kind).ok_or_else(|| fail("is no kind that this program reads".to_owned()))?;
        let key = ObjectKey::new(known, namespace, name);
        if known == Kind::Tier && !built_in_tiers().contains_key(name) {
            let users: Vec<&str> =
                self.world.policies.values().filter(|p| p.tier == name).map(|p| p.name.as_str()).collect();
            if !users.is_empty() {
                return Err(fail(format!(
                    "still holds policies ({}); delete or move them first",
                    users.join(", ")
                )));
            }
        }
        let removed = self.objects.remove(&key).ok_or_else(|| fail("does not exist".to_owned()))?;
        removed.object.displace(&key, &mut self.world);
        note(&mut self.changes, &key);
        Ok(removed)
    }

    /// Everything that is valid.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What changed in [`Self::world`] since the last call, or since the store was empty.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// `kind` may be a short name.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&StoredObject> {
        self.objects.get(&ObjectKey::new(Kind::from_name(kind)?, namespace, name))
    }

    /// All objects of a kind, by namespace and name.
    pub fn list(&self, kind: &str) -> Vec<&StoredObject> {
        let kind = Kind::from_name(kind);
        self.objects.values().filter(|stored| Some(stored.key.kind) == kind).collect()
    }

    /// Objects of the last [`Self::replace`] that were refused and have no good version, with the reasons.
    pub fn rejected(&self) -> &BTreeMap<ObjectKey, Vec<Problem>> {
        &self.rejected
    }

    /// All objects, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &StoredObject> {
        self.objects.values()
    }

    /// Brings these into the world as they are now, after what they were was displaced.
    fn place(&mut self, changed: &[ObjectKey]) {
        for key in changed {
            note(&mut self.changes, key);
            if let Some(stored) = self.objects.get(key) {
                stored.object.place(key, &mut self.world);
            }
        }
    }

    /// V51. Says it of each policy among `objects` whose tier exists neither here nor built in.
    fn missing_tiers<'a>(
        &self,
        objects: impl Iterator<Item = &'a StoredObject>,
        severity: Severity,
    ) -> Vec<Problem> {
        let built_in = built_in_tiers();
        let mut problems = Vec::new();
        for stored in objects {
            let (Object::Policy(policy) | Object::InertPolicy(policy)) = &*stored.object else { continue };
            let key = ObjectKey::new(Kind::Tier, "", &policy.tier);
            if built_in.contains_key(&policy.tier) || self.objects.contains_key(&key) {
                continue;
            }
            let message = match severity {
                Severity::Error => {
                    "no such tier; write a Tier of this name, or remove the field for the tier `default`"
                }
                Severity::Warning | Severity::Note => {
                    "no such tier; the policy is judged after all tiers, with Deny at its end; write a Tier of this name"
                }
            };
            problems.push(Problem {
                severity,
                file: stored.file.clone(),
                line: stored.line,
                object: stored.key.to_string(),
                path: "spec.tier".to_owned(),
                value: policy.tier.clone(),
                message: message.to_owned(),
            });
        }
        problems
    }
}

/// An object came, changed or went.
fn note(changes: &mut Changes, key: &ObjectKey) {
    let pair = || (key.namespace.clone(), key.name.clone());
    match key.kind {
        Kind::Pod => drop(changes.pods.insert(pair())),
        Kind::GlobalNetworkSet | Kind::NetworkSet => drop(changes.network_sets.insert(pair())),
        Kind::Namespace => drop(changes.namespaces.insert(key.name.clone())),
        Kind::ServiceAccount => drop(changes.service_accounts.insert(pair())),
        Kind::Service | Kind::EndpointSlice => changes.services = true,
        Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::Tier
        | Kind::HostEndpoint
        | Kind::Profile
        | Kind::FelixConfiguration
        | Kind::KubeControllersConfiguration
        | Kind::Node => changes.rest = true,
    }
}

/// Problems of the file, or of a folder above it that could not be read.
fn unknown_in<'a>(unknown: &'a BTreeMap<String, Vec<Problem>>, file: &str) -> Option<&'a Vec<Problem>> {
    let path = std::path::Path::new(file);
    path.ancestors().find_map(|ancestor| unknown.get(ancestor.to_str()?))
}

impl Batch {
    /// The result does not depend on the order of the documents.
    fn read(mut documents: Vec<Document>, before: &Readings) -> Self {
        documents.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        let mut batch = Self::default();
        let mut places: BTreeMap<ObjectKey, Vec<(String, usize)>> = BTreeMap::new();
        for document in documents {
            let place = Arc::as_ptr(&document.value).addr();
            let reading = match before.get(&place) {
                Some((same, reading)) if *same == document => Arc::clone(reading),
                _ => Arc::new(object::read(&document)),
            };
            if let Some(key) = batch.add(&document, &reading) {
                places.entry(key).or_default().push((document.file.clone(), document.line));
            }
            batch.readings.insert(place, (document, reading));
        }
        for (key, places) in places.into_iter().filter(|(_, places)| places.len() > 1) {
            batch.refuse_twins(key, &places);
        }
        batch
    }

    fn add(&mut self, document: &Document, reading: &Reading) -> Option<ObjectKey> {
        let errors: Vec<Problem> =
            reading.problems.iter().filter(|problem| problem.severity == Severity::Error).cloned().collect();
        self.problems.extend(reading.problems.iter().cloned());
        match &reading.outcome {
            Outcome::Accepted(key, object) => {
                let stored = StoredObject {
                    key: key.clone(),
                    file: document.file.clone(),
                    line: document.line,
                    value: Arc::clone(&document.value),
                    object: Arc::clone(object),
                    superseded: Vec::new(),
                    superseded_since: None,
                };
                self.good.insert(key.clone(), stored);
                Some(key.clone())
            }
            Outcome::Refused(Some(key)) => {
                self.refused.entry(key.clone()).or_default().extend(errors);
                Some(key.clone())
            }
            Outcome::Refused(None) => {
                self.unknown.entry(document.file.clone()).or_default().extend(errors);
                None
            }
            Outcome::OtherKind(kind) => {
                self.other_kinds.push(Problem {
                    severity: Severity::Note,
                    file: document.file.clone(),
                    line: document.line,
                    object: kind.clone(),
                    path: String::new(),
                    value: String::new(),
                    message: "is passed over: it is not for hosts".to_owned(),
                });
                None
            }
        }
    }

    /// Which of two is meant is not ours to guess: both are refused.
    fn refuse_twins(&mut self, key: ObjectKey, places: &[(String, usize)]) {
        self.good.remove(&key);
        let all: BTreeSet<String> = places.iter().map(|(file, line)| format!("{file}:{line}")).collect();
        let all = all.into_iter().collect::<Vec<_>>().join(" and ");
        for (file, line) in places {
            let problem = Problem {
                severity: Severity::Error,
                file: file.clone(),
                line: *line,
                object: key.to_string(),
                path: String::new(),
                value: String::new(),
                message: format!("is written more than once: {all}; remove all but one"),
            };
            self.refused.entry(key.clone()).or_default().push(problem.clone());
            self.problems.push(problem);
        }
    }
}
