//! What a node is told at its start: its own member record, limits, timing, and its buckets' rules.

use crate::id::{ClusterId, NodeId, Run};
use crate::time::Duration;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A node's configuration. The same configuration, seed and inputs give the same outputs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How this node presents itself to the cluster.
    pub member: MemberConfig,
    /// Bounds of every queue, table and retry.
    pub limits: Limits,
    /// Deadlines and periods.
    pub timing: Timing,
    /// A rule to break on purpose, to show that the simulator catches it.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// How a node presents itself to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberConfig {
    /// A name for people; not an identity.
    pub name: String,
    /// The failure zone (rack, room): replicas go to distinct zones where possible.
    pub zone: String,
    /// Its share of the partitions relative to the other members (§6.2 heterogeneity); at least 1.
    pub weight: u32,
    /// Where peers reach it, in the host's notation; the core only carries them.
    pub addresses: Vec<String>,
}

impl Default for MemberConfig {
    fn default() -> Self {
        Self { name: String::new(), zone: "default".into(), weight: 1, addresses: Vec::new() }
    }
}

/// Named bounds, units last. Limits bind clients and memory, never the convergence of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client requests in progress at once; more are refused as overload.
    pub requests_max: u32,
    /// A client's write that would leave more siblings is refused.
    pub siblings_max: u32,
    /// A client's write that would leave siblings of more bytes together is refused.
    pub siblings_bytes_max: u64,
    /// Bytes of hints kept for other nodes; a fallback refuses its ack beyond.
    pub hint_bytes_max: u64,
    /// Hints in flight to one returning owner at once.
    pub hint_deliveries_max: u32,
    /// Keys in one page of a listing.
    pub list_page_max: u32,
    /// Members of a cluster (§6.6: full membership bounds the design to hundreds).
    pub members_max: u32,
    /// Peers' object messages that wait for one key; more are dropped and the sender retries.
    pub key_queue_max: u32,
    /// Forwards remembered of one sender, so that a repeated one is not executed twice.
    pub forwards_remembered_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 10_000,
            siblings_max: 100,
            siblings_bytes_max: 256 << 20,
            hint_bytes_max: 4 << 30,
            hint_deliveries_max: 32,
            list_page_max: 1_000,
            members_max: 1_024,
            key_queue_max: 1_024,
            forwards_remembered_max: 4_096,
        }
    }
}

/// Deadlines and periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A client's request without a timeout of its own ends after this.
    pub request_timeout: Duration,
    /// A peer that has not answered within this is suspected and another node asked in its place.
    pub peer_timeout: Duration,
    /// Gossip with a random peer this often (§4.8).
    pub gossip_interval: Duration,
    /// A suspected peer is probed this often.
    pub probe_interval: Duration,
    /// A failed hint delivery is tried again after this.
    pub hint_retry: Duration,
    /// How long a coordinator goes on after its reply, for late acks and read repair.
    pub linger: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            peer_timeout: Duration::from_millis(1_000),
            gossip_interval: Duration::from_secs(1),
            probe_interval: Duration::from_secs(1),
            hint_retry: Duration::from_secs(1),
            linger: Duration::from_secs(5),
        }
    }
}

/// What the host knows about this start of the node.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The identity that the data directory holds.
    pub node: NodeId,
    /// This start: 64 fresh random bits.
    pub run: Run,
    /// Everything in [`Space::Meta`](crate::Space::Meta); empty on a new disk.
    pub meta: Vec<(Bytes, Bytes)>,
    /// On a new disk: found this cluster; `None` waits to be admitted by the peers that the host
    /// links to. A disk that already belongs to a cluster goes on in it.
    pub found: Option<Found>,
    /// The store opened with less than it had acknowledged (below its high-water mark).
    pub lost_commits: bool,
    /// The operator accepts that what this disk lost may be lost for good.
    pub accept_loss: bool,
}

/// A cluster's shared secret: 256 random bits that seal the contexts given to clients.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u64; 4]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity: 128 fresh random bits.
    pub cluster: ClusterId,
    /// Q, the number of partitions: a power of two, fixed for ever.
    pub partitions: u32,
    /// Fresh random bits that only members know.
    pub secret: Secret,
}

/// The smallest and greatest number of partitions.
pub const PARTITIONS: std::ops::RangeInclusive<u32> = 1..=65_536;

