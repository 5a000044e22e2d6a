//! What goes wrong on purpose: begins faults at random times and ends each after a while.
//!
//! Invariant: damage stays within what redundancy can repair: one copy of a key in a run, and only
//! where another owner exists.

use crate::counts::Group;
use crate::network::HostIndex;
use crate::plan::Fault;
use crate::run::{Action, Simulation};
use crate::world::SECOND;

/// What ends a fault.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Start(HostIndex),
    Mend(Vec<(HostIndex, HostIndex)>),
    Quick(HostIndex),
    Space(HostIndex),
}

impl Simulation {
    /// Plans the first fault of each kind.
    pub(crate) fn arm_faults(&mut self) {
        for (fault, mean) in self.plan.faults.clone() {
            let delay = self.rng_faults.below(2 * mean);
            self.later(delay, Action::Fault(fault, mean));
        }
    }

    pub(crate) fn begin_fault(&mut self, fault: Fault, mean: u64) {
        let delay = self.rng_faults.below(2 * mean);
        self.later(delay, Action::Fault(fault, mean));
        let hosts = self.world.len();
        let host = self.rng_faults.index(hosts);
        match fault {
            Fault::Crash => self.crash(host),
            Fault::CrashAll => {
                self.world.counts.add(Group::Faults, "crashes of all hosts at once", 1);
                for host in 0..hosts {
                    self.crash(host);
                }
            }
            Fault::Partition => {
                let mask = self.rng_faults.draw();
                let side = |host: HostIndex| mask >> host & 1;
                let pairs = pairs(hosts).filter(|&(a, b)| side(a) != side(b));
                self.cut("partitions", pairs.collect());
            }
            Fault::OneWay => {
                let mask = self.rng_faults.draw();
                let chosen = pairs(hosts).filter(|&(a, b)| a == host && mask >> b & 1 == 1);
                self.cut("one-way partitions", chosen.collect());
            }
            Fault::Flap => {
                let other = self.rng_faults.index(hosts);
                if other != host {
                    self.world.counts.add(Group::Faults, "flapping links", 1);
                    self.world.flap(host, other);
                }
            }
            Fault::SlowDisk => {
                self.world.counts.add(Group::Faults, "slow disk periods", 1);
                self.world.hosts[host].disk.slow += 1;
                let span = self.span();
                self.later(span, Action::End(End::Quick(host)));
            }
            Fault::FullDisk => {
                self.world.counts.add(Group::Faults, "full disk periods", 1);
                self.world.hosts[host].disk.full += 1;
                let span = self.span();
                self.later(span, Action::End(End::Space(host)));
            }
            Fault::Corrupt => self.corrupt(),
        }
    }

    pub(crate) fn end_fault(&mut self, end: End) {
        match end {
            End::Start(host) => self.world.start(host),
            End::Mend(pairs) => self.world.mend(&pairs),
            End::Quick(host) => self.world.hosts[host].disk.slow -= 1,
            End::Space(host) => self.world.hosts[host].disk.full -= 1,
        }
    }

    pub(crate) fn crash(&mut self, host: HostIndex) {
        if self.world.is_up(host) {
            self.world.counts.add(Group::Faults, "crashes", 1);
            self.world.crash(host);
            let span = self.span();
            self.later(span, Action::End(End::Start(host)));
        }
    }

    fn cut(&mut self, what: &'static str, pairs: Vec<(HostIndex, HostIndex)>) {
        if !pairs.is_empty() {
            self.world.counts.add(Group::Faults, what, 1);
            self.world.cut(&pairs);
            let span = self.span();
            self.later(span, Action::End(End::Mend(pairs)));
        }
    }

    fn corrupt(&mut self) {
        let key = self.rng_faults.index(self.keys.len());
        let owners = self.keys[key].owners.clone();
        if self.history.key(key).damaged || owners.len() < 2 {
            return;
        }
        let owner = owners[self.rng_faults.index(owners.len())];
        let object = self.keys[key].object.clone();
        if self.world.hosts[owner].disk.corrupt(&object) {
            self.world.counts.add(Group::Faults, "damaged records", 1);
            let content = [key as u8];
            self.world
                .trace
                .event(self.world.now(), "damage", owner, &[&content], || format!("key {key}"));
            self.note_damage(key);
        }
    }

    /// How long a fault lasts: moments, seconds, or long enough for everybody to notice.
    fn span(&mut self) -> u64 {
        let (low, high) = self.rng_faults.pick(&[
            (1_000, 200_000),
            (SECOND / 2, 5 * SECOND),
            (5 * SECOND, 30 * SECOND),
        ]);
        self.rng_faults.range(low, high)
    }
}

fn pairs(hosts: usize) -> impl Iterator<Item = (HostIndex, HostIndex)> {
    (0..hosts).flat_map(move |a| (0..hosts).map(move |b| (a, b))).filter(|(a, b)| a != b)
}
