//! One link that is up: reads, writes and watches until it ends, then says why.
//!
//! Invariants: reading never waits for writing (two nodes that fill each other's sockets would
//! wait for ever); whatever comes in, the link ends with a reason and never with a panic; a link
//! that ends closes with a reason that the other side logs.

use super::Peers;
use super::frame::{FrameError, Packer, Unpacker};
use super::outbox::{Outbox, Work};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use quorate_core::{ClusterId, Message, NodeId, Run};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame, error::CapacityError};

/// How long a link that ends may take to send its last words and to hear the other side's.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
/// The longest reason that a close frame carries (RFC 6455, 5.5: 125 bytes less the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// A link between this node and a peer, as others see it.
#[derive(Debug)]
pub(super) struct Link {
    /// The other end.
    pub peer: NodeId,
    /// Which start of it.
    pub run: Run,
    /// The cluster it said it belongs to.
    pub cluster: Option<ClusterId>,
    /// Did this node dial?
    pub dialled: bool,
    /// The longest frame that both sides are ready for.
    pub frame_bytes_max: u32,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// Why this side ends the link.
    retired: OnceLock<String>,
}

impl Link {
    pub fn new(peers: &Peers, hello: &super::hello::Hello, dialled: bool) -> Arc<Self> {
        let options = &peers.0.options;
        Arc::new(Self {
            peer: hello.node,
            run: hello.run,
            cluster: hello.cluster,
            dialled,
            frame_bytes_max: hello.frame_bytes_max.min(options.frame_bytes_max),
            outbox: Outbox::new(options.outbox_messages_max, options.outbox_bytes_max),
            retired: OnceLock::new(),
        })
    }

    /// Which of the two ends dialled, `me` being this one.
    pub fn dialled_by(&self, me: NodeId) -> NodeId {
        if self.dialled { me } else { self.peer }
    }

    /// Ends the link with this reason, after what waits was sent.
    pub fn retire(&self, reason: &str) {
        // A link that is ending for one reason keeps it.
        self.retired.get_or_init(|| reason.into());
        self.outbox.close();
    }
}

/// Why a link ended.
enum End {
    /// This side retired it.
    Retired,
    /// The other side closed it, with a reason perhaps.
    Closed(String),
    /// The connection broke.
    Lost(String),
    /// What came in is not what a peer sends.
    Broken(CloseCode, String),
    /// Nothing came in for too long.
    Silent,
    /// The node's task has ended.
    NoNode,
}

/// The limits that the WebSocket layer enforces before a frame is read whole.
pub(super) fn websocket_config(frame_bytes_max: u32) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 << 10)
        .write_buffer_size(64 << 10)
        .max_message_size(Some(frame_bytes_max as usize))
        .max_frame_size(Some(frame_bytes_max as usize))
}

/// Runs a registered link until it ends; `first` goes out before everything else.
pub(super) async fn run<S>(
    peers: Peers,
    link: Arc<Link>,
    socket: WebSocketStream<S>,
    first: Option<Frame>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (peer, dialled) = (link.peer, link.dialled);
    tracing::info!(%peer, run = %link.run, dialled, "link up");
    let (mut sink, mut stream) = socket.split();
    let heard = Heard::default();
    let end = tokio::select! {
        end = read(&peers, &link, &mut stream, &heard) => end,
        end = write(&peers, &link, &mut sink, first) => end,
        end = watch(&peers, &link, &heard) => end,
    };
    peers.deregister(&link);
    let farewell = match end {
        End::Retired => {
            let reason = link.retired.get().map_or("", String::as_str);
            tracing::info!(%peer, reason, "link closed");
            Some((CloseCode::Away, reason.to_owned()))
        }
        End::Closed(reason) => {
            tracing::info!(%peer, reason, "link closed by the peer");
            None
        }
        End::Lost(reason) => {
            tracing::info!(%peer, reason, "link lost");
            None
        }
        End::Broken(code, reason) => {
            peers.stats().links_broken.inc();
            tracing::warn!(%peer, reason, "link closed: the peer sent what no peer sends");
            Some((code, reason))
        }
        End::Silent => {
            let reason = format!("nothing came in for {:?}", peers.0.options.silence_max);
            tracing::warn!(%peer, reason, "link closed");
            Some((CloseCode::Policy, reason))
        }
        End::NoNode => Some((CloseCode::Away, "the node has stopped".to_owned())),
    };
    if let Some((code, reason)) = farewell {
        let last_words = async {
            sink.send(close_frame(code, &reason)).await.ok();
            // The other side's goodbye: closing before it is read would reset the connection and
            // could take our own reason from the other side.
            while let Some(Ok(_)) = stream.next().await {}
        };
        timeout(LAST_WORDS_MAX, last_words).await.ok();
    }
}

/// A close frame with as much of the reason as fits.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> Frame {
    let ends = reason.char_indices().map(|(at, char)| at + char.len_utf8());
    let end = ends.take_while(|&end| end <= CLOSE_REASON_BYTES_MAX).last().unwrap_or(0);
    Frame::Close(Some(CloseFrame { code, reason: reason[..end].into() }))
}

