//! `get`, `put` and `delete`: one object, one request.

use super::client::random_id;
use super::client::{Answer, Call, Client, DELETED, NodeArgs, Patience, RECEIPT, VCLOCK, WRITE_ID};
use super::exit::{CliError, Exit};
use super::names::{object_path, query};
use super::print_json;
use bytes::Bytes;
use clap::Args;
use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// How a read decides.
#[derive(Args, Clone, Debug, Default)]
pub struct ReadQuorum {
    /// Answers to wait for: a number, one, quorum or all (default: the bucket's)
    #[arg(long, value_name = "N")]
    pub r: Option<String>,
    /// How many of them must come from primaries
    #[arg(long, value_name = "N")]
    pub pr: Option<String>,
}

/// How a write decides.
#[derive(Args, Clone, Debug, Default)]
pub struct WriteQuorum {
    /// Durable copies to wait for: a number, one, quorum or all (default: the bucket's)
    #[arg(long, value_name = "N")]
    pub w: Option<String>,
    /// How many of them must be on primaries
    #[arg(long, value_name = "N")]
    pub pw: Option<String>,
    /// Durable copies, asked for apart from W
    #[arg(long, value_name = "N")]
    pub dw: Option<String>,
}

impl ReadQuorum {
    /// As query parameters.
    pub fn params(&self) -> [(&'static str, Option<String>); 2] {
        [("r", self.r.clone()), ("pr", self.pr.clone())]
    }
}

impl WriteQuorum {
    /// As query parameters.
    pub fn params(&self) -> [(&'static str, Option<String>); 3] {
        [("w", self.w.clone()), ("pw", self.pw.clone()), ("dw", self.dw.clone())]
    }
}

/// What the three commands share.
#[derive(Args, Clone, Debug)]
struct Common {
    #[command(flatten)]
    nodes: NodeArgs,
    /// How long to wait for a decision
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u32,
    /// Print what a script may want to know as JSON
    #[arg(long)]
    json: bool,
}

/// Read an object.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate get cart 42
  quorate get cart 42 --r 3 --pr 3 --json
  quorate get photos cat.png --output cat.png
  quorate get cart 42 --vtag 1fx3  # one of several siblings")]
pub struct GetArgs {
    bucket: String,
    key: String,
    #[command(flatten)]
    quorum: ReadQuorum,
    /// Take this one of several siblings
    #[arg(long)]
    vtag: Option<String>,
    /// Write the value to a file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Write an object.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate put cart 42 --value '2 apples'
  quorate put photos cat.png cat.png --content-type image/png
  generate | quorate put reports today - --w 3
  # replace what was read, siblings included:
  quorate put cart 42 --value merged --context \"$(quorate get cart 42 --json | jq -r .vclock)\"")]
pub struct PutArgs {
    bucket: String,
    key: String,
    /// The file that holds the value; - is stdin
    #[arg(value_name = "FILE", required_unless_present = "value")]
    file: Option<PathBuf>,
    /// The value itself
    #[arg(long, conflicts_with = "file")]
    value: Option<String>,
    /// Its content type (default: guessed from FILE's name)
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The vclock of the read that this write follows; without one it stands beside what is there
    #[arg(long, value_name = "VCLOCK")]
    context: Option<String>,
    /// A name for this write: repeating it with the same name adds nothing (default: random)
    #[arg(long, value_name = "ID")]
    write_id: Option<String>,
    #[command(flatten)]
    quorum: WriteQuorum,
    #[command(flatten)]
    common: Common,
}

/// Delete an object.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate delete cart 42
  quorate delete cart 42 --context \"$(quorate get cart 42 --json | jq -r .vclock)\"")]
pub struct DeleteArgs {
    bucket: String,
    key: String,
    /// Delete only what this vclock covers (default: what the node finds)
    #[arg(long, value_name = "VCLOCK")]
    context: Option<String>,
    /// A name for this write: repeating it with the same name adds nothing (default: random)
    #[arg(long, value_name = "ID")]
    write_id: Option<String>,
    #[command(flatten)]
    quorum: WriteQuorum,
    #[command(flatten)]
    common: Common,
}

impl Common {
    fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.nodes)
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout))
    }
    fn timeout_param(&self) -> (&'static str, Option<String>) {
        ("timeout", Some((u64::from(self.timeout) * 1000).to_string()))
    }
}

