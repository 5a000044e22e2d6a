//! `quorate serve`: opens the store, starts the node's task, its links and its port, and ends them
//! in the right order.
//!
//! Invariants: nothing is served before the store is open; the port closes first and the store
//! last, so that what was promised to a client or a peer is on disk; a process whose node cannot go
//! on ends with a reason and an exit code that is not zero.

use crate::config::{ConfigError, Data, FILE_HELP, PARTITIONS_DEFAULT, Settings};
use crate::driver::{Clock, Driver, Metrics, Stopped};
use crate::handle::NodeHandle;
use crate::http::{self, HttpLimits};
use crate::listen::{self, ListenError};
use crate::peers::hello::Identity;
use crate::peers::{Options, Peers, address::Address};
use crate::store::{self, FileOptions, OpenError, Opened, StoreThread, open_file, open_memory};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use quorate_core::{
    Boot, ClusterId, Config, Found, Limits, Node, NodeView, Run, Secret, StoreError,
};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Commands of clients that wait for the node's task; more wait in their connections.
const COMMANDS_WAITING_MAX: usize = 1_024;

/// Exit code after a panic, from sysexits: an internal software error.
pub const EXIT_PANIC: i32 = 70;
/// Exit code when the node stopped because its store failed: an input/output error.
pub const EXIT_STOPPED: u8 = 74;

/// Start a node: found a cluster, join one, or go on with the one the data directory belongs to.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_long_help = FILE_HELP)]
pub struct ServeArgs {
    /// Directory of the store; made if it does not exist. A node is its disk: one directory each.
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keep records in memory instead of --data: all is gone at the end, identity included.
    #[arg(long, env = "QUORATE_MEMORY", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub memory: Option<bool>,
    /// Address of the one port for HTTP and peers; loopback only in this version. Port 0 takes a
    /// free one. [default: 127.0.0.1:8098]
    #[arg(long, env = "QUORATE_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Where peers reach this node. [default: where it listens]
    #[arg(long, env = "QUORATE_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// Members to ask for admission, several with commas; retried until one admits this node.
    /// Without it a new data directory founds a cluster. Needed at the first start only.
    #[arg(long, env = "QUORATE_JOIN", value_name = "URL", value_delimiter = ',', num_args = 1..)]
    pub join: Vec<String>,
    /// Name for people; not an identity. [default: the first digits of the node's id]
    #[arg(long, env = "QUORATE_NAME")]
    pub name: Option<String>,
    /// Failure zone (rack, room): replicas go to distinct zones where possible. [default: default]
    #[arg(long, env = "QUORATE_ZONE")]
    pub zone: Option<String>,
    /// Share of the partitions relative to other members. [default: 1]
    #[arg(long, env = "QUORATE_WEIGHT")]
    pub weight: Option<u32>,
    /// TOML file with any of these settings; its keys are below.
    #[arg(long, env = "QUORATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Partitions of a new cluster: a power of two, fixed for ever; about 10 or more a node at the
    /// size the cluster may reach. [default: 256]
    #[arg(long, env = "QUORATE_PARTITIONS", value_name = "Q")]
    pub partitions: Option<u32>,
    /// Id of a new cluster. [default: random]
    #[arg(long, env = "QUORATE_CLUSTER_ID", value_name = "32 HEX DIGITS")]
    pub cluster_id: Option<String>,
    /// Go on although this disk lost acknowledged data: what only it held is given up for good.
    #[arg(long, env = "QUORATE_ACCEPT_LOSS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub accept_loss: Option<bool>,
    /// This data directory was restored from a copy taken earlier: what it holds may be old, so the
    /// node vouches for a key only once it was repaired from other nodes. Give it once.
    #[arg(long)]
    pub restored: bool,
    /// Longest object body, up to 64MiB. [default: 1MiB]
    #[arg(long, env = "QUORATE_OBJECT_BYTES_MAX", value_name = "BYTES")]
    pub object_bytes_max: Option<String>,
    /// Bytes kept for other nodes while they are down (hinted handoff). [default: 4GiB]
    #[arg(long, env = "QUORATE_HINT_BYTES_MAX", value_name = "BYTES")]
    pub hint_bytes_max: Option<String>,
    /// What is logged to stderr: a level, or a filter as in `warn,quorate_node::peers=debug`.
    /// [default: info,fjall=warn,lsm_tree=warn]
    #[arg(long, env = "QUORATE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Log JSON lines.
    #[arg(long, env = "QUORATE_LOG_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_json: Option<bool>,
}

