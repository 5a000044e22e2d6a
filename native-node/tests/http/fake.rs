//! A model of a node behind the `Command` queue, and a client that talks to the API before it.
//!
//! The model is one replica without a network: it keeps the core's own `Siblings`, so contexts,
//! siblings and tombstones behave as they do in a cluster.

use quorate_core::{
    Actor, Answer, BucketPatch, BucketProps, Counters, Digest, Dot, Duration, HintsView, Key,
    LayoutId, List, ListCursor, MemberView, Need, NodeId, NodeView, Object, Partition, PeerState,
    Put, Receipt, Reply, Request, RequestError, Run, Siblings, Value, VersionVector, WallTime,
};
use quorate_node::handle::{Command, NodeHandle};
use quorate_node::http::{HttpLimits, State, router};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use reqwest::{Method, StatusCode};

/// The model refuses a write that would leave more siblings than this.
pub const SIBLINGS_MAX: u32 = 3;
/// The most keys in one page of the model's listings.
pub const PAGE_KEYS_MAX: u32 = 2;
pub const NODE: NodeId = NodeId(0x00ab);

/// What a test may look at and interfere with.
#[derive(Debug, Default)]
pub struct Control {
    /// Every request that reached the node.
    pub seen: Vec<Request>,
    /// Refusals in place of the next answers (`None`: a proper answer).
    pub refusals: VecDeque<Option<RequestError>>,
}

#[derive(Debug, Default)]
struct Model {
    objects: BTreeMap<Key, Siblings>,
    buckets: BTreeMap<Bytes, BucketPatch>,
    writes: u64,
}

/// A served API and its node.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    control: Arc<Mutex<Control>>,
    client: reqwest::Client,
}

/// A response, read whole.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Bytes,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(HttpLimits::default()).await
    }

    pub async fn start_with(limits: HttpLimits) -> Self {
        let control = Arc::new(Mutex::new(Control::default()));
        let (handle, queue) = NodeHandle::channel(64);
        tokio::spawn(serve_commands(queue, control.clone()));
        let mut registry = Registry::default();
        let opened: Counter = Counter::default();
        registry.register("store_opened", "A metric of another room", opened);
        let app = router(State::new(handle, limits, registry));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, control, client: reqwest::Client::new() }
    }

    /// The next request is refused with `error`.
    pub fn refuse(&self, error: RequestError) {
        self.refuse_later(0, error);
    }

    /// The request after the next `after` is refused with `error`.
    pub fn refuse_later(&self, after: usize, error: RequestError) {
        let refusals = &mut self.control.lock().unwrap().refusals;
        refusals.extend(std::iter::repeat_n(None, after));
        refusals.push_back(Some(error));
    }

    /// The requests that reached the node since the last call.
    pub fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.control.lock().unwrap().seen)
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Got {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Got { status, headers, body: response.bytes().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Got {
        self.call("GET", path, &[], "").await
    }

    /// A put of text, checked to have succeeded.
    pub async fn put(&self, path: &str, headers: &[(&str, &str)], body: &'static str) -> Got {
        let headers = [&[("Content-Type", "text/plain")], headers].concat();
        let got = self.call("PUT", path, &headers, body).await;
        assert!(got.status.is_success() || got.status == 300, "{got:?}");
        got
    }
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
    /// Asserts a refusal: a status, and one line of text that contains `says`.
    pub fn assert_refused(&self, status: u16, says: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "text/plain");
        assert!(self.text().contains(says), "{:?} does not say {says:?}", self.text());
        assert_eq!(self.text().find('\n'), Some(self.text().len() - 1), "one line: {self:?}");
    }
}

async fn serve_commands(mut queue: mpsc::Receiver<Command>, control: Arc<Mutex<Control>>) {
    let mut model = Model::default();
    while let Some(command) = queue.recv().await {
        match command {
            Command::Request { request, answer } => {
                let refusal = {
                    let mut control = control.lock().unwrap();
                    control.seen.push(request.clone());
                    control.refusals.pop_front().flatten()
                };
                let result = refusal.map_or_else(|| model.answer(request), Err);
                // A client that went away is no concern of the node.
                let _ = answer.send(result);
            }
            Command::View { answer } => {
                let _ = answer.send(Box::new(view()));
            }
        }
    }
}

impl Model {
    fn answer(&mut self, request: Request) -> Result<Reply, RequestError> {
        match request {
            Request::Get(get) => {
                let n = self.props(get.key.bucket()).n_val;
                check_quorums(n, &[("r", get.r), ("pr", get.pr)])?;
                Ok(self.read(&get.key))
            }
            Request::Put(put) => self.write(put),
            Request::List(list) => Ok(self.list(&list)),
            Request::GetBucket { bucket } => Ok(Reply::Bucket(self.props(&bucket))),
            Request::SetBucket { bucket, patch } => {
                match patch {
                    Some(patch) => self.buckets.insert(bucket.clone(), patch),
                    None => self.buckets.remove(&bucket),
                };
                Ok(Reply::Bucket(self.props(&bucket)))
            }
        }
    }

    fn props(&self, bucket: &Bytes) -> BucketProps {
        BucketProps::default().patched(self.buckets.get(bucket).copied().unwrap_or_default())
    }

    fn read(&self, key: &Key) -> Reply {
        let Some(siblings) = self.objects.get(key) else {
            return Reply::Absent { receipt: receipt(0) };
        };
        let object = self.shown(key, siblings);
        let receipt = receipt(siblings.len() as u32);
        if siblings.is_tombstone() {
            Reply::Deleted { context: object.context, receipt }
        } else {
            Reply::Found { object, receipt }
        }
    }

