//! At which of the node's addresses kube-proxy answers NodePorts (D3), asked of kube-proxy itself.
//!
//! It tells its mode (`/proxyMode`) and its configuration (`/configz`) on the loopback address that its metrics are
//! served on. This needs no right in the cluster, and it is what this node's kube-proxy does, not what an object says
//! that it may have read or not. Where it does not answer, every own address is assumed.

use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Client, Config};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::policy::defaults::node_port_networks;

/// Where kube-proxy serves its metrics unless it is told otherwise.
const ADDRESS: &str = "127.0.0.1:10249";
const PORT: u16 = 10249;
/// Between two questions. kube-proxy reads its configuration when it starts.
const PAUSE: Duration = Duration::from_secs(30);
/// On loopback a busy server answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Its name for the addresses that the Node object gives.
const PRIMARY: &str = "primary";

/// What kube-proxy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// `iptables`, `nftables`, `ipvs`.
    pub mode: String,
    /// `None`: it does not say.
    pub node_ports: Option<NodePorts>,
}

/// kube-proxy's `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// The first internal address of the Node object in each IP version.
    Primary,
    /// Own addresses in these networks; of an IP version without a network: all.
    In(Vec<IpNet>),
}

impl NodePorts {
    /// The networks in which own addresses answer NodePorts. `own`: internal addresses of this node's Node object.
    /// Empty: everywhere. `None`: they cannot be told, as the Node object is not there or has no address.
    pub fn networks(&self, own: &[IpAddr]) -> Option<Vec<IpNet>> {
        match self {
            Self::Primary => {
                let first = |v4: bool| own.iter().find(|ip| ip.is_ipv4() == v4);
                let nets: Vec<IpNet> =
                    [first(true), first(false)].into_iter().flatten().map(|ip| IpNet::from(*ip)).collect();
                (!nets.is_empty()).then_some(nets)
            }
            Self::In(nets) => Some(node_port_networks(nets.clone())),
        }
    }
}

/// The latest answer, and what is wrong with asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Stays when kube-proxy is gone: its rules do too.
    pub told: Option<Told>,
    /// Why there is no newer one.
    pub silent: Option<String>,
}

/// Asks again and again. Dropping it ends that.
pub struct Asker {
    answer: Arc<Mutex<Answer>>,
    task: AbortHandle,
}

impl Asker {
    /// `wake` is called when the answer is another one.
    pub fn start(wake: impl Fn() + Send + 'static) -> Self {
        let answer = Arc::new(Mutex::new(Answer::default()));
        let shared = Arc::clone(&answer);
        let task = tokio::spawn(async move {
            loop {
                let got = ask(ADDRESS, listener_is_roots).await;
                if note(&mut lock(&shared), got) {
                    wake();
                }
                sleep(PAUSE).await;
            }
        });
        Self { answer, task: task.abort_handle() }
    }

