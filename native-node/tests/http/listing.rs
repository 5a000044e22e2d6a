//! Listings of keys: whole, streamed, paged.

use crate::fake::{PAGE_KEYS_MAX, Server};
use quorate_core::RequestError;
use serde_json::Value;
use std::collections::BTreeSet;

/// A bucket with more keys than fit a page, one of them not UTF-8, one that looks like its escape,
/// and one deleted.
async fn with_keys() -> (Server, BTreeSet<String>) {
    let server = Server::start().await;
    let mut keys: BTreeSet<String> = (0..20).map(|n| format!("key-{n}")).collect();
    keys.insert("ä/\"".into());
    keys.insert("%FF".into());
    for key in &keys {
        let escaped = key.replace('%', "%25").replace('/', "%2F").replace('"', "%22");
        server.put(&format!("/buckets/b/keys/{escaped}"), &[], "v").await;
    }
    server.put("/buckets/b/keys/%FF", &[], "v").await;
    server.put("/buckets/other/keys/k", &[], "v").await;
    server.put("/buckets/b/keys/gone", &[], "v").await;
    assert_eq!(server.call("DELETE", "/buckets/b/keys/gone", &[], "").await.status, 204);
    (server, keys)
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_listing_shows_every_key_once() {
    let (server, keys) = with_keys().await;
    for path in ["/buckets/b/keys?keys=true", "/types/default/buckets/b/keys?keys=true"] {
        let got = server.get(path).await;
        assert_eq!((got.status.as_u16(), got.header("content-type")), (200, "application/json"));
        let listed = texts(&got.json()["keys"]);
        assert_eq!(listed.len(), keys.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), keys);
        assert_eq!(texts(&got.json()["keys_percent_encoded"]), ["%FF"]);
    }
    let empty = server.get("/buckets/none/keys?keys=true").await;
    assert_eq!(empty.text(), r#"{"keys":[]}"#);
}

#[tokio::test]
async fn a_streamed_listing_is_a_series_of_json_objects() {
    let (server, keys) = with_keys().await;
    let got = server.get("/buckets/b/keys?keys=stream").await;
    assert_eq!(got.header("transfer-encoding"), "chunked");
    let mut listed = Vec::new();
    let mut encoded = Vec::new();
    for page in serde_json::Deserializer::from_slice(&got.body).into_iter::<Value>() {
        let page = page.unwrap();
        let here = texts(&page["keys"]);
        assert!(here.len() <= PAGE_KEYS_MAX as usize);
        listed.extend(here);
        encoded.extend(texts(&page["keys_percent_encoded"]));
    }
    assert_eq!(listed.len(), keys.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), keys);
    assert_eq!(encoded, ["%FF"]);
}

#[tokio::test]
async fn a_paged_listing_goes_on_where_it_ended() {
    let (server, keys) = with_keys().await;
    let mut listed = Vec::new();
    let mut pages = 0;
    let mut next = String::new();
    loop {
        let got = server.get(&format!("/buckets/b/keys?keys=true&max_results=3{next}")).await;
        let page = got.json();
        let (here, odd) = (texts(&page["keys"]), texts(&page["keys_percent_encoded"]));
        pages += 1;
        let continuation = page["continuation"].as_str();
        assert!(here.len() + odd.len() <= 3);
        assert!(here.len() + odd.len() == 3 || continuation.is_none(), "only the last is short");
        listed.extend(here);
        listed.extend(odd.iter().map(|key| format!("encoded {key}")));
        match continuation {
            Some(continuation) => next = format!("&continuation={continuation}"),
            None => break,
        }
    }
    assert!(pages >= 8, "{pages}");
    assert_eq!(listed.len(), keys.len() + 1);
    let mut want = keys;
    want.insert("encoded %FF".into());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), want);
}

#[tokio::test]
async fn a_listing_says_how_it_wants_to_be_asked() {
    let server = Server::start().await;
    for (query, says) in [
        ("", "?keys=stream"),
        ("?keys=false", "?keys=true"),
        ("?keys=true&max_results=0", "max_results must be a number from 1 to"),
        ("?keys=true&max_results=many", "max_results must be"),
        ("?keys=true&continuation=x!", "continuation"),
        ("?keys=stream&max_results=5", "a stream has no pages"),
        ("?keys=true&timeout=x", "timeout"),
    ] {
        server.get(&format!("/buckets/b/keys{query}")).await.assert_refused(400, says);
    }
    server.get("/buckets?buckets=true").await.assert_refused(404, "buckets are not listed");
}

#[tokio::test]
async fn a_listing_that_fails_is_never_taken_for_a_whole_one() {
    let (server, _) = with_keys().await;
    for query in ["keys=true", "keys=stream", "keys=true&max_results=5"] {
        server.refuse(RequestError::NotMember);
        let got = server.get(&format!("/buckets/b/keys?{query}")).await;
        got.assert_refused(503, "not a member");
    }
    server.refuse_later(2, RequestError::NotMember);
    let streamed = server.get("/buckets/b/keys?keys=stream").await;
    let last = serde_json::Deserializer::from_slice(&streamed.body).into_iter::<Value>().last();
    assert!(last.unwrap().unwrap()["error"].as_str().unwrap().contains("not a member"));
    server.refuse_later(2, RequestError::NotMember);
    let url = format!("http://{}/buckets/b/keys?keys=true", server.address);
    let broken_off = match reqwest::get(url).await {
        Ok(response) => response.bytes().await.is_err(),
        Err(_) => true,
    };
    assert!(broken_off);
}
