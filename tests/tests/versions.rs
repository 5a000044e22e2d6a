//! §4.4 through the API of real nodes: siblings, merged writes, deletes and repeated writes.

use quorate_tests::{Cluster, Receipt, run};
use reqwest::{Method, StatusCode};

const OBJECT: &str = "/buckets/cart/keys/42";

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_with_one_old_context_make_two_siblings_and_a_merge_leaves_one() {
    let cluster = Cluster::start(3).await;
    cluster.put(0, OBJECT, &[], "base").await;
    let (_, base, _) = cluster.get(1, OBJECT).await;
    let base = base.unwrap();
    for (node, value) in [(1, "apples"), (2, "pears")] {
        let written = cluster.put(node, OBJECT, &[("x-riak-vclock", &base)], value).await;
        assert_eq!(written.status(), StatusCode::NO_CONTENT);
    }
    let (status, both, list) = cluster.get(0, OBJECT).await;
    assert_eq!(status, StatusCode::MULTIPLE_CHOICES);
    let vtags: Vec<_> = list.lines().skip(1).collect();
    assert_eq!(vtags.len(), 2, "{list}");
    let mut values = Vec::new();
    for vtag in vtags {
        values.push(cluster.get(2, &format!("{OBJECT}?vtag={vtag}")).await.2);
    }
    values.sort();
    assert_eq!(values, ["apples", "pears"]);
    let shown = run(&mut cluster.quorate(1, &["get", "cart", "42"])).await;
    assert_eq!(shown.code, Some(5), "{shown:?}");
    assert!(shown.stdout.is_empty() && shown.stderr.contains("--vtag"), "{shown:?}");

    let both = both.unwrap();
    cluster.put(1, OBJECT, &[("x-riak-vclock", &both)], "apples and pears").await;
    let (status, merged, value) = cluster.get(0, OBJECT).await;
    assert_eq!((status, value.as_str()), (StatusCode::OK, "apples and pears"));

    let merged = merged.unwrap();
    let context = [("x-riak-vclock", merged.as_str())];
    let deleted = cluster.ask(2, Method::DELETE, OBJECT, &context, "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let (status, tombstone, _) = cluster.get(1, OBJECT).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let tombstone = tombstone.expect("a deleted object still has a vclock");
    let gone = run(&mut cluster.quorate(1, &["get", "cart", "42"])).await;
    assert_eq!(gone.code, Some(3), "{gone:?}");

    // A put with that clock brings the key back without siblings.
    cluster.put(0, OBJECT, &[("x-riak-vclock", &tombstone)], "again").await;
    assert_eq!(cluster.get(2, OBJECT).await.2, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_write_id_adds_nothing_and_another_value_under_it_is_refused() {
    let cluster = Cluster::start(3).await;
    let id = [("x-quorate-write-id", "order-17")];
    for (node, repeated) in [(0, false), (0, true), (1, true), (2, true)] {
        let written = cluster.put(node, OBJECT, &id, "one").await;
        assert_eq!(written.status(), StatusCode::NO_CONTENT);
        assert_eq!(Receipt::of(&written).is_repeated(), repeated, "through node {node}");
    }
    let (status, _, value) = cluster.get(1, OBJECT).await;
    assert_eq!((status, value.as_str()), (StatusCode::OK, "one"));
    let other = cluster.put(1, OBJECT, &id, "two").await;
    assert_eq!(other.status(), StatusCode::BAD_REQUEST);

    // Without the id, the same write is another one.
    cluster.put(1, OBJECT, &[], "one").await;
    assert_eq!(cluster.get(1, OBJECT).await.0, StatusCode::MULTIPLE_CHOICES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_of_another_key_is_a_clear_refusal() {
    let cluster = Cluster::start(1).await;
    cluster.put(0, OBJECT, &[], "x").await;
    let (_, vclock, _) = cluster.get(0, OBJECT).await;
    let vclock = vclock.unwrap();
    for context in [vclock.as_str(), "AAAA"] {
        let answer =
            cluster.put(0, "/buckets/cart/keys/43", &[("x-riak-vclock", context)], "y").await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{context}");
        assert!(answer.text().await.unwrap().contains("vclock"));
    }
}
