//! Files that are replaced whole, locks that are kept, JSON that many may update.
//!
//! Everything goes through one small seam to the file system, [`disk::Disk`], so
//! that the same code runs on Linux, macOS and Windows and on a simulated disk
//! in the tests.

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
