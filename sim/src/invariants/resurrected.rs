//! Nothing comes back, and nothing appears that nobody wrote.

use super::Invariant;
use crate::history::{Effect, History, OpIndex, Shown};

pub(crate) const THIS: Invariant = Invariant {
    name: "nothing resurrected",
    promise: "a value that an acknowledged write or delete had seen never shows again; no value shows that was not written or was refused",
    source: "§4.4: a context covers what it saw for ever; the paper's own carts brought deleted items back",
};

/// Checks values that a client read although `superseders` had been acknowledged before it asked.
pub(crate) fn check(
    history: &History,
    key: usize,
    shown: &[Shown],
    superseders: impl Iterator<Item = OpIndex>,
) -> Result<(), String> {
    for by in superseders {
        let write = history.op(by);
        if write.destroyed {
            continue;
        }
        let mut back = write
            .observed
            .iter()
            .filter(|seen| shown.iter().any(|again| history.is_same(**seen, *again)));
        if let Some((value, dot)) = back.next() {
            return Err(format!(
                "value {value} of key {key} ({dot:?}) shows although {} {by} had seen it and was acknowledged",
                if write.delete { "delete" } else { "write" },
            ));
        }
    }
    Ok(())
}

/// Which write a value is; an error if nobody wrote it, or if the writer was told that nothing
/// happened.
pub(crate) fn identify(history: &History, key: usize, bytes: &[u8]) -> Result<OpIndex, String> {
    let Some(op) = history.identify(key, bytes) else {
        return Err(format!("key {key} shows {bytes:?}, which nobody wrote there"));
    };
    if history.op(op).effect() == Effect::Failed {
        return Err(format!(
            "value {op} of key {key} shows although every attempt to write it was refused as not having happened"
        ));
    }
    Ok(op)
}
