//! A few nodes in one process with memory for disks and a perfect network: for tests that look at
//! one behaviour. Faults belong to the simulator.
#![allow(dead_code, reason = "each test uses the part that it needs")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
#![allow(clippy::unnecessary_wraps, reason = "the shape of a store's answer")]

use bytes::Bytes;
use quorate_core::*;
use std::collections::{BTreeMap, VecDeque};

pub type Disk = BTreeMap<(Space, Bytes), Bytes>;

/// Which messages (from, to) do not arrive; they are kept aside.
pub type Lose = fn(NodeId, NodeId, &Message) -> bool;
/// Which storage commands are executed but answered only when they are released.
pub type Hold = fn(NodeId, &StoreCommand) -> bool;
/// Which storage commands fail, and how.
pub type Fail = fn(NodeId, &StoreCommand) -> Option<StoreError>;

/// One node with its disk and what it put out and nobody has taken yet.
pub struct Host {
    pub node: Node,
    pub disk: Disk,
    pub last_commit: OpId,
    pub replies: BTreeMap<RequestId, Vec<Result<Reply, RequestError>>>,
    pub events: Vec<Event>,
}

/// A network of nodes with one clock.
pub struct Net {
    pub hosts: BTreeMap<NodeId, Host>,
    pub wire: VecDeque<(NodeId, NodeId, Message)>,
    pub down: Vec<NodeId>,
    pub now: Now,
    pub next_request: u64,
    pub next_run: u64,
    pub lose: Lose,
    pub lost: Vec<(NodeId, NodeId, Message)>,
    pub hold: Hold,
    pub held: VecDeque<(NodeId, OpId, Result<StoreReply, StoreError>)>,
    pub fail: Fail,
    /// Which storage commands are not even executed before [`Net::execute_late`].
    pub late: Hold,
    pub waiting: VecDeque<(NodeId, OpId, StoreCommand)>,
}

pub const SECRET: Secret = Secret([1, 2, 3, 4]);

pub fn now(micros: u64) -> Now {
    Now { monotonic: Instant(micros), wall: WallTime(1_000_000_000 + micros) }
}

pub fn found() -> Found {
    Found::new(ClusterId(7, 7), 16, SECRET).unwrap()
}

pub fn boot(node: NodeId, run: u64, found: Option<Found>) -> Boot {
    Boot { node, run: Run(run), meta: vec![], found, lost_commits: false, accept_loss: false }
}

impl Host {
    pub fn new(config: Config, boot: Boot, now: Now) -> Self {
        let node = Node::new(config, boot, 1, now);
        Self {
            node,
            disk: Disk::new(),
            last_commit: OpId::default(),
            replies: BTreeMap::new(),
            events: vec![],
        }
    }

    /// Executes a storage command at once.
    pub fn execute(&mut self, op: OpId, command: StoreCommand) -> Result<StoreReply, StoreError> {
        execute(&mut self.disk, &mut self.last_commit, op, command)
    }
}

pub fn execute(
    disk: &mut Disk,
    last_commit: &mut OpId,
    op: OpId,
    command: StoreCommand,
) -> Result<StoreReply, StoreError> {
    match command {
        StoreCommand::Read { space, key } => {
            Ok(StoreReply::Value { value: disk.get(&(space, key)).cloned(), as_of: *last_commit })
        }
        StoreCommand::Scan { space, start, end, limit, .. } => {
            let mut all: Vec<_> = disk
                .range((space, start)..)
                .take_while(|((s, key), _)| *s == space && end.as_ref().is_none_or(|end| key < end))
                .map(|((_, key), value)| (key.clone(), Ok(value.clone())))
                .collect();
            let more = all.len() > limit as usize;
            all.truncate(limit as usize);
            Ok(StoreReply::Page { entries: all, more, as_of: *last_commit })
        }
        StoreCommand::Commit { writes } => {
            for Write { space, key, value } in writes {
                match value {
                    Some(value) => disk.insert((space, key), value),
                    None => disk.remove(&(space, key)),
                };
            }
            *last_commit = op;
            Ok(StoreReply::Committed)
        }
    }
}

