//! Tests that cannot run on this machine say so: the test runner knows no test that is skipped while it runs.
//!
//! `scripts/test` names a file in `POLYSTORE_TEST_SKIPPED`, and shows at its end what stands there. Without
//! it, with `POLYSTORE_TEST_STRICT=1`, a test that would be skipped fails.

use std::io::Write;

/// Says of the test that runs that it cannot, and why.
///
/// # Panics
///
/// With `POLYSTORE_TEST_STRICT=1`, if nobody collects what is skipped.
pub fn skip(reason: &str) {
    let line = format!("{}: {reason}\n", test_name());
    eprint!("SKIPPED: {line}");
    if let Some(file) = std::env::var_os("POLYSTORE_TEST_SKIPPED") {
        let opened = std::fs::File::options()
            .create(true)
            .append(true)
            .open(file);
        let written = opened.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("write to the file that POLYSTORE_TEST_SKIPPED names");
    } else {
        let strict = std::env::var_os("POLYSTORE_TEST_STRICT").is_some_and(|value| value == "1");
        assert!(!strict, "cannot run here: {reason}");
    }
}

/// True if the test runs as root; says that it is skipped otherwise.
#[cfg(unix)]
#[allow(dead_code, reason = "not every crate of tests has such tests")]
pub fn has_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("needs root");
    }
    is_root
}

/// The name of the test: both runners tell, each in its way.
fn test_name() -> String {
    let thread = std::thread::current();
    std::env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| thread.name().map(str::to_owned))
        .unwrap_or_else(|| "a test".to_owned())
}
