//! Opening backing files as the user who asked.
//!
//! The kernel checks what it was told of a node; what is opened for it may be another file by then. So the
//! system below judges once more, with the caller's credentials. An ordinary user's mount cannot be other
//! users: it opens the file itself, and looks at its permission bits and ACL before it hands it out.
//!
//! No open waits for a lease that somebody holds in the backing directory (O_NONBLOCK), or follows a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use polystore::disk::Kind;
use rustix::fs::{Mode, OFlags, Statx};
use rustix::io::Errno;

use super::attr;
use super::errno::stale;
use super::fs::Fs;
use super::opening::{access, passed_on};
use super::proc::ProcFs;
use super::tree::{Dir, gone_is_stale, path_of};
use crate::engine::credentials::{Credentials, as_user};
use crate::engine::process::{Caller, Processes};
use crate::engine::rights::{EXECUTE, READ, WRITE, permits};

/// `__FMODE_EXEC` of the kernel's `include/linux/fs.h`: the file is opened to be run, for which it need not
/// be readable. Programs cannot set it.
pub const TO_RUN: OFlags = OFlags::from_bits_retain(0x20);

const CAREFUL: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The rights that an open with these flags takes.
fn wanted(flags: OFlags) -> u32 {
    if flags.contains(TO_RUN) {
        return EXECUTE;
    }
    let wanted = access(flags);
    let mut rights = 0;
    if wanted.read || wanted.read_only {
        rights |= READ;
    }
    if !wanted.read_only || wanted.truncate {
        rights |= WRITE;
    }
    rights
}

