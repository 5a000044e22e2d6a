//! `quorate export`: every object of a bucket becomes a file.
//!
//! Invariant: a file has its object's bytes or it isn't there: it is written beside its place and
//! renamed. No key leads out of the folder. What could not be exported is told, object by object.

use super::bulk::{BulkArgs, Progress, sha256_hex};
use super::client::{Call, Client, DELETED, SHA256};
use super::exit::{CliError, Exit};
use super::listing::Pages;
use super::names::{object_path, path_of, query, show};
use super::object::{ReadQuorum, vtags};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_LENGTH};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The beginning of the names under which files are written before they are renamed.
const TEMPORARY: &str = ".quorate-export-";

/// Write every object of a bucket as a file.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate export ./photos                       # bucket photos
  quorate export /backup/p --bucket photos --r 3 --pr 3
  quorate export ./photos --json

Keys become paths with / between folders. A key that would lead out of the folder, or that cannot be
a path, is refused and told. Files that are there with the object's size and SHA-256 are skipped, so
run it again to go on after an interruption; other files in the folder are left alone. Of an object
with siblings that differ, each is written as NAME.sibling-VTAG, and the exit code is 5.")]
pub struct ExportArgs {
    /// The folder; it is made if it isn't there
    dir: PathBuf,
    #[command(flatten)]
    quorum: ReadQuorum,
    #[command(flatten)]
    bulk: BulkArgs,
}

struct Export<'a> {
    args: &'a ExportArgs,
    client: Client,
    bucket: String,
    progress: Progress,
    /// Tells this run's temporary files apart.
    temporary: AtomicU64,
    conflicts: Mutex<Vec<String>>,
}

/// Runs `export`.
pub async fn export(args: &ExportArgs) -> Result<(), CliError> {
    let bucket = args.bulk.bucket(&args.dir)?;
    std::fs::create_dir_all(&args.dir).map_err(|e| CliError::file("make", &args.dir, &e))?;
    let mut client = Client::new(&args.bulk.nodes)?;
    client.discover().await?;
    let export = Export {
        args,
        client,
        bucket,
        progress: Progress::start("export", None, args.bulk.json),
        temporary: AtomicU64::new(0),
        conflicts: Mutex::new(Vec::new()),
    };
    let listed = export.all().await;
    export.conclude(listed)
}

impl Export<'_> {
    async fn all(&self) -> Result<(), CliError> {
        let mut pages = Pages::new(&self.client, &self.bucket, self.args.bulk.patience());
        while let Some(keys) = pages.next().await? {
            futures::stream::iter(&keys)
                .take_while(|_| futures::future::ready(!self.progress.is_stopped()))
                .map(|key| self.one(key))
                .buffer_unordered(usize::from(self.args.bulk.jobs))
                .collect::<()>()
                .await;
            if self.progress.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    async fn one(&self, key: &[u8]) {
        match self.fetch(key).await {
            Ok(Fetched::Written(bytes)) => self.progress.moved(bytes),
            Ok(Fetched::Unchanged) => self.progress.unchanged(),
            Ok(Fetched::Deleted) => {}
            Err(error) => self.progress.failed(&show(key), &error.message),
        }
    }

    async fn fetch(&self, key: &[u8]) -> Result<Fetched, CliError> {
        let name = path_of(key)
            .map_err(|why| CliError::failed(format!("the key cannot be a file: {why}")))?;
        let url = object_path(self.bucket.as_bytes(), key)?;
        let file = self.args.dir.join(name);
        if !self.args.bulk.verify && self.is_there(&url, &file).await? {
            return Ok(Fetched::Unchanged);
        }
        let answer = self.read(Method::GET, &url, None).await?;
        match answer.status {
            StatusCode::OK => self.keep(&file, answer.body).await,
            StatusCode::MULTIPLE_CHOICES => self.siblings(key, &url, &file, &answer.body).await,
            StatusCode::NOT_FOUND if answer.headers.contains_key(DELETED) => Ok(Fetched::Deleted),
            StatusCode::NOT_FOUND => {
                Err(CliError::failed("it was listed and then not found: read it with greater --r"))
            }
            _ => Err(answer.error("not read")),
        }
    }

    async fn read(
        &self,
        method: Method,
        url: &str,
        vtag: Option<String>,
    ) -> Result<super::client::Answer, CliError> {
        let [r, pr] = self.args.quorum.params();
        let call = Call::new(method, format!("{url}{}", query(&[r, pr, ("vtag", vtag)])));
        self.client.send(&call.header(ACCEPT, "*/*")?, self.args.bulk.patience()).await
    }

    /// Is the file there with the object's size and SHA-256? A file that isn't there costs nothing.
    async fn is_there(&self, url: &str, file: &Path) -> Result<bool, CliError> {
        let Ok(meta) = tokio::fs::symlink_metadata(file).await else { return Ok(false) };
        if !meta.is_file() {
            return Ok(false);
        }
        let answer = self.read(Method::HEAD, url, None).await?;
        let length = meta.len().to_string();
        if answer.status != StatusCode::OK || answer.header(&CONTENT_LENGTH) != Some(&length) {
            return Ok(false);
        }
        let Some(want) = answer.header(&SHA256) else { return Ok(false) };
        let body = tokio::fs::read(file).await.map_err(|e| CliError::file("read", file, &e))?;
        Ok(sha256_hex(&body) == want)
    }

    /// Siblings with equal bytes are one value to a file; others are written side by side.
    async fn siblings(
        &self,
        key: &[u8],
        url: &str,
        file: &Path,
        list: &[u8],
    ) -> Result<Fetched, CliError> {
        let mut values: Vec<(String, Bytes)> = Vec::new();
        for vtag in vtags(list) {
            let answer = self.read(Method::GET, url, Some(vtag.clone())).await?;
            if answer.status != StatusCode::OK {
                return Err(answer.error(&format!("sibling {vtag} not read")));
            }
            values.push((vtag, answer.body));
        }
        let Some((_, first)) = values.first() else {
            return Err(CliError::failed("the node told of siblings and listed none"));
        };
        if values.iter().all(|(_, value)| value == first) {
            return self.keep(file, first.clone()).await;
        }
        let shown = show(key);
        self.progress.note(&format!("siblings: {shown} has {} values", values.len()));
        self.conflicts.lock().expect("no code panics while it holds the list").push(shown);
        let mut bytes = 0;
        for (vtag, value) in values {
            let mut name = file.file_name().expect("a key is a path with a name").to_owned();
            name.push(format!(".sibling-{vtag}"));
            bytes += value.len() as u64;
            self.keep(&file.with_file_name(name), value).await?;
        }
        Ok(Fetched::Written(bytes))
    }

    /// Writes a file as a whole or not at all; leaves it alone if it has these bytes.
    async fn keep(&self, file: &Path, body: Bytes) -> Result<Fetched, CliError> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{number}", std::process::id());
        let (root, file) = (self.args.dir.clone(), file.to_owned());
        let work = tokio::task::spawn_blocking(move || write_whole(&root, &file, &name, &body));
        work.await.map_err(|e| CliError::failed(format!("the writing of a file broke off: {e}")))?
    }

    fn conclude(&self, listed: Result<(), CliError>) -> Result<(), CliError> {
        let conflicts = self.conflicts.lock().expect("no code panics while it holds the list");
        let more = json!({
            "bucket": self.bucket,
            "siblings": *conflicts,
            "complete": listed.is_ok() && !self.progress.is_stopped(),
        });
        let place = format!("of bucket {} to {}", self.bucket, self.args.dir.display());
        let retries = self.client.retries();
        let failed = self.progress.finish("exported", &place, retries, self.args.bulk.json, &more);
        listed?;
        if failed > 0 {
            let text = format!("{failed} objects were not exported: see above, then run it again");
            return Err(CliError::failed(text));
        }
        if !conflicts.is_empty() {
            let text = format!(
                "{} objects have siblings, written as NAME.sibling-VTAG: resolve them with quorate \
                 put --context",
                conflicts.len()
            );
            return Err(CliError::new(Exit::Conflict, text));
        }
        Ok(())
    }
}

