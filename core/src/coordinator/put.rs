//! A write (§4.5): name it with a fresh dot, commit it here and copy it to the first N healthy
//! nodes at once, reply after W durable acks, and see to it that every owner gets it in the end.
//!
//! Invariants: W counts distinct nodes; a copy for an owner that cannot be reached is kept as a
//! hint by a fallback, or by this node if there is none; a failure after anything was sent is
//! *unknown*.

use super::get::LAYOUT_RETRIES_MAX;
use super::{Operation, Plan};
use crate::event::RequestKind;
use crate::id::{Digest, NodeId};
use crate::message::{Body, Nack, Seq};
use crate::node::{About, Node, Origin};
use crate::replica::{MergeFor, Updated, Work};
use crate::request::{Answer, Put, Reply, RequestError};
use crate::siblings::{Siblings, Value};
use crate::tally::{Tally, Verdict};
use crate::time::{Duration, Instant, WallTime};
use crate::timer::Timer;
use crate::version::{Dot, VersionVector};
use std::collections::{BTreeMap, BTreeSet};

/// A write in progress.
#[derive(Clone, Debug)]
pub(super) struct PutOp {
    origin: Origin,
    put: Put,
    plan: Plan,
    started: Instant,
    deadline: Instant,
    timeout: Duration,
    local: Local,
    written: Option<Written>,
    copies: BTreeMap<NodeId, Copy>,
    /// As a fallback: the owner for whom this node's own copy is a hint.
    hint_for: Option<NodeId>,
    replied_at: Option<Instant>,
}

/// This node's own part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Waiting,
    Durable,
    Failed,
}

/// What was written.
#[derive(Clone, Debug)]
struct Written {
    dot: Option<Dot>,
    repeated: bool,
    siblings: Siblings,
}

/// A copy at another node.
#[derive(Clone, Debug)]
struct Copy {
    /// The owner that it is for; the node itself, if it is an owner.
    owner: NodeId,
    state: CopyState,
    layouts: u8,
    seq: Seq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyState {
    Waiting { until: Instant },
    Durable,
    Failed,
}

impl PutOp {
    pub(super) fn waits_for(&self, peer: NodeId) -> bool {
        matches!(self.copies.get(&peer), Some(Copy { state: CopyState::Waiting { .. }, .. }))
    }
    pub(super) fn open_origin(&self) -> Option<Origin> {
        self.replied_at.is_none().then_some(self.origin)
    }
    fn kind(&self) -> RequestKind {
        if self.put.value.is_some() { RequestKind::Put } else { RequestKind::Delete }
    }
    /// The needed acks and primaries, with the parameter that asks for the acks.
    fn needs(&self) -> (u8, u8, &'static str) {
        let (n, props) = (self.plan.n(), &self.plan.props);
        let w = self.put.w.unwrap_or(props.w).of(n).max(1);
        let dw = self.put.dw.unwrap_or(props.dw).of(n);
        let pw = self.put.pw.unwrap_or(props.pw).of(n);
        if dw > w { (dw, pw, "dw") } else { (w, pw, "w") }
    }
    fn tally(&self, me: NodeId) -> Tally {
        let (need, need_primaries, _) = self.needs();
        let mut tally = Tally { need, need_primaries, ..Tally::default() };
        let primary = |node: &NodeId| self.plan.owners.contains(node);
        match self.local {
            Local::Waiting => tally.expect(primary(&me)),
            Local::Durable => tally.count(primary(&me)),
            Local::Failed => {}
        }
        for (node, copy) in &self.copies {
            match copy.state {
                CopyState::Waiting { .. } => tally.expect(primary(node)),
                CopyState::Durable => tally.count(primary(node)),
                CopyState::Failed => {}
            }
        }
        tally
    }
    fn answers(&self, me: NodeId) -> Vec<Answer> {
        let mut answers: Vec<_> = self
            .copies
            .iter()
            .filter(|(_, copy)| copy.state == CopyState::Durable)
            .map(|(&node, _)| node)
            .collect();
        if self.local == Local::Durable {
            answers.push(me);
        }
        answers.sort_unstable();
        let primary = |node: &NodeId| self.plan.owners.contains(node);
        answers.iter().map(|&node| Answer { node, primary: primary(&node), counts: true }).collect()
    }
    fn next_deadline(&self, linger: Duration) -> Instant {
        let end = self.replied_at.map_or(self.deadline, |at| at + linger);
        let waits = self.copies.values().filter_map(|copy| match copy.state {
            CopyState::Waiting { until } => Some(until),
            _ => None,
        });
        waits.chain([end]).min().unwrap_or(end)
    }
}

impl Node {
    pub(super) fn start_put(&mut self, origin: Origin, put: Put, plan: Plan, timeout: Duration) {
        let started = self.now.monotonic;
        let key = put.key.clone();
        let mut op = PutOp {
            origin,
            put,
            plan,
            started,
            deadline: started + timeout,
            timeout,
            local: Local::Waiting,
            written: None,
            copies: BTreeMap::new(),
            hint_for: None,
            replied_at: None,
        };
        if let Err(error) = self.check_reach(&op) {
            return self.complete(origin, op.kind(), started, Err(error));
        }
        // As a fallback, this node keeps its copy for the first owner that it cannot reach.
        let owners = &op.plan.owners;
        let queue = if owners.contains(&self.me) {
            self.object_queue(&key)
        } else {
            if self.hints.is_full(&self.config.limits) || !self.hints.counted() {
                let reason = "it has no room for hints now".into();
                return self.complete(
                    origin,
                    op.kind(),
                    started,
                    Err(RequestError::NotReady(reason)),
                );
            }
            let absent = owners.iter().find(|&&owner| !self.detector.healthy(owner));
            let Some(&owner) = absent else {
                let reason = "it is not an owner and can reach one that is".into();
                return self.complete(
                    origin,
                    op.kind(),
                    started,
                    Err(RequestError::NotReady(reason)),
                );
            };
            op.hint_for = Some(owner);
            self.hint_queue(owner, &key)
        };
        let deadline = op.deadline;
        let id = self.insert(Operation::Put(Box::new(op)));
        self.timers.set(Timer::Operation(id), deadline);
        self.enqueue(queue, &key, Work::Update(id));
    }

