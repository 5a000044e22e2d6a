//! The core's whole interface with its host: what goes in, what comes out, and storage commands.

use crate::event::Event;
use crate::id::{NodeId, OpId, RequestId};
use crate::message::Message;
use crate::request::{Reply, Request, RequestError};
use bytes::Bytes;

/// What a host tells a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed. Early or repeated: no effect.
    Tick,
    /// A peer's message, from a peer that the host has identified.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// A link to a peer came up or went down. Advisory: messages may be lost either way.
    Link {
        /// The other end.
        peer: NodeId,
        /// Is it up?
        up: bool,
    },
    /// A client's request. Answered by exactly one [`Output::Reply`] with this id.
    Request {
        /// The host's name for it; not used before in this run.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
    /// A storage command ended. Exactly one for each [`Output::Store`].
    Stored {
        /// Which command.
        op: OpId,
        /// How.
        result: Result<StoreReply, StoreError>,
    },
}

/// What a node tells its host to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send to a peer. May be lost, repeated or reordered.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Keep a link to this member, at one of these addresses (none: no longer).
    Peer {
        /// Whom.
        id: NodeId,
        /// Where.
        addresses: Vec<String>,
    },
    /// Do this in the store.
    Store {
        /// The name that [`Input::Stored`] repeats.
        op: OpId,
        /// What.
        command: StoreCommand,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        id: RequestId,
        /// The answer.
        result: Result<Reply, RequestError>,
    },
    /// Something an observer may want to know. Never needed for correctness.
    Event(Event),
}

/// One self-contained transaction. Commits become durable in the order issued; reads may complete
/// in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// Answered by [`StoreReply::Value`].
    Read {
        /// Where.
        space: Space,
        /// Which record.
        key: Bytes,
    },
    /// Records with keys in `start..end`, in order. Answered by [`StoreReply::Page`].
    Scan {
        /// Where.
        space: Space,
        /// The first key wanted.
        start: Bytes,
        /// The first key no longer wanted; `None`: to the end of the space.
        end: Option<Bytes>,
        /// At most this many records.
        limit: u32,
        /// The page ends with the record that brings its keys and values to this many bytes.
        bytes_limit: u32,
    },
    /// All or nothing, durable before its `Stored`. Answered by [`StoreReply::Committed`].
    Commit {
        /// Applied in order.
        writes: Vec<Write>,
    },
}

/// A separate key space of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Membership and the node's own standing; small, handed whole to [`Boot`](crate::Boot).
    Meta,
    /// Objects by partition, bucket and key.
    Objects,
    /// Hints by owner, then as objects.
    Hints,
}

impl Space {
    /// Every space.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Objects, Self::Hints];
}

/// One record to set or remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub space: Space,
    /// Which record.
    pub key: Bytes,
    /// What it becomes; `None` removes it.
    pub value: Option<Bytes>,
}

/// A store's answer. `as_of` names the last commit of this run that the answer includes (zero: none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// To a read.
    Value {
        /// The record, if there is one.
        value: Option<Bytes>,
        /// The last commit included.
        as_of: OpId,
    },
    /// To a scan.
    Page {
        /// The records in order; a value that cannot be read is an error of its own.
        entries: Vec<(Bytes, Result<Bytes, StoreError>)>,
        /// Are there more in the range?
        more: bool,
        /// The last commit included.
        as_of: OpId,
    },
    /// To a commit: it is durable.
    Committed,
}

/// Why a storage command failed. The three are told apart because they call for different things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// This one record is damaged. The key is repaired from other replicas.
    #[error("the record is damaged")]
    Corrupt,
    /// No space left. The node becomes read-only until there is.
    #[error("the disk is full")]
    Full,
    /// Anything else. The node stops: it can no longer know what is durable.
    #[error("storage failed: {0}")]
    Io(String),
}
