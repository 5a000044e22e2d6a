//! The world: hosts with real nodes on virtual time, one heap of events ordered by (time, sequence).
//!
//! Invariants: time only grows; a node is told only what a real host could tell it; every message
//! passes through the real codec; the world is `Clone`, so a checkpoint is a clone and rewinding is
//! replaying.

mod machines;
mod outputs;

use crate::counts::{Counts, Group};
use crate::disk::{Disk, DiskPlan, Ending};
use crate::invariants::{Violation, never_forgets};
use crate::network::{HostIndex, Network, NetworkPlan};
use crate::rng::Rng;
use crate::trace::{Trace, answer_bytes};
use bytes::Bytes;
use quorate_core::{
    ClaimMember, Config, Found, Input, Instant, MemberConfig, Node, NodeId, NodeView, Now, OpId,
    Reply, Request, RequestError, RequestId, Ring, WallTime, codec,
};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldPlan {
    /// Every draw of the world follows from it.
    pub seed: u64,
    /// One a host: how it presents itself. The first host founds the cluster.
    pub members: Vec<MemberConfig>,
    /// Q.
    pub partitions: u32,
    /// What all nodes are configured with, apart from their member records.
    pub config: Config,
    /// The network, once the cluster is set up.
    pub network: NetworkPlan,
    /// The disks, once the cluster is set up.
    pub disk: DiskPlan,
    /// Print every event?
    pub print: bool,
}

impl WorldPlan {
    /// A healthy world of so many equal hosts.
    pub fn healthy(seed: u64, hosts: usize) -> Self {
        Self {
            seed,
            members: vec![MemberConfig::default(); hosts],
            partitions: 16,
            config: Config::default(),
            network: NetworkPlan::PERFECT,
            disk: DiskPlan::QUICK,
            print: false,
        }
    }
}

/// An answer as its client sees it.
#[derive(Clone, Debug)]
pub struct ClientReply {
    /// To which request.
    pub id: RequestId,
    /// Through which host it was asked.
    pub host: HostIndex,
    /// The answer; `None`: the host crashed, and with it the connection.
    pub result: Option<Result<Reply, RequestError>>,
}

/// A machine with a disk and, while it is up, a node.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) node: Option<Node>,
    pub(crate) disk: Disk,
    member: MemberConfig,
    /// Counts starts, so that what was meant for an earlier run is recognised.
    incarnation: u32,
    tick_at: Option<u64>,
    linked: BTreeSet<HostIndex>,
    open: BTreeMap<RequestId, u64>,
    /// This host's wall clock is ahead of the world's by this many microseconds.
    skew: u64,
}

#[derive(Clone, Debug)]
enum Happening {
    Deliver { from: HostIndex, to: HostIndex, bytes: Bytes },
    Tick { host: HostIndex, at: u64 },
    Stored { host: HostIndex, incarnation: u32, op: OpId, ending: Ending },
    Link { host: HostIndex, incarnation: u32, peer: HostIndex, up: bool, flap: bool },
    Bell(u64),
}

