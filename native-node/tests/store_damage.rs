//! Flipped bits in the files of a file store. Whatever is damaged: a record is right, or `Corrupt`,
//! or the store refuses to open or to go on with a reason, or it says that commits are lost. Never
//! other bytes than were written, never a record that is silently gone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use quorate_core::{OpId, Space, StoreError, Write};
use quorate_node::store::{Commit, FileOptions, OpenError, Opened, Scan, open_file};
use std::path::{Path, PathBuf};

const RECORDS: u32 = 400;

/// Tables are written as soon as they can be, so that damage meets every kind of file.
fn options() -> FileOptions {
    FileOptions { memtable_bytes: 1, cache_bytes: 0, ..FileOptions::default() }
}

/// Every fourth record is large enough to lie in a value file; none is compressible.
fn value(n: u32) -> Bytes {
    let len = if n.is_multiple_of(4) { 6_000 } else { 150 };
    let mut state = u64::from(n) + 1;
    let mut byte = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn key(n: u32) -> Bytes {
    Bytes::from(format!("key {n:05}"))
}

fn fill(dir: &Path) {
    let mut store = open_file(dir, &options()).unwrap().store;
    for n in 0..RECORDS {
        let write = |space| Write { space, key: key(n), value: Some(value(n)) };
        let mut writes = vec![write(Space::Objects), write(Space::Hints)];
        if n < 5 {
            writes.push(write(Space::Meta));
        }
        let commit = Commit { op: OpId(u64::from(n) + 1), writes };
        assert_eq!(store.commit(&[commit]), [Ok(())]);
    }
    // Let the engine write out what it has in memory; opening then trims the journals.
    std::thread::sleep(std::time::Duration::from_millis(300));
    store.close().unwrap();
    open_file(dir, &options()).unwrap().store.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    refused: u32,
    lost: u32,
    corrupt: u32,
    io: u32,
    harmless: u32,
}

/// Reads everything in every way and fails on anything that is neither right nor an error.
fn check(opened: &Opened, seen: &mut Seen, what: &str) {
    let reader = opened.store.reader();
    let (mut corrupt, mut io) = (0, 0);
    let mut count = |error: &StoreError| match error {
        StoreError::Corrupt => corrupt += 1,
        StoreError::Io(_) => io += 1,
        StoreError::Full => panic!("{what}: full?"),
    };
    for space in [Space::Objects, Space::Hints] {
        for n in 0..RECORDS {
            match reader.read(space, &key(n)) {
                Ok((found, _)) => assert_eq!(found, Some(value(n)), "{what}: {space:?} {n}"),
                Err(error) => count(&error),
            }
        }
        let mut expected = 0;
        match reader.scan(&Scan::all(space)) {
            Ok(page) => {
                for (found, result) in page.entries {
                    assert_eq!(found, key(expected), "{what}: a scan of {space:?} skips a record");
                    match result {
                        Ok(bytes) => assert_eq!(bytes, value(expected), "{what}: {space:?}"),
                        Err(error) => count(&error),
                    }
                    expected += 1;
                }
                assert!(page.more || expected == RECORDS, "{what}: {space:?} ends at {expected}");
            }
            Err(error) => count(&error),
        }
    }
    seen.corrupt += u32::from(corrupt > 0);
    seen.io += u32::from(io > 0);
    seen.harmless += u32::from(corrupt + io == 0);
}

/// Flips a bit somewhere in the `part`-th of `parts` of a file, and looks what comes of it.
fn damage(sound: &Path, file: &Path, part: u64, parts: u64, seen: &mut Seen) {
    let bytes = std::fs::read(sound.join(file)).unwrap();
    let part_bytes = (bytes.len() as u64 / parts).max(1);
    let at = (part * part_bytes + getrandom::u64().unwrap() % part_bytes) as usize;
    let Some(&byte) = bytes.get(at) else { return };
    let what = format!("{} byte {at}", file.display());

    let dir = tempfile::tempdir().unwrap();
    copy(sound, dir.path());
    let mut damaged = bytes;
    damaged[at] = byte ^ (1 << (at % 8));
    std::fs::write(dir.path().join(file), damaged).unwrap();
    match open_file(dir.path(), &options()) {
        Err(error @ (OpenError::Engine { .. } | OpenError::MetaDamaged { .. })) => {
            assert!(error.to_string().contains("move the data directory away"), "{error}");
            seen.refused += 1;
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(opened) if opened.lost_commits => seen.lost += 1,
        Ok(opened) => check(&opened, seen, &what),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_never_wrong_data_nor_a_silent_gap() {
    const PLACES_PER_KIND: usize = 12;
    let sound = tempfile::tempdir().unwrap();
    fill(sound.path());
    let (mut values, mut tables, mut journals, mut rest) = (vec![], vec![], vec![], vec![]);
    for file in files(&sound.path().join("engine")) {
        let file = file.strip_prefix(sound.path()).unwrap().to_owned();
        let is_in = |dir: &str| file.components().any(|part| part.as_os_str() == dir);
        let kind = match file.extension() {
            _ if is_in("blobs") => &mut values,
            _ if is_in("tables") => &mut tables,
            Some(extension) if extension == "jnl" => &mut journals,
            _ if file.ends_with("lock") => continue,
            _ => &mut rest,
        };
        kind.push(file);
    }
    for (kind, files) in
        [("values", values), ("tables", tables), ("journals", journals), ("catalogues", rest)]
    {
        let mut seen = Seen::default();
        for place in 0..PLACES_PER_KIND {
            // Spread over the files, and over the places within each.
            let file = &files[place * files.len() / PLACES_PER_KIND];
            damage(sound.path(), file, place as u64, PLACES_PER_KIND as u64, &mut seen);
        }
        println!("{kind} ({} files): {seen:?}", files.len());
        assert!(seen.harmless < PLACES_PER_KIND as u32, "damage must be met: {kind}: {seen:?}");
    }
}

#[test]
fn a_damaged_large_value_is_one_corrupt_record_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let victim = key(200);
    let needle = &value(200)[..64];
    let mut hit = false;
    for file in files(&dir.path().join("engine")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let in_values = file.components().any(|part| part.as_os_str() == "blobs");
        if let Some(at) =
            bytes.windows(64).position(|window| window == needle).filter(|_| in_values)
        {
            bytes[at + 10] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            hit = true;
        }
    }
    assert!(hit, "the value lies in a value file");
    let mut opened = open_file(dir.path(), &options()).unwrap();
    assert!(!opened.lost_commits);
    let reader = opened.store.reader();
    assert_eq!(reader.read(Space::Objects, &victim), Err(StoreError::Corrupt));
    let page = reader.scan(&Scan::all(Space::Objects)).unwrap();
    assert_eq!(page.entries.len(), RECORDS as usize);
    for (found, result) in page.entries {
        assert_eq!(result.is_err(), found == victim, "{found:?}");
    }
    // The repair is an ordinary commit.
    let repair = Write { space: Space::Objects, key: victim.clone(), value: Some(value(200)) };
    let commit = Commit { op: OpId(1), writes: vec![repair] };
    assert_eq!(opened.store.commit(&[commit]), [Ok(())]);
    assert_eq!(reader.read(Space::Objects, &victim).unwrap().0, Some(value(200)));
}
