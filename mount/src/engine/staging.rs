//! `.polystore/`: the session of a living mount, and the sweep after one that died.
//!
//! ```text
//! data/.polystore/            mode 0700, of the user who mounts; so is all that is in it
//!   sessions/ID/lock          held (flock) as long as the mount lives
//!   sessions/ID/N.PATH        a staged draft; slashes of PATH are written %2F
//!   sessions/ID/note-N.PATH   what it is, if it has been there for long
//!   salvage/                  see salvage.rs
//! ```
//!
//! Invariant: a session directory whose `lock` is free belongs to nobody. The
//! lock is taken before it has a name, so no directory is ever seen with a lock
//! that its living mount has yet to take.
//!
//! A directory that another user can have filled is not used: a draft could be led elsewhere, or
//! what he has put there be taken for one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polystore::disk::{Disk, Kind, Stat};

use super::salvage::{Description, Reason, Salvage};

/// The directory in the root of the data that holds what is polystore's own.
pub const OWN_DIR: &str = ".polystore";

/// What the name of a draft starts with that had to be staged beside its target.
pub const HIDDEN_PREFIX: &str = ".polystore-draft-";

const SESSIONS: &str = "sessions";
const LOCK: &str = "lock";
/// No staged name starts with it: those start with a number.
const NOTE: &str = "note-";

/// How often a start is tried again when a sweep by another mount came between.
const START_TRIES: usize = 8;

/// The staging directory of a living mount.
pub struct Session<D: Disk> {
    disk: Arc<D>,
    own: Arc<D::Dir>,
    sessions: D::Dir,
    dir: D::Dir,
    id: String,
    device: u64,
    // Held until the process ends.
    _lock: D::File,
}

/// Whether a start failed because another mount that ended, or swept, took something away.
fn is_disturbed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::WouldBlock | io::ErrorKind::AlreadyExists
    )
}

fn take_lock<D: Disk>(disk: &D, lock: &D::File) -> io::Result<()> {
    if disk.try_lock(lock, true)? {
        Ok(())
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A directory of `.polystore`, or that itself, that somebody else can have filled.
#[derive(Debug)]
pub struct Foreign {
    name: OsString,
    found: Stat,
    /// Whose it had to be.
    owner: u32,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, owner) = (self.name.display(), self.owner);
        let Stat {
            kind, uid, mode, ..
        } = self.found;
        if kind != Kind::Directory {
            return write!(f, "{name} is not a directory: remove or rename it");
        }
        let what = "it is used only as a directory of";
        if uid == owner {
            return write!(
                f,
                "{name} has mode {mode:04o}, and {what} its owner alone: give it mode 0700 if only he has put \
                 something into it, or remove or rename it"
            );
        }
        write!(
            f,
            "{name} belongs to user {uid} (mode {mode:04o}), and {what} user {owner} alone: remove or rename it, \
             mount as user {uid}, or mount with --read-only"
        )
    }
}

impl std::error::Error for Foreign {}

/// Whether an error is that something there is [`Foreign`].
pub fn is_foreign(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Foreign>())
}

/// Opens `name` in `dir`, after making it where it is missing. It must be `owner`'s alone.
///
/// # Errors
/// [`Foreign`], and those of the disk.
pub fn ensure_dir<D: Disk>(disk: &D, dir: &D::Dir, name: &OsStr, owner: u32) -> io::Result<D::Dir> {
    match disk.make_dir(dir, name, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => open_own(disk, dir, name, owner),
    }
}

/// The same for one that exists.
pub fn open_own<D: Disk>(disk: &D, dir: &D::Dir, name: &OsStr, owner: u32) -> io::Result<D::Dir> {
    let foreign = |found: Stat| {
        let name = name.to_owned();
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            Foreign { name, found, owner },
        )
    };
    let is_own = |known: &Stat| {
        known.kind == Kind::Directory && known.uid == owner && known.mode & 0o777 == 0o700
    };
    let opened = match disk.open_subdir(dir, name) {
        // The reason may be that it is another's, or no directory.
        Err(error) => {
            return match disk.stat(dir, name)? {
                Some(known) if !is_own(&known) => Err(foreign(known)),
                _ => Err(error),
            };
        }
        Ok(opened) => opened,
    };
    let known = disk.stat_dir(&opened)?;
    if is_own(&known) {
        Ok(opened)
    } else {
        Err(foreign(known))
    }
}

