//! The HTTP client of the commands: several nodes, retries that move on to another one.
//!
//! Invariant: a request is repeated only as it was. Every write carries a write id, so a repeated
//! one adds nothing (the protocol's "write ids make retries harmless").

use super::exit::{CliError, Exit, one_line};
use super::views::ClusterView;
use bytes::Bytes;
use clap::Args;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The write's name, which makes its retries harmless.
pub const WRITE_ID: HeaderName = HeaderName::from_static("x-quorate-write-id");
/// The context of a read, to be given back with the write that follows it.
pub const VCLOCK: HeaderName = HeaderName::from_static("x-riak-vclock");
/// Who answered, primary or fallback, durable or not.
pub const RECEIPT: HeaderName = HeaderName::from_static("x-quorate-receipt");
/// Present on the 404 of a deleted object.
pub const DELETED: HeaderName = HeaderName::from_static("x-riak-deleted");
/// The SHA-256 of the body, kept by `import` so that a second run can skip what is stored.
pub const SHA256: HeaderName = HeaderName::from_static("x-riak-meta-quorate-sha256");

/// Nodes wait this long for a decision by themselves; the client waits a little longer for them.
const SERVER_GRACE: Duration = Duration::from_secs(5);
/// A node that could not be reached is left alone for this long while others can be asked.
const COOLDOWN: Duration = Duration::from_millis(500);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which nodes a command talks to.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// A node to talk to. Repeat it, or separate several with commas: retries go to another one
    #[arg(
        long = "node",
        value_name = "URL",
        env = "QUORATE_NODE",
        default_value = "http://127.0.0.1:8098",
        value_delimiter = ','
    )]
    pub nodes: Vec<String>,
}

/// How long to go on when nodes do not answer.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Ask each node once.
    EachNodeOnce,
    /// Go round the nodes, with pauses, until this much time has passed.
    For(Duration),
}

/// A request as it is sent, and sent again.
#[derive(Clone, Debug)]
pub struct Call {
    /// GET, HEAD, PUT or DELETE.
    pub method: Method,
    /// Path and query, percent-encoded, beginning with `/`.
    pub target: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How long the server may take; the client waits a little longer.
    pub timeout: Duration,
}

/// A node's answer, body and all.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Several nodes behind one `send`.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    nodes: Mutex<Vec<KnownNode>>,
    /// Spread requests over all nodes (bulk work) instead of preferring the first (one request).
    spread: bool,
    next: AtomicUsize,
    retries: AtomicU64,
}

#[derive(Clone, Debug)]
struct KnownNode {
    url: Url,
    /// Could not be reached: others first until then.
    avoid_until: Option<Instant>,
}

impl Call {
    /// A call without headers or body.
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self {
            method,
            target: target.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
        }
    }
    /// With this header; a value that cannot be one is the caller's mistake.
    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self, CliError> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            CliError::new(Exit::Usage, format!("{name} cannot hold a line break: {value:?}"))
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }
    fn is_write(&self) -> bool {
        self.method == Method::PUT || self.method == Method::DELETE
    }
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
    /// The error that this answer stands for.
    pub fn error(&self, what: &str) -> CliError {
        let exit = match self.status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::MULTIPLE_CHOICES
            | StatusCode::CONFLICT
            | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
            status if status.is_server_error() => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let text = one_line(&String::from_utf8_lossy(&self.body));
        let text = if text.is_empty() { self.status.to_string() } else { text };
        CliError::new(exit, format!("{what}: {text}"))
    }
}

