//! Founding, joining, opening and gossip: how the members come to know the same cluster state.
//!
//! Invariants: while the cluster is empty the founder alone admits members, one durable change
//! after the other; it alone opens the cluster, durably, before anyone may store an object; an
//! open cluster admits nobody (in this version). A node acts on a state only with a commit of it
//! issued before, so whatever it makes durable later implies that state.

mod founding;
mod opening;

use crate::claim::ClaimMember;
use crate::codec::encode;
use crate::config::{Boot, BucketProps, Found};
use crate::event::Event;
use crate::id::{Digest, LayoutId, NodeId, Partition};
use crate::io::{Space, StoreCommand, StoreError, Write};
use crate::membership::{ClusterState, MemberRecord};
use crate::message::{Body, Message, Nack};
use crate::node::{About, Node, Origin, Then};
use crate::record::{META_CLUSTER, META_STANDING, Standing, decode_record, encode_record};
use crate::request::{Reply, RequestError};
use crate::ring::Ring;
use crate::time::Duration;
use crate::timer::Timer;
use bytes::Bytes;
use founding::Staged;
use opening::Parked;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often a joiner asks to be admitted and a waiting node asks the founder.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// In a cluster of fewer members, a new layout is announced to all at once; in a larger one,
/// gossip does it.
const GREET_MAX: usize = 64;

/// What this node knows of its cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) state: Option<ClusterState>,
    pub(crate) ring: Ring,
    pub(crate) standing: Standing,
    pub(crate) read_only: bool,
    layout: Option<LayoutId>,
    digest: Option<Digest>,
    /// Members heard in this run with our layout: our standing was compared with theirs.
    compared: BTreeSet<NodeId>,
    /// The founder's change that is not durable yet, and those that wait behind it.
    staged: Option<ClusterState>,
    changes: VecDeque<Staged>,
    /// Requests that wait until the founder says whether the cluster is open.
    parked: Vec<Parked>,
}

/// What follows a commit of the cluster's state.
#[derive(Clone, Debug)]
pub(crate) enum Saved {
    /// Nothing.
    Merged,
    /// The founder's change: it now holds, and is spread.
    Staged(Option<Origin>, Bytes),
    /// A change of a bucket's rules: its client is answered.
    Bucket(Origin, Bytes),
    /// The disk has space again.
    Space,
}

impl Saved {
    /// The client that waits for it.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Staged(origin, _) => *origin,
            Self::Bucket(origin, _) => Some(*origin),
            Self::Merged | Self::Space => None,
        }
    }
}

impl Cluster {
    /// The layout known, once a member.
    pub(crate) fn layout(&self) -> Option<LayoutId> {
        self.layout
    }
    /// May objects exist?
    pub(crate) fn is_open(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.open.is_some())
    }
    /// A bucket's rules.
    pub(crate) fn bucket(&self, bucket: &[u8]) -> BucketProps {
        self.state.as_ref().map_or_else(BucketProps::default, |state| state.bucket(bucket))
    }
    /// The members, this node included.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.state.iter().flat_map(|state| state.members.keys().copied())
    }
    /// Those whose requests wait for the founder.
    pub(crate) fn parked_origins(&self) -> impl Iterator<Item = Origin> + '_ {
        let staged = self.changes.iter().filter_map(|change| match change {
            Staged::Bucket(origin, ..) => Some(*origin),
            _ => None,
        });
        self.parked.iter().map(|parked| parked.origin).chain(staged)
    }
}

