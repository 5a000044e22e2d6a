//! Processes, settings and disks: who is refused, which setting wins, what a lost commit does.

use quorate_tests::{Cluster, Node, Start, command, copy_dir, run};
use reqwest::StatusCode;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_different_clusters_refuse_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = Node::new(dir.path(), "one", Start::default());
    let mut two = Node::new(dir.path(), "two", Start::default());
    one.start().await;
    two.start().await;
    assert_eq!(two.stop().await, Some(0));
    two.set_start(Start::join(&one.url));
    two.start().await;
    two.until_logged("different clusters").await;
    for node in [&one, &two] {
        let view = node.view().await.unwrap();
        assert_eq!(view["members"].as_array().map(Vec::len), Some(1), "{view}");
    }
    assert_ne!(one.view().await.unwrap()["cluster"], two.view().await.unwrap()["cluster"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_after_the_first_object_is_refused_with_the_reason() {
    let cluster = Cluster::start(1).await;
    let written = cluster.put(0, "/buckets/b/keys/k", &[], "x").await;
    assert_eq!(written.status(), StatusCode::NO_CONTENT);
    let mut late = Node::new(cluster.dir(), "late", Start::join(&cluster.nodes[0].url));
    late.start().await;
    late.until_logged("the cluster holds objects already").await;
    let view = cluster.nodes[0].view().await.unwrap();
    assert_eq!(view["members"].as_array().map(Vec::len), Some(1), "{view}");
    let answer = reqwest::get(format!("{}/buckets/b/keys/k", late.url)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_off_loopback_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(["serve", "--listen", "0.0.0.0:0", "--data"]);
    let outcome = run(serve.arg(dir.path().join("data"))).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("loopback"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_data_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(dir.path(), "data", Start::default());
    node.start().await;
    let mut second = command(["serve", "--listen", "127.0.0.1:0", "--data"]);
    let outcome = run(second.arg(&node.data)).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("in use by another process"), "{outcome:?}");
    assert!(node.view().await.is_some(), "the first is not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_beat_the_environment_which_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("quorate.toml");
    std::fs::write(&config, "name = \"file\"\nzone = \"file\"\nweight = 7\n").unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--name", "flag"];
    let start = Start {
        flags: flags.map(str::to_owned).to_vec(),
        env: vec![("QUORATE_NAME", "env".into()), ("QUORATE_ZONE", "env".into())],
    };
    let mut node = Node::new(dir.path(), "data", start);
    node.start().await;
    let view = node.view().await.unwrap();
    let member = &view["members"][0];
    assert_eq!((&member["name"], &member["zone"]), (&"flag".into(), &"env".into()));
    assert_eq!(member["weight"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_ends_well_and_keeps_what_it_has() {
    let mut cluster = Cluster::start(1).await;
    cluster.put(0, "/buckets/b/keys/k", &[], "kept").await;
    assert_eq!(cluster.nodes[0].stop().await, Some(0), "{}", cluster.nodes[0].log());
    cluster.start_all().await;
    assert_eq!(cluster.get(0, "/buckets/b/keys/k").await.2, "kept");
}

/// A disk that was put back to an earlier state (a restored snapshot, a lost journal).
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_lost_commits_is_told_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let write = async |cluster: &Cluster, from: usize, to: usize| {
        for n in from..to {
            let target = format!("/buckets/b/keys/k{n}?w=3");
            let written = cluster.put(0, &target, &[], &format!("v{n}")).await;
            assert_eq!(written.status(), StatusCode::NO_CONTENT, "{n}");
        }
    };
    write(&cluster, 0, 20).await;
    // A clean stop raises the high-water mark to all that was stored.
    assert_eq!(cluster.nodes[2].stop().await, Some(0));
    let engine = cluster.nodes[2].data.join("engine");
    let copy = cluster.dir().join("copy");
    copy_dir(&engine, &copy);
    cluster.start_all().await;
    write(&cluster, 20, 60).await;
    assert_eq!(cluster.nodes[2].stop().await, Some(0));
    std::fs::remove_dir_all(&engine).unwrap();
    copy_dir(&copy, &engine);
    for node in &mut cluster.nodes {
        if !node.is_running() {
            node.start().await;
        }
    }
    // It may not be ready, which is the point; but it must have its links.
    cluster.until_all_up().await;
    cluster.nodes[2].until("reports lost commits", |view| view["lost_commits"] == true).await;
    let status = run(&mut cluster.quorate(2, &["status"])).await.ok();
    assert!(status.stdout.contains("LOST COMMITS"), "{status:?}");
    for n in 0..60 {
        let (status, _, value) = cluster.get(2, &format!("/buckets/b/keys/k{n}")).await;
        assert_eq!((status, value), (StatusCode::OK, format!("v{n}")));
    }
    write(&cluster, 60, 70).await;
}

/// A copy of a data directory that was taken earlier knows nothing of what came after.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_vouches_for_nothing_until_it_was_repaired() {
    let mut cluster = Cluster::start(3).await;
    let put = async |cluster: &Cluster, value: &str| {
        let context = cluster.get(0, "/buckets/b/keys/k").await.1;
        let context = context.map(|context| ("X-Riak-Vclock", context));
        let headers: Vec<_> = context.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let written = cluster.put(0, "/buckets/b/keys/k?w=3", &headers, value).await;
        assert_eq!(written.status(), StatusCode::NO_CONTENT);
    };
    put(&cluster, "old").await;
    assert_eq!(cluster.nodes[2].stop().await, Some(0));
    let (data, copy) = (cluster.nodes[2].data.clone(), cluster.dir().join("backup"));
    copy_dir(&data, &copy);
    cluster.start_all().await;
    put(&cluster, "new").await;
    assert_eq!(cluster.nodes[2].stop().await, Some(0));
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&copy, &data);
    cluster.nodes[2].set_start(Start { flags: vec!["--restored".into()], env: Vec::new() });
    cluster.nodes[2].start().await;
    cluster.until_all_up().await;
    cluster.nodes[2].until("vouches for nothing", |view| view["lost_commits"] == true).await;
    let (status, _, value) = cluster.get(2, "/buckets/b/keys/k?r=2").await;
    assert_eq!((status, value.as_str()), (StatusCode::OK, "new"));
}
