//! Stage, sync, replace: how a new version of a file comes into its place.
//!
//! This is the building block of [`atomic_write`](crate::atomic_write()) and of
//! the mount's engine; programs mostly want the former.
//!
//! A [`Staged`] file is written where nobody looks: without a name where the
//! system can do that, under a hidden one elsewhere. The steps after that have
//! an order that must not be changed:
//!
//! 1. [`inherit`](Staged::inherit): owner, permission bits, attributes and ACLs, before the
//!    content, so that nobody reads the new content who might not read the old;
//! 2. the content;
//! 3. [`settle`](Staged::settle): the content is waited for, before any name can lead to it;
//! 4. [`place`](Staged::place): one rename, or one link: the only step that others can see;
//! 5. for [`Durability::Full`], the directory is synced.
//!
//! [`publish`](Staged::publish) does 3 to 5. Until 4 has happened, dropping the
//! `Staged` leaves nothing behind; a version that failed to be written or synced is
//! never placed.
//!
//! ```
//! use std::{ffi::OsStr, fs, sync::Arc};
//! use polystore::{Durability, disk::{Disk, SystemDisk}, stage::{Place, Staged}};
//!
//! # fn main() -> std::io::Result<()> {
//! # let scratch = tempfile::tempdir()?;
//! let disk = Arc::new(SystemDisk);
//! let dir = Arc::new(disk.open_dir(scratch.path())?);
//!
//! let mut staged = Staged::create(&disk, &dir, 0o666)?;
//! staged.write_all_at(b"whole", 0)?;
//! assert_eq!(fs::read_dir(scratch.path())?.filter(|e| e.as_ref().is_ok_and(|e| e.file_name() == "f")).count(), 0);
//! staged.publish(&dir, OsStr::new("f"), Place::Any, Durability::Ordered)?;
//! assert_eq!(fs::read(scratch.path().join("f"))?, b"whole");
//! # Ok(())
//! # }
//! ```

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, OnceLock};

use crate::Durability;
use crate::disk::{Disk, Kind, Ownership, Stat};

/// How often another name is tried before a directory full of collisions is an error.
const ATTEMPTS: usize = 64;

/// What may be at the place that a staged file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing: an existing name is `AlreadyExists`.
    New,
    /// Nothing, or a regular file, which is replaced. Anything else is an error and stays.
    Any,
}

/// A new version of a file that nobody sees yet. Dropped, it is discarded.
#[derive(Debug)]
pub struct Staged<D: Disk> {
    disk: Arc<D>,
    file: D::File,
    state: State<D>,
    /// The first error of writing or syncing. The system reports a lost write once and
    /// forgets it, so that a second sync would succeed.
    failure: OnceLock<Failure>,
}

