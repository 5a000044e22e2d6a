//! A load of puts and gets on a three-node cluster of real processes with durable acks: operations a
//! second, latencies, and the servers' CPU time an operation, which is the steadiest figure.
//!
//! ```console
//! $ cargo build --release -p quorate-node
//! $ cargo run --release -p quorate-tests --example load -- [SECONDS [CONNECTIONS [VALUE_BYTES]]]
//! ```
//!
//! Closed loop: every connection (spread over the nodes) sends its next request when the last one
//! was answered. Linux only: CPU time is read from `/proc`.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "figures for people")]

use anyhow::{Context as _, bail, ensure};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 3;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |default| numbers.next().unwrap_or(Ok(default));
    let (seconds, connections, bytes) = (number(10)?, number(50)?, number(100)?);
    let nodes = start()?;
    println!(
        "{NODES} nodes, {connections} connections, {bytes}-byte values, R=W=2, {seconds} s each"
    );
    // Every put makes an object of its own; gets read those.
    let written = AtomicU64::new(0);
    for phase in [Phase::Put, Phase::Get, Phase::Mixed] {
        let span = Duration::from_secs(seconds);
        measure(&nodes, phase, span, connections as usize, bytes as usize, &written)?;
    }
    Ok(())
}

/// A node's process; it ends with this value.
struct Node {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start() -> anyhow::Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..NODES {
        let data = tempfile::tempdir()?;
        let mut command = Command::new(binary()?);
        command.arg("serve").args(["--listen", "127.0.0.1:0", "--log", "warn", "--data"]);
        command.arg(data.path()).stdout(Stdio::piped()).stdin(Stdio::null());
        if let Some(first) = nodes.first() {
            command.args(["--join", &format!("http://{}", first.address)]);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let (_, address) = line.trim().split_once("http://").context("the ready line names it")?;
        nodes.push(Node { child, address: address.into(), _data: data });
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    for node in &nodes {
        loop {
            let mut client = Client::connect(&node.address)?;
            let (_, body) = client.send("GET", "/cluster", &[])?;
            let view: serde_json::Value = serde_json::from_slice(&body)?;
            let members = view["members"].as_array().map_or(0, Vec::len);
            if members == NODES && view["ready"] == true {
                break;
            }
            ensure!(Instant::now() < deadline, "the cluster was not ready in 30 s: {view}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(nodes)
}

fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let path = here.ancestors().nth(2).context("target/…/examples")?.join("quorate");
    ensure!(path.exists(), "{} is missing: cargo build --release -p quorate-node", path.display());
    Ok(path)
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Put,
    Get,
    Mixed,
}

fn measure(
    nodes: &[Node],
    phase: Phase,
    span: Duration,
    connections: usize,
    bytes: usize,
    written: &AtomicU64,
) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    let cpu_before = cpu(nodes)?;
    let started = Instant::now();
    let outcome: anyhow::Result<Vec<Vec<u64>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|worker| {
                let (stop, address) = (&stop, &nodes[worker % nodes.len()].address);
                scope.spawn(move || run(address, phase, worker as u64, bytes, stop, written))
            })
            .collect();
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let mut micros: Vec<u64> = outcome?.into_iter().flatten().collect();
    let (elapsed, cpu) = (started.elapsed(), cpu(nodes)?.saturating_sub(cpu_before));
    micros.sort_unstable();
    let count = micros.len();
    ensure!(count > 0, "nothing was answered");
    let at = |share: f64| micros[((count - 1) as f64 * share) as usize] as f64 / 1_000.0;
    println!(
        "{phase:<6?} {:>7.0} operations/s   {:>6.1} CPU µs an operation (all servers)   p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        count as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        at(0.5),
        at(0.99),
        at(0.999),
    );
    Ok(())
}

/// One connection's closed loop; returns the latencies in microseconds.
fn run(
    address: &str,
    phase: Phase,
    worker: u64,
    bytes: usize,
    stop: &AtomicBool,
    written: &AtomicU64,
) -> anyhow::Result<Vec<u64>> {
    let mut client = Client::connect(address)?;
    let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value = vec![b'v'; bytes];
    let mut micros = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let writes = match phase {
            Phase::Put => true,
            Phase::Get => false,
            Phase::Mixed => random >> 63 == 0,
        };
        let key = if writes {
            written.fetch_add(1, Ordering::Relaxed)
        } else {
            random % written.load(Ordering::Relaxed).max(1)
        };
        let path = format!("/buckets/load/keys/{key}");
        let started = Instant::now();
        let (status, body) = if writes {
            client.send("PUT", &path, &value)?
        } else {
            client.send("GET", &path, &[])?
        };
        micros.push(started.elapsed().as_micros() as u64);
        if !matches!(status, 200 | 204 | 404) {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
    }
    Ok(micros)
}

/// User and system time of all servers so far.
fn cpu(nodes: &[Node]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for node in nodes {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.child.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("a process's name is in brackets")?;
        let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
        for _ in 0..2 {
            ticks += fields.next().context("user and system time")??;
        }
    }
    // Linux counts in hundredths of a second for user space, whatever its own tick.
    Ok(Duration::from_millis(ticks * 10))
}

/// As much of HTTP/1.1 as this load needs, so that the client's CPU time is small.
struct Client {
    stream: BufReader<TcpStream>,
    address: String,
}

impl Client {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), address: address.into() })
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len(),
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("a status line")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}
