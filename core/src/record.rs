//! How the core's own records look in the store: keys by space, and versioned values.

use crate::codec::{DecodeError, RECORD_VERSION, decode, encode};
use crate::id::{Actor, Key, NodeId, Partition};
use crate::siblings::Siblings;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// The record in `Space::Meta` that holds the cluster's state.
pub(crate) const META_CLUSTER: &[u8] = b"cluster";
/// The record in `Space::Meta` that holds the node's [`Standing`].
pub(crate) const META_STANDING: &[u8] = b"standing";

/// What this disk can be trusted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// How often this disk lost acknowledged commits.
    pub(crate) losses: u32,
    /// Records written before this loss, and the absence of records, prove nothing.
    pub(crate) lost_before: Option<u32>,
}

/// An object in `Space::Objects`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    /// [`Standing::losses`] when this was written.
    #[serde(rename = "l")]
    pub(crate) losses: u32,
    /// The object.
    #[serde(rename = "s")]
    pub(crate) siblings: Siblings,
}

/// A hint in `Space::Hints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HintRecord {
    /// The actor under which this fallback coordinated writes of the key, if it did: it lives and
    /// dies with the hint.
    #[serde(rename = "a")]
    pub(crate) actor: Option<Actor>,
    /// What is kept for the owner.
    #[serde(rename = "s")]
    pub(crate) siblings: Siblings,
}

pub(crate) fn encode_record<T: Serialize>(record: &T) -> Bytes {
    encode(RECORD_VERSION, record)
}

pub(crate) fn decode_record<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, DecodeError> {
    decode(RECORD_VERSION, bytes)
}

/// Where an object is stored: its partition first, so that a partition is one range.
pub(crate) fn object_key(partition: Partition, key: &Key) -> Bytes {
    let mut out = bucket_prefix(partition, key.bucket());
    out.put_slice(key.key());
    out.freeze()
}

/// Where a bucket's objects begin within a partition.
pub(crate) fn bucket_prefix(partition: Partition, bucket: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(6 + bucket.len() + 64);
    out.put_u32(partition.0);
    out.put_u16(bucket.len() as u16);
    out.put_slice(bucket);
    out
}

/// The first key after all those that begin with `prefix`; `None` if there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Where a hint is stored: its owner first, then as the object would be.
pub(crate) fn hint_key(owner: NodeId, object_key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + object_key.len());
    out.put_u64(owner.0);
    out.put_slice(object_key);
    out.freeze()
}

/// The owner and the object that a hint's key names; `None` if it is not a hint's key.
pub(crate) fn parse_hint_key(stored: &Bytes) -> Option<(NodeId, Key)> {
    let (owner, rest) = stored.split_first_chunk::<8>()?;
    let (_partition, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (bucket, key) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let key = Key::new(stored.slice_ref(bucket), stored.slice_ref(key)).ok()?;
    Some((NodeId(u64::from_be_bytes(*owner)), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Digest, Run, WriteId};
    use crate::siblings::Value;
    use crate::time::WallTime;
    use crate::version::{Dot, VersionVector};
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    #[test]
    fn a_hints_key_names_its_owner_and_object() {
        let key = Key::new("bucket", "a key").unwrap();
        let stored = hint_key(NodeId(9), &object_key(Partition(3), &key));
        assert_eq!(parse_hint_key(&stored), Some((NodeId(9), key)));
        assert_eq!(parse_hint_key(&stored.slice(..12)), None);
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(after_prefix(b"a\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(after_prefix(b"\xff\xff"), None);
    }

    /// What a disk holds must be understood by every later build: where bytes change on purpose,
    /// [`RECORD_VERSION`] changes with them.
    #[test]
    fn records_keep_their_bytes_and_come_back() {
        let actor = Actor(Run(5), 2);
        let mut siblings = Siblings::default();
        let value = Value { bytes: "v".into(), modified: WallTime(300) };
        let write_id = Some(WriteId(Digest(1, 2)));
        siblings.write_value(&VersionVector::default(), Dot(actor, 7), value, write_id);
        let object = ObjectRecord { losses: 1, siblings: siblings.clone() };
        let mut deleted = siblings.clone();
        deleted.delete(&[Dot(actor, 7)].into_iter().collect());
        let tombstone = ObjectRecord { losses: 0, siblings: deleted };
        let hint = HintRecord { actor: Some(actor), siblings };
        check(
            &object,
            "01a2616c016173a36163a1820502076176a18282050207a261624176616d19012c617781a4617419012c6164828205020761698201026168821b4c94485e0c21ae6c1b41ce1dfe7b6bface",
        );
        check(
            &tombstone,
            "01a2616c006173a36163a1820502076176a0617781a4617419012c6164828205020761698201026168821b4c94485e0c21ae6c1b41ce1dfe7b6bface",
        );
        check(
            &hint,
            "01a261618205026173a36163a1820502076176a18282050207a261624176616d19012c617781a4617419012c6164828205020761698201026168821b4c94485e0c21ae6c1b41ce1dfe7b6bface",
        );
        check(
            &Standing { losses: 2, lost_before: Some(2) },
            "01a2666c6f73736573026b6c6f73745f6265666f726502",
        );
    }

    fn check<T>(record: &T, golden: &str)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let bytes = encode_record(record);
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(hex, golden);
        assert_eq!(decode_record::<T>(&bytes).as_ref(), Ok(record));
        for end in 0..bytes.len() {
            assert!(decode_record::<T>(&bytes[..end]).is_err(), "cut after {end} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode_record::<T>(&longer), Err(DecodeError::Trailing(1)));
        let newer = [&[RECORD_VERSION + 1], &bytes[1..]].concat();
        assert!(matches!(decode_record::<T>(&newer), Err(DecodeError::Version { .. })));
    }
}
