//! Finds acknowledged commits that the engine dropped without a word.
//!
//! When the engine opens, it cuts its journal at the first byte that it cannot parse, and cannot
//! tell a torn tail (nobody was answered) from damage in the middle (fjall issue 311). So every
//! group of commits carries a [`Marker`] that can be found in the raw bytes. Before the engine opens,
//! [`JournalWatch`] notes where markers lie; afterwards it looks at what was cut off:
//! - in a sealed journal everything had been synced, so a marker that was cut off is a loss;
//! - in the active one the next group may be torn, but a group after the next was only
//!   written once the next had been synced, so its marker in the part cut off is a loss as well.
//!
//! The engine refuses to open when the last group reached the disk only in part and its end is there
//! but not its middle, as a power cut can leave it. Nobody was answered for that group either;
//! [`JournalWatch::cut_torn_group`] takes it out.
//!
//! What is left undetected is damage within the very last group, and if the high-water mark covers
//! it (after a clean stop it does), that shows too.

use super::record::first_bytes;
use quorate_core::NodeId;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

/// Names a group of commits: stored with it, and found again in the raw journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// Whose commits.
    pub node: NodeId,
    /// The number of the group's first commit; commits count up from one for the life of a disk.
    pub first: u64,
    /// The number of its last commit.
    pub last: u64,
}

/// Begins a marker. The first byte occurs in no UTF-8 text, which makes the search quick.
const MAGIC: [u8; 16] = *b"\xf9quorate-commits";
const MARKER_BYTES: usize = 16 + 3 * 8 + 8;

/// How the engine ends a batch in its journal: a tag, a checksum, this trailer.
const TRAILER: [u8; 4] = *b"FJL\x03";
const BATCH_END_BYTES: usize = 1 + 8 + TRAILER.len();

impl Marker {
    pub fn encode(self) -> [u8; MARKER_BYTES] {
        let mut bytes = [0; MARKER_BYTES];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..24].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.last.to_be_bytes());
        let check = first_bytes(Sha256::new_with_prefix(&bytes[..40]));
        bytes[40..].copy_from_slice(&check);
        bytes
    }

    /// The marker in these bytes, if they are one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().expect("the slice has 8 bytes"))
        };
        let sound = bytes.len() == MARKER_BYTES
            && bytes[..16] == MAGIC
            && bytes[40..] == first_bytes(Sha256::new_with_prefix(&bytes[..40]));
        sound.then(|| Self { node: NodeId(word(16)), first: word(24), last: word(32) })
    }
}

/// The journals as they were before the engine opened.
#[derive(Debug)]
pub(super) struct JournalWatch {
    node: NodeId,
    journals: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Kept open: its length tells what was cut off even if the engine deletes the file meanwhile.
    file: File,
    active: bool,
    /// Each with the offset behind it.
    markers: Vec<(u64, Marker)>,
}

impl JournalWatch {
    /// Notes the markers of this node in all journals of the engine in `engine`.
    pub fn before_open(engine: &Path, node: NodeId) -> io::Result<Self> {
        let mut numbered = Vec::new();
        for entry in std::fs::read_dir(engine)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl"));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                numbered.push((number, path));
            }
        }
        numbered.sort();
        let newest = numbered.last().map(|&(number, _)| number);
        let journals = numbered
            .into_iter()
            .map(|(number, path)| {
                let mut file = File::open(&path)?;
                let mut markers = find_markers(&mut file)?;
                markers.retain(|(_, marker)| marker.node == node);
                Ok(Watched { path, file, active: Some(number) == newest, markers })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { node, journals })
    }

    /// Cuts the last group off the active journal, unless it is known to have been durable: the
    /// high-water mark covers it. Says whether it has.
    pub fn cut_torn_group(&self, mark: u64) -> io::Result<bool> {
        let Some(active) = self.journals.iter().find(|journal| journal.active) else {
            return Ok(false);
        };
        let [.., (whole_end, whole), (_, torn)] = active.markers[..] else { return Ok(false) };
        if torn.last <= mark || torn.first != whole.last + 1 {
            return Ok(false);
        }
        // The marker is the last record of its batch; what follows is the end of the batch.
        let mut file = File::options().read(true).write(true).open(&active.path)?;
        let mut batch_end = [0; BATCH_END_BYTES];
        file.seek(io::SeekFrom::Start(whole_end))?;
        file.read_exact(&mut batch_end)?;
        if batch_end[BATCH_END_BYTES - TRAILER.len()..] != TRAILER {
            return Ok(false);
        }
        file.set_len(whole_end + BATCH_END_BYTES as u64)?;
        file.sync_all()?;
        Ok(true)
    }

    /// The last commit known to be lost, if any, now that the engine has opened and holds
    /// everything up to `recovered` (or so it says).
    pub fn lost(&self, recovered: u64) -> io::Result<Option<u64>> {
        let mut lost = None;
        for journal in &self.journals {
            let kept_bytes = journal.file.metadata()?.len();
            let cut = journal.markers.iter().filter(|(end, _)| *end > kept_bytes);
            let proof = cut
                .map(|(_, marker)| marker)
                .filter(|marker| !journal.active || marker.first > recovered + 1);
            lost = lost.max(proof.map(|marker| marker.last).max());
        }
        tracing::debug!(node = %self.node, journals = self.journals.len(), ?lost, "journals compared");
        Ok(lost)
    }
}

