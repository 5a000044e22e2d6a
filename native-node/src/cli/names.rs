//! Names on the way between files, keys and URLs: percent-encoding, paths that stay inside a
//! folder, content types.
//!
//! Invariant: file → key → file gives the same path, byte for byte, and no key ever names a file
//! outside the folder it is exported into.

use super::exit::{CliError, Exit};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// What needs no escape in a path segment (RFC 3986 "unreserved"); `/` does, it is part of the key.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One segment of a URL's path, or one value of its query.
pub fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, SEGMENT).to_string()
}

/// The path of an object, or why it has none.
pub fn object_path(bucket: &[u8], key: &[u8]) -> Result<String, CliError> {
    quorate_core::Key::new(bucket.to_vec(), key.to_vec())
        .map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    for name in [bucket, key] {
        if matches!(name, b"." | b"..") {
            let name = String::from_utf8_lossy(name);
            let text = format!("the name {name:?} cannot stand in a URL: use another");
            return Err(CliError::new(Exit::Usage, text));
        }
    }
    Ok(format!("/buckets/{}/keys/{}", encode(bucket), encode(key)))
}

/// A query string of what was given; empty if nothing was.
pub fn query(params: &[(&str, Option<String>)]) -> String {
    let mut out = String::new();
    for (name, value) in params {
        if let Some(value) = value {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(name);
            out.push('=');
            out.push_str(&encode(value.as_bytes()));
        }
    }
    out
}

/// The key of a file: its path relative to the imported folder, with `/`.
pub fn key_of(relative: &Path) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    for component in relative.components() {
        let Component::Normal(name) = component else {
            return Err(format!("{} is no path inside the folder", relative.display()));
        };
        if !key.is_empty() {
            key.push(b'/');
        }
        key.extend_from_slice(name.as_bytes());
    }
    Ok(key)
}

/// The file that a key names inside a folder, or why it names none.
pub fn path_of(key: &[u8]) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for part in key.split(|&byte| byte == b'/') {
        match part {
            b"" => return Err("it begins or ends with / or holds //".into()),
            b"." | b".." => return Err("it holds . or .. and would leave the folder".into()),
            part if part.contains(&0) => return Err("it holds a zero byte".into()),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

/// A key for people.
pub fn show(key: &[u8]) -> String {
    String::from_utf8_lossy(key).chars().flat_map(escape_control).collect()
}

fn escape_control(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// A content type guessed from the extension; browsers and `curl` like to know.
pub fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" | "rs" | "toml" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_to_key_to_file_gives_the_same_path() {
        for text in ["a", "a b/c%2F.txt", "ü/日本/…", "-x/.hidden", "a\\b", "deep/er/and/deeper"]
        {
            let path = Path::new(text);
            assert_eq!(path_of(&key_of(path).unwrap()).unwrap(), path);
        }
    }

    #[test]
    fn names_that_are_not_unicode_survive() {
        let path = Path::new(OsStr::from_bytes(b"d/\xff\xfe\n.bin"));
        let key = key_of(path).unwrap();
        assert_eq!(key, b"d/\xff\xfe\n.bin");
        assert_eq!(path_of(&key).unwrap(), path);
        assert_eq!(object_path(b"b", &key).unwrap(), "/buckets/b/keys/d%2F%FF%FE%0A.bin");
    }

    #[test]
    fn no_key_names_a_file_outside_the_folder() {
        for key in ["/etc/passwd", "../x", "a/../../x", "a/..", "..", ".", "a//b", "a/", "a\0b", ""]
        {
            assert!(path_of(key.as_bytes()).is_err(), "{key:?}");
        }
        assert!(key_of(Path::new("../x")).is_err());
        assert!(key_of(Path::new("/x")).is_err());
    }

    #[test]
    fn names_that_a_url_would_swallow_are_refused() {
        assert_eq!(object_path(b"b", b"..").unwrap_err().exit, Exit::Usage);
        assert_eq!(object_path(b"b", b"").unwrap_err().exit, Exit::Usage);
        assert!(object_path(b"b", b"...").is_ok());
    }

    #[test]
    fn only_given_parameters_are_sent() {
        assert_eq!(query(&[("r", None), ("pr", None)]), "");
        assert_eq!(query(&[("r", Some("3".into())), ("pr", Some("a&b".into()))]), "?r=3&pr=a%26b");
    }
}
