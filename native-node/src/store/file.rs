//! The file store: records in fjall, an embedded log-structured engine.
//!
//! A group of commits is one batch of the engine, which appends it to its journal, syncs the
//! journal, and only then shows it to readers: so a reader never sees what a crash could take away.
//! The store publishes a new view after each group, exact about the last commit it includes.
//!
//! # Limits
//! - An error while writing poisons the engine; it must be opened anew. That is `Io`, and it
//!   latches. So the disk must not run out under it: [`FileOptions::free_bytes_min`] is kept in reserve
//!   and commits are refused as `Full` before. If the disk runs out all the same, commits stay `Full`
//!   until a restart; reads go on.
//! - A journal takes 64 MiB from its beginning, and there are usually two; a
//!   [`FileOptions::used_bytes_max`] below 512 MiB is full at once or soon.
//! - A damaged block of small records makes each of its keys `Corrupt`, and a scan that begins there
//!   too; the engine stops (`Io`) when compaction meets it. A damaged large value is one key.

use super::identity::Identity;
use super::journal::Marker;
use super::room::{Bounds, Room, Usage};
use super::{Commit, Page, PageFiller, Reader, Scan, Store, record};
use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, LsmError,
    PersistMode, Readable as _, Snapshot,
};
use quorate_core::{OpId, Space, StoreError};
use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a file store uses memory and disk.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Memory for blocks and values read from disk.
    pub cache_bytes: u64,
    /// Writes kept in memory until they are written out as a table, for objects and for hints. The
    /// engine remembers what it was made with: later values have no effect on its directory.
    pub memtable_bytes: u64,
    /// The engine's files may take this much; beyond, commits are refused as `Full`.
    pub used_bytes_max: u64,
    /// Free space of the file system left for the engine's housekeeping; below, commits are
    /// refused as `Full`.
    pub free_bytes_min: u64,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            used_bytes_max: u64::MAX,
            free_bytes_min: 256 << 20,
        }
    }
}

/// Values from this size on lie in files of their own, so that compaction moves only their keys.
/// (Not hints: they live briefly, and compaction frees their space sooner this way.)
const SEPARATE_BYTES_MIN: u32 = 4 << 10;

/// Journals are cut down by writing memtables out when they take this much together; opening after
/// a crash replays at most about as much.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// The high-water mark is advanced after so many commits or so much time.
const MARK_COMMITS: u64 = 50_000;
const MARK_INTERVAL: Duration = Duration::from_secs(5);

/// Where the last group's marker is, in a keyspace of its own.
const MARKER_KEY: &[u8] = b"last";

/// Records in files.
pub struct FileStore {
    engine: Engine,
    shared: Arc<Shared>,
    identity: Identity,
    /// The number of the last durable commit, and what it was when the store was opened.
    last: u64,
    last_at_open: u64,
    marked: Instant,
    room: Room,
    /// What every commit is answered once the engine cannot go on.
    stopped: Option<StoreError>,
    /// Dropped last: no other process opens the directory while the engine is in use.
    dir: LockedDir,
}

/// A data directory that no other process uses while this lives.
#[derive(Debug)]
pub(super) struct LockedDir {
    pub path: PathBuf,
    pub _lock: File,
}

/// The opened engine.
pub(super) struct Engine {
    database: Database,
    spaces: [Keyspace; Space::ALL.len()],
    commits: Keyspace,
}

impl Engine {
    /// Opens the engine at `path`, or makes a new one.
    pub fn open(path: &Path, options: &FileOptions) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .worker_threads(2)
            .open()?;
        let keyspace = |name, memtable_bytes, separate: Option<_>| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memtable_bytes)
                    .manual_journal_persist(true)
                    .with_kv_separation(separate)
            })
        };
        let separate = KvSeparationOptions::default().separation_threshold(SEPARATE_BYTES_MIN);
        let meta = keyspace("meta", 4 << 20, None)?;
        let objects = keyspace("objects", options.memtable_bytes, Some(separate))?;
        let hints = keyspace("hints", options.memtable_bytes, None)?;
        let commits = keyspace("commits", 4 << 20, None)?;
        Ok(Self { spaces: [meta, objects, hints], commits, database })
    }

    /// Puts bytes into the engine that no store would write.
    #[cfg(test)]
    pub fn put_raw(&self, space: Space, key: &[u8], stored: &[u8]) {
        self.spaces[space as usize].insert(key, stored).unwrap();
        self.database.persist(PersistMode::SyncAll).unwrap();
    }

    /// The marker of the last group; `None` before the first, an error if it is damaged.
    pub fn last_marker(&self) -> Result<Option<Marker>, StoreError> {
        let stored = self.commits.get(MARKER_KEY).map_err(|error| map_error(&error))?;
        stored.map(|bytes| Marker::decode(&bytes).ok_or(StoreError::Corrupt)).transpose()
    }
}

