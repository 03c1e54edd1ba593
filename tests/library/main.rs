//! The library, on the simulated disk and on the computer's own.

#[path = "../support/sim_disk.rs"]
mod sim_disk;

mod atomic;
mod contention;
mod crash;
mod json;
mod lock;
#[cfg(target_os = "linux")]
mod metadata;
mod scratch;
