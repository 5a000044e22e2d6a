//! The task that owns the node, with a store made by hand.
#![allow(clippy::unwrap_used, reason = "a test and its helpers")]

use quorate_core::{
    Boot, ClusterId, Config, Found, Get, Key, MemberConfig, Node, NodeId, OpId, Put, Reply,
    Request, RequestError, Run, Secret, StoreCommand, StoreError, StoreReply,
};
use quorate_node::driver::{Clock, Completion, Driver, Metrics, Stopped, Submit};
use quorate_node::handle::NodeHandle;
use quorate_node::peers::hello::Identity;
use quorate_node::peers::{Options, Peers};
use quorate_node::store::{MemoryStore, StoreThread};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    handle: NodeHandle,
    peers: Peers,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Stopped>>,
}

/// A cluster of one whose store is `store`.
fn start(store: impl FnOnce(mpsc::UnboundedSender<Vec<Completion>>) -> Submit) -> Running {
    let (id, run) = (NodeId(1), Run(7));
    let clock = Clock::start();
    let found = Found::new(ClusterId(1, 1), 8, Secret([1; 4])).unwrap();
    let boot = Boot {
        node: id,
        run,
        meta: Vec::new(),
        found: Some(found),
        lost_commits: false,
        accept_loss: false,
    };
    let member = MemberConfig { name: "a".into(), ..MemberConfig::default() };
    let node = Node::new(Config { member, ..Config::default() }, boot, 1, clock.now());
    let (peers, inbound) = Peers::new(Options::new(Identity::new(id, run)), None);
    let (done, stored) = mpsc::unbounded_channel();
    let (handle, commands) = NodeHandle::channel(16);
    let driver = Driver {
        node,
        clock,
        peers: peers.clone(),
        inbound,
        commands,
        store: store(done),
        stored,
        metrics: Metrics::default(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(driver.run(async {
        stopped.await.ok();
    }));
    Running { handle, peers, stop, ended }
}

fn memory(done: mpsc::UnboundedSender<Vec<Completion>>) -> Submit {
    let done = move |batch| {
        done.send(batch).ok();
    };
    let store = StoreThread::start(Box::new(MemoryStore::default()), done).unwrap();
    Box::new(move |commands| store.submit(commands))
}

fn put(n: usize) -> Request {
    let mut put = Put::new(Key::new("b", format!("k{n}")).unwrap(), "value".into());
    put.w = Some(quorate_core::Need::Count(1));
    Request::Put(put)
}

fn get(n: usize) -> Request {
    let mut get = Get::new(Key::new("b", format!("k{n}")).unwrap());
    get.r = Some(quorate_core::Need::Count(1));
    Request::Get(get)
}

#[tokio::test]
async fn many_requests_at_once_are_each_answered_with_their_own_answer() {
    let node = start(memory);
    let puts = (0..500).map(|n| node.handle.request(put(n)));
    for answer in timeout(PATIENCE, futures::future::join_all(puts)).await.unwrap() {
        assert!(matches!(answer, Ok(Reply::Written { .. })), "{answer:?}");
    }
    assert!(matches!(node.handle.request(get(3)).await, Ok(Reply::Found { .. })));
    assert!(matches!(node.handle.request(get(9999)).await, Ok(Reply::Absent { .. })));
    let view = node.handle.view().await.unwrap();
    assert_eq!((view.counters.puts, view.cluster), (500, Some(ClusterId(1, 1))));
    assert_eq!(view.requests, 0);
    // A stop is orderly, and who asks afterwards is told.
    node.stop.send(()).unwrap();
    assert_eq!(timeout(PATIENCE, node.ended).await.unwrap().unwrap(), Ok(()));
    assert!(matches!(node.handle.request(get(3)).await, Err(RequestError::Stopped(_))));
    assert!(node.handle.view().await.is_none());
    assert!(node.peers.linked().is_empty());
}

#[tokio::test]
async fn a_stop_waits_for_what_the_store_was_given() {
    let (slow, mut held) = mpsc::unbounded_channel();
    let (sender, receiver) = oneshot::channel();
    let node = start(|done| {
        sender.send(done).unwrap();
        Box::new(move |commands| slow.send(commands).unwrap())
    });
    let done = receiver.await.unwrap();
    let asked = tokio::spawn({
        let handle = node.handle.clone();
        async move { handle.request(put(1)).await }
    });
    // Answers everything except the commit of the put, which is held back.
    let commit = loop {
        let commands = timeout(PATIENCE, held.recv()).await.unwrap().unwrap();
        let mut kept = None;
        for (op, command) in commands {
            let as_of = OpId(0);
            let reply = match command {
                StoreCommand::Read { .. } => StoreReply::Value { value: None, as_of },
                StoreCommand::Scan { .. } => {
                    StoreReply::Page { entries: Vec::new(), more: false, as_of }
                }
                StoreCommand::Commit { ref writes }
                    if writes.iter().any(|w| w.space == quorate_core::Space::Objects) =>
                {
                    kept = Some(op);
                    continue;
                }
                StoreCommand::Commit { .. } => StoreReply::Committed,
            };
            done.send(vec![(op, Ok(reply))]).unwrap();
        }
        if let Some(op) = kept {
            break op;
        }
    };
    node.stop.send(()).unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(!node.ended.is_finished() && !asked.is_finished());
    done.send(vec![(commit, Ok(StoreReply::Committed))]).unwrap();
    assert_eq!(timeout(PATIENCE, node.ended).await.unwrap().unwrap(), Ok(()));
    assert!(matches!(asked.await.unwrap(), Ok(Reply::Written { .. })));
}

#[tokio::test]
async fn a_failing_store_stops_the_node_with_the_reason() {
    let node = start(|done| {
        Box::new(move |commands| {
            let failed = |(op, _)| (op, Err(StoreError::Io("the disk is gone".into())));
            done.send(commands.into_iter().map(failed).collect()).ok();
        })
    });
    let answer = timeout(PATIENCE, node.handle.request(put(1))).await.unwrap();
    assert!(answer.is_err());
    let Stopped(reason) = timeout(PATIENCE, node.ended).await.unwrap().unwrap().unwrap_err();
    assert!(reason.contains("the disk is gone"), "{reason}");
}

#[tokio::test]
async fn a_store_that_ends_stops_the_node() {
    let node = start(|done| {
        drop(done);
        Box::new(|_| {})
    });
    let Stopped(reason) = timeout(PATIENCE, node.ended).await.unwrap().unwrap().unwrap_err();
    assert!(reason.contains("store"), "{reason}");
}
