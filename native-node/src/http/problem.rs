//! What a client is told when a request did not succeed: a status and one line that says what to do.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quorate_core::{KeyError, RequestError};
use std::borrow::Cow;

/// Set to `unknown` where a failed write may have happened all the same.
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("x-quorate-outcome");

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    text: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// `text` is one line without its line break.
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), headers: Vec::new() }
    }
    pub(super) fn bad_request(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
    pub(super) fn not_found(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("this resource does not take that method: it takes {allow}"),
        )
        .with(ALLOW, HeaderValue::from_static(allow))
    }
    /// The node's task has ended; the process is about to.
    pub(super) fn gone() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node has stopped: see its log, and ask another node",
        )
    }
    /// The line, without its line break.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut text = self.text.into_owned();
        text.push('\n');
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.extend(self.headers);
        response
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// The statuses of a node's refusals. The texts that Riak's clients look for come first.
impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        use RequestError as E;
        let status = match &error {
            E::QuorumExceedsN { .. } | E::BadContext | E::WriteIdReused => StatusCode::BAD_REQUEST,
            E::TooManySiblings { .. } | E::SiblingsTooLarge { .. } | E::Refused(_) => {
                StatusCode::CONFLICT
            }
            E::ReadOnly => StatusCode::INSUFFICIENT_STORAGE,
            // Unavailable, Timeout, NotReady, NotMember, NotOpen, Stopped, Overloaded, and what a
            // newer core may add: this node cannot answer now, another or a later one may.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text = match &error {
            E::Timeout { .. } => format!("request timed out: {error}"),
            E::Unavailable { param, need, have, .. } => {
                format!("{}-value unsatisfied: {have}/{need}: {error}", param.to_uppercase())
            }
            E::Stopped(_) => format!("{error}; a write may or may not have happened"),
            _ => error.to_string(),
        };
        // One line whatever a reason contains: bodies are read by people and by scripts.
        let mut problem = Self::new(status, text.replace(['\r', '\n'], " "));
        if matches!(error, E::Overloaded(_)) {
            problem = problem.with(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if error.is_unknown() {
            problem = problem.with(OUTCOME, HeaderValue::from_static("unknown"));
        }
        problem
    }
}
