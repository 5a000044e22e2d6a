//! The local replica: read, merge, commit, one queue per key.
//!
//! Invariants: on one key at most one change is in progress, and no read overlaps it, so what is
//! read is durable; nothing is acknowledged before the `Stored` of its commit; an actor names dots
//! only while everything it named before is durably here: it is left behind as soon as a commit
//! that carried a dot fails or a record turns out damaged, before the key's queue goes on; a key
//! that cannot be vouched for takes no change before it was merged from enough others (`repair`).

use crate::actor::Actors;
use crate::event::Event;
use crate::id::{Digest, Key, NodeId, Run};
use crate::io::{Space, StoreCommand, StoreError, StoreReply, Write};
use crate::message::{Body, Nack, Re, ReadAnswer};
use crate::node::{Node, Then, read_value};
use crate::record::{HintRecord, ObjectRecord, decode_record, encode_record, hint_key, object_key};
use crate::repair::Repairs;
use crate::siblings::{SIBLINGS_WARN, Siblings};
use crate::version::Dot;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// A record that has a queue: an object's or a hint's.
pub(crate) type QueueKey = (Space, Bytes);

/// The state of this node as a replica.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    queues: BTreeMap<QueueKey, Queue>,
    gathers: BTreeMap<u64, Gather>,
    next_gather: u64,
    pub(crate) repairs: Repairs,
    pub(crate) actors: Actors,
}

#[derive(Clone, Debug)]
struct Queue {
    key: Key,
    active: Active,
    waiting: VecDeque<Work>,
}

#[derive(Clone, Debug)]
enum Active {
    Idle,
    Reading(u32),
    Changing { work: Work, step: Step },
}

#[derive(Clone, Debug)]
enum Step {
    Loading,
    Repairing,
    Committing { hint_bytes: Option<(u64, u64)>, repaired: bool },
}

/// Something to do with a record.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Read it; runs beside other reads.
    Read(ReadFor),
    /// A client's write that this node coordinates, as an owner or as a fallback.
    Update(u64),
    /// Merge a copy into an object.
    Merge(Siblings, MergeFor),
    /// Merge a copy into a hint.
    KeepHint(Siblings, MergeFor),
    /// Drop a hint if it still is what its owner acknowledged.
    DropHint(Digest),
    /// Drop a hint if it still is damaged.
    DropDamaged,
    /// Restore an object from the other owners.
    Repair,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFor {
    /// A peer that coordinates a read.
    Peer(NodeId, Re),
    /// A read that this node coordinates.
    Operation(u64),
    /// One of several hints of one key.
    Gather(u64),
}

/// Who wants a copy to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeFor {
    /// A peer that waits for an ack.
    Peer(NodeId, Re),
    /// A hint handed over by a peer that waits for an ack.
    Delivery(NodeId, Re),
    /// This node itself: read repair, or a hint for a copy that nobody else took.
    Myself,
}

/// Hints of one key for several owners, read for one question.
#[derive(Clone, Debug)]
struct Gather {
    missing: u32,
    found: Option<Siblings>,
    reader: ReadFor,
}

impl Replica {
    pub(crate) fn new(run: Run) -> Self {
        Self {
            queues: BTreeMap::new(),
            gathers: BTreeMap::new(),
            next_gather: 0,
            repairs: Repairs::default(),
            actors: Actors::new(run),
        }
    }
    /// Keys with work in progress or waiting.
    pub(crate) fn busy_keys(&self) -> u32 {
        self.queues.len() as u32
    }
}

/// What a client's write does to a record.
pub(crate) struct Updated {
    pub(crate) siblings: Siblings,
    pub(crate) dot: Option<Dot>,
    /// The write id was known; nothing changed.
    pub(crate) repeated: bool,
}

impl Node {
    pub(crate) fn object_queue(&self, key: &Key) -> QueueKey {
        (Space::Objects, object_key(self.partition(key), key))
    }

    pub(crate) fn hint_queue(&self, owner: NodeId, key: &Key) -> QueueKey {
        (Space::Hints, hint_key(owner, &object_key(self.partition(key), key)))
    }

    // Messages from coordinators.

