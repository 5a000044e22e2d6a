//! A page of a bucket's keys: partition by partition, each read from R of its owners.
//!
//! Invariants: a key that R owners' reads would find is listed; a page ends where the shortest of
//! the owners' answers ended, so that nothing is skipped; work per page is bounded by the page's
//! length and the number of partitions.

use super::Operation;
use crate::codec::DecodeError;
use crate::event::RequestKind;
use crate::id::{NodeId, Partition, check_name};
use crate::io::{Space, StoreCommand, StoreError, StoreReply};
use crate::message::{Body, Nack, Re, Seq};
use crate::node::{About, Node, Origin, Then};
use crate::record::{ObjectRecord, after_prefix, bucket_prefix, decode_record};
use crate::request::{List, ListCursor, Reply, Request, RequestError};
use crate::time::{Duration, Instant};
use crate::timer::Timer;
use bytes::{BufMut, Bytes};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of records that one page of one partition may read.
const PAGE_BYTES_MAX: u32 = 4 << 20;

/// A listing in progress.
#[derive(Clone, Debug)]
pub(super) struct ListOp {
    pub(super) origin: Origin,
    list: List,
    limit: usize,
    started: Instant,
    deadline: Instant,
    timeout: Duration,
    cursor: ListCursor,
    keys: Vec<Bytes>,
    waiting: BTreeMap<NodeId, Option<Seq>>,
    answers: Vec<Page>,
    needed: usize,
    /// Counts the partitions asked, so that this node's own late page of an earlier one is known.
    /// (Peers' late pages are known by their forgotten questions.)
    round: u64,
}

/// The keys of one owner's answer, and where it ended if there are more.
type Page = (Vec<Bytes>, Option<Bytes>);

/// Who wants a page of this node's keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeysFor {
    /// A peer that coordinates a listing.
    Peer(NodeId, Re, usize),
    /// A listing that this node coordinates, in the round for which it asked.
    Operation(u64, u64, usize),
}

impl ListOp {
    pub(super) fn waits_for(&self, peer: NodeId) -> bool {
        self.waiting.contains_key(&peer)
    }
}

impl Node {
    pub(super) fn start_list(&mut self, origin: Origin, request: Request, timeout: Duration) {
        let Request::List(list) = request else { unreachable!("routed by its kind") };
        let partitions = self.cluster.state.as_ref().map_or(0, |state| state.partitions);
        let cursor =
            list.after.clone().unwrap_or(ListCursor { partition: Partition(0), after: None });
        let bad = match check_name("bucket", &list.bucket) {
            Err(error) => Some(error.to_string()),
            Ok(()) if cursor.partition.0 >= partitions => {
                Some("the listing cannot go on there: it is not of this cluster".into())
            }
            Ok(()) => None,
        };
        if let Some(reason) = bad {
            return self.reply(origin, Err(RequestError::Refused(reason)));
        }
        let limit = list.limit.clamp(1, self.config.limits.list_page_max) as usize;
        let started = self.now.monotonic;
        let op = self.insert(Operation::List(ListOp {
            origin,
            list,
            limit,
            started,
            deadline: started + timeout,
            timeout,
            cursor,
            keys: Vec::new(),
            waiting: BTreeMap::new(),
            answers: Vec::new(),
            needed: 0,
            round: 0,
        }));
        self.list_partition(op);
    }

    fn list_op(&mut self, op: u64) -> Option<&mut ListOp> {
        match self.coordinator.operations.get_mut(&op) {
            Some(Operation::List(list)) => Some(list),
            _ => None,
        }
    }

