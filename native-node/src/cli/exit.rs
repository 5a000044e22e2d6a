//! How a command ends: one line on stderr and an exit code that a script can act on.
//!
//! Invariant: exit code 4 is the only one that leaves open whether a write happened.

use std::process::ExitCode;

/// The table that `--help` shows.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, and it will fail again: the message says what to change
  2  the command line is wrong
  3  not found (never written, or deleted)
  4  unavailable or timed out: a write may have happened; its write id makes a retry harmless
  5  siblings or a conflict: the object has several values, or is not what was expected";

/// Why a command did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It will fail again in the same way.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// Too few nodes answered, or none in time; a write may have happened.
    Unavailable = 4,
    /// The object has several values, or is not what was expected.
    Conflict = 5,
}

/// An error as a command shows it: what was wrong and what to do, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// What was wrong and what to do.
    pub message: String,
}

impl CliError {
    /// An error with this exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
    /// An error that will come again.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    /// A file or folder that could not be used.
    pub fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(format!("cannot {what} {}: {error}", path.display()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Puts a text that may hold line breaks or control characters on one line.
pub fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_always_one_line() {
        assert_eq!(one_line("a\n\tb\u{1b}[1m  c\r\n"), "a b [1m c");
        assert_eq!(one_line(""), "");
    }
}
