//! The task that owns the `Node`: the run loop of `quorate-core` on tokio.
//!
//! Invariants: only this task touches the node, and nothing in it waits for a socket, a disk or a
//! client; all that waits is handled before outputs are drained, so that messages to one peer leave
//! in one frame and commits share one fsync; when the node stops, the task ends with the reason and
//! takes the process with it.

use crate::handle::Command;
use crate::peers::{Inbound, LinkChange, Peers};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quorate_core::{
    Event, Input, Instant, Message, Node, NodeId, Now, OpId, Output, Reply, RequestError,
    RequestId, RequestKind, StoreCommand, StoreError, StoreReply, WallTime,
};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Inputs handled before outputs are drained: bounds how long an answer waits for others' work.
const INPUTS_BEFORE_DRAIN_MAX: usize = 1_024;
/// How long the store may take to finish what it was given when the node is told to stop.
const STORE_FINISH_MAX: Duration = Duration::from_secs(5);
/// Warnings that a peer or a client can cause at will are logged once in this long.
const REPEATED_WARNING_MIN: Duration = Duration::from_secs(1);

/// A storage command that ended.
pub type Completion = (OpId, Result<StoreReply, StoreError>);

/// Takes commands for the store, in the order issued, without waiting.
pub type Submit = Box<dyn FnMut(Vec<(OpId, StoreCommand)>) + Send>;

/// The host's clocks in the core's units.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// Both clocks at this moment.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: Instant(micros(self.start.elapsed())), wall: WallTime(micros(wall)) }
    }

    fn deadline(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_micros(at.0))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What the task is made of.
pub struct Driver {
    /// The node; outputs of its start may wait in it already.
    pub node: Node,
    /// The clock that the node was started with.
    pub clock: Clock,
    /// Ways to peers.
    pub peers: Peers,
    /// What comes from peers.
    pub inbound: Inbound,
    /// What comes from clients.
    pub commands: mpsc::Receiver<Command>,
    /// The way to the store.
    pub store: Submit,
    /// What the store has done.
    pub stored: mpsc::UnboundedReceiver<Vec<Completion>>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The node has stopped for ever; the process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stopped(pub String);

impl Driver {
    /// Runs the node until `stop` is ready, and then until the store has done what it was given.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Stopped> {
        let mut task = Task {
            requests: HashMap::new(),
            next_request: 1,
            sends: BTreeMap::new(),
            store_pending: 0,
            stopped: None,
            warnings: Repeated::default(),
            d: self,
        };
        let mut stop = pin!(stop);
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed = None;
        task.learn_cluster();
        task.drain();
        loop {
            if let Some(reason) = task.stopped.take() {
                return Err(Stopped(reason));
            }
            // An armed deadline that is too early only costs an idle tick; one too late must move.
            let wanted = task.d.node.poll_timeout();
            if let Some(wanted) = wanted
                && armed.is_none_or(|armed| wanted < armed)
            {
                sleep.as_mut().reset(task.d.clock.deadline(wanted));
                armed = Some(wanted);
            }
            let input = tokio::select! {
                biased;
                () = &mut stop => break,
                Some(change) = task.d.inbound.links.recv() => Waiting::Link(change),
                stored = task.d.stored.recv() => match stored {
                    Some(batch) => Waiting::Stored(batch),
                    None => return Err(Stopped("the store's thread has ended".into())),
                },
                Some((from, messages)) = task.d.inbound.frames.recv() => {
                    Waiting::Frame(from, messages)
                }
                Some(command) = task.d.commands.recv() => Waiting::Command(command),
                () = &mut sleep, if armed.is_some() => {
                    armed = None;
                    Waiting::Deadline
                }
            };
            task.take_all(input);
            task.drain();
        }
        task.finish().await
    }
}

/// One thing that waits for the node.
enum Waiting {
    Link(LinkChange),
    Stored(Vec<Completion>),
    Frame(NodeId, Vec<Message>),
    Command(Command),
    Deadline,
}

/// The run loop's state.
struct Task {
    d: Driver,
    requests: HashMap<RequestId, oneshot::Sender<Result<Reply, RequestError>>>,
    next_request: u64,
    sends: BTreeMap<NodeId, Vec<Message>>,
    store_pending: usize,
    stopped: Option<String>,
    warnings: Repeated,
}

