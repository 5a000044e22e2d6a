//! Names: nodes, runs, actors, keys, partitions and the ids that correlate questions and answers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// A node is its disk: 64 random bits made with the data directory. A lost disk is a new node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One start of a node: 64 random bits from the host, never stored as "mine".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u64);

/// Who names dots. A run takes a new `n` whenever it forgets state that it may have coordinated, so
/// an actor never names a dot that it could have named before and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(pub Run, pub u32);

/// The identity of a cluster: 128 random bits made when it is founded. Nodes of different clusters
/// refuse each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64, pub u64);

/// Names what members own: a hash of the net members (ids, weights, zones), the number of
/// partitions and the buckets' `n_val`. Two nodes with one layout compute the same preference
/// lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutId(pub u64);

/// One of the Q equal parts of the hash ring (§6.2, strategy 3), numbered clockwise from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition(pub u32);

/// A point on the ring: the first 64 bits of the SHA-256 of bucket and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

/// A client's request, named by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A storage command, named by the core; counts up from one within a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// 128 bits of a SHA-256: long enough that two different values never share one by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u64, pub u64);

/// A client's name for one write, so that a retry is harmless: the digest of the text it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriteId(pub Digest);

/// The longest bucket name and the longest key, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// An object's name: a bucket and a key in it, both 1 to 1,024 bytes. Parsed once at the edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Bytes, Bytes)", into = "(Bytes, Bytes)")]
pub struct Key {
    bucket: Bytes,
    key: Bytes,
}

/// Why a bucket and a key do not name an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A bucket or key without a single byte.
    #[error("the {0} is empty: give it 1 to {NAME_BYTES_MAX} bytes")]
    Empty(&'static str),
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the {0} has {1} bytes and the limit is {NAME_BYTES_MAX}")]
    TooLong(&'static str, usize),
}

impl Key {
    /// Names an object, or says what is wrong with the name.
    pub fn new(bucket: impl Into<Bytes>, key: impl Into<Bytes>) -> Result<Self, KeyError> {
        let (bucket, key) = (bucket.into(), key.into());
        check_name("bucket", &bucket)?;
        check_name("key", &key)?;
        Ok(Self { bucket, key })
    }
    /// The bucket's name.
    pub fn bucket(&self) -> &Bytes {
        &self.bucket
    }
    /// The key within the bucket.
    pub fn key(&self) -> &Bytes {
        &self.key
    }
    /// Where the object sits on the ring. The bucket's length goes in first, so that no two pairs
    /// of bucket and key are hashed alike.
    pub fn token(&self) -> Token {
        let mut hash = Sha256::new();
        hash.update((self.bucket.len() as u64).to_be_bytes());
        hash.update(&self.bucket);
        hash.update(&self.key);
        Token(first_u64s(hash).0)
    }
}

/// Checks the length of a bucket's or a key's name.
pub fn check_name(what: &'static str, name: &[u8]) -> Result<(), KeyError> {
    match name.len() {
        0 => Err(KeyError::Empty(what)),
        n if n > NAME_BYTES_MAX => Err(KeyError::TooLong(what, n)),
        _ => Ok(()),
    }
}

impl TryFrom<(Bytes, Bytes)> for Key {
    type Error = KeyError;
    fn try_from((bucket, key): (Bytes, Bytes)) -> Result<Self, KeyError> {
        Self::new(bucket, key)
    }
}

impl From<Key> for (Bytes, Bytes) {
    fn from(key: Key) -> Self {
        (key.bucket, key.key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket.escape_ascii(), self.key.escape_ascii())
    }
}

impl Token {
    /// The partition that holds this point when the ring has `partitions` (a power of two) parts.
    pub fn partition(self, partitions: u32) -> Partition {
        debug_assert!(partitions.is_power_of_two(), "parsed at founding");
        let bits = partitions.trailing_zeros();
        Partition(if bits == 0 { 0 } else { (self.0 >> (64 - bits)) as u32 })
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let (a, b) = first_u64s(Sha256::new_with_prefix(bytes));
        Self(a, b)
    }
}

impl WriteId {
    /// The id that a client's text stands for.
    pub fn of(text: &[u8]) -> Self {
        Self(Digest::of(text))
    }
}

/// The first 128 bits of a finished hash.
pub(crate) fn first_u64s(hash: Sha256) -> (u64, u64) {
    let out = hash.finalize();
    let word =
        |at: usize| u64::from_be_bytes(out[at..at + 8].try_into().expect("a SHA-256 has 32 bytes"));
    (word(0), word(8))
}

/// Text that is not the hexadecimal form of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id of {0} hexadecimal digits is wanted")]
pub struct ParseIdError(u8);

/// Hexadecimal text in JSON (which has no 64-bit integers), plain numbers in CBOR.
macro_rules! serde_text_for_people {
    ($name:ident, $plain:ty, $to:expr, $from:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    ($to)(self).serialize(serializer)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <$plain>::deserialize(deserializer).map($from)
                }
            }
        }
    };
}

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map($name)
            }
        }
        serde_text_for_people!($name, u64, |id: &$name| id.0, $name);
    };
}
hex_id!(NodeId);
hex_id!(Run);
hex_id!(LayoutId);

serde_text_for_people!(ClusterId, (u64, u64), |id: &ClusterId| (id.0, id.1), |(a, b)| ClusterId(
    a, b
));

fn parse_hex(text: &str) -> Result<u64, ParseIdError> {
    let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain {
        return Err(ParseIdError(16));
    }
    u64::from_str_radix(text, 16).map_err(|_| ParseIdError(16))
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(ParseIdError(32));
        }
        let half = |part| parse_hex(part).map_err(|_| ParseIdError(32));
        Ok(Self(half(&text[..16])?, half(&text[16..])?))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let node = NodeId(0x0123_4567_89ab_cdef);
        assert_eq!(node.to_string().parse(), Ok(node));
        let cluster = ClusterId(7, u64::MAX);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert_eq!("+123456789abcdef".parse::<NodeId>(), Err(ParseIdError(16)));
        assert_eq!("xyz".parse::<ClusterId>(), Err(ParseIdError(32)));
    }

    #[test]
    fn names_are_checked_once_at_the_edge() {
        assert_eq!(Key::new("", "k"), Err(KeyError::Empty("bucket")));
        assert_eq!(Key::new("b", vec![0; 1025]), Err(KeyError::TooLong("key", 1025)));
        assert!(Key::new(vec![0; 1024], vec![255; 1024]).is_ok());
    }

    #[test]
    fn a_bucket_and_key_never_hash_like_another_pair() {
        let a = Key::new("ab", "c").unwrap();
        let b = Key::new("a", "bc").unwrap();
        assert_ne!(a.token(), b.token());
    }

    #[test]
    fn tokens_fall_into_equal_partitions() {
        assert_eq!(Token(0).partition(256), Partition(0));
        assert_eq!(Token(u64::MAX).partition(256), Partition(255));
        assert_eq!(Token(1 << 63).partition(256), Partition(128));
        assert_eq!(Token(u64::MAX).partition(1), Partition(0));
    }
}