#[derive(Clone, Debug)]
struct Entry(u64, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest, as `BinaryHeap` wants it.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

/// Hosts, network, disks and the time they share.
#[derive(Clone, Debug)]
pub struct World {
    plan: WorldPlan,
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Entry>,
    pub(crate) hosts: Vec<Host>,
    by_id: BTreeMap<NodeId, HostIndex>,
    pub(crate) network: Network,
    found: Found,
    names: Rng,
    links: Rng,
    last_request: u64,
    replies: Vec<ClientReply>,
    bells: Vec<u64>,
    pub(crate) trace: Trace,
    /// What happened, for the totals.
    pub counts: Counts,
    pub(crate) violation: Option<Violation>,
}

/// The wall clock when a world begins: some day in 2023.
const EPOCH: u64 = 1_700_000_000_000_000;
/// One second of virtual time.
pub const SECOND: u64 = 1_000_000;
/// How long the members may take to find each other on a perfect network.
const SET_UP_MAX: u64 = 120 * SECOND;

impl World {
    /// Machines that are switched off, their disks empty.
    pub fn new(plan: WorldPlan) -> Self {
        let seed = plan.seed;
        let mut names = Rng::stream(seed, "names");
        let mut skews = Rng::stream(seed, "clocks");
        let mut word = || names.draw();
        let found = Found::new(
            quorate_core::ClusterId(word(), word()),
            plan.partitions,
            quorate_core::Secret([word(), word(), word(), word()]),
        )
        .expect("plans draw powers of two");
        let hosts: Vec<_> = plan
            .members
            .iter()
            .enumerate()
            .map(|(at, member)| Host {
                id: NodeId(names.draw()),
                node: None,
                disk: Disk::new(DiskPlan::QUICK, seed, &format!("disk {at}")),
                member: MemberConfig { name: format!("n{at}"), ..member.clone() },
                incarnation: 0,
                tick_at: None,
                linked: BTreeSet::new(),
                open: BTreeMap::new(),
                skew: skews.below(3 * SECOND),
            })
            .collect();
        let by_id = hosts.iter().enumerate().map(|(at, host)| (host.id, at)).collect();
        Self {
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            hosts,
            by_id,
            network: Network::new(NetworkPlan::PERFECT, seed),
            found,
            names,
            links: Rng::stream(seed, "links"),
            last_request: 0,
            replies: Vec::new(),
            bells: Vec::new(),
            trace: Trace::new(plan.print),
            counts: Counts::default(),
            violation: None,
            plan,
        }
    }

    /// Founds the cluster, joins all others to it and sets the default N of `bucket`, all through
    /// the protocol; then lets the planned network and disks loose.
    pub fn set_up(&mut self, bucket: &Bytes, n_val: u8) -> Result<(), Violation> {
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        let everybody = self.hosts.len();
        let admitted =
            |world: &Self| world.views().iter().all(|view| view.members.len() == everybody);
        self.run_until(SET_UP_MAX, admitted)
            .map_err(|late| late.of("the members to be admitted"))?;
        let patch = quorate_core::BucketPatch { n_val: Some(n_val), ..Default::default() };
        let id = self.request(0, Request::SetBucket { bucket: bucket.clone(), patch: Some(patch) });
        let answered = |world: &Self| world.replies.iter().any(|reply| reply.id == id);
        self.run_until(SET_UP_MAX, answered).map_err(|late| late.of("the bucket's n_val"))?;
        if let Some(ClientReply { result: Some(Err(error)), .. }) = self.replies.last() {
            return Err(self.violated(&crate::invariants::quiet::THIS, format!("n_val: {error}")));
        }
        self.replies.clear();
        let agreed = |world: &Self| {
            let views = world.views();
            views.iter().all(|view| view.layout == views[0].layout)
        };
        self.run_until(SET_UP_MAX, agreed).map_err(|late| late.of("the layout to be known"))?;
        self.network.plan = self.plan.network.clone();
        for host in &mut self.hosts {
            host.disk.plan = self.plan.disk.clone();
        }
        Ok(())
    }

    /// Virtual time since the world began, in microseconds.
    pub fn now(&self) -> u64 {
        self.now
    }
    /// The hash of everything that has happened.
    pub fn hash(&self) -> [u8; 32] {
        self.trace.hash()
    }
    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }
    /// Is there no host at all?
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
    /// Q.
    pub fn partitions(&self) -> u32 {
        self.plan.partitions
    }
    /// The host with an identity.
    pub(crate) fn host_of(&self, id: NodeId) -> Option<HostIndex> {
        self.by_id.get(&id).copied()
    }
    /// Is a host running?
    pub fn is_up(&self, host: HostIndex) -> bool {
        self.hosts[host].node.is_some()
    }
    /// What the running nodes show.
    pub fn views(&self) -> Vec<NodeView> {
        self.hosts.iter().filter_map(|host| host.node.as_ref()).map(Node::view).collect()
    }
    /// Durable hints on all disks.
    pub fn hints(&self) -> usize {
        self.hosts.iter().map(|host| host.disk.hints().count()).sum()
    }
    /// Takes the answers that came since the last call.
    pub fn take_replies(&mut self) -> Vec<ClientReply> {
        std::mem::take(&mut self.replies)
    }
    /// Takes the bells that rang since the last call.
    pub fn take_bells(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.bells)
    }
    /// Rings `bell` after `delay`.
    pub fn ring_after(&mut self, delay: u64, bell: u64) {
        self.push(self.now + delay, Happening::Bell(bell));
    }
    /// The first rule that was seen broken, if any.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }
    /// Requests that wait for an answer from a host that is up.
    pub fn open_requests(&self) -> usize {
        self.hosts.iter().map(|host| host.open.len()).sum()
    }

    /// A client asks a host that is up.
    pub fn request(&mut self, host: HostIndex, request: Request) -> RequestId {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        let said = format!("{request:?}");
        self.trace
            .event(self.now, "request", host, &[said.as_bytes()], || format!("{id:?} {said}"));
        self.hosts[host].open.insert(id, self.now);
        self.tell(host, Input::Request { id, request });
        id
    }

    /// Asks a host that is up and lets time pass until its answer; `None`: it never comes.
    pub fn ask(
        &mut self,
        host: HostIndex,
        request: Request,
    ) -> Option<Result<Reply, RequestError>> {
        let id = self.request(host, request);
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply.id == id) {
                return self.replies.remove(at).result;
            }
            if !self.step() {
                return None;
            }
        }
    }

    /// The owners of a key of a bucket with this N, in order of preference.
    pub fn owners(&self, key: &quorate_core::Key, n_val: u8) -> Vec<HostIndex> {
        let members = self.hosts.iter().map(|host| {
            let claim = ClaimMember { weight: host.member.weight, zone: host.member.zone.clone() };
            (host.id, claim)
        });
        let ring = Ring::new(&members.collect(), self.plan.partitions);
        let list = ring.preference_list(key.token().partition(self.plan.partitions));
        list.iter().take(usize::from(n_val)).filter_map(|&id| self.host_of(id)).collect()
    }

    /// Runs for a span of virtual time.
    pub fn run_for(&mut self, span: u64) {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|entry| entry.0 <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until `done`, looked at now and then, or says that it took longer than `at_most`.
    pub fn run_until(&mut self, at_most: u64, done: impl Fn(&Self) -> bool) -> Result<(), Late> {
        let end = self.now + at_most;
        while !done(self) {
            if self.now >= end {
                return Err(Late { after: at_most, at: self.now });
            }
            self.run_for(SECOND / 10);
        }
        Ok(())
    }

    /// Takes the next event. False: nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        let Some(Entry(at, _, happening)) = self.queue.pop() else { return false };
        self.now = at;
        match happening {
            Happening::Bell(bell) => self.bells.push(bell),
            Happening::Tick { host, at } => {
                if self.hosts[host].tick_at == Some(at) {
                    self.hosts[host].tick_at = None;
                    self.trace.event(self.now, "tick", host, &[], String::new);
                    self.tell(host, Input::Tick);
                }
            }
            Happening::Deliver { from, to, bytes } => self.deliver(from, to, &bytes),
            Happening::Stored { host, incarnation, op, ending } => {
                if self.hosts[host].incarnation == incarnation {
                    let result = self.hosts[host].disk.end(ending);
                    let forgot = self.hosts[host].disk.ledger.take_forgot();
                    self.check_forgot(host, forgot);
                    let content = answer_bytes(&result);
                    self.trace.event(
                        self.now,
                        "stored",
                        host,
                        &[&op.0.to_be_bytes(), &content],
                        || format!("{} {}", op.0, said_stored(&result)),
                    );
                    self.tell(host, Input::Stored { op, result });
                }
            }
            Happening::Link { host, incarnation, peer, up, flap } => {
                let possible = self.is_up(peer) && !self.is_cut_between(host, peer);
                let stale = self.hosts[host].incarnation != incarnation || !self.is_up(host);
                let known = self.hosts[host].linked.contains(&peer) == up;
                if stale || known || (up != possible && !flap) {
                    return true;
                }
                if up {
                    self.hosts[host].linked.insert(peer);
                } else {
                    self.hosts[host].linked.remove(&peer);
                }
                self.trace.event(self.now, "link", host, &[&[peer as u8, u8::from(up)]], || {
                    format!("to n{peer} {}", if up { "up" } else { "down" })
                });
                let peer = self.hosts[peer].id;
                self.tell(host, Input::Link { peer, up });
            }
        }
        true
    }

    fn deliver(&mut self, from: HostIndex, to: HostIndex, bytes: &Bytes) {
        if !self.is_up(to) || self.network.is_cut(from, to) {
            return;
        }
        self.counts.add(Group::World, "messages delivered", 1);
        let message = codec::decode_message(bytes).expect("our own codec encoded it");
        let sender = [from as u8];
        self.trace.event(self.now, "message", to, &[&sender, bytes], || {
            format!("from n{from}: {:?}", message.body)
        });
        let from = self.hosts[from].id;
        self.tell(to, Input::Message { from, message });
    }

    fn tell(&mut self, at: HostIndex, input: Input) {
        let now = self.clocks(at);
        if let Some(node) = &mut self.hosts[at].node {
            node.handle(now, input);
            self.drain(at);
        }
    }

    fn push(&mut self, at: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Entry(at, self.sequence, happening));
    }

    fn clocks(&self, at: HostIndex) -> Now {
        Now { monotonic: Instant(self.now), wall: WallTime(EPOCH + self.now + self.hosts[at].skew) }
    }

    fn check_forgot(&mut self, at: HostIndex, forgot: Option<String>) {
        if let Some(sentence) = forgot {
            self.break_rule(&never_forgets::THIS, format!("on the disk of n{at}, {sentence}"));
        }
    }

    /// Notes that a rule was broken; the first counts.
    pub(crate) fn break_rule(&mut self, rule: &'static crate::invariants::Invariant, what: String) {
        let violation = self.violated(rule, what);
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn violated(
        &self,
        rule: &'static crate::invariants::Invariant,
        sentence: String,
    ) -> Violation {
        Violation { invariant: rule.name, sentence, at: self.now }
    }
}

/// Something took longer than it may.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    after: u64,
    at: u64,
}

impl Late {
    /// Says what was late.
    pub fn of(self, what: &str) -> Violation {
        Violation {
            invariant: crate::invariants::quiet::THIS.name,
            sentence: format!("waited {} s in vain for {what}", self.after / SECOND),
            at: self.at,
        }
    }
}

fn said_stored(result: &Result<quorate_core::StoreReply, quorate_core::StoreError>) -> String {
    use quorate_core::StoreReply::{Committed, Page, Value};
    match result {
        Ok(Committed) => "durable".into(),
        Ok(Value { value, as_of }) => {
            format!("{} as of {}", if value.is_some() { "a record" } else { "nothing" }, as_of.0)
        }
        Ok(Page { entries, more, .. }) => format!("{} records, more: {more}", entries.len()),
        Err(error) => error.to_string(),
    }
}
