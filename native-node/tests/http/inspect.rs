//! What operators and clients' start-up look at.

use crate::fake::Server;

#[tokio::test]
async fn ping_answers_ok() {
    let server = Server::start().await;
    let got = server.get("/ping").await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "OK"));
    assert_eq!(server.call("HEAD", "/ping", &[], "").await.header("content-length"), "2");
}

#[tokio::test]
async fn the_index_says_where_to_look() {
    let server = Server::start().await;
    let got = server.get("/").await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, "text/plain"));
    assert!(got.text().contains("/buckets/BUCKET/keys/KEY"));
}

#[tokio::test]
async fn stats_have_the_version_that_clients_look_for() {
    let server = Server::start().await;
    let got = server.get("/stats").await;
    assert_eq!(got.header("content-type"), "application/json");
    let stats = got.json();
    assert!(stats["riak_kv_version"].as_str().unwrap().starts_with("3."));
    for (name, want) in [
        ("node_gets_total", 11),
        ("node_puts_total", 12),
        ("quorate_read_repairs_total", 13),
        ("ring_members", 2),
        ("connected_members", 1),
        ("ring_num_partitions", 256),
    ] {
        assert_eq!(stats[name], want, "{name}");
    }
}

#[tokio::test]
async fn the_cluster_is_the_nodes_own_view() {
    let server = Server::start().await;
    let view = server.get("/cluster").await.json();
    assert_eq!(view["node"], "00000000000000ab");
    assert_eq!(view["members"][1]["state"], "suspected");
    assert_eq!(view["hints"][0]["count"], 3);
    assert_eq!(view["counters"]["gets"], 11);
}

#[tokio::test]
async fn metrics_tell_of_the_node_of_http_and_of_other_rooms() {
    let server = Server::start().await;
    server.put("/buckets/b/keys/k", &[], "v").await;
    server.get("/buckets/b/keys/k").await;
    server.get("/buckets/b/keys/none").await;
    server.get("/nothing").await;
    let got = server.get("/metrics").await;
    assert!(got.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "quorate_gets_total 11",
        "quorate_members{state=\"suspected\"} 1",
        "quorate_members{state=\"myself\"} 1",
        "quorate_hints{owner=\"00000000000000cd\"} 3",
        "quorate_hint_bytes{owner=\"00000000000000cd\"} 400",
        "quorate_ready 1",
        "quorate_read_only 0",
        "quorate_http_requests_total{operation=\"put\",status=\"204\"} 1",
        "quorate_http_requests_total{operation=\"get\",status=\"404\"} 1",
        "quorate_http_requests_total{operation=\"other\",status=\"404\"} 1",
        "quorate_http_request_duration_seconds_count{operation=\"get\"} 2",
        "quorate_http_request_duration_seconds_bucket{le=\"+Inf\",operation=\"delete\"} 0",
        "store_opened_total 0",
    ] {
        assert!(got.text().lines().any(|given| given == line), "{line}\n{}", got.text());
    }
    assert!(got.text().contains("quorate_node_info{node=\"00000000000000ab\""));
    assert!(got.text().ends_with("# EOF\n"));
}
