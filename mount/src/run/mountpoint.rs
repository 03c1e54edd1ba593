//! The two directories of a mount: what they must be, and making them so.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::alive::{self, Answer};
use super::mountinfo::{self, Entry, Node};
use super::unmount::{self, How};
use super::{abandoned, nesting};
use crate::{Failure, quote};

/// Dead mounts on top of each other that are cleared at most.
const STACKED: usize = 16;
/// Symbolic links that are followed at most, as in the kernel.
const LINKS: usize = 40;

/// Where to mount what.
pub struct Place {
    /// The data directory, opened before anything is mounted over it.
    pub data: OwnedFd,
    /// Its absolute path.
    pub data_path: PathBuf,
    /// Where it is to be mounted: an absolute path, without symbolic links, as it was.
    pub mountpoint: PathBuf,
    /// The directory that it is to be mounted over: who changes names above it changes nothing about that.
    pub handle: OwnedFd,
    /// The directories that were made for it, outermost first.
    made: Vec<Made>,
}

/// A directory that was made: its name, and where.
type Made = (OwnedFd, OsString);

impl Place {
    /// Checks both directories, clears a dead mount away and makes the mountpoint if need be.
    /// Without a mountpoint the data directory is mounted over itself.
    pub fn prepare(data: &Path, mountpoint: Option<&Path>) -> Result<Place, Failure> {
        let target = mountpoint.unwrap_or(data);
        let mountpoint = resolve(target).map_err(|error| about(target, error))?;
        clear(&mountpoint)?;

        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let of_data = rustix::fs::openat(CWD, data, flags, Mode::empty())
            .map_err(|error| about(data, error.into()))?;
        let data_path = path_of(&of_data).map_err(|error| about(data, error))?;
        refuse_within_polystore(&data_path)?;
        if mountpoint == Path::new("/") {
            return Err(Failure::new("/: cannot be mounted over"));
        }
        let over_itself = is_same(&data_path, &mountpoint);
        if !over_itself {
            // Before anything is made there.
            refuse_inside_polystore(&mountpoint)?;
            refuse_nesting(&data_path, &mountpoint)?;
            refuse_other_mount(&mountpoint)?;
        }
        let (handle, made) = make(&mountpoint)?;
        match refuse_unfit(&of_data, &handle, over_itself) {
            Ok(()) => Ok(Place {
                data: of_data,
                data_path,
                mountpoint,
                handle,
                made,
            }),
            Err(reason) => {
                undo(&made);
                Err(Failure::new(format!(
                    "{}: {reason}",
                    quote::path(&mountpoint)
                )))
            }
        }
    }

    /// The root of what is mounted there now.
    pub fn root(&self) -> io::Result<Node> {
        mountinfo::node(&path_of(&self.handle)?)
    }

    /// Clears what a failed attempt to mount has left, so that the place is as it was.
    pub fn clear_own_dead(&self) {
        if let Ok(path) = path_of(&self.handle) {
            clear_own_dead(&path);
        }
    }

    /// Removes the directories that were made, when the mount came to nothing.
    pub fn undo(&self) {
        undo(&self.made);
    }
}

/// Where an open directory is now.
fn path_of(directory: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn undo(made: &[Made]) {
    for (above, name) in made.iter().rev() {
        let _ = rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR);
    }
}

fn about(path: &Path, error: io::Error) -> Failure {
    let advice = match error.raw_os_error() {
        Some(libc::ENOTCONN) => {
            ": a dead mount was left there, or above it (polystore unmount clears it)"
        }
        _ => "",
    };
    Failure::new(format!("{}: {error}{advice}", quote::path(path)))
}

