//! `portcullis status`: the page that an operator starts the day with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::output::{columns, print_json, print_lines};
use super::run::DEFAULT_STATE_DIR;
use crate::inspect::health::{findings, overall};
use crate::inspect::kernel::{CounterView, HookView};
use crate::inspect::rules::lasting;
use crate::inspect::{Finding, Health, Kernel};
use crate::state::{KubeProxyState, State, now};

/// What is in force on this node, which devices are not protected, and what is wrong
///
/// Reads the kernel: pinned maps, links, what runs at each device's hooks. The agent's state file gives names, and
/// what was rejected or kept. Works when the agent is dead.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct StatusArgs {
    #[arg(short, long, value_enum, default_value = "table")]
    output: StatusOutput,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

const HELP: &str = "Examples:
  portcullis status
  portcullis status -o json | jq .health

UNPROTECTED devices, NEARLY FULL tables, NOT FIRST and ON TRIAL are shown and change no exit code: what was asked for is
enforced. `-o json` gives each finding its health.

Exit codes: 0 all that was asked for is enforced; 1 something is not (the lines on top say what); 2 it cannot be told.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusOutput {
    Table,
    Json,
}

/// Lines that are shown of the counters, the most packets first.
const TOP_REASONS: usize = 12;

pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let state = State::load(&args.state_dir)?;
    let kernel = Kernel::read(&state).map_err(|e| format!("{e:#}"));
    let found = findings(&state, kernel.as_ref().map_err(String::as_str));
    let health = overall(&found);
    match args.output {
        StatusOutput::Json => {
            let mut page = serde_json::to_value(&state)?;
            page["health"] = json!(health);
            page["findings"] = json!(found);
            page["agentRuns"] = json!(state.agent_runs());
            page["kernel"] = json!(kernel.as_ref().ok());
            print_json(&page)?;
        }
        StatusOutput::Table => print_lines(page(&state, kernel.as_ref().ok(), &found))?,
    }
    Ok(match health {
        Health::Healthy => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(1),
        Health::Unknown => ExitCode::from(2),
    })
}

/// The worst first: what is broken, then what is open, then what holds.
fn page(state: &State, kernel: Option<&Kernel>, found: &[Finding]) -> Vec<String> {
    let mut out: Vec<String> = found.iter().map(|f| format!("{}: {}", f.what, f.text)).collect();
    if !out.is_empty() {
        out.push(String::new());
    }
    out.push(headline(state, kernel));
    out.extend(state.kubernetes.as_ref().and_then(|k| k.kube_proxy.as_ref()).map(node_ports));
    out.push(String::new());
    if let Some(kernel) = kernel {
        devices(&mut out, state, kernel);
    }
    lists(&mut out, state);
    if let Some(kernel) = kernel {
        counters(&mut out, &kernel.counters);
        let rows = kernel.tables.iter().filter(|t| t.entries > 0).map(|t| {
            vec![t.name.to_owned(), t.entries.to_string(), t.limit.to_string(), format!("{}%", t.percent())]
        });
        table(&mut out, "Tables", &["TABLE", "ENTRIES", "LIMIT", "FULL"], rows.collect());
    }
    documents(&mut out, state);
    section(&mut out, "Kubernetes", kubernetes(state).into_iter());
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out
}

fn headline(state: &State, kernel: Option<&Kernel>) -> String {
    let generation = kernel.map_or(state.generation, |k| k.generation);
    let agent = if state.agent_runs() { format!("agent {}", state.pid) } else { "no agent".to_owned() };
    let since = lasting(state.age());
    let policies = state.policies.display();
    let mut line = match generation {
        0 => format!("node {}: nothing in force yet", state.node),
        n if n == state.generation => format!("node {}: generation {n} in force for {since}", state.node),
        n => format!("node {}: generation {n} in force", state.node),
    };
    line += &format!("; {agent}; policies from {policies}");
    if let Some(kernel) = kernel.filter(|k| k.adoption_seconds > 0) {
        line += &format!("; adopting flows for {} s more", kernel.adoption_seconds);
    }
    line
}

