//! Passing a request on to a node that can coordinate it (§4.5).
//!
//! Invariants: a forward is addressed to a run, and a run executes it once however often the
//! network repeats it; another candidate is tried only where that is harmless: after a refusal, for
//! a read, or for a write with a write id.

use super::get::LAYOUT_RETRIES_MAX;
use super::{Operation, Plan};
use crate::id::{NodeId, Run};
use crate::message::{Body, Nack, Re, Seq};
use crate::node::{About, Node, Origin};
use crate::request::{Reply, Request, RequestError};
use crate::time::{Duration, Instant};
use crate::timer::Timer;
use std::collections::BTreeSet;

/// A request on its way to its coordinator.
#[derive(Clone, Debug)]
pub(super) struct ForwardOp {
    pub(super) origin: Origin,
    request: Request,
    tried: BTreeSet<NodeId>,
    current: Option<(NodeId, Seq)>,
    /// The run that the current candidate was addressed in.
    run: Run,
    timeout: Duration,
    deadline: Instant,
    /// Was it sent somewhere that may have executed it?
    in_doubt: bool,
    /// How often a candidate had to learn the layout first.
    layouts: u8,
}

/// The forwards of one sender's run that were executed: all up to `floor`, and some above.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    floor: Seq,
    above: BTreeSet<Seq>,
}

/// How many runs of one sender are told apart; a message outlives far fewer restarts.
const RUNS_REMEMBERED_MAX: usize = 64;

impl ForwardOp {
    pub(super) fn waits_for(&self, peer: NodeId) -> bool {
        self.current.is_some_and(|(node, _)| node == peer)
    }
    fn repeatable(&self) -> bool {
        match &self.request {
            Request::Put(put) => put.write_id.is_some(),
            _ => true,
        }
    }
}

impl Node {
    pub(super) fn start_forward(
        &mut self,
        origin: Origin,
        request: Request,
        plan: &Plan,
        timeout: Duration,
    ) {
        self.counters.forwarded += 1;
        let deadline = self.now.monotonic + timeout;
        let tried = BTreeSet::from([self.me]);
        let forward = ForwardOp {
            origin,
            request,
            tried,
            current: None,
            run: self.run,
            timeout,
            deadline,
            in_doubt: false,
            layouts: 0,
        };
        let op = self.insert(Operation::Forward(forward));
        self.forward_next(op, plan);
    }

