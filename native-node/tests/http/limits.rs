//! Bounds of what one request may bring.

use crate::fake::Server;
use quorate_node::http::HttpLimits;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const KEY: &str = "/buckets/b/keys/k";
const LIMITS: HttpLimits = HttpLimits {
    object_bytes_max: 1000,
    metadata_bytes_max: 200,
    body_time_max: Duration::from_secs(60),
};

/// Sends raw bytes and reads the head of the answer.
async fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let read = async {
        while !got.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut got).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer comes");
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn a_body_at_the_limit_is_taken_and_one_over_it_refused() {
    let server = Server::start_with(LIMITS).await;
    let text = [("Content-Type", "text/plain")];
    assert_eq!(server.call("PUT", KEY, &text, vec![b'x'; 1000]).await.status, 204);
    assert_eq!(server.get(KEY).await.body.len(), 1000);
    let over = server.call("PUT", KEY, &text, vec![b'x'; 1001]).await;
    over.assert_refused(413, "the body is larger than 1000 bytes");
    let made = server.call("POST", "/buckets/b/keys", &text, vec![b'x'; 1001]).await;
    made.assert_refused(413, "object_bytes_max");
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_gets_the_answer_to_a_refused_body() {
    let server = Server::start_with(LIMITS).await;
    let body = "x".repeat(8 << 20);
    let head = "PUT /buckets/b/keys/k HTTP/1.1\r\nHost: localhost\r\n";
    for (headers, status) in [
        ("Content-Type: text/plain\r\n", "413"),
        ("Content-Type: text/plain\r\nOrigin: http://evil.example\r\n", "403"),
    ] {
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        let got = raw(&server, &format!("{head}{headers}{length}{body}")).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
    }
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
    let got = raw(&server, &format!("{head}Content-Type: text/plain\r\n{chunked}0\r\n\r\n")).await;
    assert!(got.starts_with("HTTP/1.1 413 "), "{got}");
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn a_body_announced_too_large_is_refused_before_it_is_read() {
    let server = Server::start_with(LIMITS).await;
    let head = "PUT /buckets/b/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    let got = raw(&server, &format!("{head}Content-Length: 1001\r\n\r\n")).await;
    assert!(got.starts_with("HTTP/1.1 413 "), "{got}");
    let waiting = format!("{head}Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
    let got = raw(&server, &waiting).await;
    assert!(got.starts_with("HTTP/1.1 413 "), "and is not asked for: {got}");
    let welcome = format!("{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n");
    let got = raw(&server, &welcome).await;
    assert!(got.starts_with("HTTP/1.1 100 "), "{got}");
}

#[tokio::test]
async fn a_chunked_body_is_given_up_at_the_limit() {
    let server = Server::start_with(LIMITS).await;
    let head = "PUT /buckets/b/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    // Never ended: the answer can only come from counting.
    let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}");
    let got = raw(&server, &request).await;
    assert!(got.starts_with("HTTP/1.1 413 "), "{got}");
    let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let got = raw(&server, &request).await;
    assert!(got.starts_with("HTTP/1.1 204 "), "{got}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let limits = HttpLimits { body_time_max: Duration::from_millis(50), ..LIMITS };
    let server = Server::start_with(limits).await;
    let head = "PUT /buckets/b/keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    let got = raw(&server, &format!("{head}Content-Length: 10\r\n\r\nhalf")).await;
    assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn metadata_is_bounded() {
    let server = Server::start_with(LIMITS).await;
    for (bytes, status) in [(100, 204), (200, 431)] {
        let value = "m".repeat(bytes);
        for name in ["X-Riak-Meta-A", "X-Riak-Index-A_bin", "Link"] {
            let headers = [("Content-Type", "text/plain"), (name, &*value)];
            let got = server.call("PUT", KEY, &headers, "v").await;
            assert_eq!(got.status, status, "{name} of {bytes}");
        }
    }
    let value = "m".repeat(200);
    let headers = [("Content-Type", "text/plain"), ("X-Riak-Meta-A", &*value)];
    server.call("PUT", KEY, &headers, "v").await.assert_refused(431, "the limit is 200");
}

#[tokio::test]
async fn objects_of_many_mebibytes_pass_where_the_limit_allows() {
    let limits = HttpLimits { object_bytes_max: 16 << 20, ..HttpLimits::default() };
    let server = Server::start_with(limits).await;
    let body: Vec<u8> = (0..14 << 20).map(|at: u32| (at % 251) as u8).collect();
    let text = [("Content-Type", "application/octet-stream")];
    assert_eq!(server.call("PUT", KEY, &text, body.clone()).await.status, 204);
    assert!(server.get(KEY).await.body == body);
}

#[tokio::test]
async fn rules_of_a_bucket_are_bounded_too() {
    let server = Server::start().await;
    let got = server.call("PUT", "/buckets/b/props", &[], vec![b' '; 100_000]).await;
    got.assert_refused(413, "65536");
}
