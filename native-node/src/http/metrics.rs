//! `/metrics`: what Prometheus scrapes.
//!
//! Three sources make one exposition: the registry that the host passes in (HTTP, and whatever else
//! it registers), and the node's view of itself at the moment of the scrape.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use quorate_core::{Counters, NodeView, PeerState};
use std::time::Duration;

/// What a request was for. HEAD counts as `get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Put,
    Delete,
    List,
    Props,
    Other,
}

/// In the order of [`Operation`]'s variants.
const OPERATIONS: [&str; 6] = ["get", "put", "delete", "list", "props", "other"];

/// Upper bounds in seconds: from a read in memory to the longest wait by default.
const LATENCY_BOUNDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u32,
}

/// Latencies and counts of HTTP requests.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    latency: [Histogram; OPERATIONS.len()],
    requests: Family<RequestLabels, Counter>,
}

impl HttpMetrics {
    /// Registers the HTTP metrics; the registry is then given to [`State`](super::State).
    pub fn register(registry: &mut Registry) -> Self {
        let latency = Family::<OperationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(LATENCY_BOUNDS)
        });
        let requests = Family::default();
        registry.register_with_unit(
            "quorate_http_request_duration",
            "Time from a request's head to its response's head, by operation",
            Unit::Seconds,
            latency.clone(),
        );
        registry.register(
            "quorate_http_requests",
            "Requests answered, by operation and status",
            requests.clone(),
        );
        let latency =
            OPERATIONS.map(|operation| latency.get_or_create_owned(&OperationLabels { operation }));
        Self { latency, requests }
    }

    pub(super) fn observe(&self, operation: Operation, status: u16, elapsed: Duration) {
        let name = OPERATIONS[operation as usize];
        self.latency[operation as usize].observe(elapsed.as_secs_f64());
        let labels = RequestLabels { operation: name, status: status.into() };
        self.requests.get_or_create(&labels).inc();
    }
}

/// All metrics in the OpenMetrics text format.
pub(super) fn text(host: &Registry, view: &NodeView) -> String {
    let mut out = String::new();
    let written = encode_registry(&mut out, host)
        .and_then(|()| encode_registry(&mut out, &of_view(view)))
        .and_then(|()| encode_eof(&mut out));
    written.expect("memory takes all text");
    out
}

/// The counters by name, whichever this version of the core has.
pub(super) fn counters(counters: &Counters) -> Vec<(String, u64)> {
    match serde_json::to_value(counters) {
        Ok(serde_json::Value::Object(fields)) => fields
            .into_iter()
            .filter_map(|(name, value)| value.as_u64().map(|value| (name, value)))
            .collect(),
        _ => Vec::new(),
    }
}

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;

fn of_view(view: &NodeView) -> Registry {
    let mut registry = Registry::default();
    let id = |id: Option<String>| id.unwrap_or_default();
    let info = Info::new(vec![
        ("node", id(view.node.map(|id| id.to_string()))),
        ("run", id(view.run.map(|id| id.to_string()))),
        ("cluster", id(view.cluster.map(|id| id.to_string()))),
        ("layout", id(view.layout.map(|id| id.to_string()))),
        ("version", env!("CARGO_PKG_VERSION").to_string()),
    ]);
    registry.register("quorate_node", "Which node this is", info);

    let flags = [
        ("ready", "Can this node answer for what it owns (1) or not (0)", view.ready),
        ("open", "Does the cluster hold data, so that membership cannot change", view.open),
        ("read_only", "Is the node's disk full", view.read_only),
        ("lost_commits", "Did the node's disk lose acknowledged commits", view.lost_commits),
        ("stopped", "Has the node stopped after a storage error", view.stopped.is_some()),
    ];
    let numbers = [
        ("partitions", "Partitions of the ring (Q)", u64::from(view.partitions)),
        ("requests_in_progress", "Client requests in progress", u64::from(view.requests)),
        ("busy_keys", "Keys with work in progress or waiting", u64::from(view.busy_keys)),
    ];
    let flags = flags.map(|(name, help, set)| (name, help, u64::from(set)));
    for (name, help, value) in flags.into_iter().chain(numbers) {
        registry.register(format!("quorate_{name}"), help, ConstGauge::new(value));
    }

    let members = Gauges::default();
    for state in [PeerState::Myself, PeerState::Up, PeerState::Suspected, PeerState::Unknown] {
        let count = view.members.iter().filter(|member| member.state == state).count();
        let label = format!("{state:?}").to_lowercase();
        set(&members, &vec![("state", label)], count as u64);
    }
    registry.register("quorate_members", "Members by what this node believes of them", members);
    let claimed = Gauges::default();
    for member in &view.members {
        let labels = vec![("node", member.node.to_string()), ("name", member.name.clone())];
        set(&claimed, &labels, member.claimed.into());
    }
    registry.register("quorate_claimed_partitions", "Partitions claimed by each member", claimed);

    let (hints, hint_bytes) = (Gauges::default(), Gauges::default());
    for kept in &view.hints {
        let labels = vec![("owner", kept.owner.to_string())];
        set(&hints, &labels, kept.count);
        set(&hint_bytes, &labels, kept.bytes);
    }
    registry.register("quorate_hints", "Objects kept for other nodes, by owner", hints);
    registry.register_with_unit(
        "quorate_hint",
        "Bytes of objects kept for other nodes, by owner",
        Unit::Bytes,
        hint_bytes,
    );
    for (name, value) in counters(&view.counters) {
        let help = format!("Since the start of this run: {}", name.replace('_', " "));
        registry.register(format!("quorate_{name}"), help, ConstCounter::new(value));
    }
    registry
}

fn set(gauges: &Gauges, labels: &Labels, value: u64) {
    gauges.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}
