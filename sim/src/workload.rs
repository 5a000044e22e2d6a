//! The clients: each does one thing at a time, through any node, remembers what it read, and
//! writes with that, however old it is.
//!
//! Invariant: whatever a client is told goes to the oracle, also after the client has given up.

use crate::counts::Group;
use crate::history::{Effect, History, OpIndex, Shown};
use crate::invariants::durable::Asked;
use crate::invariants::read_your_writes::ReadAsked;
use crate::invariants::{answered, durable, informative, read_your_writes, resurrected};
use crate::network::HostIndex;
use crate::run::{Action, Simulation};
use crate::world::ClientReply;
use bytes::Bytes;
use quorate_core::{
    Dot, Duration, Get, Need, Object, Put, Reply, Request, RequestError, RequestId,
};
use std::collections::BTreeMap;

/// What a client read of a key.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    context: Bytes,
    values: Vec<Shown>,
}

/// The longest a client waits after an error, in microseconds.
const BACK_OFF_MAX: u64 = 400_000;

/// One client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    contexts: BTreeMap<usize, Seen>,
    /// What it waits for; a later answer to something else only reaches the oracle.
    pub(crate) waits_for: Option<RequestId>,
}

/// What was asked under a request id.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) client: Option<usize>,
    at: u64,
    timeout: u64,
    key: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Read(ReadAsked),
    /// A read after healing: all that was acknowledged before it counts.
    FinalRead(ReadAsked, usize),
    Write(OpIndex, Asked, Put),
}

impl Simulation {
    /// Lets a client do something new.
    pub(crate) fn act(&mut self, client: usize) {
        let up: Vec<_> = (0..self.world.len()).filter(|&host| self.world.is_up(host)).collect();
        if self.operations >= self.plan.operations {
            return;
        }
        if up.is_empty() {
            return self.later(100_000, Action::Act(client));
        }
        self.operations += 1;
        let mix = self.plan.mix.clone();
        let rng = &mut self.rng_clients;
        let (host, key) = (up[rng.index(up.len())], rng.index(self.keys.len()));
        let seen = self.clients[client].contexts.get(&key).cloned();
        if rng.per_mille(mix.gets) {
            self.get(client, host, key);
            return;
        }
        let delete = self.rng_clients.per_mille(mix.deletes);
        let blind = !delete && self.rng_clients.per_mille(mix.blind);
        let named = self.rng_clients.per_mille(mix.named) && !delete;
        match seen {
            Some(seen) if !blind => self.write(client, host, key, Some(seen), delete, named),
            None if delete => self.get(client, host, key),
            _ => self.write(client, host, key, None, false, named),
        }
    }

    fn get(&mut self, client: usize, host: HostIndex, key: usize) {
        let n = self.n;
        let mut get = Get::new(self.keys[key].name.clone());
        let r = self.rng_clients.range(1, u64::from(n)) as u8;
        let pr = if self.rng_clients.per_mille(self.plan.mix.primaries) { r } else { 0 };
        (get.r, get.pr) = (Some(Need::Count(r)), Some(Need::Count(pr)));
        get.sloppy = !self.rng_clients.per_mille(self.plan.mix.strict);
        let promises = self.history.key(key).promises.len();
        let asked = ReadAsked { key, n, r, pr, promises };
        self.world.counts.add(Group::Operations, "gets", 1);
        self.send(Some(client), host, key, Request::Get(get), What::Read(asked));
    }

    /// A read at R=N through `host` in the final phase.
    pub(crate) fn final_get(&mut self, host: HostIndex, key: usize) {
        let n = self.n;
        let mut get = Get::new(self.keys[key].name.clone());
        (get.r, get.pr, get.sloppy) = (Some(Need::All), Some(Need::All), false);
        let promises = self.history.key(key).promises.len();
        let asked = ReadAsked { key, n, r: n, pr: n, promises };
        let before = self.history.key(key).acked.len();
        self.world.counts.add(Group::Operations, "final reads", 1);
        self.send(None, host, key, Request::Get(get), What::FinalRead(asked, before));
    }