impl Client {
    /// A client of the nodes on the command line.
    pub fn new(args: &NodeArgs) -> Result<Self, CliError> {
        let nodes = args
            .nodes
            .iter()
            .filter(|text| !text.trim().is_empty())
            .map(|text| parse_node(text).map(|url| KnownNode { url, avoid_until: None }))
            .collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            let text = "no node to talk to: give --node http://HOST:PORT or set QUORATE_NODE";
            return Err(CliError::new(Exit::Usage, text));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| CliError::failed(format!("cannot make an HTTP client: {error}")))?;
        let (next, retries) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { http, nodes: Mutex::new(nodes), spread: false, next, retries })
    }

    /// Learns the cluster's other members from the first node that answers, and from now on spreads
    /// requests over all: bulk work survives the node that it was started with.
    pub async fn discover(&mut self) -> Result<ClusterView, CliError> {
        let call = Call::new(Method::GET, "/cluster");
        let answer = self.send(&call, Patience::For(Duration::from_secs(3))).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.error("cannot learn the cluster's members"));
        }
        let view = ClusterView::parse(&answer.body)?;
        for url in view.member_urls() {
            self.add(url);
        }
        self.spread = true;
        Ok(view)
    }

    /// Sends, and sends again to another node while it makes sense and `patience` lasts. Answers
    /// that say "not now" (5xx) are retried; all others are the caller's to judge.
    pub async fn send(&self, call: &Call, patience: Patience) -> Result<Answer, CliError> {
        let started = Instant::now();
        let first = if self.spread { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut pause = BACKOFF_MIN;
        let mut may_have_happened = false;
        for tried in 0_usize.. {
            let url = self.pick(first + tried);
            let (told, reason) = match self.send_once(&url, call).await {
                Ok(answer) if !answer.status.is_server_error() => return Ok(answer),
                Ok(answer) => {
                    let reason = answer.error(url.as_str().trim_end_matches('/')).message;
                    (Some(answer), reason)
                }
                Err(error) => {
                    self.avoid(&url);
                    may_have_happened |= call.is_write() && !error.is_connect();
                    (None, explain(&url, &error))
                }
            };
            let goes_on = match patience {
                Patience::EachNodeOnce => tried + 1 < self.len(),
                Patience::For(limit) => started.elapsed() + pause < limit,
            };
            if !goes_on {
                // What a node said is more useful than "no answer"; the caller words it.
                return match told {
                    Some(answer) => Ok(answer),
                    None => Err(give_up(&reason, tried + 1, may_have_happened.then_some(call))),
                };
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            if matches!(patience, Patience::For(_)) {
                tokio::time::sleep(jittered(pause)).await;
                // A whole round without success is what makes the pause grow.
                if (tried + 1).is_multiple_of(self.len()) {
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
        unreachable!("the loop ends only by returning")
    }

    /// One try at one node.
    async fn send_once(&self, url: &Url, call: &Call) -> Result<Answer, reqwest::Error> {
        let target = format!("{}{}", url.as_str().trim_end_matches('/'), call.target);
        let mut request = self
            .http
            .request(call.method.clone(), target)
            .headers(call.headers.clone())
            .timeout(call.timeout + SERVER_GRACE);
        if call.method == Method::PUT {
            request = request.body(call.body.clone());
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// Asks exactly this node, once: what `status --all` needs.
    pub async fn ask(&self, url: &Url, call: &Call) -> Result<Answer, CliError> {
        let failed = |error| CliError::new(Exit::Unavailable, explain(url, &error));
        self.send_once(url, call).await.map_err(failed)
    }

    /// How often a request was sent again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn len(&self) -> usize {
        self.known().len()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<KnownNode>> {
        self.nodes.lock().expect("no code panics while it holds the list")
    }

    fn add(&self, url: Url) {
        let mut nodes = self.known();
        if !nodes.iter().any(|node| node.url == url) {
            nodes.push(KnownNode { url, avoid_until: None });
        }
    }

    fn avoid(&self, url: &Url) {
        let until = Instant::now() + COOLDOWN;
        for node in self.known().iter_mut().filter(|node| node.url == *url) {
            node.avoid_until = Some(until);
        }
    }

    /// The `at`th node, or the next after it that is not being avoided.
    fn pick(&self, at: usize) -> Url {
        let nodes = self.known();
        let now = Instant::now();
        let good = |node: &&KnownNode| node.avoid_until.is_none_or(|until| until <= now);
        let from = at % nodes.len();
        let (before, after) = nodes.split_at(from);
        let chosen = after.iter().chain(before).find(good).unwrap_or(&nodes[from]);
        chosen.url.clone()
    }
}

/// Parses a node's address; `ws://` (as peers write it) means the same port.
pub fn parse_node(text: &str) -> Result<Url, CliError> {
    let wrong = |why: &str| {
        CliError::new(
            Exit::Usage,
            format!("{text:?} is no node: {why}, e.g. http://127.0.0.1:8098"),
        )
    };
    let text = text.trim();
    let with_scheme = match text.split_once("://") {
        None => format!("http://{text}"),
        Some(("http" | "ws", rest)) => format!("http://{rest}"),
        Some(_) => return Err(wrong("give an http:// address")),
    };
    let mut url = Url::parse(&with_scheme).map_err(|error| wrong(&error.to_string()))?;
    if url.host().is_none() {
        return Err(wrong("the host is missing"));
    }
    url.set_path("");
    url.set_query(None);
    Ok(url)
}

/// A random name for a write.
pub fn random_id() -> Result<String, CliError> {
    let word = || {
        getrandom::u64()
            .map_err(|error| CliError::failed(format!("the system gives no random bytes: {error}")))
    };
    Ok(format!("{:016x}{:016x}", word()?, word()?))
}

fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(u32::MAX / 2) % 1000;
    pause / 2 + pause * part / 1000
}

fn explain(url: &Url, error: &reqwest::Error) -> String {
    let node = url.as_str().trim_end_matches('/');
    if error.is_connect() {
        return format!("no node listens at {node}: start one, or give another with --node");
    }
    if error.is_timeout() {
        return format!("{node} did not answer in time");
    }
    // The source says more than "error sending request", and the address stands before it already.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{node} broke off: {}", one_line(&cause.to_string()))
}

/// `open`: the write that may or may not have happened.
fn give_up(reason: &str, tries: usize, open: Option<&Call>) -> CliError {
    let effort = if tries > 1 { format!(" (after {tries} tries)") } else { String::new() };
    let again = match open.and_then(|call| call.headers.get(WRITE_ID)?.to_str().ok()) {
        None => String::new(),
        Some(id) => {
            format!("; the write may or may not have happened: repeat it with --write-id {id}")
        }
    };
    CliError::new(Exit::Unavailable, format!("{reason}{effort}{again}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(nodes: &[&str]) -> Client {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        Client::new(&NodeArgs { nodes }).unwrap()
    }

    #[test]
    fn a_node_may_be_named_in_any_usual_way() {
        for (text, want) in [
            ("http://127.0.0.1:8098", "http://127.0.0.1:8098/"),
            ("127.0.0.1:8098", "http://127.0.0.1:8098/"),
            ("ws://127.0.0.1:8098/peer", "http://127.0.0.1:8098/"),
            (" http://[::1]:1/x?y ", "http://[::1]:1/"),
        ] {
            assert_eq!(parse_node(text).unwrap().as_str(), want);
        }
        for text in ["https://example.org", "http://", "ftp://x"] {
            assert_eq!(parse_node(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
    }

    #[test]
    fn a_node_that_cannot_be_reached_is_avoided_while_others_can() {
        let client = client(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let port = |at| client.pick(at).port();
        assert_eq!([port(0), port(1), port(5)], [Some(1), Some(2), Some(3)]);
        client.avoid(&client.pick(1));
        assert_eq!([port(0), port(1), port(2)], [Some(1), Some(3), Some(3)]);
        client.avoid(&client.pick(0));
        client.avoid(&client.pick(2));
        assert_eq!([port(0), port(1), port(2)], [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn no_nodes_at_all_is_a_mistake_on_the_command_line() {
        let error = Client::new(&NodeArgs { nodes: vec![" ".into()] }).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
    }
}
