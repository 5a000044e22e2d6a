//! An in-memory disk with two images: what is durable, and what reads see (issued commits too, as
//! from a memtable).
//!
//! Invariants: commits become durable in the order issued; a crash keeps everything that was
//! reported `Stored` and at most a prefix of what was issued and not yet reported.

use crate::ledger::Ledger;
use crate::rng::Rng;
use bytes::Bytes;
use quorate_core::{OpId, Space, StoreCommand, StoreError, StoreReply, Write};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// How the disks behave in one run. Times in microseconds.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// Time to make a commit durable, from and to.
    pub commit: (u64, u64),
    /// Time to read, from and to.
    pub read: (u64, u64),
}

impl DiskPlan {
    /// As quick as a good disk.
    pub const QUICK: Self = Self { commit: (300, 1_500), read: (20, 200) };
}

/// A record, and whether it can still be read.
#[derive(Clone, Debug)]
struct Record {
    value: Bytes,
    corrupt: bool,
}

type Image = BTreeMap<(Space, Bytes), Record>;

/// How a command that was issued ends when its time has come.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// The commit at the front becomes durable.
    Commit,
    /// The answer is known already.
    Answer(Result<StoreReply, StoreError>),
    /// The answer is what the disk says then.
    Look(StoreCommand),
}

/// One host's disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    durable: Image,
    live: Image,
    pending: VecDeque<Vec<Write>>,
    last_commit: OpId,
    busy_until: u64,
    /// Commits fail while this is more than zero (periods may overlap).
    pub(crate) full: u32,
    /// Latency is multiplied while this is more than zero.
    pub(crate) slow: u32,
    pub(crate) ledger: Ledger,
    pub(crate) plan: DiskPlan,
    rng: Rng,
}

/// What a slow period multiplies latency by.
const SLOW_FACTOR: u64 = 40;

impl Disk {
    pub(crate) fn new(plan: DiskPlan, seed: u64, name: &str) -> Self {
        Self {
            durable: Image::new(),
            live: Image::new(),
            pending: VecDeque::new(),
            last_commit: OpId::default(),
            busy_until: 0,
            full: 0,
            slow: 0,
            ledger: Ledger::default(),
            plan,
            rng: Rng::stream(seed, name),
        }
    }

    /// Takes a command; says when and how it will end.
    pub(crate) fn issue(&mut self, now: u64, op: OpId, command: StoreCommand) -> (u64, Ending) {
        let factor = if self.slow > 0 { SLOW_FACTOR } else { 1 };
        let StoreCommand::Commit { writes } = command else {
            let done = now + self.rng.range(self.plan.read.0, self.plan.read.1) * factor;
            // A read may look before or after the commits issued while it is on its way.
            let early = self.rng.per_mille(500);
            let ending =
                if early { Ending::Answer(self.look(&command)) } else { Ending::Look(command) };
            return (done, ending);
        };
        let latency = self.rng.range(self.plan.commit.0, self.plan.commit.1) * factor;
        self.busy_until = (now + latency).max(self.busy_until + 1);
        if self.full > 0 {
            return (self.busy_until, Ending::Answer(Err(StoreError::Full)));
        }
        self.ledger.issued(&writes);
        apply(&mut self.live, &writes);
        self.pending.push_back(writes);
        self.last_commit = op;
        (self.busy_until, Ending::Commit)
    }

    /// Ends a command.
    pub(crate) fn end(&mut self, ending: Ending) -> Result<StoreReply, StoreError> {
        match ending {
            Ending::Answer(answer) => answer,
            Ending::Look(command) => self.look(&command),
            Ending::Commit => {
                self.flush_one();
                Ok(StoreReply::Committed)
            }
        }
    }

    fn flush_one(&mut self) {
        if let Some(writes) = self.pending.pop_front() {
            self.ledger.durable(&writes);
            apply(&mut self.durable, &writes);
        }
    }

