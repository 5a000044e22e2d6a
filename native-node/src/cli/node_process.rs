//! One node of a development cluster: a child process that is started, watched and stopped.

use super::STOP_WITH_STDIN;
use super::exit::one_line;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// A node that was told to stop and hasn't is killed after this.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
const RESTART_BACKOFF_MIN: Duration = Duration::from_millis(500);
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A node that lived this long was well: the next restart is quick again.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name for people.
    pub name: String,
    /// Its HTTP API.
    pub url: String,
    /// `HOST:PORT`.
    pub listen: String,
    /// Its data directory.
    pub data: PathBuf,
    /// What it prints goes to the end of this file.
    pub log: PathBuf,
    /// The node it joins; `None` founds the cluster.
    pub join: Option<String>,
    /// The largest object.
    pub object_bytes_max: u64,
    /// `quorate`.
    pub binary: PathBuf,
    /// The running process, zero if there is none.
    pub pid: Arc<AtomicU32>,
}

impl NodeSpec {
    /// The process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|&pid| pid != 0)
    }

    fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = vec![
            "serve".into(),
            "--data".into(),
            self.data.display().to_string(),
            "--listen".into(),
            self.listen.clone(),
            "--name".into(),
            self.name.clone(),
            "--object-bytes-max".into(),
            self.object_bytes_max.to_string(),
        ];
        if let Some(join) = &self.join {
            args.extend(["--join".into(), join.clone()]);
        }
        args
    }

    /// The command line, to be pasted into a shell.
    pub fn command_line(&self) -> String {
        let words = std::iter::once(self.binary.display().to_string()).chain(self.args());
        words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(self.args())
            // The write end lives in this process: however it ends, the node notices.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        // Settings of a single node would make each of these the same one.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("QUORATE_") && n != "QUORATE_LOG") {
                command.env_remove(name);
            }
        }
        command.env(STOP_WITH_STDIN, "1");
        // Ctrl-C in the terminal is for `dev`, which stops its nodes in an orderly way.
        command.process_group(0);
        command.spawn()
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        one_line(last.unwrap_or("it said nothing"))
    }
}

/// Keeps one node running, or tells that it doesn't.
#[derive(Debug)]
pub struct NodeProcess {
    spec: NodeSpec,
    restart: bool,
    tell: mpsc::UnboundedSender<String>,
    stop: watch::Receiver<bool>,
}

impl NodeProcess {
    /// Nothing is started yet. `stop` becomes true when it is time to stop.
    pub fn new(
        spec: NodeSpec,
        restart: bool,
        tell: mpsc::UnboundedSender<String>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { spec, restart, tell, stop }
    }

    /// Runs the node until it is told to stop, or it dies and isn't restarted.
    pub async fn keep(mut self) {
        let mut backoff = RESTART_BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let status = match self.spec.spawn() {
                Err(error) => {
                    self.say(format!("{} cannot be started: {error}", self.spec.name));
                    None
                }
                Ok(child) => {
                    let Some(status) = self.watch(child).await else { return };
                    Some(status)
                }
            };
            if let Some(status) = status {
                self.say(self.obituary(status));
            }
            if !self.restart {
                // The channel stays open, so that `dev` goes on with no node left to speak of only
                // when all have ended.
                return;
            }
            if started.elapsed() > WELL_AFTER {
                backoff = RESTART_BACKOFF_MIN;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(RESTART_BACKOFF_MAX),
                _ = self.stop.wait_for(|&stop| stop) => return,
            }
        }
    }

    /// Waits for the process's end; `None` if it was stopped on request.
    async fn watch(&mut self, mut child: Child) -> Option<std::io::Result<ExitStatus>> {
        self.spec.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        // Held until the end: its closing is a second signal to stop, and would cut the first short.
        let pipe = child.stdin.take();
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            _ = self.stop.wait_for(|&stop| stop) => None,
        };
        if ended.is_none() {
            terminate(&child);
            if tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_err() {
                let seconds = STOP_TIME_MAX.as_secs();
                self.say(format!("{} did not stop within {seconds} s: killed", self.spec.name));
                // It may have ended at this very moment; then there is nothing to kill.
                child.kill().await.ok();
            }
        }
        drop(pipe);
        self.spec.pid.store(0, Ordering::Relaxed);
        ended
    }

    fn obituary(&self, status: std::io::Result<ExitStatus>) -> String {
        let name = &self.spec.name;
        let how =
            status.map_or_else(|e| format!("ended: {e}"), |status| format!("ended: {status}"));
        if self.restart {
            return format!("{name} {how}; starting it again");
        }
        let (last, command) = (self.spec.last_words(), self.spec.command_line());
        format!("{name} {how}; its last words: {last}\n  start it again with: {command}")
    }

    fn say(&self, text: String) {
        // Nobody listens any more once `dev` is stopping.
        self.tell.send(text).ok();
    }
}

fn terminate(child: &Child) {
    use nix::sys::signal::{Signal, kill};
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        // It may have ended at this very moment; then there is nothing to stop.
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--data=/tmp/x"), "--data=/tmp/x");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
