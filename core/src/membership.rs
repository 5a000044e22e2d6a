//! What every member knows of the cluster: one record a node, merged pointwise by gossip (§4.8).
//!
//! Invariants: merge is a join, so all members converge whatever the order; two states with one
//! [`LayoutId`] give the same preference lists; once the cluster is *open* (it may hold objects)
//! its layout never changes. While it is empty only the founder issues records that change the
//! layout, and it opens the cluster by a durable record of its own: so no object is ever written
//! under a layout that a concurrent join is replacing.

use crate::config::{BucketPatch, BucketProps, Found, MemberConfig, Secret};
use crate::id::{ClusterId, LayoutId, NodeId, first_u64s};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// When and by whom a record was last changed; the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// Lamport time: one more than the greatest the issuer had seen.
    pub time: u64,
    /// Who changed it; breaks ties.
    pub issuer: NodeId,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// How it presents itself.
    pub config: MemberConfig,
    /// When and by whom this was last changed.
    pub change: Change,
}

/// One bucket's rules, as far as they differ from the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    /// The difference.
    pub patch: BucketPatch,
    /// When and by whom this was last changed.
    pub change: Change,
}

/// The whole of what gossip spreads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// Q.
    pub partitions: u32,
    /// Seals contexts.
    pub secret: Secret,
    /// Who founded it: the only issuer of layout changes while the cluster is empty.
    pub founder: NodeId,
    /// Set once objects may exist: the layout they are stored under.
    pub open: Option<LayoutId>,
    /// Every member.
    pub members: BTreeMap<NodeId, MemberRecord>,
    /// Buckets with rules of their own.
    pub buckets: BTreeMap<Bytes, BucketRecord>,
}

/// Buckets with rules of their own that a cluster keeps; gossip carries them all.
pub const BUCKETS_MAX: usize = 1_024;

impl ClusterState {
    /// A cluster of one.
    pub fn found(found: Found, founder: NodeId, config: MemberConfig) -> Self {
        let change = Change { time: 1, issuer: founder };
        Self {
            cluster: found.cluster,
            partitions: found.partitions,
            secret: found.secret,
            founder,
            open: None,
            members: BTreeMap::from([(founder, MemberRecord { config, change })]),
            buckets: BTreeMap::new(),
        }
    }

    /// Takes in what another member knows. Returns whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        debug_assert_eq!(self.cluster, other.cluster, "checked by the caller");
        let mut changed = false;
        for (node, theirs) in &other.members {
            let newer = self.members.get(node).is_none_or(|ours| ours.change < theirs.change);
            if newer {
                self.members.insert(*node, theirs.clone());
                changed = true;
            }
        }
        for (bucket, theirs) in &other.buckets {
            let newer = self.buckets.get(bucket).is_none_or(|ours| ours.change < theirs.change);
            if newer {
                self.buckets.insert(bucket.clone(), theirs.clone());
                changed = true;
            }
        }
        if self.open.is_none() && other.open.is_some() {
            self.open = other.open;
            changed = true;
        }
        changed
    }

    /// The stamp for a change that `issuer` makes now.
    pub fn next_change(&self, issuer: NodeId) -> Change {
        let stamps = self.members.values().map(|record| record.change.time);
        let stamps = stamps.chain(self.buckets.values().map(|record| record.change.time));
        Change { time: stamps.max().unwrap_or(0).saturating_add(1), issuer }
    }

    /// A bucket's rules.
    pub fn bucket(&self, bucket: &[u8]) -> BucketProps {
        let props = BucketProps::default();
        self.buckets.get(bucket).map_or(props, |record| props.patched(record.patch))
    }

    /// The name of what is owned by whom: ids, weights, zones, Q and the buckets' N.
    pub fn layout(&self) -> LayoutId {
        let mut hash = Sha256::new();
        hash.update(self.partitions.to_be_bytes());
        for (node, record) in &self.members {
            hash.update(node.0.to_be_bytes());
            hash.update(record.config.weight.to_be_bytes());
            hash.update((record.config.zone.len() as u64).to_be_bytes());
            hash.update(&record.config.zone);
        }
        for (bucket, record) in &self.buckets {
            if let Some(n_val) = record.patch.n_val {
                hash.update((bucket.len() as u64).to_be_bytes());
                hash.update(bucket);
                hash.update([n_val]);
            }
        }
        LayoutId(first_u64s(hash).0)
    }
}
