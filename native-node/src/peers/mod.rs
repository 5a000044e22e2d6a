//! Links to peers over WebSockets: one link a peer, kept up as long as the core wants it.
//!
//! - [`address`]: how an address is written. [`hello`]: who may talk to whom. [`frame`]: many
//!   messages in a frame. [`outbox`]: what waits for a link, and the overflow rule.
//! - `dial` and `accept` bring a link up, `link` runs it, and [`Peers`] knows all of them.
//!
//! Invariants: at most one link to a node is in use. When two nodes dial each other at once, both
//! keep the link that the smaller [`NodeId`] dialled, so the choice needs no agreement and does not
//! flap. Of two processes with one identity only the first is linked. A link that is up is announced before its first message is handed over, and the
//! announcements of one peer alternate. Nothing in here blocks the node's task.

mod accept;
pub mod address;
mod dial;
pub mod frame;
pub mod hello;
mod link;
pub mod outbox;
pub mod stats;

use address::Address;
use hello::{Identity, Refusal};
use link::Link;
use quorate_core::{ClusterId, Message, NodeId};
use stats::Stats;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

/// The path of peer links on the node's port.
pub const PEER_PATH: &str = "/peer";
/// Frames that wait for the node's task; readers of links wait when they are that many.
const FRAMES_WAITING_MAX: usize = 64;
/// Incoming links that have not said hello yet.
const HANDSHAKES_MAX: usize = 256;
/// Links at once: more than a cluster has members.
const LINKS_MAX: usize = 2_048;
/// Refusals that are remembered, so that each is a warning only now and then.
const REFUSALS_REMEMBERED_MAX: usize = 256;
/// How often the same refusal is a warning.
const REFUSAL_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// How long links get to say goodbye at the end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// How links behave. The defaults are meant for use; tests shorten the times.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this node is.
    pub identity: Identity,
    /// The longest frame that this node reads and writes.
    pub frame_bytes_max: u32,
    /// Messages that wait for one link.
    pub outbox_messages_max: usize,
    /// Bytes that wait for one link.
    pub outbox_bytes_max: usize,
    /// From the dial to the end of the hellos.
    pub handshake_timeout: Duration,
    /// A link on which nothing came in for this long is pinged.
    pub ping_after: Duration,
    /// A link on which nothing came in for this long is closed.
    pub silence_max: Duration,
    /// The first wait before dialling again; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// How long the node with the greater id waits for the other to dial first.
    pub deference: Duration,
}

impl Options {
    /// The defaults for this node.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            frame_bytes_max: 1 << 20,
            outbox_messages_max: outbox::OUTBOX_MESSAGES_MAX,
            outbox_bytes_max: outbox::OUTBOX_BYTES_MAX,
            handshake_timeout: Duration::from_secs(5),
            ping_after: Duration::from_secs(2),
            silence_max: Duration::from_secs(6),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            deference: Duration::from_millis(100),
        }
    }
}

/// A link came up or went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// The other end.
    pub peer: NodeId,
    /// Is it up?
    pub up: bool,
}

/// What links bring to the node's task, which takes all of `links` before each of `frames`.
#[derive(Debug)]
pub struct Inbound {
    /// Links that came up or went down.
    pub links: mpsc::UnboundedReceiver<LinkChange>,
    /// The messages of one frame, and who sent them.
    pub frames: mpsc::Receiver<(NodeId, Vec<Message>)>,
}

/// All links of a node. A clone is another way to the same links.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    registry: Mutex<Registry>,
    /// Moves on whenever the registry changed, for the tasks that dial.
    changed: watch::Sender<u64>,
    link_changes: mpsc::UnboundedSender<LinkChange>,
    frames: mpsc::Sender<(NodeId, Vec<Message>)>,
    handshakes: Semaphore,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Registry {
    cluster: Option<ClusterId>,
    links: BTreeMap<NodeId, Arc<Link>>,
    wanted: BTreeMap<NodeId, Wanted>,
    seeds: Vec<AbortHandle>,
    /// Refusals that were logged, and when: who is refused tries again for ever.
    refusals: BTreeMap<String, Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Wanted {
    addresses: Vec<String>,
    dialler: Option<AbortHandle>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if let Some(dialler) = &self.dialler {
            dialler.abort();
        }
    }
}