/// The absolute path of `path`, which need not exist, without symbolic links. Of the last name
/// nothing but the target of a link is asked, so it may be a dead mount.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize();
        };
        let parent = canonical_parent(parent)?;
        let candidate = parent.join(name);
        match fs::read_link(&candidate) {
            Ok(target) => path = parent.join(target),
            Err(_) => return Ok(candidate),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// What exists of `parent`, canonical, and the rest, if it can be made, as it is.
fn canonical_parent(parent: &Path) -> io::Result<PathBuf> {
    match parent.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match (parent.parent(), parent.file_name()) {
                // A dangling link cannot be made into a directory.
                (Some(above), Some(name)) if fs::symlink_metadata(parent).is_err() => {
                    Ok(canonical_parent(above)?.join(name))
                }
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Clears dead mounts from `mountpoint`; refuses live ones of polystore.
fn clear(mountpoint: &Path) -> Result<(), Failure> {
    for _ in 0..STACKED {
        let node = match mountinfo::node(mountpoint) {
            Ok(node) if node.is_root => node,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(about(mountpoint, error)),
        };
        let entry = match mountinfo::find(node.mount_id) {
            Ok(Some(entry)) if entry.is_fuse() => entry,
            Ok(Some(_)) => return Ok(()),
            Ok(None) => continue,
            Err(error) => return Err(about(mountpoint, error)),
        };
        let answer =
            alive::ask(&node.handle, entry.owner).map_err(|error| about(mountpoint, error))?;
        match answer {
            Answer::Dead => {
                drop(node);
                clear_dead(&entry, mountpoint)?;
            }
            Answer::Alive if !entry.is_polystore() => return Ok(()),
            Answer::Alive => {
                return Err(Failure::new(format!(
                    "{}: is mounted already: it is a polystore mount of {}",
                    quote::path(mountpoint),
                    quote::path(&entry.source)
                )));
            }
            Answer::Silent
                if abandoned::end(&entry, mountpoint)
                    .map_err(|error| about(mountpoint, error))? =>
            {
                log::info!(
                    "{}: the process that served it was killed and hangs: connection ended",
                    quote::path(mountpoint)
                );
            }
            Answer::Silent | Answer::Refused => {
                return Err(Failure::new(unreachable_mount(mountpoint, &entry, answer)));
            }
        }
    }
    Err(Failure::new(format!(
        "{}: has too many dead mounts on it",
        quote::path(mountpoint)
    )))
}

fn clear_own_dead(mountpoint: &Path) {
    let Ok(node) = mountinfo::node(mountpoint) else {
        return;
    };
    let entry = match mountinfo::find(node.mount_id) {
        Ok(Some(entry)) if node.is_root && entry.is_polystore() => entry,
        _ => return,
    };
    if alive::ask(&node.handle, entry.owner).is_ok_and(|answer| answer == Answer::Dead) {
        drop(node);
        if let Err(failure) = clear_dead(&entry, mountpoint) {
            log::warn!("{failure}");
        }
    }
}

fn clear_dead(entry: &Entry, mountpoint: &Path) -> Result<(), Failure> {
    log::info!(
        "{}: clearing a dead mount of {}",
        quote::path(mountpoint),
        quote::path(&entry.source)
    );
    unmount::take(mountpoint, How::Detach).map_err(|error| {
        Failure::new(format!(
            "{}: a dead mount ({}) is there and cannot be cleared: {error}",
            quote::path(mountpoint),
            entry.kind
        ))
    })
}

fn unreachable_mount(mountpoint: &Path, entry: &Entry, answer: Answer) -> String {
    let what = match answer {
        Answer::Silent => "does not answer".to_string(),
        _ => match entry.owner {
            Some((user, _)) => format!("belongs to user {user}"),
            None => "belongs to another user".to_string(),
        },
    };
    format!(
        "{}: is mounted already: a {} mount of {}, which {what}; unmount it first",
        quote::path(mountpoint),
        entry.kind,
        quote::path(&entry.source)
    )
}

fn refuse_within_polystore(data: &Path) -> Result<(), Failure> {
    match mountinfo::mount_of(data) {
        Ok(Some(entry)) if entry.is_polystore() => Err(Failure::new(format!(
            "{}: is in the polystore mount {} already; its files are in {}",
            quote::path(data),
            quote::path(&entry.mountpoint),
            quote::path(&entry.source)
        ))),
        _ => Ok(()),
    }
}

/// A mountpoint there would be a directory of somebody's data.
fn refuse_inside_polystore(mountpoint: &Path) -> Result<(), Failure> {
    let above = mountpoint
        .ancestors()
        .skip(1)
        .find_map(|above| mountinfo::mount_of(above).ok().flatten());
    match above {
        Some(entry) if entry.is_polystore() => Err(Failure::new(format!(
            "{}: is inside the polystore mount {}",
            quote::path(mountpoint),
            quote::path(&entry.mountpoint)
        ))),
        _ => Ok(()),
    }
}

/// A program that serves the mountpoint would be hidden from its users.
fn refuse_other_mount(mountpoint: &Path) -> Result<(), Failure> {
    match mountinfo::mount_at(mountpoint) {
        Ok(Some(entry)) if entry.is_fuse() => Err(Failure::new(format!(
            "{}: is in use: a {} mount of {} is there",
            quote::path(mountpoint),
            entry.kind,
            quote::path(&entry.source)
        ))),
        _ => Ok(()),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || match (mountinfo::file_id(one), mountinfo::file_id(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
}

fn refuse_nesting(data: &Path, mountpoint: &Path) -> Result<(), Failure> {
    if is_within(mountpoint, data) {
        return Err(Failure::new(format!(
            "{}: is inside the data directory {}; mount it elsewhere, or over itself \
             (polystore mount {})",
            quote::path(mountpoint),
            quote::path(data),
            quote::path(data)
        )));
    }
    if is_within(data, mountpoint) {
        return Err(Failure::new(format!(
            "{}: contains the data directory {}, which it would hide",
            quote::path(mountpoint),
            quote::path(data)
        )));
    }
    Ok(())
}

/// Whether a directory above `path` is `directory`, by whatever name.
fn is_within(path: &Path, directory: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .any(|above| is_same(above, directory))
}

/// Opens the directory, after making it and those above it that are missing; tells which. The path has no symbolic
/// links, and what has become one since is not followed.
fn make(mountpoint: &Path) -> Result<(OwnedFd, Vec<Made>), Failure> {
    let mut made = Vec::new();
    let mut at = PathBuf::from("/");
    let opened = open_below(&mut at, mountpoint, &mut made);
    opened
        .map(|handle| (handle, std::mem::take(&mut made)))
        .map_err(|error| {
            undo(&made);
            let what = match error {
                Errno::NOTDIR | Errno::LOOP => "is not a directory".to_owned(),
                error => format!("cannot be made: {}", io::Error::from(error)),
            };
            Failure::new(format!("{}: {what}", quote::path(&at)))
        })
}

fn open_below(at: &mut PathBuf, path: &Path, made: &mut Vec<Made>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
    for name in path.components().skip(1) {
        let name = name.as_os_str();
        at.push(name);
        let below = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) => made.push((
                        directory.try_clone().map_err(|_| Errno::MFILE)?,
                        name.to_owned(),
                    )),
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                rustix::fs::openat(&directory, name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        directory = below;
    }
    Ok(directory)
}

/// Why the directory that was opened is not to be mounted over, whatever was at its path before.
fn refuse_unfit(data: &OwnedFd, mountpoint: &OwnedFd, over_itself: bool) -> Result<(), String> {
    let wrong = |error: io::Error| error.to_string();
    if over_itself || nesting::is_same(data, mountpoint).map_err(wrong)? {
        return match nesting::is_same(data, mountpoint).map_err(wrong)? && over_itself {
            true => Ok(()),
            false => Err("was changed while it was looked at".to_owned()),
        };
    }
    let there = mountinfo::mount_of_handle(mountpoint).map_err(wrong)?;
    if there.is_some_and(|entry| entry.is_polystore()) {
        return Err("is in a polystore mount".to_owned());
    }
    if nesting::is_within(mountpoint, data).map_err(wrong)? {
        return Err("is inside the data directory".to_owned());
    }
    if nesting::is_within(data, mountpoint).map_err(wrong)? {
        return Err("contains the data directory, which it would hide".to_owned());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(mountpoint, ".", flags, Mode::empty());
    let listed = listed.map_err(|error| wrong(error.into()))?;
    let names = rustix::fs::Dir::new(listed).map_err(|error| wrong(error.into()))?;
    for entry in names {
        let entry = entry.map_err(|error| wrong(error.into()))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err("is not empty: what is in it would be hidden".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn tree() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("data")).unwrap();
        (directory, root)
    }

    fn refusal(data: &Path, mountpoint: Option<&Path>) -> String {
        match Place::prepare(data, mountpoint) {
            Ok(_) => panic!("{} on {mountpoint:?} was accepted", data.display()),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn a_missing_mountpoint_is_made_and_unmade() {
        let (_keep, root) = tree();
        let place = Place::prepare(&root.join("data"), Some(&root.join("a/b/safe"))).unwrap();
        assert!(root.join("a/b/safe").is_dir());
        assert_eq!(place.mountpoint, root.join("a/b/safe"));
        assert_eq!(place.data_path, root.join("data"));
        place.undo();
        assert!(!root.join("a").exists());
    }

    /// Whoever owns a directory above it may put something else at the path after it was looked at.
    #[test]
    fn what_was_checked_is_what_is_mounted_over() {
        let (_keep, root) = tree();
        fs::create_dir(root.join("safe")).unwrap();
        let place = Place::prepare(&root.join("data"), Some(&root.join("safe"))).unwrap();
        fs::rename(root.join("safe"), root.join("moved")).unwrap();
        symlink("/etc", root.join("safe")).unwrap();
        assert_eq!(path_of(&place.handle).unwrap(), root.join("moved"));
        let root_of = place.root().unwrap();
        assert!(!root_of.is_root);
        assert_eq!(path_of(&root_of.handle).unwrap(), root.join("moved"));
        // A link that came after the path was resolved.
        symlink("data", root.join("late")).unwrap();
        let refused = make(&root.join("late/sub")).err().unwrap().to_string();
        assert!(refused.contains("late: is not a directory"), "{refused}");
        assert!(!root.join("data/sub").exists());
    }

    #[test]
    fn what_was_there_is_not_unmade() {
        let (_keep, root) = tree();
        fs::create_dir(root.join("safe")).unwrap();
        Place::prepare(&root.join("data"), Some(&root.join("safe")))
            .unwrap()
            .undo();
        assert!(root.join("safe").is_dir());
    }

    #[test]
    fn over_itself_by_any_name() {
        let (_keep, root) = tree();
        fs::write(root.join("data/file"), "x").unwrap();
        symlink("data", root.join("link")).unwrap();
        for mountpoint in [
            None,
            Some("data"),
            Some("data/."),
            Some("link"),
            Some("data/../data/"),
        ] {
            let mountpoint = mountpoint.map(|name| root.join(name));
            let place = Place::prepare(&root.join("data"), mountpoint.as_deref()).unwrap();
            assert_eq!(place.mountpoint, root.join("data"));
        }
        let place = Place::prepare(&root.join("link"), None).unwrap();
        assert_eq!(
            (place.data_path, place.mountpoint),
            (root.join("data"), root.join("data"))
        );
    }

    #[test]
    fn unusable_mountpoints() {
        let (_keep, root) = tree();
        let data = root.join("data");
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/file"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
        symlink("data", root.join("link")).unwrap();
        let at = |name: &str| refusal(&data, Some(&root.join(name)));
        assert!(at("full").contains("is not empty"));
        assert!(at("file").contains("is not a directory"));
        assert!(at("data/sub").contains("inside the data directory"));
        assert!(at("link/deep/sub").contains("inside the data directory"));
        assert!(at("").contains("would hide"));
        assert!(!data.join("sub").exists() && !data.join("deep").exists());
        assert!(refusal(&data, Some(Path::new("/"))).contains("cannot be mounted over"));
        assert!(refusal(&data, Some(Path::new("/proc/none/safe"))).contains("cannot be made"));
    }

    #[test]
    fn unusable_data() {
        let (_keep, root) = tree();
        fs::write(root.join("file"), "x").unwrap();
        let safe = root.join("safe");
        for name in ["none", "file", "none/deeper"] {
            let message = refusal(&root.join(name), Some(&safe));
            assert!(message.contains(name), "{message}");
            assert!(!safe.exists(), "made although nothing could be mounted");
            refusal(&root.join(name), None);
            assert!(!root.join("none").exists());
        }
    }

    #[test]
    fn paths_that_do_not_exist_are_resolved_as_far_as_they_do() {
        let (_keep, root) = tree();
        symlink("data", root.join("link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(
            resolve(&root.join("link/x/y")).unwrap(),
            root.join("data/x/y")
        );
        assert_eq!(
            resolve(&root.join("dangling")).unwrap(),
            root.join("nowhere")
        );
        assert!(resolve(&root.join("dangling/x")).is_err());
        assert!(resolve(&root.join("loop")).is_err());
        assert!(resolve(Path::new("")).is_err());
        assert_eq!(resolve(&root.join("data/..")).unwrap(), root);
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }
}
