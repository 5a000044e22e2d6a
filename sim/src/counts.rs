//! What happened in runs, counted for the totals.

use std::collections::BTreeMap;
use std::fmt;

/// Which table a number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// What clients asked.
    Operations,
    /// What they were told.
    Outcomes,
    /// What went wrong on purpose.
    Faults,
    /// What nodes and network did about it.
    World,
    /// What the oracle had to excuse or could not judge.
    Oracle,
}

impl Group {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Operations, "operations"),
        (Self::Outcomes, "outcomes"),
        (Self::Faults, "faults"),
        (Self::World, "world"),
        (Self::Oracle, "oracle"),
    ];
}

/// Numbers by group and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(Group, &'static str), u64>);

impl Counts {
    /// Adds to one number.
    pub fn add(&mut self, group: Group, name: &'static str, more: u64) {
        *self.0.entry((group, name)).or_insert(0) += more;
    }
    /// One number; zero if it never happened.
    pub fn get(&self, group: Group, name: &'static str) -> u64 {
        self.0.get(&(group, name)).copied().unwrap_or(0)
    }
    /// Adds all numbers of other runs.
    pub fn merge(&mut self, other: &Self) {
        for (&(group, name), &more) in &other.0 {
            self.add(group, name, more);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, title) in Group::ALL {
            writeln!(f, "{title}")?;
            for ((_, name), count) in self.0.iter().filter(|((of, _), _)| *of == group) {
                writeln!(f, "  {count:>12}  {name}")?;
            }
        }
        Ok(())
    }
}
