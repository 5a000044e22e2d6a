//! After the faults end, the cluster comes to rest: liveness in bounded time.

use super::Invariant;
use crate::world::SECOND;

pub(crate) const THIS: Invariant = Invariant {
    name: "rest after healing",
    promise: "with all faults ended, hints drain, nodes vouch for what they own and every read at R=N succeeds, in bounded time",
    source: "§4.6: hints are delivered when the owner recovers; a cluster that never settles is down",
};

/// Virtual time that hints may take to drain.
pub(crate) const DRAIN_MAX: u64 = 180 * SECOND;
/// How often a read at R=N may fail before that is a finding.
pub(crate) const READ_ATTEMPTS_MAX: u32 = 6;
