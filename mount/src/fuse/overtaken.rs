//! Opens that were overtaken. The kernel looks a name up, asks for its node to be opened, and looks once
//! more if it is told ESTALE; where the file that it found has lost its name both times, to a rename or an
//! unlink, the program would be told. A plain directory has no such moment: what is opened here is what it
//! would have opened at one of those that have passed, around the cache of the node where it is not that.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::FopenFlags;
use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{OFlags, Statx};

use super::attr;
use super::errno::stale;
use super::fs::Fs;
use super::nodes::ROOT;
use super::opening::{Opened, access, passed_on};
use super::redirect::Promised;
use crate::engine::draft::Draft;
use crate::engine::opening::{New, Plan};
use crate::engine::process::Caller;
use crate::engine::slot::Place;

/// The permission bits of a file that nobody will ever find. The kernel takes them for those of the node,
/// if others are about to open that as well.
const NOBODYS: u32 = 0o666;

/// How long the publish of a draft that is closing may take on a crowded machine before an open that makes
/// the file, if it is missing, is told that there is none.
const LONGEST_CLOSING: Duration = Duration::from_secs(1);

/// Whether an open failed because its file was not where the kernel had found it.
pub fn is_overtaken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle
    )
}

impl Fs {
    /// Notes that the kernel is told by `error` that a file is not where it was: it looks again, and may have
    /// asked because it is about to open it.
    pub fn note_overtaken(&self, caller: Caller, error: Option<&io::Error>) {
        if error.is_some_and(is_overtaken) {
            self.second_looks.asked_to_know(caller.tid);
        }
    }

    /// How long an open waits for the publish of `draft`, which it was shown because it is closing. Who makes
    /// what is missing would not be told that there is nothing: he waits longer, once it has come to that.
    pub fn patience_with(&self, caller: Caller, draft: &Draft<SystemDisk>, flags: i32) -> Duration {
        let wanted = access(OFlags::from_bits_retain(flags as u32));
        let makes = wanted.truncate || wanted.append;
        match makes && self.second_looks.asked_before(caller.tid) {
            true => draft.closing_for().max(LONGEST_CLOSING),
            false => draft.closing_for(),
        }
    }

    /// Opens what `node` was, or what stands under its name now.
    ///
    /// # Errors
    /// `NotFound` where there is neither, and the old content is wanted.
    pub fn open_overtaken(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> io::Result<Opened> {
        // A new file whose publish takes long is not there yet.
        if self.waits_for_publish(caller, node).is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let wanted = access(flags);
        let reads = wanted.read_only && !wanted.truncate;
        if reads && let Some(opened) = self.reopen_superseded(caller, node, flags) {
            return opened;
        }
        // What others have open as this node is its content and its length: two files would be mixed there. And
        // if the kernel did not look again, /proc/self/fd/N is the file that it was, whatever has its name.
        if (reads || !self.second_looks.has_looked(caller.tid))
            && let Some(opened) = self.reopen_pinned(caller, node, flags)
        {
            return opened;
        }
        let place = self.tree.last_place_of(node)?;
        match self.open_present(caller, node, &place, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open_removed(caller, node, &place, flags)
            }
            other => other,
        }
    }

    /// Opens what stands at `place` as what it is to be opened as.
    fn open_present(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        place: &Place<SystemDisk>,
        flags: OFlags,
    ) -> io::Result<Opened> {
        let wanted = access(flags);
        match self.promises.see(caller.tid, &place.slot) {
            Some(Promised::Draft(draft)) => {
                return self.open_draft(caller, node, &draft, flags, true);
            }
            Some(Promised::Edit(edit)) => {
                return self.open_edit(caller, node, &edit, flags, true);
            }
            None => {}
        }
        let (file, stat) = self.open_as(caller, place, flags)?;
        let plan = if wanted.read_only && !wanted.truncate {
            Plan::InPlace
        } else {
            self.plan_open(caller, node, place, &stat, wanted)?
        };
        match plan {
            Plan::Draft(draft) => self.open_draft(caller, node, &draft, flags, true),
            Plan::Edit(edit) => self.open_edit(caller, node, &edit, flags, true),
            Plan::InPlace => {
                let who = self.credentials(caller);
                self.cut_if_asked(&who, &file, flags)?;
                Ok(self.around_the_cache(caller, node, file, flags))
            }
        }
    }

