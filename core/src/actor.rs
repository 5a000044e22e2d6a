//! Who names this node's dots (§4.4).
//!
//! Invariant: an actor names dots on a key only while everything it named there before is durably
//! here. `{a: 9}` claims every earlier dot of `a`; a node that forgot some of them and counted on
//! would make acknowledged writes vanish without an error. So no run resumes an actor of another,
//! and whatever makes a node forget makes it leave its actors behind.

use crate::id::{Actor, Run};
use crate::record::HintRecord;
use crate::siblings::Siblings;
use crate::version::{Dot, VersionVector};

/// Who names this node's dots.
#[derive(Clone, Debug)]
pub(crate) struct Actors {
    /// As an owner: one actor with one counter over all keys.
    owner: Actor,
    counter: u64,
    /// The next actor of this run.
    next: u32,
    /// Actors before this one may have named dots that were forgotten.
    trusted_from: u32,
}

impl Actors {
    pub(crate) fn new(run: Run) -> Self {
        Self { owner: Actor(run, 0), counter: 0, next: 1, trusted_from: 0 }
    }

    /// The dot of an owner's next write, on an object whose context is known.
    pub(crate) fn owner_dot(&mut self, object: &Siblings, context: &VersionVector) -> Dot {
        // The context of a client or a peer cannot know more of our actor than we do; if it does
        // all the same, we have forgotten something.
        let known = |actor| object.context().get(actor).max(context.get(actor));
        while known(self.owner) > self.counter {
            self.rotate();
        }
        self.counter += 1;
        Dot(self.owner, self.counter)
    }
    /// The dot of a fallback's next write, under the actor that lives with its hint.
    pub(crate) fn hint_dot(&mut self, hint: &HintRecord, context: &VersionVector) -> Dot {
        let Actor(run, _) = self.owner;
        let named = |actor: Actor| hint.siblings.context().get(actor);
        let trusted = |actor: &Actor| {
            actor.0 == run
                && actor.1 >= self.trusted_from
                && context.get(*actor) <= named(*actor)
                && named(*actor) < u64::MAX
        };
        if let Some(actor) = hint.actor.filter(trusted) {
            return Dot(actor, named(actor) + 1);
        }
        let mut actor = self.fresh();
        while named(actor).max(context.get(actor)) > 0 {
            actor = self.fresh();
        }
        Dot(actor, 1)
    }
    fn fresh(&mut self) -> Actor {
        let actor = Actor(self.owner.0, self.next);
        self.next += 1;
        actor
    }
    /// Leaves all actors behind: something that one of them named may be forgotten.
    pub(crate) fn rotate(&mut self) {
        self.trusted_from = self.next;
        self.owner = self.fresh();
        self.counter = 0;
    }
}
