//! Reading a request's body within a limit, and taking leave of one that is refused.

use super::problem::Problem;
use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use futures::StreamExt as _;
use std::time::Duration;

/// Room made before the first byte has come; a larger body grows into more.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// How long, and for how many bytes, a refused body is still taken off the wire.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// What the client says that it is going to send; `None` for a chunked body.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a body that is announced to be too large, before a byte of it is read.
pub(super) fn check_announced(headers: &HeaderMap, bytes_max: usize) -> Result<(), Problem> {
    match announced(headers) {
        Some(length) if length > bytes_max as u64 => Err(too_large(bytes_max)),
        _ => Ok(()),
    }
}

/// How much room to make for the body at once.
pub(super) fn room(headers: &HeaderMap) -> usize {
    let announced = announced(headers).and_then(|length| usize::try_from(length).ok());
    announced.unwrap_or(0).min(RESERVE_BYTES_MAX)
}

/// Appends the body to `out`; one that turns out larger than `bytes_max`, or takes longer than
/// `time_max`, is given up there. What is left is handed back with a refusal, for [`linger`].
pub(super) async fn append(
    body: Body,
    out: &mut BytesMut,
    bytes_max: usize,
    time_max: Duration,
) -> Result<(), (Problem, Option<Body>)> {
    let start = out.len();
    let mut frames = body.into_data_stream();
    let read = async {
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(|error| {
                Problem::bad_request(format!("the body did not arrive whole: {error}"))
            })?;
            if out.len() - start + frame.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            out.extend_from_slice(&frame);
        }
        Ok(())
    };
    match tokio::time::timeout(time_max, read).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(problem)) => Err((problem, Some(Body::from_stream(frames)))),
        Err(_) => {
            let text = format!("the body did not arrive within {time_max:?}: send it again");
            Err((Problem::new(StatusCode::REQUEST_TIMEOUT, text), None))
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "the body is larger than {bytes_max} bytes, which is the limit here: split it, or for \
             objects raise object_bytes_max on every node"
        ),
    )
}

/// Takes the rest of a refused body off the wire for a moment, in the background. Without this, a
/// client that is still sending would see a reset connection in place of the answer.
pub(super) fn linger(headers: &HeaderMap, body: Body) {
    // Who waits for "100 Continue" sends nothing after a refusal, and must not be told to go on.
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    tokio::spawn(tokio::time::timeout(LINGER_TIME_MAX, async move {
        let mut frames = body.into_data_stream();
        let mut taken = 0;
        while let Some(Ok(frame)) = frames.next().await {
            taken += frame.len();
            if taken > LINGER_BYTES_MAX {
                break;
            }
        }
    }));
}
