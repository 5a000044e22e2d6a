//! What a cluster of real nodes does, one behaviour a test.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod common;

use common::{Net, context, key, texts, value};
use quorate_core::*;

#[test]
fn what_is_put_through_one_node_is_read_through_another() {
    let mut net = Net::cluster(5);
    for at in 1..=5 {
        let k = key(&format!("k{at}"));
        assert!(matches!(net.get(at, &k), Ok(Reply::Absent { .. })));
        let reply = net.put(at, Put::new(k.clone(), value("v")));
        let Ok(Reply::Written { receipt, .. }) = &reply else { panic!("{reply:?}") };
        assert!(receipt.answers.len() >= 2 && receipt.n == 3, "{receipt:?}");
        for other in 1..=5 {
            assert_eq!(texts(&net.get(other, &k)), ["v"]);
        }
    }
    assert_eq!(net.hints(), 0);
}

#[test]
fn a_single_node_is_a_cluster() {
    let mut net = Net::cluster(1);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    assert_eq!(texts(&net.get(1, &key("k"))), ["v"]);
}

#[test]
fn siblings_are_made_by_old_contexts_and_resolved_by_new_ones() {
    let mut net = Net::cluster(5);
    let k = key("cart");
    let first = net.put(1, Put::new(k.clone(), value("0")));
    let old = context(&first);
    for (at, text) in [(2, "a"), (3, "b")] {
        let put = Put::new(k.clone(), value(text));
        let mut put = put;
        put.context = Some(old.clone());
        net.put(at, put).unwrap();
    }
    let both = net.get(4, &k);
    assert_eq!(texts(&both), ["a", "b"]);
    let mut merged = Put::new(k.clone(), value("a+b"));
    merged.context = Some(context(&both));
    merged.write_id = Some(WriteId::of(b"merge-1"));
    net.put(5, merged.clone()).unwrap();
    assert_eq!(texts(&net.get(1, &k)), ["a+b"]);
    let again = net.put(2, merged.clone());
    assert!(matches!(again, Ok(Reply::Written { repeated: true, .. })), "{again:?}");
    merged.value = Some(value("other"));
    assert_eq!(net.put(1, merged), Err(RequestError::WriteIdReused));
    let read = net.get(3, &k);
    assert_eq!(texts(&read), ["a+b"]);
    net.put(4, Put::delete(k.clone(), context(&read))).unwrap();
    assert!(matches!(net.get(1, &k), Ok(Reply::Deleted { .. })));
}

#[test]
fn with_its_primaries_down_a_key_is_written_to_fallbacks_and_handed_over_later() {
    let mut net = Net::cluster(7);
    let k = key("hinted");
    net.put(1, Put::new(key("other"), value("opens the cluster"))).unwrap();
    let owners: Vec<NodeId> = {
        let reply = net.put(1, Put::new(k.clone(), value("0"))).unwrap();
        net.run(Duration::from_secs(3));
        let Reply::Written { .. } = reply else { panic!() };
        (1..=7).map(NodeId).filter(|id| net.stored(*id, &k).is_some()).collect()
    };
    assert_eq!(owners.len(), 3);
    for owner in &owners {
        net.stop(*owner);
    }
    net.run(Duration::from_secs(3));
    let at = (1..=7).find(|id| !owners.contains(&NodeId(*id))).unwrap();
    let reply = net.put(at, Put::new(k.clone(), value("1")));
    let Ok(Reply::Written { receipt, .. }) = reply else { panic!("{reply:?}") };
    assert!(receipt.answers.iter().all(|answer| !answer.primary && answer.counts));
    let mut strict = Put::new(k.clone(), value("2"));
    strict.pw = Some(Need::Count(1));
    let refused = net.put(at, strict);
    let Err(RequestError::Unavailable { param, need: 1, have: 0, may_have_happened: false }) =
        &refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(param, "pw");
    assert_eq!(texts(&net.get(at, &k)), ["1"], "fallbacks with hints are informative");
    assert!(net.hints() >= 3);
    for owner in &owners {
        net.restart(*owner);
    }
    net.run(Duration::from_secs(10));
    assert_eq!(net.hints(), 0);
    for owner in &owners {
        assert_eq!(net.stored(*owner, &k).unwrap().len(), 2, "{owner}");
    }
    assert_eq!(texts(&net.get(1, &k)), ["0", "1"], "the blind write did not replace the first");
}