/// When something came in last.
struct Heard {
    start: Instant,
    millis: AtomicU64,
    /// The reader waits for the node's task, so silence says nothing about the peer.
    busy: AtomicBool,
}

impl Default for Heard {
    fn default() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0), busy: AtomicBool::new(false) }
    }
}

impl Heard {
    fn now(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }
    fn ago(&self) -> Duration {
        let heard = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(heard)
    }
}

async fn read<S>(
    peers: &Peers,
    link: &Link,
    stream: &mut SplitStream<WebSocketStream<S>>,
    heard: &Heard,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stats = peers.stats();
    let mut unpacker = Unpacker::default();
    loop {
        let frame = match stream.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return read_error(error),
            None => return End::Lost("the connection ended".into()),
        };
        heard.now();
        let bytes = match frame {
            Frame::Binary(bytes) => bytes,
            Frame::Close(reason) => {
                return End::Closed(reason.map_or(String::new(), |close| close.reason.to_string()));
            }
            Frame::Text(_) => {
                return End::Broken(CloseCode::Unsupported, "text after the hello".into());
            }
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => continue,
        };
        stats.frames_received.inc();
        stats.bytes_received.inc_by(bytes.len() as u64);
        let messages = match unpacker.push(bytes) {
            Ok(messages) if messages.is_empty() => continue,
            Ok(messages) => messages,
            Err(error) => {
                let too_long = matches!(error, FrameError::TooLong(_));
                let code = if too_long { CloseCode::Size } else { CloseCode::Invalid };
                return End::Broken(code, error.to_string());
            }
        };
        stats.messages_received.inc_by(messages.len() as u64);
        heard.busy.store(true, Ordering::Relaxed);
        if peers.0.frames.send((link.peer, messages)).await.is_err() {
            return End::NoNode;
        }
        heard.now();
        heard.busy.store(false, Ordering::Relaxed);
    }
}

fn read_error(error: WsError) -> End {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => End::Broken(
            CloseCode::Size,
            format!("a frame of {size} bytes where frame_bytes_max={max_size}"),
        ),
        WsError::Io(error) => End::Lost(error.to_string()),
        WsError::Protocol(error) if error.to_string().contains("without closing handshake") => {
            End::Lost("the connection was reset".into())
        }
        error => End::Broken(CloseCode::Protocol, error.to_string()),
    }
}

async fn write<S>(
    peers: &Peers,
    link: &Link,
    sink: &mut SplitSink<WebSocketStream<S>, Frame>,
    first: Option<Frame>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lost = |error: WsError| End::Lost(error.to_string());
    if let Some(first) = first
        && let Err(error) = sink.send(first).await
    {
        return lost(error);
    }
    let mut packer = Packer::new(link.frame_bytes_max);
    let (mut batch, mut frames) = (VecDeque::new(), Vec::new());
    loop {
        let sent = match link.outbox.next(&mut batch).await {
            Work::Close => return End::Retired,
            Work::Ping => sink.send(Frame::Ping(bytes::Bytes::new())).await,
            Work::Messages => {
                peers.stats().messages_sent.inc_by(batch.len() as u64);
                send_all(peers, link, sink, &mut packer, &mut batch, &mut frames).await
            }
        };
        if let Err(error) = sent {
            return lost(error);
        }
    }
}

/// Sends a batch: frame by frame, so that no more than one is held beside the messages.
async fn send_all<S>(
    peers: &Peers,
    link: &Link,
    sink: &mut SplitSink<WebSocketStream<S>, Frame>,
    packer: &mut Packer,
    batch: &mut VecDeque<Message>,
    frames: &mut Vec<bytes::Bytes>,
) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for message in batch.drain(..) {
        if !packer.push(&message, |frame| frames.push(frame)) {
            tracing::error!(peer = %link.peer, "a message too long for any link was dropped");
        }
        if !frames.is_empty() {
            feed(peers, sink, frames).await?;
        }
    }
    frames.extend(packer.finish());
    feed(peers, sink, frames).await?;
    sink.flush().await
}

/// Hands complete frames to the socket, waiting where it does not take more.
async fn feed<S>(
    peers: &Peers,
    sink: &mut SplitSink<WebSocketStream<S>, Frame>,
    frames: &mut Vec<bytes::Bytes>,
) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for frame in frames.drain(..) {
        peers.stats().frames_sent.inc();
        peers.stats().bytes_sent.inc_by(frame.len() as u64);
        sink.feed(Frame::Binary(frame)).await?;
    }
    Ok(())
}

async fn watch(peers: &Peers, link: &Link, heard: &Heard) -> End {
    let options = &peers.0.options;
    let mut turn = tokio::time::interval(options.ping_after / 2);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let silence = heard.ago();
        if heard.busy.load(Ordering::Relaxed) {
            continue;
        }
        if silence >= options.silence_max {
            return End::Silent;
        }
        if silence >= options.ping_after {
            link.outbox.ping();
        }
    }
}
