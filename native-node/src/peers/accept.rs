//! Links that peers dial: the WebSocket upgrade on the node's HTTP port.
//!
//! Invariant: a web page cannot become a peer. Browsers send `Origin` with every WebSocket, so an
//! upgrade that carries one is refused; nothing on loopback that is not a browser sends it.

use super::dial::{greeting_frame, read_greeting};
use super::hello::{Greeting, RefusalKind};
use super::link::{self, Link, close_frame, websocket_config};
use super::{NotUsed, PEER_PATH, Peers};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

pub(super) fn router(peers: Peers) -> axum::Router {
    axum::Router::new().route(PEER_PATH, get(accept)).with_state(peers)
}

/// Answers the upgrade; the link itself runs in a task of its own.
async fn accept(State(peers): State<Peers>, mut request: Request) -> Response {
    let key = match check_headers(request.headers()) {
        Ok(key) => derive_accept_key(key.as_bytes()),
        Err((status, reason)) => {
            peers.note_refusal(&reason);
            return (status, format!("{reason}\n")).into_response();
        }
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        let reason = "this connection cannot become a WebSocket\n";
        return (StatusCode::UPGRADE_REQUIRED, reason).into_response();
    };
    tokio::spawn(serve(peers, upgrade));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::try_from(key).expect("base64 is fit for a header"),
        ),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The client's key, if this is a WebSocket upgrade that a peer may ask for.
fn check_headers(headers: &HeaderMap) -> Result<&HeaderValue, (StatusCode, String)> {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.as_bytes().escape_ascii();
        return Err((
            StatusCode::FORBIDDEN,
            format!("Origin {origin} is refused: web pages cannot be peers of this node"),
        ));
    }
    let has = |name: header::HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        let reason = format!("{PEER_PATH} takes WebSocket links from peers only");
        return Err((StatusCode::UPGRADE_REQUIRED, reason));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        let reason = "Sec-WebSocket-Version must be 13".into();
        return Err((StatusCode::BAD_REQUEST, reason));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing".into()))
}

async fn serve(peers: Peers, upgrade: OnUpgrade) {
    let frame_bytes_max = peers.0.options.frame_bytes_max;
    let handshake = async {
        let Ok(_slot) = peers.0.handshakes.try_acquire() else {
            tracing::warn!("a peer link was refused: too many have not said hello yet");
            return None;
        };
        let upgraded = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "an upgrade to a peer link failed");
                return None;
            }
        };
        let config = websocket_config(frame_bytes_max);
        let mut socket =
            WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
        match greet(&peers, &mut socket).await {
            Ok(link) => Some((link, socket)),
            Err((kind, reason)) => {
                if kind == RefusalKind::Wrong {
                    peers.note_refusal(&reason);
                } else {
                    tracing::debug!(reason, "a peer link is not used");
                }
                refuse(&mut socket, kind, reason).await;
                None
            }
        }
    };
    let done = tokio::time::timeout(peers.0.options.handshake_timeout, handshake).await;
    if let Ok(Some((link, socket))) = done {
        let identity = &peers.0.options.identity;
        let ours = identity.hello(peers.lock().cluster, frame_bytes_max);
        let first = greeting_frame(&Greeting::Hello(ours));
        link::run(peers, link, socket, Some(first)).await;
    }
}

async fn greet<S>(
    peers: &Peers,
    socket: &mut WebSocketStream<S>,
) -> Result<Arc<Link>, (RefusalKind, String)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let wrong = |reason| (RefusalKind::Wrong, reason);
    let hello = match read_greeting(socket).await.map_err(wrong)? {
        Greeting::Hello(hello) => hello,
        Greeting::Refused { reason, .. } => return Err(wrong(reason)),
    };
    let cluster = peers.lock().cluster;
    let check = peers.0.options.identity.check(cluster, &hello);
    check.map_err(|refusal| (refusal.kind(), refusal.to_string()))?;
    let link = Link::new(peers, &hello, false);
    match peers.register(&link) {
        Ok(()) => Ok(link),
        Err(reason @ (NotUsed::Duplicate | NotUsed::Closed)) => {
            Err((RefusalKind::Spare, reason.to_string()))
        }
        Err(reason) => Err(wrong(reason.to_string())),
    }
}

/// Tells the whole reason in a greeting and its beginning in the close frame.
async fn refuse<S>(socket: &mut WebSocketStream<S>, kind: RefusalKind, reason: String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let close = close_frame(CloseCode::Policy, &reason);
    socket.send(greeting_frame(&Greeting::Refused { reason, kind })).await.ok();
    socket.send(close).await.ok();
    while let Some(Ok(_)) = socket.next().await {}
}
