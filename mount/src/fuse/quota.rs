//! How many descriptors each user may have of those that the mount has for what is open.
//!
//! They are counted before anything is opened, and given back by whatever holds them when it goes.
//!
//! Invariant: what users have open takes no more descriptors than they have shares, so that the mount has
//! what it needs to write, close and publish it.

use std::io;

use super::fs::Fs;
use super::opening::Opened;
use crate::engine::locks::Refused;
use crate::engine::opening::Access;
use crate::engine::process::Caller;
use crate::shares::Share;

/// For a handle: its own file, of a version or of a directory.
const HANDLE: usize = 1;

/// For a draft: its file, and the directory that it is to be published in.
const DRAFT: usize = 2;

/// For an edit: its version, its draft, and the directory.
const EDIT: usize = 3;

/// For a turn: the lock file.
const TURN: usize = 1;

/// For the locks of a handle: the version that is published when they are granted, and the lock file.
const LOCKS: usize = 2;

/// What a program is told whose user has his share of the descriptors.
pub fn too_many_files() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

impl Fs {
    /// `count` descriptors for `caller`.
    ///
    /// # Errors
    /// EMFILE where his user has his share.
    pub fn descriptors_for(&self, caller: Caller, count: usize) -> io::Result<Share> {
        let share = self.descriptors.take(caller.uid, count);
        share.ok_or_else(too_many_files)
    }

    /// What a handle takes that `caller` is about to open.
    ///
    /// # Errors
    /// EMFILE where his user has his share.
    pub fn descriptors_of_handle(&self, caller: Caller) -> io::Result<Share> {
        self.descriptors_for(caller, HANDLE)
    }

    /// What a draft or an edit takes that an open of `caller` with this `access` may make.
    ///
    /// # Errors
    /// EMFILE where his user has his share.
    pub fn descriptors_to_write(&self, caller: Caller, access: Access) -> io::Result<Share> {
        let drafts = access.truncate || access.exclusive;
        self.descriptors_for(caller, if drafts { DRAFT } else { EDIT })
    }

    /// What a turn takes that `caller` asks for.
    ///
    /// # Errors
    /// His user has his share.
    pub fn descriptors_of_turn(&self, caller: Caller) -> Result<Share, Refused> {
        let share = self.descriptors.take(caller.uid, TURN);
        share.ok_or(Refused::NoDescriptors)
    }

    /// What the first lock through a handle of user `uid` takes.
    ///
    /// # Errors
    /// He has his share.
    pub fn descriptors_of_locks(&self, uid: u32) -> Result<Share, Refused> {
        let share = self.descriptors.take(uid, LOCKS);
        share.ok_or(Refused::NoDescriptors)
    }

    /// What was `opened` has taken `share`.
    pub fn opened_with(&self, share: Share, opened: &io::Result<Opened>) {
        let handle = opened.as_ref().ok();
        if let Some(handle) = handle.and_then(|opened| self.handles.get(opened.handle)) {
            handle.counts_as(share);
        }
    }
}
