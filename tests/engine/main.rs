//! The engine of the mount without a kernel: on a simulated disk, called by processes that
//! exist only here, one step at a time.
//!
//! `POLYSTORE_TEST_ROUNDS` says how many random histories the property tests play.

#![cfg(target_os = "linux")]

#[path = "../support/sim_disk.rs"]
mod sim_disk;

mod interleaved;
mod processes;
mod world;

mod crash;
mod editing;
mod failing;
mod in_place;
mod kill;
mod model;
mod naming;
mod rewrite;
mod rights;
mod session;
mod turns;

/// How long property tests go on: `POLYSTORE_TEST_ROUNDS` histories, or `short`.
fn rounds(short: u32) -> proptest::test_runner::Config {
    let wanted = std::env::var("POLYSTORE_TEST_ROUNDS").ok();
    proptest::test_runner::Config {
        cases: wanted.and_then(|text| text.parse().ok()).unwrap_or(short),
        failure_persistence: None,
        ..Default::default()
    }
}
