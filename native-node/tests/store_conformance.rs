//! One suite for every record store: what the core relies on, whatever the engine.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use quorate_core::{OpId, Space, StoreError, Write};
use quorate_node::store::{
    Commit, FileOptions, KEY_BYTES_MAX, MemoryStore, Page, Scan, Store, open_file,
};
use std::sync::atomic::{AtomicBool, Ordering};

type Check = fn(&mut Subject);

/// Every promise that does not need a restart, by its sentence.
const CHECKS: [(&str, Check); 16] = [
    ("a commit is read back", a_commit_is_read_back),
    ("a missing record is absent", a_missing_record_is_absent),
    ("an overwrite replaces the value", an_overwrite_replaces_the_value),
    ("a removal removes, and only that", a_removal_removes_and_only_that),
    ("an empty value is not an absent one", an_empty_value_is_not_an_absent_one),
    ("spaces are apart", spaces_are_apart),
    ("writes of one commit apply in order", writes_of_one_commit_apply_in_order),
    ("commits of one group apply in order", commits_of_one_group_apply_in_order),
    ("answers name the last commit included", answers_name_the_last_commit_included),
    ("a reader never sees half a commit", a_reader_never_sees_half_a_commit),
    ("a scan returns its range in order", a_scan_returns_its_range_in_order),
    ("a scan ends at its limit and says so", a_scan_ends_at_its_limit_and_says_so),
    ("a scan ends at its bytes limit", a_scan_ends_at_its_bytes_limit),
    ("pages join without gap or overlap", pages_join_without_gap_or_overlap),
    ("keys are any bytes", keys_are_any_bytes),
    ("large values come back whole", large_values_come_back_whole),
];

fn conformance(make: impl Fn() -> Box<dyn Store>) {
    for (sentence, check) in CHECKS {
        println!("{sentence}");
        check(&mut Subject { store: make(), op: 0 });
    }
}

/// The suite against file stores, each in a directory of its own.
fn file_conformance(options: &FileOptions) {
    let root = tempfile::tempdir().unwrap();
    let made = std::cell::Cell::new(0);
    conformance(|| {
        made.set(made.get() + 1);
        open_file(&root.path().join(made.get().to_string()), options).unwrap().store
    });
}

#[test]
fn the_memory_store_conforms() {
    conformance(|| Box::new(MemoryStore::default()));
}

#[test]
fn the_file_store_conforms() {
    file_conformance(&FileOptions::default());
}

/// The same promises when records lie in tables and value files instead of memory.
#[test]
fn the_file_store_conforms_when_every_memtable_is_written_out() {
    file_conformance(&FileOptions { memtable_bytes: 1, cache_bytes: 0, ..FileOptions::default() });
}

/// A store under test, which counts its commits.
struct Subject {
    store: Box<dyn Store>,
    op: u64,
}

impl Subject {
    fn commit(&mut self, writes: Vec<Write>) {
        self.group(vec![writes]);
    }
    fn group(&mut self, batches: Vec<Vec<Write>>) {
        let group: Vec<Commit> = batches
            .into_iter()
            .map(|writes| {
                self.op += 1;
                Commit { op: OpId(self.op), writes }
            })
            .collect();
        assert_eq!(self.store.commit(&group), vec![Ok(()); group.len()]);
    }
    fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.store.reader().read(space, key).unwrap().0
    }
    fn scan(&self, scan: &Scan) -> Page {
        self.store.reader().scan(scan).unwrap()
    }
    fn keys(&self, start: &[u8], end: Option<&[u8]>) -> Vec<Bytes> {
        let page = self.scan(&range(start, end));
        assert!(!page.more);
        page.entries.into_iter().map(|(key, _)| key).collect()
    }
}

