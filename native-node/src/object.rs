//! How a body and its HTTP metadata travel through the core, to which a value is opaque bytes.

use bytes::Bytes;
use quorate_core::codec::DecodeError;
use serde::{Deserialize, Serialize};

/// An object's body with the metadata that clients stored beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredValue {
    /// `Content-Type`, as stored.
    #[serde(rename = "t")]
    pub content_type: String,
    /// `Content-Encoding`, as stored.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `X-Riak-Meta-*`, `X-Riak-Index-*` and `Link` headers, lower-case names, in the order given.
    #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(rename = "b")]
    pub body: Bytes,
}

const VERSION: u8 = 1;

impl StoredValue {
    /// The bytes that the core stores.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.body.len() + 128);
        out.push(VERSION);
        ciborium::into_writer(self, &mut out).expect("memory takes all bytes");
        out.into()
    }

    /// Reads back what [`StoredValue::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&found, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if found != VERSION {
            return Err(DecodeError::Version { found, expected: VERSION });
        }
        ciborium::from_reader(rest).map_err(|error| DecodeError::Malformed(error.to_string()))
    }
}
