//! Scrapes of a real agent, with real packets; and the packaged alerts and dashboard against them. About 8 s in all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::Reason;
use portcullis::http::metrics::catalog::{self, METRICS};
use tests::{
    alerts::{alerts, asked, fires, packaged},
    can_run,
    http::get,
    openmetrics::{Labels, Scrape},
    small::{NODE, Small},
};

const POLICY: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: ports}
spec:
  order: 1
  selector: role == 'node'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: UDP, destination: {ports: [5000]}}
  - {action: Deny, protocol: UDP, destination: {ports: [5001]}}
";

fn run(test: &str, body: fn(Small) -> Result<()>) {
    if can_run(test) {
        body(Small::new().unwrap()).unwrap();
    }
}

fn scrape(small: &Small) -> Result<Scrape> {
    scrape_of(small, "/metrics")
}

fn scrape_of(small: &Small, path: &str) -> Result<Scrape> {
    let answer = small.becomes(path, |a| a.status == 200)?;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    ensure!(answer.head.contains(kind), "{}", answer.head);
    Scrape::read(&answer.body).with_context(|| answer.body.clone())
}

fn packet(verdict: &str, reason: &str) -> Labels {
    let labels = [("iface", "eth0"), ("hook", "ingress"), ("verdict", verdict), ("reason", reason)];
    labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// A scrape once this holds, and whoever sent anything is done: the kernel may judge a packet a moment after it was sent.
/// The last one when it never does: the test says what is wrong with it.
fn settled(small: &Small, name: &str, wanted: impl Fn(&Scrape) -> bool) -> Result<Scrape> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut last = scrape(small)?;
    loop {
        thread::sleep(Duration::from_millis(50));
        let now = scrape(small)?;
        if Instant::now() > end || wanted(&now) && moved(name, &last, &now).is_empty() {
            return Ok(now);
        }
        last = now;
    }
}

/// What moved, and nothing that did not.
fn moved(name: &str, before: &Scrape, after: &Scrape) -> BTreeMap<Labels, f64> {
    let old = before.of(name);
    let new = after.of(name).into_iter();
    new.map(|(l, v)| (l.clone(), v - old.get(&l).unwrap_or(&0.0))).filter(|(_, d)| *d != 0.0).collect()
}

#[test]
fn counters_move_by_exactly_what_was_sent() {
    run("counters_move_by_exactly_what_was_sent", |small| {
        small.folder.put("ports.yaml", POLICY)?;
        let _agent = small.start()?;
        // Somebody listens, so that nothing is answered.
        let socket = small.node.run(|| UdpSocket::bind((NODE, 5000)))??;
        let before = scrape(&small)?;
        small.send(5000, 7, 10)?;
        small.send(5001, 5, 20)?;
        small.send(68, 3, 30)?;
        small.send(9, 4, 40)?;
        let mut got = [0; 64];
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        for _ in 0..7 {
            socket.recv(&mut got)?;
        }
        // The failsafe port has no listener: port unreachable goes back, and is no business of ingress.
        let ingress = |mut all: BTreeMap<Labels, f64>| {
            all.retain(|labels, _| labels["hook"] == "ingress");
            all
        };
        let after = settled(&small, "portcullis_packets_total", |now| {
            ingress(moved("portcullis_packets_total", &before, now)).values().sum::<f64>() >= 19.0
        })?;
        let sent = [
            (packet("Allow", "rule_allow"), 7, 10),
            (packet("Deny", "rule_deny"), 5, 20),
            (packet("Allow", "failsafe_inbound"), 3, 30),
            (packet("Deny", "tier_end"), 4, 40),
        ];
        let packets: BTreeMap<_, _> = sent.iter().map(|(l, n, _)| (l.clone(), f64::from(*n))).collect();
        assert_eq!(ingress(moved("portcullis_packets_total", &before, &after)), packets);
        // IPv4 and UDP have 28 bytes of headers.
        let bytes: BTreeMap<_, _> =
            sent.iter().map(|(l, n, b)| (l.clone(), f64::from(n * (b + 28)))).collect();
        assert_eq!(ingress(moved("portcullis_bytes_total", &before, &after)), bytes);
        // Scraping goes by way of lo, which no program of ours sees: two scrapes count nothing.
        let again = scrape(&small)?;
        assert_eq!(moved("portcullis_packets_total", &after, &again), BTreeMap::new());
        // By rule, only for who asks.
        assert_eq!(again.sum("portcullis_policy_packets_total", &[]), None);
        let with = scrape_of(&small, "/metrics?policies")?;
        let of = |rule| {
            let labels = [("policy", "GlobalNetworkPolicy/ports"), ("rule", rule)];
            with.sum("portcullis_policy_packets_total", &labels)
        };
        assert_eq!((of("NormalIngress 0"), of("NormalIngress 1")), (Some(7.0), Some(5.0)), "{with:#?}");
        Ok(())
    });
}

