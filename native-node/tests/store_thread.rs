//! The threads that run a store: nothing is acknowledged before its fsync, order holds, reads do not
//! wait, failures latch.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use quorate_core::{OpId, Space, StoreCommand, StoreError, StoreReply, Write};
use quorate_node::store::{
    Commit, Completion, FileOptions, MemoryStore, Page, Reader, Scan, Stats, Store, StoreThread,
    open_file,
};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Happened {
    SyncBegan,
    SyncEnded(Vec<OpId>),
    Answered(OpId, bool),
    Closed,
}

type Log = Arc<Mutex<Vec<Happened>>>;

/// A store around another whose fsync takes long, fails on command, and is written to a log.
struct SlowSync {
    inner: Box<dyn Store>,
    log: Log,
    fails_from: OpId,
    /// If there is one: an fsync waits for a word.
    gate: Option<Receiver<()>>,
}

impl SlowSync {
    fn new(inner: Box<dyn Store>, log: &Log) -> Self {
        Self { inner, log: Arc::clone(log), fails_from: OpId(u64::MAX), gate: None }
    }
    fn note(&self, happened: Happened) {
        self.log.lock().unwrap().push(happened);
    }
}

impl Store for SlowSync {
    fn reader(&self) -> Arc<dyn Reader> {
        self.inner.reader()
    }
    fn commit(&mut self, group: &[Commit]) -> Vec<Result<(), StoreError>> {
        let ops: Vec<OpId> = group.iter().map(|commit| commit.op).collect();
        self.note(Happened::SyncBegan);
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
        if ops.iter().any(|&op| op >= self.fails_from) {
            return vec![Err(StoreError::Io("pulled out".into())); ops.len()];
        }
        let results = self.inner.commit(group);
        self.note(Happened::SyncEnded(ops));
        results
    }
    fn maintain(&mut self) -> Result<(), StoreError> {
        self.inner.maintain()
    }
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.note(Happened::Closed);
        self.inner.close()
    }
}

/// A sink for completions that writes them to the log as well.
fn sink(log: &Log) -> (impl Fn(Vec<Completion>) + Clone + Send + use<>, Receiver<Completion>) {
    let log = Arc::clone(log);
    let (sender, receiver) = mpsc::channel();
    let done = move |completions: Vec<Completion>| {
        for (op, result) in completions {
            log.lock().unwrap().push(Happened::Answered(op, result.is_ok()));
            // A test that has seen enough no longer listens.
            let _ = sender.send((op, result));
        }
    };
    (done, receiver)
}

fn put(op: u64, key: &str, value: &str) -> (OpId, StoreCommand) {
    let (key, value) = (Bytes::from(key.to_owned()), Some(Bytes::from(value.to_owned())));
    (OpId(op), StoreCommand::Commit { writes: vec![Write { space: Space::Objects, key, value }] })
}

fn read(op: u64, key: &str) -> (OpId, StoreCommand) {
    (OpId(op), StoreCommand::Read { space: Space::Objects, key: Bytes::from(key.to_owned()) })
}

fn value(value: Option<&str>, as_of: u64) -> StoreReply {
    let value = value.map(|value| Bytes::from(value.to_owned()));
    StoreReply::Value { value, as_of: OpId(as_of) }
}

/// Fails if an acknowledgement stands before the end of its fsync, or commits out of order.
fn check_log(log: &[Happened], commits: u64) {
    let mut durable = Vec::new();
    let mut answered = Vec::new();
    for happened in log {
        match happened {
            Happened::SyncEnded(ops) => durable.extend(ops.clone()),
            Happened::Answered(op, true) => {
                assert!(durable.contains(op), "{op:?} was acknowledged before its fsync");
                answered.push(*op);
            }
            _ => {}
        }
    }
    let all: Vec<OpId> = (1..=commits).map(OpId).collect();
    assert_eq!(durable, all, "durable in the order issued, each once");
    assert_eq!(answered, all, "answered in the order issued, each once");
}

fn commits_under_load(inner: Box<dyn Store>) -> (Vec<Happened>, Arc<Stats>) {
    let log = Log::default();
    let (done, answers) = sink(&log);
    let threads = StoreThread::start(Box::new(SlowSync::new(inner, &log)), done).unwrap();
    for op in 1..=500 {
        threads.submit([put(op, &format!("{}", op % 50), &op.to_string())]);
        if op % 25 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let stats = threads.stats();
    threads.close().unwrap();
    assert_eq!(answers.iter().count(), 500);
    let log = log.lock().unwrap().clone();
    (log, stats)
}

#[test]
fn no_acknowledgement_precedes_its_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let file = open_file(dir.path(), &FileOptions::default()).unwrap().store;
    for store in [Box::new(MemoryStore::default()) as Box<dyn Store>, file] {
        let (log, stats) = commits_under_load(store);
        check_log(&log, 500);
        let fsyncs = stats.fsyncs.load(Relaxed);
        assert!(fsyncs < 250, "commits that wait share an fsync, and there were {fsyncs}");
        assert_eq!(stats.commits.load(Relaxed), 500);
        assert!(stats.group_commits_max.load(Relaxed) > 1);
    }
}

#[test]
fn the_check_notices_an_early_acknowledgement_and_a_wrong_order() {
    let [one, two] = [OpId(1), OpId(2)];
    let early = [Happened::Answered(one, true), Happened::SyncEnded(vec![one])];
    assert!(std::panic::catch_unwind(|| check_log(&early, 1)).is_err());
    let swapped = [
        Happened::SyncEnded(vec![two, one]),
        Happened::Answered(two, true),
        Happened::Answered(one, true),
    ];
    assert!(std::panic::catch_unwind(|| check_log(&swapped, 2)).is_err());
}

