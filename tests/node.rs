//! One node: a process that is started, killed and started again with the same disk and port.

use crate::{WAIT_MAX, command, eventually};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::process::Child;

/// How a node is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// More flags for `quorate serve`.
    pub flags: Vec<String>,
    /// Its environment.
    pub env: Vec<(&'static str, String)>,
}

impl Start {
    /// Joins the cluster of the node at `url`.
    pub fn join(url: &str) -> Self {
        Self { flags: vec!["--join".into(), url.into()], env: Vec::new() }
    }
}

/// A node and its disk.
#[derive(Debug)]
pub struct Node {
    /// Its HTTP API.
    pub url: String,
    /// Its data directory.
    pub data: PathBuf,
    port: u16,
    log: PathBuf,
    start: Start,
    child: Option<Child>,
}

impl Node {
    /// A node with its files below `dir`; it is not started yet.
    pub fn new(dir: &Path, name: &str, start: Start) -> Self {
        let port = free_port();
        Self {
            url: format!("http://127.0.0.1:{port}"),
            data: dir.join(name),
            port,
            log: dir.join(format!("{name}.log")),
            start,
            child: None,
        }
    }

    /// How it is started the next time.
    pub fn set_start(&mut self, start: Start) {
        self.start = start;
    }

    /// Starts the process; it may not listen yet.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.url);
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = command(["serve"]);
        command
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.start.flags)
            .envs(self.start.env.iter().cloned())
            .env("QUORATE_STOP_WITH_STDIN", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().expect("quorate can be run"));
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) {
        self.spawn();
        self.until_listening().await;
    }

    /// Waits until it answers; fails at once if the process has ended.
    pub async fn until_listening(&mut self) {
        let log = self.log.clone();
        let url = format!("{}/ping", self.url);
        let child = self.child.as_mut().expect("it was started");
        eventually(&format!("{url} answers"), async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the node ended with {status}:\n{}", read(&log));
            }
            reqwest::get(&url).await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
    }

    /// `kill -9`, and the process is gone.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("a child can be killed");
    }

    /// SIGTERM, and how the process ended.
    pub async fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let pid = child.id().expect("it was not waited for").to_string();
        // The shell has its own `kill`; std has only SIGKILL.
        let sent =
            std::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status();
        assert!(sent.unwrap().success(), "SIGTERM could not be sent");
        // Waiting would close the pipe, which is a second signal to stop and cuts the first short.
        let pipe = child.stdin.take();
        let ended = tokio::time::timeout(WAIT_MAX, child.wait()).await;
        drop(pipe);
        ended.expect("it stops in time").unwrap().code()
    }

    /// Does it run?
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Its view of the cluster; `None` if it does not answer.
    pub async fn view(&self) -> Option<Value> {
        let answer = reqwest::get(format!("{}/cluster", self.url)).await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// Waits until its view is as wanted.
    pub async fn until(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        eventually(&format!("{}: {what}", self.url), async || {
            self.view().await.filter(|view| wanted(view))
        })
        .await
    }

    /// Waits until its log holds `text`.
    pub async fn until_logged(&self, text: &str) {
        eventually(&format!("{} logs {text:?}", self.url), async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

/// A port below the range from which the system takes those of outgoing connections: one of these
/// could take the place of a node that is down for a moment.
fn free_port() -> u16 {
    const FROM: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes begin at different places.
    let begin = (std::process::id() % 180) as u16 * 100;
    (0..COUNT)
        .map(|_| FROM + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("some port is free")
}