fn put(space: Space, key: &[u8], value: &[u8]) -> Write {
    let (key, value) = (Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
    Write { space, key, value }
}

fn remove(space: Space, key: &[u8]) -> Write {
    Write { space, key: Bytes::copy_from_slice(key), value: None }
}

fn range(start: &[u8], end: Option<&[u8]>) -> Scan {
    let (start, end) = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
    Scan { start, end, ..Scan::all(Space::Objects) }
}

fn a_commit_is_read_back(subject: &mut Subject) {
    subject.commit(vec![put(Space::Objects, b"k", b"v"), put(Space::Objects, b"l", b"w")]);
    assert_eq!(subject.get(Space::Objects, b"k").unwrap(), "v");
    assert_eq!(subject.get(Space::Objects, b"l").unwrap(), "w");
}

fn a_missing_record_is_absent(subject: &mut Subject) {
    assert_eq!(subject.get(Space::Objects, b"k"), None);
    subject.commit(vec![put(Space::Objects, b"kk", b"v")]);
    assert_eq!(subject.get(Space::Objects, b"k"), None);
    assert_eq!(subject.get(Space::Objects, b"kkk"), None);
}

fn an_overwrite_replaces_the_value(subject: &mut Subject) {
    for n in 0..100u32 {
        subject.commit(vec![put(Space::Objects, b"k", &n.to_be_bytes())]);
        assert_eq!(subject.get(Space::Objects, b"k").unwrap(), n.to_be_bytes()[..]);
    }
    assert_eq!(subject.keys(b"", None).len(), 1);
}

fn a_removal_removes_and_only_that(subject: &mut Subject) {
    subject.commit([b"a", b"b", b"c"].map(|key| put(Space::Objects, key, key)).to_vec());
    subject.commit(vec![remove(Space::Objects, b"b"), remove(Space::Objects, b"never")]);
    assert_eq!(subject.get(Space::Objects, b"b"), None);
    assert_eq!(subject.keys(b"", None), ["a", "c"]);
    subject.commit(vec![put(Space::Objects, b"b", b"again")]);
    assert_eq!(subject.get(Space::Objects, b"b").unwrap(), "again");
}

fn an_empty_value_is_not_an_absent_one(subject: &mut Subject) {
    subject.commit(vec![put(Space::Objects, b"k", b"")]);
    assert_eq!(subject.get(Space::Objects, b"k"), Some(Bytes::new()));
    assert_eq!(subject.scan(&range(b"", None)).entries, [(Bytes::from("k"), Ok(Bytes::new()))]);
}

fn spaces_are_apart(subject: &mut Subject) {
    for space in Space::ALL {
        subject.commit(vec![put(space, b"k", format!("{space:?}").as_bytes())]);
    }
    subject.commit(vec![remove(Space::Hints, b"k")]);
    assert_eq!(subject.get(Space::Meta, b"k").unwrap(), "Meta");
    assert_eq!(subject.get(Space::Objects, b"k").unwrap(), "Objects");
    assert_eq!(subject.get(Space::Hints, b"k"), None);
    assert_eq!(subject.scan(&Scan::all(Space::Hints)).entries, []);
}

fn writes_of_one_commit_apply_in_order(subject: &mut Subject) {
    let space = Space::Objects;
    subject.commit(vec![put(space, b"k", b"1"), remove(space, b"k"), put(space, b"k", b"2")]);
    assert_eq!(subject.get(space, b"k").unwrap(), "2");
    subject.commit(vec![put(space, b"k", b"3"), remove(space, b"k")]);
    assert_eq!(subject.get(space, b"k"), None);
}

fn commits_of_one_group_apply_in_order(subject: &mut Subject) {
    let space = Space::Objects;
    subject.group((0..50u8).map(|n| vec![put(space, b"k", &[n]), put(space, &[n], b"")]).collect());
    assert_eq!(subject.get(space, b"k").unwrap(), [49][..]);
    assert_eq!(subject.keys(b"", None).len(), 51);
    subject.group(vec![vec![remove(space, b"k")], vec![put(space, b"k", b"x")]]);
    assert_eq!(subject.get(space, b"k").unwrap(), "x");
    subject.group(vec![vec![put(space, b"k", b"y")], vec![remove(space, b"k")]]);
    assert_eq!(subject.get(space, b"k"), None);
}

fn answers_name_the_last_commit_included(subject: &mut Subject) {
    let reader = subject.store.reader();
    assert_eq!(reader.read(Space::Objects, b"k").unwrap(), (None, OpId(0)));
    assert_eq!(reader.scan(&range(b"", None)).unwrap().as_of, OpId(0));
    for n in 1..20u8 {
        let writes = [put(Space::Objects, b"k", &[n]), put(Space::Meta, b"m", &[n])];
        subject.group(writes.map(|write| vec![write]).to_vec());
        let (value, as_of) = reader.read(Space::Objects, b"k").unwrap();
        assert_eq!((&value.unwrap()[..], as_of), (&[n][..], OpId(2 * u64::from(n))));
        assert_eq!(reader.scan(&range(b"", None)).unwrap().as_of, as_of);
    }
}

/// One thread commits its number to many keys, another scans them.
fn a_reader_never_sees_half_a_commit(subject: &mut Subject) {
    let reader = subject.store.reader();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scans = scope.spawn(|| {
            let mut scans = 0;
            while !ended.load(Ordering::Acquire) || scans == 0 {
                let page = reader.scan(&range(b"", None)).unwrap();
                let expected = page.as_of.0.to_be_bytes();
                assert_eq!(page.entries.len(), if page.as_of.0 > 0 { 20 } else { 0 });
                for (_, value) in page.entries {
                    assert_eq!(value.unwrap(), expected[..]);
                }
                scans += 1;
            }
        });
        for n in 1..=300u64 {
            let number = n.to_be_bytes();
            subject.commit((0..20u8).map(|key| put(Space::Objects, &[key], &number)).collect());
        }
        ended.store(true, Ordering::Release);
        scans.join().unwrap();
    });
}

