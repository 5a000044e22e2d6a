//! No acknowledged write is lost.

use super::Invariant;
use crate::history::{Effect, History, OpIndex};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const THIS: Invariant = Invariant {
    name: "no acknowledged write lost",
    promise: "an acknowledged value is there in the end, or was superseded by a write or delete that had seen it",
    source: "§2.3, §4.4: an \"always writeable\" store in which no update is lost; excused: every durable copy destroyed",
};

/// What is lost of a key whose values in the end are these.
pub(crate) fn check(
    history: &History,
    key: usize,
    present: &BTreeSet<OpIndex>,
) -> Result<(), String> {
    let mut memo = BTreeMap::new();
    for &op in &history.key(key).ops {
        let write = history.op(op);
        if write.delete || write.effect() != Effect::Acked {
            continue;
        }
        if !history.accounted(op, present, &mut memo) {
            return Err(format!(
                "value {op} of key {key} (named {:?}) was acknowledged, nothing that is there now has seen it, and it is gone; there is: {present:?}",
                write.dots
            ));
        }
    }
    Ok(())
}
