//! `quorate import`: every file of a folder becomes an object.
//!
//! Invariant: an object is written under the context of the read that found it different, so that
//! importing again never makes siblings; and a write is repeated only with its write id.
//!
//! Resuming needs no journal: a HEAD tells whether the object is there with the file's size and
//! SHA-256 (kept as metadata by the import that stored it), and then the file is skipped.

use super::bulk::{BODY_BYTES_IN_FLIGHT_MAX, BulkArgs, Progress, sha256_hex};
use super::client::{Answer, Call, Client, SHA256, VCLOCK, WRITE_ID, random_id};
use super::exit::CliError;
use super::names::{content_type, object_path, query, show};
use super::object::WriteQuorum;
use super::walk::{File, walk};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::sync::Semaphore;

/// Larger files are not taken into memory; no node is meant to store objects of that size.
const FILE_BYTES_MAX: u64 = BODY_BYTES_IN_FLIGHT_MAX;
/// A permit of the memory semaphore stands for this many bytes.
const PERMIT_BYTES: u64 = 64 << 10;

/// Store every file of a folder as an object.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate import ./photos                       # bucket photos, keys like 2024/cat.png
  quorate import ./photos --bucket p --w 3 --jobs 64
  quorate import ./photos --node http://127.0.0.1:8098,http://127.0.0.1:8099

The key is the path below the folder, with /, byte for byte. Links to files and folders are
followed; empty folders are not objects. A node that does not answer is given time to come back
(--retry-for) while other members of its cluster are asked, each retry under the same write id.
Run it again to go on after an interruption: what is stored already is skipped, what changed is
replaced without making siblings.")]
pub struct ImportArgs {
    /// The folder
    dir: PathBuf,
    #[command(flatten)]
    quorum: WriteQuorum,
    #[command(flatten)]
    bulk: BulkArgs,
}

struct Import<'a> {
    args: &'a ImportArgs,
    client: Client,
    bucket: String,
    /// Makes the write ids of this run differ from those of any other.
    run: String,
    progress: Progress,
    memory: Semaphore,
    /// Files over the nodes' limit: listed together at the end.
    too_large: Mutex<Vec<(String, u64, String)>>,
}

/// Runs `import`.
pub async fn import(args: &ImportArgs) -> Result<(), CliError> {
    let dir = &args.dir;
    let bucket = args.bulk.bucket(dir)?;
    let tree = walk(dir).map_err(|e| CliError::file("list", dir, &e))?;
    let mut client = Client::new(&args.bulk.nodes)?;
    client.discover().await?;
    let import = Import {
        args,
        client,
        bucket,
        run: random_id()?,
        progress: Progress::start("import", Some(tree.files.len() as u64), args.bulk.json),
        memory: Semaphore::new((BODY_BYTES_IN_FLIGHT_MAX / PERMIT_BYTES) as usize),
        too_large: Mutex::new(Vec::new()),
    };
    for (path, reason) in &tree.skipped {
        import.progress.note(&format!("skipped: {} {reason}", path.display()));
    }
    futures::stream::iter(&tree.files)
        .take_while(|_| futures::future::ready(!import.progress.is_stopped()))
        .map(|file| import.one(file))
        .buffer_unordered(usize::from(args.bulk.jobs))
        .collect::<()>()
        .await;
    import.conclude(tree.empty_dirs, tree.skipped.len())
}

