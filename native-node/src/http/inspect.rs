//! What operators and clients' start-up look at: `/`, `/ping`, `/stats`, `/cluster`, `/metrics`.

use super::problem::Problem;
use super::{State, json, metrics};
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use quorate_core::{NodeView, PeerState};
use serde_json::{Map, Value};

/// The API is that of Riak KV 3; its clients read this version and refuse bucket types if it is
/// missing or below 2. It names the API, not a program.
const RIAK_API_VERSION: &str = "3.0.16";

const INDEX: &str = "Quorate, a node of a Dynamo cluster. It speaks Riak KV's HTTP API:

  /buckets/BUCKET/keys/KEY     GET, HEAD, PUT, POST, DELETE an object
  /buckets/BUCKET/keys         POST makes a key; GET ?keys=true or ?keys=stream lists them
  /buckets/BUCKET/props        GET, PUT, DELETE the bucket's rules
  /ping                        is the process there?
  /stats                       counters as JSON
  /cluster                     this node's view of itself and of the cluster, as JSON
  /metrics                     for Prometheus
";

pub(super) fn index() -> Response {
    text("text/plain", INDEX)
}

pub(super) fn ping() -> Response {
    text("text/plain", "OK")
}

/// The node's own view, as it is.
pub(super) async fn cluster(state: &State) -> Result<Response, Problem> {
    Ok(json(&*view(state).await?))
}

pub(super) async fn stats(state: &State) -> Result<Response, Problem> {
    let view = view(state).await?;
    let up = |state| matches!(state, PeerState::Myself | PeerState::Up);
    let connected = view.members.iter().filter(|member| up(member.state)).count();
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("riak_kv_version", RIAK_API_VERSION.into());
    set("quorate_version", env!("CARGO_PKG_VERSION").into());
    set("nodename", view.node.map(|node| node.to_string()).into());
    set("ring_num_partitions", view.partitions.into());
    set("ring_members", view.members.len().into());
    set("connected_members", connected.into());
    set("node_gets_total", view.counters.gets.into());
    set("node_puts_total", view.counters.puts.into());
    set("read_repairs_total", view.counters.read_repairs.into());
    for (name, value) in metrics::counters(&view.counters) {
        set(&format!("quorate_{name}_total"), value.into());
    }
    Ok(json(&out))
}

pub(super) async fn metrics(state: &State) -> Result<Response, Problem> {
    let view = view(state).await?;
    let exposition = metrics::text(&state.registry, &view);
    Ok(text("application/openmetrics-text; version=1.0.0; charset=utf-8", exposition))
}

async fn view(state: &State) -> Result<Box<NodeView>, Problem> {
    state.handle.view().await.ok_or_else(Problem::gone)
}

fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