    /// Refuses before anything is sent what cannot succeed as far as this node believes.
    fn check_reach(&self, op: &PutOp) -> Result<(), RequestError> {
        let (need, need_primaries, param) = op.needs();
        let reachable = |node: &NodeId| *node == self.me || self.detector.healthy(*node);
        let primaries = op.plan.owners.iter().copied().filter(reachable).count() as u8;
        let nodes = if op.put.sloppy {
            op.plan.walk.iter().copied().filter(reachable).count().min(usize::from(op.plan.n()))
                as u8
        } else {
            primaries
        };
        let (param, need, have) = if primaries < need_primaries {
            ("pw", need_primaries, primaries)
        } else if nodes < need {
            (param, need, nodes)
        } else {
            return Ok(());
        };
        Err(RequestError::Unavailable { param: param.into(), need, have, may_have_happened: false })
    }

    fn put_op(&mut self, op: u64) -> Option<&mut PutOp> {
        match self.coordinator.operations.get_mut(&op) {
            Some(Operation::Put(put)) => Some(put),
            _ => None,
        }
    }

    // Called by the replica when the key's turn has come.

    /// The context under which a write changes a record.
    pub(crate) fn update_context(&mut self, op: u64, record: &Siblings) -> VersionVector {
        let Some(put) = self.put_op(op) else { return VersionVector::default() };
        let key = put.put.key.clone();
        let (sealed, allow_mult) = (put.put.context.clone(), put.plan.props.allow_mult);
        let mut context = sealed
            .filter(|sealed| !sealed.is_empty())
            .and_then(|sealed| self.open_context(&key, &sealed))
            .unwrap_or_default();
        if !allow_mult {
            // The newest wins: a write replaces whatever this replica has.
            context.merge(record.context());
        }
        context
    }

