//! A node as an inspector sees it: plain data, taken at one moment.

use crate::id::{ClusterId, LayoutId, NodeId, Run};
use crate::node::Node;
use crate::time::WallTime;
use serde::Serialize;

/// A node's own view of itself and its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// This node.
    pub node: Option<NodeId>,
    /// This start of it.
    pub run: Option<Run>,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// The layout it knows.
    pub layout: Option<LayoutId>,
    /// Q.
    pub partitions: u32,
    /// Does the cluster hold data, so that membership cannot change?
    pub open: bool,
    /// Can this node answer for what it owns? (See `not_ready`.)
    pub ready: bool,
    /// Why it cannot.
    pub not_ready: Vec<String>,
    /// Is its disk full?
    pub read_only: bool,
    /// Did its disk lose acknowledged commits, so that it vouches for repaired keys only?
    pub lost_commits: bool,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
    /// Every member, this node included.
    pub members: Vec<MemberView>,
    /// What it keeps for others, by owner.
    pub hints: Vec<HintsView>,
    /// Bytes of all hints.
    pub hint_bytes: u64,
    /// Have the hints of earlier runs been counted yet?
    pub hints_counted: bool,
    /// Client requests in progress.
    pub requests: u32,
    /// Keys with work in progress or waiting.
    pub busy_keys: u32,
    /// Counters since the start of this run.
    pub counters: Counters,
}

/// A member as this node believes it to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// Which.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Its failure zone.
    pub zone: String,
    /// Its relative share.
    pub weight: u32,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// What this node believes of it.
    pub state: PeerState,
    /// Partitions that the claim gives it.
    pub claimed: u32,
    /// Is it the node that founded the cluster?
    pub founder: bool,
    /// When it was last heard from in this run.
    pub heard: Option<WallTime>,
}

/// What a node believes of a peer. Local: there is no global failure detector (§4.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// The node itself.
    Myself,
    /// Heard from, and no timeout since.
    Up,
    /// Did not answer, or its link is down.
    Suspected,
    /// Not heard from in this run.
    Unknown,
}

/// Hints kept for one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HintsView {
    /// For whom.
    pub owner: NodeId,
    /// How many objects.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Counters since the start of this run; each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it; units are operations")]
pub struct Counters {
    pub gets: u64,
    pub puts: u64,
    pub deletes: u64,
    pub coordinated: u64,
    pub forwarded: u64,
    pub timeouts: u64,
    pub unavailable: u64,
    pub read_repairs: u64,
    pub hints_stored: u64,
    pub hints_refused: u64,
    pub hints_delivered: u64,
    pub records_corrupt: u64,
    pub records_repaired: u64,
    pub actors_rotated: u64,
    pub messages_sent: u64,
    pub messages_received: u64,
    pub messages_rejected: u64,
    pub store_reads: u64,
    pub store_commits: u64,
}

impl Node {
    /// The node as an inspector sees it.
    pub fn view(&self) -> NodeView {
        let (hints, hint_bytes) = self.hints.view();
        let not_ready = self.not_ready();
        let mut view = NodeView {
            node: Some(self.me),
            run: Some(self.run),
            ready: not_ready.is_empty() && self.stopped.is_none(),
            not_ready,
            read_only: self.cluster.read_only,
            lost_commits: self.cluster.standing.lost_before.is_some(),
            stopped: self.stopped.clone(),
            hints,
            hint_bytes,
            hints_counted: self.hints.counted(),
            requests: self.coordinator.requests,
            busy_keys: self.replica.busy_keys(),
            counters: self.counters,
            ..NodeView::default()
        };
        if let Some(state) = &self.cluster.state {
            view.cluster = Some(state.cluster);
            view.layout = self.cluster.layout();
            view.partitions = state.partitions;
            view.open = state.open.is_some();
            view.members = state
                .members
                .iter()
                .map(|(&node, record)| MemberView {
                    node,
                    name: record.config.name.clone(),
                    zone: record.config.zone.clone(),
                    weight: record.config.weight,
                    addresses: record.config.addresses.clone(),
                    state: if node == self.me {
                        PeerState::Myself
                    } else {
                        self.detector.state(node)
                    },
                    claimed: self.cluster.ring.claimed(node),
                    founder: node == state.founder,
                    heard: self.detector.last_heard(node),
                })
                .collect();
        }
        view
    }
}
