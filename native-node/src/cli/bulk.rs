//! What `import` and `export` share: limits, the progress bar, the list of failures, the summary.
//!
//! Invariant: a failure is never only counted; its object and its reason are told.

use super::client::NodeArgs;
use super::exit::{CliError, one_line};
use super::print_json;
use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An import or export stops after this many failures: something is wrong with all of them.
pub const FAILURES_MAX: usize = 1_000;
/// Failures that are printed in full; the rest are counted (all of them are in `--json`).
const FAILURES_SHOWN_MAX: usize = 20;
/// Bodies in memory at once, over all jobs.
pub const BODY_BYTES_IN_FLIGHT_MAX: u64 = 256 << 20;

/// Flags of both directions.
#[derive(Args, Clone, Debug)]
pub struct BulkArgs {
    /// The bucket (default: the folder's name)
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Objects in flight at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: u16,
    /// How long to go on with an object when nodes do not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub retry_for: u32,
    /// Compare the stored bytes of what seems to be there already, instead of the SHA-256 that the
    /// import kept beside them
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

impl BulkArgs {
    /// How long to go on with one object.
    pub fn patience(&self) -> super::client::Patience {
        super::client::Patience::For(Duration::from_secs(u64::from(self.retry_for)))
    }
    /// The bucket: as given, or the folder's name.
    pub fn bucket(&self, dir: &std::path::Path) -> Result<String, CliError> {
        if let Some(bucket) = &self.bucket {
            return Ok(bucket.clone());
        }
        let real = std::path::absolute(dir).map_err(|e| CliError::file("find", dir, &e))?;
        let real = real.canonicalize().unwrap_or(real);
        let name = real.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        name.ok_or_else(|| {
            let text = format!("{} has no name to call the bucket by", dir.display());
            CliError::new(super::exit::Exit::Usage, format!("{text}: give --bucket NAME"))
        })
    }
}

/// What happened so far, told while it happens.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    bar: ProgressBar,
    /// Objects moved.
    pub moved: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Objects that were there already.
    pub unchanged: AtomicU64,
    failures: Mutex<Vec<(String, String)>>,
    stopped: AtomicBool,
}

impl Progress {
    /// Starts the clock; draws a bar if somebody watches. `total`: objects, if known.
    pub fn start(verb: &str, total: Option<u64>, json: bool) -> Self {
        let bar = match total {
            _ if json || !std::io::stderr().is_terminal() => ProgressBar::hidden(),
            Some(total) => ProgressBar::new(total).with_style(style(
                "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} {msg} {eta}",
            )),
            None => ProgressBar::new_spinner()
                .with_style(style("{prefix} {spinner} {human_pos} {per_sec} {msg}")),
        };
        bar.set_prefix(verb.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            started: Instant::now(),
            bar,
            moved: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            failures: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
        }
    }

    /// One object was moved.
    pub fn moved(&self, bytes: u64) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.set_message(HumanBytes(bytes).to_string());
        self.bar.inc(1);
    }

    /// One object was there already.
    pub fn unchanged(&self) {
        self.unchanged.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(1);
    }

    /// One object failed.
    pub fn failed(&self, what: &str, reason: &str) {
        let reason = one_line(reason);
        let mut failures = self.failures.lock().expect("no code panics while it holds the list");
        if failures.len() < FAILURES_SHOWN_MAX {
            self.bar.suspend(|| eprintln!("failed: {what}: {reason}"));
        }
        failures.push((what.to_owned(), reason));
        if failures.len() >= FAILURES_MAX {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.bar.inc(1);
    }

    /// Something worth saying that is no failure.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// So many failures that going on makes no sense?
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Prints the summary; tells how many objects failed. `more` is added to the JSON.
    pub fn finish(&self, verb: &str, place: &str, retries: u64, json: bool, more: &Value) -> usize {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let failures = self.failures.lock().expect("no code panics while it holds the list");
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (moved, bytes, unchanged) = (of(&self.moved), of(&self.bytes), of(&self.unchanged));
        if json {
            let told =
                |(object, reason): &(String, String)| json!({"object": object, "reason": reason});
            let mut summary = json!({
                "objects": moved, "bytes": bytes, "unchanged": unchanged,
                "seconds": (seconds * 1000.0).round() / 1000.0,
                "retries": retries,
                "failures": failures.iter().map(told).collect::<Vec<_>>(),
                "stopped": self.is_stopped(),
            });
            if let (Some(summary), Some(more)) = (summary.as_object_mut(), more.as_object()) {
                summary.extend(more.clone());
            }
            print_json(&summary);
        } else {
            if failures.len() > FAILURES_SHOWN_MAX {
                eprintln!("failed: … and {} more", failures.len() - FAILURES_SHOWN_MAX);
            }
            say!(
                "{verb} {} objects ({}) {place} in {seconds:.1} s; {} unchanged, {} retries, {} failures",
                HumanCount(moved),
                HumanBytes(bytes),
                HumanCount(unchanged),
                HumanCount(retries),
                HumanCount(failures.len() as u64),
            );
        }
        failures.len()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant and well-formed")
}

/// The SHA-256 of a body, in hexadecimal.
pub fn sha256_hex(body: &[u8]) -> String {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64);
    for byte in sha2::Sha256::digest(body) {
        write!(out, "{byte:02x}").expect("a string takes all");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_everybody_computes() {
        // FIPS 180-4, example B.1.
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), want);
    }

    #[test]
    fn too_many_failures_stop_the_work() {
        let progress = Progress::start("test", Some(1), true);
        for _ in 1..FAILURES_MAX {
            progress.failed("x", "y");
        }
        assert!(!progress.is_stopped());
        progress.failed("x", "y");
        assert!(progress.is_stopped());
        assert_eq!(progress.finish("t", "", 0, true, &json!({})), FAILURES_MAX);
    }
}