    /// What a write makes of a record; `None` if it is refused, or its operation is over.
    pub(crate) fn update(
        &mut self,
        op: u64,
        mut siblings: Siblings,
        context: &VersionVector,
        dot: Dot,
    ) -> Option<Updated> {
        let (wall, max) = (self.now.wall, self.config.limits.siblings_max);
        let bytes_max = self.config.limits.siblings_bytes_max;
        let put = self.put_op(op)?;
        let refusal = match &put.put.value {
            None => {
                siblings.delete(context);
                return Some(Updated { siblings, dot: None, repeated: false });
            }
            Some(bytes) => {
                let known = put.put.write_id.and_then(|id| siblings.write(id).copied());
                let (kept, kept_bytes) = siblings.kept_by_write(context);
                let (would_be, would_be_bytes) = (kept as u32 + 1, kept_bytes + bytes.len() as u64);
                match known {
                    Some(record) if record.hash == Digest::of(bytes) => {
                        let dot = Some(record.dot);
                        return Some(Updated { siblings, dot, repeated: true });
                    }
                    Some(_) => RequestError::WriteIdReused,
                    None if would_be > max => RequestError::TooManySiblings { would_be, max },
                    None if kept > 0 && would_be_bytes > bytes_max => {
                        RequestError::SiblingsTooLarge { would_be: would_be_bytes, max: bytes_max }
                    }
                    None => {
                        // Where the newest wins, a slow clock must not lose to what it replaces.
                        let newest = siblings
                            .newest()
                            .map_or(0, |(_, value)| value.modified.0.saturating_add(1));
                        let modified = WallTime(wall.0.max(newest));
                        let modified = if put.plan.props.allow_mult { wall } else { modified };
                        let value = Value { bytes: bytes.clone(), modified };
                        siblings.write_value(context, dot, value, put.put.write_id);
                        return Some(Updated { siblings, dot: Some(dot), repeated: false });
                    }
                }
            }
        };
        self.fail_put(op, refusal);
        None
    }

    /// The write is decided: copies may leave before it is durable here, because no later run
    /// counts on under this actor.
    pub(crate) fn send_copies(&mut self, op: u64, updated: Updated) {
        let me = self.me;
        let Some(put) = self.put_op(op) else { return };
        let Updated { siblings, dot, repeated } = updated;
        put.written = Some(Written { dot, repeated, siblings });
        let (owners, mine) = (put.plan.owners.clone(), put.hint_for.unwrap_or(me));
        for owner in owners.into_iter().filter(|&owner| owner != mine) {
            if self.detector.healthy(owner) {
                self.send_copy(op, owner, owner);
            } else {
                self.find_stand_in(op, owner);
            }
        }
    }

    fn send_copy(&mut self, op: u64, node: NodeId, owner: NodeId) {
        let until = self.now.monotonic + self.config.timing.peer_timeout;
        let Some(put) = self.put_op(op) else { return };
        let Some(written) = &put.written else { return };
        let (key, siblings) = (put.put.key.clone(), written.siblings.clone());
        let layouts = put.copies.get(&node).map_or(0, |copy| copy.layouts);
        let seq = self.ask(node, About::Operation(op), |seq| {
            if node == owner {
                Body::Replicate { seq, key, siblings }
            } else {
                Body::StoreHint { seq, owner, key, siblings }
            }
        });
        let linger = self.config.timing.linger;
        if let Some(put) = self.put_op(op) {
            let copy = Copy { owner, state: CopyState::Waiting { until }, layouts, seq };
            put.copies.insert(node, copy);
            let at = put.next_deadline(linger);
            self.timers.set_by(Timer::Operation(op), at);
        }
    }

    /// Another node keeps the copy of an owner that cannot be reached; if none can, this one does,
    /// for the owner's sake: that does not count towards W again.
    fn find_stand_in(&mut self, op: u64, owner: NodeId) {
        let Some(put) = self.put_op(op) else { return };
        let (plan, sloppy, key) = (put.plan.clone(), put.put.sloppy, put.put.key.clone());
        let Some(siblings) = put.written.as_ref().map(|written| written.siblings.clone()) else {
            return;
        };
        let used: BTreeSet<_> = put.copies.keys().copied().collect();
        match self.next_fallback(&plan, &used).filter(|_| sloppy) {
            Some(fallback) => self.send_copy(op, fallback, owner),
            None => self.keep_hint(owner, &key, siblings, MergeFor::Myself),
        }
    }

    /// The write is durable here.
    pub(crate) fn update_durable(&mut self, op: u64) {
        if let Some(put) = self.put_op(op) {
            put.local = Local::Durable;
            self.settle_put(op);
        }
    }

    /// This node cannot commit the write: because it could not vouch for the key (`None`: nothing
    /// was sent), or because the commit failed.
    pub(crate) fn update_failed(&mut self, op: u64, failure: Option<Nack>) {
        let Some(put) = self.put_op(op) else { return };
        put.local = Local::Failed;
        if failure.is_some() {
            return self.settle_put(op);
        }
        let reason = "it lost its copy of the key and cannot restore it from enough others now";
        self.fail_put(op, RequestError::NotReady(reason.into()));
    }

    fn fail_put(&mut self, op: u64, error: RequestError) {
        self.reply_put(op, Err(error));
        self.close(op, None);
    }

    // Answers and time.