    /// A peer reads an object.
    pub(crate) fn on_read(&mut self, from: NodeId, re: Re, key: &Key) {
        let owners = self.owners(key);
        let reader = ReadFor::Peer(from, re);
        if owners.contains(&self.me) {
            self.read_as_owner(key, &owners, reader);
        } else {
            self.read_hints(key, &owners, reader);
        }
    }

    pub(crate) fn read_as_owner(&mut self, key: &Key, owners: &[NodeId], reader: ReadFor) {
        if self.is_ready(owners) {
            let queue = self.object_queue(key);
            self.enqueue(queue, key, Work::Read(reader));
        } else {
            self.answer_read(reader, ReadAnswer::Uninformative);
        }
    }

    /// A fallback knows what it keeps for any of the key's owners.
    pub(crate) fn read_hints(&mut self, key: &Key, owners: &[NodeId], reader: ReadFor) {
        let kept: Vec<_> =
            owners.iter().filter(|&&owner| self.hints.any_for(owner)).copied().collect();
        if kept.is_empty() {
            return self.answer_hints(reader, None);
        }
        self.replica.next_gather += 1;
        let id = self.replica.next_gather;
        let gather = Gather { missing: kept.len() as u32, found: None, reader };
        self.replica.gathers.insert(id, gather);
        for owner in kept {
            let queue = self.hint_queue(owner, key);
            self.enqueue(queue, key, Work::Read(ReadFor::Gather(id)));
        }
    }

    /// A peer hands a copy to this node as an owner.
    pub(crate) fn on_copy(
        &mut self,
        from: NodeId,
        re: Re,
        key: Key,
        siblings: Siblings,
        delivery: bool,
    ) {
        let owners = self.owners(&key);
        let refusal = if !owners.contains(&self.me) {
            Some(Nack::NotOwner)
        } else if !self.is_ready(&owners) {
            Some(Nack::NotReady)
        } else if self.cluster.read_only {
            Some(Nack::Full)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.send(from, Body::Nack { re, reason });
        }
        let then = if delivery { MergeFor::Delivery(from, re) } else { MergeFor::Peer(from, re) };
        let queue = self.object_queue(&key);
        self.enqueue(queue, &key, Work::Merge(siblings, then));
    }

    /// A peer asks this node to keep a copy for an owner that it cannot reach.
    pub(crate) fn on_store_hint(
        &mut self,
        from: NodeId,
        re: Re,
        owner: NodeId,
        key: Key,
        siblings: Siblings,
    ) {
        if owner == self.me {
            return self.on_copy(from, re, key, siblings, false);
        }
        if !self.owners(&key).contains(&owner) {
            return self.send(from, Body::Nack { re, reason: Nack::NotOwner });
        }
        self.keep_hint(owner, &key, siblings, MergeFor::Peer(from, re));
    }

    pub(crate) fn keep_hint(
        &mut self,
        owner: NodeId,
        key: &Key,
        siblings: Siblings,
        then: MergeFor,
    ) {
        let refusal = if self.cluster.read_only {
            Some(Nack::Full)
        } else if self.hints.is_full(&self.config.limits) {
            self.counters.hints_refused += 1;
            Some(Nack::Full)
        } else if !self.hints.counted() {
            Some(Nack::Busy)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.answer_merge(then, Err(reason));
        }
        let queue = self.hint_queue(owner, key);
        self.enqueue(queue, key, Work::KeepHint(siblings, then));
    }

    // The queue of one record.

    pub(crate) fn enqueue(&mut self, queue_key: QueueKey, key: &Key, work: Work) {
        let queue = self.replica.queues.entry(queue_key.clone()).or_insert_with(|| Queue {
            key: key.clone(),
            active: Active::Idle,
            waiting: VecDeque::new(),
        });
        if let Active::Changing { step: Step::Repairing, .. } = queue.active
            && let Work::Read(reader) = work
        {
            // Two owners that repair the same key must not wait for each other's answer.
            return self.answer_read(reader, ReadAnswer::Uninformative);
        }
        let full = queue.waiting.len() >= self.config.limits.key_queue_max as usize;
        match work {
            Work::Merge(_, then) | Work::KeepHint(_, then) if full => {
                self.answer_merge(then, Err(Nack::Busy));
            }
            Work::Read(reader) if full => self.answer_read(reader, ReadAnswer::Uninformative),
            Work::Repair if !matches!(queue.active, Active::Idle) => {}
            work => {
                queue.waiting.push_back(work);
                self.advance(&queue_key);
            }
        }
    }