/// Where and which, as kube-proxy says or as it is assumed (D3).
fn node_ports(proxy: &KubeProxyState) -> String {
    let mode = proxy.mode.as_deref().unwrap_or("of unknown mode");
    let at = match proxy.node_port_addresses.is_empty() {
        true => "every own address".to_owned(),
        false => proxy.node_port_addresses.join(", "),
    };
    format!("kube-proxy {mode}; node ports at {at} ({}); {}", proxy.because, proxy.node_ports)
}

fn devices(out: &mut Vec<String>, state: &State, kernel: &Kernel) {
    let mut rows = Vec::new();
    for device in &kernel.devices {
        let governs = match &device.endpoint {
            Some(endpoint) => format!("HostEndpoint/{endpoint}"),
            None if state.unprotected.contains(&device.name) => "UNPROTECTED".to_owned(),
            None if state.workload.contains(&device.name) => "workload".to_owned(),
            None => "-".to_owned(),
        };
        let grace =
            if device.grace_seconds > 0 { format!("{} s", device.grace_seconds) } else { "-".to_owned() };
        if device.hooks.is_empty() {
            rows.push(vec![device.name.clone(), "?".into(), "?".into(), "?".into(), governs, grace]);
            continue;
        }
        for (number, hook) in device.hooks.iter().enumerate() {
            let first = number == 0;
            let once = |text: &str| if first { text.to_owned() } else { String::new() };
            rows.push(vec![
                once(&device.name),
                hook.hook.clone(),
                hook.attached_by.clone().unwrap_or_else(|| "no".into()),
                place(hook),
                once(&governs),
                once(&grace),
            ]);
        }
    }
    table(out, "Devices", &["DEVICE", "HOOK", "ATTACHED", "CHAIN", "GOVERNED BY", "GRACE"], rows);
}

/// `1 of 1`, or all that runs there: `cil_from_netdev > us > flower`.
fn place(hook: &HookView) -> String {
    match hook.chain.as_slice() {
        [] => "-".to_owned(),
        [only] if only.ours => "1 of 1".to_owned(),
        chain => {
            let names: Vec<String> = chain
                .iter()
                .map(|p| if p.ours { "portcullis".to_owned() } else { format!("{} ({})", p.name, p.by) })
                .collect();
            names.join(" > ")
        }
    }
}

/// Words for the list names of the state file.
pub fn list_name(list: &str) -> &str {
    match list {
        "UntrackedIngress" => "untracked ingress",
        "UntrackedEgress" => "untracked egress",
        "PreDnat" => "preDNAT",
        "ForwardIngress" => "forward ingress",
        "ForwardEgress" => "forward egress",
        "NormalIngress" => "normal ingress",
        "NormalEgress" => "normal egress",
        "ProfileIngress" => "profile ingress",
        "ProfileEgress" => "profile egress",
        other => other,
    }
}

fn lists(out: &mut Vec<String>, state: &State) {
    let mut rows = Vec::new();
    for endpoint in &state.endpoints {
        let devices: Vec<&str> = endpoint.devices.iter().map(String::as_str).collect();
        if endpoint.lists.is_empty() {
            rows.push(vec![endpoint.name.clone(), devices.join(","), "none".into(), String::new()]);
        }
        for (number, (list, policies)) in endpoint.lists.iter().enumerate() {
            let once = |text: String| if number == 0 { text } else { String::new() };
            let short: Vec<&str> =
                policies.iter().map(|p| p.strip_prefix("GlobalNetworkPolicy/").unwrap_or(p)).collect();
            rows.push(vec![
                once(endpoint.name.clone()),
                once(devices.join(",")),
                list_name(list).to_owned(),
                short.join(" > "),
            ]);
        }
    }
    table(out, "Host endpoints", &["HOSTENDPOINT", "DEVICES", "LIST", "POLICIES, IN ORDER"], rows);
}

