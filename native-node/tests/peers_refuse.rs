//! Whom and what a node refuses on its peer port, over real sockets, and that it says why.
#![allow(clippy::unwrap_used, reason = "a test and its helpers")]

mod peers_common;

use peers_common::{PATIENCE, Raw, host, host_of, until};
use quorate_core::{ClusterId, NodeId, Run, codec};
use quorate_node::peers::hello::{Greeting, Identity};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn nodes_without_a_common_version_refuse_each_other_and_name_both_ranges() {
    let old = host(1, |_| {}).await;
    let new = host(2, |options| options.identity.protocols = 7..=9).await;
    new.want(1, &old.address);
    until("both have refused", || {
        old.peers.stats().refused.get() > 0 && new.peers.stats().refused.get() > 0
    })
    .await;
    assert!(old.peers.linked().is_empty() && new.peers.linked().is_empty());

    let mut raw = Raw::connect(&old).await;
    let mut hello = Identity::new(NodeId(3), Run(3)).hello(None, 1 << 20);
    hello.protocol = (7, 9);
    raw.hello(&hello).await;
    let Greeting::Refused { reason, .. } = raw.greeting().await else { panic!("a refusal") };
    assert!(reason.contains("versions 7 to 9") && reason.contains("versions 1 to 1"), "{reason}");
    assert_eq!(raw.close().await.0, CloseCode::Policy);
}

#[tokio::test]
async fn nodes_of_different_clusters_refuse_each_other() {
    let a = host_of(1, Some(ClusterId(1, 1)), "127.0.0.1:0", |_| {}).await;
    let b = host_of(2, Some(ClusterId(2, 2)), "127.0.0.1:0", |_| {}).await;
    a.want(2, &b.address);
    b.want(1, &a.address);
    until("both have refused", || {
        a.peers.stats().refused.get() > 1 && b.peers.stats().refused.get() > 1
    })
    .await;
    assert!(a.peers.linked().is_empty() && b.peers.linked().is_empty());
}

#[tokio::test]
async fn a_node_that_reaches_itself_stops_asking() {
    let a = host(1, |_| {}).await;
    a.peers.join(vec![a.address.clone()]);
    until("it has dialled itself", || a.peers.stats().refused.get() == 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(a.peers.stats().dials.get(), 1);
    assert!(a.peers.linked().is_empty());
}

#[tokio::test]
async fn a_copied_data_directory_is_refused() {
    let a = host(1, |_| {}).await;
    let mut raw = Raw::connect(&a).await;
    raw.hello(&Identity::new(NodeId(1), Run(77)).hello(None, 1 << 20)).await;
    let Greeting::Refused { reason, .. } = raw.greeting().await else { panic!("a refusal") };
    assert!(reason.contains("a data directory was copied"), "{reason}");
}

#[tokio::test]
async fn a_second_process_of_one_node_is_refused_while_the_first_is_linked() {
    let mut a = host(1, |_| {}).await;
    let (first, _) = Raw::greeted(&a, 2).await;
    assert_eq!(a.change().await, (2, true));
    let hello = Identity::new(NodeId(2), Run(77)).hello(None, 1 << 20);
    for _ in 0..3 {
        let mut second = Raw::connect(&a).await;
        second.hello(&hello).await;
        let Greeting::Refused { reason, .. } = second.greeting().await else { panic!("refused") };
        assert!(reason.contains("data directory was copied"), "{reason}");
    }
    assert!(a.inbound.links.try_recv().is_err(), "the first link is left alone");
    // Once the first has ended, the node may come back as another run.
    drop(first);
    assert_eq!(a.change().await, (2, false));
    let mut second = Raw::connect(&a).await;
    second.hello(&hello).await;
    assert!(matches!(second.greeting().await, Greeting::Hello(_)));
    assert_eq!(a.change().await, (2, true));
}

#[tokio::test]
async fn another_node_at_a_members_address_is_not_taken_for_it() {
    let a = host(1, |_| {}).await;
    let other = host(3, |_| {}).await;
    a.want(2, &other.address);
    until("it was refused", || a.peers.stats().refused.get() > 0).await;
    assert!(a.peers.linked().is_empty());
}

/// The answer to an upgrade request with these additional header lines.
async fn upgrade(host: &peers_common::Host, more: &str) -> String {
    let mut stream = TcpStream::connect(host.address.socket()).await.unwrap();
    let request = format!(
        "GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn a_web_page_cannot_become_a_peer() {
    let a = host(1, |_| {}).await;
    for origin in ["http://evil.example", "null", "http://127.0.0.1:8098"] {
        let lines = format!("Sec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n");
        let answer = upgrade(&a, &lines).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(origin), "{answer}");
    }
    let answer = upgrade(&a, "Sec-WebSocket-Version: 13\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The key and its answer of RFC 6455, section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    let answer = upgrade(&a, "Sec-WebSocket-Version: 8\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_frame_beyond_the_limit_closes_the_link_with_the_reason() {
    let mut a = host(1, |options| options.frame_bytes_max = 4096).await;
    let (mut raw, hello) = Raw::greeted(&a, 2).await;
    assert_eq!((a.change().await, hello.frame_bytes_max), ((2, true), 4096));
    raw.send(Frame::binary(vec![0; 5000])).await;
    let (code, reason) = raw.close().await;
    assert_eq!(code, CloseCode::Size);
    assert!(reason.contains("5000") && reason.contains("frame_bytes_max=4096"), "{reason}");
    assert_eq!(a.change().await, (2, false));
}

#[tokio::test]
async fn garbage_closes_the_link_with_a_reason_and_the_next_link_works() {
    let mut a = host(1, |_| {}).await;
    let mut bad_message = vec![0, 0, 0, 0, 3];
    bad_message.extend([codec::WIRE_VERSION, 0xff, 0xff]);
    let garbage = [
        (Frame::binary(vec![]), "unknown kind"),
        (Frame::binary(vec![99; 50]), "unknown kind"),
        (Frame::binary(vec![0, 255, 255, 255, 255, 1]), "ends within a message"),
        (Frame::binary(bad_message), "cannot be read"),
        (Frame::text("hello?"), "text after the hello"),
    ];
    for (broken, (frame, want)) in (1..).zip(garbage) {
        let (mut raw, _) = Raw::greeted(&a, 2).await;
        assert_eq!(a.change().await, (2, true));
        raw.send(frame).await;
        let (_, reason) = raw.close().await;
        assert!(reason.contains(want), "{reason}");
        assert_eq!(a.change().await, (2, false));
        assert_eq!(a.peers.stats().links_broken.get(), broken);
    }
    for first in [Frame::text("{}"), Frame::text("x".repeat(10_000)), Frame::binary(vec![1])] {
        let mut raw = Raw::connect(&a).await;
        raw.send(first).await;
        assert!(matches!(raw.greeting().await, Greeting::Refused { .. }));
    }
    let mut b = host(3, |_| {}).await;
    a.want(3, &b.address);
    assert_eq!(b.change().await, (1, true));
}

#[tokio::test]
async fn a_peer_that_never_says_hello_is_let_go() {
    let a = host(1, |options| options.handshake_timeout = Duration::from_millis(100)).await;
    let mut raw = Raw::connect(&a).await;
    let end = timeout(PATIENCE, futures::StreamExt::next(&mut raw.0)).await.unwrap();
    assert!(!matches!(end, Some(Ok(Frame::Text(_)))), "the connection ends: {end:?}");
}
