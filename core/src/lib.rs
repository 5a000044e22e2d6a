//! Amazon's Dynamo (SOSP 2007) as a sans-IO state machine: no I/O, clock, entropy, threads or
//! async. A host moves bytes, keeps time and stores records; every decision is made here.
//!
//! # The run loop
//!
//! 1. Make a [`Node`] from a [`Config`], a [`Boot`] and a seed.
//! 2. Drain [`Node::poll_output`]: send messages, execute storage commands, answer clients.
//! 3. Wait for a message, a request, a finished storage command or the deadline that
//!    [`Node::poll_timeout`] names, whichever comes first; give it to [`Node::handle`]; go to 2.

mod actor;
mod claim;
mod cluster;
pub mod codec;
mod config;
mod context;
mod coordinator;
mod detector;
mod event;
mod hint;
mod id;
mod io;
mod membership;
mod message;
mod node;
mod record;
mod repair;
mod replica;
mod request;
mod ring;
mod rng;
mod siblings;
mod tally;
mod time;
mod timer;
mod version;
mod view;

pub use claim::{ClaimMember, claim};
#[cfg(feature = "mutants")]
pub use config::Mutant;
pub use config::{
    Boot, BucketPatch, BucketProps, Config, Found, Limits, MemberConfig, N_VAL_MAX, Need,
    PARTITIONS, Secret, Timing,
};
pub use event::{Event, RequestKind};
pub use id::{
    Actor, ClusterId, Digest, Key, KeyError, LayoutId, NAME_BYTES_MAX, NodeId, OpId, ParseIdError,
    Partition, RequestId, Run, Token, WriteId, check_name,
};
pub use io::{Input, Output, Space, StoreCommand, StoreError, StoreReply, Write};
pub use membership::{BUCKETS_MAX, BucketRecord, Change, ClusterState, MemberRecord};
pub use message::{Body, Message, Nack, Re, ReadAnswer, Seq};
pub use node::Node;
pub use request::{
    Answer, Get, List, ListCursor, Object, Put, Receipt, Reply, Request, RequestError,
};
pub use ring::{Ring, WALK_MAX};
pub use siblings::{Siblings, Value, WRITE_IDS_MAX, WriteRecord};
pub use time::{Duration, Instant, Now, WallTime};
pub use version::{Causality, Dot, VersionVector};
pub use view::{Counters, HintsView, MemberView, NodeView, PeerState};