    /// What is known now.
    pub fn answer(&self) -> Answer {
        lock(&self.answer).clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True when the answer is another one.
fn note(answer: &mut Answer, got: Result<Told>) -> bool {
    let next = match got {
        Ok(told) => Answer { told: Some(told), silent: None },
        Err(error) => Answer { told: answer.told.clone(), silent: Some(format!("{error:#}")) },
    };
    if *answer == next {
        return false;
    }
    match (&next.told, &next.silent) {
        (Some(told), None) => tracing::info!(mode = told.mode, "kube-proxy answers"),
        (_, Some(silent)) => tracing::info!("kube-proxy does not answer: {silent}"),
        (None, None) => {}
    }
    *answer = next;
    true
}

/// `trusted`: whether it is worth listening to who answers there.
async fn ask(address: &str, trusted: fn() -> Result<()>) -> Result<Told> {
    // First: a client would log that nobody is there as an error, each time.
    tokio::time::timeout(PATIENCE, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .with_context(|| format!("nothing answers at http://{address}"))?;
    let mut config = Config::new(format!("http://{address}").parse().context("no address")?);
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config.default_retry = false;
    let client = Client::try_from(config).context("cannot set up HTTP")?;
    let mode = get(&client, "proxyMode")
        .await
        .with_context(|| format!("http://{address}/proxyMode does not tell its mode"))?;
    // Any user may listen on this port, and one who is not root has no say in what is a node port.
    trusted()?;
    if mode.is_empty() || mode.len() > 16 || !mode.bytes().all(|b| b.is_ascii_lowercase()) {
        bail!("http://{address}/proxyMode is answered by something that is not kube-proxy");
    }
    // Older ones do not serve it.
    let node_ports = match get(&client, "configz").await {
        Ok(text) => node_ports(&text)?,
        Err(_) => None,
    };
    Ok(Told { mode, node_ports })
}

async fn get(client: &Client, path: &str) -> Result<String> {
    let request = Request::new("").get(path, &GetParams::default())?;
    let text = tokio::time::timeout(PATIENCE, client.request_text(request)).await.context("no answer")??;
    Ok(text.trim().to_owned())
}

/// From `/configz`. Versions before 1.31 print the fields of their own structure, which begin with a capital.
fn node_ports(configz: &str) -> Result<Option<NodePorts>> {
    let all: Value = serde_json::from_str(configz).context("kube-proxy's /configz is no JSON")?;
    let config = &all["kubeproxy.config.k8s.io"];
    let Some(fields) = config.as_object() else { return Ok(None) };
    let Some(value) = fields.get("nodePortAddresses").or_else(|| fields.get("NodePortAddresses")) else {
        // An empty list is left out.
        return Ok(Some(NodePorts::In(Vec::new())));
    };
    let words: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if words == [PRIMARY] {
        return Ok(Some(NodePorts::Primary));
    }
    let net = |word: &&str| {
        word.parse::<IpNet>()
            .map(|net| net.trunc())
            .with_context(|| format!("kube-proxy's nodePortAddresses has {word:?}, which is no network"))
    };
    Ok(Some(NodePorts::In(words.iter().map(net).collect::<Result<_>>()?)))
}

fn listener_is_roots() -> Result<()> {
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // There is none where IPv6 is off.
        let Ok(text) = fs::read_to_string(file) else { continue };
        if let Some(user) = listener(&text, PORT).filter(|user| *user != 0) {
            bail!(
                "who listens on port {PORT} is user {user}; kube-proxy runs as root, so this one is not believed"
            );
        }
    }
    Ok(())
}

/// Who listens on a port, by `/proc/net/tcp`: fields are number, own address, other address, state, queues, timer,
/// retransmits, user.
fn listener(table: &str, port: u16) -> Option<u32> {
    const LISTEN: &str = "0A";
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, own) = fields.get(1)?.rsplit_once(':')?;
        let matches = u16::from_str_radix(own, 16).ok()? == port && *fields.get(3)? == LISTEN;
        if matches { fields.get(7)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(words: &[&str]) -> Vec<IpNet> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn its_configuration_is_read_in_both_spellings() {
        let told = |json: &str| node_ports(json).unwrap();
        let newer = r#"{"kubeproxy.config.k8s.io":{"mode":"nftables","nodePortAddresses":["primary"]}}"#;
        assert_eq!(told(newer), Some(NodePorts::Primary));
        let older = r#"{"kubeproxy.config.k8s.io":{"Mode":"iptables","NodePortAddresses":["10.0.0.7/8"]}}"#;
        assert_eq!(told(older), Some(NodePorts::In(nets(&["10.0.0.0/8"]))));
        for all in ["{}", r#"{"nodePortAddresses":null}"#, r#"{"nodePortAddresses":[]}"#] {
            let text = format!(r#"{{"kubeproxy.config.k8s.io":{all}}}"#);
            assert_eq!(told(&text), Some(NodePorts::In(Vec::new())), "{all}");
        }
        assert_eq!(told("{}"), None);
        let error = node_ports(r#"{"kubeproxy.config.k8s.io":{"nodePortAddresses":["eth0"]}}"#).unwrap_err();
        assert!(error.to_string().contains("\"eth0\", which is no network"), "{error:#}");
        assert!(node_ports("404 page not found").is_err());
    }

    #[test]
    fn an_ip_version_without_a_network_is_answered_everywhere() {
        let own = ["10.0.0.5".parse().unwrap(), "10.0.0.6".parse().unwrap(), "fd00::5".parse().unwrap()];
        let given = NodePorts::In(nets(&["10.0.0.0/24"]));
        assert_eq!(given.networks(&own), Some(nets(&["10.0.0.0/24", "::/0"])));
        assert_eq!(NodePorts::In(Vec::new()).networks(&own), Some(Vec::new()), "everywhere");
        assert_eq!(NodePorts::Primary.networks(&own), Some(nets(&["10.0.0.5/32", "fd00::5/128"])));
        assert_eq!(NodePorts::Primary.networks(&own[..1]), Some(nets(&["10.0.0.5/32"])), "IPv6: nowhere");
        assert_eq!(NodePorts::Primary.networks(&[]), None);
    }

    #[test]
    fn who_listens_is_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1\n   \
                     1: 0100007F:2810 0100007F:2809 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n";
        assert_eq!(listener(table, 10249), Some(1000));
        assert_eq!(listener(table, 10256), None, "a connection is no listener");
    }

    #[test]
    fn an_answer_outlives_the_one_who_gave_it() {
        let told = Told { mode: "nftables".into(), node_ports: Some(NodePorts::Primary) };
        let mut answer = Answer::default();
        assert!(note(&mut answer, Ok(told.clone())));
        assert!(!note(&mut answer, Ok(told.clone())));
        assert!(note(&mut answer, Err(anyhow::anyhow!("gone"))));
        assert_eq!(answer, Answer { told: Some(told), silent: Some("gone".into()) });
    }

    #[tokio::test]
    async fn a_stranger_on_the_port_is_not_believed() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let size = stream.read(&mut request).await.unwrap_or(0);
                let body = match request[..size].starts_with(b"GET /proxyMode") {
                    true => "iptables",
                    false => r#"{"kubeproxy.config.k8s.io":{"nodePortAddresses":["10.0.0.0/8"]}}"#,
                };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let told = ask(&address, || Ok(())).await.unwrap();
        assert_eq!(told.mode, "iptables");
        assert_eq!(told.node_ports, Some(NodePorts::In(nets(&["10.0.0.0/8"]))));
        let refused = ask(&address, || bail!("user 1000")).await.unwrap_err();
        assert_eq!(refused.to_string(), "user 1000");
        // Nobody listens on the discard port here.
        let silent = ask("127.0.0.1:9", || Ok(())).await.unwrap_err();
        assert!(silent.to_string().contains("nothing answers at http://127.0.0.1:9"), "{silent:#}");
    }
}
