//! Siblings against a model of causal histories: a replica's state is the set of updates it has
//! seen, and a value is there if its update was seen and no seen update was made by a client that
//! had seen the value. The model needs neither counters nor dots to be contiguous.

use crate::util;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use quorate_core::{
    Actor, Dot, Run, Siblings, Value, VersionVector, WRITE_IDS_MAX, WallTime, WriteId,
};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    /// A client reads a replica and keeps the context.
    Read { replica: usize },
    /// A client writes with some context read earlier, or with none. `skip` other writes, of other
    /// keys, took dots of the replica's actor before.
    Write { replica: usize, context: Option<Index>, skip: u64, id: Option<u8>, at: u64 },
    /// A client deletes with a context read earlier.
    Delete { replica: usize, context: Index },
    /// A replica takes in a state that some replica had at some time.
    Merge { replica: usize, state: Index },
    /// A replica loses the object, and goes on under its next actor.
    Forget { replica: usize },
}

const REPLICAS: usize = 4;

fn any_step(ids: std::ops::Range<u8>) -> impl Strategy<Value = Step> {
    let replica = 0..REPLICAS;
    let write = (
        replica.clone(),
        proptest::option::weighted(0.8, any::<Index>()),
        0u64..3,
        proptest::option::of(ids),
        0u64..20,
    );
    prop_oneof![
        3 => replica.clone().prop_map(|replica| Step::Read { replica }),
        5 => write.prop_map(|(replica, context, skip, id, at)| {
            Step::Write { replica, context, skip, id, at }
        }),
        1 => (replica.clone(), any::<Index>())
            .prop_map(|(replica, context)| Step::Delete { replica, context }),
        5 => (replica.clone(), any::<Index>())
            .prop_map(|(replica, state)| Step::Merge { replica, state }),
        1 => replica.prop_map(|replica| Step::Forget { replica }),
    ]
}

fn any_steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(0..5), 1..count)
}

/// A client's write (with the dot it was given) or delete, and all writes the client had seen.
struct Update {
    dot: Option<Dot>,
    after: BTreeSet<Dot>,
}

#[derive(Clone, Default)]
struct State {
    siblings: Siblings,
    /// The updates seen, by number.
    seen: BTreeSet<usize>,
}

#[derive(Default)]
struct World {
    updates: Vec<Update>,
    actors: [u32; REPLICAS],
    counters: [u64; REPLICAS],
    replicas: [State; REPLICAS],
    /// Every state that any replica ever had.
    past: Vec<State>,
    contexts: Vec<(VersionVector, BTreeSet<Dot>)>,
}

impl World {
    fn after(steps: &[Step]) -> Self {
        let mut world = Self {
            past: vec![State::default()],
            contexts: vec![Default::default()],
            ..Self::default()
        };
        for step in steps {
            world.apply(step);
        }
        world
    }

    /// Every write that the updates in `seen` know of.
    fn known(&self, seen: &BTreeSet<usize>) -> BTreeSet<Dot> {
        let updates = seen.iter().map(|&at| &self.updates[at]);
        updates.flat_map(|update| update.after.iter().copied().chain(update.dot)).collect()
    }

    /// The writes in `seen` that no update in it was made in knowledge of.
    fn live(&self, seen: &BTreeSet<usize>) -> BTreeSet<Dot> {
        let updates = || seen.iter().map(|&at| &self.updates[at]);
        let replaced = |dot: &Dot| updates().any(|update| update.after.contains(dot));
        updates().filter_map(|update| update.dot).filter(|dot| !replaced(dot)).collect()
    }

