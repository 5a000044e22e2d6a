//! The rules that every run must keep, one a file, checked from outside: by what clients saw and
//! by what is on the disks.

pub(crate) mod answered;
pub(crate) mod durable;
pub(crate) mod equal;
pub(crate) mod informative;
pub(crate) mod lost;
pub(crate) mod never_forgets;
pub(crate) mod quiet;
pub(crate) mod read_your_writes;
pub(crate) mod resurrected;
pub(crate) mod siblings;

use std::fmt;

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Invariant {
    /// Its name in reports.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// Where it comes from: a section of the paper, or the failure it guards against.
    pub source: &'static str,
}

/// All rules.
pub const TABLE: [&Invariant; 10] = [
    &lost::THIS,
    &resurrected::THIS,
    &siblings::THIS,
    &equal::THIS,
    &answered::THIS,
    &durable::THIS,
    &read_your_writes::THIS,
    &informative::THIS,
    &never_forgets::THIS,
    &quiet::THIS,
];

/// The name under which a panic of the core is reported.
pub const PANIC: &str = "no panic";
/// The name under which two runs of one seed that differ are reported.
pub const DETERMINISM: &str = "same seed, same run";

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub invariant: &'static str,
    /// What happened.
    pub sentence: String,
    /// When, in microseconds of virtual time.
    pub at: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, us) = (self.at / 1_000_000, self.at % 1_000_000);
        write!(f, "`{}` is broken at {s}.{us:06} s: {}", self.invariant, self.sentence)
    }
}
