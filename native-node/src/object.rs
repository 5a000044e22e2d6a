//! How a body and its HTTP metadata travel through the core, to which a value is opaque bytes.
//!
//! The stored form is one version byte, the metadata's length as a big-endian `u32`, the metadata in
//! CBOR, and the body to the end. The body comes last and raw, so that a put appends it frame by
//! frame as it arrives and a get hands out a slice of it: neither copies a body twice.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_core::codec::DecodeError;
use serde::{Deserialize, Serialize};

/// What clients stored beside a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// `Content-Type`, as stored.
    #[serde(rename = "t")]
    pub content_type: String,
    /// `Content-Encoding`, as stored.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `X-Riak-Meta-*`, `X-Riak-Index-*` and `Link` headers: lower-case names in their order, values
    /// of one name in the order given, so that a retry of a write stores the same bytes.
    #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Bytes)>,
}

/// An object's body with its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// What is known about the body.
    pub metadata: Metadata,
    /// The body.
    pub body: Bytes,
}

const VERSION: u8 = 1;
const PREFIX_BYTES: usize = 5;

impl Metadata {
    /// Begins the stored form of a value with room for a body of `body_bytes`, which the caller
    /// appends.
    pub fn begin(&self, body_bytes: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(body_bytes + self.bytes() + 128);
        out.put_u8(VERSION);
        out.put_u32(0);
        let mut out = out.writer();
        ciborium::into_writer(self, &mut out).expect("memory takes all bytes");
        let mut out = out.into_inner();
        let length = u32::try_from(out.len() - PREFIX_BYTES).expect("metadata is bounded");
        out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// How much there is of it: the bytes of all names and values.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.content_type.len()
            + self.content_encoding.as_ref().map_or(0, String::len)
            + headers.sum::<usize>()
    }
}

impl StoredValue {
    /// The bytes that the core stores.
    pub fn encode(&self) -> Bytes {
        let mut out = self.metadata.begin(self.body.len());
        out.extend_from_slice(&self.body);
        out.freeze()
    }

    /// Reads back what [`StoredValue::encode`] wrote; the body is a slice of `bytes`, not a copy.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let &found = bytes.first().ok_or(DecodeError::Empty)?;
        if found != VERSION {
            return Err(DecodeError::Version { found, expected: VERSION });
        }
        let cut = || DecodeError::Malformed("the metadata is cut short".into());
        let length: [u8; 4] =
            bytes.get(1..PREFIX_BYTES).and_then(|b| b.try_into().ok()).ok_or_else(cut)?;
        let body = usize::try_from(u32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_add(PREFIX_BYTES))
            .filter(|&body| body <= bytes.len())
            .ok_or_else(cut)?;
        let metadata = ciborium::from_reader(&bytes[PREFIX_BYTES..body])
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        Ok(Self { metadata, body: bytes.slice(body..) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> StoredValue {
        StoredValue {
            metadata: Metadata {
                content_type: "text/plain; charset=utf-8".into(),
                content_encoding: Some("gzip".into()),
                headers: vec![("x-riak-meta-a".into(), Bytes::from_static(b"\xff\x00"))],
            },
            body: Bytes::from_static(b"\x00body\xff"),
        }
    }

    #[test]
    fn a_value_reads_back_as_it_was_stored() {
        for value in [value(), StoredValue::default()] {
            assert_eq!(StoredValue::decode(&value.encode()), Ok(value));
        }
    }

    #[test]
    fn the_body_is_a_slice_of_the_stored_bytes() {
        let stored = value().encode();
        let body = StoredValue::decode(&stored).unwrap().body;
        assert_eq!(body.as_ptr(), stored[stored.len() - body.len()..].as_ptr());
    }

    #[test]
    fn bytes_cut_short_or_of_another_version_are_refused() {
        let stored = value().encode();
        let metadata_end = stored.len() - value().body.len();
        for end in 0..metadata_end {
            assert!(StoredValue::decode(&stored.slice(..end)).is_err(), "cut at {end}");
        }
        let mut other = BytesMut::from(&stored[..]);
        other[0] = 9;
        assert_eq!(
            StoredValue::decode(&other.freeze()),
            Err(DecodeError::Version { found: 9, expected: 1 })
        );
        let lying = Bytes::from_static(&[1, 255, 255, 255, 255, 0]);
        assert!(StoredValue::decode(&lying).is_err());
    }
}
