//! The network between hosts: delay, loss, repetition, reordering, cuts in one or both directions.
//!
//! Invariant: nothing is delivered over a cut, and everything else is delivered late, twice or not
//! at all as the seed says; reordering follows from each message drawing its own delay.

use crate::rng::Rng;
use std::collections::BTreeMap;

/// A host's position in the world.
pub type HostIndex = usize;

/// How the network behaves in one run. Times in microseconds.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// The usual delay, from and to.
    pub delay: (u64, u64),
    /// How many of a thousand messages take very long.
    pub spikes_per_mille: u32,
    /// How long those take at most.
    pub spike_max: u64,
    /// How many of a thousand messages are lost.
    pub loss_per_mille: u32,
    /// How many of a thousand messages arrive twice.
    pub repeats_per_mille: u32,
}

impl NetworkPlan {
    /// Quick, and loses nothing.
    pub const PERFECT: Self = Self {
        delay: (200, 1_000),
        spikes_per_mille: 0,
        spike_max: 0,
        loss_per_mille: 0,
        repeats_per_mille: 0,
    };
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Cut,
    Lost,
    Once(u64),
    Twice(u64, u64),
}

/// The network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) plan: NetworkPlan,
    /// How many cuts are in force, by direction.
    cuts: BTreeMap<(HostIndex, HostIndex), u32>,
    rng: Rng,
}

impl Network {
    pub(crate) fn new(plan: NetworkPlan, seed: u64) -> Self {
        Self { plan, cuts: BTreeMap::new(), rng: Rng::stream(seed, "network") }
    }

    pub(crate) fn fate(&mut self, from: HostIndex, to: HostIndex) -> Fate {
        if self.is_cut(from, to) {
            Fate::Cut
        } else if self.rng.per_mille(self.plan.loss_per_mille) {
            Fate::Lost
        } else if self.rng.per_mille(self.plan.repeats_per_mille) {
            Fate::Twice(self.delay(), self.delay())
        } else {
            Fate::Once(self.delay())
        }
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let (low, high) = self.plan.delay;
        if self.rng.per_mille(self.plan.spikes_per_mille) {
            self.rng.range(high, high + self.plan.spike_max)
        } else {
            self.rng.range(low, high)
        }
    }

    pub(crate) fn is_cut(&self, from: HostIndex, to: HostIndex) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub(crate) fn cut(&mut self, directions: &[(HostIndex, HostIndex)]) {
        for &direction in directions {
            *self.cuts.entry(direction).or_insert(0) += 1;
        }
    }

    pub(crate) fn mend(&mut self, directions: &[(HostIndex, HostIndex)]) {
        for direction in directions {
            if let Some(count) = self.cuts.get_mut(direction) {
                *count -= 1;
                if *count == 0 {
                    self.cuts.remove(direction);
                }
            }
        }
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }
}
