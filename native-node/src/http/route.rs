//! From the raw path to the resource it names.
//!
//! Invariant: bucket and key are arbitrary bytes. The path is cut at its literal slashes first and
//! each part is percent-decoded after, so `%2F` is part of a name and `%FF` is a byte.

use super::problem::Problem;
use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use quorate_core::{Key, check_name};

/// What there is to ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`
    Index,
    /// `/ping`
    Ping,
    /// `/stats`
    Stats,
    /// `/cluster`
    Cluster,
    /// `/metrics`
    Metrics,
    /// `/buckets`
    Buckets,
    /// `/buckets/B/keys/K`
    Object(Key),
    /// `/buckets/B/keys`
    Keys(Bytes),
    /// `/buckets/B/props`
    Props(Bytes),
}

/// The only bucket type there is.
const DEFAULT_TYPE: &[u8] = b"default";
/// `types/T/buckets/B/keys/K`, and one more so that a longer path is not taken for one of these.
const PARTS_MAX: usize = 7;

/// Finds the resource, or says what exists instead.
pub(super) fn parse(path: &str) -> Result<Route, Problem> {
    let mut parts = [""; PARTS_MAX];
    let mut count = 0;
    for part in path.strip_prefix('/').unwrap_or(path).split('/') {
        if count == PARTS_MAX {
            return Err(unknown());
        }
        parts[count] = part;
        count += 1;
    }
    match &parts[..count] {
        [""] => Ok(Route::Index),
        ["ping"] => Ok(Route::Ping),
        ["stats"] => Ok(Route::Stats),
        ["cluster"] => Ok(Route::Cluster),
        ["metrics"] => Ok(Route::Metrics),
        ["riak", bucket, key] if !key.is_empty() => object(bucket, key),
        ["types", name, rest @ ..] => {
            let name = decode(name)?;
            if name != DEFAULT_TYPE {
                let shown = String::from_utf8_lossy(&name).replace(char::is_control, "?");
                return Err(Problem::not_found(format!("Unknown bucket type: {shown}")));
            }
            in_buckets(rest)
        }
        parts => in_buckets(parts),
    }
}

fn in_buckets(parts: &[&str]) -> Result<Route, Problem> {
    match parts {
        ["buckets"] => Ok(Route::Buckets),
        ["buckets", bucket, "keys"] | ["buckets", bucket, "keys", ""] => {
            Ok(Route::Keys(self::bucket(bucket)?))
        }
        ["buckets", bucket, "keys", key] => object(bucket, key),
        ["buckets", bucket, "props"] => Ok(Route::Props(self::bucket(bucket)?)),
        ["buckets", _, "keys", ..] => Err(Problem::not_found(
            "a key is one part of the path: write a slash in it as %2F, as in /buckets/B/keys/a%2Fb",
        )),
        _ => Err(unknown()),
    }
}

fn object(bucket: &str, key: &str) -> Result<Route, Problem> {
    Ok(Route::Object(Key::new(decode(bucket)?, decode(key)?)?))
}

fn bucket(bucket: &str) -> Result<Bytes, Problem> {
    let bucket = decode(bucket)?;
    check_name("bucket", &bucket)?;
    Ok(bucket)
}

fn unknown() -> Problem {
    Problem::not_found(
        "there is nothing at this path: objects are at /buckets/BUCKET/keys/KEY, and there are \
         /buckets/BUCKET/keys, /buckets/BUCKET/props, /ping, /stats, /cluster and /metrics",
    )
}

/// Percent-decodes strictly: a `%` that is not an escape is an error, so that every name has been
/// meant.
fn decode(part: &str) -> Result<Bytes, Problem> {
    let bytes = part.as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    let mut out = BytesMut::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.put_u8(byte);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&c| char::from(c).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(Problem::bad_request(
                "a % in the path is not followed by two hexadecimal digits: write % itself as %25",
            ));
        };
        out.put_u8((high * 16 + low) as u8);
        rest = &after[2..];
    }
    Ok(out.freeze())
}

/// All but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as it stands in a path.
pub(super) fn encode(name: &[u8]) -> String {
    percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bucket: &'static [u8], key: &'static [u8]) -> Route {
        Route::Object(Key::new(bucket, key).unwrap())
    }

    #[test]
    fn paths_name_resources() {
        for (path, want) in [
            ("/", Route::Index),
            ("/ping", Route::Ping),
            ("/buckets", Route::Buckets),
            ("/buckets/b/keys/k", named(b"b", b"k")),
            ("/types/default/buckets/b/keys/k", named(b"b", b"k")),
            ("/riak/b/k", named(b"b", b"k")),
            ("/buckets/a%2Fb/keys/%ff%00%2f+", named(b"a/b", b"\xff\x00/+")),
            ("/buckets/b/keys", Route::Keys("b".into())),
            ("/buckets/b/keys/", Route::Keys("b".into())),
            ("/types/default/buckets/b/props", Route::Props("b".into())),
        ] {
            assert_eq!(parse(path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "/nothing",
            "/buckets/b",
            "/buckets/b/keys/k/",
            "/buckets/b/keys/a/b",
            "/types/default",
            "/types/default/buckets/b/keys/a/b",
            "/types/maps/buckets/b/keys/k",
            "/types/default/ping",
            "/buckets/b/keys/%",
            "/buckets/b/keys/%4",
            "/buckets/b/keys/%+1",
            "/buckets//keys/k",
            "/buckets//props",
            "/riak/b",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_encoded_name_decodes_to_itself() {
        let name: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&name)).unwrap(), name);
    }
}
