//! A client of the agent's HTTP, as a probe or Prometheus is one.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// Longer than the agent keeps any connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

/// The port that an agent has when nothing else is said.
pub const PORT: u16 = portcullis::config::DEFAULT_HTTP_PORT;

/// A connection to the agent's default address.
pub fn connect(netns: &Netns) -> Result<TcpStream> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let stream = stream.with_context(|| format!("cannot ask {to} in {}", netns.name()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks the agent in `netns`.
pub fn get(netns: &Netns, path: &str) -> Result<Answer> {
    ask(netns, &format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n"))
}

/// Sends these bytes, and reads until the agent closes.
pub fn ask(netns: &Netns, question: &str) -> Result<Answer> {
    let mut stream = connect(netns)?;
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(e) if e.kind() != ErrorKind::ConnectionReset || answer.is_empty() => {
            return Err(e).context("no answer");
        }
        Ok(_) | Err(_) => {}
    }
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP: {answer:?}") };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
