//! Coordinating clients' requests (§4.5): who coordinates, and one state machine a request.
//!
//! Invariants: every request is answered exactly once; a healthy primary coordinates, others
//! forward once, and if no primary can be reached a fallback coordinates; a request that came by a
//! forward is never forwarded again.

mod forward;
mod get;
mod list;
mod put;

use crate::config::BucketProps;
use crate::context;
use crate::event::{Event, RequestKind};
use crate::id::{Key, LayoutId, NodeId, Partition};
use crate::message::{Nack, ReadAnswer, Seq};
use crate::node::{Node, Origin};
use crate::request::{Answer, Object, Receipt, Reply, Request, RequestError};
use crate::siblings::Siblings;
use crate::time::{Duration, Instant};
use crate::timer::Timer;
use crate::view::PeerState;
pub(crate) use list::KeysFor;
use std::collections::{BTreeMap, BTreeSet};

/// The operations in progress at this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coordinator {
    /// Clients' requests not answered yet.
    pub(crate) requests: u32,
    /// Clients' requests that came before this run had heard of the owners they concern.
    early: Vec<(Origin, Request)>,
    last: u64,
    operations: BTreeMap<u64, Operation>,
    /// By sender, the forwards that each of its runs sent here, in the order first heard of.
    forwards_seen: BTreeMap<NodeId, Vec<(crate::id::Run, forward::Seen)>>,
}

#[derive(Clone, Debug)]
enum Operation {
    Get(get::GetOp),
    Put(Box<put::PutOp>),
    Forward(forward::ForwardOp),
    List(list::ListOp),
}

/// Where a key lives: its owners (the first N of the preference list) and everyone after them.
#[derive(Clone, Debug)]
struct Plan {
    owners: Vec<NodeId>,
    walk: Vec<NodeId>,
    props: BucketProps,
}

impl Plan {
    fn n(&self) -> u8 {
        self.owners.len() as u8
    }
}

impl Node {
    pub(crate) fn partition(&self, key: &Key) -> Partition {
        key.token().partition(self.cluster.state.as_ref().map_or(1, |state| state.partitions))
    }

    /// The primaries of a key: the first N of its preference list.
    pub(crate) fn owners(&self, key: &Key) -> Vec<NodeId> {
        self.owners_of(self.partition(key), key.bucket())
    }

    fn owners_of(&self, partition: Partition, bucket: &[u8]) -> Vec<NodeId> {
        let walk = self.cluster.ring.preference_list(partition);
        let n = usize::from(self.cluster.bucket(bucket).n_val).min(walk.len());
        walk[..n].to_vec()
    }

    fn plan(&self, key: &Key) -> Plan {
        let props = self.cluster.bucket(key.bucket());
        let walk = self.cluster.ring.preference_list(self.partition(key)).to_vec();
        let n = usize::from(props.n_val).min(walk.len());
        Plan { owners: walk[..n].to_vec(), walk, props }
    }

    /// The next node after the owners that can stand in and is not used yet (§4.6).
    fn next_fallback(&self, plan: &Plan, used: &BTreeSet<NodeId>) -> Option<NodeId> {
        let fallbacks = &plan.walk[plan.owners.len()..];
        fallbacks
            .iter()
            .copied()
            .find(|&node| !used.contains(&node) && node != self.me && self.detector.healthy(node))
    }

    /// Takes a request, from a client or from a peer that forwarded it.
    pub(crate) fn take_request(&mut self, origin: Origin, request: Request) {
        let timeout = match &request {
            Request::GetBucket { bucket } => {
                let props = self.cluster.bucket(bucket);
                return self.reply(origin, Ok(Reply::Bucket(props)));
            }
            Request::SetBucket { bucket, patch } => {
                return self.set_bucket(origin, bucket.clone(), *patch);
            }
            Request::Get(get) => get.timeout,
            Request::Put(put) => put.timeout,
            Request::List(list) => list.timeout,
        };
        let timeout = timeout.unwrap_or(self.config.timing.request_timeout);
        if self.cluster.state.is_none() {
            return self.reply(origin, Err(RequestError::NotMember));
        }
        if !self.cluster.is_open() {
            return self.park(origin, request, timeout);
        }
        let key = match &request {
            Request::Get(get) => get.key.clone(),
            Request::Put(put) => put.key.clone(),
            Request::List(_) => return self.start_list(origin, request, timeout),
            _ => unreachable!("answered above"),
        };
        let plan = self.plan(&key);
        if let Err(error) = self.check_request(&request, &plan) {
            return self.reply(origin, Err(error));
        }
        if self.is_settling(&plan) && matches!(origin, Origin::Client(_)) {
            return self.coordinator.early.push((origin, request));
        }
        let owner = plan.owners.contains(&self.me);
        let able = owner && self.is_ready(&plan.owners);
        let writes = matches!(request, Request::Put(_));
        if able && !(writes && self.cluster.read_only) {
            return self.coordinate(origin, request, plan, timeout);
        }
        if matches!(origin, Origin::Client(_)) {
            return self.start_forward(origin, request, &plan, timeout);
        }
        self.coordinate_forwarded(origin, request, plan, timeout);
    }

