//! Durable before acknowledged: what a receipt says was true on the disks when it was given.

use super::Invariant;
use crate::history::WriteOp;
use crate::network::HostIndex;
use crate::world::World;
use bytes::Bytes;
use quorate_core::{Dot, Receipt, Siblings, Space, codec};

pub(crate) const THIS: Invariant = Invariant {
    name: "durable before acknowledged",
    promise: "a write acknowledged at W was durable on W distinct disks (PW of them owners') by then, and its receipt names no other",
    source: "contract point 3 of the core; §4.5: W nodes must participate in a successful write",
};

/// What was asked of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) w: u8,
    pub(crate) pw: u8,
}

/// Checks an acknowledgement against the disks; tells on how many owners' disks the write is.
pub(crate) fn check(
    world: &World,
    object: &Bytes,
    owners: &[HostIndex],
    write: &WriteOp,
    dot: Option<Dot>,
    asked: Asked,
    receipt: &Receipt,
) -> Result<u8, String> {
    let holders: Vec<HostIndex> =
        (0..world.len()).filter(|&at| holds(world, at, object, write, dot)).collect();
    let on_owners = holders.iter().filter(|at| owners.contains(at)).count() as u8;
    if holders.len() < usize::from(asked.w) || on_owners < asked.pw {
        return Err(format!(
            "a write ({dot:?}) was acknowledged at w={} pw={} and is durable on {holders:?} only, of which {on_owners} own it",
            asked.w, asked.pw
        ));
    }
    for answer in receipt.answers.iter().filter(|answer| answer.counts) {
        let at = world.host_of(answer.node).ok_or("a receipt names a node that does not exist")?;
        if !holders.contains(&at) {
            return Err(format!("a receipt says that {dot:?} is durable on n{at}, and it is not"));
        }
        if answer.primary != owners.contains(&at) {
            return Err(format!(
                "a receipt calls n{at} {} and the owners are {owners:?}",
                if answer.primary { "a primary" } else { "a fallback" }
            ));
        }
    }
    Ok(on_owners)
}

/// Was the write ever durable here? A delete has no name of its own: it is there where all that it
/// had seen was known and nothing of it was left.
fn holds(world: &World, at: HostIndex, object: &Bytes, write: &WriteOp, dot: Option<Dot>) -> bool {
    let ledger = &world.hosts[at].disk.ledger;
    if let Some(dot) = dot {
        return ledger.ever_held(object, dot);
    }
    let observed: Vec<Dot> = write.observed.iter().map(|&(_, dot)| dot).collect();
    ledger.ever_without(object, &observed)
}

/// Has this record taken in the write?
fn knows(record: &Siblings, write: &WriteOp, dot: Option<Dot>) -> bool {
    match dot {
        Some(dot) => record.context().covers(dot),
        None => write.observed.iter().all(|&(_, seen)| {
            record.context().covers(seen) && !record.values().any(|(dot, _)| dot == seen)
        }),
    }
}

/// An object's readable durable records on one disk: its own and hints.
fn records(world: &World, at: HostIndex, object: &Bytes) -> Vec<Siblings> {
    let disk = &world.hosts[at].disk;
    let own = disk.readable(Space::Objects, object).map(|bytes| codec::decode_object(bytes));
    let hints = disk
        .hints()
        .filter(|(key, _)| key.ends_with(object))
        .map(|(key, bytes)| codec::decode_hint(key, bytes).map(|(_, _, siblings)| siblings));
    own.into_iter().chain(hints).flatten().collect()
}

/// Is a readable durable copy of the write left on any disk?
pub(crate) fn survives(world: &World, object: &Bytes, write: &WriteOp) -> bool {
    (0..world.len()).flat_map(|at| records(world, at, object)).any(|record| {
        if write.delete {
            knows(&record, write, None)
        } else {
            write.dots.iter().any(|&dot| knows(&record, write, Some(dot)))
        }
    })
}