    /// Tries the next candidate: healthy owners first, then whoever stands in for them.
    fn forward_next(&mut self, op: u64, plan: &Plan) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op) else {
            return;
        };
        let sloppy = match &forward.request {
            Request::Get(_) => true,
            Request::Put(put) => put.sloppy,
            _ => false,
        };
        let eligible =
            |node: &NodeId| !forward.tried.contains(node) && self.detector.healthy(*node);
        let owner = plan.owners.iter().copied().find(eligible);
        let reads = matches!(forward.request, Request::Get(_));
        // If no primary is reachable a fallback coordinates: this node, if it is among those that
        // would keep the hints, else the first that is. A read needs no place in the list.
        let stand_ins: Vec<_> = plan.walk[plan.owners.len()..]
            .iter()
            .copied()
            .filter(|&node| node == self.me || self.detector.healthy(node))
            .take(plan.owners.len())
            .collect();
        // What an earlier candidate may have executed is not tried here: a refusal by this node
        // would have to remember the doubt.
        let here = owner.is_none()
            && sloppy
            && !forward.in_doubt
            && (reads || (stand_ins.contains(&self.me) && !self.cluster.read_only));
        if here {
            let forward = forward.clone();
            self.close(op, None);
            let timeout = forward.deadline.since(self.now.monotonic);
            return self.coordinate(forward.origin, forward.request, plan.clone(), timeout);
        }
        let next = owner.or_else(|| sloppy.then(|| stand_ins.iter().copied().find(eligible))?);
        let Some(next) = next else { return self.forward_failed(op, plan) };
        let run = self.detector.run(next).expect("a healthy node has been heard");
        // Who is given up on must not execute it long after someone else did: by then the value
        // may be replaced, and would come back.
        let patience = self.now.monotonic + self.config.timing.peer_timeout;
        let at =
            if forward.repeatable() { patience.min(forward.deadline) } else { forward.deadline };
        let timeout = at.since(self.now.monotonic);
        let request = forward.request.clone();
        let seq = self.ask(next, About::Operation(op), |seq| Body::Forward {
            seq,
            to: run,
            request,
            timeout,
        });
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get_mut(&op) else {
            return;
        };
        forward.current = Some((next, seq));
        forward.run = run;
        forward.tried.insert(next);
        self.timers.set(Timer::Operation(op), at);
    }

    fn forward_failed(&mut self, op: u64, plan: &Plan) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op) else {
            return;
        };
        let (param, need) = match &forward.request {
            Request::Put(put) => ("w", put.w.unwrap_or(plan.props.w)),
            Request::Get(get) => ("r", get.r.unwrap_or(plan.props.r)),
            _ => return,
        };
        let error = RequestError::Unavailable {
            param: param.into(),
            need: need.of(plan.n()).max(1),
            have: 0,
            may_have_happened: forward.in_doubt && param == "w",
        };
        self.end_forward(op, Err(error));
    }

    fn end_forward(&mut self, op: u64, result: Result<Reply, RequestError>) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op) else {
            return;
        };
        let (origin, current) = (forward.origin, forward.current);
        // A refusal by one candidate says nothing of an earlier one that may have executed it.
        let result = match result {
            Err(error) if forward.in_doubt && !error.is_unknown() => {
                Err(RequestError::Timeout { after: forward.timeout, may_have_happened: true })
            }
            result => result,
        };
        self.close(op, current.map(|(_, seq)| seq));
        self.reply(origin, result);
    }

    pub(crate) fn on_forward_reply(
        &mut self,
        op: u64,
        from: NodeId,
        result: Result<Reply, RequestError>,
    ) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op) else {
            return;
        };
        if !forward.waits_for(from) {
            return;
        }
        if matches!(result, Err(RequestError::NotReady(_))) {
            return self.forward_refused(op);
        }
        self.end_forward(op, result);
    }

    /// The candidate did not take it. One that had to learn the layout first (that the cluster was
    /// opened a moment ago, say) is asked again.
    pub(super) fn forward_nacked(&mut self, op: u64, from: NodeId, nack: Nack) {
        // A refusal by another run says nothing of the one that was asked: it may have executed
        // the request before it ended, if the network repeated it.
        if let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op)
            && self.detector.run(from) != Some(forward.run)
        {
            return self.forward_lost(op);
        }
        if nack == Nack::Layout
            && let Some(Operation::Forward(forward)) = self.coordinator.operations.get_mut(&op)
            && forward.layouts < LAYOUT_RETRIES_MAX
        {
            forward.layouts += 1;
            forward.tried.remove(&from);
        }
        self.forward_refused(op);
    }

    /// The candidate did not execute it: another one may.
    pub(super) fn forward_refused(&mut self, op: u64) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get_mut(&op) else {
            return;
        };
        forward.current = None;
        let key = match &forward.request {
            Request::Get(get) => get.key.clone(),
            Request::Put(put) => put.key.clone(),
            _ => return,
        };
        let plan = self.plan(&key);
        self.forward_next(op, &plan);
    }

    /// The candidate may have executed it or not.
    pub(super) fn forward_lost(&mut self, op: u64) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get_mut(&op) else {
            return;
        };
        let writes = matches!(forward.request, Request::Put(_));
        forward.in_doubt |= writes;
        if forward.repeatable() {
            if let Some((_, seq)) = forward.current.take() {
                self.forget_question(seq);
            }
            return self.forward_refused(op);
        }
        let error = RequestError::Timeout { after: forward.timeout, may_have_happened: true };
        self.end_forward(op, Err(error));
    }

    pub(super) fn forward_timer(&mut self, op: u64) {
        let Some(Operation::Forward(forward)) = self.coordinator.operations.get(&op) else {
            return;
        };
        if self.now.monotonic >= forward.deadline {
            let writes = matches!(forward.request, Request::Put(_));
            let error = RequestError::Timeout { after: forward.timeout, may_have_happened: writes };
            return self.end_forward(op, Err(error));
        }
        match forward.current {
            // Suspecting the candidate ends the wait of everyone who waits for it, this one too.
            Some((node, _)) if self.detector.healthy(node) => self.suspect(node),
            _ => self.forward_lost(op),
        }
    }

    /// A peer forwards a client's request to this node.
    pub(crate) fn on_forward(
        &mut self,
        from: NodeId,
        re: Re,
        to: Run,
        request: Request,
        timeout: Duration,
    ) {
        if to != self.run {
            return self.send(from, Body::Nack { re, reason: Nack::OtherRun });
        }
        if !self.first_time(from, re) {
            return;
        }
        let request = match request {
            Request::Get(get) => {
                Request::Get(crate::request::Get { timeout: Some(timeout), ..get })
            }
            Request::Put(put) => {
                Request::Put(crate::request::Put { timeout: Some(timeout), ..put })
            }
            _ => return self.reject(from, "it forwards a request that nobody forwards".into()),
        };
        self.take_request(Origin::Peer(from, re), request);
    }

    /// Refuses a forward, which is then not executed either should the network repeat it.
    pub(crate) fn refuse_forward(&mut self, from: NodeId, re: Re, reason: Nack) {
        if self.first_time(from, re) {
            self.send(from, Body::Nack { re, reason });
        }
    }

    /// Remembers a forward; false if this one came before, or may have.
    fn first_time(&mut self, from: NodeId, re: Re) -> bool {
        let max = self.config.limits.forwards_remembered_max as usize;
        let runs = self.coordinator.forwards_seen.entry(from).or_default();
        let at = runs.iter().position(|(run, _)| *run == re.0).unwrap_or_else(|| {
            if runs.len() >= RUNS_REMEMBERED_MAX {
                runs.remove(0);
            }
            runs.push((re.0, Seen::default()));
            runs.len() - 1
        });
        let seen = &mut runs[at].1;
        if re.1 <= seen.floor || !seen.above.insert(re.1) {
            return false;
        }
        while seen.above.len() > max {
            seen.floor = seen.above.pop_first().unwrap_or(seen.floor);
        }
        true
    }
}
