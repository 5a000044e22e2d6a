//! Folders of files with names and sizes that have broken programs before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Files by their path below a folder.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// Makes `count` small files, and some that are special, below `dir`. The same every time.
pub fn make(dir: &Path, count: usize) -> Tree {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut tree = Tree::new();
    for n in 0..count {
        let size = match n % 50 {
            0 => 0,
            1 => 1,
            2 => 60_000 + n,
            _ => noise.next() as usize % 4_000,
        };
        let path = format!("d{}/e{}/file {n}.txt", n % 7, n % 31);
        tree.insert(path.into(), noise.bytes(size));
    }
    let deep = "deep/".repeat(60) + "leaf";
    let names = [
        "with space",
        "percent%2Fslash",
        "100%",
        "ünï/日本語/…",
        "a+b&c=d?e#f",
        "-dash",
        deep.as_str(),
    ];
    for (n, name) in names.into_iter().enumerate() {
        tree.insert(format!("names/{name}").into(), noise.bytes(100 + n));
    }
    tree.insert(Path::new("names").join(OsStr::from_bytes(b"not\xffutf8\n")), noise.bytes(10));
    for size in [1 << 20, (1 << 20) + 1, 5_000_000] {
        tree.insert(format!("large/{size}.bin").into(), noise.bytes(size));
    }
    for (path, bytes) in &tree {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    tree
}

/// Fails the test unless `dir` holds exactly these files with exactly these bytes.
pub fn compare(dir: &Path, want: &Tree) {
    let mut found = Vec::new();
    list(dir, dir, &mut found);
    found.sort();
    let wanted: Vec<_> = want.keys().cloned().collect();
    let missing: Vec<_> = wanted.iter().filter(|path| found.binary_search(path).is_err()).collect();
    let extra: Vec<_> = found.iter().filter(|path| !want.contains_key(*path)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, too many {extra:?}");
    for (path, bytes) in want {
        assert!(std::fs::read(dir.join(path)).unwrap() == *bytes, "{} changed", path.display());
    }
}

fn list(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}

/// Copies a folder and all that is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// xorshift: small, and the same everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(count + 8);
        while out.len() < count {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(count);
        out
    }
}