#[test]
fn a_scrape_is_strict_stable_and_bounded() {
    run("a_scrape_is_strict_stable_and_bounded", |small| {
        small.folder.put("ports.yaml", POLICY)?;
        let _agent = small.start()?;
        small.send(5000, 1, 10)?;
        let allowed = |s: &Scrape| s.sum("portcullis_packets_total", &[("reason", "rule_allow")]) > Some(0.0);
        let first = settled(&small, "portcullis_packets_total", allowed)?;
        let second = scrape(&small)?;
        let series =
            |s: &Scrape| s.samples.iter().map(|(n, l, _)| (n.clone(), l.clone())).collect::<Vec<_>>();
        assert_eq!(series(&first), series(&second));
        // Every metric of the catalog that a folder's agent can have, in its order, with its labels.
        let order: Vec<&str> = first.families.iter().map(|(name, _)| name.as_str()).collect();
        let family = |name: &'static str| name.trim_end_matches("_total").trim_end_matches("_info");
        let wanted: Vec<&str> = METRICS
            .iter()
            .map(|m| m.name)
            .filter(|n| {
                !n.contains("kubernetes") && !n.contains("_policy_packets") && !n.contains("_omitted")
            })
            .map(family)
            .collect();
        assert_eq!(order, wanted);
        for (name, labels, _) in &first.samples {
            let found = ["", "_sum", "_count", "_bucket"]
                .iter()
                .find_map(|end| catalog::find(name.strip_suffix(end)?))
                .with_context(|| format!("{name} is not in the catalog"))?;
            let known: BTreeSet<&str> = found.labels.iter().copied().chain(["le"]).collect();
            ensure!(labels.keys().all(|k| known.contains(k.as_str())), "{name} {labels:?}");
            ensure!(labels.values().all(|v| !v.contains("10.240")), "an address: {labels:?}");
        }
        for (name, labels, wanted) in [
            ("portcullis_in_sync", &[][..], 1.0),
            ("portcullis_policies", &[("state", "active")], 1.0),
            ("portcullis_endpoints", &[("state", "active")], 1.0),
            ("portcullis_devices", &[("state", "governed")], 1.0),
            ("portcullis_devices", &[("state", "not_attached")], 0.0),
            ("portcullis_scrape_errors", &[], 0.0),
            ("portcullis_map_capacity", &[("map", "longest_list")], 4096.0),
        ] {
            assert_eq!(first.sum(name, labels), Some(wanted), "{name} {labels:?}");
        }
        ensure!(first.sum("portcullis_failsafe_ports", &[("direction", "inbound")]) > Some(0.0));
        ensure!(first.sum("portcullis_apply_duration_seconds_count", &[]) >= Some(1.0));
        ensure!(first.sum("portcullis_generation_number", &[]) >= Some(1.0));
        // A scrape that is not awaited, and many at once, cost nobody else.
        thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| get(&small.node, "/metrics"))).collect();
            all.into_iter().try_for_each(|t| t.join().expect("no panic").map(drop))
        })?;
        assert_eq!(get(&small.node, "/livez")?.status, 200);
        Ok(())
    });
}