    fn apply(&mut self, step: &Step) {
        let changed = match step {
            Step::Read { replica } => {
                let State { siblings, seen } = &self.replicas[*replica];
                self.contexts.push((siblings.context().clone(), self.known(seen)));
                return;
            }
            Step::Write { replica, context, skip, id, at } => {
                let (context, after) = context.map_or_else(Default::default, |context| {
                    self.contexts[context.index(self.contexts.len())].clone()
                });
                self.counters[*replica] += skip + 1;
                let actor = Actor(Run(*replica as u64), self.actors[*replica]);
                let dot = Dot(actor, self.counters[*replica]);
                let State { siblings, seen } = &mut self.replicas[*replica];
                let would_be = siblings.kept_by_write(&context).0 + 1;
                siblings.write_value(&context, dot, value(dot, *at), id.map(write_id));
                assert_eq!(siblings.len(), would_be, "as announced by len_after_write");
                seen.insert(self.updates.len());
                self.updates.push(Update { dot: Some(dot), after });
                *replica
            }
            Step::Delete { replica, context } => {
                let (context, after) = self.contexts[context.index(self.contexts.len())].clone();
                let State { siblings, seen } = &mut self.replicas[*replica];
                siblings.delete(&context);
                seen.insert(self.updates.len());
                self.updates.push(Update { dot: None, after });
                *replica
            }
            Step::Merge { replica, state } => {
                let state = &self.past[state.index(self.past.len())];
                let mine = &mut self.replicas[*replica];
                let before = mine.siblings.clone();
                let changed = mine.siblings.merge(&state.siblings);
                assert_eq!(changed, mine.siblings != before, "as merge said");
                mine.seen.extend(&state.seen);
                *replica
            }
            Step::Forget { replica } => {
                self.replicas[*replica] = State::default();
                self.actors[*replica] += 1;
                *replica
            }
        };
        self.past.push(self.replicas[changed].clone());
    }

    fn check(&self, state: &State) -> Result<(), TestCaseError> {
        let live: BTreeSet<Dot> = state.siblings.values().map(|(dot, _)| dot).collect();
        prop_assert_eq!(live, self.live(&state.seen));
        for (dot, kept) in state.siblings.values() {
            prop_assert_eq!(&kept.bytes, &value(dot, 0).bytes);
        }
        // The context claims exactly the writes that are known of: no more, or a write would be
        // lost that nobody replaced; no fewer, or a replaced one would come back.
        let known = self.known(&state.seen);
        for dot in self.updates.iter().filter_map(|update| update.dot) {
            prop_assert_eq!(
                state.siblings.context().covers(dot),
                known.contains(&dot),
                "{:?}",
                dot
            );
        }
        prop_assert!(state.siblings.writes().len() <= WRITE_IDS_MAX);
        Ok(())
    }
}

fn value(dot: Dot, at: u64) -> Value {
    Value { bytes: Bytes::from(format!("{dot:?}")), modified: WallTime(at) }
}

fn write_id(id: u8) -> WriteId {
    WriteId::of(&[id])
}

fn merged<'a>(states: impl IntoIterator<Item = &'a Siblings>) -> Siblings {
    let mut all = Siblings::default();
    for state in states {
        all.merge(state);
    }
    all
}

