//! Events of many nodes: which streams run, which are begun again, and what is said of those that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::agents::AgentPod;
use super::kubectl::Kubectl;
use super::merge::{Holding, in_order};
use super::stream::{Children, Stream, Told};
use crate::observe::Line;

/// Lines of one node that wait for those of others.
const AHEAD: usize = 256;
/// How long a line may come after that of another node and still be put before it.
const HOLD: Duration = Duration::from_millis(400);
/// How often the list of agents is read while all is well: nodes come and go.
const LOOK: Duration = Duration::from_secs(30);
/// Pauses before a stream that ended is begun again grow from one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What to observe.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Empty: all nodes.
    pub nodes: BTreeSet<String>,
    /// For `portcullis observe` on each node: filters. Neither `-f` nor `--since`.
    pub words: Vec<String>,
    pub since: Option<String>,
    /// More nodes than this are refused: each costs a kubectl.
    pub most: usize,
}

/// Whether all nodes that were asked for answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Whole {
    Yes,
    No,
}

impl Wanted {
    fn wants(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }

    /// Of the agents those that are wanted.
    ///
    /// # Errors
    /// There is none, or there are too many.
    fn choose(&self, kubectl: &Kubectl, agents: Vec<AgentPod>) -> Result<Vec<AgentPod>> {
        if agents.is_empty() {
            bail!(
                "no agent in namespace {}: no pod there has the label {}; name the namespace with -n",
                kubectl.namespace(),
                super::agents::LABEL
            );
        }
        let agents: Vec<AgentPod> = agents.into_iter().filter(|a| self.wants(&a.node)).collect();
        if agents.len() > self.most {
            bail!(
                "{} nodes have an agent, and each takes a connection: name some with --node, or allow that many with \
                 --max-nodes {0}",
                agents.len()
            );
        }
        Ok(agents)
    }

    /// The words for one node's program.
    fn command(&self, follow: bool, since: Option<&str>) -> Vec<String> {
        let mut words: Vec<String> =
            ["observe", "--output", "json", "--while-stdin"].map(str::to_owned).to_vec();
        words.extend(follow.then(|| "--follow".to_owned()));
        if let Some(since) = since {
            words.extend(["--since".to_owned(), since.to_owned()]);
        }
        words.extend(self.words.iter().cloned());
        words
    }
}

/// Shows what is kept on every node, in the order of time. `talk` gets what is to be said of a node.
///
/// # Errors
/// No agent can be asked at all, or `each` fails.
pub fn kept(
    kubectl: &Kubectl,
    wanted: &Wanted,
    children: &Children,
    each: impl FnMut(&str, Line) -> Result<()>,
    mut talk: impl FnMut(&str, &str),
) -> Result<Whole> {
    let agents = wanted.choose(kubectl, kubectl.agents()?)?;
    let mut whole = Whole::Yes;
    let mut say = |node: &str, text: &str| {
        whole = Whole::No;
        talk(node, text);
    };
    for node in without_agent(kubectl, wanted, &agents, &mut say) {
        say(&node, "has no agent");
    }
    let (ends, ended) = channel();
    let (mut lines, mut streams) = (Vec::new(), Vec::new());
    for agent in &agents {
        if let Some(why) = &agent.not_running {
            say(&agent.node, &format!("its agent does not run: {why}"));
            continue;
        }
        let (sender, receiver) = sync_channel(AHEAD);
        let (ends, node) = (ends.clone(), agent.node.clone());
        let tell = move |told| match told {
            Told::Line(line) => sender.send(line).is_ok(),
            Told::End(end) => ends.send((node.clone(), end)).is_ok(),
        };
        let words = wanted.command(false, wanted.since.as_deref());
        streams.push(Stream::open(kubectl, agent, &words, children, tell)?);
        lines.push((agent.node.clone(), receiver.into_iter()));
    }
    drop(ends);
    let asked = lines.len();
    in_order(lines, each)?;
    let mut failed = 0;
    for (node, end) in ended {
        if let Err(why) = end {
            failed += 1;
            say(&node, &format!("cannot be observed: {why}"));
        }
    }
    if failed == asked {
        bail!("no agent could be asked");
    }
    Ok(whole)
}

/// Nodes that are asked for, or are in the cluster, and have no agent's pod.
fn without_agent(
    kubectl: &Kubectl,
    wanted: &Wanted,
    agents: &[AgentPod],
    say: &mut impl FnMut(&str, &str),
) -> BTreeSet<String> {
    let mut nodes = wanted.nodes.clone();
    if nodes.is_empty() {
        match kubectl.get(&["nodes"]) {
            Ok(list) => nodes.extend(
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)),
            ),
            Err(e) => say("-", &format!("nodes without an agent cannot be told: {e}")),
        }
    }
    for agent in agents {
        nodes.remove(&agent.node);
    }
    nodes
}

/// What reaches the loop that follows.
enum News {
    Of(String, Told),
    Agents(Result<Vec<AgentPod>>),
}

/// A node's stream, or the pause before the next.
struct Followed {
    /// `None`: begun again at `again`.
    stream: Option<Stream>,
    again: Instant,
    pause: Duration,
    /// Up to when its events were seen.
    seen: Option<Timestamp>,
}

