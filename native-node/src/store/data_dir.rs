//! Opens a node's data directory: lock, identity, engine, and whether anything is missing.
//!
//! ```text
//! DIR/lock       held by the process that uses the directory
//! DIR/identity   who the node is and its high-water mark
//! DIR/engine/    records
//! ```
//!
//! The identity is written after the engine was made, so an identity without an engine means that
//! records are gone. A loss is reported at every start until the node's first commit after it is
//! durable: the core records the loss in that commit.

use super::file::{Engine, LockedDir};
use super::identity::{self, Identity, IdentityError};
use super::journal::JournalWatch;
use super::{FileOptions, FileStore, MemoryStore, Scan, Store};
use bytes::Bytes;
use quorate_core::{NodeId, Space, StoreError};
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// An opened store and what the node is told about it at its start.
pub struct Opened {
    /// Who the node is.
    pub node: NodeId,
    /// Everything in [`Space::Meta`].
    pub meta: Vec<(Bytes, Bytes)>,
    /// Commits are missing that had been acknowledged. The node's first commit must take note.
    pub lost_commits: bool,
    /// The records.
    pub store: Box<dyn Store>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("node", &self.node)
            .field("meta", &self.meta.len())
            .field("lost_commits", &self.lost_commits)
            .finish_non_exhaustive()
    }
}

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one or choose another --data", .0.display())]
    Locked(PathBuf),
    /// A file or directory could not be made, read or written.
    #[error("{}: {source}: check that it can be written and that the disk is sound", path.display())]
    Io {
        /// What was accessed.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The identity is damaged.
    #[error(
        "{} is damaged, so this disk's identity is unknown: restore that file if you have a copy; \
         if not, move the data directory away, and the node joins as a new one", .0.display()
    )]
    IdentityDamaged(PathBuf),
    /// The identity is gone but the engine holds records.
    #[error(
        "{} is missing but there are records beside it: restore that file if you have a copy; \
         if not, move the data directory away, and the node joins as a new one", .0.display()
    )]
    IdentityMissing(PathBuf),
    /// Written by another version.
    #[error("{} has format {format}, which this version does not read: use the version that wrote it", path.display())]
    Format {
        /// The identity file.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// The engine does not open.
    #[error(
        "{} cannot be opened ({reason}): its files are damaged or incomplete; move the data \
         directory away, and the node joins as a new one and is filled from the others", path.display()
    )]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// A record of the node's own standing is damaged.
    #[error(
        "{} has a damaged record of the node's own standing ({key}), without which it cannot take \
         part: move the data directory away, and the node joins as a new one and is filled from \
         the others", path.display()
    )]
    MetaDamaged {
        /// The engine's directory.
        path: PathBuf,
        /// Which record.
        key: String,
    },
}

/// A memory store for a node that has never been before.
pub fn open_memory() -> io::Result<Opened> {
    Ok(Opened {
        node: Identity::new()?.node,
        meta: Vec::new(),
        lost_commits: false,
        store: Box::new(MemoryStore::default()),
    })
}

/// Opens the data directory `dir`, or makes a new one there with a new identity.
pub fn open_file(dir: &Path, options: &FileOptions) -> Result<Opened, OpenError> {
    let dir = lock(dir)?;
    let engine_path = dir.path.join("engine");
    let known = read_identity(&dir.path)?;
    let engine_exists = std::fs::read_dir(&engine_path).is_ok_and(|mut dir| dir.next().is_some());

    let (engine, identity, last) = match known {
        None => create(&dir.path, &engine_path, options)?,
        Some(identity) if engine_exists => reopen(&dir.path, &engine_path, identity, options)?,
        Some(identity) => {
            tracing::error!(
                node = %identity.node, path = %engine_path.display(), commits = identity.mark,
                "all records are gone: the node counts as not in sync until it is repaired"
            );
            let identity = report_loss(&dir.path, identity)?;
            let engine = open_engine(&engine_path, options)?;
            let last = identity.mark;
            (engine, identity, last)
        }
    };
    let store = Box::new(FileStore::new(engine, dir, identity, last, options));
    let meta = read_meta(&*store, &engine_path)?;
    Ok(Opened { node: identity.node, meta, lost_commits: identity.lost, store })
}