impl Net {
    /// A cluster of `n` nodes, numbered from one, all admitted.
    pub fn cluster(n: u64) -> Self {
        let mut net = Self {
            hosts: BTreeMap::new(),
            wire: VecDeque::new(),
            down: vec![],
            now: now(1),
            next_request: 0,
            next_run: 100,
            lose: |_, _, _| false,
            lost: vec![],
            hold: |_, _| false,
            held: VecDeque::new(),
            fail: |_, _| None,
            late: |_, _| false,
            waiting: VecDeque::new(),
        };
        for id in 1..=n {
            let boot = boot(NodeId(id), 1_000 + id, (id == 1).then(found));
            let host = Host::new(Config::default(), boot, net.now);
            net.hosts.insert(NodeId(id), host);
        }
        for id in 1..=n {
            net.link_all(NodeId(id));
        }
        net.run(Duration::from_secs(10));
        for host in net.hosts.values() {
            assert_eq!(host.node.view().members.len() as u64, n, "all were admitted");
        }
        net
    }

    pub fn input(&mut self, to: NodeId, input: Input) {
        let Some(host) = self.hosts.get_mut(&to) else { return };
        host.node.handle(self.now, input);
        self.drain(to);
    }

    fn drain(&mut self, at: NodeId) {
        let host = self.hosts.get_mut(&at).unwrap();
        while let Some(output) = host.node.poll_output() {
            match output {
                Output::Send { to, message } => self.wire.push_back((at, to, message)),
                Output::Store { op, command } => {
                    if (self.late)(at, &command) {
                        self.waiting.push_back((at, op, command));
                        continue;
                    }
                    let held = (self.hold)(at, &command);
                    let result = match (self.fail)(at, &command) {
                        Some(error) => Err(error),
                        None => host.execute(op, command),
                    };
                    if held {
                        self.held.push_back((at, op, result));
                        continue;
                    }
                    host.node.handle(self.now, Input::Stored { op, result });
                }
                Output::Reply { id, result } => host.replies.entry(id).or_default().push(result),
                Output::Event(event) => host.events.push(event),
                Output::Peer { .. } => {}
            }
        }
    }

    /// Answers the storage commands that were held, in the order in which they were executed.
    pub fn release(&mut self) {
        for (at, op, result) in std::mem::take(&mut self.held) {
            self.input(at, Input::Stored { op, result });
        }
    }

    /// Executes what waited for it, and holds the answers.
    pub fn execute_late(&mut self) {
        for (at, op, command) in std::mem::take(&mut self.waiting) {
            let result = self.hosts.get_mut(&at).unwrap().execute(op, command);
            self.held.push_back((at, op, result));
        }
    }

    /// The hints on all disks, whatever the nodes count.
    pub fn stored_hints(&self) -> usize {
        let hints = |host: &Host| host.disk.keys().filter(|(s, _)| *s == Space::Hints).count();
        self.hosts.values().map(hints).sum()
    }

