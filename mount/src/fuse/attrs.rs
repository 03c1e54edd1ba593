//! SETATTR, STATFS and the extended attributes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, TimeOrNow};
use polystore::disk::SystemDisk;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, StatVfs, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::attr;
use super::errno::{looks_again, stale};
use super::fs::{Fs, NOT_REMEMBERED};
use super::handles::Target;
use super::leases::{Tried, is_leased};
use super::opening::access;
use super::outside::{NUMBER, is_reserved};
use super::overtaken::is_overtaken;
use super::redirect::Promised;
use super::tree::{Reach, content_stat};
use crate::engine::draft::{Draft, Phase};
use crate::engine::editing::{Content, Edit};
use crate::engine::failing;
use crate::engine::opening::Plan;
use crate::engine::order::Claim;
use crate::engine::process::Caller;

/// What is done when a length was changed, or could not be.
type Then = Box<dyn FnOnce(&Arc<Fs>, io::Result<Option<Statx>>) + Send>;

/// What SETATTR asks for, but for the length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of last access.
    pub atime: Option<TimeOrNow>,
    /// Time of last change of the content.
    pub mtime: Option<TimeOrNow>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let special = |nanoseconds| Timespec {
        tv_sec: 0,
        tv_nsec: nanoseconds,
    };
    match time {
        None => special(UTIME_OMIT),
        Some(TimeOrNow::Now) => special(UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => since_epoch(time),
    }
}

/// What the kernel sent: its nanoseconds count forwards always, but fuser 0.18 makes a time before 1970
/// of them as if they counted backwards.
fn since_epoch(time: SystemTime) -> Timespec {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (
                (before.as_secs() as i64).wrapping_neg(),
                before.subsec_nanos(),
            )
        }
    };
    Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    }
}

/// Gives a file to another user or group.
fn give(file: &Reach, change: &Change) -> io::Result<()> {
    if change.uid.is_none() && change.gid.is_none() {
        return Ok(());
    }
    let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(
        file,
        "",
        uid,
        gid,
        AtFlags::EMPTY_PATH,
    )?)
}

