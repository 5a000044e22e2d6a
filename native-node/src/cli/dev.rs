//! `quorate dev`: a cluster of real processes on this machine, for trying things out.
//!
//! Invariant: the nodes don't outlive this command. It stops them when it is told to stop, and each
//! stops by itself when the pipe that is its standard input closes, which happens however this
//! command ends (see [`stop_with_stdin`](super::stop_with_stdin)).

use super::client::{Call, Client, NodeArgs};
use super::exit::{CliError, Exit};
use super::node_process::{NodeProcess, NodeSpec};
use super::status::table;
use super::views::ClusterView;
use super::{STOP_WITH_STDIN, stdin_closed};
use clap::Args;
use reqwest::{Method, StatusCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How long the nodes may take to find each other.
const READY_TIME_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// The largest object of a development cluster.
const OBJECT_BYTES_MAX: u64 = 16 << 20;

/// Run a local cluster of real processes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate dev                                  # five nodes on ports 8098 to 8102
  quorate dev --nodes 3 --base-port 9000 --data /tmp/three --fresh

Every node is a process of its own with its files in DIR/node-N and its log in DIR/node-N.log. Kill
one with kill -9 and see what the others do; the command line to start it again is printed. Ctrl-C
stops them all. What they stored stays, and is there again at the next start, unless --fresh.")]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// The first node's port; the others follow. 0: any free ports
    #[arg(long, value_name = "PORT", default_value_t = 8098)]
    base_port: u16,
    /// Where the nodes keep their files
    #[arg(long, value_name = "DIR", default_value = ".quorate/dev")]
    data: PathBuf,
    /// Remove what an earlier run stored there
    #[arg(long)]
    fresh: bool,
    /// Start a node again when it dies (default: tell, and leave it down)
    #[arg(long)]
    restart: bool,
}

/// Runs `dev`.
pub async fn dev(args: &DevArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let stop = stop_signal()?;
    let specs = prepare(args)?;
    say!("Starting {} nodes, logs in {}", specs.len(), args.data.join("node-N.log").display());
    let (stop_all, is_stopping) = watch::channel(false);
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for spec in &specs {
        let process =
            NodeProcess::new(spec.clone(), args.restart, tell.clone(), is_stopping.clone());
        tasks.push(tokio::spawn(process.keep()));
    }
    drop(tell);
    let outcome = tokio::select! {
        outcome = run(&specs, &mut told, started) => outcome,
        why = stop => {
            say!("\n{why}: stopping {} nodes", specs.len());
            Ok(())
        }
    };
    // The receivers live in the tasks; if all have ended, there is nobody to stop.
    stop_all.send(true).ok();
    for task in tasks {
        task.await.map_err(|e| CliError::failed(format!("a node's keeper broke off: {e}")))?;
    }
    if outcome.is_ok() {
        say!("Stopped. What was stored is in {}", args.data.display());
    }
    outcome
}

async fn run(
    specs: &[NodeSpec],
    told: &mut mpsc::UnboundedReceiver<String>,
    started: Instant,
) -> Result<(), CliError> {
    tokio::select! {
        ready = until_ready(specs) => ready?,
        // Before the cluster is ready, a node that ends is a reason to give up.
        death = first_death(told) => return Err(CliError::failed(death)),
    }
    introduce(specs, started);
    while let Some(text) = told.recv().await {
        say!("{text}");
    }
    Err(CliError::failed("every node has ended: start again, or look into the logs"))
}

async fn first_death(told: &mut mpsc::UnboundedReceiver<String>) -> String {
    told.recv().await.unwrap_or_else(|| "every node has ended: look into the logs".into())
}

/// Folders, ports and command lines.
fn prepare(args: &DevArgs) -> Result<Vec<NodeSpec>, CliError> {
    let dir = |n: u16| args.data.join(format!("node-{n}"));
    if args.fresh {
        remove_nodes(&args.data)?;
    }
    std::fs::create_dir_all(&args.data).map_err(|e| CliError::file("make", &args.data, &e))?;
    let there = count_nodes(&args.data);
    if there != 0 && there != args.nodes {
        let (nodes, data) = (args.nodes, args.data.display());
        return Err(CliError::new(
            Exit::Usage,
            format!(
                "{data} holds a cluster of {there} nodes, not {nodes}: start it with --nodes \
                 {there}, remove it with --fresh, or give another --data"
            ),
        ));
    }
    let ports = ports(args.base_port, args.nodes)?;
    let binary = std::env::current_exe()
        .map_err(|e| CliError::failed(format!("cannot find this command's own file: {e}")))?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let spec = |(n, &port): (u16, &u16)| NodeSpec {
        name: format!("n{n}"),
        url: url(port),
        listen: format!("127.0.0.1:{port}"),
        data: dir(n),
        log: args.data.join(format!("node-{n}.log")),
        join: (n > 1).then(|| url(ports[0])),
        object_bytes_max: OBJECT_BYTES_MAX,
        binary: binary.clone(),
        pid: Arc::default(),
    };
    Ok((1..).zip(&ports).map(spec).collect())
}

