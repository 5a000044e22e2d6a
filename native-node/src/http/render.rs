//! An object as an HTTP response: one value, a list of siblings, or all of them as multipart/mixed.
//!
//! Invariant: what was stored beside a body comes back as it was stored. A vtag names one write (its
//! dot) and never changes, so it serves as `ETag` and tells siblings apart.

use super::accept::{Accept, SiblingsForm};
use super::problem::Problem;
use super::receipt::{self, RECEIPT};
use super::route;
use crate::object::{Metadata, StoredValue};
use axum::body::Body;
use axum::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LAST_MODIFIED, LINK,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use quorate_core::{Digest, Dot, Key, Object, Receipt, Value, WallTime};
use std::time::{Duration, SystemTime};

pub(super) const VCLOCK: HeaderName = HeaderName::from_static("x-riak-vclock");
const DELETED: HeaderName = HeaderName::from_static("x-riak-deleted");

/// The name of one write, short and stable: its dot in base64url.
pub(super) fn vtag(dot: Dot) -> String {
    let Dot(actor, counter) = dot;
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&actor.0.0.to_be_bytes());
    for mut number in [u64::from(actor.1), counter] {
        // Seven bits a byte, so that small numbers stay short.
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The answer to a read that found something.
pub(super) fn found(
    key: &Key,
    object: &Object,
    vtag_wanted: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let accept = Accept::of(headers);
    let one = match vtag_wanted {
        Some(wanted) => Some(
            object
                .values
                .iter()
                .find(|(dot, _)| vtag(*dot) == wanted)
                .ok_or_else(|| Problem::not_found("not found: no value with this vtag"))?,
        ),
        None if object.values.len() == 1 => object.values.first(),
        None => None,
    };
    let mut response = match one {
        Some((dot, value)) => {
            let stored = stored(value)?;
            if !accept.takes(&stored.metadata.content_type) {
                return Err(not_acceptable(&stored.metadata.content_type));
            }
            single(key, *dot, value.modified, stored)
        }
        None => match accept.siblings() {
            SiblingsForm::List => list(object),
            SiblingsForm::Multipart => multipart(key, object)?,
            SiblingsForm::Neither => {
                return Err(not_acceptable("multipart/mixed or a list as text/plain"));
            }
        },
    };
    give_context(&mut response, &object.context);
    if not_modified(headers, response.headers()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

/// The answer to a write that asked for the object: siblings come as multipart/mixed whatever
/// `Accept` says, because the write has happened and is not to look refused.
pub(super) fn written(key: &Key, object: &Object) -> Result<Response, Problem> {
    let mut response = match &object.values[..] {
        [] => empty(StatusCode::NO_CONTENT),
        [(dot, value)] => single(key, *dot, value.modified, stored(value)?),
        _ => multipart(key, object)?,
    };
    give_context(&mut response, &object.context);
    Ok(response)
}

/// Nothing was ever there.
pub(super) fn absent() -> Response {
    let mut response = Response::new(Body::from("not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// It was deleted, and the tombstone is still known.
pub(super) fn deleted(context: &[u8]) -> Response {
    let mut response = absent();
    response.headers_mut().insert(DELETED, HeaderValue::from_static("true"));
    give_context(&mut response, context);
    response
}

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Adds the receipt.
pub(super) fn with_receipt(mut response: Response, given: &Receipt, repeated: bool) -> Response {
    response.headers_mut().insert(RECEIPT, receipt::header(given, repeated));
    response
}

/// HEAD is GET without the body, whose length it still tells.
pub(super) fn without_body(mut response: Response) -> Response {
    use axum::body::HttpBody as _;
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::empty();
    response
}

fn stored(value: &Value) -> Result<StoredValue, Problem> {
    StoredValue::decode(&value.bytes).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "the stored value cannot be read ({error}): another version of quorate may have \
                 written it; read it through a node of that version"
            ),
        )
    })
}

fn not_acceptable(there_is: &str) -> Problem {
    let text = format!("the Accept header excludes what there is: {there_is}");
    Problem::new(StatusCode::NOT_ACCEPTABLE, text)
}

fn single(key: &Key, dot: Dot, modified: WallTime, stored: StoredValue) -> Response {
    let StoredValue { metadata, body } = stored;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(ETAG, ascii(format!("\"{}\"", vtag(dot))));
    headers.insert(LAST_MODIFIED, ascii(http_date(modified)));
    for (name, value) in metadata_headers(key, &metadata) {
        headers.append(name, value);
    }
    response
}

/// Metadata as headers. What cannot be a header was not stored by this server and is left out.
fn metadata_headers(key: &Key, metadata: &Metadata) -> Vec<(HeaderName, HeaderValue)> {
    let Metadata { content_type, content_encoding, headers } = metadata;
    let mut out = Vec::with_capacity(3 + headers.len());
    let mut add = |name: HeaderName, value: &[u8]| {
        out.extend(HeaderValue::from_bytes(value).ok().map(|value| (name, value)));
    };
    add(CONTENT_TYPE, content_type.as_bytes());
    if let Some(encoding) = content_encoding {
        add(CONTENT_ENCODING, encoding.as_bytes());
    }
    let mut link = format!("</buckets/{}>; rel=\"up\"", route::encode(key.bucket())).into_bytes();
    for (name, value) in headers {
        if name == LINK.as_str() {
            link.extend_from_slice(b", ");
            link.extend_from_slice(value);
        } else if let Ok(name) = HeaderName::try_from(name) {
            add(name, value);
        }
    }
    add(LINK, &link);
    out
}

/// The list of vtags, for clients that fetch the siblings one by one.
fn list(object: &Object) -> Response {
    let mut text = String::from("Siblings:\n");
    for (dot, _) in &object.values {
        text.push_str(&vtag(*dot));
        text.push('\n');
    }
    siblings_response(object, HeaderValue::from_static("text/plain"), text.into())
}

fn multipart(key: &Key, object: &Object) -> Result<Response, Problem> {
    // Random, so that no stored body can have been made to contain it.
    let boundary = random_name();
    let mut out = BytesMut::new();
    for (dot, value) in &object.values {
        let StoredValue { metadata, body } = stored(value)?;
        out.reserve(body.len() + metadata.bytes() + 512);
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        for (name, value) in metadata_headers(key, &metadata) {
            out.extend_from_slice(title_case(name.as_str()).as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let (etag, modified) = (vtag(*dot), http_date(value.modified));
        out.extend_from_slice(
            format!("Etag: {etag}\r\nLast-Modified: {modified}\r\n\r\n").as_bytes(),
        );
        out.extend_from_slice(&body);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let content_type = ascii(format!("multipart/mixed; boundary={boundary}"));
    Ok(siblings_response(object, content_type, out.freeze()))
}

fn siblings_response(object: &Object, content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    // One tag for the set: it changes when a sibling comes or goes.
    let all: Vec<u8> =
        object.values.iter().flat_map(|(dot, _)| (vtag(*dot) + ",").into_bytes()).collect();
    let Digest(a, b) = Digest::of(&all);
    headers.insert(ETAG, ascii(format!("\"{a:016x}{b:016x}\"")));
    if let Some(newest) = object.values.iter().map(|(_, value)| value.modified).max() {
        headers.insert(LAST_MODIFIED, ascii(http_date(newest)));
    }
    response
}

fn give_context(response: &mut Response, context: &[u8]) {
    response.headers_mut().insert(VCLOCK, ascii(BASE64_STANDARD.encode(context)));
}

fn not_modified(asked: &HeaderMap, given: &HeaderMap) -> bool {
    let Some(etag) = given.get(ETAG).and_then(|etag| etag.to_str().ok()) else { return false };
    let lines = asked.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn http_date(time: WallTime) -> String {
    // The format has four digits for the year: a clock beyond 9999 is shown as its last second.
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch = Duration::from_micros(time.0).min(YEAR_10000);
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch)
}

/// A name that nobody can guess: a boundary, or the key of a new object.
pub(super) fn random_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn title_case(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let upper = std::mem::replace(&mut start, c == '-');
            if upper { c.to_ascii_uppercase() } else { c }
        })
        .collect()
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("made of visible ASCII only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Actor, Run};

    #[test]
    fn different_dots_have_different_vtags() {
        let dot = |run, n, counter| Dot(Actor(Run(run), n), counter);
        let dots = [
            dot(1, 0, 1),
            dot(1, 1, 0),
            dot(1, 0, 0x80),
            dot(1, 0x80, 1),
            dot(256, 0, 1),
            dot(u64::MAX, u32::MAX, u64::MAX),
        ];
        for (at, a) in dots.iter().enumerate() {
            for b in &dots[..at] {
                assert_ne!(vtag(*a), vtag(*b), "{a:?} {b:?}");
            }
        }
        assert_eq!(vtag(dot(1, 0, 1)), "AAAAAAAAAAEAAQ");
    }

    #[test]
    fn any_clock_makes_a_date() {
        assert_eq!(http_date(WallTime(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(WallTime(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn header_names_look_familiar_in_parts() {
        assert_eq!(title_case("x-riak-meta-a"), "X-Riak-Meta-A");
    }
}
