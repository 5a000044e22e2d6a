//! The claim: which member owns which partition (§6.2, strategy 3).
//!
//! Invariants: the claim is a pure function of the members' ids and weights, in integers only, so
//! that every node computes the same one on every target, whatever the order in which members
//! came; each member owns its share by weight, rounded down or up.
//!
//! Every member bids for every partition, by hash. Were each partition given to its best bidder
//! (rendezvous hashing), a newcomer would take exactly what it wins and nothing else would move,
//! but shares would be as uneven as chance makes them. So the claim is the cheapest assignment that
//! has exact shares: the one that departs least from the best bids. A small change of the members
//! changes it little: what it has to correct is chance, and the difference between chance before
//! and after is of the order of √Q partitions, where the newcomer's own share is Q/(S+1). The more
//! partitions a member has, the closer a join comes to the minimum; `tests/properties/claim.rs`
//! prints by how much.

use crate::id::NodeId;
use std::collections::BTreeMap;

/// What the claim and the walk need to know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMember {
    /// Its share relative to the other members; with zero it owns nothing.
    pub weight: u32,
    /// Its failure zone.
    pub zone: String,
}

/// The owner of each partition, by number; empty if no member has a weight.
pub fn claim(members: &BTreeMap<NodeId, ClaimMember>, partitions: u32) -> Vec<NodeId> {
    debug_assert!(partitions.is_power_of_two(), "parsed at founding");
    let weights = members.iter().filter(|(_, member)| member.weight > 0);
    let weights = weights.map(|(&node, member)| (node, u64::from(member.weight)));
    let total: u64 = weights.clone().map(|(_, weight)| weight).sum();
    if total == 0 {
        return Vec::new();
    }
    let bidders = weights.map(|(node, weight)| Bidder::new(node, weight, total, partitions));
    let mut exchange = Exchange::open(bidders.collect(), partitions);
    while exchange.settle_one() {}
    exchange.owners(partitions)
}

/// Bits of a cost below the logarithm: they only break ties.
const TIE_BITS: u32 = 24;
/// Rounds of the permutation that ranks the partitions for one bidder.
const RANK_ROUNDS: usize = 4;

/// A member at the exchange.
struct Bidder {
    node: NodeId,
    keys: [u64; RANK_ROUNDS],
    /// Heavier members bid lower: log2 of the weight, as a cost.
    head_start: i64,
    /// Its exact share, rounded down.
    share: usize,
    /// Is there something to round?
    fraction: bool,
}

impl Bidder {
    fn new(node: NodeId, weight: u64, total: u64, partitions: u32) -> Self {
        let mut key = node.0;
        let keys = [(); RANK_ROUNDS].map(|()| {
            key = mix(key);
            key
        });
        let exact = u64::from(partitions) * weight;
        Self {
            node,
            keys,
            head_start: log2(weight) << TIE_BITS,
            share: (exact / total) as usize,
            fraction: !exact.is_multiple_of(total),
        }
    }

    /// What it costs to give the bidder this partition: the logarithm of its place among all
    /// partitions in an order of the bidder's own. (Places instead of plain hashes take out half
    /// of the chance; the logarithm makes a weight a mere difference in cost.)
    fn cost(&self, partition: u32, logs: &[i64]) -> i64 {
        let place = self.place(partition, logs.len() as u64);
        let tie = mix(self.keys[0] ^ u64::from(partition)) >> (u64::BITS - TIE_BITS);
        (logs[place as usize] << TIE_BITS) + tie.cast_signed() - self.head_start
    }

    /// A permutation of the partitions: each step is a bijection on the numbers below a power of
    /// two.
    fn place(&self, partition: u32, partitions: u64) -> u64 {
        let mask = partitions - 1;
        let half = (partitions.trailing_zeros() / 2).max(1);
        self.keys.iter().fold(u64::from(partition), |mut x, key| {
            x = (x ^ key) & mask;
            x = x.wrapping_mul((key >> 20) | 1) & mask;
            x ^= x >> half;
            x.wrapping_add(key >> 40) & mask
        })
    }
}

