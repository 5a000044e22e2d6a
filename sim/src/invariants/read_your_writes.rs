//! Quorums that overlap show what was acknowledged.

use super::{Invariant, resurrected};
use crate::history::{History, Shown};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const THIS: Invariant = Invariant {
    name: "read your writes",
    promise: "a read at PR sees every write acknowledged before at PW with PR+PW>N; a read at R is never told \"absent\" after a write at PW with R+PW>N",
    source: "§4.5: R+W>N yields a quorum-like system, if the quorums are of owners",
};

/// What a read asked for, and how much of the key's history was acknowledged before it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAsked {
    pub(crate) key: usize,
    pub(crate) n: u8,
    pub(crate) r: u8,
    pub(crate) pr: u8,
    pub(crate) promises: usize,
}

/// Checks what a read showed; `absent`: it was told that nothing was ever there.
pub(crate) fn check(
    history: &History,
    asked: ReadAsked,
    shown: &[Shown],
    absent: bool,
) -> Result<(), (&'static Invariant, String)> {
    let promises = &history.key(asked.key).promises[..asked.promises];
    let overlap = |quorum: u8| {
        promises
            .iter()
            .filter(move |promise| promise.primaries + quorum > asked.n)
            .map(|promise| promise.op)
            .filter(|&op| !history.op(op).destroyed)
    };
    if absent && let Some(op) = overlap(asked.r).find(|&op| !history.op(op).delete) {
        return Err((
            &THIS,
            format!(
                "key {} was absent for a read at r={} although write {op} had been acknowledged by enough owners",
                asked.key, asked.r
            ),
        ));
    }
    let present: BTreeSet<_> = shown.iter().map(|&(op, _)| op).collect();
    let mut memo = BTreeMap::new();
    for op in overlap(asked.pr).filter(|&op| !history.op(op).delete) {
        if !history.accounted(op, &present, &mut memo) {
            return Err((
                &THIS,
                format!(
                    "a read of key {} at pr={} shows {present:?}: write {op}, acknowledged before by enough owners, is missing",
                    asked.key, asked.pr
                ),
            ));
        }
    }
    resurrected::check(history, asked.key, shown, overlap(asked.pr))
        .map_err(|sentence| (&resurrected::THIS, sentence))
}