/// Runs `get`.
pub async fn get(args: &GetArgs) -> Result<(), CliError> {
    let client = args.common.client()?;
    let path = object_path(args.bucket.as_bytes(), args.key.as_bytes())?;
    let [r, pr] = args.quorum.params();
    let timeout = args.common.timeout_param();
    let what = format!("get {}/{}", args.bucket, args.key);
    let read = async |method: Method, vtag: Option<String>| {
        let params = [r.clone(), pr.clone(), timeout.clone(), ("vtag", vtag)];
        let mut call = Call::new(method, format!("{path}{}", query(&params)));
        call.timeout = args.common.timeout();
        client.send(&call.header(ACCEPT, "*/*")?, Patience::EachNodeOnce).await
    };
    let answer = read(Method::GET, args.vtag.clone()).await?;
    match answer.status {
        StatusCode::OK => show_value(args, &answer),
        StatusCode::MULTIPLE_CHOICES => {
            let mut siblings = Vec::new();
            for vtag in vtags(&answer.body) {
                let one = read(Method::HEAD, Some(vtag.clone())).await?;
                siblings.push(describe(&vtag, &one));
            }
            show_siblings(args, &answer, &siblings);
            let text = format!("{what}: {} siblings: see above", siblings.len());
            Err(CliError::new(Exit::Conflict, text))
        }
        StatusCode::NOT_FOUND => {
            let deleted = answer.headers.contains_key(DELETED);
            if args.common.json {
                let mut found = summary(&args.bucket, &args.key, &answer);
                found["found"] = json!(false);
                found["deleted"] = json!(deleted);
                print_json(&found);
            }
            let why = match (&args.vtag, deleted) {
                (Some(vtag), _) => format!("no sibling has the vtag {vtag} (any more): list them"),
                (None, true) => "deleted; writing it again is fine".into(),
                (None, false) => "not found".into(),
            };
            Err(CliError::new(Exit::NotFound, format!("{what}: {why}")))
        }
        _ => Err(answer.error(&what)),
    }
}

fn show_value(args: &GetArgs, answer: &Answer) -> Result<(), CliError> {
    if let Some(path) = &args.output {
        std::fs::write(path, &answer.body).map_err(|e| CliError::file("write", path, &e))?;
    }
    if args.common.json {
        let mut found = summary(&args.bucket, &args.key, answer);
        found["found"] = json!(true);
        found["content_type"] = json!(answer.header(&CONTENT_TYPE));
        found["last_modified"] = json!(answer.header(&LAST_MODIFIED));
        found["vtag"] = json!(answer.header(&ETAG).map(|tag| tag.trim_matches('"')));
        found["bytes"] = json!(answer.body.len());
        if args.output.is_none() {
            // Null says: not text, take it with --output.
            found["value"] = json!(std::str::from_utf8(&answer.body).ok());
        }
        print_json(&found);
    } else if args.output.is_none() {
        let written = std::io::stdout().write_all(&answer.body);
        // A reader that has read enough (`| head`) is no failure.
        if let Err(error) = written
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(CliError::failed(format!("cannot write to stdout: {error}")));
        }
    }
    Ok(())
}

/// The vtags in `Siblings:` and one a line.
pub fn vtags(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && *line != "Siblings:").map(str::to_owned).collect()
}

fn describe(vtag: &str, answer: &Answer) -> Value {
    json!({
        "vtag": vtag,
        "bytes": answer.header(&reqwest::header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok()),
        "last_modified": answer.header(&LAST_MODIFIED),
        "content_type": answer.header(&CONTENT_TYPE),
    })
}

fn show_siblings(args: &GetArgs, answer: &Answer, siblings: &[Value]) {
    if args.common.json {
        let mut found = summary(&args.bucket, &args.key, answer);
        found["found"] = json!(true);
        found["siblings"] = json!(siblings);
        print_json(&found);
        return;
    }
    let (bucket, key) = (&args.bucket, &args.key);
    // On stderr: stdout is for the value, and there is no single one.
    eprintln!(
        "{bucket}/{key} has {} siblings, written without knowing of each other:",
        siblings.len()
    );
    for one in siblings {
        let text = |name: &str| one[name].as_str().unwrap_or("?").to_owned();
        let bytes = one["bytes"].as_u64().map_or("?".into(), |n| n.to_string());
        let (vtag, date, kind) = (text("vtag"), text("last_modified"), text("content_type"));
        eprintln!("  {vtag}  {bytes:>10} bytes  {date}  {kind}");
    }
    eprintln!("Read one:     quorate get {bucket} {key} --vtag VTAG");
    eprintln!("Resolve them: quorate put {bucket} {key} FILE --context VCLOCK, where VCLOCK is");
    eprintln!("  {}", answer.header(&VCLOCK).unwrap_or("(the node gave none)"));
}