    fn look(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        let as_of = self.last_commit;
        match command {
            StoreCommand::Read { space, key } => match self.live.get(&(*space, key.clone())) {
                Some(record) if record.corrupt => Err(StoreError::Corrupt),
                found => Ok(StoreReply::Value { value: found.map(|r| r.value.clone()), as_of }),
            },
            StoreCommand::Scan { space, start, end, limit, bytes_limit } => {
                let to = match end {
                    Some(end) if end <= start => {
                        return Ok(StoreReply::Page { entries: Vec::new(), more: false, as_of });
                    }
                    Some(end) => Bound::Excluded((*space, end.clone())),
                    None => Bound::Unbounded,
                };
                let range = (Bound::Included((*space, start.clone())), to);
                let mut records =
                    self.live.range(range).take_while(|((at, _), _)| at == space).peekable();
                let (mut entries, mut bytes) = (Vec::new(), 0);
                while entries.len() < *limit as usize
                    && bytes < *bytes_limit as usize
                    && let Some(((_, key), record)) = records.next()
                {
                    bytes += key.len() + record.value.len();
                    let value = if record.corrupt {
                        Err(StoreError::Corrupt)
                    } else {
                        Ok(record.value.clone())
                    };
                    entries.push((key.clone(), value));
                }
                Ok(StoreReply::Page { entries, more: records.peek().is_some(), as_of })
            }
            StoreCommand::Commit { .. } => unreachable!("`issue` keeps commits apart"),
        }
    }

    /// The power goes: what was not reported is lost, except perhaps a prefix of it.
    pub(crate) fn crash(&mut self) {
        for _ in 0..self.rng.below(self.pending.len() as u64 * 2 + 1) {
            // Half of the time everything or most is lost, and sometimes nothing is.
            if self.rng.per_mille(500) {
                break;
            }
            self.flush_one();
        }
        self.pending.clear();
        self.live.clone_from(&self.durable);
        self.last_commit = OpId::default();
        self.busy_until = 0;
    }

    /// The records of a space that a start finds.
    pub(crate) fn records(&self, space: Space) -> Vec<(Bytes, Bytes)> {
        let of_space = self.durable.iter().filter(|((at, _), _)| *at == space);
        of_space.map(|((_, key), record)| (key.clone(), record.value.clone())).collect()
    }

    /// A durable record that can be read.
    pub(crate) fn readable(&self, space: Space, key: &Bytes) -> Option<&Bytes> {
        let record = self.durable.get(&(space, key.clone()))?;
        (!record.corrupt).then_some(&record.value)
    }

    pub(crate) fn is_corrupt(&self, space: Space, key: &Bytes) -> bool {
        self.durable.get(&(space, key.clone())).is_some_and(|record| record.corrupt)
    }

    /// Durable hints by key. Damage never hits hints.
    pub(crate) fn hints(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let hints = self.durable.iter().filter(|((at, _), _)| *at == Space::Hints);
        hints.map(|((_, key), record)| (key, &record.value))
    }

    /// Is nothing on its way to the disk?
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Damages an object's record at rest. Returns whether there was one that is not being written.
    pub(crate) fn corrupt(&mut self, object: &Bytes) -> bool {
        let name = (Space::Objects, object.clone());
        let at_rest = !self.pending.iter().flatten().any(|write| write.key == *object);
        match (self.durable.get_mut(&name), self.live.get_mut(&name)) {
            (Some(durable), Some(live)) if at_rest && !durable.corrupt => {
                durable.corrupt = true;
                live.corrupt = true;
                self.ledger.destroyed(object);
                true
            }
            _ => false,
        }
    }
}

fn apply(image: &mut Image, writes: &[Write]) {
    for write in writes {
        let name = (write.space, write.key.clone());
        match &write.value {
            Some(value) => {
                image.insert(name, Record { value: value.clone(), corrupt: false });
            }
            None => {
                image.remove(&name);
            }
        }
    }
}
