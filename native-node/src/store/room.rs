//! Whether there is room for another commit.
//!
//! The engine cannot go on after it has hit the end of the disk, so the store refuses commits
//! while there is still a reserve for the engine's own housekeeping, and takes them again as soon
//! as there is more. Removals are always taken: they make room.

use quorate_core::StoreError;
use std::time::{Duration, Instant};

/// How full the disk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// What the engine's files take.
    pub used_bytes: u64,
    /// What the file system has left for us.
    pub free_bytes: u64,
}

/// Bounds of the usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The engine's files may take this much.
    pub used_bytes_max: u64,
    /// The file system keeps at least this much free.
    pub free_bytes_min: u64,
}

/// The usage is looked up again after this time, or after this many bytes have been written.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_BYTES: u64 = 16 << 20;

/// A committed byte is written to the journal and, later, to a table.
const COPIES: u64 = 2;

/// Admits commits.
pub(super) struct Room {
    bounds: Bounds,
    usage: Usage,
    probed: Option<Instant>,
    written_bytes: u64,
}

impl Room {
    pub fn new(bounds: Bounds) -> Self {
        let usage = Usage { used_bytes: 0, free_bytes: u64::MAX };
        Self { bounds, usage, probed: None, written_bytes: 0 }
    }

    /// May a commit of this many bytes go in? Looks the usage up when what is known is old.
    pub fn admit(
        &mut self,
        bytes: u64,
        only_removes: bool,
        probe: impl FnOnce() -> Result<Usage, StoreError>,
    ) -> Result<(), StoreError> {
        let old = self.probed.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL);
        if old || self.written_bytes >= PROBE_BYTES {
            self.usage = probe()?;
            self.probed = Some(Instant::now());
            self.written_bytes = 0;
        }
        let grown = COPIES.saturating_mul(self.written_bytes.saturating_add(bytes));
        let used = self.usage.used_bytes.saturating_add(grown);
        let free = self.usage.free_bytes.saturating_sub(grown);
        let fits = used <= self.bounds.used_bytes_max && free >= self.bounds.free_bytes_min;
        if !fits && !only_removes {
            return Err(StoreError::Full);
        }
        self.written_bytes = self.written_bytes.saturating_add(bytes);
        Ok(())
    }

    /// Is the file system's reserve used up, by the newest usage?
    pub fn is_out(&self, usage: Usage) -> bool {
        usage.free_bytes < self.bounds.free_bytes_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { used_bytes_max: 1_000, free_bytes_min: 100 };

    fn admit(room: &mut Room, bytes: u64, used_bytes: u64, free_bytes: u64) -> bool {
        room.probed = None;
        room.admit(bytes, false, || Ok(Usage { used_bytes, free_bytes })).is_ok()
    }

    #[test]
    fn commits_are_refused_at_either_bound_and_taken_again_when_there_is_room() {
        let mut room = Room::new(BOUNDS);
        assert!(admit(&mut room, 10, 0, 10_000));
        assert!(!admit(&mut room, 10, 990, 10_000), "the configured maximum");
        assert!(admit(&mut room, 10, 500, 10_000));
        assert!(!admit(&mut room, 10, 0, 110), "the reserve of the file system");
        assert!(admit(&mut room, 10, 0, 200));
    }

    #[test]
    fn a_removal_is_taken_without_room() {
        let mut room = Room::new(BOUNDS);
        let usage = || Ok(Usage { used_bytes: 5_000, free_bytes: 0 });
        assert_eq!(room.admit(1, false, usage), Err(StoreError::Full));
        assert_eq!(room.admit(1, true, usage), Ok(()));
    }

    #[test]
    fn what_was_written_since_the_last_look_counts() {
        let mut room = Room::new(BOUNDS);
        let mut looks = 0;
        let taken = (0..1_000)
            .take_while(|_| {
                let looked = || {
                    looks += 1;
                    Ok(Usage { used_bytes: 0, free_bytes: 10_000 })
                };
                room.admit(10, false, looked).is_ok()
            })
            .count();
        assert_eq!((taken, looks), (50, 1));
    }
}
