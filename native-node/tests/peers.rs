//! Links between peers over real sockets on loopback: what they carry and how they come and go.
#![allow(clippy::unwrap_used, reason = "a test and its helpers")]

mod peers_common;

use peers_common::{Host, Raw, great, host, host_of, ping, until};
use quorate_core::{ClusterId, NodeId};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn thousands_of_messages_arrive_in_order_and_in_few_frames() {
    let a = host(1, |_| {}).await;
    let mut b = host(2, |_| {}).await;
    a.want(2, &b.address);
    assert_eq!(b.change().await, (1, true));
    until("the link is up", || a.peers.linked() == [NodeId(2)]).await;
    for batch in 0..100 {
        let mut messages = (batch * 100..(batch + 1) * 100).map(ping).collect();
        a.peers.send(NodeId(2), &mut messages);
        assert!(messages.is_empty());
    }
    assert_eq!(b.receive(10_000).await, (0..10_000).map(ping).collect::<Vec<_>>());
    assert!(a.peers.stats().frames_sent.get() <= 100, "waiting messages share a frame");
}

#[tokio::test]
async fn both_sides_can_send_more_than_sockets_hold_at_once() {
    let mut a = host(1, |options| options.frame_bytes_max = 64 << 10).await;
    let mut b = host(2, |_| {}).await;
    a.want(2, &b.address);
    b.change().await;
    until("the link is up", || a.peers.linked() == [NodeId(2)]).await;
    // 40 messages of 1 MiB, each greater than a frame, with small ones between them.
    let messages = || (0..80).map(|n| if n % 2 == 0 { great(n, 1 << 20) } else { ping(n) });
    a.peers.send(NodeId(2), &mut messages().collect());
    b.peers.send(NodeId(1), &mut messages().collect());
    let (at_a, at_b) = tokio::join!(a.receive(80), b.receive(80));
    assert!(at_a.into_iter().eq(messages()) && at_b.into_iter().eq(messages()));
}

#[tokio::test]
async fn a_full_outbox_drops_new_messages_and_the_link_goes_on() {
    let a = host(1, |options| options.outbox_messages_max = 50).await;
    let mut b = host(2, |_| {}).await;
    a.want(2, &b.address);
    b.change().await;
    until("the link is up", || a.peers.linked() == [NodeId(2)]).await;
    // Nobody takes what arrives at b, so the sockets fill up and then the outbox.
    let dropped = || a.peers.stats().dropped_overflow.get();
    let mut sent = 0;
    while dropped() == 0 {
        a.peers.send(NodeId(2), &mut vec![great(sent, 1 << 20)]);
        sent += 1;
        sleep(Duration::from_millis(1)).await;
        assert!(sent < 10_000, "something must be bounded");
    }
    let kept = sent - dropped();
    let arrived = b.receive(usize::try_from(kept).unwrap()).await;
    let expected = (0..kept).map(|seq| great(seq, 1 << 20));
    assert!(arrived.into_iter().eq(expected), "the newest are dropped, not the oldest");
    a.peers.send(NodeId(2), &mut vec![ping(7)]);
    assert_eq!(b.receive(1).await, [ping(7)]);
}

#[tokio::test]
async fn messages_without_a_link_are_dropped_and_counted() {
    let a = host(1, |_| {}).await;
    a.peers.send(NodeId(2), &mut vec![ping(1), ping(2)]);
    assert_eq!(a.peers.stats().dropped_unlinked.get(), 2);
}

/// A host on a runtime of its own, which can be dropped with its sockets as `kill -9` does.
async fn killable(listen: String) -> (tokio::runtime::Runtime, Host) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let start = runtime.spawn(async move { host_of(2, None, &listen, |_| {}).await });
    let host = start.await.unwrap();
    (runtime, host)
}

