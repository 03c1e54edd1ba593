//! Following a path component by component, where the kernel would follow links that it should not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;

use super::{Dir, Disk, SystemDisk, known, open_directory, refuse_foreign_link};
use crate::Durability;
use crate::disk::Kind;

/// As many symbolic links in a row as Linux follows.
const MAX_LINKS: usize = 40;

/// The file system type of /proc. Its links may lead to what has no path.
const PROC: i64 = 0x9fa0;

/// Where a path leads, all symbolic links followed.
#[derive(Debug)]
pub struct Found {
    /// The directory.
    pub dir: Dir,
    /// The name in it. When it was looked at it was not that of a symbolic link to be followed.
    pub name: OsString,
    /// A path to it without symbolic links.
    pub path: PathBuf,
}

/// Finds where `path` leads, from the working directory if it is relative.
///
/// # Errors
/// `PermissionDenied` for a link that is not to be followed, `IsADirectory` for a path that can
/// only be a directory's, and the system's own.
pub fn find(path: &Path) -> io::Result<Found> {
    Walk::from(here()?, path)?.into_end(None)
}

/// The same, but a symbolic link that is the last name of `path` is not followed.
pub fn find_unfollowed(path: &Path) -> io::Result<Found> {
    let mut walk = Walk::from(here()?, path)?;
    walk.follows_last = false;
    walk.into_end(None)
}

/// The same as [`find`] for a path below `dir`, unless it is absolute.
pub fn find_in(dir: &Dir, path: &Path) -> io::Result<Found> {
    Walk::from(dir.0.try_clone()?, path)?.into_end(None)
}

/// The same; directories that are missing on the way are made, as durable as `durability` says.
pub(crate) fn find_or_make(path: &Path, durability: Durability) -> io::Result<Found> {
    Walk::from(here()?, path)?.into_end(Some(durability))
}

fn here() -> io::Result<OwnedFd> {
    Ok(step(CWD, OsStr::new("."), OFlags::DIRECTORY)?)
}