/// Why a node could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log filter cannot be read.
    #[error("log={0}: {1}; write a level (info) or a filter (warn,quorate_node::peers=debug)")]
    LogFilter(String, String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The node has stopped for ever.
    #[error("the node has stopped: {0}")]
    Stopped(#[from] Stopped),
    /// The store did not end cleanly.
    #[error("the store did not end cleanly: {0}")]
    Store(#[from] StoreError),
    /// The system refused something that every process needs.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}

impl ServeError {
    /// What the process ends with: 2 for wrong settings (as for a wrong command line),
    /// [`EXIT_STOPPED`] if the node's store failed, 1 for anything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::LogFilter(..) => ExitCode::from(2),
            Self::Stopped(_) | Self::Store(_) => ExitCode::from(EXIT_STOPPED),
            _ => ExitCode::from(1),
        }
    }
}

/// Runs a node until a signal or a failure ends it. The whole process belongs to it: it sets up
/// logging and the panic hook.
pub async fn run(args: ServeArgs) -> Result<(), ServeError> {
    let settings = Settings::resolve(args)?;
    start_logging(&settings)?;
    end_process_on_panic();
    let mut interrupt = Interrupt::install()?;
    let opened = open_store(&settings).await?;
    let (listener, bound) = listen::bind(settings.listen).await?;
    let server = Server::start(&settings, opened, listener, Address::of(bound))?;
    server.run(interrupt.first()).await
}

/// A started node.
struct Server {
    driver: Driver,
    peers: Peers,
    store: Arc<StoreThread>,
    listener: TcpListener,
    router: axum::Router,
}

impl Server {
    fn start(
        settings: &Settings,
        opened: Opened,
        listener: TcpListener,
        bound: Address,
    ) -> Result<Self, ServeError> {
        let run = Run(random()?);
        let advertise = settings.advertise.clone().unwrap_or_else(|| bound.clone());
        let config = node_config(settings, &opened, &advertise);
        let fresh = opened.meta.is_empty();
        let boot = Boot {
            node: opened.node,
            run,
            meta: opened.meta,
            found: found(settings)?,
            lost_commits: opened.lost_commits || (settings.restored && !fresh),
            accept_loss: settings.accept_loss,
        };
        let clock = Clock::start();
        let node = Node::new(config, boot, random()?, clock.now());
        let view = node.view();
        say_start(settings, &view, fresh);

        let (peers, inbound) =
            Peers::new(Options::new(Identity::new(opened.node, run)), view.cluster);
        let (done, stored) = mpsc::unbounded_channel();
        let store = StoreThread::start(opened.store, move |batch| {
            // After the node's task has ended nobody asks any more.
            done.send(batch).ok();
        })?;
        let store = Arc::new(store);
        let submit = Arc::clone(&store);
        let (handle, commands) = NodeHandle::channel(COMMANDS_WAITING_MAX);
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        peers.stats().register(&mut registry);
        registry.register_collector(Box::new(StoreMetrics(store.stats())));
        let limits = HttpLimits {
            object_bytes_max: usize::try_from(settings.object_bytes_max).unwrap_or(usize::MAX),
            ..HttpLimits::default()
        };
        let api = http::router(http::State::new(handle, limits, registry));
        let router = peers.router().merge(api);
        peers.join(settings.join.iter().filter(|&seed| *seed != bound).cloned().collect());
        tracing::info!(node = %opened.node, %run, address = %bound, "listening");
        say_ready(&format!("quorate: node {} listening on {bound}", opened.node));
        let driver = Driver {
            node,
            clock,
            peers: peers.clone(),
            inbound,
            commands,
            store: Box::new(move |commands| submit.submit(commands)),
            stored,
            metrics,
        };
        Ok(Self { driver, peers, store, listener, router })
    }

    /// Serves until `stop` is ready or the node stops, then ends everything in order.
    async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let (closed, mut port_closed) = watch::channel(false);
        let node = tokio::spawn(self.driver.run(async move {
            port_closed.wait_for(|closed| *closed).await.ok();
        }));
        let mut node = node;
        let (stop_port, mut stopping) = watch::channel(false);
        let port = tokio::spawn(listen::serve(self.listener, self.router, async move {
            stopping.wait_for(|stopping| *stopping).await.ok();
        }));
        let early = tokio::select! {
            ended = &mut node => Some(ended),
            () = stop => None,
        };
        let stopped = if let Some(ended) = early {
            ended
        } else {
            tracing::info!("stopping: requests in flight finish, a second signal ends at once");
            stop_port.send_replace(true);
            port.await.ok();
            self.peers.close("the node is shutting down").await;
            closed.send_replace(true);
            node.await
        };
        // A panic of the task has ended the process already; this is what is left for the compiler.
        let stopped = stopped.unwrap_or_else(|error| Err(Stopped(error.to_string())));
        if let Err(reason) = &stopped {
            tracing::error!(%reason, "the node has stopped and the process ends");
            self.peers.close("the node has stopped").await;
        }
        let closed = close_store(self.store).await;
        stopped?;
        closed?;
        tracing::info!("stopped; the store is closed");
        Ok(())
    }
}