#[tokio::test]
async fn a_killed_peer_is_linked_again_when_it_returns() {
    let mut a = host(1, |_| {}).await;
    let (mut runtime, mut b) = killable("127.0.0.1:0".into()).await;
    let address = b.address.clone();
    a.want(2, &address);
    for turn in 0..3 {
        assert_eq!(a.change().await, (2, true));
        a.peers.send(NodeId(2), &mut vec![ping(turn)]);
        assert_eq!(b.receive(1).await, [ping(turn)]);
        runtime.shutdown_background();
        assert_eq!(a.change().await, (2, false));
        sleep(Duration::from_millis(100)).await;
        (runtime, b) = killable(address.authority()).await;
    }
    assert_eq!(a.change().await, (2, true));
    runtime.shutdown_background();
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_keep_one_link() {
    for _ in 0..20 {
        // Without deference both dial at the same moment, every time.
        let mut a = host(1, |options| options.deference = Duration::ZERO).await;
        let mut b = host(2, |options| options.deference = Duration::ZERO).await;
        a.want(2, &b.address);
        b.want(1, &a.address);
        assert_eq!((a.change().await, b.change().await), ((2, true), (1, true)));
        // Messages may be lost while the links are sorted out; then one gets through.
        let mut seq = 0;
        for (from, id, to) in [(&a.peers, 2, &mut b.inbound), (&b.peers, 1, &mut a.inbound)] {
            while to.frames.try_recv().is_err() {
                from.send(NodeId(id), &mut vec![ping(seq)]);
                seq += 1;
                sleep(Duration::from_millis(2)).await;
                assert!(seq < 5_000, "a message gets through");
            }
        }
        sleep(Duration::from_millis(50)).await;
        assert!(a.inbound.links.try_recv().is_err(), "the link does not flap");
        assert!(b.inbound.links.try_recv().is_err(), "the link does not flap");
        assert_eq!((a.peers.stats().links.get(), b.peers.stats().links.get()), (1, 1));
    }
}

#[tokio::test]
async fn an_idle_link_stays_up_and_a_silent_one_is_closed() {
    let hasty = |options: &mut quorate_node::peers::Options| {
        options.ping_after = Duration::from_millis(50);
        options.silence_max = Duration::from_millis(200);
    };
    let mut a = host(1, hasty).await;
    let mut b = host(2, hasty).await;
    a.want(2, &b.address);
    assert_eq!((a.change().await, b.change().await), ((2, true), (1, true)));
    sleep(Duration::from_millis(600)).await;
    assert!(a.inbound.links.try_recv().is_err(), "pings keep the link up");

    // This one never reads, so it answers no ping.
    let (mut raw, _) = Raw::greeted(&a, 3).await;
    assert_eq!(a.change().await, (3, true));
    let start = Instant::now();
    assert_eq!(a.change().await, (3, false));
    assert!(start.elapsed() >= Duration::from_millis(150));
    let (code, reason) = raw.close().await;
    assert_eq!(code, CloseCode::Policy);
    assert!(reason.contains("nothing came in"), "{reason}");
}

#[tokio::test]
async fn a_seed_is_asked_until_it_answers_and_left_alone_while_members_are_linked() {
    let spare = host(9, |_| {}).await;
    let seed_address = {
        // A port that is free now and will be the seed's.
        let (listener, bound) =
            quorate_node::listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        drop(listener);
        bound
    };
    let mut a = host(1, |_| {}).await;
    let seed = quorate_node::peers::address::Address::of(seed_address);
    a.peers.join(vec![seed.clone()]);
    until("the seed was dialled in vain", || a.peers.stats().dials_failed.get() >= 2).await;
    let (runtime, _b) = killable(seed.authority()).await;
    assert_eq!(a.change().await, (2, true));
    // Now a member is linked and the seed dies: it is not asked, because it is not needed.
    a.want(9, &spare.address);
    assert_eq!(a.change().await, (9, true));
    runtime.shutdown_background();
    assert_eq!(a.change().await, (2, false));
    sleep(Duration::from_millis(300)).await;
    let dials = a.peers.stats().dials.get();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(a.peers.stats().dials.get(), dials);
}

#[tokio::test]
async fn a_member_that_is_no_longer_wanted_is_not_dialled_again() {
    let mut a = host(1, |_| {}).await;
    let b = host(2, |_| {}).await;
    a.want(2, &b.address);
    assert_eq!(a.change().await, (2, true));
    a.peers.want(NodeId(2), Vec::new());
    assert_eq!(a.change().await, (2, false));
    sleep(Duration::from_millis(300)).await;
    assert!(a.peers.linked().is_empty());
}

#[tokio::test]
async fn closing_sends_what_waits_and_says_why() {
    let mut a = host(1, |_| {}).await;
    let mut b = host(2, |_| {}).await;
    a.want(2, &b.address);
    assert_eq!((a.change().await, b.change().await), ((2, true), (1, true)));
    let (mut raw, _) = Raw::greeted(&a, 3).await;
    a.change().await;
    a.peers.send(NodeId(2), &mut (0..1_000).map(ping).collect());
    let (reason, ()) = tokio::join!(raw.close(), a.peers.close("the node is shutting down"));
    assert_eq!(reason, (CloseCode::Away, "the node is shutting down".into()));
    assert_eq!(b.receive(1_000).await.len(), 1_000);
    assert_eq!(b.change().await, (1, false));
    sleep(Duration::from_millis(300)).await;
    assert!(a.peers.linked().is_empty(), "nobody is dialled any more");
}

#[tokio::test]
async fn a_newcomer_drops_links_to_other_clusters_once_it_is_admitted() {
    let mut newcomer = host(1, |_| {}).await;
    let a = host_of(2, Some(ClusterId(1, 1)), "127.0.0.1:0", |_| {}).await;
    let b = host_of(3, Some(ClusterId(2, 2)), "127.0.0.1:0", |_| {}).await;
    newcomer.peers.join(vec![a.address.clone(), b.address.clone()]);
    newcomer.change().await;
    newcomer.change().await;
    assert_eq!(newcomer.peers.linked(), [NodeId(2), NodeId(3)]);
    newcomer.peers.set_cluster(ClusterId(1, 1));
    assert_eq!(newcomer.change().await, (3, false));
    assert_eq!(newcomer.peers.linked(), [NodeId(2)]);
}
