//! What several tests of the core need.

use proptest::test_runner::Config;
use std::path::Path;

/// Compares `now` with the file `name` in `core/tests/golden`. A difference means that a new build
/// would not understand, or would place elsewhere, what an old one has written. Where that is
/// meant, run the test once with `QUORATE_BLESS=1` to write the file, and review the difference.
pub fn check_golden(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, now).expect("the source tree is writable where one blesses");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, (now, golden)) in now.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, golden, "{name}:{} differs; see `check_golden`", line + 1);
    }
    assert_eq!(now.lines().count(), golden.lines().count(), "{name}: lines are new or missing");
}

/// So many random cases. A failure prints the input it was reduced to: that becomes a directed
/// test, so no files of failures are kept.
pub fn cases(count: u32) -> Config {
    Config { failure_persistence: None, ..Config::with_cases(count) }
}