/// Partitions change hands here until everyone has its share, always by the cheapest chain of
/// moves: successive shortest paths, which end in the cheapest assignment of all.
struct Exchange {
    bidders: Vec<Bidder>,
    logs: Vec<i64>,
    /// The partitions of each bidder.
    owned: Vec<Vec<u32>>,
    /// Whose share is rounded up. Which shares are is part of the search: a chain of moves may
    /// pass through the pool of roundings, a vertex of its own after the last bidder.
    rounded_up: Vec<bool>,
    /// Shares that are still to be rounded up; below zero, too many are.
    roundings: isize,
    /// From bidder (row) to bidder (column): the cheapest partition to move and its cost.
    moves: Vec<(i64, u32)>,
    /// The cost of the cheapest chain to each vertex when last computed. Relative to it no move
    /// has a negative cost, as Dijkstra's algorithm needs it.
    reached: Vec<i64>,
}

const NO_MOVE: (i64, u32) = (i64::MAX, 0);

impl Exchange {
    /// Gives every partition to its best bidder.
    fn open(bidders: Vec<Bidder>, partitions: u32) -> Self {
        let logs: Vec<i64> = (0..u64::from(partitions)).map(|place| log2(2 * place + 1)).collect();
        let mut owned = vec![Vec::new(); bidders.len()];
        for partition in 0..partitions {
            let best = (0..bidders.len()).min_by_key(|&at| bidders[at].cost(partition, &logs));
            owned[best.expect("someone has a weight")].push(partition);
        }
        let up =
            |(bidder, owned): (&Bidder, &Vec<u32>)| bidder.fraction && owned.len() > bidder.share;
        let rounded_up: Vec<bool> = bidders.iter().zip(&owned).map(up).collect();
        let shares: usize = bidders.iter().map(|bidder| bidder.share).sum();
        let ups = rounded_up.iter().filter(|&&up| up).count();
        let mut exchange = Self {
            roundings: (partitions as usize).cast_signed() - (shares + ups).cast_signed(),
            moves: vec![NO_MOVE; bidders.len() * bidders.len()],
            reached: vec![0; bidders.len() + 1],
            bidders,
            logs,
            owned,
            rounded_up,
        };
        for from in 0..exchange.bidders.len() {
            exchange.price_moves(from);
        }
        exchange
    }

    fn owners(&self, partitions: u32) -> Vec<NodeId> {
        let mut owners = vec![NodeId(0); partitions as usize];
        for (bidder, owned) in self.bidders.iter().zip(&self.owned) {
            for &partition in owned {
                owners[partition as usize] = bidder.node;
            }
        }
        owners
    }

    /// The vertex of the roundings.
    fn pool(&self) -> usize {
        self.bidders.len()
    }

    /// What a vertex has too much of.
    fn surplus(&self, vertex: usize) -> isize {
        match self.bidders.get(vertex) {
            None => -self.roundings,
            Some(bidder) => {
                let due = bidder.share + usize::from(self.rounded_up[vertex]);
                self.owned[vertex].len().cast_signed() - due.cast_signed()
            }
        }
    }

    /// Moves one unit from a vertex with too much to one with too little, by the cheapest chain.
    /// Returns whether there was anything to move.
    fn settle_one(&mut self) -> bool {
        let surplus: Vec<isize> = (0..=self.pool()).map(|vertex| self.surplus(vertex)).collect();
        if surplus.iter().all(|&surplus| surplus == 0) {
            return false;
        }
        let before = self.cheapest_chains(&surplus);
        let short = (0..=self.pool()).filter(|&vertex| surplus[vertex] < 0);
        let end = short.min_by_key(|&vertex| self.reached[vertex]);
        let mut to = end.expect("surpluses add up to zero");
        let mut touched = Vec::new();
        while let Some(from) = before[to] {
            touched.extend([from, to]);
            if to == self.pool() {
                self.rounded_up[from] = true;
                self.roundings -= 1;
            } else if from == self.pool() {
                self.rounded_up[to] = false;
                self.roundings += 1;
            } else {
                let (_, partition) = self.moves[from * self.bidders.len() + to];
                self.owned[from].retain(|&other| other != partition);
                self.owned[to].push(partition);
            }
            to = from;
        }
        for vertex in touched {
            if vertex != self.pool() {
                self.price_moves(vertex);
            }
        }
        true
    }