fn acl_of(file: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    // The kernel allows 64 KiB; entries of 8 bytes for a thousand users are far more than anybody has.
    let mut acl = vec![0; 1 << 16];
    match rustix::fs::getxattr(path_of(file.as_fd()), "system.posix_acl_access", &mut acl) {
        Ok(len) => {
            acl.truncate(len);
            Ok(Some(acl))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens by `open`, with the rights of `access`, as `who`; where this process cannot be him, what it has opened
/// itself is judged by permission bits and ACL.
///
/// # Errors
/// Those of opening it as him.
pub fn open_judged(
    who: &Credentials,
    access: OFlags,
    open: impl Fn() -> io::Result<File>,
) -> io::Result<File> {
    if rustix::process::geteuid().is_root() || ProcFs.act_as(who, &mut || ()).is_ok() {
        return as_user(&ProcFs, who, &open);
    }
    let file = open()?;
    let stat = attr::stat(&attr::of_file(&file)?);
    match permits(who, stat, acl_of(&file)?.as_deref(), wanted(access)) {
        true => Ok(file),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Whether everybody may make names in the directory `dir`, and nobody but their makers takes them away: what
/// stands there may be put there to mislead others.
pub fn is_shared(dir: &Statx) -> bool {
    const SHARED: u32 = libc::S_ISVTX | libc::S_IWOTH;
    u32::from(dir.stx_mode) & SHARED == SHARED
}

impl Fs {
    /// As whom `caller` acts.
    pub fn credentials(&self, caller: Caller) -> Credentials {
        self.engine.processes.credentials(caller)
    }

    /// Opens the regular file `name` in `dir` as `who`, and tells what is known of it. It is neither made nor cut.
    ///
    /// # Errors
    /// Those of opening it as him; ESTALE where it is not a regular file.
    pub fn open_at(
        &self,
        who: &Credentials,
        dir: &Dir,
        name: &OsStr,
        flags: OFlags,
    ) -> io::Result<(File, Statx)> {
        let how = flags.difference(OFlags::TRUNC | TO_RUN) | CAREFUL;
        let open = |how| rustix::fs::openat(dir, name, how, Mode::empty());
        match self.opened(who, flags, how, open) {
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::LOOP | Errno::NXIO)
                ) =>
            {
                Err(stale()) // A symbolic link or a FIFO.
            }
            other => other,
        }
    }

    /// Opens what `file` has open once more, as `who`. It is not cut.
    ///
    /// # Errors
    /// Those of opening it as him; ESTALE where it is not a regular file.
    pub fn reopen(&self, who: &Credentials, file: &File, flags: OFlags) -> io::Result<File> {
        // What leads to an open file is a link.
        let how = passed_on(flags).difference(OFlags::TRUNC | TO_RUN)
            | CAREFUL.difference(OFlags::NOFOLLOW);
        let open = |how| rustix::fs::open(path_of(file.as_fd()), how, Mode::empty());
        self.opened(who, flags, how, open).map(|(file, _)| file)
    }

    fn opened(
        &self,
        who: &Credentials,
        flags: OFlags,
        how: OFlags,
        open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
    ) -> io::Result<(File, Statx)> {
        // O_RDONLY|O_TRUNC asks for the right to write, and only what is open for writing can be cut.
        let how = match flags.contains(OFlags::TRUNC) && access(flags).read_only {
            true => how.difference(OFlags::RWMODE) | OFlags::RDWR,
            false => how,
        };
        let itself = flags.contains(TO_RUN) || self.engine.is_stranger(who);
        let open = |how| match itself {
            true => Ok(open(how)?),
            false => self.engine.as_user(who, || Ok(open(how)?)),
        };
        let is = |error: &io::Error, number| Errno::from_io_error(error) == Some(number);
        let fd = match open(how) {
            // Only the owner may ask for O_NOATIME, and whoever opens here may be somebody else.
            Err(error) if is(&error, Errno::PERM) && how.contains(OFlags::NOATIME) => {
                open(how.difference(OFlags::NOATIME))
            }
            // An append-only file (chattr +a) may be opened in no other way.
            Err(error) if is(&error, Errno::PERM) && access(flags).append => {
                open(how | OFlags::APPEND)
            }
            other => other,
        }?;
        let stat = attr::of_file(&fd)?;
        if attr::kind(&stat) != Kind::File {
            return Err(stale());
        }
        if itself && !self.is_own(who) {
            let acl = acl_of(&fd)?;
            if !permits(who, attr::stat(&stat), acl.as_deref(), wanted(flags)) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok((File::from(fd), stat))
    }

    /// Whether nobody has to judge what `who` may do but the kernel, which has: he is whom this process is, or
    /// may do everything.
    fn is_own(&self, who: &Credentials) -> bool {
        who.uid == 0 || who.uid == self.uid
    }

    /// Opens the published file that `node` is, as `who`; with O_TRUNC it is cut.
    ///
    /// # Errors
    /// ESTALE where another version has taken its name; else those of opening it as him.
    pub fn open_version(&self, who: &Credentials, node: u64, flags: OFlags) -> io::Result<File> {
        let place = self.tree.place_of(node)?;
        let (file, stat) = match self.open_at(who, &place.dir, place.name(), flags) {
            Ok(opened) => opened,
            // Of another file than was asked for nothing is told.
            Err(error) => match attr::of_name(&*place.dir, place.name()) {
                Ok(stat) if !self.tree.nodes().is(node, &stat) => return Err(stale()),
                _ => return Err(gone_is_stale(error)),
            },
        };
        // Cutting comes after it is certain which file this is.
        if !self.tree.nodes().is(node, &stat) {
            return Err(stale());
        }
        self.cut_if_asked(who, &file, flags)?;
        Ok(file)
    }

    /// Cuts `file` for `who` if `flags` say so.
    ///
    /// # Errors
    /// Those of cutting it.
    pub fn cut_if_asked(&self, who: &Credentials, file: &File, flags: OFlags) -> io::Result<()> {
        match flags.contains(OFlags::TRUNC) {
            true => self.set_file_len(who, file, 0),
            false => Ok(()),
        }
    }

    /// Cuts or extends `file` for `who`: the system below takes set-user-id bits away for it.
    ///
    /// # Errors
    /// The system's.
    pub fn set_file_len(&self, who: &Credentials, file: &File, len: u64) -> io::Result<()> {
        self.engine
            .for_user(who, || Ok(rustix::fs::ftruncate(file, len)?))
    }

    /// Whether `who` may open what `file` has open as `flags` say: judged anew for everybody but those whom this
    /// process is, because the kernel has judged by what it knew of the node.
    ///
    /// # Errors
    /// Those of opening it as him.
    pub fn judge(&self, who: &Credentials, file: &File, flags: OFlags) -> io::Result<()> {
        if self.is_own(who) {
            return Ok(());
        }
        self.reopen(who, file, flags).map(drop)
    }
}
