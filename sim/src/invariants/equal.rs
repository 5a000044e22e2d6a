//! Replicas are equal after healing and quiet.

use super::Invariant;
use crate::network::HostIndex;
use crate::world::World;
use bytes::Bytes;
use quorate_core::{Siblings, Space, codec};

pub(crate) const THIS: Invariant = Invariant {
    name: "replicas equal",
    promise: "after healing and reads of every key, all owners' records of a key decode to equal objects, and no hint is left",
    source: "§2.3 eventual consistency: all updates reach all replicas eventually",
};

/// The object that all `owners` hold.
pub(crate) fn check(
    world: &World,
    object: &Bytes,
    owners: &[HostIndex],
) -> Result<Siblings, String> {
    let mut first: Option<(HostIndex, Siblings)> = None;
    for &owner in owners {
        let disk = &world.hosts[owner].disk;
        if disk.is_corrupt(Space::Objects, object) {
            return Err(format!("n{owner} was never repaired: its record is still damaged"));
        }
        let siblings = match disk.readable(Space::Objects, object) {
            None => Siblings::default(),
            Some(bytes) => codec::decode_object(bytes)
                .map_err(|error| format!("n{owner} stored what it cannot read: {error}"))?,
        };
        match &first {
            None => first = Some((owner, siblings)),
            Some((other, theirs)) if *theirs != siblings => {
                return Err(format!(
                    "n{other} and n{owner} both own {} and differ: {theirs:?} and {siblings:?}",
                    object.escape_ascii()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(first.map(|(_, siblings)| siblings).unwrap_or_default())
}
