//! What a node is started with: flags beat `QUORATE_*` variables, which beat the TOML file, which
//! beats the defaults. Invariant: [`Settings`] that exist can be run; everything that is wrong with
//! them was said on one line before anything was opened.

use crate::peers::address::Address;
use crate::serve::ServeArgs;
use quorate_core::{ClusterId, Found, Limits, MemberConfig, Secret};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where a node listens unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:8098";
/// Q of a new cluster unless told otherwise.
pub const PARTITIONS_DEFAULT: u32 = 256;
/// The longest body of an object unless told otherwise.
pub const OBJECT_BYTES_MAX: u64 = 1 << 20;
/// The longest body that can be allowed: objects are held in memory, siblings with them.
pub const OBJECT_BYTES_MAX_MAX: u64 = 64 << 20;
/// What is logged unless told otherwise: of the storage engine, only what somebody should look at.
pub const LOG: &str = "info,fjall=warn,lsm_tree=warn";

const OFF_LOOPBACK: &str =
    "off loopback a node needs a cluster secret and TLS, which this version does not have";

/// The keys of the TOML file: the long flags with underscores.
pub const FILE_HELP: &str = "\
The file given with --config is TOML. Its keys are the flags with underscores; flags beat
variables, variables beat the file, the file beats the defaults. A key it does not know is an error.

  data = \"/var/lib/quorate\"          directory of the store
  memory = false                     keep records in memory only
  listen = \"127.0.0.1:8098\"          address of the one port for HTTP and peers
  advertise = \"http://127.0.0.1:8098\" where peers reach this node
  join = [\"http://127.0.0.1:8101\"]   members to ask for admission
  name = \"a\"                         name for people
  zone = \"rack-1\"                    replicas go to distinct zones where possible
  weight = 1                         share of the partitions
  partitions = 256                   of a new cluster, a power of two
  cluster_id = \"…32 hex digits…\"     of a new cluster, instead of a random one
  accept_loss = false                go on although this disk lost data for good
  object_bytes_max = \"1MiB\"          longest object body
  hint_bytes_max = \"4GiB\"            bytes kept for other nodes
  log = \"info\"                       filter, as in warn,quorate_node::peers=debug
  log_json = false                   logs as JSON lines

Examples:
  quorate serve --data /tmp/a
  quorate serve --data /tmp/b --listen 127.0.0.1:8101 --join http://127.0.0.1:8098
  QUORATE_LOG=debug quorate serve --memory --listen 127.0.0.1:0";

/// What is wrong with the settings, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Where records live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// In files in this directory.
    Directory(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

/// Everything a node is started with, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where records live.
    pub data: Data,
    /// Where to listen; port zero takes a free one.
    pub listen: SocketAddr,
    /// Where peers reach this node; `None`: where it listens.
    pub advertise: Option<Address>,
    /// Its name, zone and weight; the address is added when it is known.
    pub member: MemberConfig,
    /// Members to ask for admission; none: a new disk founds a cluster.
    pub join: Vec<Address>,
    /// Q of a new cluster, if given.
    pub partitions: Option<u32>,
    /// The id of a new cluster, if given.
    pub cluster: Option<ClusterId>,
    /// The operator accepts what this disk lost.
    pub accept_loss: bool,
    /// The data directory was restored from a copy.
    pub restored: bool,
    /// The longest body of an object.
    pub object_bytes_max: u64,
    /// Bytes kept for other nodes.
    pub hint_bytes_max: u64,
    /// What is logged.
    pub log: String,
    /// Logs as JSON lines?
    pub log_json: bool,
}

/// The TOML file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    memory: Option<bool>,
    listen: Option<String>,
    advertise: Option<String>,
    join: Option<Vec<String>>,
    name: Option<String>,
    zone: Option<String>,
    weight: Option<u32>,
    partitions: Option<u32>,
    cluster_id: Option<String>,
    accept_loss: Option<bool>,
    object_bytes_max: Option<Bytes>,
    hint_bytes_max: Option<Bytes>,
    log: Option<String>,
    log_json: Option<bool>,
}

/// A number of bytes, plain or with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Plain(u64),
    Text(String),
}