    /// In its first moments a run has heard of nobody: a client need not be told that its owners
    /// cannot be reached before they had the time to answer.
    fn is_settling(&self, plan: &Plan) -> bool {
        let unheard =
            |&owner: &NodeId| owner != self.me && self.detector.state(owner) == PeerState::Unknown;
        self.now.monotonic < self.settled_at && plan.owners.iter().any(unheard)
    }

    /// Somebody was heard, or the first moments are over.
    pub(crate) fn take_early_requests(&mut self) {
        for (origin, request) in std::mem::take(&mut self.coordinator.early) {
            self.take_request(origin, request);
        }
    }

    /// A peer chose this node although it is not an able owner in its own eyes.
    fn coordinate_forwarded(
        &mut self,
        origin: Origin,
        request: Request,
        plan: Plan,
        timeout: Duration,
    ) {
        let owner = plan.owners.contains(&self.me);
        let refusal = match &request {
            Request::Put(_) if self.cluster.read_only => Some("its disk is full"),
            Request::Put(_) if owner => Some("it waits to hear from another owner"),
            Request::Put(put) if !put.sloppy => Some("it is not an owner"),
            Request::Put(_) if plan.owners.iter().any(|&node| self.detector.healthy(node)) => {
                Some("it is not an owner and can reach one that is")
            }
            _ => None,
        };
        match refusal {
            Some(reason) => self.reply(origin, Err(RequestError::NotReady(reason.into()))),
            None => self.coordinate(origin, request, plan, timeout),
        }
    }

    fn coordinate(&mut self, origin: Origin, request: Request, plan: Plan, timeout: Duration) {
        self.counters.coordinated += 1;
        match request {
            Request::Get(get) => self.start_get(origin, get, plan, timeout),
            Request::Put(put) => self.start_put(origin, put, plan, timeout),
            _ => unreachable!("only objects have coordinators"),
        }
    }

    /// What can be refused before anyone is asked.
    fn check_request(&self, request: &Request, plan: &Plan) -> Result<(), RequestError> {
        let n = plan.n();
        let asked = match request {
            Request::Get(get) => [("r", get.r), ("pr", get.pr), ("", None)],
            Request::Put(put) => [("w", put.w), ("pw", put.pw), ("dw", put.dw)],
            _ => return Ok(()),
        };
        for (param, need) in asked {
            if let Some(value) = need.map(|need| need.of(n))
                && value > n
            {
                return Err(RequestError::QuorumExceedsN { param: param.into(), value, n });
            }
        }
        if let Request::Put(put) = request
            && let Some(sealed) = &put.context
            && !sealed.is_empty()
            && self.open_context(&put.key, sealed).is_none()
        {
            return Err(RequestError::BadContext);
        }
        Ok(())
    }

    fn open_context(&self, key: &Key, sealed: &[u8]) -> Option<crate::version::VersionVector> {
        context::open(&self.cluster.state.as_ref()?.secret, key, sealed)
    }

    /// An object as its client sees it.
    fn object(&self, key: &Key, siblings: &Siblings, props: &BucketProps, values: bool) -> Object {
        let secret = &self.cluster.state.as_ref().expect("members have a state").secret;
        let shown = match (values, props.allow_mult) {
            (false, _) => Vec::new(),
            (true, true) => siblings.shown(),
            (true, false) => siblings.newest().into_iter().collect(),
        };
        Object {
            values: shown.into_iter().map(|(dot, value)| (dot, value.clone())).collect(),
            context: context::seal(secret, key, siblings.context()),
        }
    }

    fn receipt(
        &self,
        n: u8,
        needed: u8,
        answers: Vec<Answer>,
        siblings: usize,
        started: Instant,
    ) -> Receipt {
        Receipt {
            coordinator: self.me,
            layout: self.cluster.layout().unwrap_or(LayoutId(0)),
            n,
            needed,
            answers,
            siblings: siblings as u32,
            elapsed: self.now.monotonic.since(started),
        }
    }

