//! Schedules that once broke a promise, each kept as a test.

mod common;

use common::{Net, key, texts, value};
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

/// A cluster that is open, and the owners and one other node of a key.
fn opened(n: u64, k: &Key) -> (Net, Vec<u64>, u64) {
    let mut net = Net::cluster(n);
    net.put(1, Put::new(k.clone(), value("0"))).unwrap();
    net.run(Duration::from_secs(10));
    let owners = net.owners(k);
    assert_eq!(owners.len(), 3);
    let other = (1..=n).find(|id| !owners.contains(id)).unwrap();
    (net, owners, other)
}

fn blind(k: &Key, text: &str) -> Request {
    Request::Put(Put::new(k.clone(), value(text)))
}

#[test]
fn a_write_that_an_earlier_run_executed_is_not_executed_again_elsewhere() {
    let k = key("k");
    let (mut net, _, other) = opened(5, &k);
    // The forward arrives twice: before the coordinator's crash and after it.
    let id = net.start(other, blind(&k, "1"));
    let at = net.wire.iter().position(|(_, _, m)| matches!(m.body, Body::Forward { .. })).unwrap();
    let (from, to, message) = net.wire.remove(at).unwrap();
    net.lose = |_, _, message| matches!(message.body, Body::ForwardReply { .. });
    net.input(to, Input::Message { from, message: message.clone() });
    net.run(Duration::from_millis(10));
    net.hosts.get_mut(&to).unwrap().events.clear();
    net.down.push(to);
    net.restart(to);
    net.input(to, Input::Message { from, message });
    net.lose = |_, _, _| false;
    net.run(Duration::from_secs(20));
    let [Err(error)] = net.answers(other, id) else { panic!("{:?}", net.answers(other, id)) };
    assert!(error.is_unknown(), "{error:?}");
    assert_eq!(texts(&net.get(other, &k)), ["0", "1"], "executed once");
}

#[test]
fn a_forward_that_was_refused_is_not_executed_when_it_is_repeated() {
    let k = (0..).map(|n| key(&format!("k{n}"))).find(|k| !opened(5, k).1.contains(&1)).unwrap();
    let mut net = Net::cluster(5);
    // The owners hear that the cluster is open only when they have refused the forward.
    net.lose = |_, _, message| matches!(message.body, Body::State { answer: false, .. });
    let id = net.start(1, blind(&k, "1"));
    let forward = net.wire.iter().find(|(_, _, m)| matches!(m.body, Body::Forward { .. })).unwrap();
    let (from, to, message) = forward.clone();
    let (from_again, again) = (from, message.clone());
    net.wire.retain(|(_, _, m)| !matches!(m.body, Body::Forward { .. } | Body::State { .. }));
    net.lose = |_, _, _| false;
    net.input(to, Input::Message { from, message });
    net.run(Duration::from_millis(100));
    assert!(matches!(net.answers(1, id), [Ok(_)]));
    net.input(to, Input::Message { from: from_again, message: again });
    net.run(Duration::from_secs(20));
    assert_eq!(texts(&net.get(1, &k)), ["1"]);
}

#[test]
fn owners_that_all_lost_commits_do_not_ask_each_other_for_ever() {
    let mut net = Net::cluster(3);
    let k = key("k");
    net.put(1, Put::new(k.clone(), value("v"))).unwrap();
    net.run(Duration::from_secs(2));
    for id in 1..=3 {
        net.stop(NodeId(id));
        net.restart_with(NodeId(id), |boot| boot.lost_commits = true);
    }
    net.run(Duration::from_secs(2));
    net.start(1, Request::Get(Get::new(k.clone())));
    let (mut seen, mut random) = (0, 1_usize);
    while !net.wire.is_empty() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (from, to, message) = net.wire.remove((random >> 33) % net.wire.len()).unwrap();
        net.input(to, Input::Message { from, message });
        seen += 1;
        assert!(seen < 1_000, "they go on asking");
    }
}

fn scans_hints(at: NodeId, command: &StoreCommand) -> bool {
    at == NodeId(1) && matches!(command, StoreCommand::Scan { space: Space::Hints, .. })
}