fn fill(subject: &mut Subject, keys: &[&str]) {
    subject.commit(keys.iter().map(|key| put(Space::Objects, key.as_bytes(), b"12345")).collect());
}

fn a_scan_returns_its_range_in_order(subject: &mut Subject) {
    let none = Vec::<Bytes>::new();
    fill(subject, &["b", "a", "d", "c", "cc"]);
    assert_eq!(subject.keys(b"", None), ["a", "b", "c", "cc", "d"]);
    assert_eq!(subject.keys(b"b", Some(b"cc")), ["b", "c"], "the start is in, the end is not");
    assert_eq!(subject.keys(b"bb", None), ["c", "cc", "d"], "the start need not exist");
    assert_eq!(subject.keys(b"", Some(b"a")), none);
    assert_eq!(subject.keys(b"c", Some(b"c")), none, "an empty range");
    assert_eq!(subject.keys(b"d", Some(b"a")), none, "a range the wrong way round");
    assert_eq!(subject.keys(b"e", None), none);
}

fn a_scan_ends_at_its_limit_and_says_so(subject: &mut Subject) {
    fill(subject, &["a", "b", "c"]);
    for (limit, more) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
        let page = subject.scan(&Scan { limit, ..range(b"", None) });
        assert_eq!((page.entries.len(), page.more), (3.min(limit as usize), more), "{limit}");
    }
    let page = subject.scan(&Scan { limit: 2, ..range(b"a", Some(b"c")) });
    assert!(!page.more, "what lies behind the range does not count");
}

fn a_scan_ends_at_its_bytes_limit(subject: &mut Subject) {
    fill(subject, &["a", "b", "c"]);
    for (bytes_limit, count) in [(1, 1), (6, 1), (7, 2), (12, 2), (13, 3), (18, 3), (1_000, 3)] {
        let page = subject.scan(&Scan { bytes_limit, ..range(b"", None) });
        assert_eq!((page.entries.len(), page.more), (count, count < 3), "{bytes_limit} bytes");
    }
}

fn pages_join_without_gap_or_overlap(subject: &mut Subject) {
    let names: Vec<String> = (0..500).map(|n| format!("{n:04}")).collect();
    fill(subject, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut start, mut found) = (Bytes::new(), Vec::new());
    loop {
        let page = subject.scan(&Scan { limit: 7, bytes_limit: 40, ..range(&start, None) });
        found.extend(page.entries.into_iter().map(|(key, _)| key));
        if !page.more {
            break;
        }
        // The next page begins at the smallest key behind the last one.
        start = [found.last().unwrap(), &[0][..]].concat().into();
    }
    assert_eq!(found, names);
}

fn keys_are_any_bytes(subject: &mut Subject) {
    let mut keys = vec![
        vec![0],
        vec![0, 0],
        vec![0, 255],
        vec![1],
        b"a".to_vec(),
        b"a\0".to_vec(),
        b"a\0b".to_vec(),
        vec![254, 255],
        vec![255],
        vec![255, 0],
        vec![255; 2_000],
        vec![255; KEY_BYTES_MAX],
    ];
    subject.commit(keys.iter().rev().map(|key| put(Space::Objects, key, &key[..1])).collect());
    for key in &keys {
        assert_eq!(subject.get(Space::Objects, key).unwrap(), key[..1]);
    }
    keys.sort();
    assert_eq!(subject.keys(b"", None), keys);
    assert_eq!(subject.keys(&[255], Some(&[255, 0])), [vec![255]]);
}