    /// Starts whatever of a queue may start now; an empty queue is forgotten.
    fn advance(&mut self, queue_key: &QueueKey) {
        loop {
            let Some(queue) = self.replica.queues.get_mut(queue_key) else { return };
            let next_reads = matches!(queue.waiting.front(), Some(Work::Read(_)));
            match &mut queue.active {
                Active::Changing { .. } => return,
                Active::Reading(_) if !next_reads => return,
                Active::Reading(_) | Active::Idle => {}
            }
            let then = match queue.waiting.pop_front() {
                None => {
                    if matches!(queue.active, Active::Idle) {
                        self.replica.queues.remove(queue_key);
                    }
                    return;
                }
                Some(Work::Read(reader)) => {
                    let readers =
                        if let Active::Reading(readers) = queue.active { readers } else { 0 };
                    queue.active = Active::Reading(readers + 1);
                    Then::Read(queue_key.clone(), reader)
                }
                Some(work) => {
                    queue.active = Active::Changing { work, step: Step::Loading };
                    Then::Work(queue_key.clone())
                }
            };
            let (space, key) = queue_key.clone();
            self.store(StoreCommand::Read { space, key }, then);
        }
    }

    fn finish(&mut self, queue_key: &QueueKey) {
        if let Some(queue) = self.replica.queues.get_mut(queue_key) {
            queue.active = Active::Idle;
        }
        self.advance(queue_key);
    }

    // Reads.

    pub(crate) fn on_read_stored(
        &mut self,
        queue_key: &QueueKey,
        reader: ReadFor,
        result: Result<StoreReply, StoreError>,
    ) {
        let Some(queue) = self.replica.queues.get_mut(queue_key) else { return };
        let key = queue.key.clone();
        if let Active::Reading(readers) = &mut queue.active {
            *readers -= 1;
            if *readers == 0 {
                queue.active = Active::Idle;
            }
        }
        if queue_key.0 == Space::Hints {
            let hint = read_value(result).ok().flatten();
            let hint = hint.and_then(|bytes| decode_record::<HintRecord>(&bytes).ok());
            self.answer_read(
                reader,
                hint.map_or(ReadAnswer::Uninformative, |hint| ReadAnswer::Hint(hint.siblings)),
            );
        } else {
            match self.load_object(result) {
                Loaded::Trusted(siblings) => self.answer_read(reader, ReadAnswer::Owner(siblings)),
                Loaded::Untrusted(_) => {
                    self.answer_read(reader, ReadAnswer::Uninformative);
                    self.repair_after_read(queue_key.clone(), &key);
                }
            }
        }
        self.advance(queue_key);
    }

    pub(crate) fn answer_read(&mut self, reader: ReadFor, answer: ReadAnswer) {
        match reader {
            ReadFor::Peer(to, re) => self.send(to, Body::ReadReply { re, answer }),
            ReadFor::Operation(op) => self.on_read_reply(op, self.me, Ok(answer)),
            ReadFor::Gather(id) => {
                let Some(gather) = self.replica.gathers.get_mut(&id) else { return };
                if let ReadAnswer::Hint(siblings) = answer {
                    gather.found.get_or_insert_default().merge(&siblings);
                }
                gather.missing -= 1;
                if gather.missing == 0
                    && let Some(gather) = self.replica.gathers.remove(&id)
                {
                    self.answer_hints(gather.reader, gather.found);
                }
            }
        }
    }

    fn answer_hints(&mut self, reader: ReadFor, found: Option<Siblings>) {
        #[cfg(feature = "mutants")]
        if self.mutant(crate::config::Mutant::BlindFallback) {
            return self.answer_read(reader, ReadAnswer::Hint(found.unwrap_or_default()));
        }
        // A fallback without a hint knows nothing: "absent" from it would be a guess. So would be
        // what a hint says in which nothing was ever written (a delete without a context).
        let found = found.filter(|siblings| !siblings.is_absent());
        self.answer_read(reader, found.map_or(ReadAnswer::Uninformative, ReadAnswer::Hint));
    }