fn counters(out: &mut Vec<String>, counters: &[CounterView]) {
    let mut verdicts: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for counter in counters {
        let sum = verdicts.entry((&counter.hook, &counter.verdict)).or_default();
        sum.0 += counter.packets;
        sum.1 += counter.bytes;
    }
    let rows = verdicts.into_iter().rev().map(|((hook, verdict), (packets, bytes))| {
        vec![hook.to_owned(), verdict.to_owned(), packets.to_string(), bytes.to_string()]
    });
    table(out, "Packets", &["HOOK", "VERDICT", "PACKETS", "BYTES"], rows.collect());
    let mut top: Vec<&CounterView> = counters.iter().filter(|c| c.verdict != "Ungoverned").collect();
    top.sort_by_key(|c| (c.verdict != "Deny", std::cmp::Reverse(c.packets)));
    let rows = top.iter().take(TOP_REASONS).map(|c| {
        vec![c.reason.clone(), c.verdict.clone(), c.hook.clone(), c.packets.to_string(), c.bytes.to_string()]
    });
    table(out, "Top reasons", &["REASON", "VERDICT", "HOOK", "PACKETS", "BYTES"], rows.collect());
}

fn documents(out: &mut Vec<String>, state: &State) {
    let ago = |at: u64| lasting(now().saturating_sub(at));
    let kept = state.kept.iter().map(|k| {
        let (accepted, since) = (ago(k.accepted), ago(k.since));
        format!("{}: accepted {accepted} ago, kept for {since}: {}", k.object, k.reasons.join("; "))
    });
    section(out, "Kept at their last good version", kept);
    let adoption = state.adoption.iter().flat_map(|a| {
        let counts = match a.moved {
            0 => format!("{} flows from conntrack, {} from sockets", a.conntrack, a.sockets),
            moved => format!("{moved} flows from the tables of the build before"),
        };
        let unread = (a.unreadable > 0).then(|| format!("{} entries could not be read", a.unreadable));
        [counts].into_iter().chain(unread).chain(a.errors.iter().map(|e| format!("not all: {e}")))
    });
    section(out, "Live flows that were taken over", adoption);
    let problems = state.problems.iter().map(|p| {
        let place = if p.line > 0 { format!("{}:{}", p.file, p.line) } else { p.file.clone() };
        let value = if p.value.is_empty() { String::new() } else { format!("{:?}", p.value) };
        let about: Vec<&str> =
            [p.object.as_str(), &p.path, &value].into_iter().filter(|s| !s.is_empty()).collect();
        let about = if about.is_empty() { String::new() } else { format!("{}: ", about.join(" ")) };
        format!("{place}: {}: {about}{}", p.severity, p.message)
    });
    section(out, "Documents", problems);
    let empty = state.empty_selectors.iter().map(|e| format!("{} {}: {}", e.policy, e.path, e.selector));
    section(out, "Selectors that match nothing (their rules match nothing)", empty);
    section(out, "Policies that select nothing here", state.idle_policies.iter().cloned());
    let others = state.not_for_hosts.iter().filter(|p| !state.misses.contains(p)).cloned();
    section(out, "Policies not for hosts (they select pods, or their selector is misspelt)", others);
}

/// Where the API is the source: how it is followed, and where the cluster sees this page.
fn kubernetes(state: &State) -> Vec<String> {
    let Some(kubernetes) = &state.kubernetes else { return Vec::new() };
    let cluster = kubernetes.cluster.as_deref().unwrap_or("not known yet");
    let sync = if kubernetes.in_sync { "in sync" } else { "NOT in sync" };
    let mut out = vec![format!("cluster {cluster}: {sync}")];
    if let Some(report) = &kubernetes.report {
        let ago = report.written.map(|at| lasting(now().saturating_sub(at)));
        out.push(match (report.current, ago) {
            (true, Some(ago)) => format!("nodepolicystatus/{}: current, written {ago} ago", report.name),
            (false, Some(ago)) => format!("nodepolicystatus/{}: NOT current, written {ago} ago", report.name),
            (_, None) => format!("nodepolicystatus/{}: not written by this agent (yet)", report.name),
        });
    }
    out
}

fn section(out: &mut Vec<String>, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        out.push(format!("{title}:"));
        out.extend(items.map(|i| format!("  {i}")));
        out.push(String::new());
    }
}

fn table(out: &mut Vec<String>, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        section(out, title, columns(header, rows).into_iter());
    }
}

#[cfg(test)]
mod tests {
    use crate::inspect::kernel::DeviceView;
    use crate::loader::chain::Place;
    use crate::safety::Standing;
    use crate::state::tests::state;

    use super::*;

