//! How a record lies in an engine: a format version, a checksum, the value.
//!
//! The checksum covers space, key and value, so that an engine that hands out damaged bytes, or
//! the value of another record, is caught at every read, whatever its own checks miss.

use bytes::Bytes;
use quorate_core::{Space, StoreError};
use sha2::{Digest as _, Sha256};

/// The only layout so far.
const VERSION: u8 = 1;

/// Bytes before the value: version and checksum.
pub(super) const HEAD_BYTES: usize = 9;

/// The bytes to store for a value.
pub(super) fn seal(space: Space, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(HEAD_BYTES + value.len());
    stored.push(VERSION);
    stored.extend_from_slice(&checksum(space, key, value));
    stored.extend_from_slice(value);
    stored
}

/// The value in stored bytes, if they are what was written under this key.
pub(super) fn unseal(space: Space, key: &[u8], stored: &Bytes) -> Result<Bytes, StoreError> {
    let Some((head, value)) = stored.split_at_checked(HEAD_BYTES) else {
        return Err(StoreError::Corrupt);
    };
    if head[0] != VERSION || head[1..] != checksum(space, key, value) {
        return Err(StoreError::Corrupt);
    }
    Ok(stored.slice(HEAD_BYTES..))
}

/// 64 bits of a SHA-256. The key's length goes in first, so that no two records are hashed alike.
fn checksum(space: Space, key: &[u8], value: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update([VERSION, space as u8]);
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(value);
    first_bytes(hash)
}

/// The first 64 bits of a finished hash.
pub(super) fn first_bytes(hash: Sha256) -> [u8; 8] {
    hash.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_what_was_written() {
        for value in [&b""[..], b"v", &[0; 10_000]] {
            let stored = Bytes::from(seal(Space::Objects, b"k", value));
            assert_eq!(unseal(Space::Objects, b"k", &stored).unwrap(), value);
        }
    }

    #[test]
    fn a_flip_of_any_bit_is_corrupt() {
        let stored = seal(Space::Objects, b"key", b"value");
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = unseal(Space::Objects, b"key", &damaged.into());
            assert_eq!(result, Err(StoreError::Corrupt), "bit {bit}");
        }
    }

    #[test]
    fn a_value_cut_short_or_from_elsewhere_is_corrupt() {
        let stored = Bytes::from(seal(Space::Objects, b"key", b"value"));
        for len in 0..stored.len() {
            assert_eq!(
                unseal(Space::Objects, b"key", &stored.slice(..len)),
                Err(StoreError::Corrupt)
            );
        }
        assert_eq!(unseal(Space::Objects, b"kez", &stored), Err(StoreError::Corrupt));
        assert_eq!(unseal(Space::Hints, b"key", &stored), Err(StoreError::Corrupt));
    }
}