    fn shown(&self, key: &Key, siblings: &Siblings) -> Object {
        let values = if self.props(key.bucket()).allow_mult {
            siblings.shown()
        } else {
            siblings.newest().into_iter().collect()
        };
        let values = values.into_iter().map(|(dot, value)| (dot, value.clone())).collect();
        Object { values, context: seal(key, siblings.context()) }
    }

    fn write(&mut self, put: Put) -> Result<Reply, RequestError> {
        let n = self.props(put.key.bucket()).n_val;
        check_quorums(n, &[("w", put.w), ("pw", put.pw), ("dw", put.dw)])?;
        let context = match put.context.filter(|context| !context.is_empty()) {
            Some(sealed) => open(&put.key, &sealed).ok_or(RequestError::BadContext)?,
            None => VersionVector::default(),
        };
        let siblings = self.objects.entry(put.key.clone()).or_default();
        let mut repeated = false;
        let mut dot = None;
        let known = put.write_id.and_then(|id| siblings.write(id));
        match (put.value, known) {
            (Some(bytes), Some(known)) if known.hash == Digest::of(&bytes) => {
                (dot, repeated) = (Some(known.dot), true);
            }
            (Some(_), Some(_)) => return Err(RequestError::WriteIdReused),
            (Some(bytes), None) => {
                let would_be = (siblings.kept_by_write(&context).0 + 1) as u32;
                if would_be > SIBLINGS_MAX {
                    return Err(RequestError::TooManySiblings { would_be, max: SIBLINGS_MAX });
                }
                self.writes += 1;
                let fresh = Dot(Actor(Run(7), 0), self.writes);
                let modified = WallTime((1_600_000_000 + self.writes) * 1_000_000);
                siblings.write_value(&context, fresh, Value { bytes, modified }, put.write_id);
                dot = Some(fresh);
            }
            (None, _) => siblings.delete(&context),
        }
        let siblings = &self.objects[&put.key];
        let mut object = self.shown(&put.key, siblings);
        if !put.return_body {
            object.values.clear();
        }
        Ok(Reply::Written { dot, repeated, object, receipt: receipt(siblings.len() as u32) })
    }

    /// Four partitions, of which a page never shows more than one: so some pages are empty.
    fn list(&self, list: &List) -> Reply {
        let start =
            list.after.clone().unwrap_or(ListCursor { partition: Partition(0), after: None });
        let mut keys: Vec<Bytes> = self
            .objects
            .iter()
            .filter(|(key, siblings)| {
                key.bucket() == &list.bucket
                    && !siblings.is_empty()
                    && key.token().partition(4) == start.partition
                    && start.after.as_ref().is_none_or(|after| key.key() > after)
            })
            .map(|(key, _)| key.key().clone())
            .collect();
        let limit = list.limit.min(PAGE_KEYS_MAX) as usize;
        let next = if keys.len() > limit {
            keys.truncate(limit);
            Some(ListCursor { partition: start.partition, after: keys.last().cloned() })
        } else if start.partition.0 < 3 {
            Some(ListCursor { partition: Partition(start.partition.0 + 1), after: None })
        } else {
            None
        };
        Reply::Keys { keys, next }
    }
}

fn check_quorums(n: u8, needs: &[(&str, Option<Need>)]) -> Result<(), RequestError> {
    for (param, need) in needs {
        let value = need.map_or(0, |need| need.of(n));
        if value > n {
            return Err(RequestError::QuorumExceedsN { param: (*param).into(), value, n });
        }
    }
    Ok(())
}

fn seal(key: &Key, context: &VersionVector) -> Bytes {
    let Digest(a, b) = Digest::of(key.to_string().as_bytes());
    let mut out = [a.to_be_bytes(), b.to_be_bytes()].concat();
    ciborium::into_writer(context, &mut out).unwrap();
    out.into()
}

fn open(key: &Key, sealed: &[u8]) -> Option<VersionVector> {
    let (mac, rest) = sealed.split_at_checked(16)?;
    let context = ciborium::from_reader(rest).ok()?;
    (seal(key, &context)[..16] == *mac).then_some(context)
}

fn receipt(siblings: u32) -> Receipt {
    let answer = |node, primary| Answer { node, primary, counts: true };
    Receipt {
        coordinator: NODE,
        layout: LayoutId(5),
        n: 3,
        needed: 2,
        answers: vec![answer(NODE, true), answer(NodeId(0xcd), false)],
        siblings,
        elapsed: Duration::from_micros(321),
    }
}

fn view() -> NodeView {
    let member = |node, name: &str, state| MemberView {
        node,
        name: name.into(),
        zone: "default".into(),
        weight: 1,
        addresses: vec!["ws://127.0.0.1:1/peer".into()],
        state,
        claimed: 128,
        founder: node == NODE,
        heard: None,
    };
    NodeView {
        node: Some(NODE),
        partitions: 256,
        ready: true,
        members: vec![
            member(NODE, "a", PeerState::Myself),
            member(NodeId(0xcd), "b", PeerState::Suspected),
        ],
        hints: vec![HintsView { owner: NodeId(0xcd), count: 3, bytes: 400 }],
        hint_bytes: 400,
        counters: Counters { gets: 11, puts: 12, read_repairs: 13, ..Counters::default() },
        ..NodeView::default()
    }
}
