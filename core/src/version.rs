//! Version vectors and dots (§4.4): who has seen which writes.
//!
//! Invariant: a vector that claims `{a: 9}` claims every earlier dot of `a` on that key; an actor
//! therefore names dots only while it durably holds everything it named before (see `replica`).

use crate::id::Actor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of one write: the counter-th of an actor. Counters start at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot(pub Actor, pub u64);

/// How two versions stand to each other. There is no "greater": concurrent is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// Both have seen the same writes.
    Equal,
    /// The left one is an ancestor of the right one.
    Before,
    /// The left one descends from the right one.
    After,
    /// Each has seen something that the other has not.
    Concurrent,
}

/// For each actor, the greatest counter seen. An absent actor counts as zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionVector(BTreeMap<Actor, u64>);

impl VersionVector {
    /// Has nothing been seen?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The number of actors named.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The greatest counter seen of `actor`; zero if none.
    pub fn get(&self, actor: Actor) -> u64 {
        self.0.get(&actor).copied().unwrap_or(0)
    }
    /// Has the write named `dot` been seen?
    pub fn covers(&self, dot: Dot) -> bool {
        dot.1 <= self.get(dot.0)
    }
    /// Marks `dot`, and with it every earlier dot of its actor, as seen.
    pub fn observe(&mut self, dot: Dot) {
        let seen = self.0.entry(dot.0).or_insert(0);
        *seen = dot.1.max(*seen);
    }
    /// Takes in all that `other` has seen. Returns whether that was news.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut news = false;
        for dot in other.iter() {
            if !self.covers(dot) {
                self.observe(dot);
                news = true;
            }
        }
        news
    }
    /// Has this vector seen everything that `other` has?
    pub fn descends(&self, other: &Self) -> bool {
        other.iter().all(|dot| self.covers(dot))
    }
    /// How this vector stands to `other`.
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.descends(other), other.descends(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::After,
            (false, true) => Causality::Before,
            (false, false) => Causality::Concurrent,
        }
    }
    /// The latest dot of each actor, in the actors' order.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(&actor, &counter)| Dot(actor, counter))
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::default();
        for dot in dots {
            vector.observe(dot);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Run;

    fn vector(dots: &[(u64, u64)]) -> VersionVector {
        dots.iter().map(|&(run, n)| Dot(Actor(Run(run), 0), n)).collect()
    }

    #[test]
    fn comparison_has_four_answers() {
        for (a, b, want) in [
            (vector(&[]), vector(&[]), Causality::Equal),
            (vector(&[(1, 1)]), vector(&[]), Causality::After),
            (vector(&[(1, 1)]), vector(&[(1, 2)]), Causality::Before),
            (vector(&[(1, 2)]), vector(&[(1, 1), (2, 1)]), Causality::Concurrent),
        ] {
            assert_eq!(a.compare(&b), want, "{a:?} against {b:?}");
        }
    }

    #[test]
    fn merging_tells_whether_it_was_news() {
        let mut a = vector(&[(1, 2)]);
        assert!(!a.merge(&vector(&[(1, 1)])));
        assert!(a.merge(&vector(&[(2, 1)])));
        assert_eq!(a, vector(&[(1, 2), (2, 1)]));
    }
}
