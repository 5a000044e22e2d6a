//! One value a key: what is stored comes back as it was stored.

use crate::fake::Server;
use quorate_core::{BucketPatch, Duration, Need, Request, RequestError};

const KEY: &str = "/buckets/b/keys/k";

#[tokio::test]
async fn a_missing_key_is_not_found() {
    let server = Server::start().await;
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (404, "not found\n"));
    assert_eq!(got.header("content-type"), "text/plain");
    assert_eq!(got.header("x-riak-deleted"), "");
    assert_eq!(got.header("x-riak-vclock"), "");
    assert!(got.header("x-quorate-receipt").contains("needed=2"));
}

#[tokio::test]
async fn an_object_comes_back_with_everything_that_was_stored() {
    let server = Server::start().await;
    let stored = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Encoding", "gzip"),
        ("X-Riak-Meta-Colour", "green, mostly"),
        ("X-Riak-Index-age_int", "7"),
        ("Link", "</buckets/b>; rel=\"up\", </buckets/b/keys/other>; riaktag=\"next\""),
        ("X-Other", "not kept"),
    ];
    let body: Vec<u8> = (0..=255).collect();
    let put = server.call("PUT", KEY, &stored, body.clone()).await;
    assert_eq!((put.status.as_u16(), put.text()), (204, ""));
    assert_eq!(put.header("x-riak-vclock"), "", "a context covers what this client has not seen");

    let got = server.get(KEY).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.body, body);
    for (name, want) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-encoding", "gzip"),
        ("content-length", "256"),
        ("x-riak-meta-colour", "green, mostly"),
        ("x-riak-index-age_int", "7"),
        ("link", "</buckets/b>; rel=\"up\", </buckets/b/keys/other>; riaktag=\"next\""),
        ("last-modified", "Sun, 13 Sep 2020 12:26:41 GMT"),
        ("etag", "\"AAAAAAAAAAcAAQ\""),
        ("x-other", ""),
        (
            "x-quorate-receipt",
            "coordinator=\"00000000000000ab\", layout=\"0000000000000005\", n=3, needed=2, \
             answers=(\"00000000000000ab\";primary \"00000000000000cd\";fallback), siblings=1, \
             elapsed-us=321",
        ),
    ] {
        assert_eq!(got.header(name), want, "{name}");
    }
    assert!(!got.header("x-riak-vclock").is_empty());

    let head = server.call("HEAD", KEY, &[], "").await;
    assert_eq!((head.status.as_u16(), head.text()), (200, ""));
    for name in ["content-length", "content-type", "etag", "x-riak-vclock", "x-riak-meta-colour"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    let again = server.get(KEY).await;
    assert_eq!(again.header("etag"), got.header("etag"), "a vtag is stable");
}

