//! A bucket's keys, page by page.
//!
//! Invariant: a listing is complete or it is an error: a page that cannot be had is never skipped.

use super::client::{Call, Client, Patience};
use super::exit::{CliError, one_line};
use super::names::{encode, query};
use percent_encoding::percent_decode_str;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

/// Keys in one page.
const PAGE_KEYS_MAX: u32 = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Page {
    keys: Vec<String>,
    /// Keys that are not UTF-8, percent-encoded.
    keys_percent_encoded: Vec<String>,
    continuation: Option<String>,
}

/// Asks for the pages of a bucket's keys one after the other.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a Client,
    bucket: &'a str,
    patience: Patience,
    continuation: Option<String>,
    ended: bool,
}

impl<'a> Pages<'a> {
    /// From the beginning.
    pub fn new(client: &'a Client, bucket: &'a str, patience: Patience) -> Self {
        Self { client, bucket, patience, continuation: None, ended: false }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, CliError> {
        if self.ended {
            return Ok(None);
        }
        let params = query(&[
            ("keys", Some("true".into())),
            ("max_results", Some(PAGE_KEYS_MAX.to_string())),
            ("continuation", self.continuation.take()),
        ]);
        let target = format!("/buckets/{}/keys{params}", encode(self.bucket.as_bytes()));
        let answer = self.client.send(&Call::new(Method::GET, target), self.patience).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.error(&format!("cannot list the keys of {}", self.bucket)));
        }
        let (keys, continuation) = parse(&answer.body)?;
        self.ended = continuation.is_none();
        self.continuation = continuation;
        Ok(Some(keys))
    }
}

fn parse(body: &[u8]) -> Result<(Vec<Vec<u8>>, Option<String>), CliError> {
    let page: Page = serde_json::from_slice(body).map_err(|error| {
        let error = one_line(&error.to_string());
        CliError::failed(format!("the list of keys is not what a Quorate node answers: {error}"))
    })?;
    let plain = page.keys.into_iter().map(String::into_bytes);
    let encoded = page.keys_percent_encoded.iter().map(|key| percent_decode_str(key).collect());
    Ok((plain.chain(encoded).collect(), page.continuation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_not_utf8_are_listed_losslessly() {
        let (keys, more) = parse(
            br#"{"keys":["a/b","%41"],"keys_percent_encoded":["x%FF%2Fy"],"continuation":"c"}"#,
        )
        .unwrap();
        assert_eq!(keys, [&b"a/b"[..], b"%41", b"x\xff/y"]);
        assert_eq!(more.as_deref(), Some("c"));
        assert!(parse(b"{}").unwrap().0.is_empty());
        assert!(parse(b"[1]").is_err());
    }
}
