//! A disk on which something else happens just before a chosen operation.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use polystore::disk::{Disk, FileId, Ownership, Stat};

use crate::sim_disk::{SimDir, SimDisk, SimFile};

type Event = Box<dyn FnOnce() + Send>;

/// A [`SimDisk`] and what is to happen. Clones share both.
#[derive(Clone)]
pub struct Interleaved {
    disk: SimDisk,
    event: Arc<Mutex<Option<(usize, Event)>>>,
}

impl Interleaved {
    /// `event` happens after `operations` operations through this.
    pub fn new(disk: &SimDisk, operations: usize, event: Event) -> Interleaved {
        let interleaved = Interleaved::idle(disk);
        interleaved.arm(operations, event);
        interleaved
    }

    /// Nothing happens so far.
    pub fn idle(disk: &SimDisk) -> Interleaved {
        Interleaved {
            disk: disk.clone(),
            event: Arc::default(),
        }
    }

    /// `event` happens after `operations` more.
    pub fn arm(&self, operations: usize, event: Event) {
        *self.event.lock().unwrap_or_else(PoisonError::into_inner) = Some((operations, event));
    }

    /// It does not happen any more. Whether it had.
    pub fn disarm(&self) -> bool {
        let mut event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        event.take().is_none()
    }

    /// Whether it has happened.
    pub fn happened(&self) -> bool {
        self.event
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    fn next(&self) -> &SimDisk {
        let due = {
            let mut event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *event {
                Some((0, _)) => event.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, event)) = due {
            event();
        }
        &self.disk
    }
}

impl Disk for Interleaved {
    type Dir = SimDir;
    type File = SimFile;

    fn open_dir(&self, path: &Path) -> io::Result<SimDir> {
        self.next().open_dir(path)
    }

    fn open_subdir(&self, dir: &SimDir, name: &OsStr) -> io::Result<SimDir> {
        self.next().open_subdir(dir, name)
    }

    fn make_dir(&self, dir: &SimDir, name: &OsStr, mode: u32) -> io::Result<()> {
        self.next().make_dir(dir, name, mode)
    }

    fn remove_dir(&self, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        self.next().remove_dir(dir, name)
    }

    fn list(&self, dir: &SimDir) -> io::Result<Vec<OsString>> {
        self.next().list(dir)
    }

    fn stat(&self, dir: &SimDir, name: &OsStr) -> io::Result<Option<Stat>> {
        self.next().stat(dir, name)
    }

    fn stat_file(&self, file: &SimFile) -> io::Result<Stat> {
        self.next().stat_file(file)
    }

    fn stat_dir(&self, dir: &SimDir) -> io::Result<Stat> {
        self.next().stat_dir(dir)
    }

    fn create_unnamed(&self, dir: &SimDir, mode: u32) -> io::Result<Option<SimFile>> {
        self.next().create_unnamed(dir, mode)
    }

    fn create_new(&self, dir: &SimDir, name: &OsStr, mode: u32) -> io::Result<SimFile> {
        self.next().create_new(dir, name, mode)
    }

    fn open(&self, dir: &SimDir, name: &OsStr, writable: bool) -> io::Result<SimFile> {
        self.next().open(dir, name, writable)
    }

    fn link(&self, file: &SimFile, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        self.next().link(file, dir, name)
    }

    fn rename(
        &self,
        from_dir: &SimDir,
        from: &OsStr,
        to_dir: &SimDir,
        to: &OsStr,
        replace: bool,
    ) -> io::Result<()> {
        self.next().rename(from_dir, from, to_dir, to, replace)
    }

    fn remove(&self, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        self.next().remove(dir, name)
    }

    fn read_at(&self, file: &SimFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.next().read_at(file, buffer, offset)
    }

    fn write_at(&self, file: &SimFile, data: &[u8], offset: u64) -> io::Result<usize> {
        self.next().write_at(file, data, offset)
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        self.next().set_len(file, len)
    }

    fn set_ownership(&self, file: &SimFile, owner: Ownership, mode: u32) -> io::Result<()> {
        self.next().set_ownership(file, owner, mode)
    }

    fn copy_xattrs(&self, dir: &SimDir, name: &OsStr, id: FileId, to: &SimFile) -> io::Result<()> {
        self.next().copy_xattrs(dir, name, id, to)
    }

    fn may_change_names(&self, dir: &SimDir) -> io::Result<bool> {
        self.next().may_change_names(dir)
    }

    fn wait_for_data(&self, file: &SimFile) -> io::Result<()> {
        self.next().wait_for_data(file)
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        self.next().sync(file)
    }

    fn sync_dir(&self, dir: &SimDir) -> io::Result<()> {
        self.next().sync_dir(dir)
    }

    fn try_lock(&self, file: &SimFile, exclusive: bool) -> io::Result<bool> {
        self.next().try_lock(file, exclusive)
    }
}
