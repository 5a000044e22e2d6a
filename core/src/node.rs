//! The node: dispatch and wiring. What each input means is decided in the files named after it.

use crate::cluster::Cluster;
use crate::config::{Boot, Config};
use crate::coordinator::Coordinator;
use crate::detector::Detector;
use crate::event::Event;
use crate::hint::Hints;
use crate::id::{NodeId, OpId, RequestId, Run};
use crate::io::{Input, Output, StoreCommand, StoreError, StoreReply};
use crate::message::{Body, Message, Nack, Re, Seq};
use crate::replica::Replica;
use crate::request::{Reply, Request, RequestError};
use crate::rng::Rng;
use crate::time::{Instant, Now};
use crate::timer::{Timer, Timers};
use crate::view::Counters;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// One node of the cluster as a state machine. See the crate's documentation for the run loop and
/// the contract.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) me: NodeId,
    pub(crate) run: Run,
    pub(crate) accept_loss: bool,
    pub(crate) now: Now,
    /// Until then, silence of a peer says nothing about it.
    pub(crate) settled_at: Instant,
    pub(crate) timers: Timers,
    pub(crate) rng: Rng,
    pub(crate) counters: Counters,
    pub(crate) stopped: Option<String>,
    pub(crate) cluster: Cluster,
    pub(crate) detector: Detector,
    pub(crate) replica: Replica,
    pub(crate) coordinator: Coordinator,
    pub(crate) hints: Hints,
    outputs: VecDeque<Output>,
    commands: BTreeMap<OpId, Then>,
    last_op: OpId,
    questions: BTreeMap<Seq, Question>,
    last_seq: Seq,
}

/// What follows a storage command.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// A step of the exclusive work on a key.
    Work(crate::replica::QueueKey),
    /// A read beside others of a key.
    Read(crate::replica::QueueKey, crate::replica::ReadFor),
    /// A change of the cluster's state is durable.
    Cluster(crate::cluster::Saved),
    /// Hints of earlier runs are being counted.
    HintCount,
    /// Hints for an owner are to be delivered.
    HintPage(NodeId),
    /// A page of keys, for a peer or for a listing of our own.
    Keys(crate::coordinator::KeysFor),
}

/// A question to a peer that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) to: NodeId,
    pub(crate) about: About,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An operation that this node coordinates or forwarded.
    Operation(u64),
    /// The repair of a key.
    Repair(u64),
    /// The delivery of a hint.
    Hint,
    /// Whether the cluster is open.
    Open,
}

/// To whom the answer to a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of this node.
    Client(RequestId),
    /// A peer that forwarded it.
    Peer(NodeId, Re),
}

impl Node {
    /// Starts a run of a node. Drain [`Node::poll_output`] afterwards.
    pub fn new(config: Config, boot: Boot, seed: u64, now: Now) -> Self {
        let settled_at = now.monotonic + config.timing.peer_timeout;
        let mut node = Self {
            settled_at,
            config,
            me: boot.node,
            run: boot.run,
            accept_loss: boot.accept_loss,
            now,
            timers: Timers::default(),
            rng: Rng::new(seed),
            counters: Counters::default(),
            stopped: None,
            cluster: Cluster::default(),
            detector: Detector::default(),
            replica: Replica::new(boot.run),
            coordinator: Coordinator::default(),
            hints: Hints::default(),
            outputs: VecDeque::new(),
            commands: BTreeMap::new(),
            last_op: OpId::default(),
            questions: BTreeMap::new(),
            last_seq: 0,
        };
        node.timers.set(Timer::Settled, settled_at);
        node.start_cluster(&boot);
        node.count_hints(None);
        node
    }

    /// Takes one input. Never fails: bad peer input becomes [`Event::Rejected`].
    pub fn handle(&mut self, now: Now, input: Input) {
        // A clock that steps back would move deadlines; time stands still instead.
        self.now = Now { monotonic: self.now.monotonic.max(now.monotonic), wall: now.wall };
        if let Some(reason) = &self.stopped {
            if let Input::Request { id, .. } = input {
                let result = Err(RequestError::Stopped(reason.clone()));
                self.outputs.push_back(Output::Reply { id, result });
            }
            return;
        }
        match input {
            Input::Tick => {}
            Input::Message { from, message } => self.on_message(from, message),
            Input::Link { peer, up } => self.on_link(peer, up),
            Input::Request { id, request } => self.on_request(Origin::Client(id), request),
            Input::Stored { op, result } => self.on_stored(op, result),
        }
        while self.stopped.is_none()
            && let Some(timer) = self.timers.pop_due(self.now.monotonic)
        {
            self.on_timer(timer);
        }
    }