enum Fetched {
    Written(u64),
    Unchanged,
    /// Listed, and deleted a moment ago.
    Deleted,
}

fn write_whole(root: &Path, file: &Path, name: &str, body: &[u8]) -> Result<Fetched, CliError> {
    if std::fs::read(file).is_ok_and(|there| there == body) {
        return Ok(Fetched::Unchanged);
    }
    let parent = file.parent().expect("the file is inside the folder");
    refuse_links(root, parent)?;
    std::fs::create_dir_all(parent).map_err(|e| CliError::file("make", parent, &e))?;
    let temporary = parent.join(name);
    std::fs::write(&temporary, body).and_then(|()| std::fs::rename(&temporary, file)).map_err(
        |e| {
            // What stays behind is only the temporary file; failing to remove it changes nothing.
            std::fs::remove_file(&temporary).ok();
            CliError::file("write", file, &e)
        },
    )?;
    Ok(Fetched::Written(body.len() as u64))
}

/// A link below the folder could lead out of it.
fn refuse_links(root: &Path, parent: &Path) -> Result<(), CliError> {
    let inside = parent.ancestors().take_while(|&dir| dir != root);
    for dir in inside {
        if std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_symlink()) {
            let text = format!("{} is a link and may lead elsewhere: remove it", dir.display());
            return Err(CliError::failed(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_left_alone_when_equal() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b/c");
        let write = |body: &[u8]| write_whole(dir.path(), &file, ".tmp", body).unwrap();
        assert!(matches!(write(b"one"), Fetched::Written(3)));
        assert!(matches!(write(b"one"), Fetched::Unchanged));
        assert!(matches!(write(b"three"), Fetched::Written(5)));
        assert_eq!(std::fs::read(&file).unwrap(), b"three");
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_told_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        assert!(write_whole(dir.path(), &dir.path().join("a/b"), ".tmp", b"y").is_err());
        std::fs::create_dir(dir.path().join("d")).unwrap();
        assert!(write_whole(dir.path(), &dir.path().join("d"), ".tmp", b"y").is_err());
        assert!(!dir.path().join(".tmp").exists());
    }

    #[test]
    fn a_link_in_the_folder_does_not_lead_out_of_it() {
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(out.path(), dir.path().join("link")).unwrap();
        let error = write_whole(dir.path(), &dir.path().join("link/f"), ".tmp", b"y");
        assert!(error.err().unwrap().message.contains("is a link"));
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
