//! Whole-system tests: real processes, real files, real sockets. See `tests/tests/`.
//!
//! Invariant: tests wait for conditions, never for time to pass, and every node dies with its test:
//! its standard input is a pipe that closes however the test ends.

#![expect(clippy::unwrap_used, reason = "all of this is test code")]

mod cluster;
mod files;
mod node;

pub use cluster::{Cluster, Receipt};
pub use files::{Tree, compare, copy_dir, make};
pub use node::{Node, Start};

use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A condition that does not come true within this fails the test; slow machines need a while.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// The `quorate` under test: `QUORATE_BIN`, or what was built beside these tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "QUORATE_BIN={} is no file", path.display());
        return path;
    }
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe().expect("a test knows its own file");
    let target = test.ancestors().nth(3).expect("tests are in target/PROFILE/deps");
    let built = ["release", "debug"].map(|profile| target.join(profile).join("quorate"));
    built.iter().find(|path| path.is_file()).cloned().unwrap_or_else(|| {
        panic!(
            "there is no quorate to test: run `cargo build --release -p quorate-node` first, set \
             QUORATE_BIN, or run `cargo xtask test`, which does both"
        )
    })
}

/// What a command of `quorate` printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
}

impl Outcome {
    /// What it printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
    /// Fails the test unless the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// A `quorate` command that does not see the settings of whoever runs the tests.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("QUORATE_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end.
pub async fn run(command: &mut Command) -> Outcome {
    let output = tokio::time::timeout(WAIT_MAX * 3, command.output());
    let output = output.await.expect("the command ends in time").expect("quorate can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Waits until `probe` gives something; `what` is told if it does not.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < WAIT_MAX, "{what}: not within {} s", WAIT_MAX.as_secs());
        tokio::time::sleep(POLL).await;
    }
}