enum State<D: Disk> {
    /// In the file system of this directory, without a name.
    Unnamed(Arc<D::Dir>),
    /// Under a name that goes with the `Staged`.
    Named(Arc<D::Dir>, OsString),
    /// Under the name it was made for, which stays.
    Placed,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl<D: Disk> Staged<D> {
    /// Makes a file without content that will be placed in `dir` or elsewhere in its file
    /// system. It inherits what files made in `dir` inherit; `mode` is subject to the umask.
    pub fn create(disk: &Arc<D>, dir: &Arc<D::Dir>, mode: u32) -> io::Result<Staged<D>> {
        Staged::create_beside(disk, dir, dir, mode)
    }

    /// Like [`create`](Staged::create), but where the file needs a name, it gets one in
    /// `staging`, which must be in the same file system.
    pub fn create_beside(
        disk: &Arc<D>,
        dir: &Arc<D::Dir>,
        staging: &Arc<D::Dir>,
        mode: u32,
    ) -> io::Result<Staged<D>> {
        if let Some(file) = disk.create_unnamed(dir, mode)? {
            let state = State::Unnamed(Arc::clone(staging));
            return Ok(Staged {
                disk: Arc::clone(disk),
                file,
                state,
                failure: OnceLock::new(),
            });
        }
        let (name, file) = with_new_name(|name| disk.create_new(staging, name, mode))?;
        let state = State::Named(Arc::clone(staging), name);
        Ok(Staged {
            disk: Arc::clone(disk),
            file,
            state,
            failure: OnceLock::new(),
        })
    }

    /// The file. What is written to it directly should be reported to [`fail`](Staged::fail) if it fails.
    pub fn file(&self) -> &D::File {
        &self.file
    }

    /// The directory and the hidden name, if it has one.
    pub fn name(&self) -> Option<(&Arc<D::Dir>, &OsStr)> {
        match &self.state {
            State::Named(dir, name) => Some((dir, name)),
            State::Unnamed(_) | State::Placed => None,
        }
    }

    /// Whether the file has been placed: from then on it is what everybody sees.
    pub fn is_placed(&self) -> bool {
        matches!(self.state, State::Placed)
    }

    /// Gives the file the hidden name `name` in `dir`, instead of the one it may have. It
    /// survives the process under that name, and is removed when the `Staged` is dropped.
    pub fn give_name(&mut self, dir: &Arc<D::Dir>, name: &OsStr) -> io::Result<()> {
        match &self.state {
            State::Unnamed(_) => self.disk.link(&self.file, dir, name)?,
            State::Named(old_dir, old) => self.disk.rename(old_dir, old, dir, name, false)?,
            State::Placed => return Err(already_placed()),
        }
        self.state = State::Named(Arc::clone(dir), name.to_owned());
        Ok(())
    }

    /// Takes over what belongs to `old`, the file `name` in `dir`, but not to its content: owner and group,
    /// where permitted, permission bits, extended attributes and ACLs. Comes before the content.
    ///
    /// Where the group cannot be kept, the file's new group gets no more than
    /// everybody; set-user-id and set-group-id go with the owner and group they speak of.
    ///
    /// # Errors
    /// `StaleNetworkFileHandle` where `name` is another file than `old` by now: nothing was taken over. Else the
    /// disk's.
    pub fn inherit(&self, dir: &D::Dir, name: &OsStr, old: &Stat) -> io::Result<()> {
        // Attributes first: the permission bits may take away the right to set them, and
        // to set an ACL changes the bits.
        self.disk.copy_xattrs(dir, name, old.id, &self.file)?;
        let new = self.disk.stat_file(&self.file)?;
        let both = Ownership {
            uid: (old.uid != new.uid).then_some(old.uid),
            gid: (old.gid != new.gid).then_some(old.gid),
        };
        let group = Ownership { uid: None, ..both };
        let neither = Ownership {
            uid: None,
            gid: None,
        };
        for (owner, mode) in [(both, old.mode), (group, old.mode & !0o4000)] {
            match self.disk.set_ownership(&self.file, owner, mode) {
                // InvalidInput: an owner that has no number in this user namespace.
                Err(error)
                    if [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput]
                        .contains(&error.kind()) => {}
                other => return other,
            }
        }
        let as_others = (old.mode & 0o007) << 3;
        self.disk.set_ownership(
            &self.file,
            neither,
            old.mode & 0o1707 | old.mode & as_others,
        )
    }

    /// Writes all of `data` at `offset`.
    pub fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match self.disk.write_at(&self.file, data, offset) {
                Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    data = &data[written..];
                    offset += written as u64;
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(())
    }

    /// Remembers that the content is not what it should be, and returns `error`: from now on
    /// `settle` and `place` fail with the first such error.
    pub fn fail(&self, error: io::Error) -> io::Error {
        let _ = self.failure.set(Failure {
            kind: error.kind(),
            code: error.raw_os_error(),
        });
        error
    }

    /// Waits for the content as `durability` says. May be called more than once; what
    /// failed once fails for good.
    pub fn settle(&self, durability: Durability) -> io::Result<()> {
        self.check()?;
        let waited = match durability {
            Durability::None => Ok(()),
            Durability::Ordered => self.disk.wait_for_data(&self.file),
            Durability::Full => self.disk.sync(&self.file),
        };
        waited.map_err(|error| self.fail(error))
    }

    /// Makes the file the one that `name` in `dir` stands for, in one step.
    ///
    /// The content must have been [settled](Staged::settle) before. After an error
    /// the file is staged as before, and what `name` stood for is untouched.
    pub fn place(&mut self, dir: &Arc<D::Dir>, name: &OsStr, place: Place) -> io::Result<()> {
        self.check()?;
        if place == Place::New {
            return self.place_new(dir, name);
        }
        if !self.would_replace(dir, name)? && matches!(self.state, State::Unnamed(_)) {
            match self.place_new(dir, name) {
                // Somebody else made the name meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.would_replace(dir, name)?;
                }
                other => return other,
            }
        }
        self.name_if_unnamed()?;
        match &self.state {
            State::Named(from_dir, from) => self.disk.rename(from_dir, from, dir, name, true)?,
            State::Unnamed(_) | State::Placed => return Err(already_placed()),
        }
        self.state = State::Placed;
        Ok(())
    }

