//! A bucket's rules: GET, PUT and DELETE of `/buckets/B/props`, as `{"props":{…}}`.

use super::problem::Problem;
use super::query::parse_need;
use super::{State, body, json, objects, render};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use quorate_core::{BucketPatch, BucketProps, N_VAL_MAX, Need, Reply, Request};
use serde_json::{Map, Value, json};

/// The rules are a handful of numbers and words.
const PROPS_BYTES_MAX: usize = 64 << 10;

pub(super) async fn get(state: &State, bucket: Bytes) -> Result<Response, Problem> {
    let request = Request::GetBucket { bucket: bucket.clone() };
    match state.handle.request(request).await? {
        Reply::Bucket(props) => Ok(json(&to_json(&bucket, &props))),
        other => Err(objects::unexpected(&other)),
    }
}

pub(super) async fn put(
    state: &State,
    bucket: Bytes,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if let Err(problem) = body::check_announced(headers, PROPS_BYTES_MAX) {
        body::linger(headers, body);
        return Err(problem);
    }
    let mut text = BytesMut::with_capacity(body::room(headers));
    let read = body::append(body, &mut text, PROPS_BYTES_MAX, state.limits.body_time_max).await;
    if let Err((problem, rest)) = read {
        if let Some(rest) = rest {
            body::linger(headers, rest);
        }
        return Err(problem);
    }
    let patch = from_json(&bucket, &text).map_err(Problem::bad_request)?;
    set(state, bucket, Some(patch)).await
}

/// Back to the defaults.
pub(super) async fn reset(state: &State, bucket: Bytes) -> Result<Response, Problem> {
    set(state, bucket, None).await
}

async fn set(
    state: &State,
    bucket: Bytes,
    patch: Option<BucketPatch>,
) -> Result<Response, Problem> {
    match state.handle.request(Request::SetBucket { bucket, patch }).await? {
        Reply::Bucket(_) => Ok(render::empty(StatusCode::NO_CONTENT)),
        other => Err(objects::unexpected(&other)),
    }
}

fn to_json(bucket: &[u8], props: &BucketProps) -> Value {
    let need = |need| match need {
        Need::Count(count) => json!(count),
        Need::Quorum => json!("quorum"),
        Need::All => json!("all"),
    };
    json!({ "props": {
        "name": String::from_utf8_lossy(bucket),
        "n_val": props.n_val,
        "r": need(props.r),
        "w": need(props.w),
        "pr": need(props.pr),
        "pw": need(props.pw),
        "dw": need(props.dw),
        "allow_mult": props.allow_mult,
    }})
}

/// Reads the rules to change, or says which of them is wrong and how.
fn from_json(bucket: &[u8], text: &[u8]) -> Result<BucketPatch, String> {
    let wanted = r#"send {"props":{…}} with some of n_val, r, w, pr, pw, dw and allow_mult"#;
    let value: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| format!("the body is not a JSON object ({error}): {wanted}"))?;
    let Some(Value::Object(props)) = value.get("props") else {
        return Err(format!("the body has no object named props: {wanted}"));
    };
    let mut patch = BucketPatch::default();
    for (name, value) in props {
        match name.as_str() {
            "n_val" => patch.n_val = Some(n_val(value)?),
            "r" => patch.r = Some(need("r", value, Need::Quorum, 1)?),
            "w" => patch.w = Some(need("w", value, Need::Quorum, 1)?),
            "pr" => patch.pr = Some(need("pr", value, Need::Count(0), 0)?),
            "pw" => patch.pw = Some(need("pw", value, Need::Count(0), 0)?),
            "dw" => patch.dw = Some(need("dw", value, Need::Count(0), 0)?),
            "allow_mult" => {
                patch.allow_mult = Some(value.as_bool().ok_or("allow_mult must be true or false")?);
            }
            // A client that changes what it has read sends the name along.
            "name" if value.as_str() == Some(&*String::from_utf8_lossy(bucket)) => {}
            "name" => return Err("name is another bucket's: a bucket keeps its name".into()),
            _ => return Err(format!("there is no property {name:?} here: {wanted}")),
        }
    }
    let n_max = patch.n_val.unwrap_or(N_VAL_MAX);
    let needs =
        [("r", patch.r), ("w", patch.w), ("pr", patch.pr), ("pw", patch.pw), ("dw", patch.dw)];
    for (name, need) in needs {
        if let Some(Need::Count(count)) = need
            && count > n_max
        {
            return Err(format!("{name}={count} is more than n={n_max}: ask for at most {n_max}"));
        }
    }
    Ok(patch)
}

fn n_val(value: &Value) -> Result<u8, String> {
    value
        .as_u64()
        .and_then(|n| u8::try_from(n).ok())
        .filter(|n| (1..=N_VAL_MAX).contains(n))
        .ok_or_else(|| format!("n_val must be a number from 1 to {N_VAL_MAX}"))
}

fn need(name: &str, value: &Value, default: Need, least: u8) -> Result<Need, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let need = parse_need(name, &text).map_err(|problem| problem.text().to_owned())?;
    match need.unwrap_or(default) {
        Need::Count(count) if count < least => {
            Err(format!("{name}=0 would ask nobody: give {name} at least {least}"))
        }
        need => Ok(need),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_as_they_were_shown() {
        let props = BucketProps { n_val: 5, r: Need::All, w: Need::Count(2), ..Default::default() };
        let shown = to_json(b"b", &props).to_string();
        let patch = from_json(b"b", shown.as_bytes()).unwrap();
        assert_eq!(BucketProps::default().patched(patch), props);
    }

    #[test]
    fn wrong_rules_are_refused_by_name() {
        for (text, named) in [
            ("", "JSON"),
            ("[]", "JSON"),
            ("{}", "props"),
            (r#"{"props":[]}"#, "props"),
            (r#"{"props":{"n_val":0}}"#, "n_val"),
            (r#"{"props":{"n_val":33}}"#, "n_val"),
            (r#"{"props":{"n_val":"3"}}"#, "n_val"),
            (r#"{"props":{"r":"most"}}"#, "r must be"),
            (r#"{"props":{"r":0}}"#, "r=0"),
            (r#"{"props":{"w":-1}}"#, "w must be"),
            (r#"{"props":{"n_val":2,"pw":3}}"#, "pw=3"),
            (r#"{"props":{"allow_mult":"yes"}}"#, "allow_mult"),
            (r#"{"props":{"name":"other"}}"#, "name"),
            (r#"{"props":{"last_write_wins":true}}"#, "last_write_wins"),
        ] {
            let error = from_json(b"b", text.as_bytes()).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
