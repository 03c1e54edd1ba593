//! The two directories of a mount: what they must be, and making them so.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::alive::{self, Answer};
use super::mountinfo::{self, Entry, Node};
use super::unmount::{self, How};
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
    /// Where it is to be mounted: an absolute path, without symbolic links.
    pub mountpoint: PathBuf,
    /// The directory above it: renamed or not, it leads to the mount.
    above: OwnedFd,
    /// The directories that were made for it, outermost first.
    made: Vec<PathBuf>,
}

impl Place {
    /// Checks both directories, clears a dead mount away and makes the mountpoint if need be.
    /// Without a mountpoint the data directory is mounted over itself.
    pub fn prepare(data: &Path, mountpoint: Option<&Path>) -> Result<Place, Failure> {
        let target = mountpoint.unwrap_or(data);
        let mountpoint = resolve(target).map_err(|error| about(target, error))?;
        clear(&mountpoint)?;

        let data_path = data.canonicalize().map_err(|error| about(data, error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &data_path, flags, Mode::empty())
            .map_err(|error| about(&data_path, error.into()))?;
        refuse_within_polystore(&data_path)?;
        if mountpoint == Path::new("/") {
            return Err(Failure::new("/: cannot be mounted over"));
        }
        let over_itself = is_same(&data_path, &mountpoint);
        if !over_itself {
            refuse_inside_polystore(&mountpoint)?;
            refuse_nesting(&data_path, &mountpoint)?;
            refuse_other_mount(&mountpoint)?;
        }
        let made = make(&mountpoint)?;
        let checked = match over_itself {
            true => Ok(()),
            false => refuse_used(&mountpoint),
        };
        match checked.and_then(|()| open_above(&mountpoint)) {
            Ok(above) => Ok(Place {
                data: handle,
                data_path,
                mountpoint,
                above,
                made,
            }),
            Err(failure) => {
                undo(&made);
                Err(failure)
            }
        }
    }

    /// The root of what is mounted there now.
    pub fn root(&self) -> io::Result<Node> {
        let name = self.mountpoint.file_name().unwrap_or_default();
        mountinfo::node_in(&self.above, Path::new(name))
    }

    /// Removes the directories that were made, when the mount came to nothing.
    pub fn undo(&self) {
        undo(&self.made);
    }
}

fn open_above(mountpoint: &Path) -> Result<OwnedFd, Failure> {
    let above = mountpoint.parent().unwrap_or(mountpoint);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, above, flags, Mode::empty()).map_err(|error| about(above, error.into()))
}

fn undo(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        let _ = fs::remove_dir(directory);
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

/// Clears what a failed attempt to mount has left, so that the place is as it was.
pub fn clear_own_dead(mountpoint: &Path) {
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

/// Makes the directory and those above it that are missing; tells which.
fn make(mountpoint: &Path) -> Result<Vec<PathBuf>, Failure> {
    let missing: Vec<&Path> = mountpoint
        .ancestors()
        .take_while(|path| {
            fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        })
        .collect();
    let mut made = Vec::new();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => made.push(directory.to_path_buf()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                undo(&made);
                return Err(Failure::new(format!(
                    "{}: cannot be made: {error}",
                    quote::path(directory)
                )));
            }
        }
    }
    Ok(made)
}

/// What is in a mountpoint would be hidden.
fn refuse_used(mountpoint: &Path) -> Result<(), Failure> {
    let known = fs::metadata(mountpoint).map_err(|error| about(mountpoint, error))?;
    if !known.is_dir() {
        return Err(Failure::new(format!(
            "{}: is not a directory",
            quote::path(mountpoint)
        )));
    }
    let mut names = fs::read_dir(mountpoint).map_err(|error| about(mountpoint, error))?;
    if names.next().is_some() {
        return Err(Failure::new(format!(
            "{}: is not empty: what is in it would be hidden",
            quote::path(mountpoint)
        )));
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
