//! `.polystore/`: the session of a living mount, and the sweep after one that died.
//!
//! ```text
//! data/.polystore/            mode 0700
//!   sessions/ID/lock          held (flock) as long as the mount lives
//!   sessions/ID/N             a staged draft
//!   sessions/ID/N.json        what it is, if it has been there for long
//!   salvage/                  see salvage.rs
//! ```
//!
//! Invariant: a session directory whose `lock` is free belongs to nobody. The
//! lock is taken before it has a name, so no directory is ever seen with a lock
//! that its living mount has yet to take.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use polystore::disk::{Disk, Kind};

use super::salvage::{Description, Reason, Salvage};

/// The directory in the root of the data that holds what is polystore's own.
pub const OWN_DIR: &str = ".polystore";

/// What the name of a draft starts with that had to be staged beside its target.
pub const HIDDEN_PREFIX: &str = ".polystore-draft-";

const SESSIONS: &str = "sessions";
const LOCK: &str = "lock";
const NOTE: &str = ".json";

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

/// Opens `name` in `dir`, after making it where it is missing.
pub fn ensure_dir<D: Disk>(disk: &D, dir: &D::Dir, name: &OsStr) -> io::Result<D::Dir> {
    match disk.make_dir(dir, name, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    disk.open_subdir(dir, name)
}

impl<D: Disk> Session<D> {
    /// Starts a session named `id` under `root`, the root of the data.
    ///
    /// # Errors
    /// Those of the disk: the root cannot be written, for one.
    pub fn start(disk: &Arc<D>, root: &D::Dir, id: &str) -> io::Result<Session<D>> {
        let own = Arc::new(ensure_dir(&**disk, root, OsStr::new(OWN_DIR))?);
        let mut tries = 0;
        loop {
            match Self::start_once(disk, &own, id) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < START_TRIES => {
                    tries += 1
                }
                other => return other,
            }
        }
    }

    fn start_once(disk: &Arc<D>, own: &Arc<D::Dir>, id: &str) -> io::Result<Session<D>> {
        let sessions = ensure_dir(&**disk, own, OsStr::new(SESSIONS))?;
        let dir = ensure_dir(&**disk, &sessions, OsStr::new(id))?;
        let lock = match disk.create_unnamed(&dir, 0o600)? {
            Some(lock) => lock,
            None => disk.create_new(&dir, OsStr::new(LOCK), 0o600)?,
        };
        if !disk.try_lock(&lock, true)? {
            return Err(io::Error::other("the session's own lock is taken"));
        }
        match disk.link(&lock, &dir, OsStr::new(LOCK)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let device = disk.stat_dir(&dir)?.id.device;
        Ok(Session {
            disk: disk.clone(),
            own: own.clone(),
            sessions,
            dir,
            id: id.to_owned(),
            device,
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
    pub fn own_dir(&self) -> &D::Dir {
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
            .and_then(|file| write_all(&*self.disk, &file, &description.to_json()));
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
    let sessions = match disk.open_subdir(own, OsStr::new(SESSIONS)) {
        Ok(sessions) => sessions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut salvaged = 0;
    for id in disk.list(&sessions)? {
        match sweep_session(disk, &sessions, &id, salvage) {
            Ok(count) => salvaged += count,
            Err(error) => log::warn!("session {id:?} could not be cleared: {error}"),
        }
    }
    Ok(salvaged)
}

fn sweep_session<D: Disk>(
    disk: &D,
    sessions: &D::Dir,
    id: &OsStr,
    salvage: Option<&Salvage<D>>,
) -> io::Result<usize> {
    let dir = disk.open_subdir(sessions, id)?;
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
            if name != LOCK && !name.as_encoded_bytes().ends_with(NOTE.as_bytes()) {
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
        .unwrap_or_else(|| Description::unknown(Reason::MountDied));
    description.reason = Reason::MountDied;
    salvage.take(dir, name, &description)?;
    Ok(true)
}

fn note_of(name: &OsStr) -> OsString {
    let mut note = name.to_owned();
    note.push(NOTE);
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

pub(super) fn write_all<D: Disk>(disk: &D, file: &D::File, mut data: &[u8]) -> io::Result<()> {
    let mut offset = 0;
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
