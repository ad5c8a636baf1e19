//! Bad input: mutated documents and selectors. Bounded and seeded, so that a failure comes again; what failed once is
//! kept in `tests/corpus`. `FUZZ_ROUNDS=1000000 cargo test -p dataplane-user --test fuzz` looks longer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis::compile::compile;
use portcullis::index::Snapshot;
use portcullis::lint;
use portcullis::policy::{Device, NodeView};
use portcullis::resource::{Store, documents_from_str};
use portcullis::selector::Selector;

/// Mutated inputs of a target, unless `FUZZ_ROUNDS` says otherwise: a selector is read in no time.
const DOCUMENTS: u32 = 3000;
const SELECTORS: u32 = 60_000;
/// No target takes longer than this in CI, however slow the machine is.
const LONGEST: Duration = Duration::from_secs(12);
/// Longest input, in bytes.
const MAX_INPUT: usize = 16 << 10;
/// Address space that the whole test may take: what asks for more dies here, visibly.
const MAX_MEMORY: u64 = 4 << 30;
/// Longest time for one input, in a debug build on a busy machine.
const MAX_PER_INPUT: Duration = Duration::from_secs(5);

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What real documents and selectors are made of, and what breaks readers.
const WORDS: &[&str] = &[
    "apiVersion: projectcalico.org/v3\n",
    "kind: GlobalNetworkPolicy\n",
    "kind: HostEndpoint\n",
    "kind: Tier\n",
    "kind: StagedGlobalNetworkPolicy\n",
    "kind: KubeControllersConfiguration\n",
    "kind: FelixConfiguration\n",
    "kind: List\n",
    "metadata: {name: x}\n",
    "spec:\n",
    "---\n",
    "...\n",
    "  ",
    "\t",
    "\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    "\"",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "|\n",
    ">\n",
    "? ",
    "null",
    "~",
    "true",
    "no",
    "0",
    "-1",
    "1e308",
    "-0",
    ".nan",
    ".inf",
    "0x10",
    "0755",
    "99999999999999999999",
    "10.0.0.0/8",
    "10.0.0.1/33",
    "::/0",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "80",
    "\"1:65535\"",
    "'65536'",
    "http",
    "TCP",
    "ICMPv6",
    "selector: ",
    "namespaceSelector: global()",
    "nets: ",
    "notNets: ",
    "ports: ",
    "services: {name: a, namespace: b}",
    "icmp: {type: 8}",
    "action: Allow",
    "has(",
    "all()",
    "global()",
    " in {",
    " not in {",
    " starts with ",
    " && ",
    " || ",
    "!",
    "\u{feff}",
];

fn mutate(random: &mut Random, text: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(6) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(40)).min(text.len());
        match random.below(9) {
            0 => drop(text.drain(at..end)),
            1 => {
                let part = text[at..end].to_vec();
                text.splice(at..at, part.iter().copied().cycle().take(part.len() * (1 + random.below(8))));
            }
            2 if at < text.len() => text[at] ^= 1 << random.below(8),
            3 if at < text.len() => text[at] = *random.pick(b" \n\t:-{}[],'\"#&*!|>%@`0a\0\x7f\xff"),
            4 => {
                let other = random.pick(others);
                let from = random.below(other.len());
                let part = &other[from..(from + random.below(200)).min(other.len())];
                text.splice(at..end, part.iter().copied());
            }
            5 => {
                // A whole line elsewhere.
                let line = text[at..].split(|b| *b == b'\n').next().unwrap_or_default().to_vec();
                let to = random.below(text.len() + 1);
                text.splice(to..to, line.into_iter().chain([b'\n']));
            }
            6 => {
                let word = random.pick(WORDS).repeat(1 + random.below(3) * random.below(30));
                text.splice(at..at, word.bytes());
            }
            _ => drop(text.splice(at..end, random.pick(WORDS).bytes()).count()),
        }
        text.truncate(MAX_INPUT);
    }
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

