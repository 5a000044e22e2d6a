//! Keeping web pages out: the API listens on loopback, where any page in a local browser can reach it.
//!
//! Two attacks are refused. *DNS rebinding*: a page's own host name is made to resolve to 127.0.0.1;
//! its requests carry that name as `Host`. *Cross-site requests*: a page posts to
//! `http://127.0.0.1:8098` directly; its requests carry the page's `Origin`. Programs that are not
//! browsers send no `Origin`, and reach the node under a loopback name.

use super::problem::Problem;
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use std::net::IpAddr;

/// Refuses what a web page of another site sends.
pub(super) fn check(parts: &Parts) -> Result<(), Problem> {
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        // HTTP/1.0 has none; browsers always send one.
        None => parts.uri.authority().map(axum::http::uri::Authority::as_str),
    };
    let refused = |text| Err(Problem::new(StatusCode::FORBIDDEN, text));
    if parts.headers.contains_key(HOST) && !host.is_some_and(is_loopback) {
        return refused(
            "the Host header does not name this machine (DNS rebinding): use 127.0.0.1, [::1] or \
             localhost",
        );
    }
    if matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    match (origin, host) {
        (Some(origin), Some(host)) if is_loopback(origin) && origin == host => Ok(()),
        _ => refused(
            "a web page of another site may not change anything here (the Origin header is not \
             this server's): use a program that is not a browser",
        ),
    }
}

/// Does `host[:port]` name this machine?
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for authority in ["localhost", "LOCALHOST:8098", "127.0.0.1:1", "127.8.8.8", "[::1]:8098"] {
            assert!(is_loopback(authority), "{authority}");
        }
        for authority in
            ["", "evil.example:8098", "localhost.evil.example", "10.0.0.1", "[::2]", "["]
        {
            assert!(!is_loopback(authority), "{authority}");
        }
    }

    #[test]
    fn pages_of_other_sites_may_not_write() {
        let here = Some("127.0.0.1:8098");
        for (method, host, origin, allowed) in [
            ("PUT", here, None, true),
            ("PUT", None, None, true),
            ("PUT", here, Some("http://127.0.0.1:8098"), true),
            ("PUT", here, Some("http://127.0.0.1:9000"), false),
            ("PUT", here, Some("http://evil.example"), false),
            ("DELETE", here, Some("null"), false),
            ("POST", Some("evil.example"), Some("http://evil.example"), false),
            ("GET", Some("evil.example"), None, false),
            ("GET", here, Some("http://evil.example"), true),
        ] {
            let mut request = Request::builder().method(method).uri("/ping");
            for (name, value) in [(HOST, host), (ORIGIN, origin)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(check(&parts).is_ok(), allowed, "{method} {host:?} {origin:?}");
        }
    }
}
