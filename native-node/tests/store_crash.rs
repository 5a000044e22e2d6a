//! Crashes and losses of a file store: what was acknowledged survives `kill -9`; what is
//! missing all the same is noticed.
//!
//! The process that is killed is this test binary itself, running `the_child`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use quorate_core::{OpId, Space, StoreCommand, StoreReply, Write};
use quorate_node::store::{Commit, FileOptions, OpenError, Opened, Scan, StoreThread, open_file};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD_DIR: &str = "QUORATE_TEST_STORE_DIR";
const CHILD_FIRST: &str = "QUORATE_TEST_STORE_FIRST";

/// Small memtables, so that tables are written and journals change while commits go on.
fn options() -> FileOptions {
    FileOptions { memtable_bytes: 1 << 20, ..FileOptions::default() }
}

fn open(dir: &Path) -> Opened {
    open_file(dir, &options()).unwrap()
}

/// Commit `n` writes these: a small record, a large one in another space, and a counter.
fn writes(n: u64) -> Vec<Write> {
    let write = |space, key: &[u8], value: Vec<u8>| Write {
        space,
        key: Bytes::copy_from_slice(key),
        value: Some(value.into()),
    };
    let number = n.to_be_bytes();
    vec![
        write(Space::Objects, &number, number.to_vec()),
        write(Space::Hints, &number, number.repeat(1 + n as usize % 2_000)),
        write(Space::Meta, b"counter", number.to_vec()),
    ]
}

/// Fails unless the store holds exactly the commits `1..=last`, each whole, for some
/// `last >= acknowledged`; returns `last`.
fn check_whole(opened: &Opened, acknowledged: u64) -> u64 {
    let reader = opened.store.reader();
    let numbers = |space| -> Vec<u64> {
        let entries = reader.scan(&Scan::all(space)).unwrap().entries;
        let number = |bytes: &Bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap());
        entries
            .iter()
            .map(|(key, value)| {
                let (key, value) = (number(key), value.as_ref().unwrap());
                let expected = &writes(key)[usize::from(space == Space::Hints)];
                assert_eq!(Some(value), expected.value.as_ref());
                key
            })
            .collect()
    };
    let objects = numbers(Space::Objects);
    let last = objects.len() as u64;
    assert!(last >= acknowledged, "{acknowledged} commits were acknowledged and {last} are there");
    assert_eq!(objects, (1..=last).collect::<Vec<_>>(), "in order, without a gap");
    assert_eq!(numbers(Space::Hints), objects, "commits are whole");
    let counter =
        opened.meta.first().map_or(0, |(_, v)| u64::from_be_bytes(v[..].try_into().unwrap()));
    assert_eq!(counter, last, "commits are whole");
    last
}

/// Not a test of its own: commits until it is killed, and prints what was acknowledged.
#[test]
fn the_child() {
    let (Some(dir), Ok(first)) = (std::env::var_os(CHILD_DIR), std::env::var(CHILD_FIRST)) else {
        return;
    };
    let done = |completions: Vec<(OpId, Result<StoreReply, _>)>| {
        let mut out = std::io::stdout().lock();
        for (op, result) in completions {
            assert_eq!(result, Ok(StoreReply::Committed));
            writeln!(out, "acknowledged {}", op.0).unwrap();
        }
        out.flush().unwrap();
    };
    let threads = StoreThread::start(open(&PathBuf::from(dir)).store, done).unwrap();
    for op in first.parse().unwrap().. {
        threads.submit([(OpId(op), StoreCommand::Commit { writes: writes(op) })]);
        // Groups of several commits, and never so far ahead that memory fills.
        if op % 8 == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Runs the child on `dir` for a while, kills it, and returns the last commit it acknowledged.
fn run_and_kill(dir: &Path, first: u64, life: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = std::thread::spawn(move || {
        let number = |line: String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
        lines.map_while(Result::ok).filter_map(number).last()
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap().unwrap_or(first - 1)
}

#[test]
fn whatever_was_acknowledged_survives_kill_9_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    let mut rounds_with_acknowledgements = 0;
    for round in 0..12 {
        // Moments spread over opening, the first commits and full speed.
        let life = Duration::from_millis(20 + u64::from(getrandom::u32().unwrap() % 250));
        let acknowledged = run_and_kill(dir.path(), last + 1, life);
        let opened = open(dir.path());
        assert!(!opened.lost_commits, "round {round}");
        rounds_with_acknowledgements += u32::from(acknowledged > last);
        last = check_whole(&opened, acknowledged);
    }
    assert!(rounds_with_acknowledgements >= 3, "the test must see commits: {last}");
    assert!(last > 100, "the test must see commits: {last}");
}

/// A directory with commits `1..=commits`, one fsync each, ended cleanly or just dropped.
fn filled(dir: &Path, commits: u64, cleanly: bool) {
    let mut store = open(dir).store;
    for op in 1..=commits {
        let commit = Commit { op: OpId(op), writes: writes(op) };
        assert_eq!(store.commit(&[commit]), [Ok(())]);
    }
    if cleanly {
        store.close().unwrap();
    }
}

fn journal(dir: &Path) -> PathBuf {
    let engine = std::fs::read_dir(dir.join("engine")).unwrap();
    let mut journals: Vec<_> = engine
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    journals.sort();
    journals.pop().unwrap()
}

/// Where the journal's contents end: the rest is preallocated zeros.
fn used_bytes(journal: &Path) -> u64 {
    let bytes = std::fs::read(journal).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1)
}

fn truncate(path: &Path, bytes: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_journal_cut_behind_the_mark_is_noticed_and_reported_until_the_node_took_note() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 100, true);
    let journal = journal(dir.path());
    truncate(&journal, used_bytes(&journal) * 2 / 3);
    // Reported at every start, whether the last run ended cleanly or not, while nothing is committed.
    for cleanly in [false, true, false] {
        let opened = open(dir.path());
        assert!(opened.lost_commits);
        if cleanly {
            opened.store.close().unwrap();
        }
    }
    let mut opened = open(dir.path());
    let last = check_whole(&opened, 1);
    assert!((10..100).contains(&last), "{last}");
    let note = Commit { op: OpId(1), writes: writes(last + 1) };
    assert_eq!(opened.store.commit(&[note]), [Ok(())]);
    drop(opened);
    assert!(!open(dir.path()).lost_commits, "the node has taken note");
    check_whole(&open(dir.path()), last + 1);
}

#[test]
fn a_torn_tail_that_nobody_was_answered_for_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 50, false);
    let journal = journal(dir.path());
    // As after a crash in the middle of writing commit 50, had it not been acknowledged.
    truncate(&journal, used_bytes(&journal) - 10);
    let opened = open(dir.path());
    assert!(!opened.lost_commits);
    assert_eq!(check_whole(&opened, 49), 49);
}

