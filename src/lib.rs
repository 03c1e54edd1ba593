//! Files that are replaced whole, locks that are kept, JSON that many may update.
//!
//! | function | promise |
//! |---|---|
//! | [`atomic_write`], [`AtomicFile`], [`atomic_write_bytes`], [`atomic_write_str`] | readers see the old file or the new one; an error, a panic or a kill leaves the old |
//! | [`atomic_write_json`] | the same, for anything that is `Serialize` |
//! | [`file_lock`], [`try_file_lock`] | one at a time, among threads, processes and programs; the lock ends with its holder |
//! | [`atomic_update_json`] | read, change, write, under a lock: no update is lost |
//!
//! ```
//! use std::convert::Infallible;
//! use std::io;
//! use polystore::{AtomicWriteOptions, JsonOptions, atomic_update_json, atomic_write_str};
//!
//! # fn main() -> io::Result<()> {
//! # let scratch = tempfile::tempdir()?;
//! # let (motd, hits) = (scratch.path().join("motd"), scratch.path().join("hits.json"));
//! atomic_write_str(&motd, "Welcome!\n", &AtomicWriteOptions::new())?;
//!
//! let count = atomic_update_json(&hits, &JsonOptions::new(), |hits: Option<u64>| {
//!     Ok::<_, Infallible>(hits.unwrap_or(0) + 1)
//! })?;
//! # assert_eq!(count, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Power cuts
//!
//! A rename alone is not enough: most file systems may make it durable before the
//! content, and the file is then empty or full of zeros. [`Durability`] says what is waited for.
//! Under [`Durability::Ordered`], the default, that is the content only: on ext4, xfs and btrfs by
//! having its blocks written (`FIEMAP` with `FIEMAP_FLAG_SYNC`), because their journals'
//! own flushes order the rest; on macOS with `F_BARRIERFSYNC`; elsewhere, and on ext4
//! without a journal, with `fdatasync`.
//!
//! Under [`Durability::Full`] the directory is synced, too. Some file systems have no such
//! operation and answer `EINVAL`: CIFS before Linux 4.17, VirtualBox shared folders,
//! User-mode Linux' hostfs. This is taken for success, because there is nothing else that could be
//! called; whether the new name is durable there is for the server or the host to say. Any
//! other error is returned. On Windows the directory is flushed where its handle allows it.
//!
//! # Systems
//!
//! Linux, macOS and Windows. Everything goes through one small seam to the file
//! system, [`disk::Disk`], so that the same code runs on all three and, in the tests, on a
//! simulated disk that loses its power. What differs:
//!
//! - Only on Linux has a file that is being written no name, so that nothing is left
//!   of it even if the process is killed. Elsewhere, and on file systems without
//!   `O_TMPFILE`, a killed process leaves a file named `.polystore-*.tmp` in the directory.
//! - Only on Linux is a waiter for a lock woken by its release. Elsewhere it polls, with pauses that grow from
//!   1 ms to the poll interval.
//! - Windows has no owners, permission bits and extended attributes to keep, and replaces a file that others
//!   have open only if they share it for deletion; for about 0.4 s it tries again.

#![warn(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod atomic;
pub mod disk;
mod error;
mod json;
mod lock;
pub mod stage;
mod target;

pub use atomic::{
    AtomicFile, AtomicWriteOptions, atomic_write, atomic_write_bytes, atomic_write_str,
};
pub use error::{FileError, FileLockError, FileLockTimeoutError};
pub use json::{Indent, JsonOptions, UpdateError, atomic_update_json, atomic_write_json};
pub use lock::{FileLock, LockOptions, file_lock, try_file_lock};

/// How much of a power cut a new version survives.
///
/// Whatever is chosen, readers see the old file or the new one, whole, and the
/// death of the writing process changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing is waited for: a power cut within the next half minute or so may
    /// leave the file empty, torn or filled with zeros.
    None,
    /// After a power cut the file is old or new, whole. The content is waited for
    /// before the new version gets its name; the name itself is not.
    #[default]
    Ordered,
    /// Like `Ordered`, and the new version is durable when the call returns: the
    /// file is synced, then, after it got its name, the directory.
    Full,
}

/// The examples of README.md compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

#[cfg(all(test, unix))]
#[path = "../tests/support/skipped.rs"]
mod skipped;