impl Node {
    pub(crate) fn start_cluster(&mut self, boot: &Boot) {
        let meta = |name: &[u8]| boot.meta.iter().find(|(key, _)| key == name).map(|(_, v)| v);
        let state = meta(META_CLUSTER).map(|bytes| decode_record::<ClusterState>(bytes));
        let standing = meta(META_STANDING).map(|bytes| decode_record::<Standing>(bytes));
        match (state, standing) {
            (Some(Err(error)), _) | (_, Some(Err(error))) => {
                return self.stop(format!("the node's own records cannot be read ({error}): start it with the version that wrote them, or restore its data directory"));
            }
            (state, standing) => {
                self.cluster.state = state.and_then(Result::ok);
                self.cluster.standing = standing.and_then(Result::ok).unwrap_or_default();
            }
        }
        self.start_standing(boot.lost_commits);
        let known = self.cluster.state.is_some();
        if let (None, Some(found)) = (&self.cluster.state, boot.found) {
            let state = ClusterState::found(found, self.me, self.config.member.clone());
            self.cluster.state = Some(state);
        }
        if let Some(state) = &mut self.cluster.state {
            let change = state.next_change(self.me);
            if let Some(record) = state.members.get_mut(&self.me) {
                // Where it is reached may change with each start; what it owns may not.
                let (now, then) = (&self.config.member, &mut record.config);
                if (&now.addresses, &now.name) != (&then.addresses, &then.name) {
                    then.addresses.clone_from(&now.addresses);
                    then.name.clone_from(&now.name);
                    record.change = change;
                }
            }
            self.adopt();
            self.save_cluster(Saved::Merged);
            let members = self.cluster.members().count() as u32;
            if !known {
                self.event(Event::Joined { members });
            }
        } else {
            self.timers.set(Timer::Join, self.now.monotonic);
        }
        self.timers.set(Timer::Gossip, self.now.monotonic + self.config.timing.gossip_interval);
        self.timers.set(Timer::Probe, self.now.monotonic + self.config.timing.probe_interval);
    }

    /// A disk that lost commits vouches for nothing written before, and for no absence, until the
    /// operator accepts the loss.
    fn start_standing(&mut self, lost_commits: bool) {
        let standing = &mut self.cluster.standing;
        if lost_commits {
            standing.losses += 1;
            standing.lost_before = Some(standing.losses);
        }
        if self.accept_loss {
            standing.lost_before = None;
        } else if standing.lost_before.is_some() {
            self.event(Event::LostCommits);
        }
        if lost_commits || self.accept_loss {
            let value = Some(encode_record(&self.cluster.standing));
            let key = Bytes::from_static(META_STANDING);
            let writes = vec![Write { space: Space::Meta, key, value }];
            self.store(StoreCommand::Commit { writes }, Then::Cluster(Saved::Merged));
        }
    }

    /// Recomputes what follows from the state.
    fn adopt(&mut self) {
        let Some(state) = &self.cluster.state else { return };
        self.cluster.digest = Some(Digest::of(&encode(0, state)));
        let layout = state.layout();
        let links: Vec<_> = state
            .members
            .iter()
            .filter(|(node, _)| **node != self.me)
            .map(|(node, record)| (*node, record.config.addresses.clone()))
            .collect();
        if self.cluster.layout != Some(layout) {
            let members: BTreeMap<_, _> = state
                .members
                .iter()
                .map(|(node, MemberRecord { config, .. })| {
                    (*node, ClaimMember { weight: config.weight, zone: config.zone.clone() })
                })
                .collect();
            self.cluster.ring = Ring::new(&members, state.partitions);
            self.cluster.layout = Some(layout);
            self.cluster.compared.clear();
            self.event(Event::LayoutChanged { members: members.len() as u32 });
            if links.len() < GREET_MAX {
                // Owners are ready as soon as they hear of each other's layout: say it at once.
                for (node, _) in &links {
                    self.tell(*node, |seq| Body::Ping { seq });
                }
            }
        }
        for (node, addresses) in links {
            self.keep_link(node, addresses);
        }
    }

    /// Commits the state, with what the founder has staged: a later commit never takes it back.
    fn save_cluster(&mut self, then: Saved) {
        let Some(mut state) = self.cluster.state.clone() else { return };
        if let Some(staged) = &self.cluster.staged {
            state.merge(staged);
        }
        let key = Bytes::from_static(META_CLUSTER);
        let writes = vec![Write { space: Space::Meta, key, value: Some(encode_record(&state)) }];
        self.store(StoreCommand::Commit { writes }, Then::Cluster(then));
    }

