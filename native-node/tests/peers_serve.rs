//! `quorate serve` as a process: its one ready line, its signals, its errors and exit codes.
#![allow(clippy::unwrap_used, reason = "a test and its helpers")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node as a process, killed when it is dropped.
struct Node {
    process: Child,
    base: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn quorate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.arg("serve").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a node and waits for its ready line.
fn start(args: &[&str]) -> Node {
    let mut process = quorate(args).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    let ["quorate:", "node", id, "listening", "on", base] = words[..] else {
        panic!("not a ready line: {line:?}")
    };
    assert_eq!(id.len(), 16);
    Node { base: base.to_owned(), process }
}

fn dir(parent: &Path, name: &str) -> String {
    parent.join(name).to_str().unwrap().to_owned()
}

/// What a node that does not start says, and its exit code.
fn refusal(args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = quorate(args).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    let last = stderr.lines().last().unwrap_or_default().to_owned();
    (status.code().unwrap(), last)
}

impl Node {
    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
    fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the process ends in time");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    async fn members(&self) -> usize {
        let answer = reqwest::get(format!("{}/cluster", self.base)).await.unwrap();
        let view: serde_json::Value = answer.json().await.unwrap();
        view["members"].as_array().unwrap().len()
    }
    async fn put(&self, key: &str, value: &str) -> u16 {
        let url = format!("{}/buckets/b/keys/{key}", self.base);
        let put = reqwest::Client::new().put(url).header("content-type", "text/plain");
        put.body(value.to_owned()).send().await.unwrap().status().as_u16()
    }
    /// As `get`, but a node that has just started may say for a while that it is not ready.
    async fn get_when_ready(&self, key: &str) -> (u16, String) {
        let start = Instant::now();
        loop {
            let found = self.get(key).await;
            if found.0 < 500 {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "the node is ready in time: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    async fn get(&self, key: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}/buckets/b/keys/{key}", self.base)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

async fn until_members(nodes: &[&Node], count: usize) {
    let start = Instant::now();
    for node in nodes {
        while node.members().await != count {
            assert!(start.elapsed() < PATIENCE, "{count} members in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn three_nodes_form_a_cluster_and_keep_what_was_written_through_kills() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = ["a", "b", "c"].map(|name| dir(temp.path(), name));
    let a = start(&["--data", &dirs[0], "--listen", "127.0.0.1:0", "--partitions", "16"]);
    let join = ["--listen", "127.0.0.1:0", "--join", &a.base];
    let b = start(&[&["--data", &dirs[1]], &join[..]].concat());
    let c = start(&[&["--data", &dirs[2]], &join[..]].concat());
    until_members(&[&a, &b, &c], 3).await;
    assert_eq!(a.put("k", "one").await, 204);
    assert_eq!(b.get("k").await, (200, "one".into()));

    // One is killed; the others go on, and so does it when it is started again where it was.
    let listen = b.base.strip_prefix("http://").unwrap().to_owned();
    drop(b);
    for n in 0..20 {
        assert_eq!(c.put(&format!("k{n}"), "two").await, 204);
    }
    let b = start(&["--data", &dirs[1], "--listen", &listen]);
    until_members(&[&b], 3).await;
    assert_eq!(b.get_when_ready("k19").await, (200, "two".into()));

    // All are killed at once: what was acknowledged is on their disks.
    let bases = [&a, &b, &c].map(|node| node.base.strip_prefix("http://").unwrap().to_owned());
    drop((a, b, c));
    let again: Vec<_> = std::iter::zip(&dirs, &bases)
        .map(|(dir, listen)| start(&["--data", dir, "--listen", listen]))
        .collect();
    assert_eq!(again[0].get_when_ready("k").await, (200, "one".into()));
    for n in 0..20 {
        let found = again[n % 3].get_when_ready(&format!("k{n}")).await;
        assert_eq!(found, (200, "two".into()));
    }
}

#[tokio::test]
async fn a_signal_ends_the_node_in_order_and_the_store_is_free_again() {
    let temp = tempfile::tempdir().unwrap();
    let data = dir(temp.path(), "a");
    for signal in ["-TERM", "-INT"] {
        let mut node = start(&["--data", &data, "--listen", "127.0.0.1:0"]);
        assert_eq!(node.members().await, 1);
        node.signal(signal);
        assert_eq!(node.exit_code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_node_at_once() {
    let mut node = start(&["--memory", "--listen", "127.0.0.1:0"]);
    // A request whose body never ends keeps the first signal waiting.
    let address = node.base.strip_prefix("http://").unwrap().to_owned();
    let mut open = std::net::TcpStream::connect(address).unwrap();
    let head = "PUT /buckets/b/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
        Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    std::io::Write::write_all(&mut open, head.as_bytes()).unwrap();
    let mut go_on = [0; 12];
    open.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100");
    node.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.process.try_wait().unwrap().is_none(), "the request is waited for");
    node.signal("-TERM");
    assert_eq!(node.exit_code(), Some(128 + 15));
}

#[test]
fn what_keeps_a_node_from_starting_is_one_line_and_an_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let data = dir(temp.path(), "a");
    let node = start(&["--data", &data, "--listen", "127.0.0.1:0"]);
    let taken = node.base.strip_prefix("http://").unwrap();
    let config = dir(temp.path(), "quorate.toml");
    std::fs::write(&config, "memory = true\nlissten = 'x'\n").unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--memory", "--listen", taken], 1, "is in use"),
        (&["--data", &data, "--listen", "127.0.0.1:0"], 1, "in use by another process"),
        (&["--memory", "--listen", "0.0.0.0:8098"], 2, "needs a cluster secret and TLS"),
        (&["--listen", "127.0.0.1:0"], 2, "--data DIR"),
        (&["--config", &config], 2, "quorate.toml:2: unknown field `lissten`"),
        (&["--memory", "--log", "loud=="], 2, "log=loud=="),
        (&["--memory", "--partitions", "100"], 2, "power of two"),
    ];
    for (args, code, text) in cases {
        let (found, line) = refusal(args);
        assert!(found == code && line.contains(text), "{args:?} ends with {found}: {line}");
    }
}

#[tokio::test]
async fn flags_beat_variables_and_variables_beat_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let config = dir(temp.path(), "quorate.toml");
    let text = "memory = true\nname = 'file'\nzone = 'file'\nweight = 3\nlisten = '127.0.0.1:0'\n";
    std::fs::write(&config, text).unwrap();
    let mut command = quorate(&["--name", "flag"]);
    command.env("QUORATE_CONFIG", &config).env("QUORATE_NAME", "variable");
    command.env("QUORATE_ZONE", "variable").stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let node = Node { base: line.split_whitespace().last().unwrap().to_owned(), process };
    let answer = reqwest::get(format!("{}/cluster", node.base)).await.unwrap();
    let view: serde_json::Value = answer.json().await.unwrap();
    let member = &view["members"][0];
    assert_eq!((&member["name"], &member["zone"]), (&"flag".into(), &"variable".into()));
    assert_eq!(member["weight"], 3);
    assert_eq!(member["addresses"][0], node.base.as_str());
}
