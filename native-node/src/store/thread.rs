//! Runs a store for the node: one thread that commits, one that reads.
//!
//! The committing thread takes everything that waits and makes it durable as one group with one
//! fsync; while that lasts the next group gathers. A `Committed` is sent only after the commit's
//! fsync returned. Reads run beside it on the last durable state, so they never wait for an
//! fsync, and each names the last commit it includes; a read that was issued behind a commit
//! which is still on its way may not include it, and says so. (The core never reads a key while a
//! commit to it is on its way.) Completions of one round go out together, for one wake-up.
//!
//! After `Io`, from a commit or a read, every later command fails with the same `Io`.

use super::{Commit, Reader, Scan, Store};
use quorate_core::{OpId, StoreCommand, StoreError, StoreReply};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A finished command: goes to the core as `Input::Stored`.
pub type Completion = (OpId, Result<StoreReply, StoreError>);

/// At most this many commits share one fsync, and after this many bytes a group is closed, so that
/// the first in a group does not wait for too much.
const GROUP_COMMITS_MAX: usize = 4_096;
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// At most this many reads are answered together.
const READS_ANSWERED_MAX: usize = 256;

/// How often the store is asked to do its housekeeping when nothing is committed.
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(1);

/// What a store has done so far.
#[derive(Debug, Default)]
pub struct Stats {
    /// Records read one by one.
    pub reads: AtomicU64,
    /// Pages scanned.
    pub scans: AtomicU64,
    /// Commits made durable.
    pub commits: AtomicU64,
    /// Bytes of keys and values in them.
    pub commit_bytes: AtomicU64,
    /// Groups of commits; each is one fsync.
    pub fsyncs: AtomicU64,
    /// Microseconds spent writing and syncing groups.
    pub fsync_micros: AtomicU64,
    /// The most commits that shared one fsync.
    pub group_commits_max: AtomicU64,
    /// Commands that failed, each kind of error.
    pub corrupt: AtomicU64,
    /// Commits refused because there was no space.
    pub full: AtomicU64,
    /// Commands that failed with `Io`.
    pub io: AtomicU64,
}

impl Stats {
    fn count_failure(&self, error: &StoreError) {
        let counter = match error {
            StoreError::Corrupt => &self.corrupt,
            StoreError::Full => &self.full,
            StoreError::Io(_) => &self.io,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// A running store. Dropping it ends it as [`StoreThread::close`] does.
pub struct StoreThread {
    shared: Arc<Shared>,
    commits: Option<Sender<Vec<Commit>>>,
    reads: Option<Sender<Vec<(OpId, Query)>>>,
    committer: Option<JoinHandle<Result<(), StoreError>>>,
    reading: Option<JoinHandle<()>>,
}

/// A command that changes nothing.
enum Query {
    Read { space: quorate_core::Space, key: bytes::Bytes },
    Scan(Scan),
}

struct Shared {
    stats: Arc<Stats>,
    /// The first `Io`, which every later command repeats.
    failed: OnceLock<StoreError>,
}

impl StoreThread {
    /// Starts the threads. `done` receives completions, each command's exactly once.
    pub fn start(
        store: Box<dyn Store>,
        done: impl Fn(Vec<Completion>) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { stats: Arc::default(), failed: OnceLock::new() });
        let (commits, commit_queue) = mpsc::channel();
        let (reads, read_queue) = mpsc::channel();
        let reader = store.reader();
        let reading = std::thread::Builder::new().name("store-read".into()).spawn({
            let (shared, done) = (Arc::clone(&shared), done.clone());
            move || read_loop(&*reader, &read_queue, &shared, &done)
        })?;
        let committer = std::thread::Builder::new().name("store-commit".into()).spawn({
            let shared = Arc::clone(&shared);
            move || commit_loop(store, &commit_queue, &shared, &done)
        })?;
        Ok(Self {
            shared,
            commits: Some(commits),
            reads: Some(reads),
            committer: Some(committer),
            reading: Some(reading),
        })
    }

    /// Hands over commands, with ids that count up. Never waits.
    pub fn submit(&self, commands: impl IntoIterator<Item = (OpId, StoreCommand)>) {
        let (mut commits, mut reads) = (Vec::new(), Vec::new());
        for (op, command) in commands {
            match command {
                StoreCommand::Commit { writes } => commits.push(Commit { op, writes }),
                StoreCommand::Read { space, key } => reads.push((op, Query::Read { space, key })),
                StoreCommand::Scan { space, start, end, limit, bytes_limit } => {
                    let scan = Scan { space, start, end, limit, bytes_limit };
                    reads.push((op, Query::Scan(scan)));
                }
            }
        }
        send(self.reads.as_ref(), reads);
        send(self.commits.as_ref(), commits);
    }

    /// What the store has done so far.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// Answers everything that was submitted, then ends the store cleanly.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StoreError> {
        // The reader first: the store must be the last user of its files, so the committer, which
        // closes it, learns of the end only when the reader is gone.
        self.reads = None;
        if let Some(reading) = self.reading.take() {
            reading.join().map_err(|panic| StoreError::Io(panic_text(&*panic)))?;
        }
        self.commits = None;
        match self.committer.take() {
            Some(committer) => {
                committer.join().unwrap_or_else(|panic| Err(StoreError::Io(panic_text(&*panic))))
            }
            None => Ok(()),
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the store did not end cleanly");
        }
    }
}

fn send<T>(queue: Option<&Sender<Vec<T>>>, items: Vec<T>) {
    if !items.is_empty() {
        let queue = queue.expect("the queue is there until the store is ended");
        queue.send(items).unwrap_or_else(|_| panic!("a thread of the store has ended early"));
    }
}

impl Shared {
    /// Runs the store's code, unless it has failed before. An `Io` and a panic latch.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(failed) = self.failed.get() {
            return Err(failed.clone());
        }
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(StoreError::Io(panic_text(&*panic))));
        if let Err(error) = &result {
            self.latch(error);
        }
        result
    }

    fn latch(&self, error: &StoreError) {
        if matches!(error, StoreError::Io(_)) && self.failed.set(error.clone()).is_ok() {
            tracing::error!(%error, "the store has failed and takes no more commands");
        }
    }
}