    pub(crate) fn on_cluster_saved(&mut self, saved: Saved, result: Result<(), StoreError>) {
        if result.is_err() {
            self.set_read_only(true);
            if let Saved::Staged(..) = saved {
                self.cluster.staged = None;
            }
            if let Some(origin) = saved.origin() {
                self.reply(origin, Err(RequestError::ReadOnly));
            }
            // Those that wait behind it are tried too: each is answered.
            return self.stage_next();
        }
        match saved {
            Saved::Merged => {}
            Saved::Space => self.set_read_only(false),
            Saved::Bucket(origin, bucket) => {
                self.spread_state();
                self.reply(origin, Ok(Reply::Bucket(self.cluster.bucket(&bucket))));
            }
            Saved::Staged(origin, bucket) => {
                let was_open = self.cluster.is_open();
                if let (Some(state), Some(staged)) =
                    (&mut self.cluster.state, self.cluster.staged.take())
                {
                    state.merge(&staged);
                }
                self.adopt();
                self.spread_state();
                self.after_state(was_open);
                if let Some(origin) = origin {
                    self.reply(origin, Ok(Reply::Bucket(self.cluster.bucket(&bucket))));
                }
                self.stage_next();
            }
        }
    }

    /// A full disk turns the node read-only until a commit succeeds again.
    pub(crate) fn set_read_only(&mut self, full: bool) {
        if std::mem::replace(&mut self.cluster.read_only, full) != full {
            self.event(Event::ReadOnly(full));
        }
        if full {
            self.timers
                .set_by(Timer::Space, self.now.monotonic + self.config.timing.probe_interval);
        }
    }

    pub(crate) fn probe_space(&mut self) {
        self.save_cluster(Saved::Space);
    }

    // Gossip.

    pub(crate) fn gossip(&mut self) {
        self.timers.set(Timer::Gossip, self.now.monotonic + self.config.timing.gossip_interval);
        let Some(digest) = self.cluster.digest else { return };
        let peers: Vec<_> = self.cluster.members().filter(|&node| node != self.me).collect();
        if !peers.is_empty() {
            let peer = peers[self.rng.below(peers.len())];
            self.send(peer, Body::Gossip { digest });
        }
    }

    pub(crate) fn on_gossip(&mut self, from: NodeId, digest: Digest) {
        if let Some(state) = &self.cluster.state
            && self.cluster.digest != Some(digest)
        {
            let state = state.clone();
            self.send(from, Body::State { state, answer: true });
        }
    }

    pub(crate) fn on_state(&mut self, from: NodeId, theirs: &ClusterState, answer: bool) {
        let was_open = self.cluster.is_open();
        let changed = match &mut self.cluster.state {
            None if theirs.members.contains_key(&self.me) => {
                if let Err(reason) = Found::new(theirs.cluster, theirs.partitions, theirs.secret) {
                    return self.reject(from, reason);
                }
                self.cluster.state = Some(theirs.clone());
                self.event(Event::Joined { members: theirs.members.len() as u32 });
                true
            }
            None => return,
            Some(ours) if ours.cluster != theirs.cluster => {
                let (ours, theirs) = (ours.cluster, theirs.cluster);
                return self
                    .reject(from, format!("it belongs to cluster {theirs}, this node to {ours}"));
            }
            Some(ours) => {
                let mut merged = ours.clone();
                let changed = merged.merge(theirs);
                if ours.open.is_some() && merged.layout() != ours.layout() {
                    return self.reject(from, "its layout differs from the one that the cluster's objects are stored under".into());
                }
                *ours = merged;
                changed
            }
        };
        if changed {
            self.adopt();
            self.save_cluster(Saved::Merged);
            self.after_state(was_open);
        }
        if answer && self.cluster.state.as_ref().is_some_and(|ours| ours != theirs) {
            let state = self.cluster.state.clone().expect("just compared");
            self.send(from, Body::State { state, answer: false });
        }
    }

