//! The plan of a run, drawn from its seed in swarm style: each seed enables a random subset of the
//! faults at random rates, so that some runs are heavy in one kind.

use crate::disk::DiskPlan;
use crate::network::NetworkPlan;
use crate::rng::Rng;
use crate::world::{SECOND, WorldPlan};
use quorate_core::{Config, Duration, MemberConfig, Mutant, Timing};

/// One kind of fault that is injected at random times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One host crashes and restarts after a while.
    Crash,
    /// All hosts crash at once.
    CrashAll,
    /// The hosts fall into two parts.
    Partition,
    /// Messages pass in one direction only between some pairs.
    OneWay,
    /// A link goes down and comes up again for no reason.
    Flap,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk is full for a while.
    FullDisk,
    /// A record at rest is damaged.
    Corrupt,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::Crash,
        Self::CrashAll,
        Self::Partition,
        Self::OneWay,
        Self::Flap,
        Self::SlowDisk,
        Self::FullDisk,
        Self::Corrupt,
    ];
}

/// What clients do, in parts of a thousand.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) gets: u32,
    pub(crate) deletes: u32,
    /// Of the writes: how many carry no context although the client has one.
    pub(crate) blind: u32,
    /// How many writes have a write id.
    pub(crate) named: u32,
    /// How many writes without a certain answer are tried again.
    pub(crate) retries: u32,
    /// How many requests are strict (no fallbacks).
    pub(crate) strict: u32,
    /// How many ask for owners (pr, pw).
    pub(crate) primaries: u32,
    /// How many put requests are followed by a crash of their node within moments.
    pub(crate) crashes: u32,
}

/// The whole plan of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) world: WorldPlan,
    pub(crate) n_val: u8,
    pub(crate) keys: usize,
    pub(crate) clients: usize,
    /// Operations until the faults end.
    pub(crate) operations: u32,
    /// The longest a client waits between two operations.
    pub(crate) think_max: u64,
    /// How long a client waits before it gives up, whatever the node says later.
    pub(crate) patience: u64,
    pub(crate) mix: Mix,
    /// The faults and the mean time between two of the kind.
    pub(crate) faults: Vec<(Fault, u64)>,
    /// How much a value is filled with.
    pub(crate) filling: usize,
}

impl Plan {
    pub(crate) fn draw(seed: u64, mutant: Option<Mutant>, print: bool) -> Self {
        let rng = &mut Rng::stream(seed, "plan");
        let hosts = if rng.per_mille(850) { rng.range(3, 7) } else { rng.range(1, 9) } as usize;
        let (zones, heavy) = (rng.range(1, 3), rng.per_mille(250));
        let members = (0..hosts)
            .map(|_| MemberConfig {
                zone: format!("z{}", rng.below(zones)),
                weight: if heavy { rng.range(1, 3) as u32 } else { 1 },
                ..MemberConfig::default()
            })
            .collect();
        let timing = Timing {
            request_timeout: Duration::from_millis(rng.pick(&[1_000, 3_000, 10_000])),
            peer_timeout: Duration::from_millis(rng.pick(&[100, 300, 1_000])),
            gossip_interval: Duration::from_millis(1_000),
            probe_interval: Duration::from_millis(rng.pick(&[500, 1_000])),
            hint_retry: Duration::from_millis(rng.pick(&[300, 1_000])),
            linger: Duration::from_millis(rng.pick(&[1_000, 5_000])),
        };
        let mut faults = Vec::new();
        for fault in Fault::ALL {
            if rng.per_mille(400) {
                faults.push((fault, rng.range(2, 25) * SECOND));
            }
        }
        let world = WorldPlan {
            seed,
            members,
            partitions: rng.pick(&[8, 16, 32, 64]),
            config: Config { timing, mutant, ..Config::default() },
            network: draw_network(rng),
            disk: draw_disk(rng),
            print,
        };
        Self {
            world,
            n_val: if rng.per_mille(750) { 3 } else { rng.range(1, 2) as u8 },
            keys: rng.pick(&[1, 2, 4, 8, 12]),
            clients: rng.range(1, 8) as usize,
            operations: rng.range(100, 400) as u32,
            think_max: rng.pick(&[5_000, 100_000, 400_000]),
            patience: rng.pick(&[500, 2_000, 12_000]) * 1_000,
            mix: draw_mix(rng),
            faults,
            filling: rng.pick(&[0, 8, 100]),
        }
    }
}

fn draw_network(rng: &mut Rng) -> NetworkPlan {
    let low = rng.pick(&[100, 500, 2_000]);
    let spiky = rng.per_mille(400);
    let mut some = |most: u64| if rng.per_mille(400) { rng.range(1, most) as u32 } else { 0 };
    NetworkPlan {
        loss_per_mille: some(60),
        repeats_per_mille: some(60),
        spikes_per_mille: if spiky { 5 + some(20) } else { 0 },
        delay: (low, low * (1 + u64::from(some(20)))),
        spike_max: 3 * SECOND,
    }
}

fn draw_disk(rng: &mut Rng) -> DiskPlan {
    let low = rng.pick(&[50, 500, 5_000]);
    DiskPlan { commit: (low, low * rng.range(1, 10)), read: (10, rng.pick(&[20, 300, 5_000])) }
}

fn draw_mix(rng: &mut Rng) -> Mix {
    let mut some = |most: u64| if rng.per_mille(600) { rng.range(0, most) as u32 } else { 0 };
    Mix {
        deletes: some(300),
        blind: some(400),
        named: some(1_000),
        retries: some(1_000),
        strict: some(1_000),
        primaries: some(1_000),
        crashes: some(100),
        gets: 200 + some(500),
    }
}
