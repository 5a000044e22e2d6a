//! A read (§4.5): ask the first N healthy nodes, merge R informative answers, reply, then repair
//! the owners that were stale.
//!
//! Invariants: only informative answers count (an owner that vouches for the key, or a fallback
//! that holds a hint for it); "absent", "deleted" and "fewer than R answered" are three replies.

use super::{Operation, Plan};
use crate::event::{Event, RequestKind};
use crate::id::NodeId;
use crate::message::{Body, Nack, ReadAnswer, Seq};
use crate::node::{About, Node, Origin};
use crate::replica::{MergeFor, ReadFor, Work};
use crate::request::{Answer, Get, Reply, RequestError};
use crate::siblings::Siblings;
use crate::tally::{Tally, Verdict};
use crate::time::{Duration, Instant};
use crate::timer::Timer;
use std::collections::{BTreeMap, BTreeSet};

/// A read in progress.
#[derive(Clone, Debug)]
pub(super) struct GetOp {
    origin: Origin,
    get: Get,
    plan: Plan,
    started: Instant,
    deadline: Instant,
    timeout: Duration,
    asked: BTreeMap<NodeId, Ask>,
    merged: Siblings,
    /// The first questions are still being asked: too early to say that too few are left.
    asking: bool,
    replied_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Ask {
    /// How often this node's layout was not ours.
    layouts: u8,
    state: AskState,
}

#[derive(Clone, Debug)]
enum AskState {
    Waiting { seq: Option<Seq>, until: Instant },
    Informed(Siblings),
    Uninformative,
}

/// How often a question is repeated to a node that had to learn the layout first.
pub(super) const LAYOUT_RETRIES_MAX: u8 = 3;

impl Ask {
    fn seq(&self) -> Option<Seq> {
        match self.state {
            AskState::Waiting { seq, .. } => seq,
            _ => None,
        }
    }
}

impl GetOp {
    pub(super) fn waits_for(&self, peer: NodeId) -> bool {
        matches!(self.asked.get(&peer), Some(Ask { state: AskState::Waiting { .. }, .. }))
    }
    pub(super) fn open_origin(&self) -> Option<Origin> {
        self.replied_at.is_none().then_some(self.origin)
    }
    fn n(&self) -> u8 {
        self.plan.n()
    }
    fn needs(&self) -> (u8, u8) {
        let r = self.get.r.unwrap_or(self.plan.props.r).of(self.n()).max(1);
        (r, self.get.pr.unwrap_or(self.plan.props.pr).of(self.n()))
    }
    fn tally(&self) -> Tally {
        let (need, need_primaries) = self.needs();
        let mut tally = Tally { need, need_primaries, ..Tally::default() };
        let mut absent = Vec::new();
        for (node, ask) in &self.asked {
            let primary = self.plan.owners.contains(node);
            match &ask.state {
                AskState::Waiting { .. } => tally.expect(primary),
                AskState::Uninformative => {}
                AskState::Informed(known) if known.is_absent() && !self.get.notfound_ok => {
                    absent.push(primary);
                }
                AskState::Informed(_) => tally.count(primary),
            }
        }
        // Without `notfound_ok`, "absent" is believed when nobody is left to say otherwise, or
        // when more than half said so and the client is content with that.
        let basic = self.get.basic_quorum && absent.len() > usize::from(self.n() / 2);
        let believed = basic || tally.pending == 0;
        for primary in absent {
            if believed {
                tally.count(primary);
            } else {
                tally.expect(primary);
            }
        }
        tally
    }
    fn answers(&self) -> Vec<Answer> {
        self.asked
            .iter()
            .filter_map(|(&node, ask)| {
                let primary = self.plan.owners.contains(&node);
                match &ask.state {
                    AskState::Waiting { .. } => None,
                    AskState::Informed(_) => Some(Answer { node, primary, counts: true }),
                    AskState::Uninformative => Some(Answer { node, primary, counts: false }),
                }
            })
            .collect()
    }
    fn questions(&self) -> Vec<Seq> {
        self.asked.values().filter_map(Ask::seq).collect()
    }
    fn next_deadline(&self, linger: Duration) -> Instant {
        let end = self.replied_at.map_or(self.deadline, |at| at + linger);
        let waits = self.asked.values().filter_map(|ask| match ask.state {
            AskState::Waiting { until, .. } => Some(until),
            _ => None,
        });
        waits.chain([end]).min().unwrap_or(end)
    }
}

impl Node {
    pub(super) fn start_get(&mut self, origin: Origin, get: Get, plan: Plan, timeout: Duration) {
        let started = self.now.monotonic;
        let op = self.insert(Operation::Get(GetOp {
            origin,
            get,
            plan: plan.clone(),
            started,
            deadline: started + timeout,
            timeout,
            asked: BTreeMap::new(),
            merged: Siblings::default(),
            asking: true,
            replied_at: None,
        }));
        // This node last: its own answer may come at once and complete the read.
        let (mine, others): (Vec<_>, Vec<_>) =
            plan.owners.iter().copied().partition(|&owner| owner == self.me);
        for owner in others {
            if self.detector.healthy(owner) {
                self.ask_reader(op, owner);
            } else {
                self.ask_stand_in(op);
            }
        }
        for me in mine {
            self.ask_reader(op, me);
        }
        if let Some(get) = self.get_op(op) {
            get.asking = false;
        }
        self.settle_get(op);
    }

