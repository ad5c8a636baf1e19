//! What probes hear: an agent that hangs, one that has not begun to enforce, and questions that are no questions.
//! About 15 s in all.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::Value;
use tests::{
    can_run,
    http::{PORT, ask, connect, get},
    openmetrics::Scrape,
    process::{Agent, agent_program},
    small::{HEP, Small},
};

fn run(test: &str, body: fn(Small) -> Result<()>) {
    if can_run(test) {
        body(Small::new().unwrap()).unwrap();
    }
}

#[test]
fn an_agent_that_enforces_is_alive_and_ready() {
    run("an_agent_that_enforces_is_alive_and_ready", |small| {
        let agent = small.start()?;
        the_log_is_json_with_generations(&agent.log())?;
        let live = small.becomes("/livez", |a| a.status == 200)?;
        ensure!(live.body == "ok\n" && live.head.contains("cache-control: no-store"), "{live:?}");
        ensure!(get(&small.node, "/healthz")?.body == "ok\n");
        let ready = get(&small.node, "/readyz?verbose")?;
        ensure!(ready.body == "[+] loop\n[+] in sync\n[+] attached\n[+] maps\n", "{ready:?}");
        ensure!(get(&small.node, "/readyz")?.body == "ok\n");
        // What is no question of ours.
        ensure!(get(&small.node, "/etc/passwd")?.status == 404);
        ensure!(get(&small.node, "/livez?within=soon")?.status == 400);
        ensure!(
            ask(&small.node, "POST /livez HTTP/1.1\r\nhost: node\r\ncontent-length: 0\r\n\r\n")?.status
                == 405
        );
        ensure!(ask(&small.node, "nonsense\r\n\r\n")?.status == 400);
        let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 16));
        ensure!(ask(&small.node, &long).is_ok_and(|a| a.status == 431), "headers have a limit");
        Ok(())
    });
}

/// stderr is a file here.
fn the_log_is_json_with_generations(log: &str) -> Result<()> {
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).with_context(|| format!("no JSON: {l}")))
        .collect::<Result<_>>()?;
    let applied = lines.iter().find(|l| l["message"] == "in force").context("nothing came into force")?;
    ensure!(applied["level"] == "INFO" && applied["rules"].is_u64(), "{applied}");
    ensure!(applied["span"]["name"] == "apply" && applied["span"]["generation"].is_u64(), "{applied}");
    Ok(())
}

#[test]
fn a_loop_that_hangs_is_told_by_a_thread_that_does_not() {
    run("a_loop_that_hangs_is_told_by_a_thread_that_does_not", |small| {
        let agent = small.start()?;
        small.becomes("/livez?within=7", |a| a.status == 200)?;
        // The next state is written into a pipe that nobody reads: the owner task waits in open(2), for ever.
        let pipe = small.home.state_dir().join(".status.json.next");
        mkfifo(&pipe, Mode::S_IRWXU)?;
        small.folder.put("hep.yaml", &HEP.replace("role: node", "role: other"))?;
        let red = small.becomes("/livez?within=7", |a| a.status == 503)?;
        ensure!(red.body.starts_with("[-] loop: the agent hangs: its last turn was "), "{red:?}");
        let asked = Instant::now();
        ensure!(get(&small.node, "/livez")?.status == 200, "half a minute is still to come");
        ensure!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        // Read what it wrote: it goes on.
        let read = thread::spawn(move || std::fs::read(pipe));
        small.becomes("/livez?within=7", |a| a.status == 200)?;
        ensure!(!read.join().expect("no panic")?.is_empty(), "{}", agent.log());
        Ok(())
    });
}

#[test]
fn without_a_first_look_an_agent_is_not_ready() {
    run("without_a_first_look_an_agent_is_not_ready", |small| {
        let config = small.home.state_dir().join("kubeconfig");
        let server = "https://127.0.0.1:1";
        std::fs::write(
            &config,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
                 users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
            ),
        )?;
        let config = config.to_str().context("a readable path")?;
        let agent = Agent::spawn_with(
            &agent_program()?,
            &small.node,
            &small.home,
            &["--kubernetes", "--kubeconfig", config],
        )?;
        let red =
            small.becomes("/readyz?verbose", |a| a.body.contains("[-] in sync: ") && a.body.contains("maps"));
        let red = red.with_context(|| agent.log())?;
        ensure!(red.status == 503 && red.body.starts_with("[+] loop\n"), "{red:?}");
        ensure!(red.body.contains("the API server's list of kinds"), "what it waits for: {red:?}");
        ensure!(red.body.contains("[-] maps: no generation is active"), "{red:?}");
        ensure!(get(&small.node, "/livez")?.status == 200, "it lives: to start it again would not help");
        Ok(())
    });
}

#[test]
fn slow_and_greedy_clients_hold_up_nobody() {
    run("slow_and_greedy_clients_hold_up_nobody", |small| {
        let _agent = small.start()?;
        small.becomes("/livez", |a| a.status == 200)?;
        let before = Scrape::read(&get(&small.node, "/metrics")?.body)?.sum("process_open_fds", &[]);
        // More than the agent has places for: silent ones, and such as stop in the middle of a word.
        let mut held = Vec::new();
        for number in 0..100 {
            let mut stream = connect(&small.node)?;
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTT")?;
            }
            held.push(stream);
        }
        let asked = Instant::now();
        for _ in 0..10 {
            ensure!(get(&small.node, "/livez")?.status == 200);
        }
        // The oldest gave way: the agent holds a few, whatever is asked of it.
        let open = Scrape::read(&get(&small.node, "/metrics")?.body)?.sum("process_open_fds", &[]);
        ensure!(
            open.zip(before).is_some_and(|(now, before)| now < before + 40.0),
            "{open:?} after {before:?}"
        );
        // Behind a silent client each would have waited three seconds.
        ensure!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        drop(held);
        Ok(())
    });
}

#[test]
fn a_port_in_use_is_told_and_stops_nothing() {
    run("a_port_in_use_is_told_and_stops_nothing", |small| {
        let taken = small.node.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)))??;
        let agent = small.start()?;
        small.home.await_status("trouble with the port", |s| {
            s["trouble"]["http"].as_str().is_some_and(|why| why.contains("cannot listen on 127.0.0.1:10187"))
        })?;
        let said = small.home.portcullis(&small.node, &["status"])?;
        ensure!(said.stdout.contains("TROUBLE: http: cannot listen on"), "{said:#?}");
        ensure!(
            said.stdout.contains("generation") && agent.log().contains("enforcement goes on"),
            "{said:#?}"
        );
        drop(taken);
        small.becomes("/readyz", |a| a.status == 200)?;
        small.home.await_status("no trouble", |s| s["trouble"].as_object().is_some_and(|t| t.is_empty()))?;
        Ok(())
    });
}
