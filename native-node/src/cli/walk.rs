//! The files of a folder that `import` stores.
//!
//! Invariant: what is listed is what `diff -r` would compare. So links to files and folders are
//! followed, and a link that leads back to a folder it lies in is left out.

use super::names::key_of;
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// Regular files (and links to them), in the order of their names.
    pub files: Vec<File>,
    /// Folders without entries: they are no objects, and an export won't make them.
    pub empty_dirs: u64,
    /// What is neither file nor folder, or cannot be followed, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A file to be stored.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the folder, with `/`, as bytes.
    pub key: Vec<u8>,
    /// Its size when it was listed.
    pub bytes: u64,
}

/// Lists a folder, all the way down.
pub fn walk(dir: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree::default();
    let mut above = vec![dir.canonicalize()?];
    walk_into(dir, dir, &mut above, &mut tree)?;
    Ok(tree)
}

fn walk_into(
    root: &Path,
    dir: &Path,
    above: &mut Vec<PathBuf>,
    tree: &mut Tree,
) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    if entries.is_empty() && dir != root {
        tree.empty_dirs += 1;
    }
    for path in entries {
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) => {
                tree.skipped.push((path, format!("cannot be followed: {error}")));
                continue;
            }
        };
        if meta.is_dir() {
            let real = path.canonicalize()?;
            if above.contains(&real) {
                tree.skipped.push((path, "is a link to a folder that it lies in".into()));
                continue;
            }
            above.push(real);
            walk_into(root, &path, above, tree)?;
            above.pop();
        } else if meta.is_file() {
            let relative = path.strip_prefix(root).expect("it was found below the root");
            match key_of(relative) {
                Ok(key) => tree.files.push(File { key, bytes: meta.len(), path }),
                Err(reason) => tree.skipped.push((path, reason)),
            }
        } else {
            tree.skipped.push((path, "is neither a file nor a folder".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_with_keys_and_empty_folders_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        std::fs::write(dir.path().join("a/two words"), "xy").unwrap();
        std::fs::write(dir.path().join("top"), "").unwrap();
        let tree = walk(dir.path()).unwrap();
        let found: Vec<_> = tree.files.iter().map(|f| (f.key.as_slice(), f.bytes)).collect();
        assert_eq!(found, [(&b"a/two words"[..], 2), (&b"top"[..], 0)]);
        assert_eq!((tree.empty_dirs, tree.skipped.len()), (1, 0));
    }

    #[test]
    fn links_are_followed_unless_they_lead_back_or_nowhere() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/f"), "x").unwrap();
        symlink(at("d/f"), at("file-link")).unwrap();
        symlink(at("d"), at("dir-link")).unwrap();
        symlink("..", at("d/loop")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let tree = walk(dir.path()).unwrap();
        let keys: Vec<_> = tree.files.iter().map(|f| f.key.as_slice()).collect();
        assert_eq!(keys, [&b"d/f"[..], b"dir-link/f", b"file-link"]);
        assert_eq!(tree.skipped.len(), 3, "{:?}", tree.skipped);
    }
}
