//! Random lives of a folder, with agents that come and go, against the plainest rule of what must be in force.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::resource::documents_from_str;

/// Small and good enough to choose events; the same seed gives the same life.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const OBJECTS: u64 = 4;

fn set(object: u64, version: u64) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: set{object}}}\n\
         spec: {{nets: [10.{object}.{}.0/24]}}\n",
        version % 256
    )
}

/// What stands in the file of an object. No entry: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Good(u64),
    Bad,
}

fn in_force(folder: &Folder) -> BTreeMap<String, String> {
    folder.accepted.world().network_sets.values().map(|s| (s.name.clone(), format!("{:?}", s.nets))).collect()
}

/// The plain rule: a good file counts, a bad one changes nothing, one that is gone is gone.
fn look(files: &BTreeMap<u64, Text>, before: &BTreeMap<u64, u64>) -> BTreeMap<u64, u64> {
    let version = |object: u64| match files.get(&object)? {
        Text::Good(version) => Some((object, *version)),
        Text::Bad => Some((object, *before.get(&object)?)),
    };
    (0..OBJECTS).filter_map(version).collect()
}

fn expected(versions: &BTreeMap<u64, u64>) -> BTreeMap<String, String> {
    let mut folder = Folder::new("/none".into());
    let documents = versions.iter().flat_map(|(o, v)| documents_from_str("f", &set(*o, *v)).0);
    folder.accepted.replace(documents.collect(), 0);
    in_force(&folder)
}

/// One change of one file.
fn change(chance: &mut Chance, version: u64, path: &Path, files: &mut BTreeMap<u64, Text>) -> String {
    let object = chance.below(OBJECTS);
    let file = path.join(format!("{object}.yaml"));
    let good = set(object, version);
    let (what, text, means) = match chance.below(6) {
        0 | 1 => ("good", Some(good), Some(Text::Good(version))),
        2 => ("refused", Some(good.replace("nets", "nests")), Some(Text::Bad)),
        3 => ("no YAML", Some("}: no YAML [".to_owned()), Some(Text::Bad)),
        4 => ("cut to nothing", Some(String::new()), Some(Text::Bad)),
        _ => ("removed", None, None),
    };
    match text {
        Some(text) => fs::write(&file, text).unwrap(),
        None => drop(fs::remove_file(&file)),
    }
    match means {
        Some(text) => drop(files.insert(object, text)),
        None => drop(files.remove(&object)),
    }
    format!("set{object} {what} (version {version})")
}

fn restart(folder: &mut Folder, state: &Path, path: &Path) {
    folder.last_good().save(state).unwrap();
    let last = LastGood::load(state, path).unwrap().unwrap();
    *folder = Folder::new(path.to_owned());
    assert_eq!(folder.restore(&last), []);
}

fn life(seed: u64) {
    let mut chance = Chance(seed);
    let top = tempfile::tempdir().unwrap();
    let [path, away, state] = ["policies", "away", "state"].map(|name| top.path().join(name));
    fs::create_dir(&path).unwrap();
    fs::create_dir(&state).unwrap();
    // So that the folder is never empty: that is a story of its own.
    fs::write(path.join("tier.yaml"), "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\n")
        .unwrap();
    let mut folder = Folder::new(path.clone());
    folder.read();
    let (mut files, mut versions, mut log) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for step in 1..30 {
        for _ in 0..=chance.below(2) {
            log.push(change(&mut chance, step, &path, &mut files));
        }
        match chance.below(6) {
            0 => {
                log.push("restart".to_owned());
                restart(&mut folder, &state, &path);
            }
            1 => {
                log.push("restart while the folder is away".to_owned());
                fs::rename(&path, &away).unwrap();
                restart(&mut folder, &state, &path);
                folder.read();
                assert_eq!(in_force(&folder), expected(&versions), "seed {seed}: {log:#?}");
                fs::rename(&away, &path).unwrap();
            }
            _ => {}
        }
        folder.read();
        versions = look(&files, &versions);
        assert_eq!(in_force(&folder), expected(&versions), "seed {seed}: {log:#?}");
        let bad = |o: &&u64| files.get(*o) == Some(&Text::Bad);
        let kept: Vec<String> =
            versions.keys().filter(bad).map(|o| format!("GlobalNetworkSet/set{o}")).collect();
        assert_eq!(
            folder.accepted.kept().into_iter().map(|k| k.object).collect::<Vec<_>>(),
            kept,
            "seed {seed}: {log:#?}"
        );
    }
}

#[test]
fn an_agent_that_comes_and_goes_is_as_one_that_stays() {
    for seed in 0..12 {
        life(seed);
    }
}

#[test]
fn an_emptied_folder_is_an_order_only_if_it_is_the_same_folder() {
    let top = tempfile::tempdir().unwrap();
    let [path, mounted] = ["policies", "mounted"].map(|name| top.path().join(name));
    fs::create_dir(&path).unwrap();
    fs::create_dir(&mounted).unwrap();
    fs::write(mounted.join("a.yaml"), set(1, 1)).unwrap();
    // A volume that is mounted and unmounted, without the privilege to do so.
    let swap = || {
        fs::rename(&path, top.path().join("x")).unwrap();
        fs::rename(&mounted, &path).unwrap();
        fs::rename(top.path().join("x"), &mounted).unwrap();
    };
    swap();
    let mut folder = Folder::new(path.clone());
    folder.read();
    assert_eq!(in_force(&folder).len(), 1);
    swap();
    assert!(folder.read());
    assert_eq!(in_force(&folder).len(), 1, "{:?}", folder.accepted.problems());
    assert!(folder.accepted.problems()[0].message.contains("volume not mounted"));
    let last = folder.last_good();
    let mut next = Folder::new(path.clone());
    next.restore(&last);
    next.read();
    assert_eq!(in_force(&next).len(), 1, "a restart knows it too");
    swap();
    next.read();
    assert_eq!((in_force(&next).len(), next.accepted.problems().len()), (1, 0));
    fs::remove_file(path.join("a.yaml")).unwrap();
    next.read();
    assert_eq!(in_force(&next).len(), 0, "removed from the folder itself");
}

#[test]
fn a_kept_object_says_since_when_and_why() {
    let mut folder = Folder::new("/none".into());
    let read = |text: &str| documents_from_str("f", text).0;
    folder.accepted.replace(read(&set(1, 1)), 100);
    assert_eq!(folder.accepted.kept(), []);
    let broken = set(1, 2).replace("nets", "nests");
    folder.accepted.replace(read(&broken), 200);
    folder.accepted.replace(read(&broken.replace("10.", "11.")), 300);
    let kept = folder.accepted.kept();
    assert_eq!((kept[0].accepted, kept[0].since), (100, 200));
    assert!(kept[0].reasons[0].contains("nests"), "{:?}", kept[0].reasons);
    folder.accepted.replace(read(&set(1, 1)), 400);
    assert_eq!(folder.accepted.kept(), []);
    assert_eq!(folder.last_good().objects[0].accepted, 100, "the same version was accepted then");
}