    fn write(
        &mut self,
        client: usize,
        host: HostIndex,
        key: usize,
        seen: Option<Seen>,
        delete: bool,
        named: bool,
    ) {
        let observed = seen.as_ref().map(|seen| seen.values.clone()).unwrap_or_default();
        let op = self.history.begin(key, delete, observed, named);
        let mut put = Put::new(self.keys[key].name.clone(), History::value(op, self.plan.filling));
        put.context = seen.map(|seen| seen.context);
        if delete {
            put.value = None;
        }
        put.write_id = self.history.op(op).write_id;
        let n = u64::from(self.n);
        let (w, strict) = {
            let rng = &mut self.rng_clients;
            put.return_body = rng.per_mille(300);
            (rng.range(1, n) as u8, rng.per_mille(self.plan.mix.strict))
        };
        let pw = if self.rng_clients.per_mille(self.plan.mix.primaries) { w } else { 0 };
        (put.w, put.pw, put.sloppy) = (Some(Need::Count(w)), Some(Need::Count(pw)), !strict);
        let what = match (delete, put.context.is_some()) {
            (true, _) => "deletes",
            (false, true) => "puts with a context",
            (false, false) => "blind puts",
        };
        self.world.counts.add(Group::Operations, what, 1);
        self.attempt(client, host, op, Asked { w, pw }, put);
    }

    fn attempt(&mut self, client: usize, host: HostIndex, op: OpIndex, asked: Asked, put: Put) {
        self.history.op_mut(op).attempts += 1;
        let key = self.history.op(op).key;
        if self.rng_faults.per_mille(self.plan.mix.crashes) {
            let most = 2 * (self.plan.world.disk.commit.1 + self.plan.world.network.delay.1);
            let delay = self.rng_faults.below(most);
            self.later(delay, Action::Crash(host));
        }
        let request = Request::Put(put.clone());
        self.send(Some(client), host, key, request, What::Write(op, asked, put));
    }

    fn send(
        &mut self,
        client: Option<usize>,
        host: HostIndex,
        key: usize,
        mut request: Request,
        what: What,
    ) {
        let mut timeout = self.plan.world.config.timing.request_timeout;
        if self.rng_clients.per_mille(200) {
            timeout = Duration::from_millis(self.rng_clients.range(20, 3_000));
            match &mut request {
                Request::Get(get) => get.timeout = Some(timeout),
                Request::Put(put) => put.timeout = Some(timeout),
                _ => {}
            }
        }
        let (at, timeout) = (self.world.now(), timeout.as_micros());
        let id = self.world.request(host, request);
        self.sent.insert(id, Sent { client, at, timeout, key, what });
        if let Some(client) = client {
            self.clients[client].waits_for = Some(id);
            self.later(self.plan.patience, Action::GiveUp(client, id));
        }
    }

    /// A client's patience is at an end.
    pub(crate) fn give_up(&mut self, client: usize, id: RequestId) {
        if self.clients[client].waits_for == Some(id)
            && let Some(sent) = self.sent.get(&id).cloned()
        {
            self.world.counts.add(Group::Outcomes, "given up by the client", 1);
            self.go_on(client, &sent, false, false);
        }
    }

    /// The client goes on: tries its write again, or thinks and does something else.
    fn go_on(&mut self, client: usize, sent: &Sent, certain: bool, pleased: bool) {
        self.clients[client].waits_for = None;
        let mut think = self.rng_clients.below(self.plan.think_max);
        if !pleased {
            // Without this, an outage would eat all operations in no time.
            think += self.rng_clients.below(BACK_OFF_MAX);
        }
        let retry = !certain && self.rng_clients.per_mille(self.plan.mix.retries);
        match &sent.what {
            What::Write(op, asked, put) if retry && self.history.op(*op).attempts < 5 => {
                self.later(think, Action::Retry(client, *op, *asked, Box::new(put.clone())));
            }
            _ => self.later(think, Action::Act(client)),
        }
    }

