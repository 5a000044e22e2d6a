//! Every request is answered exactly once, and in time.

use super::Invariant;
use crate::world::SECOND;

pub(crate) const THIS: Invariant = Invariant {
    name: "answered once",
    promise: "a request is answered exactly once, unless its node crashed, and no later than its timeout",
    source: "the contract of `Input::Request`; a client that hears nothing cannot even retry",
};

/// What an answer may take beyond the timeout of its request: a tick, and the way back of a forward.
const SLACK: u64 = 2 * SECOND;

/// What is wrong with an answer that took so long, if anything.
pub(crate) fn late(elapsed: u64, timeout: u64) -> Option<String> {
    (elapsed > timeout + SLACK).then(|| {
        format!(
            "an answer took {} ms and the client had given {} ms",
            elapsed / 1_000,
            timeout / 1_000
        )
    })
}