/// The kept inputs of a folder, in the order of their names.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(corpus(name)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 5, "the corpus of {name} is gone");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs `check` on the kept inputs and on mutations of them. What fails is saved, with its place in the message.
fn fuzz(name: &str, seed: u64, usual: u32, check: impl Fn(&str)) {
    let seeds = &kept(name);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_AS, MAX_MEMORY, MAX_MEMORY);
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut random = Random(seed);
    let begin = Instant::now();
    let mutations = (0..rounds.unwrap_or(usual)).map(|_| {
        let mut text = random.pick(seeds).clone();
        mutate(&mut random, &mut text, seeds);
        text
    });
    let mut done = 0;
    for (round, input) in seeds.iter().cloned().chain(mutations).enumerate() {
        let one = Instant::now();
        let text = String::from_utf8_lossy(&input);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&text)));
        if outcome.is_err() || one.elapsed() > MAX_PER_INPUT {
            let path = std::env::temp_dir().join(format!("portcullis-fuzz-{name}-{round}"));
            let saved = std::fs::write(&path, text.as_bytes()).map(|()| path.display().to_string());
            panic!(
                "{name}, round {round}, {:?}: see {saved:?}; keep it in tests/corpus/{name}",
                one.elapsed()
            );
        }
        done = round + 1;
        if rounds.is_none() && begin.elapsed() > LONGEST {
            break;
        }
    }
    println!("{name}: {done} inputs in {:?}", begin.elapsed());
    assert!(done > seeds.len(), "not even the kept inputs were looked at in time");
}

fn view() -> NodeView {
    let eth0 = Device {
        name: "eth0".to_owned(),
        ifindex: 2,
        addresses: vec!["10.240.0.11/24".parse().unwrap(), "fd00::11/64".parse().unwrap()],
        ..Device::default()
    };
    NodeView { name: "node1".into(), devices: BTreeMap::from([("eth0".into(), eth0)]), ..NodeView::default() }
}

/// Whatever the text is: it is read, or refused with messages; what is accepted can be enforced and written again.
fn documents(text: &str) {
    let (documents, _) = documents_from_str("fuzz.yaml", text);
    let mut store = Store::default();
    let report = store.replace(documents.clone());
    assert!(report.problems.iter().all(|p| !p.message.is_empty() && p.message.len() < 4096));
    assert!(report.problems.len() <= 201 * (documents.len() + 1), "one document, one bounded answer");
    let again = Store::default().replace(documents);
    assert_eq!(report, again, "the same documents, the same answer");
    let snapshot = Snapshot::build(store.world(), &view());
    // A limit may be crossed; that is an answer, too.
    let _ = compile(&snapshot);
    let _ = lint::check(store.world(), &view());
    let _ = lint::check_documents(store.world());
    for stored in store.objects() {
        let written = serde_saphyr::to_string(&*stored.value).expect("what was read can be written");
        let mut second = Store::default();
        second.replace(documents_from_str("again.yaml", &written).0);
        let read = second.get(stored.key.kind.as_str(), &stored.key.namespace, &stored.key.name);
        assert_eq!(read.map(|r| &r.object), Some(&stored.object), "written and read again:\n{written}");
    }
}

/// A selector means the same after it was written and read, and its opposite means the opposite.
fn selectors(text: &str) {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let maps = [
        labels(&[]),
        labels(&[("a", "x"), ("b", "")]),
        labels(&[("role", "node"), ("in", "x"), ("k8s-app", "web")]),
    ];
    match Selector::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty() && error.to_string().len() < 8192),
        Ok(selector) => {
            let written = selector.to_string();
            if written.chars().count() <= portcullis::selector::MAX_SELECTOR_CHARS {
                assert_eq!(Selector::parse(&written).as_ref(), Ok(&selector), "{written}");
            }
            for map in &maps {
                assert_ne!(selector.matches(map), selector.clone().not().matches(map), "{written}");
            }
        }
    }
}

#[test]
fn no_document_breaks_the_reader() {
    fuzz("yaml", 0x5eed_0001, DOCUMENTS, documents);
}

#[test]
fn no_selector_breaks_the_parser() {
    fuzz("selector", 0x5eed_0002, SELECTORS, selectors);
}
