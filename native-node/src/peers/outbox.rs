//! The messages that wait for one link, bounded in number and in bytes.
//!
//! Overflow rule: once either bound is reached, *new* messages are dropped and counted until the
//! link has taken what waits. The core allows for lost messages (it retries, and a peer that does
//! not answer is suspected), and what is oldest is closest to being of use. A message is taken as
//! long as the bound is not reached *before* it, so one of any size gets through an empty outbox.

use quorate_core::{Body, Message, ReadAnswer, Reply, Request, Siblings};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Messages that wait for one link at most.
pub const OUTBOX_MESSAGES_MAX: usize = 64 << 10;
/// Bytes (about) that wait for one link at most, before the last message taken.
pub const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// A buffer for more messages than this was needed once and is given back.
const BUFFER_MESSAGES_KEPT: usize = 4 << 10;

/// The queue between the node's task and a link's writer.
#[derive(Debug)]
pub struct Outbox {
    messages_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Message>,
    bytes: usize,
    ping: bool,
    closing: bool,
}

/// What the writer of a link is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Send what was put in the batch, in as few frames as it fits in.
    Messages,
    /// Ask whether the other side is there.
    Ping,
    /// All is sent; say goodbye.
    Close,
}

impl Outbox {
    /// An empty outbox with these bounds.
    pub fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { messages_max, bytes_max, inner: Mutex::default(), wake: Notify::new() }
    }

    /// Takes what fits of `messages`, which is empty afterwards; returns how many were dropped.
    pub fn push(&self, messages: &mut Vec<Message>) -> usize {
        let mut dropped = 0;
        let mut inner = self.lock();
        for message in messages.drain(..) {
            let full = inner.messages.len() >= self.messages_max || inner.bytes >= self.bytes_max;
            if full || inner.closing {
                dropped += 1;
            } else {
                inner.bytes += weight(&message);
                inner.messages.push_back(message);
            }
        }
        drop(inner);
        self.wake.notify_one();
        dropped
    }

    /// Wants a ping sent.
    pub fn ping(&self) {
        self.lock().ping = true;
        self.wake.notify_one();
    }

    /// Takes nothing more; what waits is still sent.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Waits for something to do. `batch` is empty and is exchanged for what waits, so that two
    /// buffers serve a link for ever.
    pub async fn next(&self, batch: &mut VecDeque<Message>) -> Work {
        if batch.capacity() > BUFFER_MESSAGES_KEPT {
            *batch = VecDeque::new();
        }
        loop {
            if let Some(work) = self.take(batch) {
                return work;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self, batch: &mut VecDeque<Message>) -> Option<Work> {
        debug_assert!(batch.is_empty(), "what was taken before was sent");
        let mut inner = self.lock();
        if !inner.messages.is_empty() {
            inner.bytes = 0;
            std::mem::swap(&mut inner.messages, batch);
            return Some(Work::Messages);
        }
        if std::mem::take(&mut inner.ping) {
            return Some(Work::Ping);
        }
        inner.closing.then_some(Work::Close)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half-way, so what a poisoned lock guards is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how many bytes a message takes, without encoding it: its values and a constant for the rest.
fn weight(message: &Message) -> usize {
    const REST: usize = 128;
    REST + match &message.body {
        Body::Replicate { siblings, .. }
        | Body::StoreHint { siblings, .. }
        | Body::DeliverHint { siblings, .. }
        | Body::ReadReply {
            answer: ReadAnswer::Owner(siblings) | ReadAnswer::Hint(siblings),
            ..
        } => siblings_weight(siblings),
        Body::Forward { request: Request::Put(put), .. } => {
            put.value.as_ref().map_or(0, bytes::Bytes::len)
        }
        Body::ForwardReply {
            result: Ok(Reply::Found { object, .. } | Reply::Written { object, .. }),
            ..
        } => object.values.iter().map(|(_, value)| REST + value.bytes.len()).sum(),
        Body::ForwardReply { result: Ok(Reply::Keys { keys, .. }), .. }
        | Body::ListPage { keys, .. } => keys.iter().map(|key| key.len() + 8).sum(),
        Body::State { state, .. } | Body::Opened { state, .. } => {
            REST * (state.members.len() + state.buckets.len())
        }
        _ => 0,
    }
}

fn siblings_weight(siblings: &Siblings) -> usize {
    let values: usize = siblings.values().map(|(_, value)| 64 + value.bytes.len()).sum();
    values + 32 * siblings.context().len() + 64 * siblings.writes().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Actor, Dot, Key, Run, Value, VersionVector, WallTime};

    fn ping(seq: u64) -> Message {
        Message { run: Run(1), layout: None, body: Body::Ping { seq } }
    }

    fn replicate(bytes: usize) -> Message {
        let mut siblings = Siblings::default();
        let value = Value { bytes: vec![0; bytes].into(), modified: WallTime(1) };
        siblings.write_value(&VersionVector::default(), Dot(Actor(Run(1), 0), 1), value, None);
        let key = Key::new("b", "k").unwrap();
        Message { run: Run(1), layout: None, body: Body::Replicate { seq: 1, key, siblings } }
    }

    #[tokio::test]
    async fn beyond_the_bound_new_messages_are_dropped_and_counted() {
        let (outbox, mut batch) = (Outbox::new(3, 1 << 20), VecDeque::new());
        assert_eq!(outbox.push(&mut (0..5).map(ping).collect()), 2);
        assert_eq!(outbox.next(&mut batch).await, Work::Messages);
        assert!(batch.drain(..).eq((0..3).map(ping)));
        assert_eq!(outbox.push(&mut vec![ping(9)]), 0, "there is room again");
        assert_eq!(outbox.next(&mut batch).await, Work::Messages);
        assert_eq!(batch, [ping(9)]);
    }

    #[tokio::test]
    async fn a_message_of_any_size_gets_through_an_empty_outbox() {
        let (outbox, mut batch) = (Outbox::new(10, 1_000), VecDeque::new());
        assert_eq!(outbox.push(&mut vec![replicate(100_000), ping(1)]), 1);
        assert_eq!(outbox.next(&mut batch).await, Work::Messages);
        assert_eq!(batch.len(), 1);
        assert_eq!(outbox.push(&mut vec![ping(1)]), 0);
    }

    #[tokio::test]
    async fn closing_sends_what_waits_first() {
        let (outbox, mut batch) = (Outbox::new(10, 1_000), VecDeque::new());
        outbox.push(&mut vec![ping(1)]);
        outbox.ping();
        outbox.close();
        assert_eq!(outbox.push(&mut vec![ping(2)]), 1);
        assert_eq!(outbox.next(&mut batch).await, Work::Messages);
        batch.clear();
        assert_eq!(outbox.next(&mut batch).await, Work::Ping);
        assert_eq!(outbox.next(&mut batch).await, Work::Close);
    }
}