/// A store whose fsyncs wait for a word from the test.
fn gated(inner: Box<dyn Store>) -> (StoreThread, Sender<()>, Receiver<Completion>) {
    let log = Log::default();
    let (open, gate) = mpsc::channel();
    let (done, answers) = sink(&log);
    let store = SlowSync { gate: Some(gate), ..SlowSync::new(inner, &log) };
    (StoreThread::start(Box::new(store), done).unwrap(), open, answers)
}

#[test]
fn reads_do_not_wait_for_an_fsync_and_say_what_they_include() {
    let dir = tempfile::tempdir().unwrap();
    let file = open_file(dir.path(), &FileOptions::default()).unwrap().store;
    for store in [Box::new(MemoryStore::default()) as Box<dyn Store>, file] {
        let (threads, open, answers) = gated(store);
        let next = || answers.recv_timeout(WAIT).unwrap();
        open.send(()).unwrap();
        threads.submit([put(1, "a", "1")]);
        assert_eq!(next(), (OpId(1), Ok(StoreReply::Committed)));
        // The next fsync is not let through: reads go on, of the state without it.
        threads.submit([put(2, "a", "2"), read(3, "a"), read(4, "b")]);
        let Scan { space, start, end, limit, bytes_limit } = Scan::all(Space::Objects);
        threads.submit([(OpId(5), StoreCommand::Scan { space, start, end, limit, bytes_limit })]);
        assert_eq!(next(), (OpId(3), Ok(value(Some("1"), 1))));
        assert_eq!(next(), (OpId(4), Ok(value(None, 1))));
        let entries = vec![(Bytes::from("a"), Ok(Bytes::from("1")))];
        assert_eq!(
            next(),
            (OpId(5), Ok(StoreReply::Page { entries, more: false, as_of: OpId(1) }))
        );
        open.send(()).unwrap();
        assert_eq!(next(), (OpId(2), Ok(StoreReply::Committed)));
        threads.submit([read(6, "a")]);
        assert_eq!(next(), (OpId(6), Ok(value(Some("2"), 2))));
    }
}

#[test]
fn after_io_every_later_command_fails_with_io() {
    let log = Log::default();
    let (done, answers) = sink(&log);
    let inner = Box::new(MemoryStore::default());
    let store = SlowSync { fails_from: OpId(2), ..SlowSync::new(inner, &log) };
    let threads = StoreThread::start(Box::new(store), done).unwrap();
    threads.submit([put(1, "a", "1")]);
    assert_eq!(answers.recv_timeout(WAIT).unwrap().1, Ok(StoreReply::Committed));
    let failed = StoreError::Io("pulled out".into());
    for (op, command) in [put(2, "a", "2"), put(3, "b", "3"), read(4, "a"), put(5, "c", "5")] {
        threads.submit([(op, command)]);
        assert_eq!(answers.recv_timeout(WAIT).unwrap(), (op, Err(failed.clone())));
    }
    let syncs = log.lock().unwrap().iter().filter(|h| **h == Happened::SyncBegan).count();
    assert_eq!(syncs, 2, "the failed store is left alone");
    assert_eq!(threads.close(), Err(failed));
}

/// A store in which one key is damaged and another meets a bug.
struct Damaged;

impl Store for Damaged {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(Self)
    }
    fn commit(&mut self, group: &[Commit]) -> Vec<Result<(), StoreError>> {
        let answer = |c: &Commit| if c.only_removes() { Ok(()) } else { Err(StoreError::Full) };
        group.iter().map(answer).collect()
    }
    fn maintain(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Reader for Damaged {
    fn read(&self, _: Space, key: &[u8]) -> Result<(Option<Bytes>, OpId), StoreError> {
        match key {
            b"damaged" => Err(StoreError::Corrupt),
            b"broken" => panic!("a bug in the engine"),
            _ => Ok((None, OpId(0))),
        }
    }
    fn scan(&self, _: &Scan) -> Result<Page, StoreError> {
        Ok(Page::default())
    }
}

#[test]
fn corrupt_and_full_do_not_latch_and_a_panic_in_the_engine_does() {
    let (done, answers) = sink(&Log::default());
    let threads = StoreThread::start(Box::new(Damaged), done).unwrap();
    let ask = |command: (OpId, StoreCommand)| {
        threads.submit([command]);
        answers.recv_timeout(WAIT).unwrap().1
    };
    assert_eq!(ask(read(1, "damaged")), Err(StoreError::Corrupt));
    assert_eq!(ask(put(2, "a", "1")), Err(StoreError::Full));
    assert_eq!(ask(read(3, "a")), Ok(value(None, 0)));
    assert_eq!(ask((OpId(4), StoreCommand::Commit { writes: vec![] })), Ok(StoreReply::Committed));
    let broken = ask(read(5, "broken"));
    let Err(StoreError::Io(reason)) = &broken else { panic!("{broken:?}") };
    assert!(reason.contains("a bug in the engine"), "{reason}");
    assert_eq!(ask(put(6, "a", "1")), broken);
    let stats = threads.stats();
    assert_eq!((stats.corrupt.load(Relaxed), stats.full.load(Relaxed)), (1, 1));
}

#[test]
fn a_clean_end_answers_everything_that_was_submitted_and_then_closes_the_store() {
    let log = Log::default();
    let (done, answers) = sink(&log);
    let store = SlowSync::new(Box::new(MemoryStore::default()), &log);
    let threads = StoreThread::start(Box::new(store), done).unwrap();
    threads.submit((1..=200).map(|op| if op % 2 == 0 { put(op, "k", "v") } else { read(op, "k") }));
    drop(threads);
    assert_eq!(answers.iter().count(), 200);
    assert_eq!(log.lock().unwrap().last(), Some(&Happened::Closed));
}