impl<D: Disk> Session<D> {
    /// Starts a session named `id` under `root`, the root of the data, for the user `owner`.
    ///
    /// # Errors
    /// [`Foreign`] if there is a `.polystore` of somebody else; those of the disk: the root cannot be
    /// written, for one.
    pub fn start(disk: &Arc<D>, root: &D::Dir, id: &str, owner: u32) -> io::Result<Session<D>> {
        let mut tries = 0;
        loop {
            // Another name each time: what a failed try left is swept as a dead session.
            let id = if tries == 0 {
                id.to_owned()
            } else {
                format!("{id}-{tries}")
            };
            match Self::start_once(disk, root, id, owner) {
                Err(error) if is_disturbed(&error) && tries < START_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    fn start_once(disk: &Arc<D>, root: &D::Dir, id: String, owner: u32) -> io::Result<Session<D>> {
        let own = Arc::new(ensure_dir(&**disk, root, OsStr::new(OWN_DIR), owner)?);
        let sessions = ensure_dir(&**disk, &own, OsStr::new(SESSIONS), owner)?;
        let dir = ensure_dir(&**disk, &sessions, OsStr::new(&id), owner)?;
        let lock = match disk.create_unnamed(&dir, 0o600)? {
            Some(lock) => {
                take_lock(&**disk, &lock)?;
                disk.link(&lock, &dir, OsStr::new(LOCK))?;
                lock
            }
            None => {
                let lock = disk.create_new(&dir, OsStr::new(LOCK), 0o600)?;
                take_lock(&**disk, &lock)?;
                lock
            }
        };
        // A sweep may have been faster than the lock.
        let held = disk.stat_file(&lock)?.id;
        if disk
            .stat(&dir, OsStr::new(LOCK))?
            .is_none_or(|stat| stat.id != held)
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = disk.stat_dir(&dir)?.id;
        if disk
            .stat(&sessions, OsStr::new(&id))?
            .is_none_or(|stat| stat.id != here)
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Session {
            disk: disk.clone(),
            own,
            sessions,
            dir,
            id,
            device: here.device,
            _lock: lock,
        })
    }

    /// The staging directory.
    pub fn dir(&self) -> &D::Dir {
        &self.dir
    }

    /// The session's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The device that staging lies on.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// `.polystore` itself.
    pub fn own_dir(&self) -> &Arc<D::Dir> {
        &self.own
    }

    /// Creates a staged file where unnamed ones are not to be had.
    pub(super) fn create(&self, name: &OsStr, mode: u32) -> io::Result<D::File> {
        self.disk.create_new(&self.dir, name, mode)
    }

    /// Gives an unnamed file a name in staging.
    pub(super) fn link(&self, file: &D::File, name: &OsStr) -> io::Result<()> {
        self.disk.link(file, &self.dir, name)
    }

    /// Notes what the staged file `name` is. Without the note it can still be salvaged, under no path.
    pub(super) fn describe(&self, name: &OsStr, description: &Description) {
        let written = self
            .disk
            .create_new(&self.dir, &note_of(name), 0o600)
            .and_then(|file| write_all(&*self.disk, &file, &description.to_json(), 0));
        if let Err(error) = written {
            log::debug!("note of a staged draft: {error}");
        }
    }

    /// Removes the note of a staged file that has gone elsewhere.
    pub(super) fn undescribe(&self, name: &OsStr) {
        let _ = self.disk.remove(&self.dir, &note_of(name)); // Most have none.
    }

    /// Removes a staged file and its note.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.undescribe(name);
        self.disk.remove(&self.dir, name)
    }

    /// Ends the session: its directory goes, and whatever of `.polystore` is empty then.
    pub fn end(&self, root: &D::Dir) {
        let disk = &*self.disk;
        for name in disk.list(&self.dir).unwrap_or_default() {
            if name != LOCK {
                log::warn!("staged file {name:?} left behind; the next mount salvages it");
                return;
            }
        }
        let _ = disk.remove(&self.dir, OsStr::new(LOCK));
        let _ = disk.remove_dir(&self.sessions, OsStr::new(&self.id));
        // Not empty while others live or something is in salvage: then they stay.
        let _ = disk.remove_dir(&self.own, OsStr::new(SESSIONS));
        let _ = disk.remove_dir(&self.own, OsStr::new(super::salvage::DIR));
        let _ = disk.remove_dir(root, OsStr::new(OWN_DIR));
    }
}

/// Clears what dead sessions left: staged drafts with content go to salvage, the rest goes.
/// Doing it twice, or dying in it, changes nothing: a file is moved before its session goes.
/// Returns how many drafts were salvaged.
///
/// # Errors
/// Those of listing the sessions; what cannot be cleared stays for the next time.
pub fn sweep<D: Disk>(disk: &D, own: &D::Dir, salvage: Option<&Salvage<D>>) -> io::Result<usize> {
    let owner = disk.stat_dir(own)?.uid;
    let sessions = match open_own(disk, own, OsStr::new(SESSIONS), owner) {
        Ok(sessions) => sessions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut salvaged = 0;
    for id in disk.list(&sessions)? {
        match sweep_session(disk, (&sessions, owner), &id, salvage) {
            Ok(count) => salvaged += count,
            Err(error) => log::warn!("session {id:?} could not be cleared: {error}"),
        }
    }
    Ok(salvaged)
}

fn sweep_session<D: Disk>(
    disk: &D,
    (sessions, owner): (&D::Dir, u32),
    id: &OsStr,
    salvage: Option<&Salvage<D>>,
) -> io::Result<usize> {
    let dir = open_own(disk, sessions, id, owner)?;
    let lock = match disk.open(&dir, OsStr::new(LOCK), true) {
        Ok(lock) => Some(lock),
        // Its mount is just starting, and will start anew if this removes the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(lock) = &lock
        && !disk.try_lock(lock, true)?
    {
        return Ok(0);
    }
    let mut salvaged = 0;
    if lock.is_some() {
        for name in disk.list(&dir)? {
            if name != LOCK && !name.as_encoded_bytes().starts_with(NOTE.as_bytes()) {
                salvaged += usize::from(sweep_staged(disk, &dir, &name, salvage)?);
            }
        }
        // The lock goes last: without it nobody would come back for the rest.
        for name in disk.list(&dir)?.iter().filter(|name| *name != LOCK) {
            disk.remove(&dir, name)?;
        }
        disk.remove(&dir, OsStr::new(LOCK))?;
    }
    disk.remove_dir(sessions, id)?;
    Ok(salvaged)
}

fn sweep_staged<D: Disk>(
    disk: &D,
    dir: &D::Dir,
    name: &OsStr,
    salvage: Option<&Salvage<D>>,
) -> io::Result<bool> {
    let filled = disk
        .stat(dir, name)?
        .is_some_and(|stat| stat.kind == Kind::File && stat.len > 0);
    let (Some(salvage), true) = (salvage, filled) else {
        return Ok(false);
    };
    let note = read_all(disk, dir, &note_of(name)).ok();
    let mut description = note
        .and_then(|text| Description::from_json(&text))
        .unwrap_or_else(|| Description {
            path: staged_path(name),
            ..Description::unknown(Reason::MountDied)
        });
    description.reason = Reason::MountDied;
    salvage.take(dir, name, &description)?;
    Ok(true)
}

/// What the name of a staged file says of its path; longer paths stand in a note.
const LONGEST_NAME: usize = 200;

/// The name of staged file `number`, with the path that it is for: `7.a%2Fb` for `a/b`.
pub(super) fn staged_name(number: u64, path: &Path) -> OsString {
    let mut name = number.to_string().into_bytes();
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut escaped = vec![b'.'];
    for byte in bytes {
        match byte {
            b'/' => escaped.extend(b"%2F"),
            b'%' => escaped.extend(b"%25"),
            other => escaped.push(*other),
        }
    }
    if name.len() + escaped.len() <= LONGEST_NAME {
        name.extend(escaped);
    }
    OsString::from_vec(name)
}

/// The path in the name of a staged file.
fn staged_path(name: &OsStr) -> Option<PathBuf> {
    let bytes = name.as_encoded_bytes();
    let dot = bytes.iter().position(|byte| *byte == b'.')?;
    let mut path = Vec::new();
    let mut rest = &bytes[dot + 1..];
    while let Some((first, more)) = rest.split_first() {
        match rest.get(..3) {
            Some(b"%2F") => path.push(b'/'),
            Some(b"%25") => path.push(b'%'),
            _ => {
                path.push(*first);
                rest = more;
                continue;
            }
        }
        rest = &rest[3..];
    }
    (!path.is_empty()).then(|| PathBuf::from(OsString::from_vec(path)))
}

fn note_of(name: &OsStr) -> OsString {
    let mut note = OsString::from(NOTE);
    note.push(name);
    note
}

/// Whether the mount never shows this name: its own directory in the root, and drafts that had
/// to be staged beside their target.
pub fn is_hidden(in_root: bool, name: &OsStr) -> bool {
    (in_root && name == OWN_DIR)
        || name
            .as_encoded_bytes()
            .starts_with(HIDDEN_PREFIX.as_bytes())
}

/// Writes all of `data` at `offset`.
pub(super) fn write_all<D: Disk>(
    disk: &D,
    file: &D::File,
    mut data: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !data.is_empty() {
        let written = disk.write_at(file, data, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Notes are small; what is longer is none.
const NOTE_LIMIT: usize = 64 * 1024;

fn read_all<D: Disk>(disk: &D, dir: &D::Dir, name: &OsStr) -> io::Result<Vec<u8>> {
    let file = disk.open(dir, name, false)?;
    let mut text = vec![0; NOTE_LIMIT];
    let mut filled = 0;
    while filled < text.len() {
        match disk.read_at(&file, &mut text[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    text.truncate(filled);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_names_keep_their_paths() {
        for path in ["f", "a/b.c/d", "100%/%2F", "x.json"] {
            let name = staged_name(17, Path::new(path));
            assert!(!name.as_encoded_bytes().contains(&b'/'));
            assert_eq!(staged_path(&name), Some(PathBuf::from(path)));
        }
        assert_eq!(
            staged_path(&staged_name(17, Path::new(&"x".repeat(250)))),
            None
        );
    }
}
