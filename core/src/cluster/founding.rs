//! What only the founder decides while the cluster is empty: who is admitted, when it opens, and
//! the buckets' rules until then.
//!
//! Invariant: one durable change after the other; nobody hears of a change before it is durable.

use super::{ASK_AGAIN, Saved};
use crate::config::{BucketPatch, BucketProps, MemberConfig, N_VAL_MAX};
use crate::event::Event;
use crate::id::{NodeId, check_name};
use crate::membership::{BUCKETS_MAX, BucketRecord, MemberRecord};
use crate::message::Body;
use crate::node::{Node, Origin};
use crate::request::RequestError;
use crate::timer::Timer;
use bytes::Bytes;
use std::collections::BTreeSet;

/// A change that only the founder makes.
#[derive(Clone, Debug)]
pub(super) enum Staged {
    Admit(NodeId, MemberConfig),
    Open,
    Bucket(Origin, Bytes, BucketPatch),
}

impl Node {
    // The founder's changes, one after the other.

    pub(super) fn stage(&mut self, change: Staged) {
        // Joiners and those who wait for the opening ask again and again: once is enough.
        let waits = match &change {
            Staged::Open => self.cluster.changes.iter().any(|c| matches!(c, Staged::Open)),
            Staged::Admit(node, _) => {
                let admits = self.cluster.changes.iter().filter_map(|c| match c {
                    Staged::Admit(node, _) => Some(*node),
                    _ => None,
                });
                let waiting: BTreeSet<_> = admits.collect();
                let max = self.config.limits.members_max as usize;
                waiting.contains(node) || waiting.len() >= max
            }
            Staged::Bucket(..) => false,
        };
        if !waits {
            self.cluster.changes.push_back(change);
        }
        self.stage_next();
    }

    pub(super) fn stage_next(&mut self) {
        while self.cluster.staged.is_none()
            && let Some(change) = self.cluster.changes.pop_front()
        {
            let Some(mut next) = self.cluster.state.clone() else { return };
            let stamp = next.next_change(self.me);
            let saved = match change {
                Staged::Admit(node, config) => {
                    let full = next.members.len() >= self.config.limits.members_max as usize;
                    if next.open.is_some() || next.members.contains_key(&node) || full {
                        continue;
                    }
                    next.members.insert(node, MemberRecord { config, change: stamp });
                    Saved::Staged(None, Bytes::new())
                }
                Staged::Open => {
                    if next.open.is_some() {
                        continue;
                    }
                    next.open = Some(next.layout());
                    Saved::Staged(None, Bytes::new())
                }
                Staged::Bucket(origin, bucket, patch) => {
                    if next.open.is_some() {
                        self.reply(origin, Err(n_val_fixed()));
                        continue;
                    }
                    next.buckets.insert(bucket.clone(), BucketRecord { patch, change: stamp });
                    Saved::Staged(Some(origin), bucket)
                }
            };
            self.cluster.staged = Some(next);
            self.save_cluster(saved);
        }
    }

    pub(super) fn is_founder(&self) -> bool {
        self.cluster.state.as_ref().is_some_and(|state| state.founder == self.me)
    }

    /// A founder that lost commits may have lost the cluster's opening, or a member: it decides
    /// nothing about an empty cluster before a member or the operator has told it more.
    pub(super) fn may_have_forgotten(&self) -> bool {
        self.is_founder() && !self.cluster.is_open() && self.cluster.standing.lost_before.is_some()
    }

    // Joining.

    pub(crate) fn ask_to_join(&mut self) {
        if self.cluster.state.is_some() {
            return;
        }
        let peers: Vec<_> = self.detector.linked().collect();
        for peer in peers {
            let config = self.config.member.clone();
            self.send(peer, Body::Join { node: self.me, config });
        }
        self.timers.set(Timer::Join, self.now.monotonic + ASK_AGAIN);
    }

