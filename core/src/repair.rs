//! Repairing what this replica cannot vouch for (a damaged record, or any record after the disk
//! lost commits): the key is merged from enough other owners before it takes a change.
//!
//! Invariant: min(N−W+1, N−1) informative owners are asked, so that every write which W owners
//! acknowledged is among what was merged; where that cannot be had, or proves nothing (W=1, N=1),
//! the key stays unrepaired until the operator accepts the loss.

use crate::id::{Key, NodeId};
use crate::message::{Body, ReadAnswer, Seq};
use crate::node::{About, Node};
use crate::replica::{QueueKey, Work};
use crate::siblings::Siblings;
use crate::time::Instant;
use crate::timer::Timer;
use std::collections::BTreeMap;

/// The repairs in progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs {
    last: u64,
    active: BTreeMap<u64, Repair>,
    /// Until when a read does not try again: owners that all lost a key would else start each
    /// other's repairs, over and over.
    failed: BTreeMap<QueueKey, Instant>,
}

/// Failed repairs remembered; while there are more, no read starts one.
const FAILED_MAX: usize = 1_024;

#[derive(Clone, Debug)]
struct Repair {
    queue_key: QueueKey,
    asked: BTreeMap<NodeId, Seq>,
    needed: usize,
    informed: usize,
    merged: Siblings,
}

/// How many informative others prove that nothing is lost; `None`: no number does.
pub(crate) fn others_needed(n: u8, w: u8) -> Option<usize> {
    let others = n.saturating_sub(1);
    let intersecting = (n + 1).saturating_sub(w);
    (others > 0 && intersecting <= others).then_some(usize::from(intersecting.max(1)))
}

impl Node {
    pub(crate) fn start_repair(&mut self, queue_key: &QueueKey, key: &Key, found: Siblings) {
        let owners = self.owners(key);
        let n = owners.len() as u8;
        let w = self.cluster.bucket(key.bucket()).w.of(n);
        let Some(needed) = others_needed(n, w) else {
            let found = self.accept_loss.then_some(found);
            return self.repaired(queue_key, found);
        };
        self.replica.repairs.last += 1;
        let id = self.replica.repairs.last;
        let mut asked = BTreeMap::new();
        let me = self.me;
        for owner in owners.into_iter().filter(|&owner| owner != me) {
            let key = key.clone();
            let seq = self.ask(owner, About::Repair(id), |seq| Body::Read { seq, key });
            asked.insert(owner, seq);
        }
        let queue_key = queue_key.clone();
        let repair = Repair { queue_key, asked, needed, informed: 0, merged: found };
        self.replica.repairs.active.insert(id, repair);
        self.timers.set(Timer::Repair(id), self.now.monotonic + self.config.timing.peer_timeout);
    }

    pub(crate) fn on_repair_reply(&mut self, id: u64, from: NodeId, answer: ReadAnswer) {
        let Some(repair) = self.replica.repairs.active.get_mut(&id) else { return };
        repair.asked.remove(&from);
        if let ReadAnswer::Owner(siblings) = answer {
            repair.merged.merge(&siblings);
            repair.informed += 1;
        }
        if repair.informed >= repair.needed || repair.asked.is_empty() {
            self.end_repair(id);
        }
    }

    /// A read found that this replica cannot vouch for the key.
    pub(crate) fn repair_after_read(&mut self, queue_key: QueueKey, key: &Key) {
        let (now, failed) = (self.now.monotonic, &mut self.replica.repairs.failed);
        if failed.get(&queue_key).is_some_and(|&until| until <= now) || failed.len() >= FAILED_MAX {
            failed.retain(|_, until| *until > now);
        }
        if !failed.contains_key(&queue_key) && failed.len() < FAILED_MAX {
            self.enqueue(queue_key, key, Work::Repair);
        }
    }

    pub(crate) fn on_repair_timer(&mut self, id: u64) {
        self.end_repair(id);
    }

    fn end_repair(&mut self, id: u64) {
        let Some(repair) = self.replica.repairs.active.remove(&id) else { return };
        self.timers.clear(Timer::Repair(id));
        for seq in repair.asked.values() {
            self.forget_question(*seq);
        }
        let enough = repair.informed >= repair.needed;
        let failed = &mut self.replica.repairs.failed;
        if enough {
            failed.remove(&repair.queue_key);
        } else if failed.len() < FAILED_MAX {
            let until = self.now.monotonic + self.config.timing.peer_timeout;
            failed.insert(repair.queue_key.clone(), until);
        }
        self.repaired(&repair.queue_key, enough.then_some(repair.merged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_asks_as_many_as_intersect_every_write_quorum() {
        for (n, w, needed) in [
            (3, 2, Some(2)),
            (3, 3, Some(1)),
            (3, 1, None),
            (5, 3, Some(3)),
            (2, 2, Some(1)),
            (2, 1, None),
            (1, 1, None),
        ] {
            assert_eq!(others_needed(n, w), needed, "N={n} W={w}");
        }
    }
}
