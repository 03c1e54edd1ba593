//! From the path of a request to the place that it means, with the rights of who asks.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polystore::disk::SystemDisk;
use rustix::fs::{Mode, OFlags, ResolveFlags, Statx};
use rustix::io::Errno;

use super::super::attr;
use super::super::fs::Fs;
use super::super::tree::{Dir, path_of};
use super::super::turns::Ask;
use crate::control::{Code, ControlError, ControlPath};
use crate::engine::policy::{TurnKind, lock_file_of};
use crate::engine::process::{Caller, Processes};
use crate::engine::slot::{Place, SlotKey};
use crate::engine::staging::is_hidden;

/// How many symbolic links are followed at the end of a path; as many as the kernel does.
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
    /// What is there.
    ///
    /// # Errors
    /// Those of looking.
    pub fn stat(&self) -> Result<Option<Statx>, ControlError> {
        match attr::of_name(&*self.place.dir, self.place.name()) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// An error of what was asked for.
    pub fn explain(&self, error: impl Into<ControlError>) -> ControlError {
        error.into().about(&self.asked)
    }
}

impl Fs {
    /// Where `path` leads for `caller`.
    ///
    /// # Errors
    /// Those that he would get who went there himself; EXDEV where it leads out of the mount.
    pub fn resolve(&self, caller: Caller, path: &ControlPath) -> Result<Target, ControlError> {
        let who = self.engine.processes.credentials(caller);
        let find = || self.resolve_as_he_may(path.as_path());
        let (dir, name) = self.engine.as_user(&who, find).map_err(|error| {
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
        let id = attr::id(&attr::of_file(&dir).map_err(ControlError::from)?);
        Ok(Target {
            asked: path.clone(),
            path: below.join(&name),
            place: Place {
                slot: SlotKey { dir: id, name },
                dir: Arc::new(dir),
            },
        })
    }

    /// The directory, and the name in it that is no symbolic link.
    fn resolve_as_he_may(&self, path: &Path) -> io::Result<(Dir, std::ffi::OsString)> {
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            let root = &**self.tree.root();
            let dir = rustix::fs::openat2(root, parent, how, Mode::empty(), within)?;
            match rustix::fs::readlinkat(&dir, &name, Vec::new()) {
                Ok(target) => {
                    let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
                    path = parent.join(target);
                    if path.is_absolute() {
                        return Err(Errno::XDEV.into());
                    }
                }
                // No link, or nothing there.
                Err(Errno::INVAL | Errno::NOENT) => {
                    // It may be searched by the mount itself, too.
                    return Ok((Dir::from(dir), name));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::LOOP.into())
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

use std::os::unix::ffi::OsStrExt;