    pub(crate) fn on_join(&mut self, from: NodeId, node: NodeId, config: MemberConfig) {
        let Some(state) = &self.cluster.state else { return };
        let refuse = |reason: &str| Body::JoinRefused { node, reason: reason.into() };
        if state.members.contains_key(&node) {
            let state = state.clone();
            self.send(from, Body::State { state, answer: false });
        } else if state.open.is_some() {
            self.send(from, refuse("the cluster holds objects already, and this version cannot move them to a new member: join before the first write"));
        } else if state.members.len() >= self.config.limits.members_max as usize {
            self.send(from, refuse("the cluster has as many members as its limit allows"));
        } else if config.weight == 0 {
            self.send(from, refuse("a member's weight is at least 1"));
        } else if self.may_have_forgotten() {
            self.send(from, refuse(FORGETFUL));
        } else if self.is_founder() {
            self.stage(Staged::Admit(node, config));
        } else if state.founder != from {
            let founder = state.founder;
            self.send(founder, Body::Join { node, config });
        }
    }

    pub(crate) fn on_join_refused(&mut self, node: NodeId, reason: String) {
        if node == self.me && self.cluster.state.is_none() {
            self.event(Event::JoinRefused { reason });
        } else if self.detector.linked().any(|peer| peer == node) {
            self.send(node, Body::JoinRefused { node, reason });
        }
    }

    // Buckets.

    pub(crate) fn set_bucket(&mut self, origin: Origin, bucket: Bytes, patch: Option<BucketPatch>) {
        let Some(state) = &self.cluster.state else {
            return self.reply(origin, Err(RequestError::NotMember));
        };
        let before = state.buckets.get(&bucket).map(|record| record.patch).unwrap_or_default();
        let next = patch.map_or_else(BucketPatch::default, |patch| merge_patches(before, patch));
        let props = BucketProps::default().patched(next);
        let refusal = if let Err(error) = check_name("bucket", &bucket) {
            Some(RequestError::Refused(error.to_string()))
        } else if !(1..=N_VAL_MAX).contains(&props.n_val) {
            Some(RequestError::Refused(format!("n_val is 1 to {N_VAL_MAX}, not {}", props.n_val)))
        } else if let Some((param, value)) = props.excess() {
            Some(RequestError::QuorumExceedsN { param: param.into(), value, n: props.n_val })
        } else if !state.buckets.contains_key(&bucket) && state.buckets.len() >= BUCKETS_MAX {
            Some(RequestError::Refused(format!(
                "{BUCKETS_MAX} buckets have rules of their own already, which is the limit: reset one"
            )))
        } else if self.cluster.read_only {
            Some(RequestError::ReadOnly)
        } else if state.open.is_some() {
            (next.n_val != before.n_val).then(n_val_fixed)
        } else if self.may_have_forgotten() {
            Some(RequestError::Refused(FORGETFUL.into()))
        } else if state.founder == self.me {
            return self.stage(Staged::Bucket(origin, bucket, next));
        } else {
            Some(RequestError::Refused(format!(
                "before the first write, buckets are set at the founding node {}",
                state.founder
            )))
        };
        if let Some(error) = refusal {
            return self.reply(origin, Err(error));
        }
        if let Some(state) = &mut self.cluster.state {
            let change = state.next_change(self.me);
            state.buckets.insert(bucket.clone(), BucketRecord { patch: next, change });
        }
        self.adopt();
        self.save_cluster(Saved::Bucket(origin, bucket));
    }
}

pub(super) const FORGETFUL: &str = "the founding node lost commits and may have forgotten that the cluster holds objects: start the other members, or start the founding node with --accept-loss";

fn n_val_fixed() -> RequestError {
    RequestError::Refused(
        "n_val cannot change once the cluster holds objects: this version does not move them"
            .into(),
    )
}

fn merge_patches(old: BucketPatch, new: BucketPatch) -> BucketPatch {
    BucketPatch {
        n_val: new.n_val.or(old.n_val),
        r: new.r.or(old.r),
        w: new.w.or(old.w),
        pr: new.pr.or(old.pr),
        pw: new.pw.or(old.pw),
        dw: new.dw.or(old.dw),
        allow_mult: new.allow_mult.or(old.allow_mult),
    }
}