fn large_values_come_back_whole(subject: &mut Subject) {
    let sizes = [1_000, 4_095, 4_096, 70_000, 1 << 20, 16 << 20];
    let value = |size: usize| -> Vec<u8> { (0..size).map(|at| ((at * 31) >> 3) as u8).collect() };
    let write = |&size: &usize| vec![put(Space::Objects, &size.to_be_bytes(), &value(size))];
    subject.group(sizes.iter().map(write).collect());
    for size in sizes {
        assert!(subject.get(Space::Objects, &size.to_be_bytes()).unwrap() == value(size), "{size}");
    }
    let page = subject.scan(&range(b"", None));
    let found: Vec<usize> = page.entries.into_iter().map(|(_, v)| v.unwrap().len()).collect();
    assert_eq!(found, sizes);
}

#[test]
fn a_full_memory_store_reads_and_removes_and_takes_writes_when_there_is_room() {
    let mut subject = Subject { store: Box::new(MemoryStore::new(1_000)), op: 0 };
    subject.commit(vec![put(Space::Objects, b"a", &[1; 600])]);
    let refused = [Commit { op: OpId(9), writes: vec![put(Space::Objects, b"b", &[2; 600])] }];
    assert_eq!(subject.store.commit(&refused), [Err(StoreError::Full)]);
    assert_eq!(subject.get(Space::Objects, b"b"), None, "a refused commit changes nothing");
    assert_eq!(subject.get(Space::Objects, b"a").unwrap().len(), 600);
    subject.commit(vec![remove(Space::Objects, b"a")]);
    assert_eq!(subject.store.commit(&refused), [Ok(())]);
}

#[test]
fn a_full_file_store_reads_and_removes_and_takes_writes_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let plenty = FileOptions::default();
    let by_size = FileOptions { used_bytes_max: 100, ..plenty.clone() };
    let by_reserve = FileOptions { free_bytes_min: u64::MAX, ..plenty.clone() };
    let open = |options: &FileOptions| Subject {
        store: open_file(dir.path(), options).unwrap().store,
        op: 0,
    };
    let mut subject = open(&plenty);
    subject.commit([b"a", b"b", b"c"].map(|key| put(Space::Objects, key, key)).to_vec());
    subject.store.close().unwrap();
    for (options, removed) in [(by_size, b"a"), (by_reserve, b"b")] {
        let mut subject = open(&options);
        let refused = Commit { op: OpId(1), writes: vec![put(Space::Objects, b"d", b"d")] };
        assert_eq!(subject.store.commit(&[refused]), [Err(StoreError::Full)]);
        assert_eq!(subject.get(Space::Objects, b"c").unwrap(), "c");
        subject.commit(vec![remove(Space::Objects, removed)]);
        assert_eq!(subject.get(Space::Objects, removed), None);
        subject.store.close().unwrap();
    }
    let mut subject = open(&plenty);
    subject.commit(vec![put(Space::Objects, b"d", b"d")]);
    assert_eq!(subject.keys(b"", None), ["c", "d"]);
}

#[test]
fn a_file_store_keeps_everything_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || open_file(dir.path(), &FileOptions::default()).unwrap();
    let first = open();
    assert!(first.meta.is_empty() && !first.lost_commits);
    let mut subject = Subject { store: first.store, op: 0 };
    subject.commit(vec![put(Space::Meta, b"m", b"1"), put(Space::Meta, b"n", b"2")]);
    subject.commit(vec![put(Space::Objects, b"o", &[7; 10_000]), put(Space::Hints, b"h", b"3")]);
    subject.commit(vec![remove(Space::Meta, b"n")]);
    // Once without a clean end, once with one.
    drop(subject);
    for _ in 0..2 {
        let again = open();
        assert_eq!((again.node, again.lost_commits), (first.node, false));
        assert_eq!(again.meta, [(Bytes::from("m"), Bytes::from("1"))]);
        let subject = Subject { store: again.store, op: 0 };
        assert_eq!(subject.get(Space::Objects, b"o").unwrap(), [7; 10_000][..]);
        assert_eq!(subject.get(Space::Hints, b"h").unwrap(), "3");
        subject.store.close().unwrap();
    }
}
