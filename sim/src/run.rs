//! One run: set up, work under faults, heal, come to rest, judge.
//!
//! Invariant: a run is a pure function of its seed (and the mutant under test), so its one line
//! replays it.

use crate::counts::{Counts, Group};
use crate::faults::End;
use crate::history::{History, OpIndex, Shown};
use crate::invariants::durable::Asked;
use crate::invariants::quiet::{DRAIN_MAX, READ_ATTEMPTS_MAX};
use crate::invariants::{
    DETERMINISM, Invariant, PANIC, Violation, equal, lost, quiet, resurrected, siblings,
};
use crate::ledger::object_key;
use crate::network::HostIndex;
use crate::plan::{Fault, Plan};
use crate::rng::Rng;
use crate::workload::{Client, Sent};
use crate::world::{SECOND, World};
use bytes::Bytes;
use quorate_core::{Key, Mutant, Put, RequestId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hash of all its events.
    pub hash: [u8; 32],
    /// What happened in it.
    pub counts: Counts,
    /// Virtual time that passed, in microseconds.
    pub simulated: u64,
    /// The rule it broke, if any.
    pub violation: Option<Violation>,
}

/// Runs one seed, as a whole. A panic of the core is a broken rule like any other.
pub fn run(seed: u64, mutant: Option<Mutant>, print: bool) -> Outcome {
    let plan = Plan::draw(seed, mutant, print);
    if print {
        println!("{plan:#?}");
    }
    let mut simulation = Simulation::new(plan);
    // The simulation is only looked at for its counts after a panic.
    let ended = quietly(|| std::panic::catch_unwind(AssertUnwindSafe(|| simulation.run())));
    let world = &simulation.world;
    let violation = match ended {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some(Violation {
            invariant: PANIC,
            sentence: LAST_PANIC.take().unwrap_or_default(),
            at: world.now(),
        }),
    };
    Outcome { hash: world.hash(), counts: world.counts.clone(), simulated: world.now(), violation }
}

/// Runs one seed twice and compares.
pub fn run_twice(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let first = run(seed, mutant, false);
    if first.violation.is_some() {
        return first;
    }
    let second = run(seed, mutant, false);
    if first.hash == second.hash {
        return first;
    }
    let sentence = "two runs of this seed have different traces".into();
    let violation = Violation { invariant: DETERMINISM, sentence, at: second.simulated };
    Outcome { violation: Some(violation), ..first }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps a panic's message for the report instead of printing it.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                LAST_PANIC.set(Some(info.to_string().replace('\n', " ")));
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let done = work();
    QUIET.set(false);
    done
}

/// What a bell means.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Act(usize),
    Retry(usize, OpIndex, Asked, Box<Put>),
    GiveUp(usize, RequestId),
    Fault(Fault, u64),
    End(End),
    Crash(HostIndex),
}

/// A key as the oracle knows it.
#[derive(Clone, Debug)]
pub(crate) struct KnownKey {
    pub(crate) name: Key,
    /// Its name on disks.
    pub(crate) object: Bytes,
    pub(crate) owners: Vec<HostIndex>,
}

/// A world with its clients, its faults and its oracle.
#[derive(Clone, Debug)]
pub(crate) struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) world: World,
    pub(crate) history: History,
    pub(crate) keys: Vec<KnownKey>,
    pub(crate) clients: Vec<Client>,
    pub(crate) sent: BTreeMap<RequestId, Sent>,
    /// N as it is: no more than there are members.
    pub(crate) n: u8,
    pub(crate) operations: u32,
    pub(crate) rng_clients: Rng,
    pub(crate) rng_faults: Rng,
    pub(crate) final_reads: BTreeMap<usize, Vec<Shown>>,
    pub(crate) final_failures: Vec<(usize, String)>,
    actions: BTreeMap<u64, Action>,
    last_bell: u64,
    healed: bool,
}

const BUCKET: &[u8] = b"bucket";

impl Simulation {
    fn new(plan: Plan) -> Self {
        let seed = plan.world.seed;
        let n = plan.n_val.min(plan.world.members.len() as u8);
        Self {
            world: World::new(plan.world.clone()),
            history: History::new(plan.keys),
            keys: Vec::new(),
            clients: vec![Client::default(); plan.clients],
            sent: BTreeMap::new(),
            n,
            operations: 0,
            rng_clients: Rng::stream(seed, "clients"),
            rng_faults: Rng::stream(seed, "faults"),
            final_reads: BTreeMap::new(),
            final_failures: Vec::new(),
            actions: BTreeMap::new(),
            last_bell: 0,
            healed: false,
            plan,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.world.set_up(&Bytes::from_static(BUCKET), self.plan.n_val)?;
        self.keys = self.name_keys();
        for client in 0..self.clients.len() {
            let delay = self.rng_clients.below(self.plan.think_max);
            self.later(delay, Action::Act(client));
        }
        self.arm_faults();
        while self.operations < self.plan.operations {
            self.run_for(SECOND / 10)?;
        }
        self.healed = true;
        self.world.heal();
        self.come_to_rest()?;
        self.judge()
    }

    fn name_keys(&self) -> Vec<KnownKey> {
        let partitions = self.world.partitions();
        (0..self.plan.keys)
            .map(|key| {
                let name = Key::new(BUCKET, format!("key {key:02}")).expect("short and not empty");
                let owners = self.world.owners(&name, self.n);
                KnownKey { object: object_key(&name, partitions), name, owners }
            })
            .collect()
    }

    pub(crate) fn later(&mut self, delay: u64, action: Action) {
        self.last_bell += 1;
        self.actions.insert(self.last_bell, action);
        self.world.ring_after(delay, self.last_bell);
    }

    fn run_for(&mut self, span: u64) -> Result<(), Violation> {
        let end = self.world.now() + span;
        self.later(span, Action::Act(usize::MAX));
        while self.world.now() < end && self.world.step() {
            for bell in self.world.take_bells() {
                if let Some(action) = self.actions.remove(&bell) {
                    self.take(action);
                }
            }
            for reply in self.world.take_replies() {
                self.on_reply(reply);
            }
            if let Some(violation) = self.world.violation() {
                return Err(violation.clone());
            }
        }
        Ok(())
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Act(usize::MAX) => {} // Only marks the end of a span.
            Action::GiveUp(client, id) => self.give_up(client, id),
            _ if self.healed => {} // No new work and no faults any more, nor ends of faults.
            Action::Act(client) => self.act(client),
            Action::Retry(client, op, asked, put) => self.retry(client, op, asked, *put),
            Action::Fault(fault, mean) => self.begin_fault(fault, mean),
            Action::End(end) => self.end_fault(end),
            Action::Crash(host) => self.crash(host),
        }
    }

