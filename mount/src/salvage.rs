//! Salvage as people see it: what it holds, putting it back, removing it.
//!
//! Whoever owns a data directory can put what he likes into it, also while this runs as root. So everything
//! is reached from descriptors: the data directory, `.polystore` and `salvage` in it, the directories on the way to
//! where a file is restored; no symbolic link is followed on the way. A file is opened without access, looked at, and
//! what was looked at is placed. What is done in somebody else's data directory is done with his rights.

mod place;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use polystore::disk::{Dir, Disk, Kind, Stat, SystemDisk};
use serde_json::Value;

use crate::engine::salvage::{DIR, born, is_note, note_of, path_from_json};
use crate::engine::staging::OWN_DIR;

/// Notes are small; a longer one is none.
const NOTE_LIMIT: u64 = 64 * 1024;

/// Something in salvage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is asked for by.
    pub id: String,
    /// Where it was to be published, from the root of the data; `None` if that was not known.
    pub path: Option<PathBuf>,
    /// Why it was not.
    pub reason: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was dropped.
    pub time: SystemTime,
    /// Number and name of the process that opened it.
    pub process: Option<String>,
}

/// The `.polystore` of the data directory `data`, if there is one.
///
/// # Errors
/// It is no directory, or somebody made it whom this user has no reason to trust: neither he nor, if he
/// is root, the owner of the data.
pub fn own_dir(data: &Dir) -> io::Result<Option<Dir>> {
    let name = OsStr::new(OWN_DIR);
    let Some(known) = SystemDisk.stat(data, name)? else {
        return Ok(None);
    };
    if known.kind != Kind::Directory {
        return Err(refused(format!(
            "{OWN_DIR} is not a directory: it is not used"
        )));
    }
    let user = rustix::process::geteuid();
    let trusted = match user.is_root() {
        true => [0, SystemDisk.stat_dir(data)?.uid].contains(&known.uid),
        false => known.uid == user.as_raw(),
    };
    if !trusted {
        let Stat { uid, mode, .. } = known;
        return Err(refused(format!(
            "{OWN_DIR} belongs to user {uid} (mode {mode:04o}): only that user can look into it, and root if the \
             data directory belongs to that user, too"
        )));
    }
    open_owned(data, name, known.uid)
}

/// The directory `name` in `dir`, which is one of `.polystore` or that itself, if there is one.
///
/// # Errors
/// It is no directory, or not that user's alone whose `dir` is.
pub fn own_subdir(dir: &Dir, name: &str) -> io::Result<Option<Dir>> {
    open_owned(dir, OsStr::new(name), SystemDisk.stat_dir(dir)?.uid)
}

fn open_owned(dir: &Dir, name: &OsStr, owner: u32) -> io::Result<Option<Dir>> {
    let shown = name.display();
    let sub = match SystemDisk.open_subdir(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_no_directory(&error) => {
            return Err(refused(format!(
                "{shown} is not a directory: it is not used"
            )));
        }
        sub => sub?,
    };
    let known = SystemDisk.stat_dir(&sub)?;
    if known.uid != owner || known.mode & 0o022 != 0 {
        let Stat { uid, mode, .. } = known;
        return Err(refused(format!(
            "{shown} belongs to user {uid} (mode {mode:04o}): it is used only if it belongs to user {owner} and \
             nobody else may write it"
        )));
    }
    Ok(Some(sub))
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Of an open with O_DIRECTORY and O_NOFOLLOW.
fn is_no_directory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP))
}

/// The salvage of a data directory.
struct Store {
    dir: Dir,
    owner: u32,
    group: u32,
    /// Whether root looks at the store of another user: he can have put anything there, for one
    /// a hard link to a file that is not his.
    is_anothers: bool,
}

impl Store {
    fn of(data: &Dir) -> io::Result<Option<Store>> {
        let Some(own) = own_dir(data)? else {
            return Ok(None);
        };
        let Stat { uid, gid, .. } = SystemDisk.stat_dir(&own)?;
        let dir = own_subdir(&own, DIR)?;
        Ok(dir.map(|dir| Store {
            dir,
            owner: uid,
            group: gid,
            is_anothers: uid != rustix::process::geteuid().as_raw(),
        }))
    }

    /// What `name` is, if it is something that a mount has kept.
    fn known(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        let known = SystemDisk.stat(&self.dir, name)?;
        Ok(known.filter(|known| self.is_kept(known)))
    }

    fn is_kept(&self, known: &Stat) -> bool {
        known.kind == Kind::File && (!self.is_anothers || known.uid == self.owner)
    }