    /// Dijkstra's algorithm from all vertices with a surplus at once. Updates `reached` and
    /// returns from where each vertex is reached; `None` for those that a chain starts at.
    fn cheapest_chains(&mut self, surplus: &[isize]) -> Vec<Option<usize>> {
        let vertices = surplus.len();
        let mut before = vec![None; vertices];
        let mut open: Vec<usize> = (0..vertices).collect();
        let start =
            |vertex: usize| if surplus[vertex] > 0 { -self.reached[vertex] } else { i64::MAX };
        let mut distance: Vec<i64> = (0..vertices).map(start).collect();
        let mut farthest = 0;
        while let Some(at) = (0..open.len()).min_by_key(|&at| distance[open[at]]) {
            let from = open.swap_remove(at);
            if distance[from] == i64::MAX {
                // Nothing more can be reached: as far as the farthest, which breaks no invariant.
                distance[from] = farthest;
                continue;
            }
            farthest = distance[from];
            for &to in &open {
                let Some(cost) = self.cost(from, to) else { continue };
                let through = distance[from] + cost + self.reached[from] - self.reached[to];
                if through < distance[to] {
                    distance[to] = through;
                    before[to] = Some(from);
                }
            }
        }
        for (reached, distance) in self.reached.iter_mut().zip(distance) {
            *reached += distance;
        }
        before
    }

    /// What it costs to move one unit from one vertex to another, where that is possible.
    fn cost(&self, from: usize, to: usize) -> Option<i64> {
        if to == self.pool() {
            (self.bidders[from].fraction && !self.rounded_up[from]).then_some(0)
        } else if from == self.pool() {
            self.rounded_up[to].then_some(0)
        } else {
            let (cost, _) = self.moves[from * self.bidders.len() + to];
            (cost != i64::MAX).then_some(cost)
        }
    }

    /// Finds the cheapest moves from one bidder to each other one.
    fn price_moves(&mut self, from: usize) {
        let row = from * self.bidders.len()..(from + 1) * self.bidders.len();
        let row = &mut self.moves[row];
        row.fill(NO_MOVE);
        for &partition in &self.owned[from] {
            let now = self.bidders[from].cost(partition, &self.logs);
            for (cheapest, bidder) in row.iter_mut().zip(&self.bidders) {
                let cost = bidder.cost(partition, &self.logs) - now;
                *cheapest = (*cheapest).min((cost, partition));
            }
        }
        row[from] = NO_MOVE;
    }
}

/// The binary logarithm of a positive number in units of 2^-16, rounded down.
fn log2(x: u64) -> i64 {
    let whole = x.ilog2();
    // The mantissa in 1..2, with 63 bits after the point; each squaring yields one more bit.
    let mut mantissa = u128::from(x) << (63 - whole);
    (0..16).fold(i64::from(whole), |log, _| {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        log << 1 | bit as i64
    })
}

/// The finalizer of SplitMix64: a bijection whose output bits each depend on every input bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_textbook() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1 << 40), 40 << 16);
        assert_eq!(log2(3), 103_872);
        assert_eq!(log2(u64::MAX), (64 << 16) - 1);
    }

    #[test]
    fn a_bidder_ranks_every_partition_once() {
        for partitions in [1, 2, 4, 256, 4096] {
            let bidder = Bidder::new(NodeId(7), 1, 1, partitions);
            let mut places: Vec<u64> =
                (0..partitions).map(|p| bidder.place(p, u64::from(partitions))).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..u64::from(partitions)));
        }
    }
}