    /// Asks the owners of the partition that the cursor stands in.
    fn list_partition(&mut self, op: u64) {
        let Some(list) = self.list_op(op) else { return };
        list.round += 1;
        let round = list.round;
        let (bucket, cursor) = (list.list.bucket.clone(), list.cursor.clone());
        let limit = (list.limit - list.keys.len()) as u32;
        let owners = self.owners_of(cursor.partition, &bucket);
        let r = self.cluster.bucket(&bucket).r.of(owners.len() as u8).max(1);
        let mut waiting = BTreeMap::new();
        for &owner in &owners {
            if owner == self.me {
                if self.vouches_for_keys(&owners) {
                    waiting.insert(owner, None);
                    let reader = KeysFor::Operation(op, round, limit as usize);
                    self.scan_keys(cursor.partition, &bucket, cursor.after.as_ref(), limit, reader);
                }
            } else if self.detector.healthy(owner) {
                let (bucket, after) = (bucket.clone(), cursor.after.clone());
                let seq = self.ask(owner, About::Operation(op), |seq| Body::ListRead {
                    seq,
                    partition: cursor.partition,
                    bucket,
                    after,
                    limit,
                });
                waiting.insert(owner, Some(seq));
            }
        }
        let at = self.now.monotonic + self.config.timing.peer_timeout;
        let Some(list) = self.list_op(op) else { return };
        list.waiting = waiting;
        list.answers.clear();
        list.needed = usize::from(r);
        let at = at.min(list.deadline);
        self.timers.set(Timer::Operation(op), at);
        self.settle_list(op);
    }

    pub(crate) fn on_list_reply(&mut self, op: u64, from: NodeId, answer: Result<Page, Nack>) {
        let Some(list) = self.list_op(op) else { return };
        let Some(seq) = list.waiting.remove(&from) else { return };
        if let Ok(page) = answer {
            list.answers.push(page);
        }
        if let Some(seq) = seq {
            self.forget_question(seq);
        }
        self.settle_list(op);
    }

    /// This node's own page: one of an earlier partition, which peers settled without it, does not
    /// stand for the present one.
    fn on_own_keys(&mut self, op: u64, round: u64, answer: Result<Page, Nack>) {
        if self.list_op(op).is_some_and(|list| list.round == round) {
            self.on_list_reply(op, self.me, answer);
        }
    }

    pub(super) fn list_timer(&mut self, op: u64) {
        let now = self.now.monotonic;
        let Some(list) = self.list_op(op) else { return };
        if now >= list.deadline {
            let after = list.timeout;
            let error = RequestError::Timeout { after, may_have_happened: false };
            return self.end_list(op, Err(error));
        }
        let late: Vec<_> = list.waiting.keys().copied().collect();
        for node in late {
            if node != self.me {
                self.suspect(node);
            }
            self.on_list_reply(op, node, Err(Nack::NotReady));
        }
    }

    fn settle_list(&mut self, op: u64) {
        let Some(list) = self.list_op(op) else { return };
        let (have, needed) = (list.answers.len(), list.needed);
        if have < needed {
            if have + list.waiting.len() < needed {
                let error = RequestError::Unavailable {
                    param: "r".into(),
                    need: needed as u8,
                    have: have as u8,
                    may_have_happened: false,
                };
                self.end_list(op, Err(error));
            }
            return;
        }
        let late: Vec<_> = std::mem::take(&mut list.waiting).into_values().flatten().collect();
        let end = list.answers.iter().filter_map(|(_, through)| through.clone()).min();
        let found: BTreeSet<_> = std::mem::take(&mut list.answers)
            .into_iter()
            .flat_map(|(keys, _)| keys)
            .filter(|key| end.as_ref().is_none_or(|end| key <= end))
            .collect();
        let room = list.limit - list.keys.len();
        let more_than_room = found.len() > room;
        list.keys.extend(found.into_iter().take(room));
        let partition = list.cursor.partition;
        list.cursor = if more_than_room {
            ListCursor { partition, after: list.keys.last().cloned() }
        } else if let Some(end) = end {
            ListCursor { partition, after: Some(end) }
        } else {
            ListCursor { partition: Partition(partition.0 + 1), after: None }
        };
        let full = list.keys.len() >= list.limit;
        let cursor = list.cursor.clone();
        for seq in late {
            self.forget_question(seq);
        }
        let partitions = self.cluster.state.as_ref().map_or(0, |state| state.partitions);
        let over = cursor.partition.0 >= partitions;
        if full || over {
            let Some(list) = self.list_op(op) else { return };
            let keys = std::mem::take(&mut list.keys);
            return self.end_list(op, Ok(Reply::Keys { keys, next: (!over).then_some(cursor) }));
        }
        self.list_partition(op);
    }