fn node_dirs(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let is_node = |name: &str| {
        name.strip_prefix("node-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_node))
        .map(|entry| entry.path())
        .collect()
}

fn count_nodes(data: &Path) -> u16 {
    u16::try_from(node_dirs(data).len()).unwrap_or(u16::MAX)
}

/// Removes the nodes' folders and nothing else.
fn remove_nodes(data: &Path) -> Result<(), CliError> {
    for dir in node_dirs(data) {
        std::fs::remove_dir_all(&dir).map_err(|e| CliError::file("remove", &dir, &e))?;
    }
    Ok(())
}

/// Checks that the ports are free before anything is started; 0 asks the system for free ones.
fn ports(base: u16, nodes: u16) -> Result<Vec<u16>, CliError> {
    let wanted = |n: u16| match base {
        0 => Ok(0),
        base => base.checked_add(n).ok_or_else(|| {
            CliError::new(Exit::Usage, format!("{nodes} ports from {base} go beyond 65535"))
        }),
    };
    let mut held = Vec::new();
    for n in 0..nodes {
        let port = wanted(n)?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
            CliError::failed(format!(
                "port {port} cannot be used ({error}): stop what listens there, or choose others \
                 with --base-port"
            ))
        })?;
        held.push(listener);
    }
    let port = |listener: &std::net::TcpListener| listener.local_addr().map(|at| at.port());
    let ports = held.iter().map(port).collect::<Result<_, _>>();
    ports.map_err(|e| CliError::failed(format!("the system gives no port: {e}")))
}

/// Waits until every node counts all members and is ready.
async fn until_ready(specs: &[NodeSpec]) -> Result<(), CliError> {
    let started = Instant::now();
    let nodes = specs.iter().map(|spec| spec.url.clone()).collect();
    let client = Client::new(&NodeArgs { nodes })?;
    for spec in specs {
        loop {
            let lacks = match view(&client, &spec.url).await {
                Ok(view) => lacks(&view, specs.len()),
                Err(error) => Some(error.message),
            };
            let Some(lacks) = lacks else { break };
            if started.elapsed() > READY_TIME_MAX {
                let (name, log) = (&spec.name, spec.log.display());
                let text = format!("{name} is not ready ({lacks}): its log is {log}");
                return Err(CliError::new(Exit::Unavailable, text));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

async fn view(client: &Client, url: &str) -> Result<ClusterView, CliError> {
    let call = Call::new(Method::GET, "/cluster");
    let answer = client.ask(&super::client::parse_node(url)?, &call).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.error(url));
    }
    ClusterView::parse(&answer.body)
}

fn lacks(view: &ClusterView, members: usize) -> Option<String> {
    if view.members.len() < members {
        return Some(format!("it knows {} of {members} members", view.members.len()));
    }
    if !view.ready {
        return Some(view.not_ready.join(", "));
    }
    None
}

fn introduce(specs: &[NodeSpec], started: Instant) {
    let mut out = String::new();
    let rows = specs.iter().map(|spec| {
        let pid = spec.pid().map_or("?".into(), |pid| pid.to_string());
        vec![spec.name.clone(), spec.url.clone(), pid, spec.data.display().to_string()]
    });
    table(&mut out, &["NODE", "URL", "PID", "FILES"], rows.collect());
    let url = |n: usize| &specs[n % specs.len()].url;
    let victim = &specs[specs.len() - 1];
    say!(
        "\n{out}\nReady after {:.1} s. Try, in another terminal:\n",
        started.elapsed().as_secs_f64()
    );
    say!(
        "  curl -i -X PUT -H 'Content-Type: text/plain' -d 'hello' {}/buckets/demo/keys/greeting",
        url(0)
    );
    say!("  curl -i {}/buckets/demo/keys/greeting", url(1));
    say!("  curl -i -X DELETE {}/buckets/demo/keys/greeting\n", url(2));
    let binary = victim.binary.display();
    say!("  {binary} status --all --node {}", url(0));
    say!("  {binary} import SOME-FOLDER --node {}", url(0));
    if let Some(pid) = victim.pid() {
        say!("  kill -9 {pid}   # {} dies; the others go on", victim.name);
    }
    say!("\nCtrl-C stops all nodes.");
}

/// Ends, with the reason, when somebody wants this command to stop.
fn stop_signal() -> Result<impl Future<Output = &'static str>, CliError> {
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    let with_stdin = std::env::var_os(STOP_WITH_STDIN).is_some();
    Ok(async move {
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => match interrupt {
                Ok(()) => "Ctrl-C",
                Err(_) => "Ctrl-C cannot be heard",
            },
            _ = terminate.recv() => "Told to stop",
            _ = hang_up.recv() => "The terminal went away",
            () = stdin_closed(), if with_stdin => "The command that started this one ended",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_folders_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["node-1", "node-22", "node-x", "mine"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(count_nodes(dir.path()), 2);
        remove_nodes(dir.path()).unwrap();
        assert!(dir.path().join("mine").exists() && dir.path().join("node-x").exists());
        assert_eq!(count_nodes(dir.path()), 0);
    }

    #[test]
    fn a_port_in_use_is_told_before_anything_starts() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = ports(port, 1).unwrap_err();
        assert!(error.message.contains("--base-port"), "{error}");
        assert_eq!(ports(65_535, 2).unwrap_err().exit, Exit::Usage);
        let free = ports(0, 3).unwrap();
        assert!(free[0] != free[1] && free[1] != free[2]);
    }

    #[test]
    fn a_node_that_lacks_members_or_is_not_ready_is_waited_for() {
        let mut view = ClusterView { ready: true, ..ClusterView::default() };
        assert!(lacks(&view, 1).unwrap().contains("0 of 1"));
        view.members.push(crate::cli::views::Member::default());
        assert_eq!(lacks(&view, 1), None);
        view.ready = false;
        assert!(lacks(&view, 1).is_some());
    }
}