/// Makes the directory if there is none, and takes its lock.
fn lock(dir: &Path) -> Result<LockedDir, OpenError> {
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(io_error(dir))?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        identity::sync_directory(parent).map_err(io_error(parent))?;
    }
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(LockedDir { path: dir.to_owned(), _lock: file }),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, OpenError> {
    let path = dir.join(identity::FILE_NAME);
    match Identity::read(dir).map_err(io_error(&path))? {
        None => Ok(None),
        Some(Ok(identity)) => Ok(Some(identity)),
        Some(Err(IdentityError::Damaged)) => Err(OpenError::IdentityDamaged(path)),
        Some(Err(IdentityError::Format(format))) => Err(OpenError::Format { path, format }),
    }
}

/// A new directory, or one whose making was interrupted: the engine first, then the identity.
fn create(
    dir: &Path,
    engine_path: &Path,
    options: &FileOptions,
) -> Result<(Engine, Identity, u64), OpenError> {
    let engine = open_engine(engine_path, options)?;
    if recovered(&engine, engine_path)? > 0 {
        return Err(OpenError::IdentityMissing(dir.join(identity::FILE_NAME)));
    }
    let identity = Identity::new().map_err(io_error(dir))?;
    identity.write(dir).map_err(io_error(dir))?;
    tracing::info!(node = %identity.node, dir = %dir.display(), "a new data directory");
    Ok((engine, identity, 0))
}

/// Opens an engine and finds out whether commits are missing that had been durable.
fn reopen(
    dir: &Path,
    engine_path: &Path,
    mut identity: Identity,
    options: &FileOptions,
) -> Result<(Engine, Identity, u64), OpenError> {
    let watch =
        JournalWatch::before_open(engine_path, identity.node).map_err(io_error(engine_path))?;
    let engine = match try_open_engine(engine_path, options) {
        Err(Refusal { journal_damaged: true, reason })
            if watch.cut_torn_group(identity.mark).map_err(io_error(engine_path))? =>
        {
            tracing::warn!(node = %identity.node, %reason,
                "the last group of commits was torn by a crash, before it was acknowledged");
            open_engine(engine_path, options)?
        }
        opened => opened.map_err(|refusal| refusal.at(engine_path))?,
    };
    let recovered = recovered(&engine, engine_path)?;
    let lost = watch.lost(recovered).map_err(io_error(engine_path))?;
    // What is known to have been durable: commits go on above it, so that a loss cannot be
    // hidden by later commits that take the same numbers.
    let known = identity.mark.max(lost.unwrap_or(0)).max(recovered);
    if known > recovered || lost.is_some() {
        tracing::error!(
            node = %identity.node, holds = recovered, acknowledged = known,
            missing = known.saturating_sub(recovered),
            "acknowledged commits are missing from {}: the node counts as not in sync until it is \
             repaired from the others", engine_path.display()
        );
        identity = report_loss(dir, identity)?;
    } else if identity.lost {
        tracing::warn!(node = %identity.node, "an earlier loss of commits has not been noted yet");
    }
    Ok((engine, identity, known))
}

/// Keeps the loss on disk until the node has taken note of it.
fn report_loss(dir: &Path, identity: Identity) -> Result<Identity, OpenError> {
    let identity = Identity { lost: true, ..identity };
    identity.write(dir).map_err(io_error(dir))?;
    Ok(identity)
}

/// Why the engine does not open.
struct Refusal {
    reason: String,
    /// The journal has a batch that is not what was written.
    journal_damaged: bool,
}

impl Refusal {
    fn at(self, path: &Path) -> OpenError {
        OpenError::Engine { path: path.to_owned(), reason: self.reason }
    }
}

fn open_engine(path: &Path, options: &FileOptions) -> Result<Engine, OpenError> {
    try_open_engine(path, options).map_err(|refusal| refusal.at(path))
}