    /// Without faults, everything must settle: requests, hints, and what nodes can vouch for.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        let end = self.world.now() + DRAIN_MAX;
        loop {
            self.run_for(SECOND)?;
            let unready = self.world.views().iter().filter(|view| !view.ready).count();
            let (open, hints) = (self.world.open_requests(), self.world.hints());
            if open == 0 && hints == 0 && unready == 0 {
                break;
            }
            if self.world.now() > end {
                return self.fail(&quiet::THIS, format!(
                    "{} s after healing {hints} hints are left, {open} requests are open and {unready} nodes are not ready",
                    DRAIN_MAX / SECOND
                ));
            }
        }
        // One read repairs what it finds; then all nodes are asked.
        let hosts = self.world.len();
        for key in 0..self.keys.len() {
            self.world_read(&[(key % hosts, key)])?;
        }
        let linger = self.plan.world.config.timing.linger.as_micros();
        self.run_for(linger + 2 * SECOND)?;
        let all: Vec<_> =
            (0..self.keys.len()).flat_map(|key| (0..hosts).map(move |host| (host, key))).collect();
        self.world_read(&all)?;
        self.run_for(linger + 2 * SECOND)?;
        let busy = self.world.hosts.iter().filter(|host| !host.disk.is_idle()).count();
        if busy > 0 || self.world.hints() > 0 {
            let hints = self.world.hints();
            return self
                .fail(&quiet::THIS, format!("{busy} disks still write, {hints} hints are left"));
        }
        Ok(())
    }

    /// Reads these keys through these hosts at R=N until all have succeeded.
    fn world_read(&mut self, wanted: &[(HostIndex, usize)]) -> Result<(), Violation> {
        let timeout = self.plan.world.config.timing.request_timeout.as_micros();
        for attempt in 1.. {
            self.final_failures.clear();
            for &(host, key) in wanted {
                self.final_get(host, key);
            }
            let end = self.world.now() + timeout + 3 * SECOND;
            while self.world.open_requests() > 0 && self.world.now() < end {
                self.run_for(SECOND / 20)?;
            }
            if self.world.open_requests() > 0 {
                return self.fail(&quiet::THIS, "reads after healing are not answered".into());
            }
            let Some((key, why)) = self.final_failures.first().cloned() else { break };
            if attempt == READ_ATTEMPTS_MAX {
                return self.fail(
                    &quiet::THIS,
                    format!(
                        "a read of key {key} at r=n fails {attempt} times after healing: {why}"
                    ),
                );
            }
            self.run_for(3 * SECOND)?;
        }
        Ok(())
    }

    /// What must be true in the end.
    fn judge(&mut self) -> Result<(), Violation> {
        for key in 0..self.keys.len() {
            let known = self.keys[key].clone();
            let object = match equal::check(&self.world, &known.object, &known.owners) {
                Ok(object) => object,
                Err(sentence) => return self.fail(&equal::THIS, format!("key {key}: {sentence}")),
            };
            let mut present = BTreeSet::new();
            for (_, value) in object.values() {
                match resurrected::identify(&self.history, key, &value.bytes) {
                    Ok(op) => present.insert(op),
                    Err(sentence) => return self.fail(&resurrected::THIS, sentence),
                };
            }
            let shown = self.final_reads.get(&key).cloned().unwrap_or_default();
            self.rule(&lost::THIS, lost::check(&self.history, key, &present))?;
            self.rule(&siblings::THIS, siblings::check(&self.history, key, &shown))?;
            if shown.iter().map(|&(op, _)| op).collect::<BTreeSet<_>>() != present {
                let sentence = format!("key {key} shows {shown:?} and its owners hold {present:?}");
                return self.fail(&equal::THIS, sentence);
            }
            self.world.counts.add(Group::Oracle, "keys judged", 1);
            let most = shown.len() as u64;
            if most > 1 {
                self.world.counts.add(Group::Oracle, "keys with siblings in the end", 1);
            }
        }
        let judged = self.history.ops().iter().filter(|op| op.acked).count() as u64;
        self.world.counts.add(Group::Oracle, "acknowledged writes judged", judged);
        Ok(())
    }

    fn rule(&self, rule: &'static Invariant, result: Result<(), String>) -> Result<(), Violation> {
        result.map_err(|sentence| self.world.violated(rule, sentence))
    }

    fn fail<T>(&self, rule: &'static Invariant, sentence: String) -> Result<T, Violation> {
        Err(self.world.violated(rule, sentence))
    }
}