    pub(crate) fn retry(&mut self, client: usize, op: OpIndex, asked: Asked, mut put: Put) {
        let up: Vec<_> = (0..self.world.len()).filter(|&host| self.world.is_up(host)).collect();
        if up.is_empty() {
            return self.later(100_000, Action::Act(client));
        }
        let host = up[self.rng_clients.index(up.len())];
        if put.write_id.is_some() {
            self.world.counts.add(Group::Operations, "retries with a write id", 1);
            return self.attempt(client, host, op, asked, put);
        }
        // Without a write id, a retry is another write that means the same.
        self.world.counts.add(Group::Operations, "retries without a write id", 1);
        let observed = self.history.op(op).observed.clone();
        let (key, delete) = (self.history.op(op).key, put.value.is_none());
        let again = self.history.begin(key, delete, observed, false);
        let value = History::value(again, self.plan.filling);
        put.value = (!delete).then_some(value);
        self.attempt(client, host, again, asked, put);
    }

    /// An answer, or the loss of the connection.
    pub(crate) fn on_reply(&mut self, reply: ClientReply) {
        let Some(sent) = self.sent.remove(&reply.id) else { return };
        let waiting =
            sent.client.filter(|&client| self.clients[client].waits_for == Some(reply.id));
        let pleased = matches!(reply.result, Some(Ok(_)));
        let certain = match reply.result {
            None => {
                self.world.counts.add(Group::Outcomes, "connections lost", 1);
                false
            }
            Some(result) => {
                let elapsed = self.world.now() - sent.at;
                if let Some(sentence) = answered::late(elapsed, sent.timeout) {
                    self.world.break_rule(&answered::THIS, format!("{:?}: {sentence}", reply.id));
                }
                self.count(&result);
                match &sent.what {
                    What::Read(asked) => self.on_read(&sent, *asked, None, result),
                    What::FinalRead(asked, before) => {
                        self.on_read(&sent, *asked, Some(*before), result)
                    }
                    What::Write(op, asked, _) => self.on_written(&sent, *op, *asked, result),
                }
            }
        };
        if let Some(client) = waiting {
            self.go_on(client, &sent, certain, pleased);
        }
    }

    fn count(&mut self, result: &Result<Reply, RequestError>) {
        let name = match result {
            Ok(Reply::Found { .. }) => "reads: found",
            Ok(Reply::Deleted { .. }) => "reads: deleted",
            Ok(Reply::Absent { .. }) => "reads: absent",
            Ok(Reply::Written { repeated: true, .. }) => "writes: acknowledged as repeated",
            Ok(_) => "writes: acknowledged",
            Err(error) if error.is_unknown() => "writes: unknown",
            Err(RequestError::Timeout { .. }) => "failed: timeout",
            Err(RequestError::Unavailable { .. }) => "failed: unavailable",
            Err(RequestError::NotReady(_)) => "failed: not ready",
            Err(RequestError::ReadOnly) => "failed: disk full",
            Err(RequestError::TooManySiblings { .. }) => "failed: too many siblings",
            Err(_) => "failed: other",
        };
        self.world.counts.add(Group::Outcomes, name, 1);
    }

    fn on_read(
        &mut self,
        sent: &Sent,
        asked: ReadAsked,
        acked_before: Option<usize>,
        result: Result<Reply, RequestError>,
    ) -> bool {
        let key = sent.key;
        let (values, context, receipt, absent) = match result {
            Ok(Reply::Found { object, receipt }) => {
                let Object { values, context } = object;
                (values, Some(context), receipt, false)
            }
            Ok(Reply::Deleted { context, receipt }) => (Vec::new(), Some(context), receipt, false),
            Ok(Reply::Absent { receipt }) => (Vec::new(), None, receipt, true),
            Ok(other) => {
                let sentence = format!("a get was answered with {other:?}");
                self.world.break_rule(&answered::THIS, sentence);
                return true;
            }
            Err(error) => {
                if acked_before.is_some() {
                    self.final_failures.push((key, error.to_string()));
                }
                return true;
            }
        };
        let Some(shown) = self.identify(key, &values) else { return true };
        if let Err((rule, sentence)) = read_your_writes::check(&self.history, asked, &shown, absent)
        {
            self.world.break_rule(rule, sentence);
        }
        // Before the first write, the founder's word that the cluster is empty is enough.
        if receipt.n > 0 {
            let (object, owners) = (&self.keys[key].object, &self.keys[key].owners);
            let (r, pr) = (asked.r, asked.pr);
            if let Err(sentence) =
                informative::check(&self.world, object, owners, (r, pr), &receipt)
            {
                self.world.break_rule(&informative::THIS, sentence);
            }
        }
        if let Some(acked) = acked_before {
            let before = self.history.key(key).acked[..acked].iter().copied();
            if let Err(sentence) = resurrected::check(&self.history, key, &shown, before) {
                self.world.break_rule(&resurrected::THIS, sentence);
            }
            self.final_reads.insert(key, shown.clone());
        }
        if let (Some(client), Some(context)) = (sent.client, context) {
            self.clients[client].contexts.insert(key, Seen { context, values: shown });
        }
        true
    }