    /// [`settle`](Staged::settle)s, [`place`](Staged::place)s, and for [`Durability::Full`] syncs the directory.
    ///
    /// If that last step fails, there is an error although the new version
    /// [is placed](Staged::is_placed): whether it survives a power cut is not known.
    pub fn publish(
        &mut self,
        dir: &Arc<D::Dir>,
        name: &OsStr,
        place: Place,
        durability: Durability,
    ) -> io::Result<()> {
        self.settle(durability)?;
        self.place(dir, name, place)?;
        match durability {
            Durability::Full => self.disk.sync_dir(dir),
            Durability::None | Durability::Ordered => Ok(()),
        }
    }

    fn place_new(&mut self, dir: &Arc<D::Dir>, name: &OsStr) -> io::Result<()> {
        match &self.state {
            State::Unnamed(_) => self.disk.link(&self.file, dir, name)?,
            State::Named(from_dir, from) => self.disk.rename(from_dir, from, dir, name, false)?,
            State::Placed => return Err(already_placed()),
        }
        self.state = State::Placed;
        Ok(())
    }

    /// Whether there is a file to replace; an error if there is something else, which a
    /// rename would replace, too.
    fn would_replace(&self, dir: &D::Dir, name: &OsStr) -> io::Result<bool> {
        match self.disk.stat(dir, name)?.map(|stat| stat.kind) {
            None => Ok(false),
            Some(Kind::File) => Ok(true),
            Some(kind) => Err(not_replaced(kind)),
        }
    }

    /// Only something with a name can be renamed over something else.
    fn name_if_unnamed(&mut self) -> io::Result<()> {
        if let State::Unnamed(staging) = &self.state {
            let (name, ()) = with_new_name(|name| self.disk.link(&self.file, staging, name))?;
            self.state = State::Named(Arc::clone(staging), name);
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(Failure {
                code: Some(code), ..
            }) => Err(io::Error::from_raw_os_error(*code)),
            Some(Failure { kind, code: None }) => Err((*kind).into()),
        }
    }
}

impl<D: Disk> Drop for Staged<D> {
    fn drop(&mut self) {
        if let State::Named(dir, name) = &self.state {
            // There is nobody left to tell.
            let _ = self.disk.remove(dir, name);
        }
    }
}

impl<D: Disk> std::fmt::Debug for State<D> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Unnamed(_) => formatter.write_str("Unnamed"),
            State::Named(_, name) => formatter.debug_tuple("Named").field(name).finish(),
            State::Placed => formatter.write_str("Placed"),
        }
    }
}

/// Why something that is no regular file is not replaced by one.
pub(crate) fn not_replaced(kind: Kind) -> io::Error {
    match kind {
        Kind::Directory => io::ErrorKind::IsADirectory.into(),
        Kind::Symlink => io::Error::new(io::ErrorKind::InvalidInput, "is a symbolic link"),
        Kind::File | Kind::Other => io::Error::new(
            io::ErrorKind::InvalidInput,
            "is a device, a FIFO or a socket, not a regular file",
        ),
    }
}

fn already_placed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the file has already been placed",
    )
}

/// Calls with one hidden name after the other until it is not taken. The names are short,
/// whatever the target's: a long one must not become too long by being staged.
fn with_new_name<T>(mut call: impl FnMut(&OsStr) -> io::Result<T>) -> io::Result<(OsString, T)> {
    let mut last = io::ErrorKind::AlreadyExists.into();
    for _ in 0..ATTEMPTS {
        let random = RandomState::new().build_hasher().finish();
        let name = OsString::from(format!(
            ".polystore-{:x}-{random:016x}.tmp",
            std::process::id()
        ));
        match call(&name) {
            Ok(done) => return Ok((name, done)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
