//! Switching machines on and off and cutting the network between them; the links that follow.
//!
//! Invariant: a host hears that a link is up only while both ends run and nothing cuts them apart,
//! and that one is down only when that is so, unless the link flaps.

use super::{Happening, SECOND, World};
use crate::disk::DiskPlan;
use crate::network::{HostIndex, NetworkPlan};
use crate::world::ClientReply;
use quorate_core::{Boot, Config, Node, Run, Space};

impl World {
    /// Starts a host that is off: a new run on the disk as it is.
    pub fn start(&mut self, at: HostIndex) {
        if self.is_up(at) {
            return;
        }
        let (run, seed) = (Run(self.names.draw()), self.names.draw());
        let now = self.clocks(at);
        let host = &mut self.hosts[at];
        let boot = Boot {
            node: host.id,
            run,
            meta: host.disk.records(Space::Meta),
            found: (at == 0).then_some(self.found),
            lost_commits: false,
            accept_loss: false,
        };
        let config = Config { member: host.member.clone(), ..self.plan.config.clone() };
        host.node = Some(Node::new(config, boot, seed, now));
        self.trace.event(self.now, "start", at, &[&run.0.to_be_bytes()], || format!("run {run}"));
        self.drain(at);
        for peer in 0..self.hosts.len() {
            self.offer_link(at, peer);
        }
    }

    /// Ends a host that is up as `kill -9` and a power cut would.
    pub fn crash(&mut self, at: HostIndex) {
        if !self.is_up(at) {
            return;
        }
        self.trace.event(self.now, "crash", at, &[], String::new);
        let host = &mut self.hosts[at];
        host.node = None;
        host.incarnation += 1;
        host.tick_at = None;
        host.linked.clear();
        host.disk.crash();
        let forgot = host.disk.ledger.take_forgot();
        for id in std::mem::take(&mut host.open).into_keys() {
            self.replies.push(ClientReply { id, host: at, result: None });
        }
        self.check_forgot(at, forgot);
        for peer in 0..self.hosts.len() {
            let delay = self.notice_delay();
            self.push_link(delay, peer, at, false, false);
        }
    }

    /// Nothing passes in these directions until they are mended.
    pub fn cut(&mut self, directions: &[(HostIndex, HostIndex)]) {
        self.trace.event(self.now, "cut", 0, &[], || format!("{directions:?}"));
        self.network.cut(directions);
        for &(from, to) in directions {
            for (host, peer) in [(from, to), (to, from)] {
                let delay = self.notice_delay();
                self.push_link(delay, host, peer, false, false);
            }
        }
    }

    /// Undoes a cut.
    pub fn mend(&mut self, directions: &[(HostIndex, HostIndex)]) {
        self.trace.event(self.now, "mend", 0, &[], || format!("{directions:?}"));
        self.network.mend(directions);
        for &(from, to) in directions {
            self.offer_link(from, to);
        }
    }

    /// A link goes down and comes up again although nothing is wrong with the network.
    pub fn flap(&mut self, a: HostIndex, b: HostIndex) {
        self.push_link(0, a, b, false, true);
        self.push_link(0, b, a, false, true);
        self.offer_link(a, b);
    }

    /// Ends all faults: the network is perfect, the disks are quick and have space, all hosts run.
    pub fn heal(&mut self) {
        self.network.plan = NetworkPlan::PERFECT;
        self.network.mend_all();
        for host in &mut self.hosts {
            host.disk.full = 0;
            host.disk.slow = 0;
            host.disk.plan = DiskPlan::QUICK;
        }
        for at in 0..self.hosts.len() {
            self.start(at);
            for peer in 0..at {
                self.offer_link(at, peer);
            }
        }
    }

    pub(super) fn offer_link(&mut self, a: HostIndex, b: HostIndex) {
        if a == b {
            return;
        }
        for (host, peer) in [(a, b), (b, a)] {
            let delay = self.links.range(500, 50_000);
            self.push_link(delay, host, peer, true, false);
        }
    }

    /// How long until a host hears that a connection is gone: often at once, sometimes long after.
    fn notice_delay(&mut self) -> u64 {
        if self.links.per_mille(700) {
            self.links.range(100, 5_000)
        } else {
            self.links.range(5_000, 10 * SECOND)
        }
    }

    fn push_link(&mut self, delay: u64, host: HostIndex, peer: HostIndex, up: bool, flap: bool) {
        let incarnation = self.hosts[host].incarnation;
        self.push(self.now + delay, Happening::Link { host, incarnation, peer, up, flap });
    }

    pub(super) fn is_cut_between(&self, a: HostIndex, b: HostIndex) -> bool {
        self.network.is_cut(a, b) || self.network.is_cut(b, a)
    }
}
