//! Tasks of the project.
mod sim;

use clap::Parser as _;

#[derive(clap::Parser)]
enum Cli {
    /// Runs the simulator
    Sim(sim::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Sim(args) => sim::run(args),
    }
}