    fn end_list(&mut self, op: u64, result: Result<Reply, RequestError>) {
        let Some(list) = self.list_op(op) else { return };
        let (origin, started) = (list.origin, list.started);
        let questions: Vec<_> = std::mem::take(&mut list.waiting).into_values().flatten().collect();
        self.close(op, questions);
        self.complete(origin, RequestKind::Other, started, result);
    }

    // This node's keys.

    /// An owner that lost data cannot say which keys there are.
    fn vouches_for_keys(&self, owners: &[NodeId]) -> bool {
        self.is_ready(owners) && self.cluster.standing.lost_before.is_none()
    }

    pub(crate) fn on_list_read(
        &mut self,
        from: NodeId,
        re: Re,
        partition: Partition,
        bucket: &Bytes,
        after: Option<&Bytes>,
        limit: u32,
    ) {
        let partitions = self.cluster.state.as_ref().map_or(0, |state| state.partitions);
        let refusal = if partition.0 >= partitions || check_name("bucket", bucket).is_err() {
            Some(Nack::NotOwner)
        } else {
            let owners = self.owners_of(partition, bucket);
            if !owners.contains(&self.me) {
                Some(Nack::NotOwner)
            } else if self.vouches_for_keys(&owners) {
                None
            } else {
                Some(Nack::NotReady)
            }
        };
        if let Some(reason) = refusal {
            return self.send(from, Body::Nack { re, reason });
        }
        let limit = limit.clamp(1, self.config.limits.list_page_max);
        let reader = KeysFor::Peer(from, re, limit as usize);
        self.scan_keys(partition, bucket, after, limit, reader);
    }

    fn scan_keys(
        &mut self,
        partition: Partition,
        bucket: &[u8],
        after: Option<&Bytes>,
        limit: u32,
        reader: KeysFor,
    ) {
        let mut start = bucket_prefix(partition, bucket);
        let end = after_prefix(&start);
        if let Some(after) = after {
            start.put_slice(after);
            start.put_u8(0);
        }
        let start = start.freeze();
        let bytes_limit = PAGE_BYTES_MAX;
        let command = StoreCommand::Scan { space: Space::Objects, start, end, limit, bytes_limit };
        self.store(command, Then::Keys(reader));
    }

    pub(crate) fn on_keys_scanned(
        &mut self,
        reader: KeysFor,
        result: Result<StoreReply, StoreError>,
    ) {
        let Ok(StoreReply::Page { entries, more, .. }) = result else {
            return match reader {
                KeysFor::Peer(to, re, _) => {
                    self.send(to, Body::Nack { re, reason: Nack::NotReady });
                }
                KeysFor::Operation(op, round, _) => {
                    self.on_own_keys(op, round, Err(Nack::NotReady));
                }
            };
        };
        let (KeysFor::Peer(.., limit) | KeysFor::Operation(.., limit)) = reader;
        let through = if more || entries.len() > limit {
            entries.last().and_then(|(stored, _)| key_part(stored))
        } else {
            None
        };
        let keys = entries
            .iter()
            .filter(|(_, record)| record.as_ref().map_or(true, |bytes| is_live(bytes)))
            .filter_map(|(stored, _)| key_part(stored))
            .collect();
        match reader {
            KeysFor::Peer(to, re, _) => self.send(to, Body::ListPage { re, keys, through }),
            KeysFor::Operation(op, round, _) => self.on_own_keys(op, round, Ok((keys, through))),
        }
    }
}

/// Tombstones are not listed; a record that cannot be read may be live, and is.
fn is_live(record: &[u8]) -> bool {
    let record: Result<ObjectRecord, DecodeError> = decode_record(record);
    record.map_or(true, |record| !record.siblings.is_empty())
}

/// The key within its bucket, of a stored object's key.
fn key_part(stored: &Bytes) -> Option<Bytes> {
    let length = u16::from_be_bytes(stored.get(4..6)?.try_into().ok()?);
    let at = 6 + usize::from(length);
    (stored.len() >= at).then(|| stored.slice(at..))
}
