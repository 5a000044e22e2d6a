//! The query string, parsed once into types that cannot be wrong.
//!
//! Parameters that this server doesn't know are ignored, as Riak does.

use super::problem::Problem;
use percent_encoding::percent_decode;
use quorate_core::{Duration, N_VAL_MAX, Need};

/// A request's parameters. If one is repeated, the last counts.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A quorum of at least one node; `None` leaves it to the bucket.
    pub(super) fn quorum(&self, name: &str) -> Result<Option<Need>, Problem> {
        match self.quorum_or_none(name)? {
            Some(Need::Count(0)) => Err(Problem::bad_request(format!(
                "{name}=0 would ask nobody: give {name} at least 1, or leave it out"
            ))),
            need => Ok(need),
        }
    }

    /// A quorum that may also be zero: an additional demand that is not made.
    pub(super) fn quorum_or_none(&self, name: &str) -> Result<Option<Need>, Problem> {
        self.get(name).map_or(Ok(None), |text| parse_need(name, text))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => {
                Err(Problem::bad_request(format!("{name} query parameter must be true or false")))
            }
        }
    }

    /// How long the client waits.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get("timeout") else { return Ok(None) };
        match text.parse() {
            Ok(millis) if millis > 0 => Ok(Some(Duration::from_millis(millis))),
            _ => Err(Problem::bad_request(
                "timeout query parameter must be a number of milliseconds, at least 1",
            )),
        }
    }
}

/// A number of nodes or one of Riak's words; `default` is `None`.
pub(super) fn parse_need(name: &str, text: &str) -> Result<Option<Need>, Problem> {
    match text {
        "one" => return Ok(Some(Need::Count(1))),
        "quorum" => return Ok(Some(Need::Quorum)),
        "all" => return Ok(Some(Need::All)),
        "default" => return Ok(None),
        _ => {}
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::bad_request(format!(
            "{name} must be a number or one of these words: one, quorum, all, default"
        )));
    }
    match text.parse() {
        Ok(count) => Ok(Some(Need::Count(count))),
        Err(_) => Err(Problem::bad_request(format!(
            "{name}={text} is more than n, which is at most {N_VAL_MAX}: ask for at most n"
        ))),
    }
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_repeated_parameters_counts() {
        let query = Query::parse(Some("a=1&b=x+y%21&&a=2&c"));
        assert_eq!(query.get("a"), Some("2"));
        assert_eq!(query.get("b"), Some("x y!"));
        assert_eq!(query.get("c"), Some(""));
        assert_eq!(query.get("d"), None);
        assert_eq!(Query::parse(None).get("a"), None);
    }

    #[test]
    fn quorums_are_numbers_or_words() {
        for (text, want) in [
            ("0", Some(Need::Count(0))),
            ("2", Some(Need::Count(2))),
            ("one", Some(Need::Count(1))),
            ("quorum", Some(Need::Quorum)),
            ("all", Some(Need::All)),
            ("default", None),
        ] {
            assert_eq!(parse_need("r", text).unwrap(), want, "{text}");
        }
        for text in ["", "-1", "+1", "ALL", "1.0", "256", "99999999999999999999"] {
            assert!(parse_need("r", text).is_err(), "{text}");
        }
    }
}
