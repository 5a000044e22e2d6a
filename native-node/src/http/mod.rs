//! The HTTP API in the shapes of Riak KV; `docs/http.md` is its reference.
//!
//! A request is parsed into types of the core, handed to the node's task through [`NodeHandle`], and
//! the reply rendered. Nothing is decided here: every rule about objects is the core's.

mod accept;
mod body;
mod inspect;
mod list;
mod metrics;
mod objects;
mod origin;
mod problem;
mod props;
mod query;
mod receipt;
mod render;
mod route;

pub use metrics::HttpMetrics;

use crate::handle::NodeHandle;
use axum::Router;
use axum::body::Body;
use axum::extract;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request};
use axum::response::{IntoResponse as _, Response};
use metrics::Operation;
use problem::Problem;
use prometheus_client::registry::Registry;
use query::Query;
use quorate_core::Key;
use route::Route;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the API needs of its host.
#[derive(Debug)]
pub struct State {
    /// The way to the node.
    pub handle: NodeHandle,
    /// Bounds of what one request may bring.
    pub limits: HttpLimits,
    /// Counts of requests; registered in `registry`.
    pub metrics: HttpMetrics,
    /// Everything that `/metrics` shows beside the node's own view.
    pub registry: Registry,
}

/// Bounds of what one request may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// The largest object's body.
    pub object_bytes_max: usize,
    /// Content type, user metadata, index entries and links of one object together.
    pub metadata_bytes_max: usize,
    /// A body must have arrived within this.
    pub body_time_max: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            object_bytes_max: 1 << 20,
            metadata_bytes_max: 16 << 10,
            body_time_max: Duration::from_secs(60),
        }
    }
}

impl State {
    /// An API over `handle`, with the HTTP metrics added to what `registry` already has.
    pub fn new(handle: NodeHandle, limits: HttpLimits, mut registry: Registry) -> Self {
        let metrics = HttpMetrics::register(&mut registry);
        Self { handle, limits, metrics, registry }
    }
}

/// The whole API. Other routes may be merged in; this one answers all paths that nothing else takes.
pub fn router(state: State) -> Router {
    // One fallback in place of axum's routes: names are arbitrary bytes, which its path extractors
    // refuse, and a match on the cut path is all that is needed.
    Router::new().fallback(serve).with_state(Arc::new(state))
}

async fn serve(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let (operation, answer) = answer(&state, &parts, body).await;
    let mut response = answer.unwrap_or_else(Problem::into_response);
    if parts.method == Method::HEAD {
        response = render::without_body(response);
    }
    state.metrics.observe(operation, response.status().as_u16(), begun.elapsed());
    response
}

async fn answer(
    state: &Arc<State>,
    parts: &Parts,
    body: Body,
) -> (Operation, Result<Response, Problem>) {
    let route = origin::check(parts).and_then(|()| route::parse(parts.uri.path()));
    match route {
        Ok(route) => {
            let operation = operation(&route, &parts.method);
            (operation, dispatch(state, route, parts, body).await)
        }
        Err(problem) => {
            body::linger(&parts.headers, body);
            (Operation::Other, Err(problem))
        }
    }
}

fn operation(route: &Route, method: &Method) -> Operation {
    match (route, method) {
        (Route::Object(_), &Method::GET | &Method::HEAD) => Operation::Get,
        (Route::Object(_), &Method::PUT | &Method::POST) | (Route::Keys(_), &Method::POST) => {
            Operation::Put
        }
        (Route::Object(_), &Method::DELETE) => Operation::Delete,
        (Route::Keys(_), &Method::GET) => Operation::List,
        (Route::Props(_), _) => Operation::Props,
        _ => Operation::Other,
    }
}

async fn dispatch(
    state: &Arc<State>,
    route: Route,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    let (method, headers) = (&parts.method, &parts.headers);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let query = Query::parse(parts.uri.query());
    match route {
        Route::Object(key) => match *method {
            Method::GET | Method::HEAD => objects::get(state, key, &query, headers).await,
            Method::PUT | Method::POST => {
                objects::put(state, key, false, &query, headers, body).await
            }
            Method::DELETE => objects::delete(state, key, &query, headers).await,
            _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, POST, DELETE")),
        },
        Route::Keys(bucket) => match *method {
            Method::GET => list::list(state, bucket, &query).await,
            Method::POST => {
                let key = Key::new(bucket, render::random_name())?;
                objects::put(state, key, true, &query, headers, body).await
            }
            _ => Err(Problem::method_not_allowed("GET, POST")),
        },
        Route::Props(bucket) => match *method {
            Method::GET | Method::HEAD => props::get(state, bucket).await,
            Method::PUT => props::put(state, bucket, headers, body).await,
            Method::DELETE => props::reset(state, bucket).await,
            _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, DELETE")),
        },
        Route::Buckets => Err(Problem::not_found(
            "buckets are not listed: a bucket's keys are, at /buckets/BUCKET/keys?keys=true",
        )),
        _ if !reads => Err(Problem::method_not_allowed("GET, HEAD")),
        Route::Index => Ok(inspect::index()),
        Route::Ping => Ok(inspect::ping()),
        Route::Stats => inspect::stats(state).await,
        Route::Cluster => inspect::cluster(state).await,
        Route::Metrics => inspect::metrics(state).await,
    }
}

fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("plain data always has a JSON form");
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
