//! From the path of a request to the place that it means, with the rights of who asks.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{Mode, OFlags, Statx};
use rustix::io::Errno;

use super::super::attr;
use super::super::fs::Fs;
use super::super::tree::{Dir, path_of};
use super::super::turns::Ask;
use crate::control::{Code, ControlError, ControlPath};
use crate::engine::credentials::Credentials;
use crate::engine::policy::{TurnKind, lock_file_of};
use crate::engine::slot::{Place, SlotKey};
use crate::engine::staging::is_hidden;

/// How many symbolic links are followed; as many as the kernel does.
const MOST_LINKS: usize = 40;

/// A place in the mount.
pub struct Target {
    /// As it was asked for.
    pub asked: ControlPath,
    /// Where it is, from the root of the mount.
    pub path: PathBuf,
    /// The same, to reach it.
    pub place: Place<SystemDisk>,
}

impl Target {
    /// An error of what was asked for.
    pub fn explain(&self, error: impl Into<ControlError>) -> ControlError {
        error.into().about(&self.asked)
    }
}

/// Where a walk has come to.
enum Step {
    /// A directory.
    Into(OwnedFd),
    /// A symbolic link, and where it points to.
    Link(PathBuf),
    /// What has nothing below it, or nothing at all.
    End,
}

impl Fs {
    /// Where `path` leads for `who`.
    ///
    /// # Errors
    /// Those that he would get who went there himself; EXDEV where it leads out of the mount; EACCES at a symbolic
    /// link that somebody else has put into a directory where anybody may make names.
    pub fn resolve(&self, who: &Credentials, path: &ControlPath) -> Result<Target, ControlError> {
        let find = || self.resolve_as_he_may(who, path.as_path());
        let (dir, name) = self.engine.as_user(who, find).map_err(|error| {
            let error = ControlError::from(error);
            match error.code {
                Code::CrossesDevices => {
                    ControlError::new(error.code, "it leads out of the mount").about(path)
                }
                _ => error.about(path),
            }
        })?;
        let below = self.below_root(&dir)?;
        let hidden = |(at, part): (usize, &OsStr)| is_hidden(at == 0, part);
        if below.join(&name).iter().enumerate().any(hidden) {
            let text = format!("{path}: it leads to what polystore keeps for itself");
            return Err(ControlError::invalid(text));
        }
        let id = attr::id(&attr::of_file(&*dir).map_err(ControlError::from)?);
        Ok(Target {
            asked: path.clone(),
            path: below.join(&name),
            place: Place {
                slot: SlotKey { dir: id, name },
                dir,
            },
        })
    }

    /// The directory, and the name in it that is no symbolic link.
    ///
    /// Each component is opened by itself and never followed by the system, so that each link is judged here:
    /// the system's own rule (fs.protected_symlinks) may be off.
    fn resolve_as_he_may(
        &self,
        who: &Credentials,
        path: &Path,
    ) -> io::Result<(Arc<Dir>, OsString)> {
        let mut dir = self.tree.root().clone();
        let mut ahead: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            match self.step(who, &dir, &name)? {
                Step::Into(_) if ahead.is_empty() && name != ".." && name != "." => {
                    return Ok((dir, name));
                }
                Step::Into(next) => dir = Arc::new(Dir::from(next)),
                Step::End if ahead.is_empty() => return Ok((dir, name)),
                Step::End => return Err(self.why_no_further(&dir, &name)),
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        return Err(Errno::XDEV.into());
                    }
                    for part in target.iter().rev() {
                        ahead.push_front(part.to_owned());
                    }
                }
            }
        }
        Err(Errno::ISDIR.into())
    }

    fn step(&self, who: &Credentials, dir: &Dir, name: &OsStr) -> io::Result<Step> {
        let above = attr::of_file(dir)?;
        if name == ".." && attr::id(&above) == self.tree.root_id() {
            return Err(Errno::XDEV.into());
        }
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(dir, name, how, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Step::End),
            found => found?,
        };
        let stat = attr::of_file(&found)?;
        match attr::kind(&stat) {
            Kind::Directory => Ok(Step::Into(found)),
            Kind::Symlink => {
                must_be_trusted(who, &above, &stat)?;
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                Ok(Step::Link(OsStr::from_bytes(target.as_bytes()).into()))
            }
            _ => Ok(Step::End),
        }
    }

    /// The error of going on below `name`, which is no directory.
    fn why_no_further(&self, dir: &Dir, name: &OsStr) -> io::Error {
        match attr::of_name(dir, name) {
            Ok(_) => Errno::NOTDIR.into(),
            Err(error) => error,
        }
    }

    fn below_root(&self, dir: &Dir) -> Result<PathBuf, ControlError> {
        let path = |fd| std::fs::read_link(path_of(fd)).map_err(ControlError::from);
        let (dir, root) = (path(dir.as_fd())?, path(self.tree.root().as_fd())?);
        let outside = |_| ControlError::new(Code::CrossesDevices, "it leads out of the mount");
        Ok(dir.strip_prefix(root).map_err(outside)?.to_owned())
    }

    /// The turn at `target`. Its lock file is made with the bits `mode` if it is missing.
    pub fn ask_at(&self, target: &Target, mode: Option<u32>) -> Ask {
        let turns = &self.engine.settings.turns;
        let kind = turns.kind(&target.path).unwrap_or(TurnKind::Document);
        let place = &target.place;
        let slot = SlotKey {
            dir: place.slot.dir,
            name: lock_file_of(place.name(), kind),
        };
        // Somebody may be making that file himself.
        let make = mode.filter(|_| !self.engine.is_reserved(&slot));
        Ask::new(kind, slot, place.dir.clone(), make)
    }
}

/// Whether everybody may make names in the directory `dir`, and nobody but their makers takes them away: what
/// stands there may be put there to mislead others.
pub fn is_shared(dir: &Statx) -> bool {
    const SHARED: u32 = libc::S_ISVTX | libc::S_IWOTH;
    u32::from(dir.stx_mode) & SHARED == SHARED
}

/// The rule of fs.protected_symlinks, for every link of a path that `who` goes.
fn must_be_trusted(who: &Credentials, dir: &Statx, link: &Statx) -> io::Result<()> {
    let trusted = !is_shared(dir) || [who.uid, dir.stx_uid].contains(&link.stx_uid);
    match trusted {
        true => Ok(()),
        false => Err(Errno::ACCESS.into()),
    }
}
