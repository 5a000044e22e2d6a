//! Measures a file store: `cargo run --release --example store_bench -- DIR [SECONDS]`.
//!
//! Durable groups of 32 commits of 1 KiB from one caller that waits for each group; random reads
//! through the threads; both at once; and 100-byte commits from 50 callers that each wait for theirs.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use quorate_core::{OpId, Space, StoreCommand, StoreReply, Write};
use quorate_node::store::{Completion, FileOptions, Opened, StoreThread, open_file};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().context("name a directory that does not exist yet")?);
    ensure!(!dir.exists(), "{} exists: name a directory that does not", dir.display());
    let seconds = args.next().map_or(Ok(5), |text| text.to_string_lossy().parse())?;

    let Opened { store, .. } = open_file(&dir, &FileOptions::default())?;
    let (sender, answers) = mpsc::channel();
    let done = move |completions| sender.send(completions).unwrap_or(());
    let threads = StoreThread::start(store, done)?;
    let mut bench =
        Bench { threads, answers, op: 0, random: 1, life: Duration::from_secs(seconds) };

    let keys = bench.durable_groups("groups of 32 x 1 KiB", 32, 1_024)?;
    bench.random_reads("random reads, 32 in flight", keys, 32)?;
    bench.random_reads("random reads, 1 in flight", keys, 1)?;
    bench.reads_beside_commits(keys)?;
    bench.callers("100-byte commits, 50 callers", 50, 100)?;
    let Bench { threads, .. } = bench;
    let stats = threads.stats();
    let closing = Instant::now();
    threads.close()?;
    println!("closed in {:?}; {stats:?}", closing.elapsed());
    let opening = Instant::now();
    let opened = open_file(&dir, &FileOptions::default())?;
    println!("opened again in {:?}: {opened:?}", opening.elapsed());
    Ok(())
}

struct Bench {
    threads: StoreThread,
    answers: Receiver<Vec<Completion>>,
    op: u64,
    random: u64,
    life: Duration,
}

impl Bench {
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 24
    }
    fn next_op(&mut self) -> OpId {
        self.op += 1;
        OpId(self.op)
    }
    fn put(&mut self, number: u64, bytes: usize) -> (OpId, StoreCommand) {
        let value: Vec<u8> =
            (0..bytes.div_ceil(4)).flat_map(|_| (self.random() as u32).to_le_bytes()).collect();
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        let value = Some(Bytes::from(value).slice(..bytes));
        let writes = vec![Write { space: Space::Objects, key, value }];
        (self.next_op(), StoreCommand::Commit { writes })
    }
    fn read(&mut self, keys: u64) -> (OpId, StoreCommand) {
        let key = Bytes::copy_from_slice(&(self.random() % keys).to_be_bytes());
        (self.next_op(), StoreCommand::Read { space: Space::Objects, key })
    }
    /// Waits for answers; returns how many reads and commits there were.
    fn answers(&self) -> Result<(u64, u64)> {
        let (mut reads, mut commits) = (0, 0);
        for (_, result) in self.answers.recv()? {
            match result? {
                StoreReply::Committed => commits += 1,
                StoreReply::Value { value, .. } => {
                    ensure!(value.is_some(), "a record is missing");
                    reads += 1;
                }
                StoreReply::Page { .. } => {}
            }
        }
        Ok((reads, commits))
    }

    fn durable_groups(&mut self, what: &str, count: u64, bytes: usize) -> Result<u64> {
        let report = Report::begin(what);
        let mut keys = 0;
        while report.began.elapsed() < self.life {
            let group: Vec<_> = (keys..keys + count).map(|key| self.put(key, bytes)).collect();
            self.threads.submit(group);
            let mut waiting = count;
            while waiting > 0 {
                waiting -= self.answers()?.1;
            }
            keys += count;
        }
        report.end(keys);
        Ok(keys)
    }

    fn random_reads(&mut self, what: &str, keys: u64, in_flight: u64) -> Result<()> {
        let report = Report::begin(what);
        let (mut sent, mut done) = (0, 0);
        while report.began.elapsed() < self.life {
            let batch: Vec<_> = (sent - done..in_flight).map(|_| self.read(keys)).collect();
            sent += batch.len() as u64;
            self.threads.submit(batch);
            done += self.answers()?.0;
        }
        while done < sent {
            done += self.answers()?.0;
        }
        report.end(done);
        Ok(())
    }

    fn reads_beside_commits(&mut self, keys: u64) -> Result<()> {
        let report = Report::begin("reads, 1 in flight, beside groups of 32 x 1 KiB");
        let (mut reads, mut commits, mut reading, mut writing) = (0, 0, 0, 0);
        let mut slowest = Duration::ZERO;
        let mut sent = Instant::now();
        while report.began.elapsed() < self.life || reading + writing > 0 {
            let go_on = report.began.elapsed() < self.life;
            if reading == 0 && go_on {
                reading = 1;
                sent = Instant::now();
                let read = self.read(keys);
                self.threads.submit([read]);
            }
            if writing == 0 && go_on {
                writing = 32;
                let group: Vec<_> = (0..32).map(|_| self.random() % keys).collect();
                let group: Vec<_> = group.into_iter().map(|key| self.put(key, 1_024)).collect();
                self.threads.submit(group);
            }
            let (read, committed) = self.answers()?;
            if read > 0 {
                slowest = slowest.max(sent.elapsed());
            }
            (reads, commits) = (reads + read, commits + committed);
            (reading, writing) = (reading - read, writing - committed);
        }
        println!("  of these {commits} commits; the slowest read took {slowest:?}");
        report.end(reads + commits);
        Ok(())
    }

    fn callers(&mut self, what: &str, callers: u64, bytes: usize) -> Result<()> {
        let fsyncs = self.threads.stats().fsyncs.load(Relaxed);
        let report = Report::begin(what);
        let (mut waiting, mut done) = (0, 0);
        while report.began.elapsed() < self.life || waiting > 0 {
            if report.began.elapsed() < self.life {
                let puts: Vec<_> = (waiting..callers)
                    .map(|_| self.random() % 1_000_000)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|key| self.put(key, bytes))
                    .collect();
                waiting += puts.len() as u64;
                self.threads.submit(puts);
            }
            let (_, commits) = self.answers()?;
            waiting -= commits;
            done += commits;
        }
        println!("  {} fsyncs", self.threads.stats().fsyncs.load(Relaxed) - fsyncs);
        report.end(done);
        Ok(())
    }
}

struct Report {
    what: String,
    began: Instant,
    cpu_micros: u64,
}

impl Report {
    fn begin(what: &str) -> Self {
        Self { what: what.to_owned(), began: Instant::now(), cpu_micros: cpu_micros() }
    }
    fn end(self, operations: u64) {
        let cpu_tenths = (cpu_micros() - self.cpu_micros) * 10 / operations;
        let rate = u128::from(operations) * 1_000 / self.began.elapsed().as_millis();
        let (micros, tenths) = (cpu_tenths / 10, cpu_tenths % 10);
        println!("{}: {rate} operations/s, {micros}.{tenths} µs of CPU each", self.what);
    }
}

/// CPU time of this process, all threads, from `/proc` (zero where there is none).
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 10_000
}
