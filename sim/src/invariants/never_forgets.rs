//! A replica's record never goes back. Checked at every durable commit, in the ledger.

use super::Invariant;

pub(crate) const THIS: Invariant = Invariant {
    name: "a replica never forgets",
    promise: "a durable record of an object is replaced only by one that has seen all it had seen",
    source: "§4.4: versions are merged, never overwritten; a hint that overwrites (§4.6) loses writes",
};
