//! The node's own small file: who it is, and how much it must hold at least.
//!
//! The high-water mark is a number of commits that were durable once. It is advanced now and then,
//! and never lowered; an engine that opens with fewer has lost acknowledged commits. Once that has
//! been noticed, `lost` says so until the node has durably taken note.

use super::record::first_bytes;
use quorate_core::NodeId;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The format of the data directory. Another version is refused.
const FORMAT: u32 = 1;

/// The file's name in the data directory.
pub(super) const FILE_NAME: &str = "identity";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Who this node is.
    pub node: NodeId,
    /// So many commits were durable.
    pub mark: u64,
    /// Acknowledged commits are missing, and the node has not taken note yet.
    pub lost: bool,
}

/// Why the file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IdentityError {
    /// It was written by another version of Quorate.
    Format(u32),
    /// It is not what was written.
    Damaged,
}

impl Identity {
    /// A new node: 64 random bits.
    pub fn new() -> io::Result<Self> {
        let node = NodeId(getrandom::u64().map_err(io::Error::from)?);
        Ok(Self { node, mark: 0, lost: false })
    }

    /// Reads the file in `dir`; `None` if there is none.
    pub fn read(dir: &Path) -> io::Result<Option<Result<Self, IdentityError>>> {
        match std::fs::read(dir.join(FILE_NAME)) {
            Ok(bytes) => Ok(Some(
                std::str::from_utf8(&bytes)
                    .map_err(|_| IdentityError::Damaged)
                    .and_then(str::parse),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in `dir`: a crash leaves the old one or the new one.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let temporary: PathBuf = dir.join(format!("{FILE_NAME}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, dir.join(FILE_NAME))?;
        sync_directory(dir)
    }

    fn to_text(self) -> String {
        let Self { node, mark, lost } = self;
        let text = format!("quorate-data {FORMAT}\nnode {node}\nmark {mark}\nlost {lost}\n");
        format!("{text}check {}\n", check(&text))
    }
}

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (body, end) = text.rsplit_once("check ").ok_or(IdentityError::Damaged)?;
        if end != format!("{}\n", check(body)) {
            return Err(IdentityError::Damaged);
        }
        let mut lines = body.lines();
        let format = field(lines.next(), "quorate-data ")?;
        if format != FORMAT {
            return Err(IdentityError::Format(format));
        }
        Ok(Self {
            node: field(lines.next(), "node ")?,
            mark: field(lines.next(), "mark ")?,
            lost: field(lines.next(), "lost ")?,
        })
    }
}

fn field<T: FromStr>(line: Option<&str>, name: &str) -> Result<T, IdentityError> {
    let value = line.and_then(|line| line.strip_prefix(name)).ok_or(IdentityError::Damaged)?;
    value.parse().map_err(|_| IdentityError::Damaged)
}

fn check(text: &str) -> String {
    format!("{:016x}", u64::from_be_bytes(first_bytes(Sha256::new_with_prefix(text))))
}

/// Makes names created or replaced in `dir` durable. (Windows has no such call and needs none.)
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    if cfg!(windows) { Ok(()) } else { File::open(dir)?.sync_all() }
}

/// A file that another version might write.
#[cfg(test)]
pub(super) fn of_format(format: u32) -> String {
    let body = format!("quorate-data {format}\nsomething else\n");
    format!("{body}check {}\n", check(&body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { node: NodeId(0xab), mark: 12, lost: true };

    #[test]
    fn the_file_reads_back_what_was_written_and_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        IDENTITY.write(dir.path()).unwrap();
        let next = Identity { mark: 13, lost: false, ..IDENTITY };
        next.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(Ok(next)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn any_flipped_bit_or_missing_byte_is_noticed() {
        let text = IDENTITY.to_text();
        assert_eq!(text.parse(), Ok(IDENTITY));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let parsed =
                std::str::from_utf8(&bytes).map_or(Err(IdentityError::Damaged), str::parse);
            assert_eq!(parsed, Err::<Identity, _>(IdentityError::Damaged), "bit {bit}");
        }
        for len in 0..text.len() {
            assert_eq!(text[..len].parse::<Identity>(), Err(IdentityError::Damaged), "{len} bytes");
        }
    }

    #[test]
    fn another_format_is_told_apart_from_damage() {
        assert_eq!(of_format(2).parse::<Identity>(), Err(IdentityError::Format(2)));
    }

    #[test]
    fn two_new_nodes_are_not_the_same() {
        assert_ne!(Identity::new().unwrap().node, Identity::new().unwrap().node);
    }
}
