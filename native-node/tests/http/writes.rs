//! Writes: what they must bring, what they are told, and retries.

use crate::fake::Server;
use quorate_core::{Duration, Need, Request, WriteId};

const KEY: &str = "/buckets/b/keys/k";
const TEXT: (&str, &str) = ("Content-Type", "text/plain");

#[tokio::test]
async fn a_content_type_is_required() {
    let server = Server::start().await;
    let missing = server.call("PUT", KEY, &[], "v").await;
    missing.assert_refused(400, "Missing Content-Type request header\n");
    for malformed in ["text", "text/", "/plain", "text/plain; charset"] {
        let got = server.call("PUT", KEY, &[("Content-Type", malformed)], "v").await;
        got.assert_refused(415, "Content-Type");
    }
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn writes_pass_their_parameters_on() {
    let server = Server::start().await;
    let query = "?w=all&pw=1&dw=quorum&sloppy_quorum=false&timeout=100&returnbody=true";
    server.put(&format!("{KEY}{query}"), &[("X-Quorate-Write-Id", "id-1")], "v").await;
    server.put(KEY, &[("X-Riak-Vclock", "")], "v").await;
    let seen = server.seen();
    let [Request::Put(full), Request::Put(default)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((full.w, full.pw), (Some(Need::All), Some(Need::Count(1))));
    assert_eq!((full.dw, full.sloppy, full.return_body), (Some(Need::Quorum), false, true));
    assert_eq!(full.timeout, Some(Duration::from_millis(100)));
    assert_eq!(full.write_id, Some(WriteId::of(b"id-1")));
    assert_eq!((default.w, default.pw, default.dw, default.timeout), (None, None, None, None));
    assert_eq!((&default.context, default.write_id), (&None, None), "an empty vclock is none");
    assert!(default.sloppy && !default.return_body);
}

#[tokio::test]
async fn a_post_to_a_key_is_a_put() {
    let server = Server::start().await;
    assert_eq!(server.call("POST", KEY, &[TEXT], "v").await.status, 204);
    assert_eq!(server.get(KEY).await.text(), "v");
}

#[tokio::test]
async fn a_post_to_the_keys_makes_a_key() {
    let server = Server::start().await;
    let made = server.call("POST", "/buckets/a%20b/keys", &[TEXT], "v").await;
    assert_eq!(made.status, 201);
    let place = made.header("location");
    assert!(place.starts_with("/buckets/a%20b/keys/"), "{place}");
    assert_eq!(server.get(place).await.text(), "v");
    let other = server.call("POST", "/buckets/a%20b/keys?returnbody=true", &[TEXT], "w").await;
    assert_eq!((other.status.as_u16(), other.text()), (201, "w"));
    assert_ne!(other.header("location"), place);
}

#[tokio::test]
async fn a_context_of_elsewhere_is_a_clear_400() {
    let server = Server::start().await;
    server.put(KEY, &[], "v").await;
    let context = server.get(KEY).await.header("x-riak-vclock").to_owned();
    for (path, context, says) in [
        ("/buckets/b/keys/other", &*context, "not issued by this cluster for this key"),
        (KEY, "AAAA", "not issued by this cluster for this key"),
        (KEY, "not base64!", "X-Riak-Vclock is not base64"),
    ] {
        for method in ["PUT", "DELETE"] {
            let headers = [TEXT, ("X-Riak-Vclock", context)];
            server.call(method, path, &headers, "w").await.assert_refused(400, says);
        }
    }
    assert_eq!(server.get(KEY).await.text(), "v");
}

#[tokio::test]
async fn a_retry_with_the_same_write_id_adds_nothing() {
    let server = Server::start().await;
    let id = ("X-Quorate-Write-Id", "5f0c");
    let meta = [id, ("X-Riak-Meta-A", "1"), ("X-Riak-Meta-B", "2")];
    let reordered = [id, ("X-Riak-Meta-B", "2"), ("X-Riak-Meta-A", "1")];
    let first = server.put(KEY, &meta, "v").await;
    assert!(!first.header("x-quorate-receipt").contains("repeated"));
    let second = server.put(KEY, &reordered, "v").await;
    assert!(second.header("x-quorate-receipt").ends_with(", repeated"));
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "v"));
    let reused = server.call("PUT", KEY, &[TEXT, id], "other").await;
    reused.assert_refused(400, "write id was used before with another value");
}

#[tokio::test]
async fn write_ids_are_bounded_visible_text() {
    let server = Server::start().await;
    for (id, ok) in [
        ("x".repeat(255), true),
        ("~!".into(), true),
        ("x".repeat(256), false),
        (String::new(), false),
        ("two words".into(), false),
    ] {
        let headers = [TEXT, ("X-Quorate-Write-Id", &*id)];
        let got = server.call("PUT", &format!("/buckets/b/keys/{}", id.len()), &headers, "v").await;
        if ok {
            assert_eq!(got.status, 204);
        } else {
            got.assert_refused(400, "X-Quorate-Write-Id must be 1 to 255");
        }
    }
}

#[tokio::test]
async fn conditions_on_writes_are_refused_rather_than_ignored() {
    let server = Server::start().await;
    for name in ["if-match", "if-none-match", "if-unmodified-since", "x-riak-if-not-modified"] {
        for method in ["PUT", "DELETE"] {
            let got = server.call(method, KEY, &[TEXT, (name, "*")], "v").await;
            got.assert_refused(501, name);
        }
    }
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn web_pages_of_other_sites_cannot_write() {
    let server = Server::start().await;
    let own = format!("http://{}", server.address);
    for (origin, status) in [("http://evil.example", 403), ("null", 403), (&*own, 204)] {
        let got = server.call("PUT", KEY, &[TEXT, ("Origin", origin)], "v").await;
        assert_eq!(got.status, status, "{origin}");
    }
    let rebound = server.call("GET", KEY, &[("Host", "evil.example:8098")], "").await;
    rebound.assert_refused(403, "DNS rebinding");
}