/// The store answers what it was given, syncs and ends.
async fn close_store(store: Arc<StoreThread>) -> Result<(), StoreError> {
    let closing = tokio::task::spawn_blocking(move || match Arc::into_inner(store) {
        Some(store) => store.close(),
        None => Err(StoreError::Io("the node's task still uses it".into())),
    });
    closing.await.unwrap_or_else(|error| Err(StoreError::Io(error.to_string())))
}

/// Opens the store beside the runtime: recovering a journal may take a while.
async fn open_store(settings: &Settings) -> Result<Opened, ServeError> {
    let data = settings.data.clone();
    let (done, opened) = tokio::sync::oneshot::channel();
    let open = move || {
        let opened = match data {
            Data::Directory(dir) => open_file(&dir, &FileOptions::default()).map_err(Into::into),
            Data::Memory => open_memory().map_err(Into::into),
        };
        done.send(opened).ok();
    };
    std::thread::Builder::new().name(format!("{STORE_THREADS}open")).spawn(open)?;
    let gone = |_| std::io::Error::other("the thread that opens the store has ended");
    opened.await.map_err(gone)?
}

fn node_config(settings: &Settings, opened: &Opened, advertise: &Address) -> Config {
    let mut member = settings.member.clone();
    if member.name.is_empty() {
        member.name = opened.node.to_string();
        member.name.truncate(8);
    }
    member.addresses = vec![advertise.to_string()];
    let limits = Limits { hint_bytes_max: settings.hint_bytes_max, ..Limits::default() };
    Config { member, limits, ..Config::default() }
}

/// The cluster to found if the disk belongs to none: without seeds there is nobody to ask.
fn found(settings: &Settings) -> Result<Option<Found>, ServeError> {
    if !settings.join.is_empty() {
        return Ok(None);
    }
    let cluster = match settings.cluster {
        Some(cluster) => cluster,
        None => ClusterId(random()?, random()?),
    };
    let partitions = settings.partitions.unwrap_or(PARTITIONS_DEFAULT);
    let secret = Secret([random()?, random()?, random()?, random()?]);
    let found = Found::new(cluster, partitions, secret);
    Ok(Some(found.expect("the settings were checked with the same function")))
}

fn random() -> std::io::Result<u64> {
    getrandom::u64().map_err(std::io::Error::other)
}

/// What a person wants to know of a start, and where the settings and the disk disagree.
fn say_start(settings: &Settings, view: &NodeView, fresh: bool) {
    let Some(cluster) = view.cluster else {
        tracing::info!("a member of no cluster yet: asking for admission");
        return;
    };
    if fresh {
        tracing::info!(%cluster, partitions = view.partitions, "founded a cluster");
        return;
    }
    tracing::info!(%cluster, partitions = view.partitions, "going on in the cluster of this disk");
    if let Some(wanted) = settings.partitions.filter(|&wanted| wanted != view.partitions) {
        tracing::warn!(
            wanted,
            actual = view.partitions,
            "--partitions has no effect: the number is fixed when a cluster is founded"
        );
    }
    if let Some(wanted) = settings.cluster.filter(|&wanted| wanted != cluster) {
        tracing::warn!(%wanted, actual = %cluster, "--cluster-id has no effect: this disk belongs to a cluster");
    }
}

