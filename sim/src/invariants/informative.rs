//! Only those who know count for a read.

use super::Invariant;
use crate::network::HostIndex;
use crate::world::World;
use bytes::Bytes;
use quorate_core::Receipt;

pub(crate) const THIS: Invariant = Invariant {
    name: "informative answers",
    promise: "R answers count for a read at R, PR of them owners'; a fallback counts only if it holds a hint for the key",
    source: "§4.5, §4.6: a fallback that knows nothing and counts turns an outage into \"absent\"",
};

/// Checks a read's receipt.
pub(crate) fn check(
    world: &World,
    object: &Bytes,
    owners: &[HostIndex],
    (r, pr): (u8, u8),
    receipt: &Receipt,
) -> Result<(), String> {
    let (mut all, mut primaries) = (Vec::new(), 0);
    for answer in receipt.answers.iter().filter(|answer| answer.counts) {
        let at = world.host_of(answer.node).ok_or("a receipt names a node that does not exist")?;
        if all.contains(&at) {
            return Err(format!("a receipt counts n{at} twice"));
        }
        all.push(at);
        primaries += u8::from(answer.primary);
        if answer.primary != owners.contains(&at) {
            return Err(format!("a receipt is wrong about n{at}: the owners are {owners:?}"));
        }
        if !answer.primary && !world.hosts[at].disk.ledger.ever_hinted(object) {
            return Err(format!(
                "n{at} counted for a read of {} as a fallback and never held a hint for it",
                object.escape_ascii()
            ));
        }
    }
    if all.len() < usize::from(r) || primaries < pr {
        return Err(format!(
            "a read at r={r} pr={pr} was answered from {all:?}, of which {primaries} own the key"
        ));
    }
    Ok(())
}
