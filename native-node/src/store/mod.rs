//! Record stores behind one small trait.
//!
//! A [`Store`] keeps records in the three spaces of the core and promises: a commit is all or
//! nothing, durable before it is answered, and durable in the order issued; a damaged record is
//! [`StoreError::Corrupt`] and never other bytes than were written. [`StoreThread`] runs a store for
//! the node: one fsync for all commits that wait, and reads that never wait for an fsync.
//!
//! There are two: [`FileStore`] (fjall, with the identity, lock and high-water mark of
//! [`data_dir`]) and [`MemoryStore`], which keeps nothing and says so. One conformance suite
//! (`tests/store_conformance.rs`) runs against both; another engine is one more file beside them.

pub mod data_dir;
mod file;
mod identity;
mod journal;
mod memory;
mod record;
mod room;
mod thread;

pub use data_dir::{OpenError, Opened, open_file, open_memory};
pub use file::{FileOptions, FileStore};
pub use memory::MemoryStore;
pub use thread::{Completion, Stats, StoreThread};

use bytes::Bytes;
use quorate_core::{OpId, Space, StoreError, Write};
use std::sync::Arc;

/// The longest key of a record, in bytes. The core's keys (a partition, an owner, a bucket and a key)
/// stay far below; a longer or an empty one is a bug and panics.
pub const KEY_BYTES_MAX: usize = 65_535;

/// The longest value of a record, in bytes: what engines can take, far above any object.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// Where records live. Owned by one thread, which alone commits.
pub trait Store: Send {
    /// A handle that reads beside the commits, from any thread.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Makes a group of commits durable together, in order, with one fsync; one answer for each.
    /// Each is all or nothing. Whatever is answered with `Ok` is durable when this returns, and only
    /// then does a reader see it. `Full` refuses a commit and changes nothing.
    fn commit(&mut self, group: &[Commit]) -> Vec<Result<(), StoreError>>;
    /// Called now and then when nothing waits, for housekeeping.
    fn maintain(&mut self) -> Result<(), StoreError>;
    /// Ends cleanly: what was committed is durable, and the store knows that nothing is missing.
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// Reads records. Every answer names the last commit that it includes; it includes all commits up
/// to that one, and none after it.
pub trait Reader: Send + Sync {
    /// One record.
    fn read(&self, space: Space, key: &[u8]) -> Result<(Option<Bytes>, OpId), StoreError>;
    /// A page of records in order. A page that meets damage larger than one value ends before
    /// it with `more`; a page that begins there is `Corrupt` as a whole.
    fn scan(&self, scan: &Scan) -> Result<Page, StoreError>;
}

/// One transaction: applied in order, all or nothing.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The core's name for it; counts up.
    pub op: OpId,
    /// The records to set and to remove.
    pub writes: Vec<Write>,
}

impl Commit {
    /// The bytes of its keys and values.
    pub fn bytes(&self) -> u64 {
        self.writes
            .iter()
            .map(|w| (w.key.len() + w.value.as_ref().map_or(0, Bytes::len)) as u64)
            .sum()
    }
    /// Does it only remove? Such a commit is taken even when the store is full: it makes room.
    pub fn only_removes(&self) -> bool {
        self.writes.iter().all(|write| write.value.is_none())
    }
    /// The writes that count: the last one to each record.
    fn effective(group: &[&Self]) -> Vec<Write> {
        let mut seen = std::collections::HashSet::new();
        let mut writes: Vec<Write> = group
            .iter()
            .rev()
            .flat_map(|commit| commit.writes.iter().rev())
            .filter(|write| seen.insert((write.space, &write.key)))
            .inspect(|write| check_sizes(write))
            .cloned()
            .collect();
        writes.reverse();
        writes
    }
}

/// Sizes that the core never exceeds; engines truncate or abort beyond them, so better stop here.
fn check_sizes(write: &Write) {
    let key_bytes = write.key.len();
    assert!((1..=KEY_BYTES_MAX).contains(&key_bytes), "a record's key has {key_bytes} bytes");
    let value_bytes = write.value.as_ref().map_or(0, Bytes::len);
    assert!(value_bytes <= VALUE_BYTES_MAX, "a record's value has {value_bytes} bytes");
}

/// What a scan asks: the records with keys in `start..end`.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Where.
    pub space: Space,
    /// The first key wanted.
    pub start: Bytes,
    /// The first key no longer wanted; `None`: to the end of the space.
    pub end: Option<Bytes>,
    /// At most this many records.
    pub limit: u32,
    /// The page ends with the record that brings its keys and values to this many bytes.
    pub bytes_limit: u32,
}

impl Scan {
    /// A whole space, without limits.
    pub fn all(space: Space) -> Self {
        Self { space, start: Bytes::new(), end: None, limit: u32::MAX, bytes_limit: u32::MAX }
    }
    /// Can no key be in the range?
    fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// A page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The records in order; a damaged value is an error of its own.
    pub entries: Vec<(Bytes, Result<Bytes, StoreError>)>,
    /// Are there more in the range?
    pub more: bool,
    /// The last commit included.
    pub as_of: OpId,
}

/// Fills a page up to its limits, the same way for every engine.
struct PageFiller {
    page: Page,
    limit: usize,
    bytes_left: u64,
}

impl PageFiller {
    fn new(scan: &Scan, as_of: OpId) -> Self {
        let page = Page { as_of, ..Page::default() };
        Self { page, limit: scan.limit as usize, bytes_left: u64::from(scan.bytes_limit) }
    }
    /// Whether another record may go in; if not, the page says that there are more.
    fn has_room(&mut self) -> bool {
        self.page.more = self.page.entries.len() >= self.limit || self.bytes_left == 0;
        !self.page.more
    }
    fn push(&mut self, key: Bytes, value: Result<Bytes, StoreError>) {
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        self.bytes_left = self.bytes_left.saturating_sub(bytes as u64);
        self.page.entries.push((key, value));
    }
}
