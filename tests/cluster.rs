//! Several nodes as one cluster.

use crate::node::{Node, Start};
use crate::{command, eventually};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

/// Nodes, numbered from zero; the first founded the cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    http: Client,
    dir: TempDir,
}

/// What an answer's receipt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt(String);

impl Cluster {
    /// Founds a cluster of `count` nodes and waits until all are members and ready.
    pub async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = || vec!["--object-bytes-max".to_owned(), "16MiB".to_owned()];
        let start = Start { flags: flags(), env: Vec::new() };
        let mut nodes = vec![Node::new(dir.path(), "n0", start)];
        for n in 1..count {
            let mut start = Start::join(&nodes[0].url);
            start.flags.extend(flags());
            nodes.push(Node::new(dir.path(), &format!("n{n}"), start));
        }
        // No idle connection is kept: its other end may be killed, and a test would see that.
        let http = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let mut cluster = Self { nodes, http, dir };
        cluster.start_all().await;
        cluster
    }

    /// Where the test may keep files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts every node that does not run and waits until the cluster is whole.
    pub async fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.spawn();
        }
        for node in &mut self.nodes {
            node.until_listening().await;
        }
        self.until_whole().await;
    }

    /// Waits until every node knows all members, believes them up, and is ready.
    pub async fn until_whole(&self) {
        self.until_all_up().await;
        for node in &self.nodes {
            node.until("is ready", |view| view["ready"] == true).await;
        }
    }

    /// Waits until every node knows all members and believes them up.
    pub async fn until_all_up(&self) {
        for node in &self.nodes {
            node.until("sees all members up", |view| {
                let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
                let up = |member: &&Value| member["state"] == "up" || member["state"] == "myself";
                members.iter().filter(up).count() == self.nodes.len()
            })
            .await;
        }
    }

    /// `kill -9` for all of these.
    pub async fn kill(&mut self, which: &[usize]) {
        for &n in which {
            self.nodes[n].kill().await;
        }
    }

    /// The URLs of all nodes, for `--node`.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(|node| node.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A `quorate` command that talks to one node.
    pub fn quorate(&self, node: usize, args: &[&str]) -> Command {
        let mut command = command(args);
        command.args(["--node", &self.nodes[node].url]);
        command
    }

    /// A request to one node, e.g. `("PUT", "/buckets/b/keys/k?w=3")`.
    pub async fn ask(
        &self,
        node: usize,
        method: Method,
        target: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> Response {
        let mut request = self.http.request(method, format!("{}{target}", self.nodes[node].url));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        request.body(body.to_owned()).send().await.expect("the node answers")
    }

    /// Reads through one node: status, vclock and body.
    pub async fn get(&self, node: usize, target: &str) -> (StatusCode, Option<String>, String) {
        let answer = self.ask(node, Method::GET, target, &[], "").await;
        let vclock = answer.headers().get("x-riak-vclock");
        let vclock = vclock.map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), vclock, answer.text().await.unwrap())
    }

    /// Writes text through one node.
    pub async fn put(
        &self,
        node: usize,
        target: &str,
        headers: &[(&'static str, &str)],
        value: &str,
    ) -> Response {
        let headers = [&[("content-type", "text/plain")], headers].concat();
        self.ask(node, Method::PUT, target, &headers, value).await
    }

    /// Hints that all nodes keep together; `None` while one does not answer or still counts.
    pub async fn hints(&self) -> Option<u64> {
        let mut sum = 0;
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let view = node.view().await?;
            if view["hints_counted"] != true {
                return None;
            }
            let hints = view["hints"].as_array()?;
            sum += hints.iter().filter_map(|hints| hints["count"].as_u64()).sum::<u64>();
        }
        Some(sum)
    }

    /// Waits until no node that runs keeps a hint.
    pub async fn until_no_hints(&self) {
        eventually("hints are at zero", async || (self.hints().await == Some(0)).then_some(()))
            .await;
    }

    /// Which of the nodes have these ids.
    pub async fn numbers(&self, ids: &[String]) -> Vec<usize> {
        let mut found = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let view = node.view().await.expect("every node answers");
            if ids.iter().any(|id| view["node"] == id.as_str()) {
                found.push(n);
            }
        }
        found
    }
}

impl Receipt {
    /// The receipt of an answer.
    pub fn of(answer: &Response) -> Self {
        let header = answer.headers().get("x-quorate-receipt");
        Self(header.expect("every answer has a receipt").to_str().unwrap().to_owned())
    }

    /// Those who answered in this role (`primary`, `fallback`).
    pub fn answered_as(&self, role: &str) -> Vec<String> {
        let (_, answers) = self.0.split_once("answers=(").expect("a receipt lists answers");
        let (answers, _) = answers.split_once(')').expect("the list ends");
        let mut out = Vec::new();
        for answer in answers.split(' ').filter(|answer| !answer.is_empty()) {
            let mut words = answer.split(';');
            let node = words.next().expect("split gives at least one").trim_matches('"');
            if words.next() == Some(role) {
                out.push(node.to_owned());
            }
        }
        out
    }

    /// Was the write id known already?
    pub fn is_repeated(&self) -> bool {
        self.0.ends_with(", repeated")
    }
}
