//! Objects: GET, HEAD, PUT, POST and DELETE under `/buckets/B/keys/K`, POST on `/buckets/B/keys`.
//!
//! Invariant: everything about a request that can be refused is refused before its body is read.

use super::problem::{OUTCOME, Problem};
use super::query::Query;
use super::receipt::RECEIPT;
use super::render::{self, VCLOCK};
use super::{HttpLimits, State, body, route};
use crate::object::Metadata;
use axum::body::Body;
use axum::http::header::{
    CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE, LINK, LOCATION,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use quorate_core::{
    BucketProps, Get, Key, Need, Object, Put, Receipt, Reply, Request, RequestError, WriteId,
};

/// A client's name for a write, so that a retry adds nothing.
const WRITE_ID: HeaderName = HeaderName::from_static("x-quorate-write-id");
const WRITE_ID_BYTES_MAX: usize = 255;
const IF_NOT_MODIFIED: HeaderName = HeaderName::from_static("x-riak-if-not-modified");

/// GET and HEAD (§4.5).
pub(super) async fn get(
    state: &State,
    key: Key,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let mut get = Get::new(key.clone());
    get.r = query.quorum("r")?;
    get.pr = query.quorum_or_none("pr")?;
    get.sloppy = query.flag("sloppy_quorum", true)?;
    get.notfound_ok = query.flag("notfound_ok", true)?;
    get.basic_quorum = query.flag("basic_quorum", false)?;
    get.timeout = query.timeout()?;
    get.r = at_least(state, &key, get.r, query, |props| props.r).await?;
    match state.handle.request(Request::Get(get)).await? {
        Reply::Found { object, receipt } if object.values.is_empty() => {
            Ok(render::with_receipt(render::deleted(&object.context), &receipt, false))
        }
        Reply::Found { object, receipt } => {
            let response = render::found(&key, &object, query.get("vtag"), headers);
            // A 406 or an unknown vtag is an answer about the object, too.
            let with_receipt = |response| render::with_receipt(response, &receipt, false);
            response
                .map(with_receipt)
                .map_err(|problem| problem.with(RECEIPT, super::receipt::header(&receipt, false)))
        }
        Reply::Deleted { context, receipt } => {
            Ok(render::with_receipt(render::deleted(&context), &receipt, false))
        }
        Reply::Absent { receipt } => Ok(render::with_receipt(render::absent(), &receipt, false)),
        other => Err(unexpected(&other)),
    }
}

/// PUT and POST. `made`: the server chose the key, and says where the object is.
pub(super) async fn put(
    state: &State,
    key: Key,
    made: bool,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let prepared = match prepare(state, &key, query, headers).await {
        Ok(prepared) => prepared,
        Err(problem) => {
            body::linger(headers, body);
            return Err(problem);
        }
    };
    let (mut put, metadata) = prepared;
    let mut value = metadata.begin(body::room(headers));
    let HttpLimits { object_bytes_max, body_time_max, .. } = state.limits;
    let read = body::append(body, &mut value, object_bytes_max, body_time_max).await;
    if let Err((problem, rest)) = read {
        if let Some(rest) = rest {
            body::linger(headers, rest);
        }
        return Err(problem);
    }
    put.value = Some(value.freeze());
    let return_body = put.return_body;
    match state.handle.request(Request::Put(put)).await? {
        Reply::Written { repeated, object, receipt, .. } => {
            let written = Written { made, return_body, repeated };
            written.response(&key, &object, &receipt)
        }
        other => Err(unexpected(&other)),
    }
}

/// DELETE. Without a context, the object is read first and what that read has seen is deleted.
pub(super) async fn delete(
    state: &State,
    key: Key,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    refuse_conditions(headers)?;
    let rw = query.quorum("rw")?;
    let mut put = Put::delete(key.clone(), Bytes::new());
    write_parameters(&mut put, query, headers)?;
    put.return_body = false;
    put.w = at_least(state, &key, put.w.or(rw), query, |props| props.w).await?;
    if context(headers)?.is_none() {
        let mut get = Get::new(key);
        get.r = query.quorum("r")?.or(rw).or(Some(Need::Quorum));
        get.pr = query.quorum_or_none("pr")?;
        get.sloppy = put.sloppy;
        get.timeout = put.timeout;
        match state.handle.request(Request::Get(get)).await? {
            Reply::Found { object, .. } => put.context = Some(object.context),
            Reply::Deleted { context, receipt } => {
                return Ok(render::with_receipt(render::deleted(&context), &receipt, false));
            }
            Reply::Absent { receipt } => {
                return Ok(render::with_receipt(render::absent(), &receipt, false));
            }
            other => return Err(unexpected(&other)),
        }
    }
    match state.handle.request(Request::Put(put)).await? {
        Reply::Written { repeated, receipt, .. } => {
            let response = render::empty(StatusCode::NO_CONTENT);
            Ok(render::with_receipt(response, &receipt, repeated))
        }
        other => Err(unexpected(&other)),
    }
}

/// What a successful write is told.
struct Written {
    made: bool,
    return_body: bool,
    repeated: bool,
}

impl Written {
    fn response(self, key: &Key, object: &Object, receipt: &Receipt) -> Result<Response, Problem> {
        // Without the values no context either: it covers siblings that this client has not seen,
        // and its next write would silently drop them.
        let mut response = if self.return_body {
            // The write has happened even if what it met there cannot be shown.
            render::written(key, object)
                .map_err(|problem| problem.with(OUTCOME, HeaderValue::from_static("unknown")))?
        } else {
            render::empty(StatusCode::NO_CONTENT)
        };
        if self.made {
            if response.status() != StatusCode::MULTIPLE_CHOICES {
                *response.status_mut() = StatusCode::CREATED;
            }
            let (bucket, name) = (route::encode(key.bucket()), route::encode(key.key()));
            let location = HeaderValue::try_from(format!("/buckets/{bucket}/keys/{name}"))
                .expect("percent-encoded names are ASCII");
            response.headers_mut().insert(LOCATION, location);
        }
        Ok(render::with_receipt(response, receipt, self.repeated))
    }
}

/// Everything about a write but its body.
async fn prepare(
    state: &State,
    key: &Key,
    query: &Query,
    headers: &HeaderMap,
) -> Result<(Put, Metadata), Problem> {
    refuse_conditions(headers)?;
    body::check_announced(headers, state.limits.object_bytes_max)?;
    let metadata = metadata(headers, state.limits.metadata_bytes_max)?;
    let mut put = Put::new(key.clone(), Bytes::new());
    write_parameters(&mut put, query, headers)?;
    put.w = at_least(state, key, put.w, query, |props| props.w).await?;
    Ok((put, metadata))
}

fn write_parameters(put: &mut Put, query: &Query, headers: &HeaderMap) -> Result<(), Problem> {
    put.context = context(headers)?;
    put.write_id = write_id(headers)?;
    put.w = query.quorum("w")?;
    put.pw = query.quorum_or_none("pw")?;
    put.dw = query.quorum_or_none("dw")?;
    put.sloppy = query.flag("sloppy_quorum", true)?;
    put.return_body = query.flag("returnbody", false)?;
    put.timeout = query.timeout()?;
    Ok(())
}

/// `node_confirms` asks for answers of distinct nodes. R and W count nothing else here, so it is a
/// lower bound on them.
async fn at_least(
    state: &State,
    key: &Key,
    need: Option<Need>,
    query: &Query,
    default: fn(&BucketProps) -> Need,
) -> Result<Option<Need>, Problem> {
    let Some(confirms) = query.quorum_or_none("node_confirms")? else { return Ok(need) };
    let request = Request::GetBucket { bucket: key.bucket().clone() };
    let props = match state.handle.request(request).await? {
        Reply::Bucket(props) => props,
        other => return Err(unexpected(&other)),
    };
    let n = props.n_val;
    if confirms.of(n) > n {
        let (param, value) = ("node_confirms".to_string(), confirms.of(n));
        return Err(RequestError::QuorumExceedsN { param, value, n }.into());
    }
    let need = need.unwrap_or_else(|| default(&props));
    Ok(Some(Need::Count(need.of(n).max(confirms.of(n)))))
}

/// A precondition that is ignored would be believed to hold: better to refuse it.
fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    let conditions =
        [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_NOT_MODIFIED];
    match conditions.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "conditional writes are not implemented: leave out the {name} header, and give \
                 the X-Riak-Vclock of a read so that a concurrent write is kept as a sibling"
            ),
        )),
    }
}

