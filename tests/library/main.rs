//! The library, on the simulated disk and on the computer's own.

// Its errors are numbered as on a POSIX system.
#[cfg(unix)]
#[path = "../support/sim_disk.rs"]
mod sim_disk;
#[cfg(target_os = "linux")]
#[path = "../support/skipped.rs"]
mod skipped;

mod atomic;
mod contention;
#[cfg(unix)]
mod crash;
mod json;
mod lock;
#[cfg(target_os = "linux")]
mod metadata;
mod scratch;
#[cfg(target_os = "linux")]
mod users;