    /// Answers the client of an operation that this node coordinated.
    fn complete(
        &mut self,
        origin: Origin,
        kind: RequestKind,
        started: Instant,
        result: Result<Reply, RequestError>,
    ) {
        match &result {
            Err(RequestError::Timeout { .. }) => self.counters.timeouts += 1,
            Err(RequestError::Unavailable { .. }) => self.counters.unavailable += 1,
            _ => {}
        }
        match kind {
            RequestKind::Get => self.counters.gets += 1,
            RequestKind::Put => self.counters.puts += 1,
            RequestKind::Delete => self.counters.deletes += 1,
            RequestKind::Other => {}
        }
        let elapsed = self.now.monotonic.since(started);
        self.event(Event::Completed { kind, ok: result.is_ok(), elapsed });
        self.reply(origin, result);
    }

    fn insert(&mut self, operation: Operation) -> u64 {
        self.coordinator.last += 1;
        self.coordinator.operations.insert(self.coordinator.last, operation);
        self.coordinator.last
    }

    fn close(&mut self, op: u64, questions: impl IntoIterator<Item = Seq>) {
        self.timers.clear(Timer::Operation(op));
        self.coordinator.operations.remove(&op);
        for seq in questions {
            self.forget_question(seq);
        }
    }

    // Inputs to operations, passed on to the machine that they are for.

    pub(crate) fn on_read_reply(
        &mut self,
        op: u64,
        from: NodeId,
        answer: Result<ReadAnswer, Nack>,
    ) {
        if let Some(Operation::Get(_)) = self.coordinator.operations.get(&op) {
            self.get_answered(op, from, answer);
        }
    }

    pub(crate) fn on_operation_answer(&mut self, op: u64, from: NodeId, answer: Result<(), Nack>) {
        match (self.coordinator.operations.get(&op), answer) {
            (Some(Operation::Put(_)), answer) => self.copy_answered(op, from, answer),
            (Some(Operation::Get(_)), Err(nack)) => self.get_answered(op, from, Err(nack)),
            (Some(Operation::Forward(_)), Err(nack)) => self.forward_nacked(op, from, nack),
            (Some(Operation::List(_)), Err(nack)) => self.on_list_reply(op, from, Err(nack)),
            _ => {}
        }
    }

    pub(crate) fn on_operation_timer(&mut self, op: u64) {
        match self.coordinator.operations.get(&op) {
            Some(Operation::Get(_)) => self.get_timer(op),
            Some(Operation::Put(_)) => self.put_timer(op),
            Some(Operation::Forward(_)) => self.forward_timer(op),
            Some(Operation::List(_)) => self.list_timer(op),
            None => {}
        }
    }

    /// A peer is suspected: what waits for it need not wait for its deadline.
    pub(crate) fn on_suspected(&mut self, peer: NodeId) {
        let waiting: Vec<u64> = self
            .coordinator
            .operations
            .iter()
            .filter(|(_, operation)| match operation {
                Operation::Get(get) => get.waits_for(peer),
                Operation::Put(put) => put.waits_for(peer),
                Operation::Forward(forward) => forward.waits_for(peer),
                Operation::List(list) => list.waits_for(peer),
            })
            .map(|(&op, _)| op)
            .collect();
        for op in waiting {
            match self.coordinator.operations.get(&op) {
                Some(Operation::Get(_)) => self.get_answered(op, peer, Err(Nack::NotReady)),
                Some(Operation::Put(_)) => self.copy_failed(op, peer),
                Some(Operation::Forward(_)) => self.forward_lost(op),
                Some(Operation::List(_)) => self.on_list_reply(op, peer, Err(Nack::NotReady)),
                None => {}
            }
        }
    }

    /// Everyone who still waits for an answer.
    pub(crate) fn open_origins(&self) -> Vec<Origin> {
        let operations = self.coordinator.operations.values().filter_map(|op| match op {
            Operation::Get(get) => get.open_origin(),
            Operation::Put(put) => put.open_origin(),
            Operation::Forward(forward) => Some(forward.origin),
            Operation::List(list) => Some(list.origin),
        });
        let early = self.coordinator.early.iter().map(|(origin, _)| *origin);
        operations.chain(early).chain(self.cluster.parked_origins()).collect()
    }
}
