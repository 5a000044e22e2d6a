//! Deadlines: one enum of everything that waits for time, and the queue of them.
//!
//! Invariant: a timer is set at most once; setting it again moves it. Nothing fires that was
//! cleared, so handlers need not guess whether they are late.

use crate::id::NodeId;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// What waits for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Gossip with a random member.
    Gossip,
    /// Ping suspected members.
    Probe,
    /// Ask again to be admitted.
    Join,
    /// Ask the founder again about the cluster being open, and give up on those that waited.
    Open,
    /// The run's first moments are over.
    Settled,
    /// See whether a full disk has space again.
    Space,
    /// Look for hints that can be delivered to this owner.
    Hints(NodeId),
    /// A coordinator's next deadline: of a peer, of its client, or of its lingering.
    Operation(u64),
    /// Give up on repairing a key.
    Repair(u64),
}

/// The deadlines in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets or moves a timer.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.clear(timer);
        self.at.insert(timer, at);
        self.order.insert((at, timer));
    }
    /// Sets a timer unless it would fire earlier already.
    pub(crate) fn set_by(&mut self, timer: Timer, at: Instant) {
        if self.at.get(&timer).is_none_or(|&set| at < set) {
            self.set(timer, at);
        }
    }
    /// Forgets a timer.
    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }
    /// Takes the next timer that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let &(at, timer) = self.order.first()?;
        (at <= now).then(|| {
            self.clear(timer);
            timer
        })
    }
    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_in_order_and_not_when_moved_or_cleared() {
        let mut timers = Timers::default();
        timers.set(Timer::Gossip, Instant(5));
        timers.set(Timer::Probe, Instant(3));
        timers.set(Timer::Join, Instant(1));
        timers.set(Timer::Join, Instant(9));
        timers.set_by(Timer::Gossip, Instant(7));
        timers.clear(Timer::Probe);
        assert_eq!(timers.next(), Some(Instant(5)));
        assert_eq!(timers.pop_due(Instant(4)), None);
        assert_eq!(timers.pop_due(Instant(10)), Some(Timer::Gossip));
        assert_eq!(timers.pop_due(Instant(10)), Some(Timer::Join));
        assert_eq!(timers.pop_due(Instant(10)), None);
        assert_eq!(timers.next(), None);
    }
}
