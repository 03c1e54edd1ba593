//! The control channel: `.polystore/control.json` and `status.json` in the root of the mount.
//!
//! Both are files of the mount only, with nodes of their own that no file of the data can have.
//! `CONTROL.md` says what is asked and answered; [`crate::control`] reads and writes that.
//!
//! Invariants:
//! 1. A handle has one request in progress at most; what comes meanwhile is refused.
//! 2. Nothing that waits for a turn holds a thread.

mod budget;
mod conversation;
mod documents;
mod report;
mod requests;
mod resolve;
mod shown;
mod work;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo};
use rustix::fs::OFlags;

use super::fs::{Entry, Fs};
use super::nodes::ROOT;
use super::opening::Opened;
use crate::control::{CONTROL_DIR, CONTROL_FILE, STATUS_FILE};
use crate::engine::process::Caller;
use budget::Budget;
use shown::{Later, Recent, Told};
use work::Work;

pub use conversation::Conversation;

/// The numbers of the nodes are the last ones, which no file system gives to a file and no count reaches.
const DIRECTORY: u64 = u64::MAX - 2;
const STATUS: u64 = u64::MAX - 3;

/// From here on they are those of `control.json`. It is another node each time that it is looked up: the
/// kernel locks a node while it is written, and a request that waits must not hold up those of others.
const CONTROL: u64 = 3 << 62;

/// How many bytes there may be of one user: requests that are not finished or in progress, the `default` of
/// transactions, replies that may still be read.
const MOST_KEPT: usize = 40 << 20;

/// How many handles of the channel a user may have open, each of which has one request and one transaction at most.
const MOST_HANDLES: usize = 256;

/// What is known of them does not change.
pub const REMEMBERED: Duration = Duration::from_secs(60);

/// Whether `node` is one of the channel's.
pub fn is_channel(node: u64) -> bool {
    node >= CONTROL
}

/// The open handles of the channel.
pub struct Channel {
    handles: Mutex<HashMap<u64, Arc<Conversation>>>,
    next: AtomicU64,
    /// What requests and replies take.
    memory: Arc<Budget>,
    /// Room for what is worked on.
    work: Work,
    /// How many handles there are.
    places: Arc<Budget>,
    /// What the kernel may remember of names.
    pub told: Told,
    /// Names that were changed a moment ago.
    pub recent: Recent,
    /// Replies that wait until names are forgotten.
    later: Later,
    made: SystemTime,
}

impl Default for Channel {
    fn default() -> Channel {
        Channel {
            handles: Mutex::default(),
            next: AtomicU64::new(1),
            memory: Budget::new(MOST_KEPT),
            work: Work::default(),
            places: Budget::new(MOST_HANDLES),
            told: Told::default(),
            recent: Recent::default(),
            later: Later::default(),
            made: SystemTime::now(),
        }
    }
}

impl Channel {
    fn handles(&self) -> MutexGuard<'_, HashMap<u64, Arc<Conversation>>> {
        // Entries are set and removed in single steps.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, conversation: Conversation) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles().insert(id, Arc::new(conversation));
        id
    }

    /// The conversation through handle `id`.
    pub fn get(&self, id: u64) -> io::Result<Arc<Conversation>> {
        let found = self.handles().get(&id).cloned();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// A descriptor of handle `id` is being closed.
    ///
    /// # Errors
    /// In the middle of a request: EINVAL.
    pub fn close(&self, id: u64) -> io::Result<()> {
        match self.get(id)?.is_unfinished() {
            true => Err(io::ErrorKind::InvalidInput.into()),
            false => Ok(()),
        }
    }

    /// Handle `id` was released: a transaction that it has is aborted.
    pub fn release(&self, id: u64) {
        let gone = self.handles().remove(&id);
        // Outside the lock: others may get their turn by it.
        gone.inspect(|conversation| conversation.end());
    }
}

impl Fs {
    /// The node of the channel that `name` in `parent` stands for.
    fn channel_node(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let name = name.as_bytes();
        match parent {
            ROOT if name == CONTROL_DIR.as_bytes() => Some(DIRECTORY),
            DIRECTORY if name == STATUS_FILE.as_bytes() => Some(STATUS),
            DIRECTORY if name == CONTROL_FILE.as_bytes() => {
                Some(CONTROL + self.channel.next.fetch_add(1, Ordering::Relaxed))
            }
            _ => None,
        }
    }

    /// Whether `name` in `parent` is the directory of the channel.
    pub fn is_channel_dir(parent: u64, name: &OsStr) -> bool {
        parent == ROOT && name == CONTROL_DIR
    }

    /// The same, as the kernel is told of it.
    ///
    /// # Errors
    /// ENOENT for another name in the channel's directory.
    pub fn channel_entry(&self, parent: u64, name: &OsStr) -> Option<io::Result<Entry>> {
        let Some(node) = self.channel_node(parent, name) else {
            return is_channel(parent).then(|| Err(io::ErrorKind::NotFound.into()));
        };
        Some(Ok(Entry {
            attr: self.channel_attr(node),
            attr_ttl: REMEMBERED,
            entry_ttl: match node {
                DIRECTORY | STATUS => REMEMBERED,
                _ => Duration::ZERO,
            },
        }))
    }

    /// What is known of a node of the channel.
    pub fn channel_attr(&self, node: u64) -> FileAttr {
        let (kind, perm, nlink) = match node {
            DIRECTORY => (FileType::Directory, 0o555, 2),
            STATUS => (FileType::RegularFile, 0o444, 1),
            _ => (FileType::RegularFile, 0o666, 1),
        };
        let made = self.channel.made;
        FileAttr {
            ino: INodeNo(node),
            size: 0,
            blocks: 0,
            atime: made,
            mtime: made,
            ctime: made,
            crtime: made,
            kind,
            perm,
            nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The names in the channel's directory from `offset` on, each with its node, its type and the offset after it.
    pub fn channel_names(offset: u64) -> impl Iterator<Item = (&'static str, u64, FileType, u64)> {
        let names = [
            (".", DIRECTORY, FileType::Directory),
            ("..", ROOT, FileType::Directory),
            (CONTROL_FILE, CONTROL, FileType::RegularFile),
            (STATUS_FILE, STATUS, FileType::RegularFile),
        ];
        let numbered = (1..).zip(names);
        numbered
            .map(|(next, (name, node, kind))| (name, node, kind, next))
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
    }

    /// Opens a node of the channel.
    ///
    /// # Errors
    /// EISDIR, EACCES as for any file; EMFILE where the user has too many; those of making the report.
    pub fn open_channel(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: i32,
    ) -> io::Result<Opened> {
        let flags = OFlags::from_bits_retain(flags as u32);
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        match node {
            DIRECTORY if writes => return Err(io::ErrorKind::IsADirectory.into()),
            STATUS if writes => return Err(io::ErrorKind::PermissionDenied.into()),
            _ => {}
        }
        let place = self.channel.places.share(caller.uid, 1);
        let place = place.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        let conversation = match node {
            STATUS => Conversation::with_reply(self.status_line(caller)?, place),
            _ => Conversation::of(caller, place),
        };
        Ok(Opened {
            handle: self.channel.add(conversation),
            flags: FopenFlags::FOPEN_DIRECT_IO,
        })
    }
}