/// Applies mode and times.
fn apply(file: &Reach, change: &Change) -> io::Result<()> {
    if let Some(mode) = change.mode {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match file.file() {
            Some(file) => rustix::fs::fchmod(file, mode)?,
            // Of a symbolic link: EOPNOTSUPP, as on any Linux file system.
            None => rustix::fs::chmod(file.path(), mode)?,
        }
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let times = Timestamps {
            last_access: timespec(change.atime),
            last_modification: timespec(change.mtime),
        };
        rustix::fs::utimensat(file, "", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

impl Fs {
    /// Changes the attributes of `node`, but for the length.
    pub fn setattr(
        &self,
        caller: Caller,
        node: u64,
        handle: Option<u64>,
        change: &Change,
        cut: Option<&Statx>,
    ) -> io::Result<(FileAttr, std::time::Duration)> {
        if let Some(stat) = cut {
            // The node is a version that the change of its length has just replaced.
            let nodes = self.tree.nodes();
            let shown = nodes.shown_inode(node, stat);
            return Ok((nodes.attr(stat, node, shown), NOT_REMEMBERED));
        }
        if change.is_nothing() {
            return self.getattr(node, handle);
        }
        self.apply(caller, &self.reach(node)?, change)?;
        for draft in self.drafts_beside(node) {
            self.apply(caller, &Reach::Open(Content::Draft(draft)), change)?;
        }
        self.getattr(node, handle)
    }

    fn apply(&self, caller: Caller, file: &Reach, change: &Change) -> io::Result<()> {
        // Which set-user-id bits this takes away depends on who does it.
        let who = self.credentials(caller);
        self.engine.for_user(&who, || {
            give(file, change)?;
            apply(file, change)
        })
    }

    /// The file that `node` is, to read or change what is known of it.
    pub fn reach(&self, node: u64) -> io::Result<Reach> {
        match self.tree.edit(node) {
            Some(edit) => Ok(Reach::Open(self.engine.edit_content(&edit))),
            None => self.tree.reach(node),
        }
    }

    /// Cuts or extends `node`, in its turn, and then does `then`, which is told of the version that is there
    /// then if it is another one.
    pub fn set_len(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        handle: Option<u64>,
        len: u64,
        then: impl FnOnce(&Arc<Fs>, io::Result<Option<Statx>>) + Send + 'static,
    ) {
        let open = handle
            .and_then(|id| self.handles.get(id))
            .filter(|handle| handle.writable);
        if let Some(handle) = open {
            let changed = handle.clone();
            return self.change(&handle, move |fs| {
                then(fs, fs.truncate(caller, &changed, len).map(|()| None))
            });
        }
        self.set_len_by_path(caller, node, len, None, then);
    }

    fn set_len_by_path(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        len: u64,
        tried: Option<Tried>,
        then: impl FnOnce(&Arc<Fs>, io::Result<Option<Statx>>) + Send + 'static,
    ) {
        let claim = self.tree.nodes().slot(node).map(Claim::change);
        let then: Then = Box::new(then);
        self.queue(claim.unwrap_or_default(), move |fs| {
            let planned = fs.plan_len(caller, node, len);
            if !planned.as_ref().is_err_and(looks_again) {
                fs.second_looks.seen(caller.tid);
            }
            match planned {
                Ok(None) => then(fs, Ok(None)),
                Ok(Some(edit)) => fs.settling(edit, move |fs, edit| {
                    let cut = fs.edit_len(caller, edit, len);
                    let stat = || content_stat(&fs.engine.edit_content(edit));
                    then(fs, cut.and_then(|()| stat().map(Some)));
                }),
                Err(error) if is_leased(&error) => {
                    fs.wait_for_lease(caller, tried, move |fs, go_on| match go_on {
                        Ok(tried) => fs.set_len_by_path(caller, node, len, tried, then),
                        Err(error) => then(fs, Err(error)),
                    });
                }
                Err(error) => then(fs, Err(error)),
            }
        });
    }

    /// truncate(2) by path is an edit in one step: of the edit that is returned, which was promised
    /// to the caller, or it was done in place.
    fn plan_len(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        len: u64,
    ) -> io::Result<Option<Arc<Edit<SystemDisk>>>> {
        if let Some(draft) = self.tree.draft(node)
            && draft.phase() == Phase::Private
        {
            let who = self.credentials(caller);
            let cut = || self.set_file_len(&who, &draft.file, len);
            self.engine
                .change(&draft, (failing::Change::Cut, len), cut)?;
            return Ok(None);
        }
        if let Some(pin) = self
            .tree
            .pin(node)
            .filter(|_| self.tree.place_of(node).is_err())
        {
            // A file without a name.
            let who = self.credentials(caller);
            let file = self.reopen(&who, &pin, OFlags::WRONLY)?;
            return self.set_file_len(&who, &file, len).map(|()| None);
        }
        let place = self.tree.place_of(node)?;
        let stat = attr::of_name(&*place.dir, place.name())?;
        let writes = OFlags::RDWR;
        let edited = self.tree.edit(node).map(|edit| edit.version());
        if edited.or(self.tree.nodes().id(node)) != Some(attr::id(&stat)) {
            // The kernel has judged another file.
            self.open_as(caller, &place, OFlags::WRONLY)?;
        }
        match self.plan_existing(caller, node, &place, &stat, access(writes))? {
            Plan::Edit(edit) => {
                let promised = Promised::Edit(edit.clone());
                let kept = self.keep_promise(caller, &promised);
                if !kept {
                    self.engine.promise_edit(&edit);
                }
                let shown = self.tree.nodes().of_edit(&edit) == Some(node);
                // As with an open for writing: from here on nobody finds the old version under the name.
                if !kept && !shown && caller.tid != 0 && !self.second_looks.asked_before(caller.tid)
                {
                    self.second_looks.asked(caller.tid);
                    return Err(self.redirect(caller, promised));
                }
                return Ok(Some(edit));
            }
            Plan::Draft(draft) => {
                let who = self.credentials(caller);
                self.set_file_len(&who, &draft.file, len)?;
                self.engine.wrote(&draft, len);
            }
            Plan::InPlace => {
                let who = self.credentials(caller);
                let file = self.open_version(&who, node, OFlags::WRONLY)?;
                self.set_file_len(&who, &file, len)?;
            }
        }
        Ok(None)
    }

    /// The drafts that are to replace the published file `node`: what is changed in it by path
    /// is changed in them, too, or the next version would undo it.
    fn drafts_beside(&self, node: u64) -> Vec<Arc<Draft<SystemDisk>>> {
        if self.tree.draft(node).is_some() || self.tree.edit(node).is_some() {
            return Vec::new();
        }
        // Only of what stands under the name now: the owner of an old version, through a handle that
        // is still open, has no say in what replaces the present one.
        let Ok(place) = self.tree.place_of(node) else {
            return Vec::new();
        };
        match attr::of_name(&*place.dir, place.name()) {
            Ok(stat) if self.tree.nodes().is(node, &stat) => {
                self.engine.drafts_of(&place.slot, attr::id(&stat))
            }
            _ => Vec::new(),
        }
    }

    /// What is known of the file system.
    pub fn statfs(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::fstatvfs(&**self.tree.root())?)
    }

    /// The extended attribute `name`, at most `size` bytes; only its length for a `size` of 0.
    pub fn getxattr(
        &self,
        caller: Caller,
        node: u64,
        name: &OsStr,
        size: u32,
    ) -> io::Result<(usize, Vec<u8>)> {
        if name == NUMBER {
            let text = self.turn_number(node)?.to_string().into_bytes();
            if size != 0 && text.len() > size as usize {
                return Err(io::Error::from_raw_os_error(libc::ERANGE));
            }
            return Ok((text.len(), text));
        }
        let reach = match self.reach(node) {
            Err(error) if is_overtaken(&error) => self.tree.reach_superseded(node).ok_or(error)?,
            other => other?,
        };
        let who = self.credentials(caller);
        // By its path: a descriptor would be asked for nobody's rights.
        if size == 0 {
            let query = || Ok(rustix::fs::getxattr_query(reach.path(), name)?);
            return Ok((self.engine.for_user(&who, query)?, Vec::new()));
        }
        let mut value = vec![0; size as usize];
        let get = || {
            Ok(rustix::fs::getxattr(
                reach.path(),
                name,
                value.as_mut_slice(),
            )?)
        };
        let len = self.engine.for_user(&who, get)?;
        value.truncate(len.min(size as usize));
        Ok((len, value))
    }

    /// The names of the extended attributes, as [`getxattr`](Self::getxattr) gives a value.
    pub fn listxattr(&self, caller: Caller, node: u64, size: u32) -> io::Result<(usize, Vec<u8>)> {
        let reach = self.reach(node)?;
        let mut names = vec![0; rustix::fs::listxattr_query(reach.path())?];
        if !names.is_empty() {
            let len = rustix::fs::listxattr(reach.path(), names.as_mut_slice())?;
            names.truncate(len);
        }
        // xattr(7): the trusted ones are for processes with CAP_SYS_ADMIN only. Those of the mount are
        // not to be copied to other files.
        let open = names.split_inclusive(|byte| *byte == 0);
        names = open
            .filter(|name| caller.uid == 0 || !name.starts_with(b"trusted."))
            .filter(|name| !is_reserved(OsStr::from_bytes(name)))
            .flatten()
            .copied()
            .collect();
        if size != 0 && names.len() > size as usize {
            return Err(io::Error::from_raw_os_error(libc::ERANGE));
        }
        Ok((names.len(), names))
    }

    /// Sets an extended attribute, of the published version and of its drafts.
    pub fn setxattr(
        &self,
        caller: Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let reach = self.reach(node)?;
        self.change_xattr(caller, name, || {
            rustix::fs::setxattr(reach.path(), name, value, flags)
        })?;
        for draft in self.drafts_beside(node) {
            self.change_xattr(caller, name, || {
                rustix::fs::fsetxattr(&draft.file, name, value, XattrFlags::empty())
            })?;
        }
        Ok(())
    }

    /// Removes an extended attribute, of the published version and of its drafts.
    pub fn removexattr(&self, caller: Caller, node: u64, name: &OsStr) -> io::Result<()> {
        let reach = self.reach(node)?;
        self.change_xattr(caller, name, || rustix::fs::removexattr(reach.path(), name))?;
        for draft in self.drafts_beside(node) {
            // It may never have had it.
            let _ = self.change_xattr(caller, name, || rustix::fs::fremovexattr(&draft.file, name));
        }
        Ok(())
    }

    /// Changes the attribute `name` by `change`, as `caller`: his are the blocks that it takes, and an ACL
    /// takes the set-group-id bit of a file away whose group he is not in.
    ///
    /// # Errors
    /// EPERM for an attribute in which the mount itself keeps something.
    fn change_xattr(
        &self,
        caller: Caller,
        name: &OsStr,
        change: impl Fn() -> Result<(), Errno>,
    ) -> io::Result<()> {
        if is_reserved(name) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let who = self.credentials(caller);
        self.engine.for_user(&who, || Ok(change()?))
    }

    /// The handle with number `id`, if it is one of a file.
    pub fn file_handle(&self, id: u64) -> io::Result<Arc<super::handles::Handle>> {
        self.handles
            .get(id)
            .filter(|handle| !matches!(handle.target, Target::Directory(_)))
            .ok_or_else(stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_that_fuser_was_sent_on_both_sides_of_1970() {
        let of = |time| {
            let spec = since_epoch(time);
            (spec.tv_sec, spec.tv_nsec)
        };
        assert_eq!(of(UNIX_EPOCH + Duration::new(5, 7)), (5, 7));
        assert_eq!(of(UNIX_EPOCH - Duration::new(5, 0)), (-5, 0));
        assert_eq!(of(UNIX_EPOCH - Duration::new(5, 1)), (-5, 1));
    }
}
