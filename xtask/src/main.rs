//! Tasks of the project, each with its own set-up: `cargo xtask demo`, `test`, `sim`, `tidy`.

mod demo;
mod setup;
mod sim;
mod steps;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tasks of the project. Each does its own set-up and says what it does and how long that took.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Build and run a local five-node cluster with file storage, and print what to try
    Demo(demo::DemoArgs),
    /// Run everything that CI runs
    Test(test::TestArgs),
    /// Run the simulator over many seeds
    Sim(sim::SimArgs),
    /// Check what no other tool checks: file lengths, leftovers, reasons for lint exceptions
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Tidy => tidy::run(&root()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this crate is a folder of the repository").to_owned()
}

/// Where cargo puts a release binary: beside the folder that holds this one.
fn release_binary(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let target = here.parent().and_then(Path::parent);
    let target = target.ok_or_else(|| anyhow::anyhow!("{} is not in target/", here.display()))?;
    Ok(target.join("release").join(name))
}
