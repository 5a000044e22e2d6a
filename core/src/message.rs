//! What peers say to each other.
//!
//! Every correlation number belongs to the run that issued it: an answer repeats both, so that a
//! late answer to an earlier run's question never counts for a new one. Three kinds of copies are
//! kept apart: [`Body::Replicate`] goes to owners only, [`Body::StoreHint`] to a fallback, and
//! [`Body::DeliverHint`] from it to an owner.

use crate::config::MemberConfig;
use crate::id::{Digest, Key, LayoutId, NodeId, Partition, Run};
use crate::membership::ClusterState;
use crate::request::{Reply, Request, RequestError};
use crate::siblings::Siblings;
use crate::time::Duration;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message from one run of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's run.
    #[serde(rename = "r")]
    pub run: Run,
    /// The layout that the sender knows; `None` before it was admitted.
    #[serde(rename = "l")]
    pub layout: Option<LayoutId>,
    /// What it says.
    #[serde(rename = "b")]
    pub body: Body,
}

/// A question's name within the run that asked it.
pub type Seq = u64;

/// The name of a question, repeated in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Re(pub Run, pub Seq);

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Body {
    /// Are you there?
    Ping { seq: Seq },
    /// Yes.
    Pong { re: Re },
    /// Gossip: the digest of the sender's cluster state. Answered by `State` where it differs.
    Gossip { digest: Digest },
    /// The sender's whole cluster state; with `answer`, the other's is wanted where it differs.
    State { state: ClusterState, answer: bool },
    /// A node (not yet a member) asks to be admitted; members pass it on to the founder.
    Join { node: NodeId, config: MemberConfig },
    /// The answer to `Join` where it cannot be: admission is answered by `State`.
    JoinRefused { node: NodeId, reason: String },
    /// To the founder: is the cluster open? With `write`, open it now. Answered by `Opened`.
    Open { seq: Seq, write: bool },
    /// The founder's state, in answer to `Open`.
    Opened { re: Re, state: ClusterState },
    /// Read an object. Answered by `ReadReply`.
    Read { seq: Seq, key: Key },
    /// The answer to `Read`.
    ReadReply { re: Re, answer: ReadAnswer },
    /// To an owner: merge this object. Answered by `Ack` or `Nack`.
    Replicate { seq: Seq, key: Key, siblings: Siblings },
    /// To a fallback: keep this for `owner` until it returns. Answered by `Ack` or `Nack`.
    StoreHint { seq: Seq, owner: NodeId, key: Key, siblings: Siblings },
    /// From a fallback to an owner: merge this. Answered by `Ack` or `Nack`.
    DeliverHint { seq: Seq, key: Key, siblings: Siblings },
    /// It is durable.
    Ack { re: Re },
    /// It was not done.
    Nack { re: Re, reason: Nack },
    /// Coordinate this client's request. Addressed to one run, so that a late repetition cannot be
    /// executed again by a run that has forgotten the first.
    Forward { seq: Seq, to: Run, request: Request, timeout: Duration },
    /// The answer to `Forward`.
    ForwardReply { re: Re, result: Result<Reply, RequestError> },
    /// One page of the bucket's live keys in a partition. Answered by `ListPage`.
    ListRead { seq: Seq, partition: Partition, bucket: Bytes, after: Option<Bytes>, limit: u32 },
    /// The answer to `ListRead`: keys in order; `through` is where the page ended if there are more.
    ListPage { re: Re, keys: Vec<Bytes>, through: Option<Bytes> },
}

/// What a node knows of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadAnswer {
    /// An owner that vouches for this being all it ever acknowledged.
    Owner(Siblings),
    /// A fallback that holds hints for the key.
    Hint(Siblings),
    /// Neither: it says nothing about the object.
    Uninformative,
}

/// Why a copy was not taken, or a question not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nack {
    /// The sender's layout is not the receiver's; states are exchanged and the sender retries.
    Layout,
    /// The receiver does not own the key.
    NotOwner,
    /// The receiver cannot vouch for the key (it just started, or lost data) and takes no copies
    /// until it has been repaired.
    NotReady,
    /// The receiver's disk or its space for hints is full.
    Full,
    /// Too much waits already.
    Busy,
    /// The question was addressed to an earlier run.
    OtherRun,
}
