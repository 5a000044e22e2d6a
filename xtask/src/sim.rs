//! `cargo xtask sim`.

use clap::Args;

/// What the simulation takes.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
}

/// Runs it.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    anyhow::bail!("the simulator is not merged: {} seeds were not run", args.seeds)
}
