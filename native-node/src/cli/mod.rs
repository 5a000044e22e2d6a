//! The command line: what `quorate` takes and how it ends.
//!
//! Invariant: whatever goes wrong is one line on stderr and a documented exit code.

/// Prints a line on stdout. A reader that has gone away (`| head`) is no failure of the command.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout().lock(), $($line)*).ok();
    }};
}

mod bulk;
mod client;
mod dev;
mod exit;
mod export;
mod import;
mod listing;
mod names;
mod node_process;
mod object;
mod receipt;
mod status;
mod views;
mod walk;

use crate::serve::ServeArgs;
use clap::{Parser, Subcommand};
use exit::{CliError, EXIT_CODES, one_line};
use std::process::ExitCode;

/// In the environment of a node that `quorate dev` starts, and of a `dev` that a script starts: stop
/// when standard input is closed, so that it does not outlive who started it.
const STOP_WITH_STDIN: &str = "QUORATE_STOP_WITH_STDIN";

/// Amazon's Dynamo as a database of your own: a replicated key-value store that stays writable
/// through crashes and partitions.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, after_help = GENERAL_HELP.as_str(), subcommand_required = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

static GENERAL_HELP: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    format!(
        "\
Examples:
  quorate dev --nodes 5                       # a cluster on this machine
  quorate put cart 42 --value '2 apples'
  quorate get cart 42
  quorate import ./photos && quorate status --all

{EXIT_CODES}"
    )
});

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node
    Serve(ServeArgs),
    /// Run a local cluster of real processes
    Dev(dev::DevArgs),
    /// Read an object
    Get(object::GetArgs),
    /// Write an object
    Put(object::PutArgs),
    /// Delete an object
    Delete(object::DeleteArgs),
    /// Store every file of a folder as an object
    Import(import::ImportArgs),
    /// Write every object of a bucket as a file
    Export(export::ExportArgs),
    /// Show the cluster as a node sees it
    Status(status::StatusArgs),
}

/// Parses the command line, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => match cli.command {
            Command::Serve(args) => return runtime.block_on(serve(args)),
            command => runtime.block_on(command.run()),
        },
        Err(error) => Err(CliError::failed(format!("the system gives no threads: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {}", one_line(&error.message));
            error.exit.into()
        }
    }
}

impl Command {
    async fn run(self) -> Result<(), CliError> {
        match self {
            Self::Serve(_) => unreachable!("it has exit codes of its own and is run by `main`"),
            Self::Dev(args) => dev::dev(&args).await,
            Self::Get(args) => object::get(&args).await,
            Self::Put(args) => object::put(&args).await,
            Self::Delete(args) => object::delete(&args).await,
            Self::Import(args) => import::import(&args).await,
            Self::Export(args) => export::export(&args).await,
            Self::Status(args) => status::status(&args).await,
        }
    }
}

async fn serve(args: ServeArgs) -> ExitCode {
    if std::env::var_os(STOP_WITH_STDIN).is_some() {
        stop_with_stdin();
    }
    match crate::serve::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {}", one_line(&error.to_string()));
            error.exit_code()
        }
    }
}

/// Stops this process as SIGTERM would once its standard input is closed.
fn stop_with_stdin() {
    tokio::spawn(async {
        stdin_closed().await;
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM)
            .expect("a process may always signal itself");
    });
}

/// Ends when standard input does; what is written there is thrown away. The reading thread may
/// block until the process ends, so it is none of the runtime's, which would wait for it.
async fn stdin_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end, too.
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
        // Nobody waits any more if the process stops for another reason.
        closed.send(()).ok();
    });
    wait.await.ok();
}

/// JSON for scripts, on stdout.
fn print_json(value: &serde_json::Value) {
    say!("{value:#}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use exit::Exit;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        let cli = Cli::command();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("quorate {}", command.get_name())), "{help}");
        }
    }

    #[test]
    fn exit_codes_are_documented() {
        for exit in [Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Unavailable, Exit::Conflict] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
