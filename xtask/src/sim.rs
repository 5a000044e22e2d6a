//! `cargo xtask sim`: runs seeds of the simulator on all cores, each twice, and prints what
//! happened; a failure prints the one line that replays it.

use anyhow::{Context as _, bail};
use quorate_sim::{Counts, Mutant, Outcome, SECOND, TABLE, Violation, run as run_seed, run_twice};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs the simulator over many seeds.
#[derive(Debug, clap::Args)]
pub struct SimArgs {
    /// How many seeds to run
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this one seed only
    #[arg(long, conflicts_with_all = ["seeds", "from", "mutants"])]
    seed: Option<u64>,
    /// Print every event of the one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Break this rule of the core on purpose
    #[arg(long, value_parser = parse_mutant)]
    mutant: Option<NamedMutant>,
    /// Break each rule in turn and show which invariant notices at which seed
    #[arg(long, conflicts_with = "mutant")]
    mutants: bool,
    /// Go on after a failure and list all of them
    #[arg(long)]
    keep_going: bool,
    /// Print the table of invariants
    #[arg(long)]
    invariants: bool,
}

/// A mutant and its name on the command line.
#[derive(Clone, Copy, Debug)]
struct NamedMutant(&'static str, Mutant);

fn parse_mutant(text: &str) -> Result<NamedMutant, String> {
    let found = Mutant::ALL.iter().find(|(name, _)| *name == text);
    found.map(|&(name, mutant)| NamedMutant(name, mutant)).ok_or_else(|| {
        let names: Vec<_> = Mutant::ALL.iter().map(|(name, _)| *name).collect();
        format!("choose one of {}", names.join(", "))
    })
}

/// Seeds that each mutant has to be caught in.
const MUTANT_SEEDS: u64 = 200;

/// Runs the command.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    if args.invariants {
        for rule in TABLE {
            println!("{}\n    promise: {}\n    source:  {}", rule.name, rule.promise, rule.source);
        }
        return Ok(());
    }
    if args.mutants {
        return run_mutants(args);
    }
    if let Some(seed) = args.seed {
        return run_one(seed, args);
    }
    println!(
        "sim: seeds {}..{}, each twice, on {} cores",
        args.from,
        args.from + args.seeds,
        cores()
    );
    let mutant = args.mutant.map(|named| named.1);
    let batch = run_batch(args.from, args.seeds, mutant, true, args.keep_going)?;
    println!("{}", batch.counts);
    let simulated = batch.simulated / SECOND;
    println!(
        "{} seeds twice in {:.1} s: {} seeds/s, {simulated} s of virtual time",
        batch.done,
        batch.elapsed.as_secs_f32(),
        per_second(batch.done, batch.elapsed),
    );
    for (seed, violation) in batch.failed.iter().skip(1) {
        println!("also seed {seed}: {violation}");
    }
    match batch.failed.into_iter().next() {
        None => Ok(()),
        Some((seed, violation)) => fail(seed, &violation, args.mutant),
    }
}

fn fail(seed: u64, violation: &Violation, mutant: Option<NamedMutant>) -> anyhow::Result<()> {
    println!("seed {seed}: {violation}");
    if let Some(rule) = TABLE.iter().find(|rule| rule.name == violation.invariant) {
        println!("  promised: {}\n  source:   {}", rule.promise, rule.source);
    }
    let mutant = mutant.map(|named| format!(" --mutant {}", named.0)).unwrap_or_default();
    println!("replay: cargo xtask sim --seed {seed}{mutant} --trace");
    bail!("a rule was broken: replay it with the line above")
}

fn run_one(seed: u64, args: &SimArgs) -> anyhow::Result<()> {
    let mutant = args.mutant.map(|named| named.1);
    let outcome = if args.trace { run_seed(seed, mutant, true) } else { run_twice(seed, mutant) };
    println!("{}", outcome.counts);
    let hash = outcome.hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    println!("seed {seed}: {} s of virtual time, trace {hash}", outcome.simulated / SECOND);
    match outcome.violation {
        None => Ok(()),
        Some(violation) => fail(seed, &violation, args.mutant),
    }
}

/// Runs each mutant over many seeds. A seed that fails without the mutant too proves nothing.
fn run_mutants(args: &SimArgs) -> anyhow::Result<()> {
    println!("each mutant in seeds {}..{}", args.from, args.from + MUTANT_SEEDS);
    println!("{:<18} {:>10} {:>6}  caught by", "mutant", "first seed", "seeds");
    let mut missed = Vec::new();
    for (name, mutant) in Mutant::ALL {
        let failed = run_batch(args.from, MUTANT_SEEDS, Some(mutant), false, true)?.failed;
        if let Some((seed, _)) = failed.first()
            && let Some(violation) = run_seed(*seed, None, false).violation
        {
            fail(*seed, &violation, None)?;
        }
        let mut by_rule: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (seed, violation) in &failed {
            by_rule.entry(violation.invariant).or_insert((*seed, 0)).1 += 1;
        }
        let mut rows: Vec<_> = by_rule.into_iter().collect();
        rows.sort_by_key(|(_, (first, _))| *first);
        for (rule, (first, seeds)) in rows {
            println!("{name:<18} {first:>10} {seeds:>6}  {rule}");
        }
        if failed.is_empty() {
            println!("{name:<18} {:>10} {:>6}  nothing", "-", 0);
            missed.push(name);
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        bail!("not caught: {}; the simulator has a blind spot", missed.join(", "))
    }
}

/// What came of many seeds.
struct Batch {
    counts: Counts,
    done: u64,
    simulated: u64,
    elapsed: Duration,
    /// The seeds that failed, in order.
    failed: Vec<(u64, Violation)>,
}

/// A rate with one digit after the point.
fn per_second(count: u64, elapsed: Duration) -> String {
    let tenths = u128::from(count) * 10_000 / elapsed.as_millis().max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs seeds on all cores until one fails or, with `keep_going`, all. The failure named first is the smallest seed's, whatever
/// the threads did: all seeds below it have been run.
fn run_batch(
    from: u64,
    seeds: u64,
    mutant: Option<Mutant>,
    show: bool,
    keep_going: bool,
) -> anyhow::Result<Batch> {
    let (next, stop, started) = (AtomicU64::new(from), AtomicBool::new(false), Instant::now());
    let outcomes: Mutex<BTreeMap<u64, Outcome>> = Mutex::default();
    let progress = show && std::io::stderr().is_terminal();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                break;
            }
            // A mutant's first run tells enough.
            let outcome =
                if show { run_twice(seed, mutant) } else { run_seed(seed, mutant, false) };
            if outcome.violation.is_some() && !keep_going {
                stop.store(true, Ordering::Relaxed);
            }
            let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(seed, outcome);
            if progress && (all.len().is_multiple_of(10) || all.len() as u64 == seeds) {
                let rate = per_second(all.len() as u64, started.elapsed());
                eprint!("\r{} of {seeds} seeds, {rate} seeds/s ", all.len());
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores()).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(std::thread::ScopedJoinHandle::join)
    })
    .ok()
    .context("a worker of the simulator panicked outside of a run")?;
    if progress {
        eprintln!();
    }
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut batch = Batch {
        counts: Counts::default(),
        done: outcomes.len() as u64,
        simulated: 0,
        elapsed: started.elapsed(),
        failed: Vec::new(),
    };
    for (seed, outcome) in outcomes {
        batch.counts.merge(&outcome.counts);
        batch.simulated += outcome.simulated;
        if let Some(violation) = outcome.violation {
            batch.failed.push((seed, violation));
        }
    }
    Ok(batch)
}