/// The store's own counts as `/metrics` shows them.
#[derive(Debug)]
struct StoreMetrics(Arc<store::Stats>);

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let stats = &self.0;
        for (name, help, value) in [
            ("quorate_engine_reads", "Records read one by one", &stats.reads),
            ("quorate_engine_scans", "Pages of records read", &stats.scans),
            ("quorate_engine_commits", "Commits made durable", &stats.commits),
            ("quorate_engine_commit_bytes", "Bytes in those commits", &stats.commit_bytes),
            ("quorate_engine_fsyncs", "Groups of commits, one fsync each", &stats.fsyncs),
            ("quorate_engine_fsync_micros", "Microseconds spent on groups", &stats.fsync_micros),
            ("quorate_engine_corrupt", "Commands that met a damaged record", &stats.corrupt),
            ("quorate_engine_full", "Commits refused for want of space", &stats.full),
            ("quorate_engine_io", "Commands that failed for good", &stats.io),
        ] {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

/// The one line on stdout that scripts wait for.
fn say_ready(line: &str) {
    let mut out = std::io::stdout();
    // Whoever started the node may have closed its stdout; the log says it, too.
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

fn start_logging(settings: &Settings) -> Result<(), ServeError> {
    let wrong = |error: &dyn std::fmt::Display| {
        ServeError::LogFilter(settings.log.clone(), error.to_string())
    };
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(&settings.log)
        .map_err(|error| wrong(&error))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let set = if settings.log_json {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.try_init()
    };
    // Only a test that runs several nodes in one process has logging already.
    if let Err(error) = set {
        tracing::debug!(error, "logging was set up before");
    }
    Ok(())
}

/// The beginning of the names of the threads on which the store turns panics into errors itself.
const STORE_THREADS: &str = "store-";

/// A panic is a bug, and a node that goes on after one could answer wrongly: the process ends.
/// Panics of the storage engine, of which some mean a damaged file, become errors of the store.
fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = name, place, %backtrace, "panic: {text}");
        if !name.starts_with(STORE_THREADS) {
            tracing::error!("this is a bug in quorate; the process ends (exit code {EXIT_PANIC})");
            std::process::exit(EXIT_PANIC);
        }
    }));
}

/// SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once.
struct Interrupt(mpsc::UnboundedReceiver<()>);

impl Interrupt {
    fn install() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (first, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for count in 0.. {
                let number = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                    _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                };
                if count > 0 || first.send(()).is_err() {
                    // By convention 128 and the signal's number.
                    std::process::exit(128 + number);
                }
            }
        });
        Ok(Self(asked))
    }

    async fn first(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "QUORATE_TEST_PANIC_ON_THREAD";

    /// Runs this test binary again; the child panics on a thread of that name.
    fn exit_code_of_a_panic_on(thread: &str) -> Option<i32> {
        let test = "serve::tests::a_panic_ends_the_process_unless_the_store_handles_it";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture"]).env(CHILD, thread);
        child.output().unwrap().status.code()
    }

    #[test]
    fn a_panic_ends_the_process_unless_the_store_handles_it() {
        if let Ok(name) = std::env::var(CHILD) {
            end_process_on_panic();
            let thread = std::thread::Builder::new().name(name);
            assert!(thread.spawn(|| panic!("on purpose")).unwrap().join().is_err());
            return;
        }
        assert_eq!(exit_code_of_a_panic_on("tokio-rt-worker"), Some(EXIT_PANIC));
        assert_eq!(exit_code_of_a_panic_on("store-commit"), Some(0));
    }

    #[test]
    fn errors_end_the_process_with_a_code_that_is_not_zero() {
        for (error, code) in [
            (ServeError::Stopped(Stopped("the disk is gone".into())), EXIT_STOPPED),
            (ServeError::LogFilter("x".into(), "y".into()), 2),
            (ServeError::System(std::io::Error::other("no threads")), 1),
        ] {
            assert_eq!(format!("{:?}", error.exit_code()), format!("{:?}", ExitCode::from(code)));
        }
    }
}