fn step(dir: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

struct Walk {
    dir: OwnedFd,
    /// Of `dir`.
    path: PathBuf,
    /// What is still to go, the next one last.
    rest: Vec<OsString>,
    links: usize,
    follows_last: bool,
}

impl Walk {
    fn from(dir: OwnedFd, path: &Path) -> io::Result<Walk> {
        let mut walk = Walk {
            dir,
            path: PathBuf::new(),
            rest: Vec::new(),
            links: 0,
            follows_last: true,
        };
        walk.add(path.as_os_str())?;
        refuse_directory_name(path.as_os_str())?;
        Ok(walk)
    }

    /// Puts the components of `path` before what is still to go.
    fn add(&mut self, path: &OsStr) -> io::Result<()> {
        let bytes = path.as_bytes();
        if bytes.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if bytes.starts_with(b"/") {
            self.dir = step(CWD, OsStr::new("/"), OFlags::DIRECTORY)?;
            self.path = PathBuf::from("/");
        }
        let components = bytes.split(|byte| *byte == b'/').rev();
        let components = components.filter(|name| !matches!(name, [] | [b'.']));
        self.rest
            .extend(components.map(|name| OsStr::from_bytes(name).to_owned()));
        Ok(())
    }

    fn into_end(mut self, make: Option<Durability>) -> io::Result<Found> {
        loop {
            let name = self.rest.pop().ok_or(io::ErrorKind::IsADirectory)?;
            if name == ".." {
                self.up()?;
            } else if !self.rest.is_empty() {
                self.down(name, make)?;
            } else if self.follows_last && self.is_link(&name)? {
                self.follow(&name)?;
            } else {
                return Ok(Found {
                    dir: open_directory(&self.dir, OsStr::new("."), OFlags::empty())?,
                    path: self.path.join(&name),
                    name,
                });
            }
        }
    }

    fn up(&mut self) -> io::Result<()> {
        self.dir = step(&self.dir, OsStr::new(".."), OFlags::DIRECTORY)?;
        match self.path.components().next_back() {
            Some(Component::Normal(_)) => drop(self.path.pop()),
            Some(Component::RootDir) => {}
            _ => self.path.push(".."),
        }
        Ok(())
    }

    fn down(&mut self, name: OsString, make: Option<Durability>) -> io::Result<()> {
        match step(&self.dir, &name, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Ok(dir) => {
                self.dir = dir;
                self.path.push(name);
                Ok(())
            }
            Err(Errno::NOENT) if make.is_some() => {
                self.make(&name, make)?;
                self.down(name, None)
            }
            // A file, or a link.
            Err(Errno::NOTDIR | Errno::LOOP) => self.follow(&name),
            Err(error) => Err(error.into()),
        }
    }

    fn make(&self, name: &OsStr, durability: Option<Durability>) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o777)) {
            Ok(()) if durability == Some(Durability::Full) => {
                let above = open_directory(&self.dir, OsStr::new("."), OFlags::empty())?;
                SystemDisk.sync_dir(&above)
            }
            // By somebody else, between the two.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn is_link(&self, name: &OsStr) -> io::Result<bool> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::Symlink),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes where the link `name` leads. The link is opened, so that what is checked is what is read.
    fn follow(&mut self, name: &OsStr) -> io::Result<()> {
        let link = step(&self.dir, name, OFlags::NOFOLLOW)?;
        let stat = known(&rustix::fs::fstat(&link)?);
        if stat.kind != Kind::Symlink {
            return Err(Errno::NOTDIR.into());
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let dir = known(&rustix::fs::fstat(&self.dir)?);
        refuse_foreign_link(&self.path.join(name), &dir, &stat)?;
        let is_last = self.rest.is_empty();
        if rustix::fs::fstatfs(&link)?.f_type as i64 == PROC {
            if !is_last {
                // No text says where it leads.
                self.dir = step(&self.dir, name, OFlags::DIRECTORY)?;
                self.path.push(name);
                return Ok(());
            }
            self.refuse_special(name)?;
        }
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        let target = OsStr::from_bytes(target.as_bytes());
        if is_last {
            refuse_directory_name(target)?;
        }
        self.add(target)
    }

    /// Links such as /dev/stdout lead to what has no path that could be followed.
    fn refuse_special(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::statat(&self.dir, name, AtFlags::empty()) {
            Ok(stat) => match known(&stat).kind {
                Kind::File => Ok(()),
                kind => Err(crate::stage::not_replaced(kind)),
            },
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// "name/" and "name/." can only be a directory.
fn refuse_directory_name(path: &OsStr) -> io::Result<()> {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next();
    match last {
        Some(b"" | b"." | b"..") => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skipped::has_root;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    #[test]
    fn links_are_followed_to_their_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        symlink("sub/b", root.join("a")).unwrap();
        symlink("../c", root.join("sub/b")).unwrap();
        symlink("sub", root.join("dir")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("sub/", root.join("slash")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let path = |name: &str| find(&root.join(name)).map(|found| found.path);
        assert_eq!(path("a").unwrap(), root.join("c"));
        assert_eq!(path("dir/../sub/./b").unwrap(), root.join("c"));
        assert_eq!(path("dir//x").unwrap(), root.join("sub/x"));
        assert_eq!(path("file").unwrap(), root.join("file"));
        let kind = |name: &str| path(name).unwrap_err().kind();
        assert_eq!(kind("none/x"), io::ErrorKind::NotFound);
        assert_eq!(kind("file/x"), io::ErrorKind::NotADirectory);
        for name in ["sub/", "sub/.", "sub/..", "slash", ".."] {
            assert_eq!(kind(name), io::ErrorKind::IsADirectory, "{name}");
        }
        let looping = path("loop").unwrap_err();
        assert_eq!(looping.raw_os_error(), Some(libc::ELOOP));
        let found = find_in(&SystemDisk.open_dir(&root).unwrap(), Path::new("a")).unwrap();
        assert_eq!(
            (found.name.as_os_str(), found.path.as_path()),
            (OsStr::new("c"), Path::new("c"))
        );
    }

    #[test]
    fn proc_is_followed_by_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let dir = fs::File::open(&root).unwrap();
        use std::os::fd::AsRawFd;
        let through = format!("/proc/self/fd/{}/f", dir.as_raw_fd());
        let found = find(Path::new(&through)).unwrap();
        let id = |dir: &Dir| SystemDisk.stat_dir(dir).unwrap().id;
        assert_eq!(id(&found.dir), id(&SystemDisk.open_dir(&root).unwrap()));
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
        assert!(find(Path::new(&pipe)).is_err());
    }

    /// At the end of the path and in the middle of it, whatever fs.protected_symlinks says.
    #[test]
    fn foreign_links_in_sticky_directories_are_not_followed() {
        if !has_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        for (mode, dir_owner, link_owner, followed) in [
            (0o1777, 0, 0, true),
            (0o1777, 0, 1234, false),
            (0o1777, 1234, 1234, true),
            (0o777, 0, 1234, true),
            (0o1775, 0, 1234, true),
        ] {
            let sticky = root.join("sticky");
            fs::create_dir(&sticky).unwrap();
            symlink("../real", sticky.join("dir")).unwrap();
            symlink("../real/file", sticky.join("file")).unwrap();
            for name in ["dir", "file", ""] {
                let owner = if name.is_empty() {
                    dir_owner
                } else {
                    link_owner
                };
                lchown(sticky.join(name), Some(owner), None).unwrap();
            }
            fs::set_permissions(&sticky, fs::Permissions::from_mode(mode)).unwrap();
            for path in ["sticky/file", "sticky/dir/file"] {
                let found = find(&root.join(path));
                match found {
                    Ok(ref found) => assert_eq!(found.path, root.join("real/file")),
                    Err(ref error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
                }
                assert_eq!(
                    found.is_ok(),
                    followed,
                    "{mode:o} {dir_owner} {link_owner} {path}"
                );
            }
            fs::remove_dir_all(sticky).unwrap();
        }
    }
}
