//! A bucket's keys: whole, as a stream of JSON objects, or page by page.
//!
//! A listing is fetched from the node page by page, and the next page only when the client has taken
//! the last: no listing is ever held in memory whole. Keys that are not UTF-8 have no form as JSON
//! text; they stand percent-encoded in a list of their own, so nothing is ambiguous.

use super::problem::Problem;
use super::query::Query;
use super::{State, json, objects, route};
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use quorate_core::{Duration, List, ListCursor, Partition, Reply, Request};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;

/// Keys asked of the node at once; the node may give fewer.
const PAGE_KEYS_MAX: u32 = 1_000;
/// The most keys in one page of the paged form.
pub(super) const RESULTS_MAX: u32 = 10_000;

/// GET `/buckets/B/keys`.
pub(super) async fn list(
    state: &Arc<State>,
    bucket: Bytes,
    query: &Query,
) -> Result<Response, Problem> {
    let lister = Lister { state: state.clone(), bucket, timeout: query.timeout()? };
    match (query.get("keys"), query.get("max_results"), query.get("continuation")) {
        (Some("true"), None, None) => lister.whole().await,
        (Some("true"), max_results, continuation) => {
            let limit = max_results.map_or(Ok(PAGE_KEYS_MAX), parse_limit)?;
            let after = continuation.map(parse_continuation).transpose()?;
            lister.one_page(limit, after).await
        }
        (Some("stream"), None, None) => lister.streamed().await,
        (Some("stream"), ..) => Err(Problem::bad_request(
            "max_results and continuation go with keys=true: a stream has no pages",
        )),
        _ => Err(Problem::bad_request(
            "say how to list the keys: ?keys=true, ?keys=stream, or \
             ?keys=true&max_results=N and then &continuation=… of the page before",
        )),
    }
}

struct Lister {
    state: Arc<State>,
    bucket: Bytes,
    timeout: Option<Duration>,
}

type Page = (Vec<Bytes>, Option<ListCursor>);

impl Lister {
    async fn page(&self, after: Option<ListCursor>, limit: u32) -> Result<Page, Problem> {
        let bucket = self.bucket.clone();
        let list = List { bucket, after, limit, timeout: self.timeout };
        match self.state.handle.request(Request::List(list)).await? {
            Reply::Keys { keys, next } => Ok((keys, next)),
            other => Err(objects::unexpected(&other)),
        }
    }

    async fn one_page(self, limit: u32, after: Option<ListCursor>) -> Result<Response, Problem> {
        let mut after = after;
        let mut keys = Vec::new();
        loop {
            let room = limit - keys.len() as u32;
            let (page, next) = self.page(after, room.min(PAGE_KEYS_MAX)).await?;
            keys.extend(page);
            after = next;
            if after.is_none() || keys.len() as u32 >= limit {
                break;
            }
        }
        let continuation = after.as_ref().map(continuation);
        Ok(json(&KeysPage { continuation, ..KeysPage::of(&keys) }))
    }