#[test]
fn a_missing_owner_in_a_small_cluster_gets_its_copy_when_it_returns() {
    let mut net = Net::cluster(3);
    let k = key("k");
    net.stop(NodeId(3));
    net.put(1, Put::new(k.clone(), value("v"))).unwrap();
    net.run(Duration::from_secs(5));
    net.restart(NodeId(3));
    net.run(Duration::from_secs(10));
    assert_eq!(net.stored(NodeId(3), &k).map(|siblings| siblings.len()), Some(1));
    assert_eq!(net.hints(), 0);
}

#[test]
fn a_full_restart_loses_nothing() {
    let mut net = Net::cluster(5);
    for n in 0..20 {
        net.put(n % 5 + 1, Put::new(key(&format!("k{n}")), value("v"))).unwrap();
    }
    for id in 1..=5 {
        net.stop(NodeId(id));
    }
    for id in 1..=5 {
        net.restart(NodeId(id));
    }
    net.run(Duration::from_secs(5));
    for n in 0..20 {
        assert_eq!(texts(&net.get(n % 5 + 1, &key(&format!("k{n}")))), ["v"]);
    }
}

#[test]
fn a_listing_names_every_key_once_page_by_page() {
    let mut net = Net::cluster(5);
    for n in 0..50 {
        net.put(1, Put::new(key(&format!("k{n:02}")), value("v"))).unwrap();
    }
    let deleted = net.get(1, &key("k07"));
    net.put(1, Put::delete(key("k07"), context(&deleted))).unwrap();
    net.run(Duration::from_secs(2));
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let bucket = "bucket".into();
        let list = List { bucket, after, limit: 7, timeout: None };
        let reply = net.request(NodeId(2), Request::List(list));
        let Ok(Reply::Keys { keys, next }) = reply else { panic!("{reply:?}") };
        assert!(keys.len() <= 7);
        listed.extend(keys);
        after = next;
        if after.is_none() {
            break;
        }
    }
    listed.sort();
    let want: Vec<_> =
        (0..50).filter(|n| *n != 7).map(|n| bytes::Bytes::from(format!("k{n:02}"))).collect();
    assert_eq!(listed, want);
}

#[test]
fn nobody_joins_a_cluster_that_holds_objects() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    let late = common::Host::new(Config::default(), common::boot(NodeId(9), 9, None), net.now);
    net.hosts.insert(NodeId(9), late);
    net.link_all(NodeId(9));
    net.run(Duration::from_secs(5));
    let refused = |event: &Event| matches!(event, Event::JoinRefused { reason } if reason.contains("holds objects"));
    assert!(net.hosts[&NodeId(9)].events.iter().any(refused));
    assert_eq!(net.hosts[&NodeId(1)].node.view().members.len(), 3);
    assert_eq!(net.get(9, &key("k")), Err(RequestError::NotMember));
}

#[test]
fn a_disk_that_lost_commits_vouches_for_nothing_until_repaired_from_others() {
    let mut net = Net::cluster(3);
    let k = key("k");
    net.put(1, Put::new(k.clone(), value("v"))).unwrap();
    net.run(Duration::from_secs(2));
    net.stop(NodeId(2));
    net.hosts.get_mut(&NodeId(2)).unwrap().disk.retain(|(space, _), _| *space == Space::Meta);
    net.restart_with(NodeId(2), |boot| boot.lost_commits = true);
    net.run(Duration::from_secs(2));
    assert!(net.hosts[&NodeId(2)].node.view().lost_commits);
    net.stop(NodeId(1));
    let reply = net.get(3, &k);
    assert!(
        matches!(reply, Err(RequestError::Unavailable { .. })),
        "one owner is down and the other does not vouch for an absent key: {reply:?}"
    );
    net.restart(NodeId(1));
    net.run(Duration::from_secs(2));
    net.get(2, &k).unwrap();
    net.run(Duration::from_secs(2));
    assert_eq!(net.stored(NodeId(2), &k).map(|siblings| siblings.len()), Some(1));
    net.restart_with(NodeId(2), |boot| boot.accept_loss = true);
    net.run(Duration::from_secs(2));
    assert!(!net.hosts[&NodeId(2)].node.view().lost_commits);
}

#[test]
fn a_context_of_another_key_is_refused() {
    let mut net = Net::cluster(3);
    let reply = net.put(1, Put::new(key("a"), value("v")));
    let mut put = Put::new(key("b"), value("v"));
    put.context = Some(context(&reply));
    assert_eq!(net.put(2, put), Err(RequestError::BadContext));
}

#[test]
fn a_bucket_without_siblings_shows_the_newest() {
    let mut net = Net::cluster(3);
    let patch = BucketPatch { allow_mult: Some(false), ..BucketPatch::default() };
    let set = Request::SetBucket { bucket: "bucket".into(), patch: Some(patch) };
    assert!(matches!(net.request(NodeId(1), set), Ok(Reply::Bucket(props)) if !props.allow_mult));
    net.run(Duration::from_secs(3));
    for (at, text) in [(1, "a"), (2, "b"), (3, "c")] {
        net.put(at, Put::new(key("k"), value(text))).unwrap();
        assert_eq!(texts(&net.get(at, &key("k"))), [text]);
    }
}