    /// The writes that these values are; a value that nobody wrote breaks a rule.
    fn identify(
        &mut self,
        key: usize,
        values: &[(Dot, quorate_core::Value)],
    ) -> Option<Vec<Shown>> {
        let mut ops = Vec::with_capacity(values.len());
        for (dot, value) in values {
            match resurrected::identify(&self.history, key, &value.bytes) {
                Ok(op) => ops.push((op, *dot)),
                Err(sentence) => {
                    self.world.break_rule(&resurrected::THIS, sentence);
                    return None;
                }
            }
        }
        Some(ops)
    }

    fn on_written(
        &mut self,
        sent: &Sent,
        op: OpIndex,
        asked: Asked,
        result: Result<Reply, RequestError>,
    ) -> bool {
        let key = sent.key;
        let (dot, repeated, object, receipt) = match result {
            Ok(Reply::Written { dot, repeated, object, receipt }) => {
                (dot, repeated, object, receipt)
            }
            Ok(other) => {
                let sentence = format!("a put was answered with {other:?}");
                self.world.break_rule(&answered::THIS, sentence);
                return true;
            }
            Err(error) if error.is_unknown() => return false,
            Err(_) => {
                self.history.op_mut(op).refused += 1;
                return true;
            }
        };
        let write = self.history.op_mut(op);
        let news = !write.acked;
        write.acked = true;
        if let Some(dot) = dot.filter(|dot| !write.dots.contains(dot)) {
            write.dots.push(dot);
        }
        debug_assert_eq!(self.history.op(op).effect(), Effect::Acked, "it was just acknowledged");
        let (name, owners) = (self.keys[key].object.clone(), self.keys[key].owners.clone());
        if !repeated {
            let write = self.history.op(op);
            match durable::check(&self.world, &name, &owners, write, dot, asked, &receipt) {
                Ok(primaries) => self.history.promise(op, primaries),
                Err(sentence) => {
                    let sentence = format!("value {op} of key {key}: {sentence}");
                    self.world.break_rule(&durable::THIS, sentence);
                }
            }
        }
        if news {
            self.history.key_mut(key).acked.push(op);
        }
        if self.history.key(key).damaged {
            self.excuse(key, op);
        }
        if let Some(client) = sent.client
            && !object.values.is_empty()
            && let Some(values) = self.identify(key, &object.values)
        {
            let seen = Seen { context: object.context, values };
            self.clients[client].contexts.insert(key, seen);
        }
        true
    }

    /// A copy of a key was destroyed: acknowledged writes of which no copy is left are excused.
    pub(crate) fn note_damage(&mut self, key: usize) {
        self.history.damage(key);
        for op in self.history.key(key).acked.clone() {
            self.excuse(key, op);
        }
    }

    fn excuse(&mut self, key: usize, op: OpIndex) {
        let write = self.history.op(op);
        if !write.destroyed && !durable::survives(&self.world, &self.keys[key].object, write) {
            self.history.op_mut(op).destroyed = true;
            self.world.counts.add(Group::Oracle, "writes excused: every durable copy destroyed", 1);
        }
    }
}