impl Task {
    /// Handles `first` and all that waits beside it, up to a bound.
    fn take_all(&mut self, first: Waiting) {
        // One reading of the clocks serves the batch: it takes microseconds.
        let now = self.d.clock.now();
        let mut taken = self.take(now, first);
        while taken < INPUTS_BEFORE_DRAIN_MAX {
            let Some(next) = self.waiting() else { break };
            taken += self.take(now, next);
        }
        self.d.node.handle(now, Input::Tick);
    }

    /// Links first, so that a peer's messages never come before the news that it is linked.
    fn waiting(&mut self) -> Option<Waiting> {
        if let Ok(change) = self.d.inbound.links.try_recv() {
            return Some(Waiting::Link(change));
        }
        if let Ok(batch) = self.d.stored.try_recv() {
            return Some(Waiting::Stored(batch));
        }
        if let Ok((from, messages)) = self.d.inbound.frames.try_recv() {
            return Some(Waiting::Frame(from, messages));
        }
        self.d.commands.try_recv().ok().map(Waiting::Command)
    }

    /// Gives one thing to the node; returns how many inputs it was.
    fn take(&mut self, now: Now, waiting: Waiting) -> usize {
        let node = &mut self.d.node;
        match waiting {
            Waiting::Link(LinkChange { peer, up }) => {
                node.handle(now, Input::Link { peer, up });
                1
            }
            Waiting::Stored(batch) => {
                let count = batch.len();
                self.store_pending = self.store_pending.saturating_sub(count);
                for (op, result) in batch {
                    node.handle(now, Input::Stored { op, result });
                }
                count
            }
            Waiting::Frame(from, messages) => {
                let count = messages.len();
                for message in messages {
                    node.handle(now, Input::Message { from, message });
                }
                count
            }
            Waiting::Command(Command::Request { request, answer }) => {
                // A client that is gone already is not worth the work.
                if !answer.is_closed() {
                    let id = RequestId(self.next_request);
                    self.next_request += 1;
                    self.requests.insert(id, answer);
                    node.handle(now, Input::Request { id, request });
                }
                1
            }
            Waiting::Command(Command::View { answer }) => {
                answer.send(Box::new(node.view())).ok();
                1
            }
            Waiting::Deadline => 1,
        }
    }

    /// Does what the node wants done; messages to one peer leave together.
    fn drain(&mut self) {
        let mut commands = Vec::new();
        while let Some(output) = self.d.node.poll_output() {
            match output {
                Output::Send { to, message } => self.sends.entry(to).or_default().push(message),
                Output::Peer { id, addresses } => self.d.peers.want(id, addresses),
                Output::Store { op, command } => commands.push((op, command)),
                Output::Reply { id, result } => {
                    // The client may have gone away, which is its right.
                    if let Some(answer) = self.requests.remove(&id) {
                        answer.send(result).ok();
                    }
                }
                Output::Event(event) => self.observe(event),
            }
        }
        if !commands.is_empty() {
            self.store_pending += commands.len();
            (self.d.store)(commands);
        }
        for (&to, messages) in self.sends.iter_mut().filter(|(_, messages)| !messages.is_empty()) {
            self.d.peers.send(to, messages);
        }
    }

    /// The store finishes what it was given; what clients still wait for is unknown to them.
    async fn finish(mut self) -> Result<(), Stopped> {
        let finished = async {
            while self.store_pending > 0 {
                let Some(batch) = self.d.stored.recv().await else { break };
                self.take_all(Waiting::Stored(batch));
                self.drain();
            }
        };
        if tokio::time::timeout(STORE_FINISH_MAX, finished).await.is_err() {
            tracing::warn!(commands = self.store_pending, "the store did not finish in time");
        }
        self.stopped.map_or(Ok(()), |reason| Err(Stopped(reason)))
    }

    /// Links need to know the node's cluster as soon as it has one.
    fn learn_cluster(&mut self) {
        if let Some(cluster) = self.d.node.view().cluster {
            self.d.peers.set_cluster(cluster);
        }
    }

