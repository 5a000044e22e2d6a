//! What a disk ever held, as the oracle remembers it: the ground truth of "durable before ack".
//!
//! Invariant: an entry is made when a commit is durable, never earlier; damage to a record takes
//! its entry back.

use bytes::Bytes;
use quorate_core::{Dot, Key, NodeId, Siblings, Space, VersionVector, Write, codec};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the owner that begin a hint's key; the rest is the object's key.
const OWNER_BYTES: usize = 8;

/// One disk's past, by object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// All that was ever durable of an object, as object or as hint.
    seen: BTreeMap<Bytes, VersionVector>,
    /// Every durable state: what it had seen, and the names of its values.
    states: BTreeMap<Bytes, Vec<(VersionVector, Vec<Dot>)>>,
    /// What the object's own record says now.
    current: BTreeMap<Bytes, VersionVector>,
    /// Objects of which a hint was ever issued.
    hinted: BTreeSet<Bytes>,
    /// A sentence about a record that forgot what it had, for the invariant that forbids it.
    forgot: Option<String>,
}

impl Ledger {
    pub(crate) fn issued(&mut self, writes: &[Write]) {
        for write in writes.iter().filter(|write| write.space == Space::Hints) {
            if let Some((_, object)) = split_hint_key(&write.key) {
                self.hinted.insert(object);
            }
        }
    }

    pub(crate) fn durable(&mut self, writes: &[Write]) {
        for write in writes {
            match (write.space, &write.value) {
                (Space::Meta, _) | (Space::Hints, None) => {}
                (Space::Hints, Some(value)) => {
                    if let (Some((_, object)), Ok((_, _, siblings))) =
                        (split_hint_key(&write.key), codec::decode_hint(&write.key, value))
                    {
                        self.remember(&object, &siblings);
                    }
                }
                (Space::Objects, value) => {
                    let siblings = value.as_ref().map(|value| codec::decode_object(value));
                    let siblings = siblings.transpose().ok().flatten().unwrap_or_default();
                    self.object(&write.key, &siblings);
                }
            }
        }
    }

    fn object(&mut self, object: &Bytes, siblings: &Siblings) {
        let before = self.current.insert(object.clone(), siblings.context().clone());
        if let Some(before) = before
            && !siblings.context().descends(&before)
        {
            self.forgot = Some(format!(
                "the record {} knew {before:?} and was overwritten by one that knows {:?}",
                object.escape_ascii(),
                siblings.context()
            ));
        }
        self.remember(object, siblings);
    }

    fn remember(&mut self, object: &Bytes, siblings: &Siblings) {
        self.seen.entry(object.clone()).or_default().merge(siblings.context());
        let values = siblings.values().map(|(dot, _)| dot).collect();
        let states = self.states.entry(object.clone()).or_default();
        states.push((siblings.context().clone(), values));
    }

    /// Was there a durable state that had seen all these values and held none of them? (A hint that
    /// was handed over since counts: its owner's disk has it.)
    pub(crate) fn ever_without(&self, object: &Bytes, dots: &[Dot]) -> bool {
        let mut states = self.states.get(object).into_iter().flatten();
        states
            .any(|(seen, values)| dots.iter().all(|dot| seen.covers(*dot) && !values.contains(dot)))
    }

    /// The copy is destroyed.
    pub(crate) fn destroyed(&mut self, object: &Bytes) {
        self.current.remove(object);
    }

    pub(crate) fn ever_held(&self, object: &Bytes, dot: Dot) -> bool {
        self.seen.get(object).is_some_and(|seen| seen.covers(dot))
    }

    pub(crate) fn ever_hinted(&self, object: &Bytes) -> bool {
        self.hinted.contains(object)
    }

    pub(crate) fn take_forgot(&mut self) -> Option<String> {
        self.forgot.take()
    }
}

/// Where the core stores an object: partition, length of the bucket's name, bucket, key.
pub(crate) fn object_key(key: &Key, partitions: u32) -> Bytes {
    let mut out = Vec::new();
    out.extend_from_slice(&key.token().partition(partitions).0.to_be_bytes());
    out.extend_from_slice(&(key.bucket().len() as u16).to_be_bytes());
    out.extend_from_slice(key.bucket());
    out.extend_from_slice(key.key());
    out.into()
}

/// A hint's owner and its object.
pub(crate) fn split_hint_key(stored: &Bytes) -> Option<(NodeId, Bytes)> {
    let (owner, _) = stored.split_first_chunk::<OWNER_BYTES>()?;
    Some((NodeId(u64::from_be_bytes(*owner)), stored.slice(OWNER_BYTES..)))
}
