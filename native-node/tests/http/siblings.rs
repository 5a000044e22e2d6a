//! Several values a key: the list, one of them, all of them, and how they are resolved.

use crate::fake::{Got, Server};

const KEY: &str = "/buckets/b/keys/k";

/// Two concurrent values.
async fn with_siblings() -> Server {
    let server = Server::start().await;
    server.put(KEY, &[("X-Riak-Meta-Who", "one")], "first").await;
    server.put(KEY, &[("Content-Encoding", "identity")], "second").await;
    server
}

fn vtags(list: &Got) -> Vec<String> {
    let mut lines = list.text().lines();
    assert_eq!(lines.next(), Some("Siblings:"));
    lines.map(str::to_owned).collect()
}

/// The parts of a multipart body as (headers, body).
fn parts(got: &Got) -> Vec<(String, String)> {
    let content_type = got.header("content-type");
    let boundary = content_type.strip_prefix("multipart/mixed; boundary=").unwrap();
    let text = got.text().strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    text.split(&format!("\r\n--{boundary}\r\n"))
        .skip(1)
        .map(|part| {
            let (head, body) = part.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn siblings_are_listed_as_text() {
    let server = with_siblings().await;
    for accept in ["", "text/plain", "*/*"] {
        let headers = [("Accept", accept)];
        let headers = if accept.is_empty() { &[][..] } else { &headers[..] };
        let got = server.call("GET", KEY, headers, "").await;
        assert_eq!((got.status.as_u16(), got.header("content-type")), (300, "text/plain"));
        assert_eq!(vtags(&got).len(), 2);
        assert!(!got.header("x-riak-vclock").is_empty());
        assert!(got.header("x-quorate-receipt").contains("siblings=2"));
        assert_eq!(got.header("last-modified"), "Sun, 13 Sep 2020 12:26:42 GMT", "the newest's");
    }
    let head = server.call("HEAD", KEY, &[], "").await;
    assert_eq!((head.status.as_u16(), head.text()), (300, ""));
    assert_eq!(head.header("etag"), server.get(KEY).await.header("etag"));
    let json = server.call("GET", KEY, &[("Accept", "application/json")], "").await;
    json.assert_refused(406, "multipart/mixed");
}

#[tokio::test]
async fn each_sibling_has_a_vtag_of_its_own() {
    let server = with_siblings().await;
    let list = server.get(KEY).await;
    let mut bodies = Vec::new();
    for vtag in vtags(&list) {
        let got = server.get(&format!("{KEY}?vtag={vtag}")).await;
        assert_eq!((got.status.as_u16(), got.header("etag")), (200, &*format!("\"{vtag}\"")));
        assert_eq!(got.header("x-riak-vclock"), list.header("x-riak-vclock"));
        bodies.push(got.text().to_owned());
    }
    assert_eq!(bodies, ["first", "second"]);
    let unknown = server.get(&format!("{KEY}?vtag=nonsense")).await;
    unknown.assert_refused(404, "not found");
}

#[tokio::test]
async fn all_siblings_come_as_parts_if_asked_for() {
    let server = with_siblings().await;
    let accept = [("Accept", "multipart/mixed, */*;q=0.5")];
    let got = server.call("GET", KEY, &accept, "").await;
    assert_eq!(got.status, 300);
    let parts = parts(&got);
    let vtags = vtags(&server.get(KEY).await);
    let bodies: Vec<&str> = parts.iter().map(|(_, body)| body.as_str()).collect();
    assert_eq!(bodies, ["first", "second"]);
    for ((head, _), vtag) in parts.iter().zip(&vtags) {
        assert!(head.contains("Content-Type: text/plain"), "{head}");
        assert!(head.contains("Link: </buckets/b>; rel=\"up\""), "{head}");
        assert!(head.contains(&format!("Etag: {vtag}\r\n")), "unquoted: {head}");
        assert!(head.contains("Last-Modified: Sun, 13 Sep 2020 12:26:4"), "{head}");
    }
    assert!(parts[0].0.contains("X-Riak-Meta-Who: one"));
    assert!(parts[1].0.contains("Content-Encoding: identity"));
}

#[tokio::test]
async fn a_write_that_returns_siblings_returns_parts_whatever_accept_says() {
    let server = Server::start().await;
    let query = format!("{KEY}?returnbody=true");
    let one = server.put(&query, &[("Accept", "application/json")], "first").await;
    assert_eq!((one.status.as_u16(), one.text()), (200, "first"));
    assert_eq!(one.header("content-type"), "text/plain");
    let two = server.put(&query, &[("Accept", "text/plain")], "second").await;
    assert_eq!(two.status, 300);
    assert_eq!(parts(&two).len(), 2);
    assert!(!two.header("x-riak-vclock").is_empty());
    assert!(two.header("x-quorate-receipt").contains("siblings=2"));
}

#[tokio::test]
async fn a_write_with_the_merged_context_leaves_one_value() {
    let server = with_siblings().await;
    let context = server.get(KEY).await.header("x-riak-vclock").to_owned();
    server.put(KEY, &[("X-Riak-Vclock", &context)], "merged").await;
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "merged"));
}

#[tokio::test]
async fn a_bucket_without_siblings_shows_the_newest() {
    let server = with_siblings().await;
    let props = r#"{"props":{"allow_mult":false}}"#;
    assert_eq!(server.call("PUT", "/buckets/b/props", &[], props).await.status, 204);
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "second"));
}

#[tokio::test]
async fn more_siblings_than_the_limit_are_a_conflict() {
    let server = with_siblings().await;
    server.put(KEY, &[], "third").await;
    let got = server.call("PUT", KEY, &[("Content-Type", "text/plain")], "fourth").await;
    got.assert_refused(409, "the write would leave 4 siblings and the limit is 3");
}