#[test]
fn a_write_that_would_leave_too_many_siblings_is_refused_and_a_resolving_one_never() {
    let mut net = Net::cluster(1);
    for n in 0..100 {
        net.put(1, Put::new(key("k"), value(&format!("v{n}")))).unwrap();
    }
    let refused = net.put(1, Put::new(key("k"), value("one more")));
    assert_eq!(refused, Err(RequestError::TooManySiblings { would_be: 101, max: 100 }));
    let all = net.get(1, &key("k"));
    assert_eq!(texts(&all).len(), 100);
    let mut resolving = Put::new(key("k"), value("merged"));
    resolving.context = Some(context(&all));
    net.put(1, resolving).unwrap();
    assert_eq!(texts(&net.get(1, &key("k"))), ["merged"]);
}

#[test]
fn siblings_are_bounded_in_bytes_and_a_value_alone_is_not_refused_for_it() {
    let mut config = Config::default();
    config.limits.siblings_bytes_max = 10;
    let boot = common::boot(NodeId(1), 1, Some(common::found()));
    let mut net = Net::cluster(1);
    net.hosts.insert(NodeId(1), common::Host::new(config, boot, net.now));
    net.put(1, Put::new(key("k"), value("twelve bytes"))).unwrap();
    let refused = net.put(1, Put::new(key("k"), value("more")));
    assert_eq!(refused, Err(RequestError::SiblingsTooLarge { would_be: 16, max: 10 }));
    let mut resolving = Put::new(key("k"), value("twelve bytes"));
    resolving.context = Some(context(&net.get(1, &key("k"))));
    net.put(1, resolving).unwrap();
}

#[test]
fn a_node_that_just_started_hears_of_its_peers_before_it_answers_clients() {
    let mut net = Net::cluster(5);
    for n in 0..10 {
        net.put(1, Put::new(key(&format!("k{n}")), value("v"))).unwrap();
    }
    net.stop(NodeId(4));
    net.run(Duration::from_secs(2));
    net.restart_quietly(NodeId(4));
    for n in 0..10 {
        let id = RequestId(1_000 + n);
        let request = Request::Get(Get::new(key(&format!("k{n}"))));
        net.input(NodeId(4), Input::Request { id, request });
    }
    net.link_all(NodeId(4));
    net.run(Duration::from_secs(1));
    for n in 0..10 {
        assert_eq!(texts(&net.hosts[&NodeId(4)].replies[&RequestId(1_000 + n)][0]), ["v"]);
    }
}

#[test]
fn a_node_that_hears_of_nobody_says_so_soon() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    net.stop(NodeId(2));
    net.stop(NodeId(3));
    net.stop(NodeId(1));
    net.restart_quietly(NodeId(1));
    let reply = net.get(1, &key("k"));
    assert!(matches!(reply, Err(RequestError::Unavailable { need: 2, have: 0, .. })), "{reply:?}");
}

/// Found by the simulator: the owner was heard while the fallback's own hint was on its way to disk.
#[test]
fn a_fallbacks_hint_reaches_an_owner_that_returned_before_the_hint_was_durable() {
    let mut net = Net::cluster(7);
    let k = key("k");
    net.put(1, Put::new(k.clone(), value("0"))).unwrap();
    net.run(Duration::from_secs(3));
    let owners = net.owners(&k);
    for owner in &owners {
        net.stop(NodeId(*owner));
    }
    net.run(Duration::from_secs(3));
    net.hold = |_, command| {
        let hint = |write: &Write| write.space == Space::Hints;
        matches!(command, StoreCommand::Commit { writes } if writes.iter().any(hint))
    };
    let at = (1..=7).find(|id| !owners.contains(id)).unwrap();
    let id = net.start(at, Request::Put(Put::new(k.clone(), value("1"))));
    net.run(Duration::from_millis(1));
    assert!(!net.held.is_empty() && net.answers(at, id).is_empty());
    for owner in &owners {
        net.restart(NodeId(*owner));
    }
    net.run(Duration::from_millis(500));
    net.hold = |_, _| false;
    net.release();
    net.run(Duration::from_secs(10));
    assert_eq!((net.hints(), net.stored_hints()), (0, 0));
    for owner in owners {
        assert_eq!(net.stored(NodeId(owner), &k).unwrap().len(), 2);
    }
}