    /// The next output, if any. Never works, only pops a queue.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle` wants an [`Input::Tick`] at the latest. Changes only inside `handle`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped.is_some() { None } else { self.timers.next() }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        self.counters.messages_received += 1;
        if from == self.me {
            self.reject(
                from,
                "it has this node's own identity: a data directory was copied".into(),
            );
            return;
        }
        self.on_heard(from, &message);
        let Message { run, layout, body } = message;
        match body {
            Body::Ping { seq } => self.send(from, Body::Pong { re: Re(run, seq) }),
            Body::Pong { .. } => {}
            Body::Gossip { digest } => self.on_gossip(from, digest),
            Body::State { state, answer } => self.on_state(from, &state, answer),
            Body::Join { node, config } => self.on_join(from, node, config),
            Body::JoinRefused { node, reason } => self.on_join_refused(node, reason),
            Body::Open { seq, write } => self.on_open(from, Re(run, seq), write),
            Body::Opened { re, state } => self.on_opened(from, re, &state),
            Body::Ack { re } => self.on_answer(from, re, Ok(())),
            Body::Nack { re, reason } => self.on_answer(from, re, Err(reason)),
            Body::ReadReply { re, answer } => match self.answered(from, re) {
                Some(About::Operation(op)) => self.on_read_reply(op, from, Ok(answer)),
                Some(About::Repair(id)) => self.on_repair_reply(id, from, answer),
                _ => {}
            },
            Body::ForwardReply { re, result } => {
                if let Some(About::Operation(op)) = self.answered(from, re) {
                    self.on_forward_reply(op, from, result);
                }
            }
            Body::ListPage { re, keys, through } => {
                if let Some(About::Operation(op)) = self.answered(from, re) {
                    self.on_list_reply(op, from, Ok((keys, through)));
                }
            }
            Body::Read { seq, .. }
            | Body::Replicate { seq, .. }
            | Body::StoreHint { seq, .. }
            | Body::DeliverHint { seq, .. }
            | Body::Forward { seq, .. }
            | Body::ListRead { seq, .. } => {
                let re = Re(run, seq);
                match self.check_layout(from, layout) {
                    Ok(()) => self.on_object_message(from, re, body),
                    Err(reason) if matches!(body, Body::Forward { .. }) => {
                        self.refuse_forward(from, re, reason);
                    }
                    Err(reason) => self.send(from, Body::Nack { re, reason }),
                }
            }
        }
    }

    /// Messages about objects, from a member that knows the same layout.
    fn on_object_message(&mut self, from: NodeId, re: Re, body: Body) {
        match body {
            Body::Read { key, .. } => self.on_read(from, re, &key),
            Body::Replicate { key, siblings, .. } => self.on_copy(from, re, key, siblings, false),
            Body::DeliverHint { key, siblings, .. } => self.on_copy(from, re, key, siblings, true),
            Body::StoreHint { owner, key, siblings, .. } => {
                self.on_store_hint(from, re, owner, key, siblings);
            }
            Body::Forward { to, request, timeout, .. } => {
                self.on_forward(from, re, to, request, timeout);
            }
            Body::ListRead { partition, bucket, after, limit, .. } => {
                self.on_list_read(from, re, partition, &bucket, after.as_ref(), limit);
            }
            _ => unreachable!("on_message passes on the messages about objects only"),
        }
    }

    /// A positive or negative answer without content.
    fn on_answer(&mut self, from: NodeId, re: Re, answer: Result<(), Nack>) {
        match self.answered(from, re) {
            Some(About::Operation(op)) => self.on_operation_answer(op, from, answer),
            Some(About::Repair(id)) => {
                self.on_repair_reply(id, from, crate::message::ReadAnswer::Uninformative);
            }
            Some(About::Hint) => self.on_hint_answer(from, re.1, answer),
            Some(About::Open) | None => {}
        }
    }

    fn on_stored(&mut self, op: OpId, result: Result<StoreReply, StoreError>) {
        if let Err(StoreError::Io(reason)) = &result {
            self.stop(format!("{reason}; what is durable is no longer known: check the disk, then start the node again"));
            return;
        }
        match self.commands.remove(&op) {
            None => self.reject(self.me, format!("the store answered command {} twice", op.0)),
            Some(Then::Work(key)) => self.on_work_stored(&key, result),
            Some(Then::Read(key, reader)) => self.on_read_stored(&key, reader, result),
            Some(Then::Cluster(saved)) => self.on_cluster_saved(saved, result.map(|_| ())),
            Some(Then::HintCount) => self.on_hint_count(result),
            Some(Then::HintPage(owner)) => self.on_hint_page(owner, result),
            Some(Then::Keys(reader)) => self.on_keys_scanned(reader, result),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Gossip => self.gossip(),
            Timer::Probe => self.probe(),
            Timer::Join => self.ask_to_join(),
            Timer::Open => self.on_open_timer(),
            Timer::Settled => self.take_early_requests(),
            Timer::Space => self.probe_space(),
            Timer::Hints(owner) => self.on_hint_timer(owner),
            Timer::Operation(op) => self.on_operation_timer(op),
            Timer::Repair(id) => self.on_repair_timer(id),
        }
    }

    // What the other files use.

    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        debug_assert_ne!(to, self.me, "a node does not talk to itself");
        self.counters.messages_sent += 1;
        let message = Message { run: self.run, layout: self.cluster.layout(), body };
        self.outputs.push_back(Output::Send { to, message });
    }

    /// Sends a question and remembers what it is about. The body gets the number.
    pub(crate) fn ask(&mut self, to: NodeId, about: About, body: impl FnOnce(Seq) -> Body) -> Seq {
        self.last_seq += 1;
        let seq = self.last_seq;
        self.questions.insert(seq, Question { to, about });
        self.send(to, body(seq));
        seq
    }

    /// Sends a question whose answer does not matter.
    pub(crate) fn tell(&mut self, to: NodeId, body: impl FnOnce(Seq) -> Body) {
        self.last_seq += 1;
        self.send(to, body(self.last_seq));
    }

    /// The question that this is the first answer to, if it was ours, in this run, to this peer.
    pub(crate) fn answered(&mut self, from: NodeId, re: Re) -> Option<About> {
        let asked = re.0 == self.run && self.questions.get(&re.1).is_some_and(|q| q.to == from);
        if asked { self.questions.remove(&re.1).map(|question| question.about) } else { None }
    }

    /// No answer to this question is wanted any more.
    pub(crate) fn forget_question(&mut self, seq: Seq) {
        self.questions.remove(&seq);
    }

    /// No answer to any question about this is wanted any more.
    pub(crate) fn forget_questions(&mut self, about: About) {
        self.questions.retain(|_, question| question.about != about);
    }

    pub(crate) fn store(&mut self, command: StoreCommand, then: Then) {
        match command {
            StoreCommand::Commit { .. } => self.counters.store_commits += 1,
            _ => self.counters.store_reads += 1,
        }
        self.last_op.0 += 1;
        self.commands.insert(self.last_op, then);
        self.outputs.push_back(Output::Store { op: self.last_op, command });
    }

    pub(crate) fn keep_link(&mut self, id: NodeId, addresses: Vec<String>) {
        self.outputs.push_back(Output::Peer { id, addresses });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn reject(&mut self, from: NodeId, reason: String) {
        self.counters.messages_rejected += 1;
        self.event(Event::Rejected { from, reason });
    }

    /// Answers a client, here or through the peer that forwarded its request.
    pub(crate) fn reply(&mut self, origin: Origin, result: Result<Reply, RequestError>) {
        match origin {
            Origin::Client(id) => {
                self.coordinator.requests -= 1;
                self.outputs.push_back(Output::Reply { id, result });
            }
            Origin::Peer(to, re) => self.send(to, Body::ForwardReply { re, result }),
        }
    }

    /// Stops for ever: nothing that follows a storage failure can be trusted.
    pub(crate) fn stop(&mut self, reason: String) {
        let saving = self.commands.values().filter_map(|then| match then {
            Then::Cluster(saved) => saved.origin(),
            _ => None,
        });
        let waiting: Vec<_> = saving.chain(self.open_origins()).collect();
        for origin in waiting {
            if let Origin::Client(id) = origin {
                let result = Err(RequestError::Stopped(reason.clone()));
                self.outputs.push_back(Output::Reply { id, result });
            }
        }
        self.coordinator.requests = 0;
        self.event(Event::Stopped { reason: reason.clone() });
        self.stopped = Some(reason);
    }

    /// The mutant under test, if any: see [`Mutant`](crate::Mutant).
    #[cfg(feature = "mutants")]
    pub(crate) fn mutant(&self, mutant: crate::config::Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    fn on_request(&mut self, origin: Origin, request: Request) {
        if matches!(origin, Origin::Client(_)) {
            self.coordinator.requests += 1;
            let max = self.config.limits.requests_max;
            if self.coordinator.requests > max {
                self.reply(origin, Err(RequestError::Overloaded(max)));
                return;
            }
        }
        self.take_request(origin, request);
    }
}

/// The value that a read found, once errors that stop the node are dealt with.
pub(crate) fn read_value(result: Result<StoreReply, StoreError>) -> Result<Option<Bytes>, ()> {
    match result {
        Ok(StoreReply::Value { value, .. }) => Ok(value),
        _ => Err(()),
    }
}
