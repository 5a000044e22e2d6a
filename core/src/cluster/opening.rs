//! Opening the cluster: the first write asks the founder, and what is asked before waits here.
//!
//! Invariant: "absent" is said of an object of an empty cluster only if the founder said that it is
//! empty after the question came.

use super::ASK_AGAIN;
use super::founding::{FORGETFUL, Staged};
use crate::id::{LayoutId, NodeId};
use crate::membership::ClusterState;
use crate::message::{Body, Re, Seq};
use crate::node::{About, Node, Origin};
use crate::request::{Receipt, Reply, Request, RequestError};
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// A request waits no longer than this for the founder, whatever its client would endure.
const PARKED_MAX: Duration = Duration::from_secs(30);

/// A request that waits for the opening.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) origin: Origin,
    pub(super) request: Request,
    pub(super) deadline: Instant,
    /// The first question to the founder after this request came: an answer to an earlier one
    /// says nothing about it.
    pub(super) asked: Option<Seq>,
}

impl Node {
    // Opening.

    /// Keeps an object's request until it is known whether objects may exist.
    pub(crate) fn park(&mut self, origin: Origin, request: Request, timeout: Duration) {
        let deadline = self.now.monotonic + timeout.min(PARKED_MAX);
        self.cluster.parked.push(Parked { origin, request, deadline, asked: None });
        if self.cluster.parked.len() == 1 {
            self.timers.set(Timer::Open, self.now.monotonic);
        } else {
            self.timers.set_by(Timer::Open, self.now.monotonic + ASK_AGAIN);
        }
    }

    pub(crate) fn on_open_timer(&mut self) {
        let Some(state) = &self.cluster.state else { return };
        let founder = state.founder;
        let now = self.now.monotonic;
        let (late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cluster.parked).into_iter().partition(|p| p.deadline <= now);
        self.cluster.parked = waiting;
        let forgetful = self.may_have_forgotten();
        for parked in late {
            let error = if forgetful {
                RequestError::NotReady(FORGETFUL.into())
            } else {
                RequestError::NotOpen(founder)
            };
            self.reply(parked.origin, Err(error));
        }
        if self.cluster.parked.is_empty() {
            return self.forget_questions(About::Open);
        }
        let write = self.cluster.parked.iter().any(|p| matches!(p.request, Request::Put(_)));
        if forgetful {
            // Gossip brings the opening from those who know it.
        } else if founder == self.me {
            self.release_reads(Seq::MAX);
            if write {
                self.stage(Staged::Open);
            }
        } else {
            let seq = self.ask(founder, About::Open, |seq| Body::Open { seq, write });
            for parked in &mut self.cluster.parked {
                parked.asked.get_or_insert(seq);
            }
        }
        if let Some(first) = self.cluster.parked.iter().map(|p| p.deadline).min() {
            self.timers.set(Timer::Open, first.min(now + ASK_AGAIN));
        }
    }

    pub(crate) fn on_open(&mut self, from: NodeId, re: Re, write: bool) {
        if !self.is_founder() {
            return self.reject(from, "it takes this node for the cluster's founder".into());
        }
        if self.may_have_forgotten() {
            return;
        }
        if write && !self.cluster.is_open() {
            // The asker hears of it when it is durable: by the state that is spread then.
            return self.stage(Staged::Open);
        }
        if let Some(state) = self.cluster.state.clone() {
            self.send(from, Body::Opened { re, state });
        }
    }

    pub(crate) fn on_opened(&mut self, from: NodeId, re: Re, state: &ClusterState) {
        if self.answered(from, re) == Some(About::Open) {
            self.on_state(from, state, false);
            if !self.cluster.is_open() {
                self.release_reads(re.1);
            }
        }
    }

    /// The founder said in answer to `question` that the cluster is empty: whatever was asked
    /// before is absent.
    pub(super) fn release_reads(&mut self, question: Seq) {
        let (reads, writes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cluster.parked).into_iter().partition(|parked| {
                let before = question == Seq::MAX || parked.asked.is_some_and(|at| at <= question);
                before && !matches!(parked.request, Request::Put(_))
            });
        self.cluster.parked = writes;
        for Parked { origin, request, .. } in reads {
            let reply = match request {
                Request::List(_) => Reply::Keys { keys: Vec::new(), next: None },
                _ => Reply::Absent { receipt: self.empty_receipt() },
            };
            self.reply(origin, Ok(reply));
        }
    }

    pub(super) fn empty_receipt(&self) -> Receipt {
        Receipt {
            coordinator: self.me,
            layout: self.cluster.layout.unwrap_or(LayoutId(0)),
            n: 0,
            needed: 0,
            answers: Vec::new(),
            siblings: 0,
            elapsed: Duration::default(),
        }
    }
}
