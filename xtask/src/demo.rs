//! `cargo xtask demo`: builds the node and runs `quorate dev`.

use crate::steps::{Runner, Step};
use crate::{release_binary, root};
use anyhow::{Context as _, bail};
use clap::Args;
use std::process::{Command, Stdio};

/// Read by `quorate dev`: stop when standard input is closed.
const STOP_WITH_STDIN: &str = "QUORATE_STOP_WITH_STDIN";

/// What the demo takes.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// How many nodes
    #[arg(long, default_value_t = 5)]
    nodes: u16,
    /// More flags for `quorate dev`, after --
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds, and runs the cluster until Ctrl-C.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    println!(
        "A local cluster of {} real processes: build, start, try. Ctrl-C stops it.",
        args.nodes
    );
    let mut runner = Runner::new(root(), 2);
    runner.run(&Step::cargo("build quorate", "build --release --locked -p quorate-node"))?;
    let binary = release_binary("quorate")?;
    let how = format!("{} dev --nodes {} {}", binary.display(), args.nodes, args.more.join(" "));
    // The terminal sends Ctrl-C to `dev` as well, which stops its nodes; this one only waits.
    ctrlc::set_handler(|| ()).context("cannot listen for Ctrl-C")?;
    runner.step("run the cluster", how.trim(), || {
        let mut child = Command::new(&binary)
            .args(["dev", "--nodes", &args.nodes.to_string()])
            .args(&args.more)
            .env(STOP_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .current_dir(root())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        // `wait` would close the pipe at once: it is kept until the child has ended.
        let pipe = child.stdin.take();
        let status = child.wait()?;
        drop(pipe);
        if status.success() { Ok(()) } else { bail!("the cluster ended with {status}: see above") }
    })?;
    Ok(())
}