impl Found {
    /// Checks the number of partitions.
    pub fn new(cluster: ClusterId, partitions: u32, secret: Secret) -> Result<Self, String> {
        if partitions.is_power_of_two() && PARTITIONS.contains(&partitions) {
            Ok(Self { cluster, partitions, secret })
        } else {
            Err(format!(
                "the number of partitions must be a power of two up to {}, not {partitions}",
                PARTITIONS.end()
            ))
        }
    }
}

/// How many nodes an operation asks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Need {
    /// As many as this.
    Count(u8),
    /// More than half of the preference list.
    Quorum,
    /// The whole preference list.
    All,
}

impl Need {
    /// The number it stands for in a preference list of `n`.
    pub fn of(self, n: u8) -> u8 {
        match self {
            Self::Count(count) => count,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
        }
    }
}

/// A bucket's rules. Requests may ask for other quorums than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketProps {
    /// N: replicas of each object. Can only be set while the cluster is empty.
    pub n_val: u8,
    /// Informative answers a read waits for.
    pub r: Need,
    /// Durable copies a write waits for.
    pub w: Need,
    /// Of the answers to a read, how many must be primaries'.
    pub pr: Need,
    /// Of the copies of a write, how many must be primaries'.
    pub pw: Need,
    /// Durable copies, where a client asks for them apart from W (every ack here is durable).
    pub dw: Need,
    /// Whether clients see siblings; otherwise the newest value wins.
    pub allow_mult: bool,
}

/// The greatest N.
pub const N_VAL_MAX: u8 = 32;

impl Default for BucketProps {
    fn default() -> Self {
        Self {
            n_val: 3,
            r: Need::Quorum,
            w: Need::Quorum,
            pr: Need::Count(0),
            pw: Need::Count(0),
            dw: Need::Count(0),
            allow_mult: true,
        }
    }
}

/// A change of some of a bucket's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the one of `BucketProps` that it changes")]
pub struct BucketPatch {
    pub n_val: Option<u8>,
    pub r: Option<Need>,
    pub w: Option<Need>,
    pub pr: Option<Need>,
    pub pw: Option<Need>,
    pub dw: Option<Need>,
    pub allow_mult: Option<bool>,
}

impl BucketProps {
    /// These rules with `patch` applied.
    pub fn patched(mut self, patch: BucketPatch) -> Self {
        self.n_val = patch.n_val.unwrap_or(self.n_val);
        self.r = patch.r.unwrap_or(self.r);
        self.w = patch.w.unwrap_or(self.w);
        self.pr = patch.pr.unwrap_or(self.pr);
        self.pw = patch.pw.unwrap_or(self.pw);
        self.dw = patch.dw.unwrap_or(self.dw);
        self.allow_mult = patch.allow_mult.unwrap_or(self.allow_mult);
        self
    }
    /// The first quorum that asks for more than `n_val`, by its parameter's name.
    pub fn excess(&self) -> Option<(&'static str, u8)> {
        [("r", self.r), ("w", self.w), ("pr", self.pr), ("pw", self.pw), ("dw", self.dw)]
            .into_iter()
            .map(|(name, need)| (name, need.of(self.n_val)))
            .find(|&(_, count)| count > self.n_val)
    }
}

/// Rules that can be broken on purpose; `cargo xtask sim --mutants` shows which invariant notices.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An actor that forgets and counts on: the node's id names dots, counted from what the record
    /// in the store says, across crashes.
    ForgetfulActor,
    /// A replica that keeps its own state instead of merging a peer's.
    DroppedMerge,
    /// A hint that overwrites what its owner has, instead of being merged.
    OverwritingHint,
    /// An ack before the `Stored` of its commit.
    AckBeforeStored,
    /// A fallback that holds no hint for a key and still counts as informative.
    BlindFallback,
}

#[cfg(feature = "mutants")]
impl Mutant {
    /// Every mutant with its name on the command line.
    pub const ALL: [(&'static str, Self); 5] = [
        ("forgetful-actor", Self::ForgetfulActor),
        ("dropped-merge", Self::DroppedMerge),
        ("overwriting-hint", Self::OverwritingHint),
        ("ack-before-stored", Self::AckBeforeStored),
        ("blind-fallback", Self::BlindFallback),
    ];
}