    fn get_op(&mut self, op: u64) -> Option<&mut GetOp> {
        match self.coordinator.operations.get_mut(&op) {
            Some(Operation::Get(get)) => Some(get),
            _ => None,
        }
    }

    fn ask_reader(&mut self, op: u64, node: NodeId) {
        let until = self.now.monotonic + self.config.timing.peer_timeout;
        let me = self.me;
        let Some(get) = self.get_op(op) else { return };
        let (key, owners) = (get.get.key.clone(), get.plan.owners.clone());
        let layouts = get.asked.get(&node).map_or(0, |ask| ask.layouts);
        let state = AskState::Waiting { seq: None, until };
        get.asked.insert(node, Ask { layouts, state });
        if node == me {
            let reader = ReadFor::Operation(op);
            if owners.contains(&me) {
                self.read_as_owner(&key, &owners, reader);
            } else {
                self.read_hints(&key, &owners, reader);
            }
            return;
        }
        let asked = self.ask(node, About::Operation(op), |seq| Body::Read { seq, key });
        if let Some(get) = self.get_op(op)
            && let Some(Ask { state: AskState::Waiting { seq, .. }, .. }) = get.asked.get_mut(&node)
        {
            *seq = Some(asked);
        }
    }

    /// Asks the next fallback in the place of an owner that cannot be reached.
    fn ask_stand_in(&mut self, op: u64) {
        let Some(get) = self.get_op(op) else { return };
        if !get.get.sloppy {
            return;
        }
        let plan = get.plan.clone();
        let used: BTreeSet<_> = get.asked.keys().copied().collect();
        // This node may hold hints itself, and asking it costs nothing.
        let me = (!plan.owners.contains(&self.me) && !used.contains(&self.me)).then_some(self.me);
        if let Some(node) = me.or_else(|| self.next_fallback(&plan, &used)) {
            self.ask_reader(op, node);
        }
    }

    pub(super) fn get_answered(&mut self, op: u64, from: NodeId, answer: Result<ReadAnswer, Nack>) {
        let Some(get) = self.get_op(op) else { return };
        let Some(ask) = get.asked.get_mut(&from) else { return };
        if !matches!(ask.state, AskState::Waiting { .. }) {
            return;
        }
        match answer {
            Ok(ReadAnswer::Owner(siblings) | ReadAnswer::Hint(siblings)) => {
                get.merged.merge(&siblings);
                ask.state = AskState::Informed(siblings);
            }
            Err(Nack::Layout) if ask.layouts < LAYOUT_RETRIES_MAX => {
                ask.layouts += 1;
                return self.ask_reader(op, from);
            }
            Ok(ReadAnswer::Uninformative) | Err(_) => {
                let unanswered = ask.seq();
                ask.state = AskState::Uninformative;
                if let Some(seq) = unanswered {
                    self.forget_question(seq);
                }
                let Some(get) = self.get_op(op) else { return };
                if get.replied_at.is_none() {
                    self.ask_stand_in(op);
                }
            }
        }
        self.settle_get(op);
    }

