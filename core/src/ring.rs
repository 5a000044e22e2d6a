//! The ring: preference lists over claimed partitions (§4.6, §6.2).
//!
//! Invariants: a preference list never names a node twice, and it names a zone again only after
//! every zone that has members left was named as often. It depends on the members alone, so two
//! nodes that know the same members walk the same way.

use crate::claim::{ClaimMember, claim};
use crate::id::{NodeId, Partition};
use std::collections::BTreeMap;

/// Members in one stored preference list: the greatest N and as many fallbacks again.
pub const WALK_MAX: usize = 64;

/// Who owns what, and in which order the others stand in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The preference lists, `walk` nodes each, by partition.
    lists: Vec<NodeId>,
    walk: usize,
    claimed: BTreeMap<NodeId, u32>,
}

impl Ring {
    /// Claims the partitions for `members` and derives every preference list.
    pub fn new(members: &BTreeMap<NodeId, ClaimMember>, partitions: u32) -> Self {
        let owners = claim(members, partitions);
        let mut claimed: BTreeMap<NodeId, u32> = members.keys().map(|&node| (node, 0)).collect();
        for owner in &owners {
            *claimed.get_mut(owner).expect("owners are members") += 1;
        }
        let walker = Walker::new(members, &owners);
        let mut lists = Vec::with_capacity(owners.len() * walker.length);
        let mut found = Vec::with_capacity(walker.nodes.len());
        for start in 0..owners.len() {
            walker.walk(start, &mut found);
            // Stable: within a round the nodes stay in the order of the walk.
            found.sort_by_key(|&(round, _)| round);
            lists.extend(found.drain(..).take(walker.length).map(|(_, node)| walker.nodes[node]));
        }
        Self { lists, walk: walker.length, claimed }
    }

    /// The members that answer for a partition, in order of preference: the first N are its
    /// primaries, the rest its fallbacks. All members of some weight are in it, or the first
    /// [`WALK_MAX`] of them. Empty if no member has a weight.
    pub fn preference_list(&self, partition: Partition) -> &[NodeId] {
        let start = partition.0 as usize * self.walk;
        self.lists.get(start..start + self.walk).unwrap_or_default()
    }

    /// How many partitions a node owns.
    pub fn claimed(&self, node: NodeId) -> u32 {
        self.claimed.get(&node).copied().unwrap_or(0)
    }
}

/// The members as one walk after another needs them: small numbers for nodes and zones.
struct Walker {
    nodes: Vec<NodeId>,
    zone_of: Vec<usize>,
    zones: usize,
    /// The owner of each partition, clockwise.
    ring: Vec<usize>,
    /// Members that own nothing because there are fewer partitions than members.
    spare: Vec<usize>,
    /// Nodes in one list.
    length: usize,
    /// Rounds over the zones that are in every list from end to end.
    full_rounds: usize,
    /// Nodes in those rounds.
    in_full_rounds: usize,
}

