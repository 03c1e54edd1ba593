//! The library, on the simulated disk and on the computer's own.

#[path = "../support/sim_disk.rs"]
mod sim_disk;

mod crash;