fn commit_loop(
    mut store: Box<dyn Store>,
    queue: &Receiver<Vec<Commit>>,
    shared: &Shared,
    done: &impl Fn(Vec<Completion>),
) -> Result<(), StoreError> {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv_timeout(MAINTAIN_INTERVAL) {
                Ok(commits) => waiting.extend(commits),
                Err(RecvTimeoutError::Timeout) => {
                    // A failure latches, and the next command reports it.
                    let _ = shared.guarded(|| store.maintain());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        waiting.extend(queue.try_iter().flatten());
        let group = next_group(&mut waiting);
        let completions = commit_group(&mut *store, &group, shared);
        done(completions);
    }
    shared.guarded(|| store.close())
}

/// As many of the waiting commits as may share an fsync.
fn next_group(waiting: &mut VecDeque<Commit>) -> Vec<Commit> {
    let mut bytes = 0;
    let fits = waiting.iter().take(GROUP_COMMITS_MAX).take_while(|commit| {
        let open = bytes < GROUP_BYTES_MAX;
        bytes += commit.bytes();
        open
    });
    let count = fits.count();
    waiting.drain(..count).collect()
}

fn commit_group(store: &mut dyn Store, group: &[Commit], shared: &Shared) -> Vec<Completion> {
    let started = Instant::now();
    let results = shared.guarded(|| Ok(store.commit(group)));
    let results = results.unwrap_or_else(|error| vec![Err(error); group.len()]);
    let stats = &shared.stats;
    let mut durable = 0;
    let completions = group.iter().zip(results).map(|(commit, result)| {
        match &result {
            Ok(()) => {
                durable += 1;
                stats.commit_bytes.fetch_add(commit.bytes(), Relaxed);
            }
            Err(error) => {
                shared.latch(error);
                stats.count_failure(error);
            }
        }
        (commit.op, result.map(|()| StoreReply::Committed))
    });
    let completions = completions.collect();
    if durable > 0 {
        stats.commits.fetch_add(durable, Relaxed);
        stats.fsyncs.fetch_add(1, Relaxed);
        stats.fsync_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        stats.group_commits_max.fetch_max(durable, Relaxed);
    }
    completions
}

fn read_loop(
    reader: &dyn Reader,
    queue: &Receiver<Vec<(OpId, Query)>>,
    shared: &Shared,
    done: &impl Fn(Vec<Completion>),
) {
    while let Ok(mut queries) = queue.recv() {
        queries.extend(queue.try_iter().flatten());
        // Scans are long; reads that wait beside them go first.
        queries.sort_by_key(|(_, query)| matches!(query, Query::Scan(_)));
        let mut completions = Vec::new();
        for (op, query) in queries {
            let answered_max = if matches!(query, Query::Scan(_)) { 1 } else { READS_ANSWERED_MAX };
            if completions.len() >= answered_max {
                done(std::mem::take(&mut completions));
            }
            let result = shared.guarded(|| answer(reader, query, &shared.stats));
            if let Err(error) = &result {
                shared.stats.count_failure(error);
            }
            completions.push((op, result));
        }
        done(completions);
    }
}

fn answer(reader: &dyn Reader, query: Query, stats: &Stats) -> Result<StoreReply, StoreError> {
    match query {
        Query::Read { space, key } => {
            stats.reads.fetch_add(1, Relaxed);
            let (value, as_of) = reader.read(space, &key)?;
            Ok(StoreReply::Value { value, as_of })
        }
        Query::Scan(scan) => {
            stats.scans.fetch_add(1, Relaxed);
            let page = reader.scan(&scan)?;
            Ok(StoreReply::Page { entries: page.entries, more: page.more, as_of: page.as_of })
        }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the store panicked: {}", text.as_deref().unwrap_or("without a message"))
}