    fn item(&self, id: &str) -> io::Result<Option<Item>> {
        let Some(known) = self.known(OsStr::new(id))? else {
            return Ok(None);
        };
        let note = self.note(id).unwrap_or(Value::Null);
        let text = |key: &str| note.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(Some(Item {
            id: id.to_owned(),
            path: note.get("path").and_then(path_from_json),
            reason: text("reason").unwrap_or_else(|| "unknown".to_owned()),
            size: known.len,
            time: UNIX_EPOCH + Duration::from_secs(born(OsStr::new(id))),
            process: text("process"),
        }))
    }

    fn note(&self, id: &str) -> Option<Value> {
        let name = note_of(OsStr::new(id));
        // Asked first: to open a device can do something.
        self.known(&name).ok().flatten()?;
        let file = SystemDisk.open(&self.dir, &name, false).ok()?;
        let mut text = Vec::new();
        file.take(NOTE_LIMIT + 1).read_to_end(&mut text).ok()?;
        let fits = text.len() as u64 <= NOTE_LIMIT;
        fits.then(|| serde_json::from_slice(&text).ok()).flatten()
    }

    fn items(&self) -> io::Result<Vec<Item>> {
        let names = SystemDisk.list(&self.dir)?;
        let ids = names.iter().filter(|name| !is_note(name));
        let mut items = Vec::new();
        for id in ids.filter_map(|name| name.to_str()) {
            // Restored or removed by somebody else meanwhile, or no thing of a mount.
            items.extend(self.item(id)?);
        }
        items.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(items)
    }

    /// Removes something. The note last: one that stays behind is removed by a mount, a draft
    /// without one is kept.
    fn remove(&self, id: &str) -> io::Result<()> {
        SystemDisk.remove(&self.dir, OsStr::new(id))?;
        match SystemDisk.remove(&self.dir, &note_of(OsStr::new(id))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What is in the salvage of the data directory `data`, newest first.
///
/// # Errors
/// Those of [`own_dir`] and of reading; a directory without salvage has an empty one.
pub fn list(data: &Dir) -> io::Result<Vec<Item>> {
    Store::of(data)?.map_or(Ok(Vec::new()), |store| store.items())
}

/// Something that was to be removed from salvage.
#[derive(Debug)]
pub struct Removed {
    /// What it was.
    pub item: Item,
    /// Whether it is gone.
    pub result: io::Result<()>,
}

/// Removes what is `wanted` from the salvage of the data directory `data`, which may be mounted
/// meanwhile. What another process restores or removes at the same time is not among the result;
/// what cannot be removed does not keep the others.
///
/// # Errors
/// Those of [`list`].
pub fn purge(data: &Dir, wanted: impl Fn(&Item) -> bool) -> io::Result<Vec<Removed>> {
    let Some(store) = Store::of(data)? else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for item in store.items()?.into_iter().filter(wanted) {
        let result = store.remove(&item.id);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            removed.push(Removed { item, result });
        }
    }
    Ok(removed)
}

/// Puts the salvaged draft `id` of `data` back in one step: to its old path, or to `to`, a path of the
/// caller. Returns where it is then: `to`, or the path below `data`. Owner, permissions, times and attributes
/// stay, also on another file system.
///
/// # Errors
/// `NotFound` for an unknown id or a directory that has gone, `InvalidInput` where no path is
/// known and none is given, or where the path that is known leads out of the data directory,
/// `AlreadyExists` where something is there and `force` is not given; else the disk's.
pub fn restore(data: &Dir, id: &str, to: Option<&Path>, force: bool) -> io::Result<PathBuf> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "it is not in salvage");
    if matches!(id, "" | "." | "..") || id.contains('/') || is_note(OsStr::new(id)) {
        return Err(unknown());
    }
    let store = Store::of(data)?.ok_or_else(unknown)?;
    let item = store.item(id)?.ok_or_else(unknown)?;
    let target = match (to, item.path) {
        (Some(to), _) => {
            store.place(id, &place::Target::named(to)?, force)?;
            to.to_owned()
        }
        (None, Some(path)) => {
            // The note may be his who owns the data: it gets him no file where he could not make one.
            let acting = place::Acting::as_owner(&store)?;
            store.place(id, &place::Target::below(data, &path)?, force)?;
            drop(acting);
            path
        }
        (None, None) => {
            let text = "where it belongs is not known: say --to FILE";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    store.remove(id)?;
    Ok(target)
}

#[cfg(test)]
mod tests;