    /// The handle of a file that is not the one that `node` is.
    pub fn around_the_cache(&self, caller: Caller, node: u64, file: File, flags: OFlags) -> Opened {
        let mut opened = self.version_handle(caller, node, file, flags);
        opened.flags = FopenFlags::FOPEN_DIRECT_IO;
        opened
    }

    /// Opens what stood at `place` until somebody removed it, as if that had come right after this open:
    /// nobody else will see what is written.
    fn open_removed(
        &self,
        caller: Caller,
        node: u64,
        place: &Place<SystemDisk>,
        flags: OFlags,
    ) -> io::Result<Opened> {
        if let Some(opened) = self.reopen_pinned(caller, node, flags) {
            return opened;
        }
        let wanted = access(flags);
        if !wanted.truncate
            && let Some(opened) = self.reopen_superseded(caller, node, flags)
        {
            return opened;
        }
        // Who reads and does not make the file is told, as anywhere; who makes it (O_CREAT, of which this
        // request does not tell) in all likelihood truncates, or appends.
        let reads = wanted.read || wanted.read_only;
        if reads && !wanted.truncate && !wanted.append {
            return Err(io::ErrorKind::NotFound.into());
        }
        let parent = self.tree.nodes().get(node).map_or(ROOT, |node| node.parent);
        let path = self.tree.path(parent, place.name());
        let new = New {
            path: &path,
            dir: attr::stat(&attr::of_file(&*place.dir)?),
            mode: NOBODYS,
        };
        let file = self.engine.make_nameless(caller, place, &new)?;
        Ok(self.around_the_cache(caller, node, file, flags))
    }

    /// Opens the published file at `place` as `caller` and as `flags` say: the kernel was not asked whether he
    /// may. It is neither made nor cut. What is known of it is told, too.
    ///
    /// # Errors
    /// Those of opening it; ESTALE where it is not a file.
    pub fn open_as(
        &self,
        caller: Caller,
        place: &Place<SystemDisk>,
        flags: OFlags,
    ) -> io::Result<(File, Statx)> {
        let who = self.credentials(caller);
        self.open_at(&who, &place.dir, place.name(), passed_on(flags))
    }

    /// Whether `caller` may open the file at `place` with CREATE, for which the kernel checks nothing.
    ///
    /// # Errors
    /// Those of opening it; ESTALE where OPEN has to decide.
    pub fn check_create(
        &self,
        caller: Caller,
        place: &Place<SystemDisk>,
        stat: &Statx,
        flags: OFlags,
    ) -> io::Result<()> {
        if attr::kind(stat) != Kind::File {
            return Err(stale());
        }
        if is_free_to_open(caller, stat) {
            return Ok(());
        }
        // In a sticky directory O_CREAT of another's file may be forbidden (fs.protected_regular).
        let dir = attr::of_file(&*place.dir)?;
        if u32::from(dir.stx_mode) & libc::S_ISVTX != 0 && stat.stx_uid != caller.uid {
            return Err(stale());
        }
        let (_, opened) = self.open_as(caller, place, flags)?;
        // What is planned now is planned for the file that `stat` tells of.
        match attr::id(&opened) == attr::id(stat) {
            true => Ok(()),
            false => Err(stale()),
        }
    }
}

/// Whether `caller` may certainly open a file of which the kernel has checked nothing.
fn is_free_to_open(caller: Caller, stat: &Statx) -> bool {
    caller.uid == 0 || (stat.stx_uid == caller.uid && stat.stx_mode & 0o600 == 0o600)
}
