//! What the links did since the start, for `/metrics` and tests. Counters only grow.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of all links of a node. A clone counts in the same place.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is described where it is registered, for `/metrics`")]
pub struct Stats {
    pub links: Gauge,
    pub dials: Counter,
    pub dials_failed: Counter,
    pub refused: Counter,
    pub links_broken: Counter,
    pub frames_sent: Counter,
    pub frames_received: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    pub messages_sent: Counter,
    pub messages_received: Counter,
    pub dropped_overflow: Counter,
    pub dropped_unlinked: Counter,
}

impl Stats {
    /// Adds the counters to what `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("quorate_peer_links", "Links to peers that are up", self.links.clone());
        for (name, help, counter) in [
            ("quorate_peer_dials", "Attempts to link to a peer", &self.dials),
            ("quorate_peer_dials_failed", "Attempts that failed", &self.dials_failed),
            ("quorate_peer_refused", "Nodes refused at the hello, by either side", &self.refused),
            (
                "quorate_peer_links_broken",
                "Links closed because of what came in",
                &self.links_broken,
            ),
            ("quorate_peer_frames_sent", "Frames written to links", &self.frames_sent),
            ("quorate_peer_frames_received", "Frames read from links", &self.frames_received),
            ("quorate_peer_bytes_sent", "Bytes of frames written", &self.bytes_sent),
            ("quorate_peer_bytes_received", "Bytes of frames read", &self.bytes_received),
            ("quorate_peer_messages_sent", "Messages written to links", &self.messages_sent),
            ("quorate_peer_messages_received", "Messages read from links", &self.messages_received),
            (
                "quorate_peer_messages_overflowed",
                "Messages dropped: full outbox",
                &self.dropped_overflow,
            ),
            ("quorate_peer_messages_unlinked", "Messages dropped: no link", &self.dropped_unlinked),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