proptest! {
    #![proptest_config(util::cases(512))]

    #[test]
    fn no_update_is_lost_and_nothing_replaced_comes_back(steps in any_steps(60)) {
        let world = World::after(&steps);
        for state in &world.past {
            world.check(state)?;
        }
    }

    #[test]
    fn merge_is_a_join(
        steps in any_steps(80),
        picks in proptest::collection::vec(any::<[Index; 3]>(), 20),
    ) {
        let world = World::after(&steps);
        for pick in picks {
            let [a, b, c] = pick.map(|at| &world.past[at.index(world.past.len())].siblings);
            prop_assert_eq!(merged([a, b]), merged([b, a]), "commutative");
            prop_assert_eq!(merged([&merged([a, b]), c]), merged([a, &merged([b, c])]), "associative");
            prop_assert_eq!(&merged([a, a]), a, "idempotent");
            let mut again = merged([a, b]);
            prop_assert!(!again.merge(a) && !again.merge(b), "what was merged is no news");
        }
    }

    #[test]
    fn replicas_that_saw_the_same_updates_are_equal(
        steps in any_steps(60),
        order in Just((0..REPLICAS).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let world = World::after(&steps);
        let in_order = merged(world.replicas.iter().map(|state| &state.siblings));
        let shuffled = merged(order.iter().map(|&at| &world.replicas[at].siblings));
        prop_assert_eq!(&in_order, &shuffled);
        let seen = world.replicas.iter().flat_map(|state| state.seen.clone()).collect();
        world.check(&State { siblings: in_order, seen })?;
    }

    #[test]
    fn interleaved_stale_writers_leave_at_most_one_sibling_each(
        clients in 1usize..5,
        script in proptest::collection::vec((any::<Index>(), 0..REPLICAS, any::<Index>()), 1..60),
    ) {
        // Each client goes on from the context that its own last write returned and never reads
        // what the others wrote; each write goes to any replica, and replicas rarely merge.
        let mut contexts = vec![VersionVector::default(); clients];
        let mut replicas = <[Siblings; REPLICAS]>::default();
        let mut counters = [0; REPLICAS];
        for (client, replica, other) in script {
            let context = &mut contexts[client.index(clients)];
            counters[replica] += 1;
            let dot = Dot(Actor(Run(replica as u64), 0), counters[replica]);
            replicas[replica].write_value(context, dot, value(dot, 0), None);
            *context = replicas[replica].context().clone();
            prop_assert!(replicas[replica].len() <= clients);
            if let Some(other) = replicas.get(other.index(REPLICAS * 3)).cloned() {
                replicas[replica].merge(&other);
                prop_assert!(replicas[replica].len() <= clients);
            }
        }
        prop_assert!(merged(&replicas).len() <= clients);
    }

    #[test]
    fn a_write_id_that_reached_several_coordinators_shows_once(
        writes in proptest::collection::vec((0..REPLICAS, proptest::option::of(0u8..4)), 1..WRITE_IDS_MAX),
        order in Just((0..REPLICAS).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut replicas = <[Siblings; REPLICAS]>::default();
        let mut expected: BTreeSet<Bytes> = BTreeSet::new();
        for (counter, &(replica, id)) in (1..).zip(&writes) {
            let dot = Dot(Actor(Run(replica as u64), 0), counter);
            // A retry carries the bytes of the first attempt.
            let bytes = id.map_or_else(|| value(dot, 0).bytes, |id| Bytes::from(vec![id]));
            expected.insert(bytes.clone());
            let value = Value { bytes, modified: WallTime(counter) };
            let blind = VersionVector::default();
            replicas[replica].write_value(&blind, dot, value, id.map(write_id));
        }
        let all = merged(order.iter().map(|&at| &replicas[at]));
        prop_assert_eq!(all.len(), writes.len(), "merge collapses nothing");
        let shown: Vec<Bytes> = all.shown().iter().map(|(_, value)| value.bytes.clone()).collect();
        prop_assert_eq!(shown.len(), expected.len());
        prop_assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), expected);
        for id in writes.iter().filter_map(|&(_, id)| id) {
            let record = all.write(write_id(id)).unwrap();
            let (_, value) = all.values().find(|(dot, _)| *dot == record.dot).unwrap();
            prop_assert_eq!(&value.bytes[..], &[id]);
        }
    }
}

#[test]
fn the_newest_write_ids_are_remembered_when_their_values_are_gone() {
    let mut siblings = Siblings::default();
    let count = WRITE_IDS_MAX as u64 + 4;
    for counter in 1..=count {
        let dot = Dot(Actor(Run(1), 0), counter);
        let context = siblings.context().clone();
        siblings.write_value(&context, dot, value(dot, counter), Some(write_id(counter as u8)));
    }
    let context = siblings.context().clone();
    siblings.delete(&context);
    assert!(siblings.is_tombstone());
    assert_eq!(siblings.writes().len(), WRITE_IDS_MAX);
    assert!(siblings.write(write_id(4)).is_none());
    assert_eq!(siblings.write(write_id(5)).unwrap().dot.1, 5);
    assert_eq!(siblings.write(write_id(count as u8)).unwrap().dot.1, count);
}
