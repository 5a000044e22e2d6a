//! The claim: which member owns which partition (§6.2, strategy 3).
//!
//! Invariants: the claim is a pure function of the members' ids, weights and zones, in integers
//! only, so that every node computes the same one whatever the order in which members came; each
//! member owns its share by weight, rounded down or up.

use crate::id::NodeId;
use std::collections::BTreeMap;

/// What the claim needs to know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMember {
    /// Its share relative to the other members; with zero it owns nothing.
    pub weight: u32,
    /// Its failure zone.
    pub zone: String,
}

/// The owner of each partition, by number; empty if no member has a weight.
pub fn claim(members: &BTreeMap<NodeId, ClaimMember>, partitions: u32) -> Vec<NodeId> {
    let nodes: Vec<(NodeId, u64)> = members
        .iter()
        .filter(|(_, member)| member.weight > 0)
        .map(|(&node, member)| (node, u64::from(member.weight)))
        .collect();
    let total: u64 = nodes.iter().map(|(_, weight)| weight).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut bids = Vec::with_capacity(nodes.len() * partitions as usize);
    for (at, (node, _)) in nodes.iter().enumerate() {
        bids.extend((0..partitions).map(|p| (score(p, *node), p as usize, at)));
    }
    bids.sort_unstable();
    let mut owners: Vec<Option<usize>> = vec![None; partitions as usize];
    let mut owned = vec![0u64; nodes.len()];
    for round_up in [false, true] {
        for &(_, p, at) in &bids {
            let exact = u64::from(partitions) * nodes[at].1;
            let share = if round_up { exact.div_ceil(total) } else { exact / total };
            if owners[p].is_none() && owned[at] < share {
                owners[p] = Some(at);
                owned[at] += 1;
            }
        }
    }
    owners.into_iter().flatten().map(|at| nodes[at].0).collect()
}

/// How much a member bids for a partition.
fn score(partition: u32, node: NodeId) -> u64 {
    mix(mix(node.0).wrapping_add(u64::from(partition)))
}

/// The finalizer of SplitMix64: a bijection whose output bits each depend on every input bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
