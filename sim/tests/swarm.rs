//! A short swarm in every test run; `cargo xtask sim --seeds N` runs longer ones.

use quorate_sim::{Group, Mutant, run, run_twice};

#[test]
fn fifty_seeds_of_mixed_faults_keep_every_invariant() {
    for seed in 1..=50 {
        let outcome = run_twice(seed, None);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}; replay: cargo xtask sim --seed {seed} --trace");
        }
        assert!(outcome.counts.get(Group::Operations, "gets") > 0, "seed {seed} did nothing");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run(1, None, false).hash, run(2, None, false).hash);
}

#[test]
fn every_mutant_is_caught() {
    for (name, mutant) in Mutant::ALL {
        let caught = (1..=150).any(|seed| run(seed, Some(mutant), false).violation.is_some());
        assert!(caught, "{name} survives 150 seeds: the oracle has a blind spot");
    }
}