/// Why a link that said hello is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotUsed {
    #[error("there is a link already, and the one that the smaller node id dialled is kept")]
    Duplicate,
    #[error("this node is shutting down")]
    Closed,
    #[error(
        "another process is linked as node {0}: if that node has just started again, its old link ends in a moment; if not, its data directory was copied: stop one of the two and start it with an empty --data directory"
    )]
    OtherRun(NodeId),
    #[error("there are {LINKS_MAX} links, which is the limit")]
    TooMany,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Peers {
    /// No links yet; what they bring will come out of the second part.
    pub fn new(options: Options, cluster: Option<ClusterId>) -> (Self, Inbound) {
        let (link_changes, links) = mpsc::unbounded_channel();
        let (frames_in, frames) = mpsc::channel(FRAMES_WAITING_MAX);
        let shared = Shared {
            options,
            registry: Mutex::new(Registry { cluster, ..Registry::default() }),
            changed: watch::Sender::new(0),
            link_changes,
            frames: frames_in,
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            stats: Stats::default(),
        };
        (Self(Arc::new(shared)), Inbound { links, frames })
    }

    /// The route that takes peers' links: [`PEER_PATH`].
    pub fn router(&self) -> axum::Router {
        accept::router(self.clone())
    }

    /// Hands `messages`, which is empty afterwards, to the link to `to`. Without a link, or beyond
    /// the bounds of its [`outbox`], they are dropped and counted.
    pub fn send(&self, to: NodeId, messages: &mut Vec<Message>) {
        let link = self.lock().links.get(&to).cloned();
        let stats = &self.0.stats;
        if let Some(link) = link {
            stats.dropped_overflow.inc_by(link.outbox.push(messages) as u64);
        } else {
            stats.dropped_unlinked.inc_by(messages.len() as u64);
            messages.clear();
        }
    }

    /// Keeps a link to a member at one of these addresses; none: no longer.
    pub fn want(&self, id: NodeId, addresses: Vec<String>) {
        let mut registry = self.lock();
        let known = registry.wanted.get(&id).is_some_and(|wanted| wanted.addresses == addresses);
        if id == self.0.options.identity.node || known || registry.closed {
            return;
        }
        registry.wanted.remove(&id);
        if addresses.is_empty() {
            if let Some(link) = registry.links.get(&id) {
                link.retire("this node is no longer a member");
            }
        } else {
            let dialler = dial::keep_linked(self, id, &addresses);
            registry.wanted.insert(id, Wanted { addresses, dialler });
        }
        drop(registry);
        self.changed();
    }

    /// Dials each of these until it answers, and again while no member can be reached.
    pub fn join(&self, seeds: Vec<Address>) {
        let seeds = seeds.into_iter().map(|seed| dial::keep_asking(self, seed)).collect();
        self.lock().seeds = seeds;
    }

    /// This node belongs to `cluster` from now on; links to nodes of another one are closed.
    pub fn set_cluster(&self, cluster: ClusterId) {
        let mut registry = self.lock();
        registry.cluster = Some(cluster);
        for link in registry.links.values() {
            if link.cluster.is_some_and(|theirs| theirs != cluster) {
                link.retire(&format!("this node was admitted to cluster {cluster}"));
            }
        }
    }

    /// The peers to which a link is up.
    pub fn linked(&self) -> Vec<NodeId> {
        self.lock().links.keys().copied().collect()
    }

    /// What the links did since the start.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Closes every link with this reason and takes no new ones.
    pub async fn close(&self, reason: &str) {
        {
            let mut registry = self.lock();
            registry.closed = true;
            registry.wanted.clear();
            registry.seeds.iter().for_each(AbortHandle::abort);
            registry.links.values().for_each(|link| link.retire(reason));
        }
        let all_gone = self.until(|registry| registry.links.is_empty());
        if tokio::time::timeout(GOODBYE_MAX, all_gone).await.is_err() {
            tracing::debug!(links = self.lock().links.len(), "links did not say goodbye in time");
        }
    }

    /// Takes a link into use whose hellos are exchanged, or says why not.
    fn register(&self, link: &Arc<Link>) -> Result<(), NotUsed> {
        let me = self.0.options.identity.node;
        let mut registry = self.lock();
        if registry.closed {
            return Err(NotUsed::Closed);
        }
        // The cluster may have become known since the hello was checked.
        if let (Some(ours), Some(theirs)) = (registry.cluster, link.cluster)
            && ours != theirs
        {
            return Err(Refusal::Cluster { node: link.peer, theirs, me, ours }.into());
        }
        if let Some(old) = registry.links.get(&link.peer) {
            // A process that ended takes its sockets with it, and a machine that ended is noticed by
            // its silence; so the other run is alive, and two with one identity would lose data.
            if old.run != link.run {
                return Err(NotUsed::OtherRun(link.peer));
            }
            let old_is_right = old.dialled_by(me) == me.min(link.peer);
            if old.dialled != link.dialled && old_is_right {
                return Err(NotUsed::Duplicate);
            }
            // Who dials twice has given up on the first link.
            old.retire("another link between the same nodes has taken over");
        } else if registry.links.len() >= LINKS_MAX {
            return Err(NotUsed::TooMany);
        } else {
            self.announce(link.peer, true);
        }
        registry.links.insert(link.peer, Arc::clone(link));
        self.0.stats.links.set(i64::try_from(registry.links.len()).unwrap_or(i64::MAX));
        drop(registry);
        self.changed();
        Ok(())
    }

    /// A link has ended.
    fn deregister(&self, link: &Arc<Link>) {
        let mut registry = self.lock();
        if registry.links.get(&link.peer).is_some_and(|used| Arc::ptr_eq(used, link)) {
            registry.links.remove(&link.peer);
            self.announce(link.peer, false);
        }
        self.0.stats.links.set(i64::try_from(registry.links.len()).unwrap_or(i64::MAX));
        drop(registry);
        self.changed();
    }

    /// Counts and logs that somebody was refused at the port.
    fn note_refusal(&self, reason: &str) {
        self.0.stats.refused.inc();
        let now = Instant::now();
        let mut registry = self.lock();
        let logged = registry.refusals.get(reason);
        if logged.is_some_and(|&at| now.duration_since(at) < REFUSAL_WARNING_INTERVAL) {
            tracing::debug!(reason, "a peer link was refused again");
            return;
        }
        if registry.refusals.len() >= REFUSALS_REMEMBERED_MAX {
            registry.refusals.clear();
        }
        registry.refusals.insert(reason.to_owned(), now);
        drop(registry);
        tracing::warn!(reason, "a peer link was refused");
    }

    /// Called with the registry locked, so that announcements come in the order of the changes.
    fn announce(&self, peer: NodeId, up: bool) {
        // The node's task may be gone at the end of the process; then nobody needs to know.
        self.0.link_changes.send(LinkChange { peer, up }).ok();
    }

    fn changed(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Waits until the registry is as wanted.
    async fn until(&self, wanted: impl Fn(&Registry) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !wanted(&self.lock()) {
            changed.changed().await.expect("the sender lives as long as `self`");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Every change under this lock is made of steps that cannot panic half-way.
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
