//! The context that travels through clients: a version vector sealed with a MAC.
//!
//! Invariant: what is opened was sealed by this cluster for this very bucket and key, so a client
//! can neither invent a context nor carry one over to another key, and a context that was issued is
//! accepted when it comes back.

use crate::codec::{decode, encode};
use crate::config::Secret;
use crate::id::Key;
use crate::version::VersionVector;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

const CONTEXT_VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const BLOCK_BYTES: usize = 64;

/// Seals what a read saw, for its client to give back.
pub(crate) fn seal(secret: &Secret, key: &Key, seen: &VersionVector) -> Bytes {
    let plain = encode(CONTEXT_VERSION, seen);
    let mut sealed = Vec::with_capacity(MAC_BYTES + plain.len());
    sealed.extend_from_slice(&mac(secret, key, &plain));
    sealed.extend_from_slice(&plain);
    sealed.into()
}

/// Opens what a client gave back; `None` if it was not sealed here for this key.
pub(crate) fn open(secret: &Secret, key: &Key, sealed: &[u8]) -> Option<VersionVector> {
    let (tag, plain) = sealed.split_at_checked(MAC_BYTES)?;
    let expected = mac(secret, key, plain);
    let differs = tag.iter().zip(expected).fold(0, |acc, (a, b)| acc | (a ^ b));
    if differs != 0 {
        return None;
    }
    decode(CONTEXT_VERSION, plain).ok()
}

/// HMAC-SHA-256 (RFC 2104) with the cluster's secret, truncated.
fn mac(secret: &Secret, key: &Key, plain: &[u8]) -> [u8; MAC_BYTES] {
    let mut block = [0u8; BLOCK_BYTES];
    for (eight, word) in block.chunks_exact_mut(8).zip(secret.0) {
        eight.copy_from_slice(&word.to_be_bytes());
    }
    let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    for part in [key.bucket(), key.key()] {
        inner.update((part.len() as u64).to_be_bytes());
        inner.update(part);
    }
    inner.update(plain);
    let mut outer = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c));
    outer.update(inner.finalize());
    let full = outer.finalize();
    std::array::from_fn(|at| full[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Actor, Run};
    use crate::version::Dot;

    #[test]
    fn a_context_opens_only_where_it_was_sealed() {
        let (here, there) = (&Secret([1, 2, 3, 4]), &Secret([1, 2, 3, 5]));
        let key = Key::new("b", "k").unwrap();
        let seen: VersionVector = [Dot(Actor(Run(7), 0), 3)].into_iter().collect();
        let sealed = seal(here, &key, &seen);
        assert_eq!(open(here, &key, &sealed), Some(seen));
        assert_eq!(open(there, &key, &sealed), None);
        assert_eq!(open(here, &Key::new("b", "l").unwrap(), &sealed), None);
        assert_eq!(open(here, &Key::new("bk", "k").unwrap(), &sealed), None);
        for at in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[at] ^= 1;
            assert_eq!(open(here, &key, &forged), None, "byte {at}");
            assert_eq!(open(here, &key, &sealed[..at]), None);
        }
    }
}
