//! Schedules that once broke a promise, each kept as a test.

mod common;

use common::{Net, context, key, texts, value};
use quorate_core::*;

/// Questions to peers that a node still remembers.
fn questions(net: &Net, at: u64) -> usize {
    format!("{:?}", net.hosts[&NodeId(at)].node).matches("Question {").count()
}

#[test]
fn an_absent_key_is_absent_without_notfound_ok_too() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("other"), value("opens the cluster"))).unwrap();
    let mut get = Get::new(key("k"));
    get.notfound_ok = false;
    let reply = net.request(NodeId(1), Request::Get(get));
    assert!(matches!(reply, Ok(Reply::Absent { .. })), "{reply:?}");
}

#[test]
fn a_listing_takes_no_late_answer_for_another_partition() {
    let mut net = Net::cluster(3);
    for n in 0..40 {
        net.put(1, Put::new(key(&format!("k{n:02}")), value("v"))).unwrap();
    }
    net.run(Duration::from_secs(2));
    // The node's own pages come one partition late.
    net.hold = |at, command| {
        at == NodeId(1) && matches!(command, StoreCommand::Scan { space: Space::Objects, .. })
    };
    let list = List { bucket: "bucket".into(), after: None, limit: 1_000, timeout: None };
    let id = net.start(1, Request::List(list));
    for _ in 0..100 {
        let now = net.now.monotonic;
        // One message after the other, and a page released when the next is asked for.
        while let Some((from, to, message)) = net.wire.pop_front() {
            net.input(to, Input::Message { from, message });
            if net.held.len() > 1
                && let Some((at, op, result)) = net.held.pop_front()
            {
                net.input(at, Input::Stored { op, result });
            }
        }
        net.now = common::now(now.0 + 1);
    }
    let [Ok(Reply::Keys { keys, next: None })] = net.answers(1, id) else {
        panic!("{:?}", net.answers(1, id))
    };
    let mut keys = keys.clone();
    keys.sort();
    let want: Vec<_> = (0..40).map(|n| bytes::Bytes::from(format!("k{n:02}"))).collect();
    assert_eq!(keys, want);
}

#[test]
fn a_question_that_is_not_answered_in_time_is_forgotten() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    net.run(Duration::from_secs(10));
    let before = questions(&net, 1);
    net.lose = |_, to, message| {
        to == NodeId(2) && matches!(message.body, Body::Read { .. } | Body::ListRead { .. })
    };
    for _ in 0..10 {
        net.get(1, &key("k")).unwrap();
        let list = List { bucket: "bucket".into(), after: None, limit: 10, timeout: None };
        net.request(NodeId(1), Request::List(list)).unwrap();
        net.run(Duration::from_secs(10));
    }
    assert_eq!(questions(&net, 1), before);
}

#[test]
fn every_bucket_change_is_answered_when_the_disk_is_full() {
    let mut net = Net::cluster(1);
    let patch = Some(BucketPatch { allow_mult: Some(false), ..BucketPatch::default() });
    let set = |name: &str| Request::SetBucket { bucket: name.to_owned().into(), patch };
    net.hold = |_, command| matches!(command, StoreCommand::Commit { .. });
    net.fail =
        |_, command| matches!(command, StoreCommand::Commit { .. }).then_some(StoreError::Full);
    let ids = ["a", "b", "c"].map(|name| net.start(1, set(name)));
    net.hold = |_, _| false;
    net.release();
    net.run(Duration::from_secs(20));
    for id in ids {
        assert_eq!(net.answers(1, id), [Err(RequestError::ReadOnly)]);
    }
}

#[test]
fn a_bucket_change_is_answered_when_the_store_fails() {
    for opened in [false, true] {
        let mut net = Net::cluster(1);
        if opened {
            net.put(1, Put::new(key("k"), value("v"))).unwrap();
        }
        net.fail = |_, command| {
            let commit = matches!(command, StoreCommand::Commit { .. });
            commit.then(|| StoreError::Io("gone".into()))
        };
        let patch = Some(BucketPatch { allow_mult: Some(false), ..BucketPatch::default() });
        let id = net.start(1, Request::SetBucket { bucket: "a".into(), patch });
        net.run(Duration::from_secs(20));
        assert!(matches!(net.answers(1, id), [Err(RequestError::Stopped(_))]), "open: {opened}");
    }
}