#[test]
fn a_key_that_its_owner_cannot_take_does_not_keep_the_other_hints_waiting() {
    let mut net = Net::cluster(3);
    // With W=1 nothing proves what a damaged record held: it is not repaired.
    let patch = BucketPatch { w: Some(Need::Count(1)), ..BucketPatch::default() };
    let set = Request::SetBucket { bucket: "bucket".into(), patch: Some(patch) };
    net.request(NodeId(1), set).unwrap();
    net.run(Duration::from_secs(3));
    let mut keys: Vec<_> = (0..100).map(|n| key(&format!("k{n}"))).collect();
    keys.sort_by_key(|k| k.token().partition(16));
    net.stop(NodeId(3));
    for k in &keys {
        net.put(1, Put::new(k.clone(), value("v"))).unwrap();
    }
    // More than one page of the owner's records, the first in the hints' order, are damaged.
    net.fail = |at, command| {
        let StoreCommand::Read { space: Space::Objects, key } = command else { return None };
        (at == NodeId(3) && key[..4] < 8_u32.to_be_bytes()[..]).then_some(StoreError::Corrupt)
    };
    let damaged = keys.iter().filter(|k| k.token().partition(16) < Partition(8)).count();
    assert!(damaged > 32 && damaged < 90, "{damaged}");
    net.restart(NodeId(3));
    net.run(Duration::from_secs(60));
    assert_eq!(net.hints(), damaged as u64);
    net.fail = |_, _| None;
    net.run(Duration::from_secs(60));
    assert_eq!((net.hints(), net.stored_hints()), (0, 0));
}

#[test]
fn a_hint_stored_while_an_empty_page_is_on_its_way_is_not_forgotten() {
    let (mut net, k) = (Net::cluster(3), key("k"));
    net.put(1, Put::new(k.clone(), value("0"))).unwrap();
    net.run(Duration::from_secs(10));
    net.stop(NodeId(3));
    net.put(1, Put::new(k.clone(), value("1"))).unwrap();
    // The hint is delivered, and dropped so late that the next pass has begun.
    net.hold = |at, command| {
        at == NodeId(1) && matches!(command, StoreCommand::Read { space: Space::Hints, .. })
    };
    net.restart(NodeId(3));
    net.run(Duration::from_millis(500));
    net.late = scans_hints;
    net.run(Duration::from_millis(1_000));
    assert_eq!((net.held.len(), net.waiting.len()), (1, 1));
    net.hold = |_, _| false;
    net.release();
    assert_eq!(net.stored_hints(), 0);
    net.execute_late();
    // Meanwhile the owner goes away again and another hint is stored.
    net.stop(NodeId(3));
    net.start(1, blind(&k, "2"));
    assert_eq!((net.hints(), net.stored_hints()), (1, 1));
    net.late = |_, _| false;
    net.release();
    net.restart(NodeId(3));
    net.run(Duration::from_secs(30));
    assert_eq!((net.hints(), net.stored_hints()), (0, 0));
}

#[test]
fn a_hint_that_took_the_place_of_a_damaged_one_is_not_dropped_in_its_stead() {
    let (mut net, k) = (Net::cluster(3), key("k"));
    net.put(1, Put::new(k.clone(), value("0"))).unwrap();
    net.run(Duration::from_secs(10));
    net.stop(NodeId(3));
    net.put(1, Put::new(k.clone(), value("1"))).unwrap();
    for ((space, _), record) in &mut net.hosts.get_mut(&NodeId(1)).unwrap().disk {
        if *space == Space::Hints {
            *record = "damaged".into();
        }
    }
    net.hold = scans_hints;
    net.restart(NodeId(3));
    net.run(Duration::from_millis(100));
    assert_eq!(net.held.len(), 1);
    net.stop(NodeId(3));
    net.put(1, Put::new(k.clone(), value("2"))).unwrap();
    net.hold = |_, _| false;
    net.release();
    assert_eq!(net.stored_hints(), 1, "what was kept after the damage");
    net.restart(NodeId(3));
    net.run(Duration::from_secs(30));
    assert_eq!(net.stored(NodeId(3), &k).unwrap().len(), 3);
    assert_eq!((net.hints(), net.stored_hints()), (0, 0));
}