    fn hook(hook: &str, chain: &[(&str, bool)]) -> HookView {
        let chain: Vec<Place> = chain
            .iter()
            .map(|(name, ours)| Place { name: (*name).into(), program: None, by: "tcx".into(), ours: *ours })
            .collect();
        let ours = chain.iter().position(|p| p.ours);
        HookView {
            hook: hook.into(),
            attached_by: ours.map(|_| "tcx".into()),
            position: ours.map(|i| i + 1),
            chain,
        }
    }

    fn kernel() -> Kernel {
        let hooks = vec![hook("ingress", &[("us", true)]), hook("egress", &[("us", true)])];
        let device = DeviceView { name: "eth0".into(), ifindex: 2, hooks, ..DeviceView::default() };
        Kernel { generation: 3, devices: vec![device], ..Kernel::default() }
    }

    /// As if its agent ran: this very process does.
    fn healthy() -> State {
        State { pid: std::process::id(), ..state() }
    }

    fn words(state: &State, kernel: &Kernel) -> Vec<String> {
        let found = findings(state, Ok(kernel));
        found.iter().filter(|f| f.what != "NO AGENT").map(|f| f.what.clone()).collect()
    }

    #[test]
    fn policies_for_hosts_that_govern_nothing_are_told_on_top() {
        let idle = State {
            governed: BTreeMap::new(),
            idle_policies: vec!["GlobalNetworkPolicy/a".into()],
            misses: vec!["GlobalNetworkPolicy/b".into()],
            ..healthy()
        };
        assert_eq!(words(&idle, &kernel()), ["NOTHING GOVERNED", "SELECTS NOTHING"]);
        let empty = State { governed: BTreeMap::new(), ..healthy() };
        assert_eq!(words(&empty, &kernel()), Vec::<String>::new(), "as it is installed");
    }

    #[test]
    fn a_hook_without_our_program_is_not_enforced_whatever_the_agent_wrote() {
        assert_eq!(words(&healthy(), &kernel()), Vec::<String>::new());
        let mut broken = kernel();
        broken.devices[0].hooks[1] = hook("egress", &[("other", false)]);
        assert_eq!(words(&healthy(), &broken), ["NOT ATTACHED"]);
        broken.devices.clear();
        assert_eq!(words(&healthy(), &broken), ["NOT ATTACHED"]);
    }

    #[test]
    fn what_stands_before_us_and_what_is_not_dropped_is_said() {
        let mut kernel = kernel();
        kernel.devices[0].hooks[0] = hook("ingress", &[("cil_from_netdev", false), ("us", true)]);
        kernel.safety = Standing { suspended_seconds: Some(5), ..Standing::default() };
        assert_eq!(words(&healthy(), &kernel), ["SUSPENDED", "NOT FIRST"]);
        let found = findings(&healthy(), Ok(&kernel));
        assert_eq!(overall(&found), Health::Degraded);
        let text = page(&healthy(), Some(&kernel), &found).join("\n");
        assert!(text.starts_with("SUSPENDED: "), "{text}");
        assert!(text.contains("cil_from_netdev (tcx) > portcullis"), "{text}");
    }

    /// D21: shown, counted, and no error. Whoever wants one looks for the word.
    #[test]
    fn what_nobody_asked_for_is_shown_and_no_error() {
        let mut state = healthy();
        state.unprotected = ["eth1".to_owned()].into();
        let mut kernel = kernel();
        kernel.tables.push(crate::inspect::kernel::TableView { name: "rules", entries: 95, limit: 100 });
        let mut found = findings(&state, Ok(&kernel));
        found.retain(|f| f.what != "NO AGENT");
        let words: Vec<&str> = found.iter().map(|f| f.what.as_str()).collect();
        assert_eq!(words, ["NEARLY FULL", "UNPROTECTED"]);
        assert_eq!(overall(&found), Health::Healthy);
        assert!(page(&state, Some(&kernel), &found)[1].starts_with("UNPROTECTED: device eth1"));
    }

    #[test]
    fn without_the_kernel_nothing_is_claimed() {
        let found = findings(&healthy(), Err("no permission"));
        assert_eq!(overall(&found), Health::Unknown);
        assert_eq!(found[0].what, "CANNOT TELL");
    }
}
