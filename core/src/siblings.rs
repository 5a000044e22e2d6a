//! An object's concurrent values under one context: a dotted version vector set (§4.4).
//!
//! Invariants: every value's dot is covered by the context; merge is a join (associative,
//! commutative, idempotent), so replicas that saw the same updates are equal whatever the order; a
//! value dropped by an update never returns through a merge, because the context still covers it.

use crate::id::{Digest, WriteId};
use crate::time::WallTime;
use crate::version::{Dot, VersionVector};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a client stored, opaque to the core, and when a coordinator took it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value {
    /// The host's encoding of body and metadata.
    #[serde(rename = "b")]
    pub bytes: Bytes,
    /// The coordinator's wall clock at the write (`Last-Modified`).
    #[serde(rename = "m")]
    pub modified: WallTime,
}

/// A remembered write id: which dot it was given and what was written under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriteRecord {
    /// When the coordinator took it, but after those it knew; the oldest are forgotten first.
    #[serde(rename = "t")]
    pub at: WallTime,
    /// The dot it was given.
    #[serde(rename = "d")]
    pub dot: Dot,
    /// The client's name for the write.
    #[serde(rename = "i")]
    pub id: WriteId,
    /// The digest of the value's bytes.
    #[serde(rename = "h")]
    pub hash: Digest,
}

/// From this many siblings on, a write is worth a warning.
pub(crate) const SIBLINGS_WARN: usize = 25;

/// How many write ids an object remembers: the window within which a retry is harmless.
pub const WRITE_IDS_MAX: usize = 16;

/// An object: what has been seen, and the values that nothing seen has replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Siblings {
    #[serde(rename = "c")]
    context: VersionVector,
    #[serde(rename = "v")]
    values: BTreeMap<Dot, Value>,
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    writes: Vec<WriteRecord>,
}

/// What a peer or a disk says an object is.
#[derive(Deserialize)]
struct Unchecked {
    #[serde(rename = "c")]
    context: VersionVector,
    #[serde(rename = "v")]
    values: BTreeMap<Dot, Value>,
    #[serde(rename = "w", default)]
    writes: Vec<WriteRecord>,
}

impl TryFrom<Unchecked> for Siblings {
    type Error = &'static str;
    fn try_from(Unchecked { context, values, writes }: Unchecked) -> Result<Self, Self::Error> {
        if !values.keys().all(|&dot| context.covers(dot)) {
            return Err("a value whose dot its context does not cover");
        }
        let ordered = writes.is_sorted_by(|a, b| a > b);
        if writes.len() > WRITE_IDS_MAX || !ordered {
            return Err("write ids that no replica would keep");
        }
        Ok(Self { context, values, writes })
    }
}

impl Siblings {
    /// Nothing was ever written here.
    pub fn is_absent(&self) -> bool {
        self.context.is_empty()
    }
    /// Something was written and all of it deleted: a context without values.
    pub fn is_tombstone(&self) -> bool {
        !self.context.is_empty() && self.values.is_empty()
    }
    /// What has been seen: the context that a client gets.
    pub fn context(&self) -> &VersionVector {
        &self.context
    }
    /// The concurrent values, in the dots' order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (Dot, &Value)> + '_ {
        self.values.iter().map(|(&dot, value)| (dot, value))
    }
    /// How many concurrent values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }
    /// Are there no values (absent or deleted)?
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
    /// The remembered write ids, newest first.
    pub fn writes(&self) -> &[WriteRecord] {
        &self.writes
    }
    /// The record of an earlier write under `id`, if the object still remembers it.
    pub fn write(&self, id: WriteId) -> Option<&WriteRecord> {
        self.writes.iter().find(|record| record.id == id)
    }
    /// How many values a write with `context` would keep beside its own, and their bytes.
    pub fn kept_by_write(&self, context: &VersionVector) -> (usize, u64) {
        let kept = self.values.iter().filter(|(dot, _)| !context.covers(**dot));
        kept.fold((0, 0), |(count, bytes), (_, value)| {
            (count + 1, bytes + value.bytes.len() as u64)
        })
    }

    /// A client's write: drops the values its context covers and adds one under a fresh dot.
    pub fn write_value(
        &mut self,
        context: &VersionVector,
        dot: Dot,
        value: Value,
        id: Option<WriteId>,
    ) {
        debug_assert!(!self.context.covers(dot), "a dot names one write only");
        self.drop_covered(context);
        self.context.observe(dot);
        if let Some(id) = id {
            let hash = Digest::of(&value.bytes);
            // The newest is remembered longest, also where this coordinator's clock is behind.
            let newest = self.writes.first().map_or(0, |record| record.at.0.saturating_add(1));
            let at = WallTime(value.modified.0.max(newest));
            self.writes.push(WriteRecord { at, dot, id, hash });
            self.trim_writes();
        }
        self.values.insert(dot, value);
    }

    /// A client's delete: drops the values its context covers and adds nothing.
    pub fn delete(&mut self, context: &VersionVector) {
        self.drop_covered(context);
    }

    /// Takes in another replica's state: a value stays if both have it, or if its dot is not
    /// covered by the other's context. Returns whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = (self.values.len(), self.writes.len());
        let mut changed = false;
        self.values.retain(|dot, _| other.values.contains_key(dot) || !other.context.covers(*dot));
        changed |= self.values.len() != before.0;
        for (dot, value) in other.values() {
            if !self.context.covers(dot) {
                self.values.insert(dot, value.clone());
                changed = true;
            }
        }
        changed |= self.context.merge(&other.context);
        for record in &other.writes {
            if !self.writes.contains(record) {
                self.writes.push(*record);
            }
        }
        if self.writes.len() != before.1 {
            let old = self.writes[..before.1].to_vec();
            self.trim_writes();
            changed |= self.writes != old;
        }
        changed
    }

    /// The values as a client sees them: one write id that reached two coordinators shows once.
    pub fn shown(&self) -> Vec<(Dot, &Value)> {
        let mut seen: Vec<WriteId> = Vec::new();
        self.values()
            .filter(|(dot, _)| match self.writes.iter().find(|record| record.dot == *dot) {
                None => true,
                Some(record) if seen.contains(&record.id) => false,
                Some(record) => {
                    seen.push(record.id);
                    true
                }
            })
            .collect()
    }

    /// The value that a bucket without siblings shows: the latest by (wall time, dot).
    pub fn newest(&self) -> Option<(Dot, &Value)> {
        self.values().max_by_key(|(dot, value)| (value.modified, *dot))
    }

    fn drop_covered(&mut self, context: &VersionVector) {
        self.values.retain(|dot, _| !context.covers(*dot));
        self.context.merge(context);
    }

    /// Keeps the newest records in one total order, so that "the newest of the union" stays a join.
    fn trim_writes(&mut self) {
        self.writes.sort_unstable_by(|a, b| b.cmp(a));
        self.writes.truncate(WRITE_IDS_MAX);
    }
}
