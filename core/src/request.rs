//! What a client may ask of a node and what it is told.

use crate::config::{BucketPatch, BucketProps, Need};
use crate::id::{Key, LayoutId, NodeId, Partition, WriteId};
use crate::siblings::Value;
use crate::time::Duration;
use crate::version::Dot;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A client's request. Any node takes any request and forwards it where it must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Read an object.
    Get(Get),
    /// Write or delete an object.
    Put(Put),
    /// One page of a bucket's keys.
    List(List),
    /// A bucket's rules.
    GetBucket {
        /// The bucket's name.
        bucket: Bytes,
    },
    /// Change some of a bucket's rules.
    SetBucket {
        /// The bucket's name.
        bucket: Bytes,
        /// What to change; `None` resets the bucket to the defaults.
        patch: Option<BucketPatch>,
    },
}

/// Read an object (§4.5). What is not given is the bucket's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Get {
    /// Which object.
    pub key: Key,
    /// R: informative answers to wait for.
    pub r: Option<Need>,
    /// How many of them must come from primaries.
    pub pr: Option<Need>,
    /// May fallbacks stand in for owners that are down? (Default: yes.)
    pub sloppy: bool,
    /// Does "absent" count as an answer? Otherwise it is believed only when all have said so, or,
    /// with `basic_quorum`, more than half.
    pub notfound_ok: bool,
    /// See `notfound_ok`.
    pub basic_quorum: bool,
    /// How long the client waits.
    pub timeout: Option<Duration>,
}

/// Write or delete an object (§4.5). What is not given is the bucket's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Put {
    /// Which object.
    pub key: Key,
    /// The sealed context of the read that this write follows; empty or `None`: a blind write.
    pub context: Option<Bytes>,
    /// The value, in the host's encoding; `None` deletes what the context covers.
    pub value: Option<Bytes>,
    /// W: durable copies on distinct nodes to wait for.
    pub w: Option<Need>,
    /// How many of them must be on primaries.
    pub pw: Option<Need>,
    /// Durable copies to wait for, apart from W.
    pub dw: Option<Need>,
    /// May fallbacks stand in for owners that are down? (Default: yes.)
    pub sloppy: bool,
    /// A name for this write, so that a retry adds nothing.
    pub write_id: Option<WriteId>,
    /// Answer with the object as it is after the write.
    pub return_body: bool,
    /// How long the client waits.
    pub timeout: Option<Duration>,
}

/// One page of a bucket's keys, partition by partition. Keys deleted a moment ago may show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The bucket's name.
    pub bucket: Bytes,
    /// Where the previous page ended; `None` starts.
    pub after: Option<ListCursor>,
    /// At most this many keys (bounded by `list_page_max`). A page may hold fewer, even none,
    /// before the end: only a missing cursor says that the listing is complete.
    pub limit: u32,
    /// How long the client waits for the page.
    pub timeout: Option<Duration>,
}

/// Where a page of a listing ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListCursor {
    /// The partition that comes next or that was not finished.
    pub partition: Partition,
    /// The last key listed in it, if any.
    pub after: Option<Bytes>,
}

impl Get {
    /// A read at the bucket's quorums.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            r: None,
            pr: None,
            sloppy: true,
            notfound_ok: true,
            basic_quorum: false,
            timeout: None,
        }
    }
}

impl Put {
    /// A blind write of `value` at the bucket's quorums; set the context to follow a read.
    pub fn new(key: Key, value: Bytes) -> Self {
        Self {
            key,
            context: None,
            value: Some(value),
            w: None,
            pw: None,
            dw: None,
            sloppy: true,
            write_id: None,
            return_body: false,
            timeout: None,
        }
    }
    /// Deletes the values that `context` covers.
    pub fn delete(key: Key, context: Bytes) -> Self {
        Self { context: Some(context), value: None, ..Self::new(key, Bytes::new()) }
    }
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The object's values.
    Found {
        /// The values and the context that covers them.
        object: Object,
        /// What was asked of whom.
        receipt: Receipt,
    },
    /// Something was there and is deleted; the tombstone is still known.
    Deleted {
        /// The sealed context of the tombstone.
        context: Bytes,
        /// What was asked of whom.
        receipt: Receipt,
    },
    /// Nothing was ever there, as far as R informative nodes know.
    Absent {
        /// What was asked of whom.
        receipt: Receipt,
    },
    /// The write is durable on W nodes.
    Written {
        /// The name of the write; `None` for a delete.
        dot: Option<Dot>,
        /// The write id was known: this is the earlier write's answer, and nothing was added.
        repeated: bool,
        /// The object after the write, as the coordinator has it; values only if asked for.
        object: Object,
        /// What was asked of whom.
        receipt: Receipt,
    },
    /// One page of keys.
    Keys {
        /// The keys.
        keys: Vec<Bytes>,
        /// Where to go on; `None` at the end.
        next: Option<ListCursor>,
    },
    /// A bucket's rules.
    Bucket(BucketProps),
}