impl Settings {
    /// Merges flags and variables with the file they name, and checks the result.
    pub fn resolve(args: ServeArgs) -> Result<Self, ConfigError> {
        let file = args.config.as_deref().map_or(Ok(File::default()), read_file)?;
        let listen = args.listen.or(file.listen).unwrap_or_else(|| LISTEN.into());
        let advertise = args.advertise.or(file.advertise);
        let member = MemberConfig {
            name: args.name.or(file.name).unwrap_or_default(),
            zone: args.zone.or(file.zone).unwrap_or_else(|| MemberConfig::default().zone),
            weight: args.weight.or(file.weight).unwrap_or(1),
            addresses: Vec::new(),
        };
        if member.weight == 0 {
            return wrong("weight=0: a member's weight is at least 1");
        }
        let join = if args.join.is_empty() { file.join.unwrap_or_default() } else { args.join };
        let partitions = args.partitions.or(file.partitions);
        if let Some(partitions) = partitions {
            let checked = Found::new(ClusterId(0, 0), partitions, Secret([0; 4]));
            checked.map_err(|error| ConfigError(format!("partitions: {error}")))?;
        }
        let bytes = |text: Option<String>, file: Option<Bytes>, name: &str, default: u64| match text
            .map(Bytes::Text)
            .or(file)
        {
            None => Ok(default),
            Some(Bytes::Plain(bytes)) => Ok(bytes),
            Some(Bytes::Text(text)) => {
                parse_bytes(&text).map_err(|error| ConfigError(format!("{name}: {error}")))
            }
        };
        let object_bytes_max = bytes(
            args.object_bytes_max,
            file.object_bytes_max,
            "object_bytes_max",
            OBJECT_BYTES_MAX,
        )?;
        if !(1..=OBJECT_BYTES_MAX_MAX).contains(&object_bytes_max) {
            return wrong(format!(
                "object_bytes_max={object_bytes_max}: choose 1 to {OBJECT_BYTES_MAX_MAX} (64MiB)"
            ));
        }
        Ok(Self {
            data: data(args.data.or(file.data), args.memory.or(file.memory).unwrap_or(false))?,
            listen: parse_listen(&listen)?,
            advertise: advertise.map(|text| parse_address("advertise", &text)).transpose()?,
            member,
            join: join
                .iter()
                .filter(|text| !text.is_empty())
                .map(|text| parse_address("join", text))
                .collect::<Result<_, _>>()?,
            partitions,
            cluster: args.cluster_id.or(file.cluster_id).map(|text| parse_id(&text)).transpose()?,
            restored: args.restored,
            accept_loss: args.accept_loss.or(file.accept_loss).unwrap_or(false),
            object_bytes_max,
            hint_bytes_max: bytes(
                args.hint_bytes_max,
                file.hint_bytes_max,
                "hint_bytes_max",
                Limits::default().hint_bytes_max,
            )?,
            log: args.log.or(file.log).unwrap_or_else(|| LOG.into()),
            log_json: args.log_json.or(file.log_json).unwrap_or(false),
        })
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

fn data(directory: Option<PathBuf>, memory: bool) -> Result<Data, ConfigError> {
    match (directory, memory) {
        (Some(directory), false) => Ok(Data::Directory(directory)),
        (None, true) => Ok(Data::Memory),
        (None, false) => wrong(
            "no place for data: give --data DIR, or --memory for a node that forgets all at its end",
        ),
        (Some(_), true) => wrong("--data and --memory exclude each other: choose one"),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let plain = text.replacen("localhost:", "127.0.0.1:", 1);
    let Ok(listen) = plain.parse::<SocketAddr>() else {
        return wrong(format!("listen={text}: write IP:PORT, for example {LISTEN}"));
    };
    if !listen.ip().is_loopback() {
        return wrong(format!("listen={text} is refused: {OFF_LOOPBACK}; use {LISTEN}"));
    }
    Ok(listen)
}

fn parse_address(name: &str, text: &str) -> Result<Address, ConfigError> {
    let parsed = text.parse::<Address>();
    let address = parsed.map_err(|error| ConfigError(format!("{name}: {error}")))?;
    if !address.is_loopback() {
        return wrong(format!("{name}={text} is refused: {OFF_LOOPBACK}"));
    }
    Ok(address)
}

fn parse_id(text: &str) -> Result<ClusterId, ConfigError> {
    text.parse().map_err(|error| ConfigError(format!("cluster_id={text}: {error}")))
}

/// Reads `1048576`, `1MiB`, `64 KiB`, `4GiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(format!("`{text}`: the units are B, KiB, MiB, GiB and TiB")),
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is not a number of bytes, such as 1048576 or 1MiB"))
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let place = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("cannot read the configuration {place}: {error}")))?;
    parse_file(&text).map_err(|(line, error)| ConfigError(format!("{place}:{line}: {error}")))
}

