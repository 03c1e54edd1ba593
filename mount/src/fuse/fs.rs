//! What all requests share, and how a request finds its place in the order.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, Request};
use polystore::disk::{FileId, SystemDisk};

use super::channel::Channel;
use super::handles::Handles;
use super::leases::Leases;
use super::notices::Notices;
use super::proc::ProcFs;
use super::redirect::{Promises, SecondLooks};
use super::ticker::Waker;
use super::tree::Tree;
use super::turns::Turns;
use super::watchdog::Reading;
use super::writes::Writes;
use crate::engine::Engine;
use crate::engine::locks::Locks;
use crate::engine::order::{Claim, Job, Order};
use crate::engine::process::Caller;
use crate::pool::{Pool, current_user};
use crate::shares::Shares;

/// How long the kernel may remember what it was told, where nothing is in motion. What
/// others write into the data directory is seen after this time.
pub const REMEMBERED: Duration = Duration::from_secs(1);

/// For names and files that have drafts.
pub const NOT_REMEMBERED: Duration = Duration::ZERO;

/// The mounted file system.
pub struct Fs {
    /// The backing directory.
    pub tree: Tree,
    /// What opens and closes mean.
    pub engine: Engine<SystemDisk, ProcFs>,
    /// The order of operations.
    pub order: Order,
    /// Where long work is done.
    pub pool: Pool,
    /// flock and fcntl locks.
    pub locks: Arc<Locks>,
    /// Open handles.
    pub handles: Handles,
    /// How users share the descriptors that these take.
    pub descriptors: Shares,
    /// Redirected opens that have not come back yet.
    pub promises: Promises,
    /// Opens of superseded versions that were told to look again.
    pub second_looks: SecondLooks,
    /// Turns of opens that have not come to a handle yet.
    pub turns: Turns,
    /// Writes that are not done.
    pub writes: Writes,
    /// What is asked of the mount itself.
    pub channel: Channel,
    /// What the thread that reads requests is at.
    pub reading: Arc<Reading>,
    /// Requests that wait for leases.
    pub leases: Leases,
    /// Wakes the thread that looks after those who wait.
    pub waker: Waker,
    /// What the kernel has to be told.
    pub notices: Notices,
    /// The user this process runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A name, as the kernel is told of it.
pub struct Entry {
    /// What is known of it; node 0 for "there is no such name, and you may remember that".
    pub attr: FileAttr,
    /// How long the attributes may be remembered.
    pub attr_ttl: Duration,
    /// How long the name may be.
    pub entry_ttl: Duration,
}

/// Who sent a request.
pub fn caller(request: &Request) -> Caller {
    Caller {
        tid: request.pid(),
        uid: request.uid(),
        gid: request.gid(),
    }
}

impl Fs {
    /// Does `job` now if nothing that `claim` conflicts with is unfinished, else in its turn.
    /// For what does not take long.
    pub fn inline(
        self: &Arc<Self>,
        claim: io::Result<Claim>,
        job: impl FnOnce(&Arc<Fs>) + Send + 'static,
    ) {
        let claim = claim.unwrap_or_default();
        if self.order.is_free(&claim) {
            // The reply answers EIO when it is dropped unsent.
            if catch_unwind(AssertUnwindSafe(|| job(self))).is_err() {
                log::error!("a request panicked; its caller got an I/O error");
            }
        } else {
            self.queue(claim, job);
        }
    }

    /// Does `job` in the pool, in its turn. It counts as the user's for whom this thread works.
    pub fn queue(self: &Arc<Self>, claim: Claim, job: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        let fs = self.clone();
        let job = Box::new(move || job(&fs));
        self.order.queue(claim, current_user(), job);
    }

    /// Does `job` in the pool, whatever else is going on. It counts as the user's for whom this thread works.
    pub fn aside(self: &Arc<Self>, job: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        let fs = self.clone();
        let job: Job = Box::new(move || job(&fs));
        self.pool.spawn(current_user(), job);
    }

    /// The claim of looking at what `node` is: its slot, or a directory's list.
    pub fn look(&self, node: u64) -> io::Result<Claim> {
        let nodes = self.tree.nodes();
        if nodes.is_dir(node) {
            return Ok(nodes.id(node).map_or_else(Claim::default, Claim::whole));
        }
        // A file without a name waits for nobody.
        Ok(nodes.slot(node).map_or_else(Claim::default, Claim::look))
    }

    /// The node of the directory with this inode, if the kernel knows it.
    pub fn dir_node(&self, dir: FileId) -> Option<u64> {
        if dir == self.tree.root_id() {
            return Some(super::nodes::ROOT);
        }
        self.tree.nodes().of(dir)
    }

    /// The inode of directory `node`.
    pub fn dir_id(&self, node: u64) -> io::Result<FileId> {
        self.tree.nodes().id(node).ok_or_else(super::errno::stale)
    }
}
