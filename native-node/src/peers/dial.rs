//! Links that this node dials: to members, as long as the core wants them, and to seeds.
//!
//! Invariant: a failed or short-lived link is dialled again only after a wait that doubles up to a
//! bound, with jitter, so that no failure makes nodes dial in a tight loop or in step.

use super::address::Address;
use super::hello::{Greeting, HELLO_BYTES_MAX, Hello, Refusal, RefusalKind};
use super::link::{self, Link, close_frame, websocket_config};
use super::{NotUsed, PEER_PATH, Peers, Registry};
use futures::{SinkExt as _, Stream, StreamExt as _};
use quorate_core::NodeId;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// A link that lasted this long was a good one: the next wait is short again.
const STEADY: Duration = Duration::from_secs(1);

/// Why dialling did not bring a link.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("no peer answers there: {0}; is it the HTTP port of a quorate node?")]
    NoPeer(String),
    #[error("refused by the other side: {0}")]
    RefusedByPeer(String),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("not used: {0}")]
    NotUsed(NotUsed),
}

/// Keeps a link to a member; `None` if no address can be dialled.
pub(super) fn keep_linked(peers: &Peers, id: NodeId, addresses: &[String]) -> Option<AbortHandle> {
    let usable: Vec<Address> = addresses.iter().filter_map(|text| usable(id, text)).collect();
    let peers = peers.clone();
    (!usable.is_empty()).then(|| tokio::spawn(dial_member(peers, id, usable)).abort_handle())
}

/// An address as a member's record gives it, if this version may dial it.
fn usable(id: NodeId, text: &str) -> Option<Address> {
    match text.parse::<Address>() {
        Ok(address) if address.is_loopback() => Some(address),
        Ok(_) => {
            tracing::warn!(peer = %id, address = text, "not dialled: peers off loopback need a cluster secret and TLS, which this version does not have");
            None
        }
        Err(error) => {
            tracing::warn!(peer = %id, %error, "a member's address cannot be used");
            None
        }
    }
}

async fn dial_member(peers: Peers, id: NodeId, addresses: Vec<Address>) {
    let mut pace = Pace::new(&peers);
    let unlinked = |registry: &Registry| !registry.links.contains_key(&id);
    for address in addresses.iter().cycle() {
        pace.until(unlinked).await;
        if peers.0.options.identity.node > id {
            // Both lost the link and both would dial: the one whose link is kept goes first.
            tokio::time::sleep(peers.0.options.deference).await;
            if !unlinked(&peers.lock()) {
                continue;
            }
        }
        if let Err(error) = dial(&peers, address, Some(id)).await {
            pace.log(address, &error);
        }
        pace.wait().await;
    }
}

/// Dials a seed until it answers, and again while no member can be reached.
pub(super) fn keep_asking(peers: &Peers, seed: Address) -> AbortHandle {
    tokio::spawn(dial_seed(peers.clone(), seed)).abort_handle()
}

async fn dial_seed(peers: Peers, seed: Address) {
    let mut pace = Pace::new(&peers);
    let mut known: Option<NodeId> = None;
    loop {
        pace.until(|registry| {
            let linked = known.is_some_and(|id| registry.links.contains_key(&id));
            !linked && (registry.wanted.is_empty() || registry.links.is_empty())
        })
        .await;
        match dial(&peers, &seed, None).await {
            Ok(id) => known = Some(id),
            Err(DialError::Refused(Refusal::Myself(_))) => {
                tracing::info!(%seed, "this seed is the node itself and is not asked");
                return;
            }
            Err(error) => pace.log(&seed, &error),
        }
        pace.wait().await;
    }
}

/// When to dial next, and what was already said about failures.
struct Pace<'a> {
    peers: &'a Peers,
    wait: Duration,
    said: String,
}

impl<'a> Pace<'a> {
    fn new(peers: &'a Peers) -> Self {
        Self { peers, wait: peers.0.options.backoff_min, said: String::new() }
    }

    /// Waits until there is a reason to dial; after a steady link the waits are short again.
    async fn until(&mut self, wanted: impl Fn(&Registry) -> bool) {
        let since = Instant::now();
        self.peers.until(wanted).await;
        if since.elapsed() >= STEADY {
            self.wait = self.peers.0.options.backoff_min;
            self.said.clear();
        }
    }

    async fn wait(&mut self) {
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        let jitter = f64::from(random) / f64::from(u32::MAX);
        tokio::time::sleep(self.wait.mul_f64(0.5 + jitter / 2.0)).await;
        self.wait = (self.wait * 2).min(self.peers.0.options.backoff_max);
    }