/// The file's content, or the line of the first error and what it is.
fn parse_file(text: &str) -> Result<File, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or(text);
        let line = before.split('\n').count();
        (line, error.message().replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> ServeArgs {
        ServeArgs { memory: Some(true), ..ServeArgs::default() }
    }

    fn with_file(args: ServeArgs, text: &str) -> Result<Settings, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        Settings::resolve(ServeArgs { config: Some(file.path().into()), ..args })
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_defaults() {
        let args = ServeArgs { zone: Some("flag".into()), ..memory() };
        let text = "zone = 'file'\nname = 'file'\nobject_bytes_max = '2 MiB'\nhint_bytes_max = 7\n";
        let settings = with_file(args, text).unwrap();
        assert_eq!(
            (settings.member.zone.as_str(), settings.member.name.as_str()),
            ("flag", "file")
        );
        assert_eq!((settings.object_bytes_max, settings.hint_bytes_max), (2 << 20, 7));
        assert_eq!((settings.listen, settings.log.as_str()), (LISTEN.parse().unwrap(), LOG));
    }

    #[test]
    fn a_flag_can_take_back_what_the_file_turns_on() {
        let args =
            ServeArgs { memory: Some(false), data: Some("d".into()), ..ServeArgs::default() };
        let settings = with_file(args, "memory = true\nlog_json = true\n").unwrap();
        assert_eq!(settings.data, Data::Directory("d".into()));
        assert!(settings.log_json);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        for (text, line, word) in [
            ("name = 'a'\nlisten_on = 'x'\n", ":2: ", "listen_on"),
            ("\n\nweight = 'heavy'\n", ":3: ", "weight"),
            ("name = \n", ":1: ", "value"),
        ] {
            let error = with_file(memory(), text).unwrap_err().to_string();
            assert!(error.contains(line) && !error.contains('\n'), "{error}");
            assert!(error.contains(word) || word == "weight", "{error}");
        }
    }

    #[test]
    fn every_key_in_the_help_is_a_key_of_the_file() {
        let table = FILE_HELP.split("\n\n").nth(1).unwrap();
        for line in table.lines() {
            let line = line.trim().replace("…32 hex digits…", "0123456789abcdef0123456789abcdef");
            let (pair, _) = line.split_once("  ").or_else(|| line.split_once(" where")).unwrap();
            assert!(parse_file(pair).is_ok(), "{pair}");
        }
    }

    #[test]
    fn addresses_off_loopback_are_refused_with_the_reason() {
        let cases = [
            ServeArgs { listen: Some("0.0.0.0:8098".into()), ..memory() },
            ServeArgs { listen: Some("[::]:8098".into()), ..memory() },
            ServeArgs { advertise: Some("http://10.0.0.1:8098".into()), ..memory() },
            ServeArgs { join: vec!["http://example.org:8098".into()], ..memory() },
        ];
        for args in cases {
            let error = Settings::resolve(args).unwrap_err().to_string();
            assert!(error.contains("needs a cluster secret and TLS"), "{error}");
        }
    }

    #[test]
    fn wrong_settings_say_what_to_do() {
        let cases = [
            (ServeArgs::default(), "--data DIR"),
            (ServeArgs { data: Some("d".into()), ..memory() }, "choose one"),
            (ServeArgs { partitions: Some(100), ..memory() }, "power of two"),
            (ServeArgs { listen: Some("8098".into()), ..memory() }, "IP:PORT"),
            (ServeArgs { join: vec!["127.0.0.1:1".into()], ..memory() }, "http://HOST:PORT"),
            (ServeArgs { object_bytes_max: Some("1GB".into()), ..memory() }, "MiB"),
            (ServeArgs { object_bytes_max: Some("1GiB".into()), ..memory() }, "64MiB"),
            (ServeArgs { cluster_id: Some("12".into()), ..memory() }, "hexadecimal"),
            (ServeArgs { weight: Some(0), ..memory() }, "at least 1"),
        ];
        for (args, want) in cases {
            let error = Settings::resolve(args).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