/// Shows what comes on every node, until the process is ended. Streams that end are begun again, and nodes that come later
/// are followed too.
///
/// # Errors
/// No agent can be asked at the start, or `each` fails.
pub fn follow(
    kubectl: &Kubectl,
    wanted: &Wanted,
    children: &Children,
    mut each: impl FnMut(&str, Line) -> Result<()>,
    talk: impl FnMut(&str, &str),
) -> Result<()> {
    let (sender, receiver) = channel();
    let mut follower = Follower {
        kubectl,
        wanted,
        children,
        sender,
        nodes: BTreeMap::new(),
        said: BTreeMap::new(),
        talk,
        look: Instant::now() + LOOK,
        looking: false,
    };
    let agents = wanted.choose(kubectl, kubectl.agents()?)?;
    for node in without_agent(kubectl, wanted, &agents, &mut |node, text| (follower.talk)(node, text)) {
        follower.say(&node, "has no agent");
    }
    follower.agents(agents)?;
    let mut holding = Holding::new(HOLD);
    loop {
        follower.listen(&receiver, &mut holding)?;
        for (node, line) in holding.due(Instant::now()) {
            each(&node, line)?;
        }
        follower.look();
    }
}

struct Follower<'a, T> {
    kubectl: &'a Kubectl,
    wanted: &'a Wanted,
    children: &'a Children,
    sender: Sender<News>,
    nodes: BTreeMap<String, Followed>,
    /// The last word on each node, which is not said twice.
    said: BTreeMap<String, String>,
    talk: T,
    /// When to read the list of agents again; `looking`: that goes on.
    look: Instant,
    looking: bool,
}

impl<T: FnMut(&str, &str)> Follower<'_, T> {
    fn say(&mut self, node: &str, text: &str) {
        if self.said.insert(node.to_owned(), text.to_owned()).as_deref() != Some(text) {
            (self.talk)(node, text);
        }
    }

    /// Waits for news, or for the moment when something is due.
    fn listen(&mut self, receiver: &Receiver<News>, holding: &mut Holding) -> Result<()> {
        let until = holding.next().map_or(self.look, |next| next.min(self.look));
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(News::Of(node, Told::Line(line))) => {
                let followed = self.nodes.get_mut(&node);
                if let (Some(followed), Line::Event(record)) = (followed, &line) {
                    followed.seen = Some(record.time);
                    followed.pause = PAUSES.0;
                }
                self.said.remove(&node);
                holding.push(Instant::now(), node, line);
            }
            Ok(News::Of(node, Told::End(end))) => self.ended(&node, &end),
            Ok(News::Agents(Ok(agents))) => {
                self.looking = false;
                self.agents(agents)?;
            }
            Ok(News::Agents(Err(e))) => {
                self.looking = false;
                self.say("-", &format!("{e:#}"));
            }
            // We hold a sender ourselves.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        Ok(())
    }

    fn ended(&mut self, node: &str, end: &Result<(), String>) {
        let why = end.as_ref().err().map_or("its stream ended", String::as_str);
        self.say(node, &format!("cannot be observed: {why}; asked again until it answers"));
        let now = Instant::now();
        if let Some(followed) = self.nodes.get_mut(node) {
            followed.stream = None;
            followed.again = now + followed.pause;
            followed.pause = (followed.pause * 2).min(PAUSES.1);
            // What it judges meanwhile is kept there, and shown when it answers.
            followed.seen = followed.seen.or_else(|| Some(Timestamp::now()));
            self.look = self.look.min(followed.again);
        }
    }

    /// Begins the streams that do not run.
    fn agents(&mut self, agents: Vec<AgentPod>) -> Result<()> {
        let now = Instant::now();
        let agents: Vec<AgentPod> = agents.into_iter().filter(|a| self.wanted.wants(&a.node)).collect();
        let there: BTreeSet<String> = agents.iter().map(|a| a.node.clone()).collect();
        let gone: Vec<String> = self
            .nodes
            .iter()
            .filter(|(node, followed)| followed.stream.is_none() && !there.contains(*node))
            .map(|(node, _)| node.clone())
            .collect();
        for node in gone {
            self.say(&node, "has no agent any more");
        }
        let mut running = self.nodes.values().filter(|f| f.stream.is_some()).count();
        for agent in agents {
            if self.nodes.get(&agent.node).is_some_and(|f| f.stream.is_some() || f.again > now) {
                continue;
            }
            if let Some(why) = &agent.not_running {
                self.say(&agent.node, &format!("its agent does not run: {why}"));
                continue;
            }
            if running == self.wanted.most {
                self.say(&agent.node, "is not observed: there are more nodes than --max-nodes allows");
                continue;
            }
            running += 1;
            self.begin(&agent)?;
        }
        self.look = self
            .nodes
            .values()
            .filter(|f| f.stream.is_none())
            .map(|f| f.again.max(now + PAUSES.0))
            .fold(now + LOOK, Instant::min);
        Ok(())
    }

    fn begin(&mut self, agent: &AgentPod) -> Result<()> {
        let now = Instant::now();
        let followed = self.nodes.entry(agent.node.clone()).or_insert_with(|| Followed {
            stream: None,
            again: now,
            pause: PAUSES.0,
            seen: None,
        });
        // From just behind the last one that was seen.
        let behind = followed.seen.and_then(|seen| seen.checked_add(SignedDuration::from_micros(1)).ok());
        let since = behind.map(|time| time.to_string()).or_else(|| self.wanted.since.clone());
        let (sender, node) = (self.sender.clone(), agent.node.clone());
        let tell = move |told| sender.send(News::Of(node.clone(), told)).is_ok();
        let words = self.wanted.command(true, since.as_deref());
        followed.stream = Some(Stream::open(self.kubectl, agent, &words, self.children, tell)?);
        Ok(())
    }

    /// Reads the list of agents on a thread of its own, since that may take long, when it is time.
    fn look(&mut self) {
        let now = Instant::now();
        if self.look > now {
            return;
        }
        self.look = now + LOOK;
        if !std::mem::replace(&mut self.looking, true) {
            let (kubectl, sender) = (self.kubectl.clone(), self.sender.clone());
            // Nobody listens any more when we are about to end.
            thread::spawn(move || sender.send(News::Agents(kubectl.agents())).is_ok());
        }
    }
}
