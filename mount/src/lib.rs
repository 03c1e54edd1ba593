//! polystore mount: whatever program writes in a mounted directory, unchanged, replaces its
//! files in one step.
//!
//! [`engine`] decides what opens and closes mean and publishes versions; [`fuse`]
//! brings the kernel's requests to it. [`control`] is the language of the files by which programs
//! talk to a mount.

pub mod control;
pub mod engine;
#[cfg(target_os = "linux")]
pub mod fuse;
#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
pub mod salvage;
mod shares;
pub mod time;

#[cfg(target_os = "linux")]
pub use fuse::{MountError, MountOptions, Mounted, mount};

#[cfg(test)]
#[path = "../../tests/support/skipped.rs"]
mod skipped;
