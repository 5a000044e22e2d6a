//! A world of Quorate nodes on virtual time: real [`quorate_core::Node`]s on a simulated network
//! and simulated disks, driven by one seed, judged from outside.
//!
//! A run has phases: the cluster is set up through its own protocol; clients work while faults
//! happen (safety); everything is healed and must settle in bounded time (liveness); then an
//! oracle judges what clients saw and what the disks hold. The rules are in [`TABLE`].

mod counts;
mod disk;
mod faults;
mod history;
mod invariants;
mod ledger;
mod network;
mod plan;
mod rng;
mod run;
mod trace;
mod workload;
mod world;

pub use counts::{Counts, Group};
pub use disk::DiskPlan;
pub use invariants::{DETERMINISM, Invariant, PANIC, TABLE, Violation};
pub use network::{HostIndex, NetworkPlan};
pub use quorate_core::Mutant;
pub use rng::Rng;
pub use run::{Outcome, run, run_twice};
pub use trace::Trace;
pub use world::{ClientReply, Late, SECOND, World, WorldPlan};
