//! Hinted handoff (§4.6): what this node keeps for owners that could not be reached, and handing
//! it over when they return.
//!
//! Invariants: a hint is dropped only when its owner acknowledged exactly what is stored; hints are
//! bounded in bytes (a full store refuses only its own ack as a fallback) and handed over in pages
//! of bounded size, one page an owner at a time; a key that its owner cannot take now delays no
//! other for ever.

use crate::config::Limits;
use crate::event::Event;
use crate::id::{Digest, NodeId};
use crate::io::{Space, StoreCommand, StoreError, StoreReply, Write};
use crate::message::{Body, Nack, Seq};
use crate::node::{About, Node, Then};
use crate::record::{HintRecord, after_prefix, decode_record, parse_hint_key};
use crate::replica::Work;
use crate::timer::Timer;
use crate::view::HintsView;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Records in one page when hints of earlier runs are counted.
const COUNT_PAGE: u32 = 512;
/// Bytes in one page of hints.
const PAGE_BYTES_MAX: u32 = 8 << 20;

/// What is kept for whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    totals: BTreeMap<NodeId, Total>,
    bytes: u64,
    counted: bool,
    drains: BTreeMap<NodeId, Drain>,
    /// Where the next pass begins, if the last one met keys that their owner cannot take now:
    /// those must not keep the others waiting.
    resume: BTreeMap<NodeId, Bytes>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    bytes: u64,
}

/// A handing-over in progress.
#[derive(Clone, Debug, Default)]
struct Drain {
    /// Delivered and not answered yet: which record, as it was read.
    in_flight: BTreeMap<Seq, (Bytes, Digest)>,
    /// Where the next page begins, if there is one.
    next: Option<Bytes>,
    /// Hints were seen or stored in this pass; a whole pass without any resets the owner's total.
    seen: bool,
    /// It began with the owner's first hint.
    whole: bool,
    /// The store has not answered with the next page yet.
    reading: bool,
    /// The owner cannot take some of this page now.
    refused: bool,
}

impl Hints {
    /// May there be hints for this owner?
    pub(crate) fn any_for(&self, owner: NodeId) -> bool {
        !self.counted || self.totals.contains_key(&owner)
    }
    /// Is there no room for more?
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        self.bytes >= limits.hint_bytes_max
    }
    /// Are the hints of earlier runs counted?
    pub(crate) fn counted(&self) -> bool {
        self.counted
    }
    /// A hint's record went from `old` to `new` bytes, key included (zero: it is not there).
    pub(crate) fn changed(&mut self, stored_key: &Bytes, old: u64, new: u64) {
        let Some((owner, _)) = parse_hint_key(stored_key) else { return };
        let total = self.totals.entry(owner).or_default();
        total.count = (total.count + u64::from(new > 0)).saturating_sub(u64::from(old > 0));
        total.bytes = (total.bytes + new).saturating_sub(old);
        self.bytes = (self.bytes + new).saturating_sub(old);
        if total.count == 0 {
            self.bytes = self.bytes.saturating_sub(total.bytes);
            self.totals.remove(&owner);
        }
        if let Some(drain) = self.drains.get_mut(&owner) {
            drain.seen = true;
        }
    }
    fn resume_at(&mut self, owner: NodeId, next: Option<Bytes>) {
        if let Some(next) = next {
            self.resume.insert(owner, next);
        }
    }
    /// Counts by owner, for inspectors.
    pub(crate) fn view(&self) -> (Vec<HintsView>, u64) {
        let views = self.totals.iter().map(|(&owner, total)| HintsView {
            owner,
            count: total.count,
            bytes: total.bytes,
        });
        (views.collect(), self.bytes)
    }
}

impl Node {
    // Counting what earlier runs left.

    pub(crate) fn count_hints(&mut self, after: Option<&Bytes>) {
        let command = StoreCommand::Scan {
            space: Space::Hints,
            start: after.map_or_else(Bytes::new, next_key),
            end: None,
            limit: COUNT_PAGE,
            bytes_limit: PAGE_BYTES_MAX,
        };
        self.store(command, Then::HintCount);
    }

    pub(crate) fn on_hint_count(&mut self, result: Result<StoreReply, StoreError>) {
        let Ok(StoreReply::Page { entries, more, .. }) = result else {
            // A damaged page is no reason to stop: what can be read is still handed over.
            self.hints.counted = true;
            self.counters.records_corrupt += 1;
            return self.reject(self.me, "some of the hints it keeps cannot be read".into());
        };
        for (key, record) in &entries {
            let bytes = record.as_ref().map_or(0, Bytes::len);
            self.hints.changed(key, 0, (key.len() + bytes) as u64);
        }
        match entries.last() {
            Some((last, _)) if more => self.count_hints(Some(last)),
            _ => {
                self.hints.counted = true;
                let owners: Vec<_> = self.hints.totals.keys().copied().collect();
                for owner in owners {
                    self.wake_hints(owner);
                }
            }
        }
    }

    // Handing over.

    /// Hands over soon, if there is anything for this owner and it can be reached.
    pub(crate) fn wake_hints(&mut self, owner: NodeId) {
        if self.hints.totals.contains_key(&owner)
            && !self.hints.drains.contains_key(&owner)
            && self.detector.healthy(owner)
        {
            self.timers.set_by(Timer::Hints(owner), self.now.monotonic);
        }
    }