    /// Everything in one JSON object. A failure on the way breaks the connection off, so that half a
    /// listing is never taken for a whole one.
    async fn whole(self) -> Result<Response, Problem> {
        let mut begun = false;
        let mut percent_encoded: Vec<String> = Vec::new();
        let pages = self.pages().await?.map(Some).chain(stream::once(async { None }));
        let chunks = pages.map(move |page| {
            let mut out = Vec::new();
            if let Some(page) = page {
                let page =
                    page.map_err(|problem| std::io::Error::other(problem.text().to_owned()))?;
                let page = KeysPage::of(&page);
                for key in &page.keys {
                    out.extend_from_slice(if begun { b"," } else { br#"{"keys":["# });
                    begun = true;
                    serde_json::to_writer(&mut out, key).expect("memory takes all text");
                }
                percent_encoded.extend(page.keys_percent_encoded);
            } else {
                out.extend_from_slice(if begun { b"]" } else { br#"{"keys":[]"# });
                if !percent_encoded.is_empty() {
                    out.extend_from_slice(br#","keys_percent_encoded":"#);
                    serde_json::to_writer(&mut out, &percent_encoded).expect("memory takes all");
                }
                out.push(b'}');
            }
            Ok::<_, std::io::Error>(Bytes::from(out))
        });
        Ok(json_stream(Body::from_stream(chunks)))
    }

    /// `{"keys":[…]}` for each page that has keys. A failure on the way ends the stream with
    /// `{"error":"…"}`.
    async fn streamed(self) -> Result<Response, Problem> {
        let chunks = self.pages().await?.filter_map(|page| async {
            match page {
                Ok(keys) if keys.is_empty() => None,
                Ok(keys) => Some(encode(&KeysPage::of(&keys))),
                Err(problem) => Some(encode(&serde_json::json!({ "error": problem.text() }))),
            }
        });
        Ok(json_stream(Body::from_stream(chunks.map(Ok::<_, Infallible>))))
    }

    /// All pages. The first is there before the response begins, so that a listing that cannot even
    /// start is answered with a status.
    async fn pages(self) -> Result<impl Stream<Item = Result<Vec<Bytes>, Problem>>, Problem> {
        let (first, next) = self.page(None, PAGE_KEYS_MAX).await?;
        let rest = stream::try_unfold((self, next), async |(lister, next)| {
            let Some(cursor) = next else { return Ok(None) };
            let (keys, next) = lister.page(Some(cursor), PAGE_KEYS_MAX).await?;
            Ok(Some((keys, (lister, next))))
        });
        Ok(stream::once(async { Ok(first) }).chain(rest))
    }
}

/// Keys as JSON: text where they are UTF-8, percent-encoded in a list of their own where not.
#[derive(Serialize)]
struct KeysPage<'a> {
    keys: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys_percent_encoded: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continuation: Option<String>,
}

impl<'a> KeysPage<'a> {
    fn of(page: &'a [Bytes]) -> Self {
        let mut out =
            Self { keys: Vec::new(), keys_percent_encoded: Vec::new(), continuation: None };
        for key in page {
            match std::str::from_utf8(key) {
                Ok(text) => out.keys.push(text),
                Err(_) => out.keys_percent_encoded.push(route::encode(key)),
            }
        }
        out
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("text and numbers always have a JSON form").into()
}

fn json_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn parse_limit(text: &str) -> Result<u32, Problem> {
    text.parse().ok().filter(|limit| (1..=RESULTS_MAX).contains(limit)).ok_or_else(|| {
        Problem::bad_request(format!("max_results must be a number from 1 to {RESULTS_MAX}"))
    })
}

/// A cursor as text: base64url of the partition and, after it, the last key.
fn continuation(cursor: &ListCursor) -> String {
    let mut bytes = cursor.partition.0.to_be_bytes().to_vec();
    if let Some(after) = &cursor.after {
        bytes.push(1);
        bytes.extend_from_slice(after);
    }
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn parse_continuation(text: &str) -> Result<ListCursor, Problem> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let cursor = bytes.split_first_chunk().and_then(|(partition, after)| {
        let after = match after {
            [] => None,
            [1, key @ ..] => Some(Bytes::copy_from_slice(key)),
            _ => return None,
        };
        Some(ListCursor { partition: Partition(u32::from_be_bytes(*partition)), after })
    });
    cursor.ok_or_else(|| {
        Problem::bad_request("this continuation is not one that a page of a listing ended with")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continuation_reads_back_as_the_cursor_it_stands_for() {
        for after in [None, Some(Bytes::new()), Some(Bytes::from_static(b"k\xff"))] {
            let cursor = ListCursor { partition: Partition(300), after };
            assert_eq!(parse_continuation(&continuation(&cursor)).unwrap(), cursor);
        }
        for text in ["", "AAA", "!", "AAAAAAI"] {
            assert!(parse_continuation(text).is_err(), "{text}");
        }
    }
}