/// Runs `put`.
pub async fn put(args: &PutArgs) -> Result<(), CliError> {
    let client = args.common.client()?;
    let (body, guessed) = value_of(args)?;
    let content_type = args.content_type.as_deref().unwrap_or(guessed);
    let path = object_path(args.bucket.as_bytes(), args.key.as_bytes())?;
    let bytes = body.len();
    let (call, id) = write_call(
        Method::PUT,
        &path,
        &args.quorum,
        (args.context.as_deref(), args.write_id.as_deref()),
        &args.common,
    )?;
    let mut call = call.header(CONTENT_TYPE, content_type)?;
    call.body = body;
    let answer = client.send(&call, Patience::EachNodeOnce).await?;
    finish_write("put", (&args.bucket, &args.key), &answer, &id, args.common.json, Some(bytes))
}

/// Runs `delete`.
pub async fn delete(args: &DeleteArgs) -> Result<(), CliError> {
    let client = args.common.client()?;
    let path = object_path(args.bucket.as_bytes(), args.key.as_bytes())?;
    let (call, id) = write_call(
        Method::DELETE,
        &path,
        &args.quorum,
        (args.context.as_deref(), args.write_id.as_deref()),
        &args.common,
    )?;
    let answer = client.send(&call, Patience::EachNodeOnce).await?;
    finish_write("delete", (&args.bucket, &args.key), &answer, &id, args.common.json, None)
}

fn write_call(
    method: Method,
    path: &str,
    quorum: &WriteQuorum,
    (context, write_id): (Option<&str>, Option<&str>),
    common: &Common,
) -> Result<(Call, String), CliError> {
    let id = match write_id {
        Some(id) => id.to_owned(),
        None => random_id()?,
    };
    let [w, pw, dw] = quorum.params();
    let params = query(&[w, pw, dw, common.timeout_param()]);
    let mut call = Call::new(method, format!("{path}{params}")).header(WRITE_ID, &id)?;
    call.timeout = common.timeout();
    if let Some(context) = context.filter(|context| !context.is_empty()) {
        call = call.header(VCLOCK, context)?;
    }
    Ok((call, id))
}

fn finish_write(
    verb: &str,
    (bucket, key): (&str, &str),
    answer: &Answer,
    id: &str,
    json: bool,
    bytes: Option<usize>,
) -> Result<(), CliError> {
    if json {
        let mut done = summary(bucket, key, answer);
        done["ok"] = json!(answer.status.is_success());
        done["write_id"] = json!(id);
        if let Some(bytes) = bytes {
            done["bytes"] = json!(bytes);
        }
        print_json(&done);
    }
    if answer.status.is_success() {
        return Ok(());
    }
    let mut error = answer.error(&format!("{verb} {bucket}/{key}"));
    if error.exit == Exit::Unavailable {
        error.message = format!("{} (write id {id})", error.message);
    }
    Err(error)
}

/// What every answer tells: vclock, receipt, status.
fn summary(bucket: &str, key: &str, answer: &Answer) -> Value {
    let receipt = answer.header(&RECEIPT);
    let receipt = receipt.map(super::receipt::to_json);
    json!({
        "bucket": bucket,
        "key": key,
        "status": answer.status.as_u16(),
        "vclock": answer.header(&VCLOCK),
        "receipt": receipt,
    })
}

fn value_of(args: &PutArgs) -> Result<(Bytes, &'static str), CliError> {
    if let Some(value) = &args.value {
        return Ok((Bytes::copy_from_slice(value.as_bytes()), "text/plain; charset=utf-8"));
    }
    let path = args.file.as_deref().expect("clap demands a file where no value is given");
    if path.as_os_str() == "-" {
        let mut value = Vec::new();
        let read = std::io::stdin().read_to_end(&mut value);
        read.map_err(|e| CliError::failed(format!("cannot read stdin: {e}")))?;
        return Ok((value.into(), "application/octet-stream"));
    }
    let value = std::fs::read(path).map_err(|e| CliError::file("read", path, &e))?;
    Ok((value.into(), super::names::content_type(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vtags_are_read_from_the_list_of_siblings() {
        assert_eq!(vtags(b"Siblings:\na1\nb2\n"), ["a1", "b2"]);
        assert!(vtags(b"Siblings:\n").is_empty());
    }
}
