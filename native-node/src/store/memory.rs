//! A store in memory, for tests and trials: a node that uses it starts empty and under a new
//! identity every time, so it never claims to hold what it has lost.

use super::{Commit, Page, PageFiller, Reader, Scan, Store};
use bytes::Bytes;
use quorate_core::{OpId, Space, StoreError};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Records in sorted maps. One lock over all of them makes commits atomic and `as_of` exact.
pub struct MemoryStore {
    shared: Arc<Shared>,
    bytes_max: u64,
}

#[derive(Default)]
struct Shared(RwLock<State>);

#[derive(Default)]
struct State {
    spaces: [BTreeMap<Bytes, Bytes>; Space::ALL.len()],
    bytes: u64,
    as_of: OpId,
}

impl MemoryStore {
    /// An empty store that is full when its keys and values have `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { shared: Arc::default(), bytes_max }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl Store for MemoryStore {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.shared) as Arc<dyn Reader>
    }

    fn commit(&mut self, group: &[Commit]) -> Vec<Result<(), StoreError>> {
        let mut state = self.shared.0.write().unwrap_or_else(PoisonError::into_inner);
        group
            .iter()
            .map(|commit| {
                if !commit.only_removes() && state.bytes + commit.bytes() > self.bytes_max {
                    return Err(StoreError::Full);
                }
                state.apply(commit);
                Ok(())
            })
            .collect()
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl State {
    fn apply(&mut self, commit: &Commit) {
        for write in Commit::effective(&[commit]) {
            let key_bytes = write.key.len() as u64;
            let space = &mut self.spaces[write.space as usize];
            let old = match write.value {
                Some(value) => {
                    self.bytes += key_bytes + value.len() as u64;
                    space.insert(write.key, value)
                }
                None => space.remove(&write.key),
            };
            self.bytes -= old.map_or(0, |old| key_bytes + old.len() as u64);
        }
        self.as_of = commit.op;
    }
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Shared {
    fn read(&self, space: Space, key: &[u8]) -> Result<(Option<Bytes>, OpId), StoreError> {
        let state = self.state();
        Ok((state.spaces[space as usize].get(key).cloned(), state.as_of))
    }

    fn scan(&self, scan: &Scan) -> Result<Page, StoreError> {
        let state = self.state();
        let mut filler = PageFiller::new(scan, state.as_of);
        if scan.is_empty() {
            return Ok(filler.page);
        }
        let end = scan.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = (Bound::Included(&scan.start[..]), end);
        for (key, value) in state.spaces[scan.space as usize].range::<[u8], _>(range) {
            if !filler.has_room() {
                break;
            }
            filler.push(key.clone(), Ok(value.clone()));
        }
        Ok(filler.page)
    }
}