    /// Tells a record that proves what it says from one that may lack acknowledged writes.
    fn load_object(&mut self, result: Result<StoreReply, StoreError>) -> Loaded {
        let record = match result {
            Ok(StoreReply::Value { value: None, .. }) => None,
            Ok(StoreReply::Value { value: Some(bytes), .. }) => {
                match decode_record::<ObjectRecord>(&bytes) {
                    Ok(record) => Some(record),
                    Err(_) => return self.corrupt_record(),
                }
            }
            _ => return self.corrupt_record(),
        };
        let lost_before = self.cluster.standing.lost_before;
        let proves = match (&record, lost_before) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(record), Some(loss)) => record.losses >= loss,
        };
        let siblings = record.map(|record| record.siblings).unwrap_or_default();
        if proves { Loaded::Trusted(siblings) } else { Loaded::Untrusted(siblings) }
    }

    /// What this node named on the damaged record is forgotten: its actor must not count on.
    fn corrupt_record(&mut self) -> Loaded {
        self.counters.records_corrupt += 1;
        self.rotate_actor();
        Loaded::Untrusted(Siblings::default())
    }

    fn rotate_actor(&mut self) {
        self.counters.actors_rotated += 1;
        self.replica.actors.rotate();
        self.event(Event::ActorRotated);
    }

    // Changes.

    pub(crate) fn on_work_stored(
        &mut self,
        queue_key: &QueueKey,
        result: Result<StoreReply, StoreError>,
    ) {
        let Some(queue) = self.replica.queues.get_mut(queue_key) else { return };
        let Active::Changing { step, .. } = &queue.active else { return };
        match step {
            Step::Repairing => {}
            Step::Committing { .. } => self.committed(queue_key, result.map(|_| ())),
            Step::Loading if queue_key.0 == Space::Hints => {
                // A record that cannot even be read still counts as one.
                let record = read_value(result).unwrap_or(Some(Bytes::new()));
                let hint = match record.as_ref().map(|bytes| decode_record::<HintRecord>(bytes)) {
                    Some(Ok(hint)) => hint,
                    None => HintRecord::default(),
                    Some(Err(_)) => return self.change_damaged_hint(queue_key, record),
                };
                self.change_hint(queue_key, record, hint);
            }
            Step::Loading => match self.load_object(result) {
                Loaded::Trusted(siblings) => self.change_object(queue_key, siblings, false),
                Loaded::Untrusted(siblings) => {
                    let key = queue_key_object(&self.replica.queues, queue_key);
                    self.event(Event::Corrupt { partition: self.partition(&key) });
                    self.set_step(queue_key, Step::Repairing);
                    self.refuse_waiting_reads(queue_key);
                    self.start_repair(queue_key, &key, siblings);
                }
            },
        }
    }

    fn set_step(&mut self, queue_key: &QueueKey, next: Step) {
        if let Some(queue) = self.replica.queues.get_mut(queue_key)
            && let Active::Changing { step, .. } = &mut queue.active
        {
            *step = next;
        }
    }

    fn refuse_waiting_reads(&mut self, queue_key: &QueueKey) {
        let Some(queue) = self.replica.queues.get_mut(queue_key) else { return };
        let (reads, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut queue.waiting)
            .into_iter()
            .partition(|work| matches!(work, Work::Read(_)));
        queue.waiting = rest.into();
        for work in reads {
            if let Work::Read(reader) = work {
                self.answer_read(reader, ReadAnswer::Uninformative);
            }
        }
    }

    /// A key's repair ended: the change goes on from what was found, or is refused.
    pub(crate) fn repaired(&mut self, queue_key: &QueueKey, found: Option<Siblings>) {
        if let Some(siblings) = found {
            return self.change_object(queue_key, siblings, true);
        }
        match self.active_work(queue_key).cloned() {
            Some(Work::Update(op)) => self.update_failed(op, None),
            Some(Work::Merge(_, then)) => self.answer_merge(then, Err(Nack::NotReady)),
            _ => {}
        }
        self.finish(queue_key);
    }

    fn active_work(&self, queue_key: &QueueKey) -> Option<&Work> {
        let active = &self.replica.queues.get(queue_key)?.active;
        if let Active::Changing { work, .. } = active { Some(work) } else { None }
    }

    /// The active work as its change is made. The copy that it merges is moved out: what comes
    /// after the change only needs to know who is to be answered.
    fn take_work(&mut self, queue_key: &QueueKey) -> Option<Work> {
        let active = &mut self.replica.queues.get_mut(queue_key)?.active;
        let Active::Changing { work, .. } = active else { return None };
        Some(match work {
            Work::Merge(copy, then) => Work::Merge(std::mem::take(copy), *then),
            Work::KeepHint(copy, then) => Work::KeepHint(std::mem::take(copy), *then),
            other => other.clone(),
        })
    }

    fn change_object(&mut self, queue_key: &QueueKey, mut siblings: Siblings, repaired: bool) {
        let mut changed = repaired;
        match self.take_work(queue_key) {
            Some(Work::Update(op)) => {
                let context = self.update_context(op, &siblings);
                #[cfg_attr(
                    not(feature = "mutants"),
                    expect(unused_mut, reason = "a mutant changes it")
                )]
                let mut dot = self.replica.actors.owner_dot(&siblings, &context);
                #[cfg(feature = "mutants")]
                if self.mutant(crate::config::Mutant::ForgetfulActor) {
                    let actor = crate::id::Actor(Run(self.me.0), 0);
                    dot = Dot(actor, siblings.context().get(actor).max(context.get(actor)) + 1);
                }
                match self.update(op, siblings, &context, dot) {
                    None => return self.finish(queue_key),
                    Some(updated) => {
                        changed |= !updated.repeated;
                        siblings = updated.siblings.clone();
                        if siblings.len() >= SIBLINGS_WARN {
                            let key = queue_key_object(&self.replica.queues, queue_key);
                            let count = siblings.len() as u32;
                            self.event(Event::ManySiblings { key, siblings: count });
                        }
                        self.send_copies(op, updated);
                    }
                }
            }
            Some(Work::Merge(copy, then)) => changed |= self.merge_copy(&mut siblings, &copy, then),
            _ => {}
        }
        if !changed {
            self.work_done(queue_key);
            return self.finish(queue_key);
        }
        let losses = self.cluster.standing.losses;
        let value = encode_record(&ObjectRecord { losses, siblings });
        self.commit(queue_key, Some(value), Step::Committing { hint_bytes: None, repaired });
    }

    #[cfg_attr(not(feature = "mutants"), expect(clippy::unused_self, reason = "mutants ask it"))]
    fn merge_copy(&mut self, ours: &mut Siblings, copy: &Siblings, then: MergeFor) -> bool {
        #[cfg(feature = "mutants")]
        {
            use crate::config::Mutant;
            let delivery = matches!(then, MergeFor::Delivery(..));
            if self.mutant(Mutant::DroppedMerge) && !ours.is_absent() {
                return false;
            }
            if self.mutant(Mutant::OverwritingHint) && delivery {
                let changed = ours != copy;
                *ours = copy.clone();
                return changed;
            }
        }
        let _ = then;
        ours.merge(copy)
    }

    /// A damaged hint is lost; what is kept from now on starts a new one.
    fn change_damaged_hint(&mut self, queue_key: &QueueKey, record: Option<Bytes>) {
        if matches!(self.active_work(queue_key), Some(Work::DropDamaged)) {
            let bytes = queue_key.1.len() + record.map_or(0, |bytes| bytes.len());
            let hint_bytes = Some((bytes as u64, 0));
            let step = Step::Committing { hint_bytes, repaired: false };
            return self.commit(queue_key, None, step);
        }
        self.rotate_actor();
        self.change_hint(queue_key, record, HintRecord::default());
    }

    fn change_hint(&mut self, queue_key: &QueueKey, record: Option<Bytes>, mut hint: HintRecord) {
        let old_bytes = record.as_ref().map_or(0, |bytes| (queue_key.1.len() + bytes.len()) as u64);
        match self.take_work(queue_key) {
            Some(Work::Update(op)) => {
                let context = self.update_context(op, &hint.siblings);
                let dot = self.replica.actors.hint_dot(&hint, &context);
                let Some(updated) = self.update(op, hint.siblings, &context, dot) else {
                    return self.finish(queue_key);
                };
                hint = HintRecord { actor: Some(dot.0), siblings: updated.siblings.clone() };
                self.send_copies(op, updated);
            }
            Some(Work::KeepHint(copy, _)) => {
                if !hint.siblings.merge(&copy) {
                    self.work_done(queue_key);
                    return self.finish(queue_key);
                }
            }
            Some(Work::DropHint(sent)) => {
                // Only what the owner acknowledged may go; what was added since stays.
                let same = record.is_some_and(|bytes| Digest::of(&bytes) == sent);
                if !same {
                    return self.finish(queue_key);
                }
                let step = Step::Committing { hint_bytes: Some((old_bytes, 0)), repaired: false };
                return self.commit(queue_key, None, step);
            }
            _ => return self.finish(queue_key),
        }
        let value = encode_record(&hint);
        let new_bytes = (queue_key.1.len() + value.len()) as u64;
        let hint_bytes = Some((old_bytes, new_bytes));
        let step = Step::Committing { hint_bytes, repaired: false };
        self.commit(queue_key, Some(value), step);
    }

    fn commit(&mut self, queue_key: &QueueKey, value: Option<Bytes>, step: Step) {
        self.set_step(queue_key, step);
        let (space, key) = queue_key.clone();
        let writes = vec![Write { space, key, value }];
        self.store(StoreCommand::Commit { writes }, Then::Work(queue_key.clone()));
        #[cfg(feature = "mutants")]
        if self.mutant(crate::config::Mutant::AckBeforeStored) {
            self.work_done(queue_key);
        }
    }

    fn committed(&mut self, queue_key: &QueueKey, result: Result<(), StoreError>) {
        let Some(queue) = self.replica.queues.get_mut(queue_key) else { return };
        let Active::Changing { work, step } = &queue.active else { return };
        let (work, step) = (work.clone(), step.clone());
        if result.is_err() {
            if let Work::Update(op) = work {
                // The dot may be on its way to others while it is not here.
                self.rotate_actor();
                self.update_failed(op, Some(Nack::Full));
            } else if let Work::Merge(_, then) | Work::KeepHint(_, then) = work {
                self.answer_merge(then, Err(Nack::Full));
            }
            self.set_read_only(true);
            return self.finish(queue_key);
        }
        if let Step::Committing { hint_bytes: Some((old, new)), .. } = step {
            self.hints.changed(&queue_key.1, old, new);
        }
        if let Step::Committing { repaired: true, .. } = step {
            self.counters.records_repaired += 1;
            let key = queue_key_object(&self.replica.queues, queue_key);
            self.event(Event::Repaired { key });
        }
        self.work_done(queue_key);
        self.finish(queue_key);
    }

    /// What the active work was to achieve is durable.
    fn work_done(&mut self, queue_key: &QueueKey) {
        match self.active_work(queue_key).cloned() {
            Some(Work::Update(op)) => {
                // As a fallback: the owner may have returned while its hint was on the way to disk.
                if let Some(owner) = hinted_owner(queue_key) {
                    self.wake_hints(owner);
                }
                self.update_durable(op);
            }
            Some(Work::Merge(_, then)) => self.answer_merge(then, Ok(())),
            Some(Work::KeepHint(_, then)) => {
                self.counters.hints_stored += 1;
                if let Some(owner) = hinted_owner(queue_key) {
                    self.event(Event::HintStored { owner });
                    self.wake_hints(owner);
                }
                self.answer_merge(then, Ok(()));
            }
            Some(Work::DropHint(_)) => {
                if let Some(owner) = hinted_owner(queue_key) {
                    self.counters.hints_delivered += 1;
                    self.event(Event::HintDelivered { owner });
                }
            }
            _ => {}
        }
    }

    fn answer_merge(&mut self, then: MergeFor, result: Result<(), Nack>) {
        let (MergeFor::Peer(to, re) | MergeFor::Delivery(to, re)) = then else { return };
        let body = match result {
            Ok(()) => Body::Ack { re },
            Err(reason) => Body::Nack { re, reason },
        };
        self.send(to, body);
    }
}

enum Loaded {
    Trusted(Siblings),
    Untrusted(Siblings),
}

/// For whom a hint's queue works; `None` if it is an object's.
fn hinted_owner((space, stored): &QueueKey) -> Option<NodeId> {
    let named = crate::record::parse_hint_key(stored).filter(|_| *space == Space::Hints);
    named.map(|(owner, _)| owner)
}

fn queue_key_object(queues: &BTreeMap<QueueKey, Queue>, queue_key: &QueueKey) -> Key {
    queues.get(queue_key).map(|queue| queue.key.clone()).expect("a queue with work exists")
}
