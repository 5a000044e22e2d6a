//! `cargo xtask test`: all that CI runs, in the order in which mistakes are cheapest to find.
//!
//! Invariant: the product's binary is built by itself, so that the simulator's feature `mutants` (which
//! a build of the whole workspace would switch on in the core) is never in it.

use crate::steps::{Runner, Step};
use crate::{release_binary, root, setup, tidy};
use clap::Args;

/// Seeds that the tests run; `cargo xtask sim --seeds N` runs more.
const SEEDS: u32 = 2_000;
/// Whole-system tests at once: each runs up to five nodes.
const SYSTEM_TESTS_AT_ONCE: u32 = 2;

/// What the tests take.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// Seeds of the simulation
    #[arg(long, default_value_t = SEEDS)]
    seeds: u32,
}

/// Runs every step; the first failure ends it.
pub fn run(args: &TestArgs) -> anyhow::Result<()> {
    let quorate = release_binary("quorate")?.display().to_string();
    let steps = [
        Step::cargo("format", "fmt --all --check"),
        Step::cargo("lints", "clippy --locked --workspace --all-targets -- -D warnings"),
        Step::cargo(
            "the core in a browser",
            "check --locked -p quorate-core --target wasm32-unknown-unknown",
        ),
        Step::cargo("documentation", "doc --locked --workspace --no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
        Step::cargo("unit and doc tests", "test --locked --workspace --exclude quorate-tests")
            .counting_tests(),
        Step::cargo(
            "simulation",
            &format!("run --release --locked --quiet -p xtask -- sim --seeds {}", args.seeds),
        ),
        Step::cargo(
            "mutants are caught",
            "run --release --locked --quiet -p xtask -- sim --mutants",
        ),
        Step::cargo("build quorate", "build --release --locked -p quorate-node"),
        Step::cargo(
            "whole-system tests",
            &format!("test --locked -p quorate-tests -- --test-threads {SYSTEM_TESTS_AT_ONCE}"),
        )
        .env("QUORATE_BIN", quorate)
        .counting_tests(),
    ];
    let mut runner = Runner::new(root(), steps.len() + 2);
    let outcome = all(&mut runner, &steps);
    runner.summary();
    // The summary ends with the closing line; what failed was said where it failed.
    if outcome.is_err() {
        std::process::exit(1);
    }
    Ok(())
}

fn all(runner: &mut Runner, steps: &[Step]) -> anyhow::Result<()> {
    runner.step("set-up", "rustup's components and the WebAssembly target", || {
        setup::components()?;
        setup::wasm_target()
    })?;
    runner.step("tidy", "cargo xtask tidy", || tidy::run(&root()))?;
    for step in steps {
        runner.run(step)?;
    }
    Ok(())
}
