//! Versioned encoding of peer messages and stored records: one version byte, then CBOR.

use crate::id::{Key, NodeId};
use crate::message::Message;
use crate::record::{HintRecord, ObjectRecord, parse_hint_key};
use crate::siblings::Siblings;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the peer protocol that this build speaks.
pub const WIRE_VERSION: u8 = 1;
/// The version of records that this build writes.
pub const RECORD_VERSION: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing there.
    #[error("empty input")]
    Empty,
    /// Written by another version.
    #[error("version {found} where version {expected} is understood")]
    Version {
        /// What the input says.
        found: u8,
        /// What this build understands.
        expected: u8,
    },
    /// Not the CBOR of the expected type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes after the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Encodes a message for a peer.
pub fn encode_message(message: &Message) -> Bytes {
    encode(WIRE_VERSION, message)
}

/// Decodes a peer's message.
pub fn decode_message(bytes: &[u8]) -> Result<Message, DecodeError> {
    decode(WIRE_VERSION, bytes)
}

/// What a record of [`Space::Objects`](crate::Space::Objects) holds: for tests and inspectors.
pub fn decode_object(record: &[u8]) -> Result<Siblings, DecodeError> {
    decode::<ObjectRecord>(RECORD_VERSION, record).map(|record| record.siblings)
}

/// What a record of [`Space::Hints`](crate::Space::Hints) holds: for whom, of which object, what.
pub fn decode_hint(key: &Bytes, record: &[u8]) -> Result<(NodeId, Key, Siblings), DecodeError> {
    let (owner, object) =
        parse_hint_key(key).ok_or_else(|| DecodeError::Malformed("not a hint's key".into()))?;
    let hint = decode::<HintRecord>(RECORD_VERSION, record)?;
    Ok((owner, object, hint.siblings))
}

/// The object that a key of [`Space::Objects`](crate::Space::Objects) names.
pub fn decode_object_key(key: &Bytes) -> Option<Key> {
    let hint_key = [&[0; 8], key.as_ref()].concat();
    parse_hint_key(&hint_key.into()).map(|(_, key)| key)
}

pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(128).writer();
    out.get_mut().put_u8(version);
    ciborium::into_writer(value, &mut out)
        .expect("memory takes all bytes and our types have no failing Serialize");
    out.into_inner().freeze()
}

pub(crate) fn decode<T: DeserializeOwned>(expected: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let (&found, mut rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if found != expected {
        return Err(DecodeError::Version { found, expected });
    }
    let value = ciborium::from_reader(&mut rest)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}
