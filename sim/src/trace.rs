//! The trace: every event of a run in order, as a hash and, where a person replays a seed, as text.
//!
//! Invariant: what may differ between two runs of one seed is in the hash, so equal hashes mean
//! equal runs (contract point 6 of the core, and the simulator's own determinism).

use crate::network::HostIndex;
use bytes::Bytes;
use quorate_core::{StoreCommand, StoreError, StoreReply};
use sha2::{Digest as _, Sha256};

/// Collects the events of one run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: Sha256,
    print: bool,
}

impl Trace {
    /// A trace that prints what it collects, or only hashes it.
    pub fn new(print: bool) -> Self {
        Self { hash: Sha256::new(), print }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// One event: when, which kind, at which host, exact content, and how to say it to a person.
    pub(crate) fn event(
        &mut self,
        now: u64,
        kind: &'static str,
        host: HostIndex,
        content: &[&[u8]],
        say: impl FnOnce() -> String,
    ) {
        self.hash.update(now.to_be_bytes());
        self.hash.update(kind);
        self.hash.update((host as u64).to_be_bytes());
        for part in content {
            self.hash.update((part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
        if self.print {
            let (s, us) = (now / 1_000_000, now % 1_000_000);
            println!("{s:>4}.{us:06} n{host} {kind:<8} {}", say());
        }
    }
}

/// The exact content of a storage command, without the cost of formatting it.
pub(crate) fn command_bytes(command: &StoreCommand) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let put = |out: &mut Vec<u8>, bytes: &Bytes| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match command {
        StoreCommand::Read { space, key } => {
            out.extend_from_slice(&[0, *space as u8]);
            put(&mut out, key);
        }
        StoreCommand::Scan { space, start, end, limit, bytes_limit } => {
            out.extend_from_slice(&[1, *space as u8, u8::from(end.is_some())]);
            put(&mut out, start);
            if let Some(end) = end {
                put(&mut out, end);
            }
            out.extend_from_slice(&limit.to_be_bytes());
            out.extend_from_slice(&bytes_limit.to_be_bytes());
        }
        StoreCommand::Commit { writes } => {
            out.push(2);
            for write in writes {
                out.extend_from_slice(&[write.space as u8, u8::from(write.value.is_some())]);
                put(&mut out, &write.key);
                if let Some(value) = &write.value {
                    put(&mut out, value);
                }
            }
        }
    }
    out
}

/// The exact content of a storage answer.
pub(crate) fn answer_bytes(result: &Result<StoreReply, StoreError>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match result {
        Ok(StoreReply::Committed) => out.push(0),
        Ok(StoreReply::Value { value, as_of }) => {
            out.push(1);
            out.extend_from_slice(&as_of.0.to_be_bytes());
            out.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        Ok(StoreReply::Page { entries, more, as_of }) => {
            out.extend_from_slice(&[2, u8::from(*more)]);
            out.extend_from_slice(&as_of.0.to_be_bytes());
            for (key, value) in entries {
                out.extend_from_slice(key);
                out.extend_from_slice(value.as_deref().unwrap_or_default());
            }
        }
        Err(error) => out.extend_from_slice(format!("{error:?}").as_bytes()),
    }
    out
}
