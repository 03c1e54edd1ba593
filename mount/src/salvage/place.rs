//! Putting a file from salvage where it belongs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

use polystore::Durability;
use polystore::disk::{self, Dir, Disk, Kind, Ownership, SystemDisk};
use polystore::stage::{Place, Staged};
use rustix::fs::{CWD, Mode, OFlags, Timestamps};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Store, is_no_directory};
use crate::engine::staging::is_hidden;

/// Where something is to be put.
pub struct Target {
    dir: Arc<Dir>,
    name: OsString,
}

impl Target {
    /// At a path of the caller's own.
    pub fn named(path: &Path) -> io::Result<Target> {
        let disk::Found { dir, name, .. } = disk::find(path)?;
        Ok(Target {
            dir: Arc::new(dir),
            name,
        })
    }

    /// At `path` below `data`, through directories only.
    pub fn below(data: &Dir, path: &Path) -> io::Result<Target> {
        let mut names = names_of(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut dir = SystemDisk.open_subdir(data, OsStr::new("."))?;
        for name in names {
            dir = SystemDisk.open_subdir(&dir, name).map_err(|error| {
                let shown = name.display();
                if is_no_directory(&error) {
                    let text = format!(
                        "{shown} in its path is not a directory, and no symbolic link is followed: say --to FILE"
                    );
                    io::Error::new(io::ErrorKind::NotADirectory, text)
                } else {
                    let text = format!("its directory {shown}: {error} (--to FILE restores elsewhere)");
                    io::Error::new(error.kind(), text)
                }
            })?;
        }
        Ok(Target {
            dir: Arc::new(dir),
            name: name.to_owned(),
        })
    }
}

/// The components of a path below the data directory at which programs could have made a file.
fn names_of(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !is_hidden(names.is_empty(), name) => names.push(name),
            _ => names.clear(),
        }
        if names.is_empty() {
            break;
        }
    }
    match names.is_empty() {
        false => Ok(names),
        true => {
            let text = format!(
                "its note says that it belongs at {}, which is not a path of a file in the data directory: say --to FILE",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

/// While it lives, this thread has no more rights than the owner of a store.
pub struct Acting(bool);

impl Acting {
    /// If root looks at the store of another user.
    pub fn as_owner(store: &Store) -> io::Result<Acting> {
        if !store.is_anothers {
            return Ok(Acting(false));
        }
        let (same_user, same_group) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
        let acting = Acting(true);
        set_thread_groups(&[])?;
        set_thread_res_gid(same_group, Gid::from_raw(store.group), same_group)?;
        set_thread_res_uid(same_user, Uid::from_raw(store.owner), same_user)?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        if self.0 {
            let (same_user, same_group) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
            // Who was root a moment ago may be it again; the groups are not needed for that.
            let _ = set_thread_res_uid(same_user, Uid::ROOT, same_user);
            let _ = set_thread_res_gid(same_group, Gid::ROOT, same_group);
        }
    }
}

impl Store {
    /// Gives the file `id` of this store the name of `target`: the file itself, or a copy with all that belongs to it
    /// where another file system is. It is still in the store afterwards.
    pub fn place(&self, id: &str, target: &Target, force: bool) -> io::Result<()> {
        let Target { dir, name } = target;
        match SystemDisk.stat(dir, name)?.map(|known| known.kind) {
            None => {}
            Some(Kind::File) if force => {}
            Some(Kind::File) => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(_) => {
                let text = "what is there is not a regular file";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, id, flags, Mode::empty())?);
        if !self.is_kept(&SystemDisk.stat_file(&file)?) {
            return Err(io::Error::other("it was changed meanwhile"));
        }
        let linked = match force {
            false => SystemDisk.link(&file, dir, name),
            true => replace(&file, dir, name),
        };
        match linked {
            Err(error) if cannot_link(&error) => copy(&file, dir, name, force),
            linked => linked,
        }
    }
}

/// Another file system, or one without hard links, or the kernel's fs.protected_hardlinks.
fn cannot_link(error: &io::Error) -> bool {
    let cannot = [Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK];
    Errno::from_io_error(error).is_some_and(|error| cannot.contains(&error))
}

/// Gives `file` a name that another file may have, in one step.
fn replace(file: &File, dir: &Dir, name: &OsStr) -> io::Result<()> {
    let random = RandomState::new().build_hasher().finish();
    let passing = OsString::from(format!(".polystore-{random:016x}.tmp"));
    SystemDisk.link(file, dir, &passing)?;
    let renamed = SystemDisk.rename(dir, &passing, dir, name, true);
    // It is still there if both were names of one file.
    let _ = SystemDisk.remove(dir, &passing);
    renamed?;
    let now = SystemDisk.stat(dir, name)?.map(|known| known.id);
    match now == Some(SystemDisk.stat_file(file)?.id) {
        true => Ok(()),
        false => Err(io::Error::other("somebody else changed the file meanwhile")),
    }
}

/// Nobody sees anything of the copy before it is whole and has its owner.
fn copy(file: &File, dir: &Arc<Dir>, name: &OsStr, force: bool) -> io::Result<()> {
    let source = readable(file)?;
    let mut staged = Staged::create(&Arc::new(SystemDisk), dir, 0o600)?;
    let known = rustix::fs::fstat(&source)?;
    let copied = SystemDisk
        .copy_content(&source, staged.file(), u64::MAX)
        .and_then(|()| disk::copy_attributes(&source, staged.file()))
        .and_then(|()| give(staged.file(), known.st_uid, known.st_gid, known.st_mode))
        .and_then(|()| {
            let times = Timestamps {
                last_access: timespec(known.st_atime, known.st_atime_nsec),
                last_modification: timespec(known.st_mtime, known.st_mtime_nsec),
            };
            Ok(rustix::fs::futimens(staged.file(), &times)?)
        });
    copied.map_err(|error| staged.fail(error))?;
    let place = match force {
        true => Place::Any,
        false => Place::New,
    };
    staged.publish(dir, name, place, Durability::Ordered)
}

fn timespec(seconds: i64, nanoseconds: u64) -> rustix::fs::Timespec {
    rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    }
}

/// What is open as `file` without access. A lease on it does not hold this up.
fn readable(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened: OwnedFd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    Ok(opened.into())
}

/// Owner and group, as far as they may be given, and what of the permission bits does not depend on them.
fn give(file: &File, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let mode = mode & 0o7777;
    let own = SystemDisk.stat_file(file)?;
    let owner = Ownership {
        uid: (uid != own.uid).then_some(uid),
        gid: (gid != own.gid).then_some(gid),
    };
    match SystemDisk.set_ownership(file, owner, mode) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let neither = Ownership {
                uid: None,
                gid: None,
            };
            SystemDisk.set_ownership(file, neither, mode & 0o1700)
        }
        given => given,
    }
}
