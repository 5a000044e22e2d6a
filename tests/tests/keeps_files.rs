//! Real files survive `kill -9`: of two nodes while they are stored, then of all nodes at once.

use quorate_tests::{Cluster, Outcome, command, compare, eventually, make, run};
use std::path::Path;
use tokio::process::Command;

const FILES: usize = 4_000;

fn bulk(cluster: &Cluster, verb: &str, dir: &Path, flags: &[&str]) -> Command {
    let mut command = command([verb.as_ref(), dir.as_os_str()]);
    command.args(["--bucket", "files", "--json", "--node", &cluster.urls()]).args(flags);
    command
}

/// Waits until the first node, which is never killed, has taken this many puts.
async fn until_puts(cluster: &Cluster, count: u64) {
    let what = format!("has taken {count} puts");
    cluster.nodes[0].until(&what, |view| view["counters"]["puts"].as_u64() >= Some(count)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_survive_kills_during_the_import_and_of_all_nodes_after_it() {
    let mut cluster = Cluster::start(5).await;
    let source = cluster.dir().join("source");
    let tree = make(&source, FILES);

    let mut import = bulk(&cluster, "import", &source, &["--jobs", "16"]);
    let import = tokio::spawn(async move { run(&mut import).await });
    until_puts(&cluster, 50).await;
    cluster.kill(&[1]).await;
    until_puts(&cluster, 200).await;
    cluster.kill(&[3]).await;
    cluster.nodes[1].start().await;
    until_puts(&cluster, 350).await;
    cluster.nodes[3].start().await;
    assert!(!import.is_finished(), "the kills came too late to disturb anything");
    let imported: Outcome = import.await.unwrap().ok();
    let summary = imported.json();
    assert_eq!(summary["failures"].as_array().map(Vec::len), Some(0), "{imported:?}");
    let stored = summary["objects"].as_u64().unwrap() + summary["unchanged"].as_u64().unwrap();
    assert_eq!(stored, tree.len() as u64, "{imported:?}");

    cluster.kill(&[0, 1, 2, 3, 4]).await;
    cluster.start_all().await;
    let target = cluster.dir().join("target");
    run(&mut bulk(&cluster, "export", &target, &["--r", "3", "--pr", "3"])).await.ok();
    compare(&target, &tree);
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_again_skips_what_is_stored_and_replaces_what_changed() {
    let cluster = Cluster::start(3).await;
    let source = cluster.dir().join("source");
    let mut tree = make(&source, 100);
    let import = || bulk(&cluster, "import", &source, &[]);
    let first = run(&mut import()).await.ok().json();
    assert_eq!(first["objects"], tree.len());
    let second = run(&mut import()).await.ok().json();
    assert_eq!((&second["objects"], &second["unchanged"]), (&0.into(), &tree.len().into()));

    let changed = tree.iter_mut().next().unwrap();
    *changed.1 = b"changed".to_vec();
    std::fs::write(source.join(changed.0), &*changed.1).unwrap();
    let third = run(&mut import()).await.ok().json();
    assert_eq!(third["objects"], 1);

    // No siblings came of it: the export ends well and holds one file an object.
    let target = cluster.dir().join("target");
    let export = || bulk(&cluster, "export", &target, &[]);
    run(&mut export()).await.ok();
    compare(&target, &tree);
    let again = run(&mut export()).await.ok().json();
    assert_eq!((&again["objects"], &again["unchanged"]), (&0.into(), &tree.len().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_keeps_siblings_apart_and_never_leaves_its_folder() {
    let cluster = Cluster::start(3).await;
    cluster.put(0, "/buckets/files/keys/twice", &[], "one").await;
    cluster.put(1, "/buckets/files/keys/twice", &[], "two").await;
    let target = cluster.dir().join("target");
    let outcome = run(&mut bulk(&cluster, "export", &target, &[])).await;
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    let mut values: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    values.sort();
    assert_eq!(values, ["one", "two"]);

    cluster.put(0, "/buckets/files/keys/..%2Foutside", &[], "x").await;
    let outcome = run(&mut bulk(&cluster, "export", &target, &[])).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("would leave the folder"), "{outcome:?}");
    assert!(!cluster.dir().join("outside").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_cluster_starts_works_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("dev.log");
    let mut dev = command(["dev", "--nodes", "3", "--base-port", "0", "--data"]);
    let out = std::fs::File::create(&log).unwrap();
    dev.arg(dir.path().join("dev")).stdin(std::process::Stdio::piped());
    dev.env("QUORATE_STOP_WITH_STDIN", "1").stdout(out);
    let mut dev = dev.spawn().unwrap();
    let text = eventually("the cluster introduces itself", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("Ctrl-C stops all nodes.").then_some(text)
    })
    .await;
    // The three lines work when pasted.
    let pasted: Vec<_> = text.lines().filter(|line| line.trim().starts_with("curl ")).collect();
    assert_eq!(pasted.len(), 3, "{text}");
    let urls: Vec<_> = text.split_whitespace().filter(|word| word.starts_with("http")).collect();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let curl = async |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let method = words.iter().position(|&word| word == "-X").map_or("GET", |at| words[at + 1]);
        let request = http.request(method.parse().unwrap(), *words.last().unwrap());
        let request = request.header("content-type", "text/plain").body("hello");
        request.send().await.unwrap()
    };
    assert_eq!(curl(pasted[0]).await.status(), 204);
    assert_eq!(curl(pasted[1]).await.text().await.unwrap(), "hello");
    assert_eq!(curl(pasted[2]).await.status(), 204);

    drop(dev.stdin.take());
    assert_eq!(
        dev.wait().await.unwrap().code(),
        Some(0),
        "{}",
        std::fs::read_to_string(&log).unwrap()
    );
    for url in &urls[..3] {
        assert!(reqwest::get(*url).await.is_err(), "{url} still answers");
    }
}