/// An object as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The concurrent values: siblings, if more than one.
    pub values: Vec<(Dot, Value)>,
    /// The sealed context that covers them, to be given back with the next write.
    pub context: Bytes,
}

/// What durability or freshness an answer really got (sloppy quorums promise availability).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The node that coordinated.
    pub coordinator: NodeId,
    /// The preference list was derived from this layout.
    pub layout: LayoutId,
    /// N of this object: the preference list's length.
    pub n: u8,
    /// How many answers were needed.
    pub needed: u8,
    /// Who had answered when the reply was decided.
    pub answers: Vec<Answer>,
    /// The number of siblings after merging what was read or written.
    pub siblings: u32,
    /// From the coordinator's start to the reply.
    pub elapsed: Duration,
}

/// One node's part in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who.
    pub node: NodeId,
    /// A primary (one of the first N of the preference list) or a fallback in a primary's place.
    pub primary: bool,
    /// For writes: on disk. For reads: informative.
    pub counts: bool,
}

/// Why a request did not succeed. Whether a write may still have happened is told by
/// [`RequestError::is_unknown`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A quorum parameter asks for more nodes than N.
    #[error("{param}={value} is more than n={n}: ask for at most {n}")]
    QuorumExceedsN {
        /// The parameter's name.
        param: String,
        /// What it asked for.
        value: u8,
        /// The preference list's length.
        n: u8,
    },
    /// The context was not issued by this cluster for this key.
    #[error(
        "the context (vclock) was not issued by this cluster for this key: read the object again and use the context of that answer, or write without one"
    )]
    BadContext,
    /// The write id was used before for another value.
    #[error("this write id was used before with another value: use a new id for a new write")]
    WriteIdReused,
    /// The write would leave too many siblings.
    #[error(
        "the write would leave {would_be} siblings and the limit is {max}: read the object, merge its values and write with the context of that read"
    )]
    TooManySiblings {
        /// How many there would be.
        would_be: u32,
        /// The limit.
        max: u32,
    },
    /// The write would leave siblings of too many bytes together.
    #[error(
        "the write would leave siblings of {would_be} bytes together and the limit is {max}: read the object, merge its values and write with the context of that read"
    )]
    SiblingsTooLarge {
        /// How many bytes there would be.
        would_be: u64,
        /// The limit.
        max: u64,
    },
    /// Too few nodes can be reached. Nothing was written, or `may_have_happened` says otherwise.
    #[error("{param}={need} needs {need} nodes and {have} can be reached{}", maybe(*.may_have_happened))]
    Unavailable {
        /// The parameter that could not be met (`r`, `w`, `pr`, `pw`, `dw`).
        param: String,
        /// What it asked for.
        need: u8,
        /// How many answered or could have.
        have: u8,
        /// Was anything sent that may still take effect?
        may_have_happened: bool,
    },
    /// No decision in time; a write may or may not have happened.
    #[error("no decision within {after}{}", maybe(*.may_have_happened))]
    Timeout {
        /// The time the client gave.
        after: Duration,
        /// Was anything sent that may still take effect?
        may_have_happened: bool,
    },
    /// The coordinator that the request was forwarded to could not take it; nothing happened.
    #[error("the node cannot coordinate this request now: {0}")]
    NotReady(String),
    /// This node is not a member of a cluster yet.
    #[error("this node is not a member of a cluster yet: it waits to be admitted")]
    NotMember,
    /// The first write opens the cluster at its founding node, which cannot be reached.
    #[error(
        "the cluster is still empty and its founding node {0} cannot be reached to open it: start that node"
    )]
    NotOpen(NodeId),
    /// The disk is full; the node reads and does not write.
    #[error("the disk is full and the node is read-only: free space on it")]
    ReadOnly,
    /// The node stopped after a storage error.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// Too many requests in progress.
    #[error("{0} requests are in progress, which is the limit: try again later")]
    Overloaded(u32),
    /// The change cannot be made (now).
    #[error("{0}")]
    Refused(String),
}

fn maybe(may_have_happened: bool) -> &'static str {
    if may_have_happened {
        "; the write may or may not have happened: retry it with its write id"
    } else {
        ""
    }
}

impl RequestError {
    /// May the write have happened all the same? ("A failure after anything was sent is unknown,
    /// never failed.")
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Timeout { may_have_happened: true, .. }
                | Self::Unavailable { may_have_happened: true, .. }
                | Self::Stopped(_)
        )
    }
}