impl FileStore {
    /// Begins to use an opened engine, with `last` as the number of its last commit.
    pub(super) fn new(
        engine: Engine,
        dir: LockedDir,
        identity: Identity,
        last: u64,
        options: &FileOptions,
    ) -> Self {
        let view = Arc::new(View { snapshot: engine.database.snapshot(), as_of: OpId::default() });
        let shared = Arc::new(Shared { spaces: engine.spaces.clone(), view: Mutex::new(view) });
        let bounds = Bounds {
            used_bytes_max: options.used_bytes_max,
            free_bytes_min: options.free_bytes_min,
        };
        let room = Room::new(bounds);
        Self {
            engine,
            shared,
            identity,
            last,
            last_at_open: last,
            marked: Instant::now(),
            room,
            stopped: None,
            dir,
        }
    }

    /// Writes a group as one batch of the engine, synced before it is visible.
    fn write(&mut self, group: &[&Commit]) -> Result<(), StoreError> {
        let marker = Marker {
            node: self.identity.node,
            first: self.last + 1,
            last: self.last + group.len() as u64,
        };
        let mut batch = self.engine.database.batch().durability(Some(PersistMode::SyncData));
        for write in Commit::effective(group) {
            let keyspace = &self.engine.spaces[write.space as usize];
            match write.value {
                Some(value) => {
                    let stored = record::seal(write.space, &write.key, &value);
                    batch.insert(keyspace, &write.key[..], stored);
                }
                None => batch.remove(keyspace, &write.key[..]),
            }
        }
        batch.insert(&self.engine.commits, MARKER_KEY, marker.encode());
        batch.commit().map_err(|error| self.stop(&error))?;
        self.last = marker.last;
        let as_of = group.last().map_or(OpId::default(), |commit| commit.op);
        self.shared.publish(View { snapshot: self.engine.database.snapshot(), as_of });
        Ok(())
    }

    /// The engine takes no more writes. A full disk is told apart, because the node may still read.
    fn stop(&mut self, error: &fjall::Error) -> StoreError {
        let out_of_space = match map_error(error) {
            StoreError::Full => true,
            _ => self.usage().is_ok_and(|usage| self.room.is_out(usage)),
        };
        let stopped = if out_of_space {
            tracing::error!(dir = %self.dir.path.display(), %error,
                "the disk ran out of space: free some and restart this node; it only reads until then");
            StoreError::Full
        } else {
            StoreError::Io(format!("{}: {error}", self.dir.path.display()))
        };
        self.stopped.insert(stopped).clone()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        usage(&self.engine.database, &self.dir.path)
    }

    fn admit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        let (database, dir) = (&self.engine.database, &self.dir.path);
        self.room.admit(commit.bytes(), commit.only_removes(), || usage(database, dir))
    }

    /// Is it time to advance the high-water mark? A loss stays on record until a commit of the
    /// node's is durable, and no longer: that commit is the node's own note of it.
    fn mark_is_due(&self) -> bool {
        self.identity.lost && self.last > self.last_at_open
            || self.last - self.identity.mark >= MARK_COMMITS
            || self.marked.elapsed() >= MARK_INTERVAL
    }

    /// Raises the high-water mark to the last durable commit.
    fn advance_mark(&mut self) -> Result<(), StoreError> {
        self.marked = Instant::now();
        let lost = self.identity.lost && self.last == self.last_at_open;
        let advanced = Identity { mark: self.last, lost, ..self.identity };
        if advanced == self.identity {
            return Ok(());
        }
        match advanced.write(&self.dir.path) {
            Ok(()) => self.identity = advanced,
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "the high-water mark stays behind until there is space");
            }
            Err(error) => {
                let what = self.dir.path.display();
                let stopped = StoreError::Io(format!("{what}: the high-water mark: {error}"));
                self.stopped = Some(stopped.clone());
                return Err(stopped);
            }
        }
        Ok(())
    }
}

impl Store for FileStore {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.shared) as Arc<dyn Reader>
    }

    fn commit(&mut self, group: &[Commit]) -> Vec<Result<(), StoreError>> {
        let mut results: Vec<_> = group.iter().map(|commit| self.admit(commit)).collect();
        let admitted: Vec<_> =
            group.iter().zip(&results).filter(|(_, r)| r.is_ok()).map(|(c, _)| c).collect();
        if admitted.is_empty() {
            return results;
        }
        let mut written = self.write(&admitted);
        if written.is_ok() && self.mark_is_due() {
            written = self.advance_mark();
        }
        if let Err(error) = written {
            results.iter_mut().filter(|r| r.is_ok()).for_each(|r| *r = Err(error.clone()));
        }
        results
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        if self.stopped.is_none() && self.mark_is_due() {
            self.advance_mark()?;
        }
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        if let Some(stopped) = self.stopped.take() {
            return Err(stopped);
        }
        let synced = self.engine.database.persist(PersistMode::SyncAll);
        synced.map_err(|error| self.stop(&error))?;
        self.advance_mark()
    }
}