    pub(super) fn get_timer(&mut self, op: u64) {
        let now = self.now.monotonic;
        let linger = self.config.timing.linger;
        let Some(get) = self.get_op(op) else { return };
        if get.replied_at.is_none() && now >= get.deadline {
            let after = get.timeout;
            self.reply_get(op, Err(RequestError::Timeout { after, may_have_happened: false }));
        } else if get.replied_at.is_some_and(|at| now >= at + linger) {
            return self.end_get(op);
        }
        let Some(get) = self.get_op(op) else { return };
        let late: Vec<_> = get
            .asked
            .iter()
            .filter(|(_, ask)| matches!(ask.state, AskState::Waiting { until, .. } if until <= now))
            .map(|(&node, _)| node)
            .collect();
        for node in late {
            // Suspecting a peer ends every wait for it; our own store is only slow.
            if node == self.me || !self.detector.healthy(node) {
                self.get_answered(op, node, Err(Nack::NotReady));
            } else {
                self.suspect(node);
            }
        }
        self.settle_get(op);
    }

    /// Replies if the quorum is reached or lost, ends the read if nothing more is to come.
    fn settle_get(&mut self, op: u64) {
        let Some(get) = self.get_op(op) else { return };
        if get.asking {
            return;
        }
        let tally = get.tally();
        if get.replied_at.is_none() {
            let (key, n, have) = (get.get.key.clone(), get.n(), tally.have);
            let result = match tally.verdict() {
                Verdict::Wait => None,
                Verdict::Enough => {
                    let (merged, props, started) =
                        (get.merged.clone(), get.plan.props, get.started);
                    let answers = get.answers();
                    let receipt = self.receipt(n, tally.need, answers, merged.len(), started);
                    let object = self.object(&key, &merged, &props, true);
                    Some(Ok(if merged.is_absent() {
                        Reply::Absent { receipt }
                    } else if merged.is_tombstone() {
                        Reply::Deleted { context: object.context, receipt }
                    } else {
                        Reply::Found { object, receipt }
                    }))
                }
                Verdict::TooFew => Some(Err(unavailable("r", tally.need, have))),
                Verdict::TooFewPrimaries => {
                    Some(Err(unavailable("pr", tally.need_primaries, tally.have_primaries)))
                }
            };
            if let Some(result) = result {
                self.reply_get(op, result);
            }
        }
        let linger = self.config.timing.linger;
        let Some(get) = self.get_op(op) else { return };
        if get.replied_at.is_some() && tally.pending == 0 {
            return self.end_get(op);
        }
        let at = get.next_deadline(linger);
        self.timers.set(Timer::Operation(op), at);
    }

    fn reply_get(&mut self, op: u64, result: Result<Reply, RequestError>) {
        let now = self.now.monotonic;
        let Some(get) = self.get_op(op) else { return };
        get.replied_at = Some(now);
        let (origin, started) = (get.origin, get.started);
        self.complete(origin, RequestKind::Get, started, result);
    }

    /// Read repair (§5): owners that answered with less than all get the whole.
    fn end_get(&mut self, op: u64) {
        let Some(get) = self.get_op(op).cloned() else { return };
        self.close(op, get.questions());
        for (node, ask) in get.asked {
            let AskState::Informed(known) = ask.state else { continue };
            if known == get.merged || !get.plan.owners.contains(&node) {
                continue;
            }
            self.counters.read_repairs += 1;
            let key = get.get.key.clone();
            self.event(Event::ReadRepaired { node, key: key.clone() });
            let siblings = get.merged.clone();
            if node == self.me {
                let queue = self.object_queue(&key);
                self.enqueue(queue, &key, Work::Merge(siblings, MergeFor::Myself));
            } else {
                self.tell(node, |seq| Body::Replicate { seq, key, siblings });
            }
        }
    }
}

fn unavailable(param: &str, need: u8, have: u8) -> RequestError {
    RequestError::Unavailable { param: param.into(), need, have, may_have_happened: false }
}