    pub(crate) fn on_hint_timer(&mut self, owner: NodeId) {
        if self.hints.drains.get(&owner).is_some_and(|drain| drain.reading) {
            // The store is slow, and answers in the end.
            return self.set_hint_patience(owner);
        }
        // A page that was not answered in time is given up; what is stored stays.
        if let Some(drain) = self.hints.drains.remove(&owner) {
            self.hints.resume_at(owner, drain.next);
            for seq in drain.in_flight.keys() {
                self.forget_question(*seq);
            }
        }
        let wanted = self.hints.counted && self.hints.totals.contains_key(&owner);
        if wanted && self.detector.healthy(owner) {
            let resumed = self.hints.resume.remove(&owner);
            let drain = Drain { whole: resumed.is_none(), ..Drain::default() };
            self.hints.drains.insert(owner, drain);
            let first = || Bytes::copy_from_slice(&owner.0.to_be_bytes());
            self.read_hint_page(owner, resumed.unwrap_or_else(first));
        }
    }

    fn read_hint_page(&mut self, owner: NodeId, start: Bytes) {
        let command = StoreCommand::Scan {
            space: Space::Hints,
            start,
            end: after_prefix(&owner.0.to_be_bytes()),
            limit: self.config.limits.hint_deliveries_max,
            bytes_limit: PAGE_BYTES_MAX,
        };
        self.store(command, Then::HintPage(owner));
        if let Some(drain) = self.hints.drains.get_mut(&owner) {
            drain.reading = true;
        }
        self.set_hint_patience(owner);
    }

    fn set_hint_patience(&mut self, owner: NodeId) {
        let timing = &self.config.timing;
        let patience = self.now.monotonic + timing.peer_timeout + timing.hint_retry;
        self.timers.set(Timer::Hints(owner), patience);
    }

    pub(crate) fn on_hint_page(&mut self, owner: NodeId, result: Result<StoreReply, StoreError>) {
        let Some(drain) = self.hints.drains.get_mut(&owner) else { return };
        drain.reading = false;
        let Ok(StoreReply::Page { entries, more, .. }) = result else {
            // That nothing could be read does not mean that nothing is there.
            drain.seen = true;
            return self.end_drain(owner);
        };
        let next = entries.last().filter(|_| more).map(|(last, _)| next_key(last));
        let mut in_flight = BTreeMap::new();
        for (stored, record) in entries {
            let hint = record.ok().and_then(|bytes| {
                let hint = decode_record::<HintRecord>(&bytes).ok()?;
                Some((parse_hint_key(&stored)?.1, hint, Digest::of(&bytes)))
            });
            let Some((key, hint, digest)) = hint else {
                self.drop_damaged_hint(owner, stored);
                continue;
            };
            let siblings = hint.siblings;
            let seq = self.ask(owner, About::Hint, |seq| Body::DeliverHint { seq, key, siblings });
            in_flight.insert(seq, (stored, digest));
        }
        let Some(drain) = self.hints.drains.get_mut(&owner) else { return };
        drain.next = next;
        drain.seen |= !in_flight.is_empty();
        drain.in_flight = in_flight;
        self.continue_drain(owner);
    }

    /// What is damaged can be handed to nobody; its owner heals by read repair.
    fn drop_damaged_hint(&mut self, owner: NodeId, stored: Bytes) {
        self.counters.records_corrupt += 1;
        self.event(Event::HintDamaged { owner });
        if let Some((_, key)) = parse_hint_key(&stored) {
            // Something sound may have taken its place since the page was read.
            return self.enqueue((Space::Hints, stored), &key, Work::DropDamaged);
        }
        let writes = vec![Write { space: Space::Hints, key: stored, value: None }];
        self.store(StoreCommand::Commit { writes }, Then::Cluster(crate::cluster::Saved::Merged));
    }

    pub(crate) fn on_hint_answer(&mut self, owner: NodeId, seq: Seq, answer: Result<(), Nack>) {
        let Some(drain) = self.hints.drains.get_mut(&owner) else { return };
        let Some((stored, digest)) = drain.in_flight.remove(&seq) else { return };
        match answer {
            Ok(()) => {
                if let Some((_, key)) = parse_hint_key(&stored) {
                    self.enqueue((Space::Hints, stored), &key, Work::DropHint(digest));
                }
            }
            // That may be about this key alone: the answers about the others still count.
            Err(Nack::NotReady | Nack::Busy | Nack::NotOwner) => drain.refused = true,
            // It cannot take any now: later.
            Err(Nack::Full | Nack::Layout | Nack::OtherRun) => return self.end_drain(owner),
        }
        self.continue_drain(owner);
    }

    fn continue_drain(&mut self, owner: NodeId) {
        let Some(drain) = self.hints.drains.get_mut(&owner) else { return };
        if !drain.in_flight.is_empty() {
            return;
        }
        if drain.refused {
            // Page by page, with a pause after each, until the owner takes all again.
            let next = drain.next.take();
            self.hints.resume_at(owner, next);
            return self.end_drain(owner);
        }
        match drain.next.take() {
            Some(start) => self.read_hint_page(owner, start),
            None => self.end_drain(owner),
        }
    }

    fn end_drain(&mut self, owner: NodeId) {
        let Some(drain) = self.hints.drains.remove(&owner) else { return };
        for seq in drain.in_flight.keys() {
            self.forget_question(*seq);
        }
        if drain.whole && !drain.seen && drain.in_flight.is_empty() && drain.next.is_none() {
            // Nothing is stored for it (damaged records can make the count drift): start anew.
            if let Some(total) = self.hints.totals.remove(&owner) {
                self.hints.bytes = self.hints.bytes.saturating_sub(total.bytes);
            }
        }
        self.timers.clear(Timer::Hints(owner));
        if self.hints.totals.contains_key(&owner) {
            let later = self.now.monotonic + self.config.timing.hint_retry;
            self.timers.set(Timer::Hints(owner), later);
        }
    }
}

/// The smallest key after `key`.
fn next_key(key: &Bytes) -> Bytes {
    [key.as_ref(), &[0]].concat().into()
}