/// Opens the engine. It panics on some damage; that, too, is a refusal with a reason.
fn try_open_engine(path: &Path, options: &FileOptions) -> Result<Engine, Refusal> {
    match catch_unwind(AssertUnwindSafe(|| Engine::open(path, options))) {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(error)) => Err(Refusal {
            journal_damaged: matches!(error, fjall::Error::JournalRecovery(_)),
            reason: error.to_string(),
        }),
        Err(panic) => {
            Err(Refusal { reason: super::thread::panic_text(&*panic), journal_damaged: false })
        }
    }
}

/// The number of the last commit that the engine holds.
fn recovered(engine: &Engine, path: &Path) -> Result<u64, OpenError> {
    let marker = engine.last_marker().map_err(|error| OpenError::Engine {
        path: path.to_owned(),
        reason: format!("its last commit: {error}"),
    })?;
    Ok(marker.map_or(0, |marker| marker.last))
}

fn read_meta(store: &dyn Store, path: &Path) -> Result<Vec<(Bytes, Bytes)>, OpenError> {
    let damaged = |key: &str| OpenError::MetaDamaged { path: path.to_owned(), key: key.to_owned() };
    let page = match store.reader().scan(&Scan::all(Space::Meta)) {
        Ok(page) if page.more => return Err(damaged("and those after it")),
        Ok(page) => page,
        Err(StoreError::Corrupt) => return Err(damaged("the first")),
        Err(error) => {
            return Err(OpenError::Engine { path: path.to_owned(), reason: error.to_string() });
        }
    };
    let whole = |(key, value): (Bytes, Result<Bytes, StoreError>)| match value {
        Ok(value) => Ok((key, value)),
        Err(_) => Err(damaged(&key.escape_ascii().to_string())),
    };
    page.entries.into_iter().map(whole).collect()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    |source| OpenError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Commit, record};
    use quorate_core::{OpId, Write};

    /// A directory with one sound record in each space, and another with these bytes as stored.
    fn dir_with(space: Space, key: &[u8], stored: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_file(dir.path(), &FileOptions::default()).unwrap().store;
        let value = Some(Bytes::from("sound"));
        let write = |space| Write { space, key: "a".into(), value: value.clone() };
        let commit = Commit { op: OpId(1), writes: Space::ALL.map(write).to_vec() };
        assert_eq!(store.commit(&[commit]), [Ok(())]);
        store.close().unwrap();
        let engine = Engine::open(&dir.path().join("engine"), &FileOptions::default()).unwrap();
        engine.put_raw(space, key, stored);
        dir
    }

    #[test]
    fn the_value_of_another_record_is_corrupt_and_the_rest_goes_on() {
        let stray = record::seal(Space::Objects, b"a", b"sound");
        let dir = dir_with(Space::Objects, b"b", &stray);
        let opened = open_file(dir.path(), &FileOptions::default()).unwrap();
        assert!(!opened.lost_commits);
        let reader = opened.store.reader();
        assert_eq!(reader.read(Space::Objects, b"b"), Err(StoreError::Corrupt));
        let page = reader.scan(&Scan::all(Space::Objects)).unwrap();
        let expected: [(Bytes, _); 2] =
            [("a".into(), Ok("sound".into())), ("b".into(), Err(StoreError::Corrupt))];
        assert_eq!(page.entries, expected);
    }

    #[test]
    fn a_damaged_record_of_the_nodes_standing_is_refused_with_the_way_out() {
        let dir = dir_with(Space::Meta, b"b\x01", b"\x01damaged!");
        let refused = open_file(dir.path(), &FileOptions::default()).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("(b\\x01)") && text.contains("move the data directory away"),
            "{text}"
        );
    }

    #[test]
    fn a_format_of_another_version_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("identity"), identity::of_format(9)).unwrap();
        let refused = open_file(dir.path(), &FileOptions::default()).unwrap_err();
        assert!(matches!(refused, OpenError::Format { format: 9, .. }), "{refused}");
    }
}