impl Import<'_> {
    async fn one(&self, file: &File) {
        match self.store(file).await {
            Ok(Some(bytes)) => self.progress.moved(bytes),
            Ok(None) => self.progress.unchanged(),
            Err(error) => self.progress.failed(&show(&file.key), &error.message),
        }
    }

    /// Stores one file; `None` if it is stored already.
    async fn store(&self, file: &File) -> Result<Option<u64>, CliError> {
        let path = object_path(self.bucket.as_bytes(), &file.key)?;
        if file.bytes > FILE_BYTES_MAX {
            return Err(self.refuse_size(file, &format!("the client's limit is {FILE_BYTES_MAX}")));
        }
        let permits = (file.bytes / PERMIT_BYTES + 1).min(BODY_BYTES_IN_FLIGHT_MAX / PERMIT_BYTES);
        let held = self.memory.acquire_many(permits as u32).await;
        let _held = held.expect("the semaphore is never closed");
        let body = tokio::fs::read(&file.path).await;
        let body = Bytes::from(body.map_err(|e| CliError::file("read", &file.path, &e))?);
        let sha256 = sha256_hex(&body);

        let found = self.look(&path, &body, &sha256).await?;
        let Found::Different(context) = found else { return Ok(None) };
        let [w, pw, dw] = self.args.quorum.params();
        let id = format!("{}-{}", self.run, sha256_hex(&file.key));
        let mut call = Call::new(Method::PUT, format!("{path}{}", query(&[w, pw, dw])))
            .header(WRITE_ID, &id)?
            .header(CONTENT_TYPE, content_type(&file.path))?
            .header(SHA256, &sha256)?;
        if let Some(context) = context {
            call = call.header(VCLOCK, &context)?;
        }
        call.body = body;
        let answer = self.client.send(&call, self.args.bulk.patience()).await?;
        match answer.status {
            status if status.is_success() => Ok(Some(call.body.len() as u64)),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Err(self.refuse_size(file, &answer.error("refused").message))
            }
            _ => Err(answer.error("not stored")),
        }
    }

    /// What is stored under the key, compared with the file.
    async fn look(&self, path: &str, body: &Bytes, sha256: &str) -> Result<Found, CliError> {
        let verify = self.args.bulk.verify;
        let method = if verify { Method::GET } else { Method::HEAD };
        let answer = self.client.send(&Call::new(method, path), self.args.bulk.patience()).await?;
        let same = match answer.status {
            StatusCode::OK if verify => answer.body == *body && has_sha256(&answer, sha256),
            StatusCode::OK => {
                has_sha256(&answer, sha256)
                    && answer.header(&CONTENT_LENGTH) == Some(&body.len().to_string())
            }
            StatusCode::NOT_FOUND | StatusCode::MULTIPLE_CHOICES => false,
            _ => return Err(answer.error("cannot tell whether it is stored")),
        };
        let context = answer.header(&VCLOCK).map(str::to_owned);
        Ok(if same { Found::Same } else { Found::Different(context) })
    }

    fn refuse_size(&self, file: &File, reason: &str) -> CliError {
        let mut list = self.too_large.lock().expect("no code panics while it holds the list");
        list.push((show(&file.key), file.bytes, reason.to_owned()));
        CliError::failed(format!("{} bytes are too many: {reason}", file.bytes))
    }

    fn conclude(&self, empty_dirs: u64, skipped: usize) -> Result<(), CliError> {
        let args = self.args;
        let too_large = self.too_large.lock().expect("no code panics while it holds the list");
        let more = json!({
            "bucket": self.bucket,
            "empty_dirs": empty_dirs,
            "skipped": skipped,
            "too_large": too_large.iter().map(|(key, bytes, _)| json!({"key": key, "bytes": bytes})).collect::<Vec<_>>(),
        });
        let place = format!("into bucket {}", self.bucket);
        let retries = self.client.retries();
        let failed = self.progress.finish("imported", &place, retries, args.bulk.json, &more);
        if empty_dirs > 0 && !args.bulk.json {
            say!("{empty_dirs} empty folders are not objects and were left out");
        }
        if let Some((_, _, reason)) = too_large.first() {
            eprintln!("Files over the limit ({reason}):");
            for (key, bytes, _) in too_large.iter() {
                eprintln!("  {bytes:>12} bytes  {key}");
            }
        }
        if failed == 0 {
            return Ok(());
        }
        let advice = if self.progress.is_stopped() {
            "stopped early: mend the cause named above and run it again"
        } else if too_large.len() == failed {
            "start the nodes with a greater object limit, or leave these files out"
        } else {
            "run it again to go on with them"
        };
        Err(CliError::failed(format!("{failed} files were not stored: {advice}")))
    }
}

enum Found {
    Same,
    /// Absent, deleted, other bytes or siblings, with the context to write under.
    Different(Option<String>),
}

fn has_sha256(answer: &Answer, sha256: &str) -> bool {
    answer.header(&SHA256) == Some(sha256)
}