/// What readers use.
struct Shared {
    spaces: [Keyspace; Space::ALL.len()],
    view: Mutex<Arc<View>>,
}

/// The state after a group of commits.
struct View {
    snapshot: Snapshot,
    as_of: OpId,
}

impl Shared {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn publish(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

impl Reader for Shared {
    fn read(&self, space: Space, key: &[u8]) -> Result<(Option<Bytes>, OpId), StoreError> {
        let view = self.view();
        let stored = view.snapshot.get(&self.spaces[space as usize], key);
        let stored = stored.map_err(|error| map_error(&error))?;
        let value =
            stored.map(|stored| record::unseal(space, key, &to_bytes(stored))).transpose()?;
        Ok((value, view.as_of))
    }

    fn scan(&self, scan: &Scan) -> Result<Page, StoreError> {
        let view = self.view();
        let mut filler = PageFiller::new(scan, view.as_of);
        if scan.is_empty() {
            return Ok(filler.page);
        }
        let end = scan.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = (Bound::Included(&scan.start[..]), end);
        for guard in view.snapshot.range::<&[u8], _>(&self.spaces[scan.space as usize], range) {
            if !filler.has_room() {
                break;
            }
            // The key is known even where the value is damaged, if the value lies apart.
            let known_key = OnceCell::new();
            let found = guard.into_inner_if(|key| known_key.set(key.clone()).is_ok());
            match (found, known_key.into_inner()) {
                (Ok((key, Some(stored))), _) => {
                    let value = record::unseal(scan.space, &key, &to_bytes(stored));
                    filler.push(Bytes::copy_from_slice(&key), value);
                }
                (Ok((_, None)), _) => unreachable!("the predicate asks for every value"),
                (Err(error), Some(key)) => match map_error(&error) {
                    StoreError::Corrupt => {
                        filler.push(Bytes::copy_from_slice(&key), Err(StoreError::Corrupt));
                    }
                    error => return Err(error),
                },
                (Err(error), None) => match map_error(&error) {
                    StoreError::Corrupt if !filler.page.entries.is_empty() => {
                        filler.page.more = true;
                        break;
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(filler.page)
    }
}

/// Small values are copied; large ones are handed out as they lie in the engine's memory.
fn to_bytes(stored: fjall::Slice) -> Bytes {
    const COPIED_BYTES_MAX: usize = 1 << 10;
    if stored.len() <= COPIED_BYTES_MAX {
        Bytes::copy_from_slice(&stored)
    } else {
        Bytes::from_owner(stored)
    }
}

/// What the engine takes on disk and what the file system has left.
fn usage(database: &Database, dir: &Path) -> Result<Usage, StoreError> {
    let used_bytes = database.disk_space().map_err(|error| map_error(&error))?;
    let free_bytes = free_bytes(dir).map_err(|error| StoreError::Io(error.to_string()))?;
    Ok(Usage { used_bytes, free_bytes })
}

#[cfg(unix)]
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Where it cannot be asked, only [`FileOptions::used_bytes_max`] bounds the store.
#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// What an engine's error means: bytes that are not what was written, no space, or anything else.
fn map_error(error: &fjall::Error) -> StoreError {
    use fjall::Error as E;
    match error {
        E::Storage(
            LsmError::ChecksumMismatch { .. }
            | LsmError::Decompress(_)
            | LsmError::InvalidTag(_)
            | LsmError::InvalidTrailer
            | LsmError::InvalidHeader(_)
            | LsmError::Utf8(_),
        )
        | E::Decompress(_)
        | E::InvalidTrailer
        | E::InvalidTag(_) => StoreError::Corrupt,
        E::Io(error) | E::Storage(LsmError::Io(error)) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => StoreError::Corrupt,
            _ if is_full(error) => StoreError::Full,
            _ => StoreError::Io(error.to_string()),
        },
        E::Poisoned => StoreError::Io(
            "the engine stopped after an earlier failure; restart the node, and if it comes \
             again move its data directory away so that it joins as a new node"
                .into(),
        ),
        other => StoreError::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_damage_and_other_failures_are_told_apart() {
        let io = |kind: io::ErrorKind| map_error(&fjall::Error::Io(kind.into()));
        assert_eq!(io(io::ErrorKind::StorageFull), StoreError::Full);
        assert_eq!(io(io::ErrorKind::QuotaExceeded), StoreError::Full);
        assert_eq!(io(io::ErrorKind::UnexpectedEof), StoreError::Corrupt);
        assert!(matches!(io(io::ErrorKind::PermissionDenied), StoreError::Io(_)));
        assert!(matches!(map_error(&fjall::Error::Poisoned), StoreError::Io(_)));
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(map_error(&fjall::Error::Storage(LsmError::Io(full))), StoreError::Full);
        assert_eq!(
            map_error(&fjall::Error::Storage(LsmError::InvalidTrailer)),
            StoreError::Corrupt
        );
    }
}