/// Alerts that begin at once with this scrape.
fn firing(scrape: &Scrape) -> Result<BTreeSet<String>> {
    let mut firing = BTreeSet::new();
    for alert in alerts()? {
        if fires(&alert, scrape)? == Some(true) {
            firing.insert(alert.name);
        }
    }
    Ok(firing)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn alerts_begin_when_something_is_wrong_and_not_before() {
    run("alerts_begin_when_something_is_wrong_and_not_before", |small| {
        small.folder.put("ports.yaml", POLICY)?;
        let agent = small.start()?;
        small.send(5000, 1, 10)?;
        let good = scrape(&small)?;
        assert_eq!(firing(&good)?, names(&[]));
        everything_asked_for_is_there(&good)?;

        // A policy for nobody, a document that is refused, one that goes on as it was, a suspension.
        let nobody = POLICY.replace("name: ports", "name: nobody").replace("role == 'node'", "role == 'x'");
        small.folder.put("nobody.yaml", &(nobody + "  applyOnForward: true\n  preDNAT: true\n"))?;
        small.folder.put("ports.yaml", &POLICY.replace("Allow", "Perhaps"))?;
        small.folder.put(
            "bad.yaml",
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\nspec: {orde: 1}\n",
        )?;
        let pins = small.home.pin_dir();
        let pins = pins.to_str().context("a readable path")?;
        let said = small.home.portcullis(&small.node, &["suspend", "--for", "10m", "--pin-dir", pins])?;
        ensure!(said.code == 0, "{said:#?}");
        let wanted =
            names(&["PortcullisObjectRejected", "PortcullisPolicySelectsNothing", "PortcullisNotEnforced"]);
        let mut found = names(&[]);
        for _ in 0..600 {
            found = firing(&scrape(&small)?)?;
            if found == wanted {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(found, wanted, "{}", agent.log());
        let bad = scrape(&small)?;
        let objects = |kind, state| bad.sum("portcullis_objects", &[("kind", kind), ("state", state)]);
        assert_eq!(objects("Tier", "rejected"), Some(1.0));
        assert_eq!(objects("GlobalNetworkPolicy", "kept"), Some(1.0));
        // What policy would deny is counted as such.
        small.send(5001, 2, 10)?;
        let would_deny = packet("WouldDeny", "rule_deny");
        let after = settled(&small, "portcullis_packets_total", |now| {
            moved("portcullis_packets_total", &bad, now).get(&would_deny).is_some_and(|count| *count >= 2.0)
        })?;
        let spared = moved("portcullis_packets_total", &bad, &after);
        assert_eq!(spared.get(&would_deny), Some(&2.0), "{spared:?}");
        Ok(())
    });
}

/// Every metric and label value of alerts and dashboard is in a scrape, but for what only another source or a
/// misfortune brings.
fn everything_asked_for_is_there(scrape: &Scrape) -> Result<()> {
    let dashboard: serde_json::Value = serde_json::from_str(&packaged("dashboard.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().into_iter().flatten());
    let shown = targets.map(|t| t["expr"].as_str().unwrap_or_default().to_owned());
    let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
    for expr in alerts()?.into_iter().map(|a| a.expr).chain(shown) {
        for asked in asked(&expr)? {
            let name = asked.metric.trim_end_matches("_bucket");
            let known = catalog::find(name).with_context(|| format!("{name} in {expr}"))?;
            let series = scrape.of(&asked.metric);
            ensure!(!series.is_empty() || name.contains("kubernetes"), "{} is in no scrape", asked.metric);
            for (label, values) in &asked.labels {
                ensure!(known.labels.contains(&label.as_str()), "label {label} in {expr}");
                for value in values {
                    let there = match label.as_str() {
                        "reason" if name == "portcullis_packets_total" => reasons.contains(value.as_str()),
                        "verdict" => ["Allow", "Deny", "WouldDeny"].contains(&value.as_str()),
                        "hook" => ["ingress", "egress", "xdp"].contains(&value.as_str()),
                        _ => series.keys().any(|l| l.get(label) == Some(value)),
                    };
                    ensure!(there, "no series has {label}={value:?}, as {expr} wants");
                }
            }
        }
    }
    Ok(())
}