/// Zeros some bytes of a value in the journal's last group but `groups_later`.
fn zero_in_group(dir: &Path, groups_later: usize) {
    let journal = journal(dir);
    let mut bytes = std::fs::read(&journal).unwrap();
    let mut end = bytes.len();
    for _ in 0..=groups_later {
        end = bytes[..end].windows(15).rposition(|window| window == b"quorate-commits").unwrap();
    }
    bytes[end - 150..end - 100].fill(0);
    std::fs::write(&journal, bytes).unwrap();
}

/// A power cut may leave the end of the last group on the disk without its middle.
#[test]
fn a_last_group_with_a_hole_that_nobody_was_answered_for_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 50, false);
    zero_in_group(dir.path(), 0);
    let opened = open(dir.path());
    assert!(!opened.lost_commits);
    assert_eq!(check_whole(&opened, 49), 49);
}

#[test]
fn a_hole_in_a_group_that_had_been_synced_is_refused_with_the_way_out() {
    for (cleanly, groups_later) in [(true, 0), (false, 1)] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 50, cleanly);
        zero_in_group(dir.path(), groups_later);
        let text = refusal(dir.path());
        assert!(text.contains("move the data directory away"), "{text}");
    }
}

/// The engine takes this for a torn tail and silently drops what follows (fjall issue 311).
#[test]
fn damage_in_the_middle_of_the_journal_is_noticed_even_above_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 50, false);
    let journal = journal(dir.path());
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = used_bytes(&journal) as usize / 2;
    // The first byte of a batch says what follows; batches end with these four bytes.
    let trailer = bytes[middle..].windows(4).position(|window| window == b"FJL\x03").unwrap();
    bytes[middle + trailer + 4] = 0x77;
    std::fs::write(&journal, bytes).unwrap();
    let opened = open(dir.path());
    assert!(opened.lost_commits);
    let held = check_whole(&opened, 10);
    assert!(held < 45, "the test must lose commits, and {held} are there");
}

#[test]
fn an_engine_that_is_missing_or_empty_is_a_loss() {
    for (commits, empty) in [(3, true), (3, false), (0, false)] {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path()).node;
        filled(dir.path(), commits, false);
        let engine = dir.path().join("engine");
        std::fs::remove_dir_all(&engine).unwrap();
        if empty {
            std::fs::create_dir(&engine).unwrap();
        }
        for _ in 0..2 {
            let opened = open(dir.path());
            assert_eq!((opened.node, opened.lost_commits), (node, true), "the same node, emptied");
            assert_eq!(check_whole(&opened, 0), 0);
        }
        filled(dir.path(), 2, false);
        assert!(!open(dir.path()).lost_commits);
    }
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let refused = open_file(dir.path(), &options()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked(_)));
    let text = refused.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()) && text.contains("--data"), "{text}");
    drop(opened);
    open(dir.path());
}

/// Opens and returns what the refusal says.
fn refusal(dir: &Path) -> String {
    open_file(dir, &options()).expect_err("this must not open").to_string()
}

#[test]
fn a_damaged_or_missing_identity_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3, false);
    let identity = dir.path().join("identity");
    let sound = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, sound.replacen("mark ", "mark 1", 1)).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("damaged") && text.contains("move the data directory away"), "{text}");
    std::fs::remove_file(&identity).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("missing") && text.contains("move the data directory away"), "{text}");
    std::fs::write(&identity, sound).unwrap();
    check_whole(&open(dir.path()), 3);
}

#[test]
fn an_interrupted_creation_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).node;
    // As if the process had died after it made the engine and before it wrote the identity.
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    let opened = open(dir.path());
    assert_ne!(opened.node, node);
    assert!(!opened.lost_commits);
}
