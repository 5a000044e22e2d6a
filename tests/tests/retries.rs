//! How commands behave towards nodes that fail: against servers that do nothing but that.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use quorate_tests::{Cluster, command, run};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that answers every request alike (`None`: it breaks off) and keeps what it was asked.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).await.unwrap();
                    request.extend_from_slice(&part[..read]);
                    if read == 0 {
                        break;
                    }
                }
                keep.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                if let Some(answer) = answer {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot\nready";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
const TEAPOT: &str =
    "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwhy?";

fn write_id(request: &str) -> Option<&str> {
    request.lines().find_map(|line| line.strip_prefix("x-quorate-write-id: "))
}

#[tokio::test]
async fn a_retry_goes_to_another_node_under_the_same_write_id() {
    for failing in [None, Some(UNAVAILABLE)] {
        let (bad, good) = (Fake::start(failing).await, Fake::start(Some(NO_CONTENT)).await);
        let nodes = format!("{},{}", bad.url, good.url);
        run(command(["put", "b", "k", "--value", "v"]).env("QUORATE_NODE", nodes)).await.ok();
        let (first, second) = (bad.asked(), good.asked());
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!(write_id(&first[0]).is_some_and(|id| id.len() == 32), "{first:?}");
        assert_eq!(write_id(&first[0]), write_id(&second[0]));
    }
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_told_with_its_id_on_one_line() {
    let bad = Fake::start(None).await;
    let put = ["put", "b", "k", "--value", "v", "--write-id", "order-17", "--node", &bad.url];
    let outcome = run(&mut command(put)).await;
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains("--write-id order-17"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    let unavailable = Fake::start(Some(UNAVAILABLE)).await;
    let outcome = run(&mut command(["get", "b", "k", "--node", &unavailable.url])).await;
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert_eq!(outcome.stderr, "quorate: get b/k: not ready\n");
}

#[tokio::test]
async fn a_refusal_is_not_asked_of_another_node() {
    let (first, second) = (Fake::start(Some(TEAPOT)).await, Fake::start(Some(NO_CONTENT)).await);
    let nodes = format!("{},{}", first.url, second.url);
    let outcome = run(&mut command(["put", "b", "k", "--value", "v", "--node", &nodes])).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), "quorate: put b/k: why?\n"));
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn a_wrong_command_line_is_told_before_any_node_is_asked() {
    let node = Fake::start(Some(NO_CONTENT)).await;
    for args in [&["put", "b", "k"][..], &["get", "b", ".."], &["get", "", "k"], &["fetch"]] {
        let outcome = run(command(args).env("QUORATE_NODE", &node.url)).await;
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
    }
    assert!(node.asked().is_empty());
}

/// `quorate status --json | head -1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_read_enough_is_no_failure() {
    let cluster = Cluster::start(1).await;
    for args in [&["status"][..], &["status", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut status = cluster.quorate(0, args);
        // `output` would take stdout for itself.
        let child = status.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(status);
        let output = child.wait_with_output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{:?}: {told}", output.status);
    }
}