    pub(super) fn copy_answered(&mut self, op: u64, from: NodeId, answer: Result<(), Nack>) {
        let Some(put) = self.put_op(op) else { return };
        let Some(copy) = put.copies.get_mut(&from) else { return };
        match answer {
            // A late ack counts like a timely one: the copy is durable there.
            Ok(()) => copy.state = CopyState::Durable,
            Err(Nack::Layout) if copy.layouts < LAYOUT_RETRIES_MAX => {
                copy.layouts += 1;
                let owner = copy.owner;
                return self.send_copy(op, from, owner);
            }
            Err(_) => return self.copy_failed(op, from),
        }
        self.settle_put(op);
    }

    /// It was refused, or not answered in time, or its node is suspected. A late ack still counts.
    pub(super) fn copy_failed(&mut self, op: u64, node: NodeId) {
        let Some(put) = self.put_op(op) else { return };
        let Some(copy) = put.copies.get_mut(&node) else { return };
        if copy.state == CopyState::Failed {
            return;
        }
        copy.state = CopyState::Failed;
        let owner = copy.owner;
        self.find_stand_in(op, owner);
        self.settle_put(op);
    }

    pub(super) fn put_timer(&mut self, op: u64) {
        let now = self.now.monotonic;
        let linger = self.config.timing.linger;
        let Some(put) = self.put_op(op) else { return };
        if put.replied_at.is_none() && now >= put.deadline {
            let sent = put.written.is_some();
            let error = RequestError::Timeout { after: put.timeout, may_have_happened: sent };
            if !sent {
                return self.fail_put(op, error);
            }
            self.reply_put(op, Err(error));
        }
        let Some(put) = self.put_op(op) else { return };
        let over = put.replied_at.is_some_and(|at| now >= at + linger);
        let late: Vec<_> = put
            .copies
            .iter()
            .filter(|(_, copy)| matches!(copy.state, CopyState::Waiting { until } if until <= now))
            .map(|(&node, _)| node)
            .collect();
        for node in late {
            // Suspecting a peer ends every wait for it.
            if self.detector.healthy(node) {
                self.suspect(node);
            }
            self.copy_failed(op, node);
        }
        if over {
            return self.end_put(op);
        }
        self.settle_put(op);
    }

    /// Replies if the quorum is reached or lost, ends the write if nothing more is to come.
    fn settle_put(&mut self, op: u64) {
        let me = self.me;
        let Some(put) = self.put_op(op) else { return };
        let tally = put.tally(me);
        if put.replied_at.is_none() {
            let (_, _, param) = put.needs();
            match tally.verdict() {
                Verdict::Wait => {}
                Verdict::Enough => self.succeed_put(op, tally),
                Verdict::TooFew => self.reply_put(op, Err(lost(param, tally.need, tally.have))),
                Verdict::TooFewPrimaries => {
                    self.reply_put(op, Err(lost("pw", tally.need_primaries, tally.have_primaries)));
                }
            }
        }
        let linger = self.config.timing.linger;
        let Some(put) = self.put_op(op) else { return };
        if put.replied_at.is_some() && tally.pending == 0 {
            return self.end_put(op);
        }
        let at = put.next_deadline(linger);
        self.timers.set(Timer::Operation(op), at);
    }

    fn succeed_put(&mut self, op: u64, tally: Tally) {
        let me = self.me;
        let Some(put) = self.put_op(op) else { return };
        let Some(Written { dot, repeated, siblings }) = put.written.clone() else { return };
        let (key, props, values) = (put.put.key.clone(), put.plan.props, put.put.return_body);
        let (n, answers, started) = (put.plan.n(), put.answers(me), put.started);
        let receipt = self.receipt(n, tally.need, answers, siblings.len(), started);
        let object = self.object(&key, &siblings, &props, values);
        self.reply_put(op, Ok(Reply::Written { dot, repeated, object, receipt }));
    }

    fn reply_put(&mut self, op: u64, result: Result<Reply, RequestError>) {
        let now = self.now.monotonic;
        let Some(put) = self.put_op(op) else { return };
        if put.replied_at.replace(now).is_some() {
            return;
        }
        let (origin, kind, started) = (put.origin, put.kind(), put.started);
        self.complete(origin, kind, started, result);
    }

    fn end_put(&mut self, op: u64) {
        let Some(put) = self.put_op(op) else { return };
        let questions: Vec<_> = put.copies.values().map(|copy| copy.seq).collect();
        self.close(op, questions);
    }
}

fn lost(param: &str, need: u8, have: u8) -> RequestError {
    RequestError::Unavailable { param: param.into(), need, have, may_have_happened: true }
}