    /// A failure is said once, not at every attempt.
    fn log(&mut self, address: &Address, error: &DialError) {
        if matches!(error, DialError::NotUsed(NotUsed::Duplicate)) {
            tracing::debug!(%address, %error, "dialled in vain");
            return;
        }
        let text = error.to_string();
        if text == self.said {
            tracing::debug!(%address, error = text, "no link yet");
        } else {
            tracing::warn!(%address, error = text, "no link yet; trying again");
            self.said = text;
        }
    }
}

/// Brings up one link and leaves it running; says who answered.
pub(super) async fn dial(
    peers: &Peers,
    address: &Address,
    expected: Option<NodeId>,
) -> Result<NodeId, DialError> {
    let stats = peers.stats();
    stats.dials.inc();
    let attempt = connect(peers, address, expected);
    let result = tokio::time::timeout(peers.0.options.handshake_timeout, attempt).await;
    let result = result.unwrap_or(Err(DialError::Timeout));
    match &result {
        Ok(_) => {}
        Err(DialError::RefusedByPeer(_) | DialError::Refused(_)) => {
            stats.refused.inc();
        }
        Err(_) => {
            stats.dials_failed.inc();
        }
    }
    result
}

async fn connect(
    peers: &Peers,
    address: &Address,
    expected: Option<NodeId>,
) -> Result<NodeId, DialError> {
    let options = &peers.0.options;
    let stream = TcpStream::connect(address.socket()).await.map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    let url = format!("ws://{}{PEER_PATH}", address.authority());
    let config = websocket_config(options.frame_bytes_max);
    let (mut socket, _) = client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|error| DialError::NoPeer(no_peer(&error)))?;

    let ours = options.identity.hello(peers.lock().cluster, options.frame_bytes_max);
    let no_peer = |error: WsError| DialError::NoPeer(no_peer(&error));
    socket.send(greeting_frame(&Greeting::Hello(ours))).await.map_err(no_peer)?;
    let hello = match read_greeting(&mut socket).await.map_err(DialError::NoPeer)? {
        Greeting::Hello(hello) => hello,
        Greeting::Refused { reason, kind } => {
            return Err(match kind {
                RefusalKind::Spare => DialError::NotUsed(NotUsed::Duplicate),
                RefusalKind::Myself => DialError::Refused(Refusal::Myself(options.identity.node)),
                RefusalKind::Wrong => DialError::RefusedByPeer(reason),
            });
        }
    };
    let (id, link) = match accept_hello(peers, &hello, expected) {
        Ok(link) => (hello.node, link),
        Err(error) => {
            goodbye(socket, &error.to_string()).await;
            return Err(error);
        }
    };
    tokio::spawn(link::run(peers.clone(), link, socket, None));
    Ok(id)
}

fn accept_hello(
    peers: &Peers,
    hello: &Hello,
    expected: Option<NodeId>,
) -> Result<std::sync::Arc<Link>, DialError> {
    let cluster = peers.lock().cluster;
    peers.0.options.identity.check(cluster, hello).map_err(DialError::Refused)?;
    if let Some(expected) = expected.filter(|&expected| expected != hello.node) {
        return Err(DialError::Refused(Refusal::OtherNode { expected, found: hello.node }));
    }
    let link = Link::new(peers, hello, true);
    peers.register(&link).map_err(DialError::NotUsed)?;
    Ok(link)
}

/// Closes with a reason; whether the other side hears it is its own affair.
async fn goodbye(mut socket: WebSocketStream<TcpStream>, reason: &str) {
    socket.send(close_frame(CloseCode::Policy, reason)).await.ok();
    while let Some(Ok(_)) = socket.next().await {}
}

fn no_peer(error: &WsError) -> String {
    match error {
        WsError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            format!("HTTP {} {}", response.status(), String::from_utf8_lossy(body).trim())
        }
        error => error.to_string(),
    }
}

/// The frame that carries a greeting.
pub(super) fn greeting_frame(greeting: &Greeting) -> Frame {
    Frame::text(serde_json::to_string(greeting).expect("a greeting has only plain fields"))
}

/// Reads the other side's first frame, or says why it is none.
pub(super) async fn read_greeting<S>(socket: &mut S) -> Result<Greeting, String>
where
    S: Stream<Item = Result<Frame, WsError>> + Unpin,
{
    loop {
        let text = match socket.next().await {
            Some(Ok(Frame::Text(text))) => text,
            Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
            Some(Ok(Frame::Close(reason))) => {
                let reason = reason.map_or(String::new(), |close| close.reason.to_string());
                return Err(format!("closed before a hello: {reason}"));
            }
            Some(Ok(_)) => return Err("the first frame is not a hello".into()),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection ended before a hello".into()),
        };
        if text.len() > HELLO_BYTES_MAX {
            return Err(format!("a hello of more than {HELLO_BYTES_MAX} bytes"));
        }
        return serde_json::from_str(&text).map_err(|error| format!("not a hello: {error}"));
    }
}