/// The sealed context, if there is one; an empty one counts as none.
fn context(headers: &HeaderMap) -> Result<Option<Bytes>, Problem> {
    let Some(value) = headers.get(VCLOCK) else { return Ok(None) };
    let text = value.as_bytes().trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    match BASE64_STANDARD.decode(text) {
        Ok(context) => Ok(Some(context.into())),
        Err(_) => Err(Problem::bad_request(
            "X-Riak-Vclock is not base64: give it back exactly as a read of this key gave it, or \
             leave it out",
        )),
    }
}

fn write_id(headers: &HeaderMap) -> Result<Option<WriteId>, Problem> {
    let Some(value) = headers.get(WRITE_ID) else { return Ok(None) };
    let text = value.as_bytes();
    let fits = (1..=WRITE_ID_BYTES_MAX).contains(&text.len());
    if !fits || !text.iter().all(u8::is_ascii_graphic) {
        return Err(Problem::bad_request(format!(
            "X-Quorate-Write-Id must be 1 to {WRITE_ID_BYTES_MAX} visible ASCII characters without \
             spaces: a fresh UUID for each write is a good choice"
        )));
    }
    Ok(Some(WriteId::of(text)))
}

/// What is stored beside the body, checked and bounded.
fn metadata(headers: &HeaderMap, bytes_max: usize) -> Result<Metadata, Problem> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .ok_or_else(|| Problem::bad_request("Missing Content-Type request header"))?;
    let content_type =
        content_type.to_str().ok().filter(|text| is_media_type(text)).ok_or_else(|| {
            Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the Content-Type is malformed: give a media type, such as text/plain",
            )
        })?;
    let content_encoding = match headers.get(CONTENT_ENCODING).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(text)) => Some(text.to_owned()),
        Some(Err(_)) => return Err(Problem::bad_request("the Content-Encoding is not ASCII text")),
    };
    let mut metadata =
        Metadata { content_type: content_type.to_owned(), content_encoding, headers: Vec::new() };
    for (name, value) in headers {
        let text = name.as_str();
        let value = value.as_bytes();
        if text.starts_with("x-riak-meta-") || text.starts_with("x-riak-index-") {
            metadata.headers.push((text.to_owned(), Bytes::copy_from_slice(value)));
        } else if name == LINK {
            let links = links_to_store(value);
            metadata.headers.extend(links.into_iter().map(|link| (text.to_owned(), link)));
        }
    }
    metadata.headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    if metadata.bytes() > bytes_max {
        return Err(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!(
                "the Content-Type, X-Riak-Meta-*, X-Riak-Index-* and Link headers have {} bytes \
                 and the limit is {bytes_max} (metadata_bytes_max): store less beside the body",
                metadata.bytes()
            ),
        ));
    }
    Ok(metadata)
}

