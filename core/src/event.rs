//! What an observer may see: logs, metrics and pictures are made of these, decisions never.

use crate::id::{Key, NodeId, Partition};
use crate::time::Duration;

/// Something happened in a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer's message was refused; the peer may be of another version, or broken.
    Rejected {
        /// Who sent it.
        from: NodeId,
        /// Why it was refused.
        reason: String,
    },
    /// This node was admitted to, or founded, its cluster.
    Joined {
        /// The number of members it knows.
        members: u32,
    },
    /// This node was refused by the cluster it asked to join.
    JoinRefused {
        /// Why, and what to do.
        reason: String,
    },
    /// The members or their ownership changed.
    LayoutChanged {
        /// The number of members.
        members: u32,
    },
    /// The cluster holds data from now on; membership cannot change.
    Opened,
    /// A peer is suspected of being down, or no longer.
    Suspected {
        /// Which.
        peer: NodeId,
        /// Suspected, or heard from again?
        suspected: bool,
    },
    /// A stale or missing replica was sent what it lacked after a read.
    ReadRepaired {
        /// Which replica.
        node: NodeId,
        /// Of which object.
        key: Key,
    },
    /// A hint was taken for an owner that could not be reached.
    HintStored {
        /// For whom.
        owner: NodeId,
    },
    /// A hint was handed to its owner and dropped here.
    HintDelivered {
        /// To whom.
        owner: NodeId,
    },
    /// A hint's record is damaged and was set aside.
    HintDamaged {
        /// For whom it was kept.
        owner: NodeId,
    },
    /// A record was damaged; the key is being repaired from other replicas.
    Corrupt {
        /// In which partition.
        partition: Partition,
    },
    /// A damaged or lost record was restored from other replicas.
    Repaired {
        /// Which object.
        key: Key,
    },
    /// The disk is full (`true`), or has space again.
    ReadOnly(bool),
    /// The store opened with less than it had acknowledged: this node vouches for nothing until it
    /// has been repaired from others, key by key.
    LostCommits,
    /// The node took a new actor because it forgot state it may have coordinated.
    ActorRotated,
    /// An object has many siblings: a client does not resolve them.
    ManySiblings {
        /// Which object.
        key: Key,
        /// How many.
        siblings: u32,
    },
    /// A request ended at this node as its coordinator.
    Completed {
        /// What it was.
        kind: RequestKind,
        /// Did it succeed?
        ok: bool,
        /// How long the client waited.
        elapsed: Duration,
    },
    /// The node has stopped for ever: its host must end the process with this reason.
    Stopped {
        /// What happened.
        reason: String,
    },
}

/// What kind of request, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// A read.
    Get,
    /// A write.
    Put,
    /// A delete.
    Delete,
    /// Anything else.
    Other,
}