    /// Logs and counts. Levels: error, somebody must act; warn, somebody should look; info, what
    /// changes rarely; debug, what happens for single objects.
    fn observe(&mut self, event: Event) {
        match event {
            Event::Rejected { from, reason } => {
                if let Some(more) = self.warnings.due("rejected") {
                    tracing::warn!(peer = %from, reason, more, "a peer's message was refused");
                }
            }
            Event::Joined { members } => {
                self.learn_cluster();
                let view = self.d.node.view();
                let cluster = view.cluster.map(|id| id.to_string()).unwrap_or_default();
                tracing::info!(
                    cluster,
                    members,
                    partitions = view.partitions,
                    "member of a cluster"
                );
            }
            Event::JoinRefused { reason } => {
                if let Some(more) = self.warnings.due("join refused") {
                    tracing::error!(reason, more, "the cluster does not admit this node");
                }
            }
            Event::LayoutChanged { members } => tracing::info!(members, "the layout changed"),
            Event::Opened => {
                tracing::info!("the cluster holds data; its membership is fixed from now on");
            }
            Event::Suspected { peer, suspected: true } => {
                tracing::warn!(%peer, "a peer does not answer; others stand in for it");
            }
            Event::Suspected { peer, suspected: false } => tracing::info!(%peer, "a peer answers"),
            Event::ReadRepaired { node, key } => tracing::debug!(%node, %key, "read repair"),
            Event::HintStored { owner } => tracing::debug!(%owner, "hint stored"),
            Event::HintDelivered { owner } => tracing::debug!(%owner, "hint delivered"),
            Event::HintDamaged { owner } => {
                tracing::error!(%owner, "a hint's record is damaged; it was set aside");
            }
            Event::Corrupt { partition } => {
                tracing::error!(%partition, "a record is damaged; it is repaired from other nodes");
            }
            Event::Repaired { key } => tracing::info!(%key, "a record was repaired"),
            Event::ReadOnly(true) => {
                tracing::error!("the disk is full: this node takes no writes until there is space");
            }
            Event::ReadOnly(false) => tracing::info!("the disk has space again: writes are taken"),
            Event::LostCommits => tracing::error!(
                "the store opened with less than it had acknowledged: this node vouches only for what was repaired from others"
            ),
            Event::ActorRotated => tracing::info!("this node names writes as a new actor"),
            Event::ManySiblings { key, siblings } => {
                if let Some(more) = self.warnings.due("siblings") {
                    tracing::warn!(%key, siblings, more, "an object has many siblings: its client does not resolve them");
                }
            }
            Event::Completed { kind, ok, elapsed } => {
                self.d.metrics.completed(kind, ok, Duration::from_micros(elapsed.0));
                tracing::trace!(?kind, ok, %elapsed, "completed");
            }
            Event::Stopped { reason } => self.stopped = Some(reason),
            other => tracing::debug!(event = ?other, "event"),
        }
    }
}

/// Keeps warnings that others can cause at will from filling the log.
#[derive(Default)]
struct Repeated(HashMap<&'static str, (Option<std::time::Instant>, u64)>);

impl Repeated {
    /// Whether to log now, and how many were left out since the last time.
    fn due(&mut self, what: &'static str) -> Option<u64> {
        let (last, left_out) = self.0.entry(what).or_default();
        if last.is_some_and(|last| last.elapsed() < REPEATED_WARNING_MIN) {
            *left_out += 1;
            return None;
        }
        *last = Some(std::time::Instant::now());
        Some(std::mem::take(left_out))
    }
}

/// The labels of a finished request: its kind and whether it succeeded.
type Labels = [(&'static str, &'static str); 2];

/// What the task counts; a clone counts in the same place.
#[derive(Clone, Debug)]
pub struct Metrics {
    completed: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 100 µs to 26 s.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 19));
        let completed = Family::new_with_constructor(histogram);
        Self { completed }
    }
}

impl Metrics {
    /// Adds the metrics to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests that this node coordinated, by how long the client waited";
        registry.register("quorate_request_seconds", help, self.completed.clone());
    }

    fn completed(&self, kind: RequestKind, ok: bool, elapsed: Duration) {
        let kind = match kind {
            RequestKind::Get => "get",
            RequestKind::Put => "put",
            RequestKind::Delete => "delete",
            RequestKind::Other => "other",
        };
        let result = if ok { "ok" } else { "failed" };
        let histogram = self.completed.get_or_create(&[("kind", kind), ("result", result)]);
        histogram.observe(elapsed.as_secs_f64());
    }
}
