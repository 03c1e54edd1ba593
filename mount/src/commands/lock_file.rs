//! The file that is locked for a turn.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use polystore::disk::{self, Dir, FileId, LockRights, Stat};

use super::place::Spot;
use crate::run::mountinfo::{self, Entry};

/// A lock file, by its directory and its name: it need not exist.
#[derive(Clone, Debug)]
pub struct LockFile {
    dir: Arc<Dir>,
    name: OsString,
    shown: PathBuf,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    Nothing,
    NewDocument,
    Document(OsString, Stat),
}

impl LockFile {
    /// The one at `spot`, which locks what its users have agreed upon.
    pub fn of_nothing(spot: &Spot) -> LockFile {
        LockFile {
            dir: spot.handle.clone(),
            name: spot.name.clone(),
            shown: spot.path(),
            of: Of::Nothing,
        }
    }

    /// The one called `name` beside the document at `document`.
    pub fn of_document(document: &Spot, name: OsString, known: Option<Stat>) -> LockFile {
        LockFile {
            dir: document.handle.clone(),
            shown: document.dir.join(&name),
            name,
            of: match known {
                Some(known) => Of::Document(document.name.clone(), known),
                None => Of::NewDocument,
            },
        }
    }

    /// The path to it.
    pub fn path(&self) -> PathBuf {
        self.shown.clone()
    }

    /// Opens it, after making it where it is missing.
    ///
    /// # Errors
    /// Those of [`disk::open_lock_in`]: it is no regular file, or a stranger's.
    pub fn open(&self, writable: bool) -> io::Result<File> {
        let rights = match &self.of {
            Of::Nothing => LockRights::AsMade,
            Of::NewDocument => LockRights::NewDocument,
            Of::Document(name, known) => LockRights::Document(name, known),
        };
        disk::open_lock_in(&self.dir, &self.name, rights, writable)
    }

    /// Which file it is now, if there is one.
    pub fn id(&self) -> io::Result<Option<FileId>> {
        disk::id_in(&self.dir, &self.name)
    }

    /// The mount that it is in.
    pub fn mount(&self) -> io::Result<Option<Entry>> {
        mountinfo::mount_of_handle(&*self.dir)
    }
}