/// Every sound marker in a file, with the offset behind it.
fn find_markers(file: &mut File) -> io::Result<Vec<(u64, Marker)>> {
    const CHUNK_BYTES: usize = 1 << 20;
    let mut found = Vec::new();
    let mut window: Vec<u8> = Vec::with_capacity(CHUNK_BYTES + MARKER_BYTES);
    let mut window_at = 0;
    loop {
        let read = file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut window)?;
        let mut at = 0;
        while let Some(step) = window[at..].iter().position(|&byte| byte == MAGIC[0]) {
            at += step;
            let Some(candidate) = window.get(at..at + MARKER_BYTES) else { break };
            if let Some(marker) = Marker::decode(candidate) {
                found.push((window_at + (at + MARKER_BYTES) as u64, marker));
            }
            at += 1;
        }
        if read == 0 {
            return Ok(found);
        }
        // What may be the beginning of a marker stays for the next round.
        let done = window.len().saturating_sub(MARKER_BYTES - 1);
        window.drain(..done);
        window_at += done as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn marker(first: u64, last: u64) -> Marker {
        Marker { node: NodeId(7), first, last }
    }

    #[test]
    fn a_marker_reads_back_and_a_damaged_one_does_not() {
        let bytes = marker(3, 9).encode();
        assert_eq!(Marker::decode(&bytes), Some(marker(3, 9)));
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(Marker::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Marker::decode(&bytes[1..]), None);
        assert_eq!(Marker::decode(b""), None);
    }

    #[test]
    fn markers_are_found_at_any_offset_even_across_chunks() {
        let mut file = tempfile::tempfile().unwrap();
        let mut expected = Vec::new();
        let mut at = 0;
        for n in 0..3_000 {
            let filler = vec![0xf9; 700 + (n as usize % 13)];
            file.write_all(&filler).unwrap();
            file.write_all(&marker(n, n).encode()).unwrap();
            at += (filler.len() + MARKER_BYTES) as u64;
            expected.push((at, marker(n, n)));
        }
        file.rewind().unwrap();
        assert_eq!(find_markers(&mut file).unwrap(), expected);
    }

    /// A journal of groups of two commits; each marker ends at a multiple of 100.
    fn journal(dir: &Path, name: &str, groups: std::ops::Range<u64>) {
        let mut bytes = Vec::new();
        for group in groups {
            bytes.resize(bytes.len() + 100 - MARKER_BYTES, 0);
            bytes.extend(marker(2 * group + 1, 2 * group + 2).encode());
        }
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    fn cut(dir: &Path, name: &str, bytes: u64) {
        File::options().write(true).open(dir.join(name)).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn a_torn_tail_is_no_loss_and_a_cut_in_the_middle_is() {
        for (kept_bytes, recovered, lost) in
            [(500, 10, None), (450, 8, None), (399, 6, Some(10)), (0, 0, Some(10))]
        {
            let dir = tempfile::tempdir().unwrap();
            journal(dir.path(), "3.jnl", 0..5);
            let watch = JournalWatch::before_open(dir.path(), NodeId(7)).unwrap();
            cut(dir.path(), "3.jnl", kept_bytes);
            assert_eq!(watch.lost(recovered).unwrap(), lost, "{kept_bytes} bytes kept");
        }
    }

    #[test]
    fn any_cut_in_a_sealed_journal_is_a_loss_even_once_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        journal(dir.path(), "9.jnl", 0..5);
        journal(dir.path(), "10.jnl", 5..6);
        let watch = JournalWatch::before_open(dir.path(), NodeId(7)).unwrap();
        cut(dir.path(), "9.jnl", 400);
        std::fs::remove_file(dir.path().join("9.jnl")).unwrap();
        assert_eq!(watch.lost(12).unwrap(), Some(10));
    }

    #[test]
    fn markers_of_another_node_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        journal(dir.path(), "0.jnl", 0..5);
        let watch = JournalWatch::before_open(dir.path(), NodeId(8)).unwrap();
        cut(dir.path(), "0.jnl", 0);
        assert_eq!(watch.lost(0).unwrap(), None);
    }
}