    /// Sends a request without waiting for its answer.
    pub fn start(&mut self, at: u64, request: Request) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.input(NodeId(at), Input::Request { id, request });
        id
    }

    /// The answers that a request has had so far.
    pub fn answers(&self, at: u64, id: RequestId) -> &[Result<Reply, RequestError>] {
        self.hosts[&NodeId(at)].replies.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The owners of a key, found by who has it once it was written everywhere.
    pub fn owners(&self, key: &Key) -> Vec<u64> {
        self.hosts.keys().filter(|id| self.stored(**id, key).is_some()).map(|id| id.0).collect()
    }

    pub fn link_all(&mut self, node: NodeId) {
        let others: Vec<_> = self.hosts.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            if !self.down.contains(&other) {
                self.input(node, Input::Link { peer: other, up: true });
                self.input(other, Input::Link { peer: node, up: true });
            }
        }
    }

    /// Takes a node off the network (its peers see their links go down).
    pub fn stop(&mut self, node: NodeId) {
        self.down.push(node);
        let others: Vec<_> = self.hosts.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            self.input(other, Input::Link { peer: node, up: false });
        }
    }

    /// Starts a new run of a stopped node on its disk.
    pub fn restart(&mut self, node: NodeId) {
        self.restart_with(node, |_| {});
    }

    pub fn restart_with(&mut self, node: NodeId, change: impl FnOnce(&mut Boot)) {
        self.start_again(node, change);
        self.link_all(node);
    }

    /// Starts a new run whose links are not up yet.
    pub fn restart_quietly(&mut self, node: NodeId) {
        self.start_again(node, |_| {});
    }

    fn start_again(&mut self, node: NodeId, change: impl FnOnce(&mut Boot)) {
        self.next_run += 1;
        let old = self.hosts.remove(&node).unwrap();
        let meta = old
            .disk
            .iter()
            .filter(|((space, _), _)| *space == Space::Meta)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let mut boot = Boot { meta, ..boot(node, self.next_run, None) };
        change(&mut boot);
        let mut host = Host::new(Config::default(), boot, self.now);
        host.disk = old.disk;
        self.hosts.insert(node, host);
        self.down.retain(|id| *id != node);
        self.drain(node);
    }

    /// Lets messages and timers happen for a while.
    pub fn run(&mut self, span: Duration) {
        let end = self.now.monotonic + span;
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        for id in &ids {
            self.drain(*id);
        }
        loop {
            while let Some((from, to, message)) = self.wire.pop_front() {
                if self.down.contains(&from) || self.down.contains(&to) {
                    continue;
                }
                if (self.lose)(from, to, &message) {
                    self.lost.push((from, to, message));
                    continue;
                }
                let bytes = codec::encode_message(&message);
                assert_eq!(codec::decode_message(&bytes).as_ref(), Ok(&message));
                self.input(to, Input::Message { from, message });
            }
            let next = self
                .hosts
                .iter()
                .filter(|(id, _)| !self.down.contains(id))
                .filter_map(|(_, host)| host.node.poll_timeout())
                .min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = now(next.0.max(self.now.monotonic.0));
            for id in &ids {
                if !self.down.contains(id) {
                    self.input(*id, Input::Tick);
                }
            }
        }
        self.now = now(end.0.max(self.now.monotonic.0));
    }

    /// Asks and runs until the answer is there.
    pub fn request(&mut self, at: NodeId, request: Request) -> Result<Reply, RequestError> {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.input(at, Input::Request { id, request });
        for _ in 0..200 {
            self.run(Duration::from_millis(100));
            if let Some(replies) = self.hosts[&at].replies.get(&id) {
                assert_eq!(replies.len(), 1, "answered exactly once");
                return replies[0].clone();
            }
        }
        panic!("request {id:?} was not answered in 20 s");
    }

    pub fn get(&mut self, at: u64, key: &Key) -> Result<Reply, RequestError> {
        self.request(NodeId(at), Request::Get(Get::new(key.clone())))
    }

    pub fn put(&mut self, at: u64, put: Put) -> Result<Reply, RequestError> {
        self.request(NodeId(at), Request::Put(put))
    }

    /// What a node has on its disk of an object.
    pub fn stored(&self, node: NodeId, key: &Key) -> Option<Siblings> {
        self.hosts[&node].disk.iter().find_map(|((space, stored), value)| {
            (*space == Space::Objects && codec::decode_object_key(stored).as_ref() == Some(key))
                .then(|| codec::decode_object(value).unwrap())
        })
    }

    pub fn hints(&self) -> u64 {
        self.hosts
            .values()
            .map(|host| host.node.view().hints.iter().map(|hints| hints.count).sum::<u64>())
            .sum()
    }
}

pub fn key(name: &str) -> Key {
    Key::new("bucket", name.to_owned()).unwrap()
}

pub fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The texts of an answer's values, in order.
pub fn texts(reply: &Result<Reply, RequestError>) -> Vec<String> {
    match reply {
        Ok(Reply::Found { object, .. } | Reply::Written { object, .. }) => {
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            let mut texts: Vec<_> =
                object.values.iter().map(|(_, value)| text(&value.bytes)).collect();
            texts.sort();
            texts
        }
        other => panic!("no values: {other:?}"),
    }
}

pub fn context(reply: &Result<Reply, RequestError>) -> Bytes {
    match reply {
        Ok(Reply::Found { object, .. } | Reply::Written { object, .. }) => object.context.clone(),
        Ok(Reply::Deleted { context, .. }) => context.clone(),
        other => panic!("no context: {other:?}"),
    }
}
