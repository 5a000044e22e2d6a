//! What clients did and were told: the oracle's memory.
//!
//! Invariant: causality is tracked by what clients saw, never by the nodes' own version vectors. A
//! write supersedes exactly the values shown in the read whose context it carried; whatever a
//! context covers beyond those was superseded by a write that had seen it in turn.

use bytes::Bytes;
use quorate_core::{Dot, WriteId};
use std::collections::{BTreeMap, BTreeSet};

/// A write or delete in the history; a written value carries it as its identity.
pub type OpIndex = u32;

/// A value that a client was shown, and the name it had.
pub type Shown = (OpIndex, Dot);

/// What is known of a write's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A node acknowledged it.
    Acked,
    /// It may or may not have happened.
    Unknown,
    /// Every attempt was refused as not having happened.
    Failed,
}

/// One write or delete as its client meant it, whatever the number of attempts.
#[derive(Clone, Debug)]
pub struct WriteOp {
    /// Of which key.
    pub key: usize,
    /// A delete leaves no value.
    pub delete: bool,
    /// The values its context covered as the client saw them, and their dots.
    pub observed: Vec<Shown>,
    /// The name it was sent under, if retries were to be harmless.
    pub write_id: Option<WriteId>,
    /// How often it was sent.
    pub attempts: u32,
    /// How many attempts were refused as not having happened.
    pub refused: u32,
    /// Was an attempt acknowledged?
    pub acked: bool,
    /// The names it was given.
    pub dots: Vec<Dot>,
    /// Every durable copy was destroyed by a fault.
    pub destroyed: bool,
}

impl WriteOp {
    /// What is known of its effect.
    pub fn effect(&self) -> Effect {
        if self.acked {
            Effect::Acked
        } else if self.refused == self.attempts {
            Effect::Failed
        } else {
            Effect::Unknown
        }
    }
}

/// An acknowledged write that primaries vouched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) op: OpIndex,
    /// On how many primaries it was durable.
    pub(crate) primaries: u8,
}

/// What was done to one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHistory {
    pub(crate) ops: Vec<OpIndex>,
    /// Who observed and so superseded a value.
    pub(crate) superseders: BTreeMap<OpIndex, Vec<OpIndex>>,
    /// In the order of their acknowledgements.
    pub(crate) promises: Vec<Promise>,
    /// Acknowledged writes in that order, whatever their quorum.
    pub(crate) acked: Vec<OpIndex>,
    /// How many writes had a write id.
    pub(crate) write_ids: usize,
    /// Was a copy ever destroyed?
    pub(crate) damaged: bool,
}

/// The history of one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    ops: Vec<WriteOp>,
    keys: Vec<KeyHistory>,
}

/// Bytes of the identity that begins each value.
const IDENTITY_BYTES: usize = 4;

impl History {
    pub(crate) fn new(keys: usize) -> Self {
        Self { ops: Vec::new(), keys: vec![KeyHistory::default(); keys] }
    }

    pub(crate) fn begin(
        &mut self,
        key: usize,
        delete: bool,
        observed: Vec<Shown>,
        named: bool,
    ) -> OpIndex {
        let op = self.ops.len() as OpIndex;
        let history = &mut self.keys[key];
        history.ops.push(op);
        for &(value, _) in &observed {
            history.superseders.entry(value).or_default().push(op);
        }
        history.write_ids += usize::from(named);
        let write_id = named.then(|| WriteId::of(&op.to_be_bytes()));
        self.ops.push(WriteOp {
            key,
            delete,
            observed,
            write_id,
            attempts: 0,
            refused: 0,
            acked: false,
            dots: Vec::new(),
            destroyed: false,
        });
        op
    }

    pub(crate) fn op(&self, op: OpIndex) -> &WriteOp {
        &self.ops[op as usize]
    }
    pub(crate) fn op_mut(&mut self, op: OpIndex) -> &mut WriteOp {
        &mut self.ops[op as usize]
    }
    pub(crate) fn key(&self, key: usize) -> &KeyHistory {
        &self.keys[key]
    }
    pub(crate) fn key_mut(&mut self, key: usize) -> &mut KeyHistory {
        &mut self.keys[key]
    }
    /// Every write and delete.
    pub fn ops(&self) -> &[WriteOp] {
        &self.ops
    }

    /// An acknowledged write is durable on so many of its owners.
    pub(crate) fn promise(&mut self, op: OpIndex, primaries: u8) {
        let key = self.op(op).key;
        self.keys[key].promises.push(Promise { op, primaries });
    }

    /// One owner's copy of a key was destroyed: each promise may have lost one owner.
    pub(crate) fn damage(&mut self, key: usize) {
        let history = &mut self.keys[key];
        history.damaged = true;
        for promise in &mut history.promises {
            promise.primaries = promise.primaries.saturating_sub(1);
        }
    }

    /// The bytes that a write stores: its identity, then something to fill a disk with.
    pub(crate) fn value(op: OpIndex, filling: usize) -> Bytes {
        let mut bytes = op.to_be_bytes().to_vec();
        bytes.resize(IDENTITY_BYTES + filling, b'.');
        bytes.into()
    }

    /// Which write stored these bytes under this key; `None`: no client ever did.
    pub(crate) fn identify(&self, key: usize, bytes: &[u8]) -> Option<OpIndex> {
        let op = OpIndex::from_be_bytes(*bytes.first_chunk::<IDENTITY_BYTES>()?);
        let known = self.ops.get(op as usize)?;
        (known.key == key && !known.delete).then_some(op)
    }

    /// Is a value here, or superseded by writes that are in turn accounted for? A delete that may
    /// have happened accounts for what it observed; destroyed writes are excused.
    pub(crate) fn accounted(
        &self,
        op: OpIndex,
        present: &BTreeSet<OpIndex>,
        memo: &mut BTreeMap<OpIndex, bool>,
    ) -> bool {
        if let Some(&known) = memo.get(&op) {
            return known;
        }
        let this = self.op(op);
        let mut superseded = || {
            let by = self.keys[this.key].superseders.get(&op);
            by.into_iter().flatten().any(|&by| {
                let effective = self.op(by).effect() != Effect::Failed;
                effective && (self.op(by).delete || self.accounted(by, present, memo))
            })
        };
        let accounted = present.contains(&op) || this.destroyed || superseded();
        memo.insert(op, accounted);
        accounted
    }

    /// Is this the very value that was seen before? A write with a write id may have been executed
    /// by two coordinators, under two names: whoever saw one has not seen the other.
    pub(crate) fn is_same(&self, seen: Shown, again: Shown) -> bool {
        seen.0 == again.0 && (seen.1 == again.1 || self.op(seen.0).write_id.is_none())
    }

    /// Had `later` seen `earlier`, directly or through what it saw?
    pub(crate) fn descends(&self, later: OpIndex, earlier: Shown) -> bool {
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![later]);
        while let Some(op) = waiting.pop() {
            for &value in &self.op(op).observed {
                if self.is_same(value, earlier) {
                    return true;
                }
                // A value is younger than what it observed.
                if value.0 > earlier.0 && seen.insert(value.0) {
                    waiting.push(value.0);
                }
            }
        }
        false
    }
}