impl Walker {
    fn new(members: &BTreeMap<NodeId, ClaimMember>, owners: &[NodeId]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let (mut nodes, mut zone_of, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (&node, member) in members.iter().filter(|(_, member)| member.weight > 0) {
            let zone = names.iter().position(|&name| name == member.zone).unwrap_or_else(|| {
                names.push(&member.zone);
                sizes.push(0);
                names.len() - 1
            });
            nodes.push(node);
            zone_of.push(zone);
            sizes[zone] += 1;
        }
        let number = |node| nodes.binary_search(node).expect("owners are members of some weight");
        let ring: Vec<usize> = owners.iter().map(number).collect();
        let mut owns = vec![false; nodes.len()];
        for &node in &ring {
            owns[node] = true;
        }
        let spare = (0..nodes.len()).filter(|&node| !owns[node]).collect();
        let length = nodes.len().min(WALK_MAX);
        let within = |rounds: usize| sizes.iter().map(|&size: &usize| size.min(rounds)).sum();
        let full_rounds = (0..length).take_while(|&rounds| within(rounds) < length).last();
        let full_rounds = full_rounds.unwrap_or(0);
        let in_full_rounds = within(full_rounds);
        Self {
            zones: names.len(),
            nodes,
            zone_of,
            ring,
            spare,
            length,
            full_rounds,
            in_full_rounds,
        }
    }

    /// Walks clockwise from partition `start`: each node once, with the number of nodes of its
    /// zone before it. The first node of each zone comes first in the preference list, then the
    /// second of each, and so on; the walk ends as soon as no later node can be among the first
    /// `length`.
    fn walk(&self, start: usize, found: &mut Vec<(usize, usize)>) {
        let mut taken = vec![false; self.nodes.len()];
        let mut of_zone = vec![0; self.zones];
        let mut missing_full = self.in_full_rounds;
        let mut missing_last = self.length - self.in_full_rounds;
        // Those who own nothing turn by the partition, so that one of them is not always first.
        let turn = start.checked_rem(self.spare.len()).unwrap_or(0);
        let clockwise = self.ring[start..].iter().chain(&self.ring[..start]);
        for &node in clockwise.chain(&self.spare[turn..]).chain(&self.spare[..turn]) {
            if missing_full == 0 && missing_last == 0 {
                break;
            }
            if taken[node] {
                continue;
            }
            taken[node] = true;
            let round = of_zone[self.zone_of[node]];
            of_zone[self.zone_of[node]] += 1;
            found.push((round, node));
            if round < self.full_rounds {
                missing_full -= 1;
            } else if round == self.full_rounds {
                missing_last = missing_last.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(zones: &[&str]) -> BTreeMap<NodeId, ClaimMember> {
        let member = |zone: &&str| ClaimMember { weight: 1, zone: (*zone).to_owned() };
        zones.iter().enumerate().map(|(id, zone)| (NodeId(id as u64 * 977), member(zone))).collect()
    }

    #[test]
    fn a_walk_takes_each_zone_once_before_it_takes_one_again() {
        let members = members(&["a", "a", "a", "a", "b", "b", "c"]);
        let ring = Ring::new(&members, 64);
        for partition in 0..64 {
            let list = ring.preference_list(Partition(partition));
            let zones: String = list.iter().map(|node| members[node].zone.as_str()).collect();
            let rounds = [&zones[..3], &zones[3..5], &zones[5..]].map(|round| {
                let mut round: Vec<char> = round.chars().collect();
                round.sort_unstable();
                String::from_iter(round)
            });
            assert_eq!(rounds, ["abc", "ab", "aa"], "{zones}");
        }
    }

    #[test]
    fn members_without_a_partition_still_stand_in() {
        let ring = Ring::new(&members(&["a"; 5]), 2);
        for partition in 0..2 {
            assert_eq!(ring.preference_list(Partition(partition)).len(), 5);
        }
    }

    #[test]
    fn a_list_is_cut_at_its_limit_as_if_it_had_been_walked_to_the_end() {
        // The one member of zone b must be in every list, however far away its partitions are.
        let mut zones = vec!["a"; 99];
        zones.push("b");
        let ring = Ring::new(&members(&zones), 256);
        for partition in 0..256 {
            let list = ring.preference_list(Partition(partition));
            assert_eq!(list.len(), WALK_MAX);
            assert!(list[..2].contains(&NodeId(99 * 977)));
        }
    }

    #[test]
    fn a_member_without_weight_owns_nothing_and_is_asked_nothing() {
        let mut members = members(&["a", "a", "a"]);
        members.get_mut(&NodeId(977)).unwrap().weight = 0;
        let ring = Ring::new(&members, 8);
        assert_eq!(ring.claimed(NodeId(977)), 0);
        assert_eq!(ring.preference_list(Partition(0)).len(), 2);
        for member in members.values_mut() {
            member.weight = 0;
        }
        assert!(Ring::new(&members, 8).preference_list(Partition(7)).is_empty());
    }
}
