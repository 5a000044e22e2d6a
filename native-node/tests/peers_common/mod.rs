//! Nodes' links and ports without nodes, and a peer made by hand.
#![allow(clippy::unwrap_used, reason = "a test and its helpers")]
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(missing_docs, reason = "a test harness")]

use futures::{SinkExt as _, StreamExt as _};
use quorate_core::{Body, ClusterId, Duration as Span, Key, Message, NodeId, Put, Request, Run};
use quorate_node::listen;
use quorate_node::peers::address::Address;
use quorate_node::peers::hello::{Greeting, Hello, Identity};
use quorate_node::peers::{Inbound, LinkChange, Options, Peers};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Host {
    pub peers: Peers,
    pub inbound: Inbound,
    pub address: Address,
}

pub async fn host(id: u64, tweak: impl FnOnce(&mut Options)) -> Host {
    host_of(id, None, "127.0.0.1:0", tweak).await
}

pub async fn host_of(
    id: u64,
    cluster: Option<ClusterId>,
    listen: &str,
    tweak: impl FnOnce(&mut Options),
) -> Host {
    let run = Run(getrandom::u64().unwrap());
    let mut options = Options::new(Identity::new(NodeId(id), run));
    options.backoff_max = Duration::from_millis(200);
    tweak(&mut options);
    let (peers, inbound) = Peers::new(options, cluster);
    let (listener, bound) = listen::bind(listen.parse().unwrap()).await.unwrap();
    tokio::spawn(listen::serve(listener, peers.router(), std::future::pending()));
    Host { peers, inbound, address: Address::of(bound) }
}

impl Host {
    pub fn want(&self, id: u64, other: &Address) {
        self.peers.want(NodeId(id), vec![other.to_string()]);
    }
    /// The next link that came up or went down.
    pub async fn change(&mut self) -> (u64, bool) {
        let change = timeout(PATIENCE, self.inbound.links.recv()).await;
        let LinkChange { peer, up } = change.expect("a link changes in time").unwrap();
        (peer.0, up)
    }
    pub async fn receive(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let frame = timeout(PATIENCE, self.inbound.frames.recv()).await;
            let (_, batch) = frame.expect("messages arrive in time").unwrap();
            messages.extend(batch);
        }
        messages
    }
}

pub fn ping(seq: u64) -> Message {
    Message { run: Run(1), layout: None, body: Body::Ping { seq } }
}

/// A message with this many bytes in it.
pub fn great(seq: u64, bytes: usize) -> Message {
    let put = Put::new(Key::new("b", "k").unwrap(), vec![7; bytes].into());
    let timeout = Span::from_secs(1);
    let body = Body::Forward { seq, to: Run(2), request: Request::Put(put), timeout };
    Message { run: Run(1), layout: None, body }
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A peer made by hand, to do what no peer does.
pub struct Raw(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Raw {
    pub async fn connect(host: &Host) -> Self {
        let url = format!("ws://{}/peer", host.address.authority());
        Self(connect_async(url).await.unwrap().0)
    }
    /// Connects and exchanges hellos as node `id`.
    pub async fn greeted(host: &Host, id: u64) -> (Self, Hello) {
        let mut raw = Self::connect(host).await;
        raw.hello(&Identity::new(NodeId(id), Run(id)).hello(None, 1 << 20)).await;
        let Greeting::Hello(hello) = raw.greeting().await else { panic!("a hello is answered") };
        (raw, hello)
    }
    pub async fn hello(&mut self, hello: &Hello) {
        let greeting = Greeting::Hello(hello.clone());
        self.send(Frame::text(serde_json::to_string(&greeting).unwrap())).await;
    }
    pub async fn send(&mut self, frame: Frame) {
        self.0.send(frame).await.unwrap();
    }
    pub async fn greeting(&mut self) -> Greeting {
        let frame = timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(frame.to_text().unwrap()).unwrap()
    }
    /// Why the other side closes.
    pub async fn close(&mut self) -> (CloseCode, String) {
        loop {
            match timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap() {
                Frame::Close(Some(close)) => return (close.code, close.reason.to_string()),
                Frame::Close(None) => panic!("closed without a reason"),
                _ => {}
            }
        }
    }
}