/// `mime` lets an empty type or subtype pass.
fn is_media_type(text: &str) -> bool {
    text.parse::<mime::Mime>()
        .is_ok_and(|mime| !mime.type_().as_str().is_empty() && !mime.subtype().as_str().is_empty())
}

/// The links of one header, without the one to the bucket: every answer has that one anyway, and
/// clients send it back.
fn links_to_store(value: &[u8]) -> Vec<Bytes> {
    let (mut quoted, mut bracketed) = (false, false);
    let parts = value.split(|&byte| {
        match byte {
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            _ => {}
        }
        byte == b',' && !quoted && !bracketed
    });
    parts
        .map(<[u8]>::trim_ascii)
        .filter(|link| !link.is_empty() && !is_up(link))
        .map(Bytes::copy_from_slice)
        .collect()
}

fn is_up(link: &[u8]) -> bool {
    let link = String::from_utf8_lossy(link);
    let Some((_, params)) = link.rsplit_once('>') else { return false };
    params.split(';').any(|param| {
        param.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "up"
        })
    })
}

/// The node answered another question.
pub(super) fn unexpected(reply: &Reply) -> Problem {
    tracing::error!(?reply, "the node gave an answer of the wrong kind");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the node gave an answer of the wrong kind: this is a bug, please report it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_stored_without_the_one_to_the_bucket() {
        for (given, want) in [
            ("</buckets/b>; rel=\"up\"", vec![]),
            ("</buckets/b>;rel=up", vec![]),
            (
                "</buckets/b>; rel=\"up\", </buckets/b/keys/k>; riaktag=\"next, please\"",
                vec!["</buckets/b/keys/k>; riaktag=\"next, please\""],
            ),
            ("</a,b>; x=1,</c>; y=2", vec!["</a,b>; x=1", "</c>; y=2"]),
            ("", vec![]),
        ] {
            assert_eq!(links_to_store(given.as_bytes()), want, "{given}");
        }
    }
}