#[tokio::test]
async fn names_are_arbitrary_bytes() {
    let server = Server::start().await;
    for (path, bucket, key) in [
        ("/buckets/b/keys/a%2Fb", &b"b"[..], &b"a/b"[..]),
        ("/buckets/%FF%00/keys/%fe%25", b"\xff\x00", b"\xfe%"),
        ("/types/default/buckets/t/keys/x+y%20z", b"t", b"x+y z"),
        ("/riak/old/k", b"old", b"k"),
    ] {
        server.put(path, &[], "v").await;
        let seen = server.seen();
        let [Request::Put(put)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((&put.key.bucket()[..], &put.key.key()[..]), (bucket, key), "{path}");
        assert_eq!(server.get(path).await.text(), "v", "{path}");
        server.seen();
    }
    server.put("/types/default/buckets/same/keys/k", &[], "v").await;
    assert_eq!(server.get("/buckets/same/keys/k").await.status, 200);
    let link = server.get("/buckets/%FF%00/keys/%fe%25").await;
    assert_eq!(link.header("link"), "</buckets/%FF%00>; rel=\"up\"");
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let server = Server::start().await;
    let long = format!("/buckets/b/keys/{}", "k".repeat(1025));
    for (path, status, says) in [
        ("/types/maps/buckets/b/keys/k", 404, "Unknown bucket type: maps\n"),
        ("/types/maps/buckets/b/props", 404, "Unknown bucket type: maps\n"),
        ("/buckets//keys/k", 400, "the bucket is empty"),
        (&long, 400, "the key has 1025 bytes and the limit is 1024"),
        ("/buckets/b/keys/%zz", 400, "hexadecimal"),
        ("/buckets/b/keys/a/b", 404, "%2F"),
        ("/nothing/here", 404, "/buckets/BUCKET/keys/KEY"),
    ] {
        server.get(path).await.assert_refused(status, says);
    }
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let server = Server::start().await;
    for (method, path, allow) in [
        ("PATCH", KEY, "GET, HEAD, PUT, POST, DELETE"),
        ("PUT", "/buckets/b/keys", "GET, POST"),
        ("POST", "/buckets/b/props", "GET, HEAD, PUT, DELETE"),
        ("POST", "/ping", "GET, HEAD"),
        ("DELETE", "/cluster", "GET, HEAD"),
    ] {
        let got = server.call(method, path, &[], "").await;
        got.assert_refused(405, allow);
        assert_eq!(got.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn a_deleted_key_is_not_found_and_tells_its_context() {
    let server = Server::start().await;
    server.put(KEY, &[], "v").await;
    let deleted = server.call("DELETE", KEY, &[], "").await;
    assert_eq!((deleted.status.as_u16(), deleted.text()), (204, ""));
    assert!(deleted.header("x-quorate-receipt").contains("siblings=0"));
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (404, "not found\n"));
    assert_eq!(got.header("x-riak-deleted"), "true");
    let context = got.header("x-riak-vclock");
    server.put(KEY, &[("X-Riak-Vclock", context)], "back").await;
    let got = server.get(KEY).await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "back"), "back without siblings");
}

#[tokio::test]
async fn a_delete_without_a_context_reads_first() {
    let server = Server::start().await;
    assert_eq!(server.call("DELETE", KEY, &[], "").await.status, 404, "nothing is there");
    server.put(KEY, &[], "v").await;
    server.seen();
    let path = format!("{KEY}?rw=all&pw=1&timeout=50");
    assert_eq!(server.call("DELETE", &path, &[], "").await.status, 204);
    let seen = server.seen();
    let [Request::Get(get), Request::Put(put)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((get.r, get.timeout), (Some(Need::All), Some(Duration::from_millis(50))));
    assert_eq!((put.w, put.pw, &put.value), (Some(Need::All), Some(Need::Count(1)), &None));
    let again = server.call("DELETE", KEY, &[], "").await;
    assert_eq!((again.status.as_u16(), again.header("x-riak-deleted")), (404, "true"));
    let seen = server.seen();
    let [Request::Get(get)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(get.r, Some(Need::Quorum));
}

#[tokio::test]
async fn a_delete_with_a_context_deletes_only_what_that_covers() {
    let server = Server::start().await;
    server.put(KEY, &[], "old").await;
    let context = server.get(KEY).await.header("x-riak-vclock").to_owned();
    server.put(KEY, &[], "new").await;
    server.seen();
    let with_context = [("X-Riak-Vclock", &*context)];
    assert_eq!(server.call("DELETE", KEY, &with_context, "").await.status, 204);
    assert!(matches!(&server.seen()[..], [Request::Put(_)]), "nothing was read first");
    assert_eq!(server.get(KEY).await.text(), "new");
}

#[tokio::test]
async fn reads_pass_their_parameters_on() {
    let server = Server::start().await;
    let query =
        "?r=1&pr=quorum&notfound_ok=false&basic_quorum=true&sloppy_quorum=false&timeout=250";
    server.get(&format!("{KEY}{query}")).await;
    server.get(&format!("{KEY}?r=default&unknown=1")).await;
    let seen = server.seen();
    let [Request::Get(full), Request::Get(default)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((full.r, full.pr), (Some(Need::Count(1)), Some(Need::Quorum)));
    assert_eq!((full.notfound_ok, full.basic_quorum, full.sloppy), (false, true, false));
    assert_eq!(full.timeout, Some(Duration::from_millis(250)));
    assert_eq!((default.r, default.timeout), (None, None));
    assert_eq!((default.notfound_ok, default.basic_quorum, default.sloppy), (true, false, true));
}

#[tokio::test]
async fn node_confirms_raises_what_is_waited_for() {
    for (query, want) in [
        ("?node_confirms=3", Need::Count(3)),
        ("?node_confirms=1", Need::Count(2)),
        ("?w=1&r=1&node_confirms=2", Need::Count(2)),
        ("?w=all&r=all&node_confirms=2", Need::Count(3)),
    ] {
        let server = Server::start().await;
        server.put(&format!("{KEY}{query}"), &[], "v").await;
        server.get(&format!("{KEY}{query}")).await;
        let seen = server.seen();
        let [_, Request::Put(put), _, Request::Get(get)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((put.w, get.r), (Some(want), Some(want)), "{query}");
    }
    let got = Server::start().await.get(&format!("{KEY}?node_confirms=4")).await;
    got.assert_refused(400, "node_confirms=4 is more than n=3");
}

#[tokio::test]
async fn bad_parameters_are_refused_by_name() {
    let server = Server::start().await;
    for (method, query, says) in [
        ("GET", "r=most", "r must be a number or one of these words: one, quorum, all, default"),
        ("GET", "pr=-1", "pr must be"),
        ("GET", "r=0", "r=0 would ask nobody"),
        ("GET", "r=4", "r=4 is more than n=3"),
        ("GET", "r=300", "r=300 is more than n"),
        ("GET", "notfound_ok=yes", "notfound_ok query parameter must be true or false"),
        ("GET", "basic_quorum=1", "basic_quorum query parameter must be true or false"),
        ("GET", "sloppy_quorum=", "sloppy_quorum query parameter must be true or false"),
        ("GET", "timeout=soon", "timeout query parameter must be a number of milliseconds"),
        ("GET", "timeout=0", "timeout query parameter"),
        ("PUT", "w=some", "w must be"),
        ("PUT", "w=4", "w=4 is more than n=3"),
        ("PUT", "pw=4", "pw=4 is more than n=3"),
        ("PUT", "dw=4", "dw=4 is more than n=3"),
        ("PUT", "node_confirms=x", "node_confirms must be"),
        ("PUT", "returnbody=maybe", "returnbody query parameter must be true or false"),
        ("DELETE", "rw=none", "rw must be"),
    ] {
        let headers = [("Content-Type", "text/plain")];
        let got = server.call(method, &format!("{KEY}?{query}"), &headers, "v").await;
        got.assert_refused(400, says);
    }
    assert_eq!(server.get(KEY).await.status, 404, "nothing was written");
}

#[tokio::test]
async fn an_accept_header_that_excludes_the_value_is_406() {
    let server = Server::start().await;
    server.put(KEY, &[], "v").await;
    for (accept, status) in [
        ("text/plain", 200),
        ("text/*;q=0.1", 200),
        ("*/*", 200),
        ("application/json", 406),
        ("multipart/mixed", 406),
    ] {
        let got = server.call("GET", KEY, &[("Accept", accept)], "").await;
        assert_eq!(got.status, status, "{accept}");
    }
    let got = server.call("GET", KEY, &[("Accept", "multipart/mixed")], "").await;
    got.assert_refused(406, "text/plain");
    assert_eq!(server.get("/buckets/b/keys/none").await.status, 404);
}

#[tokio::test]
async fn an_unchanged_value_is_304() {
    let server = Server::start().await;
    server.put(KEY, &[], "v").await;
    let etag = server.get(KEY).await.header("etag").to_owned();
    for (tags, status) in [
        (etag.clone(), 304),
        (format!("\"x\", W/{etag}"), 304),
        ("*".into(), 304),
        ("\"x\"".into(), 200),
        (etag.replace('"', ""), 200),
    ] {
        let got = server.call("GET", KEY, &[("If-None-Match", &*tags)], "").await;
        assert_eq!(got.status, status, "{tags}");
        assert_eq!(got.text().is_empty(), status == 304);
        assert_eq!(got.header("etag"), etag);
    }
}

#[tokio::test]
async fn every_refusal_of_the_node_has_a_status_and_a_way_out() {
    let unavailable = |param: &str, may_have_happened| RequestError::Unavailable {
        param: param.into(),
        need: 2,
        have: 1,
        may_have_happened,
    };
    let timeout = |may_have_happened| RequestError::Timeout {
        after: Duration::from_millis(50),
        may_have_happened,
    };
    let server = Server::start().await;
    for (error, status, says, unknown) in [
        (timeout(false), 503, "request timed out", false),
        (timeout(true), 503, "may or may not have happened", true),
        (unavailable("pw", false), 503, "PW-value unsatisfied: 1/2", false),
        (unavailable("w", true), 503, "may or may not have happened", true),
        (RequestError::BadContext, 400, "read the object again", false),
        (RequestError::WriteIdReused, 400, "use a new id", false),
        (RequestError::TooManySiblings { would_be: 101, max: 100 }, 409, "101 siblings", false),
        (RequestError::ReadOnly, 507, "free space", false),
        (RequestError::Overloaded(9), 503, "try again later", false),
        (RequestError::NotMember, 503, "waits to be admitted", false),
        (RequestError::NotOpen(crate::fake::NODE), 503, "start that node", false),
        (RequestError::NotReady("just\nstarted".into()), 503, "just started", false),
        (RequestError::Stopped("disk".into()), 503, "may or may not have happened", true),
        (RequestError::Refused("not now".into()), 409, "not now", false),
    ] {
        server.refuse(error.clone());
        let got = server.call("PUT", KEY, &[("Content-Type", "text/plain")], "v").await;
        got.assert_refused(status, says);
        assert_eq!(got.header("x-quorate-outcome") == "unknown", unknown, "{error:?}");
        let overloaded = matches!(error, RequestError::Overloaded(_));
        assert_eq!(got.header("retry-after") == "1", overloaded, "{error:?}");
    }
}

#[tokio::test]
async fn a_buckets_rules_are_read_changed_and_reset() {
    let server = Server::start().await;
    let props = "/buckets/b/props";
    let got = server.get(props).await;
    assert_eq!(got.header("content-type"), "application/json");
    let defaults = serde_json::json!({"props": {
        "name": "b", "n_val": 3, "r": "quorum", "w": "quorum", "pr": 0, "pw": 0, "dw": 0,
        "allow_mult": true,
    }});
    assert_eq!(got.json(), defaults);
    let change = r#"{"props":{"allow_mult":false,"w":"all","r":1}}"#;
    assert_eq!(server.call("PUT", props, &[], change).await.status, 204);
    let want = BucketPatch {
        allow_mult: Some(false),
        w: Some(Need::All),
        r: Some(Need::Count(1)),
        ..BucketPatch::default()
    };
    let asked = Request::SetBucket { bucket: "b".into(), patch: Some(want) };
    assert!(server.seen().contains(&asked));
    let changed = server.get(props).await.json();
    assert_eq!((&changed["props"]["w"], &changed["props"]["r"]), (&"all".into(), &1.into()));
    assert_eq!(server.call("DELETE", props, &[], "").await.status, 204);
    assert_eq!(server.get(props).await.json(), defaults);
    let wrong = server.call("PUT", props, &[], r#"{"props":{"r":"most"}}"#).await;
    wrong.assert_refused(400, "r must be");
    server.refuse(RequestError::Refused("n_val can only be set while the cluster is empty".into()));
    let late = server.call("PUT", props, &[], r#"{"props":{"n_val":5}}"#).await;
    late.assert_refused(409, "while the cluster is empty");
}
