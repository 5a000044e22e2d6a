//! §4.6: with a key's three primaries down, others keep the write and hand it over.

use quorate_tests::{Cluster, Receipt, run};
use reqwest::StatusCode;

const OBJECT: &str = "/buckets/cart/keys/42";

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_its_primaries_is_kept_and_handed_over() {
    let mut cluster = Cluster::start(5).await;
    let written = cluster.put(0, &format!("{OBJECT}?w=3"), &[], "before").await;
    assert_eq!(written.status(), StatusCode::NO_CONTENT);
    let receipt = Receipt::of(&written);
    let primaries = cluster.numbers(&receipt.answered_as("primary")).await;
    assert_eq!(primaries.len(), 3, "{receipt:?}");
    let others: Vec<_> = (0..5).filter(|n| !primaries.contains(n)).collect();
    let (_, vclock, _) = cluster.get(others[0], OBJECT).await;
    let vclock = vclock.unwrap();

    cluster.kill(&primaries).await;
    let write = |more: &[&'static str]| {
        let args = ["put", "cart", "42", "--value", "meanwhile", "--context", &vclock];
        cluster.quorate(others[0], &[&args, more].concat())
    };
    let refused = run(&mut write(&["--pw", "1"])).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("pw=1"), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    let taken = run(&mut write(&["--json", "--write-id", "meanwhile"])).await.ok().json();
    let roles = taken["receipt"]["answers"].as_array().unwrap();
    assert!(roles.iter().all(|answer| answer["role"] == "fallback"), "{taken}");
    assert!(cluster.hints().await.is_some_and(|hints| hints >= 2), "no hints were kept");

    cluster.start_all().await;
    cluster.until_no_hints().await;
    let status = run(&mut cluster.quorate(others[1], &["status", "--all"])).await.ok();
    assert!(status.stdout.contains("Hints kept in all: 0"), "{status:?}");
    let object = ["status", "--object", "cart", "42", "--json"];
    let object = run(&mut cluster.quorate(others[1], &object)).await.ok().json();
    let answers = object["receipt"]["answers"].as_array().unwrap();
    assert!(answers.len() == 3 && answers.iter().all(|a| a["role"] == "primary"), "{object}");

    // The object is on each of the three: each has it when it is all alone.
    for &primary in &primaries {
        let rest: Vec<_> = (0..5).filter(|&n| n != primary).collect();
        cluster.kill(&rest).await;
        let alone = format!("{OBJECT}?r=1&pr=1&sloppy_quorum=false");
        let (status, _, value) = cluster.get(primary, &alone).await;
        assert_eq!((status, value.as_str()), (StatusCode::OK, "meanwhile"), "node {primary}");
        cluster.start_all().await;
    }
}