    fn spread_state(&mut self) {
        let Some(state) = self.cluster.state.clone() else { return };
        let me = self.me;
        for &peer in state.members.keys().filter(|&&node| node != me) {
            self.send(peer, Body::State { state: state.clone(), answer: false });
        }
    }

    /// Requests that waited for the cluster to open go on.
    fn after_state(&mut self, was_open: bool) {
        if was_open || !self.cluster.is_open() {
            return;
        }
        self.event(Event::Opened);
        self.timers.clear(Timer::Open);
        self.forget_questions(About::Open);
        for parked in std::mem::take(&mut self.cluster.parked) {
            self.take_request(parked.origin, parked.request);
        }
    }

    // Peers.

    pub(crate) fn on_heard(&mut self, from: NodeId, message: &Message) {
        let news = self.detector.heard(from, message.run, self.now.wall);
        if news {
            self.event(Event::Suspected { peer: from, suspected: false });
            self.wake_hints(from);
        }
        if message.layout.is_some()
            && message.layout == self.cluster.layout
            && self.cluster.members().any(|node| node == from)
        {
            self.cluster.compared.insert(from);
        }
        if news {
            self.take_early_requests();
        }
    }

    pub(crate) fn on_link(&mut self, peer: NodeId, up: bool) {
        if peer == self.me {
            return;
        }
        self.detector.link(peer, up);
        if !up {
            return self.suspect(peer);
        }
        self.tell(peer, |seq| Body::Ping { seq });
        if let Some(digest) = self.cluster.digest {
            self.send(peer, Body::Gossip { digest });
        } else {
            self.timers.set_by(Timer::Join, self.now.monotonic);
        }
    }

    pub(crate) fn suspect(&mut self, peer: NodeId) {
        if self.detector.suspect(peer) {
            self.event(Event::Suspected { peer, suspected: true });
            self.on_suspected(peer);
        }
    }

    pub(crate) fn probe(&mut self) {
        self.timers.set(Timer::Probe, self.now.monotonic + self.config.timing.probe_interval);
        let peers: Vec<_> = self
            .cluster
            .members()
            .filter(|&node| node != self.me && !self.detector.healthy(node))
            .collect();
        for peer in peers {
            self.tell(peer, |seq| Body::Ping { seq });
        }
    }

    /// Objects are spoken of only between members that know the same layout of an open cluster.
    pub(crate) fn check_layout(
        &mut self,
        from: NodeId,
        theirs: Option<LayoutId>,
    ) -> Result<(), Nack> {
        let Some(state) = &self.cluster.state else { return Err(Nack::NotReady) };
        if state.open.is_some()
            && theirs == self.cluster.layout
            && state.members.contains_key(&from)
        {
            return Ok(());
        }
        let state = state.clone();
        self.send(from, Body::State { state, answer: true });
        Err(Nack::Layout)
    }

    /// After a start, an owner vouches for a partition only once it has compared its record with
    /// another owner's: a disk restored from a copy would show there. The one owner of a list has
    /// nobody to compare with.
    pub(crate) fn is_ready(&self, owners: &[NodeId]) -> bool {
        let others = owners.iter().filter(|&&owner| owner != self.me);
        owners.len() <= 1 || others.into_iter().any(|owner| self.cluster.compared.contains(owner))
    }

    /// Why this node does not vouch for everything that it owns, if so.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let Some(state) = &self.cluster.state else {
            return vec!["not a member of a cluster yet: waits to be admitted".into()];
        };
        let n = usize::from(BucketProps::default().n_val).min(state.members.len());
        let waiting = (0..state.partitions)
            .map(|p| &self.cluster.ring.preference_list(Partition(p))[..n])
            .filter(|owners| owners.contains(&self.me) && !self.is_ready(owners))
            .count();
        if waiting > 0 {
            reasons
                .push(format!("{waiting} partitions wait to hear from one of their other owners"));
        }
        if self.cluster.standing.lost_before.is_some() {
            reasons.push("the disk lost acknowledged commits: keys are repaired from other owners as they are used (start with --accept-loss to end this)".into());
        }
        reasons
    }
}
