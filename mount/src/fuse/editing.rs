//! Edits: what the requests of their handles have to wait for, and what the kernel has to forget.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use fuser::FopenFlags;
use polystore::disk::SystemDisk;
use rustix::fs::OFlags;

use super::attr;
use super::errno::stale;
use super::fs::{Entry, Fs, NOT_REMEMBERED};
use super::handles::{Handle, Target};
use super::leases::is_leased;
use super::opening::{Opened, access};
use super::redirect::Promised;
use super::tree::content_stat;
use crate::engine::editing::{Content, Edit, Editor};
use crate::engine::failing::Change;
use crate::engine::opening::Access;
use crate::engine::order::{Claim, Job};
use crate::engine::process::Caller;

type SharedEdit = Arc<Edit<SystemDisk>>;

impl Fs {
    /// What `handle` reads at this moment.
    pub fn content(&self, handle: &Handle) -> io::Result<Content<SystemDisk>> {
        match &handle.target {
            Target::Version { file, .. } => {
                let moved = handle.moved.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Content::Version(moved.as_ref().unwrap_or(file).clone()))
            }
            Target::Writer(writer) => Ok(Content::Draft(writer.draft.clone())),
            Target::DraftReader(draft) => Ok(Content::Draft(draft.clone())),
            Target::Editor(editor) => Ok(self.engine.edit_content(&editor.edit)),
            Target::EditReader(edit) => Ok(self.engine.edit_content(edit)),
            Target::Directory(_) => Err(stale()),
        }
    }

    /// Where `handle` is to write; of what is there before, `keep` bytes are wanted. The first
    /// write of an edit copies them.
    pub fn content_to_change(&self, handle: &Handle, keep: u64) -> io::Result<Content<SystemDisk>> {
        let Some(editor) = handle.editor() else {
            return self.content(handle);
        };
        let mut tried = None;
        let content = loop {
            match self.begin_write(editor, keep) {
                Err(error) if is_leased(&error) && self.leases.sleep(&mut tried) => {}
                other => break other?,
            }
        };
        if matches!(content, Content::Version(_)) && editor.edit.is_in_place() {
            handle.wrote_in_place.store(true, Ordering::Release);
        }
        Ok(content)
    }

    fn begin_write(
        &self,
        editor: &Editor<SystemDisk>,
        keep: u64,
    ) -> io::Result<Content<SystemDisk>> {
        let copied = match editor.edit.is_ready() {
            true => 0,
            false => content_stat(&self.engine.edit_content(&editor.edit))?.stx_size,
        };
        self.with_room(copied.min(keep), || self.engine.begin_write(editor, keep))
    }

    /// Does in the pool what changes the content of `handle`'s file: of an edit not while its draft
    /// is made, published or dropped.
    pub fn change(self: &Arc<Self>, handle: &Handle, job: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        let Some(edit) = handle.editor().map(|editor| editor.edit.clone()) else {
            return self.aside(job);
        };
        if !edit.is_ready() {
            return self.queue(Claim::alone(edit.id), job);
        }
        self.queue(Claim::beside(edit.id), move |fs| {
            if edit.is_ready() {
                job(fs)
            } else {
                fs.queue(Claim::alone(edit.id), job)
            }
        });
    }

    /// Does in the pool, in its turn, what publishes or drops what is written in `edit`.
    pub fn settling(
        self: &Arc<Self>,
        edit: SharedEdit,
        job: impl FnOnce(&Arc<Fs>, &SharedEdit) + Send + 'static,
    ) {
        let slot = edit.place().slot;
        let claim = Claim::change(slot.clone()).and(Claim::alone(edit.id));
        self.queue(claim, move |fs| {
            if edit.place().slot == slot {
                job(fs, &edit);
            } else {
                fs.settling(edit, job); // Its file was renamed meanwhile.
            }
        });
    }

    /// Tells the kernel of an edit.
    pub fn edit_entry(&self, parent: u64, name: &OsStr, edit: &SharedEdit) -> io::Result<Entry> {
        let stat = content_stat(&self.engine.edit_content(edit))?;
        let node = self.tree.nodes().remember_edit(parent, name, edit);
        Ok(Entry {
            attr: attr::to_kernel(&stat, node),
            attr_ttl: NOT_REMEMBERED,
            entry_ttl: NOT_REMEMBERED,
        })
    }

    /// Opens an edit for reading.
    ///
    /// # Errors
    /// He may not.
    pub fn edit_reader(&self, caller: Caller, node: u64, edit: &SharedEdit) -> io::Result<Opened> {
        let who = self.credentials(caller);
        self.engine.note_reader(edit, &who);
        self.judge(&who, self.engine.edit_content(edit).file(), OFlags::RDONLY)?;
        let target = Target::EditReader(edit.clone());
        let handle = self.add_handle(caller, node, target, OFlags::RDONLY);
        let flags = match edit.draft().is_some() {
            true => FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        };
        Ok(Opened {
            handle: handle.id,
            flags,
        })
    }

    /// Opens an edit for writing. `direct` where the kernel has to be kept from caching its
    /// content under the node of the published file.
    pub fn open_edit(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        edit: &SharedEdit,
        flags: OFlags,
        direct: bool,
    ) -> io::Result<Opened> {
        let promised = self.keep_promise(caller, &Promised::Edit(edit.clone()));
        let editor = self
            .engine
            .attach_edit(edit, caller, access(flags), promised);
        // From here on it shows nothing that he may not open; what it shows already is judged now.
        let who = self.credentials(caller);
        let content = self.engine.edit_content(edit);
        if let Err(error) = self.judge(&who, content.file(), flags) {
            if self.engine.detach_edit(&editor) {
                self.settle_edit_in_turn(edit.clone(), None);
            }
            return Err(error);
        }
        let handle = self.add_handle(caller, node, Target::Editor(editor), flags);
        if access(flags).truncate
            && let Err(error) = self.truncate(caller, &handle, 0)
        {
            self.release(handle.id);
            return Err(error);
        }
        // What the kernel has of an edit that is not written may be of a version that is no more.
        let flags = match (direct, edit.draft().is_some()) {
            (true, _) => FopenFlags::FOPEN_DIRECT_IO,
            (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
            (false, false) => FopenFlags::empty(),
        };
        Ok(Opened {
            handle: handle.id,
            flags,
        })
    }

    /// Publishes or drops what nobody who wrote it has open any more, in its turn; `then` is
    /// done after that.
    pub fn settle_edit_in_turn(self: &Arc<Self>, edit: SharedEdit, then: Option<Job>) {
        self.settling(edit, move |fs, edit| {
            fs.settle_edit(edit);
            if let Some(then) = then {
                then();
            }
        });
    }

    fn settle_edit(&self, edit: &SharedEdit) {
        self.supersede_for(edit);
        if self.engine.settle_edit(edit) {
            self.forget_content_of(edit);
        }
    }

    /// Keeps for a moment what the draft of `edit` is about to replace.
    fn supersede_for(&self, edit: &SharedEdit) {
        if let Some(draft) = edit.draft() {
            let opener = draft.opener.map(|opener| opener.pid);
            self.tree.supersede(&edit.place(), opener);
        }
    }

    /// Has the kernel forget what it has of an edit's content.
    pub fn forget_content_of(&self, edit: &Edit<SystemDisk>) {
        let node = self.tree.nodes().of_edit(edit);
        if let Some(node) = node {
            self.notices.invalidate(node);
        }
    }

    /// What was written in place through the node of an edit is to be seen by those who have the
    /// file open as itself; `then` is done after that.
    pub fn show_in_place(&self, edit: &Edit<SystemDisk>, then: Job) {
        let node = self.tree.nodes().of(edit.version());
        let Some(node) = node else { return then() };
        if let Ok(stat) = content_stat(&self.engine.edit_content(edit)) {
            self.tree.nodes().content_changed(node, None, &stat);
        }
        self.notices.invalidate_attributes_then(node, then);
    }

    /// A lock that `editor` holds is about to be given up, or was: what is written so far is
    /// published first, so that whoever locks next finds it.
    pub fn publish_at_unlock(&self, edit: &SharedEdit) -> io::Result<()> {
        self.supersede_for(edit);
        self.engine.publish_edit(edit).map(drop)
    }

    /// Cuts or extends a file by its path: an edit in one step.
    pub fn edit_len(
        self: &Arc<Self>,
        caller: Caller,
        edit: &SharedEdit,
        len: u64,
    ) -> io::Result<()> {
        // Others decide what becomes of what they have written.
        let cut = self.engine.cut_written(edit, len);
        if !matches!(cut, Ok(false)) {
            self.promise_broken(&Promised::Edit(edit.clone()));
            return cut.map(drop);
        }
        let editor = self
            .engine
            .attach_edit(edit, caller, Access::default(), true);
        let done = self.cut(&editor, caller, len);
        if done.is_err() {
            // What could not be done changes nothing, and its caller is told.
            if let Some(draft) = edit.draft() {
                draft.tell();
            }
            self.engine.interrupt_edit(&editor);
        }
        if self.engine.detach_edit(&editor) {
            self.settle_edit(edit);
        }
        done
    }

    fn cut(&self, editor: &Editor<SystemDisk>, caller: Caller, len: u64) -> io::Result<()> {
        let content = self.begin_write(editor, len)?;
        let who = self.credentials(caller);
        let cut = || self.set_file_len(&who, content.file(), len);
        match &content {
            Content::Draft(draft) => {
                self.engine.change(draft, (Change::Cut, len), cut)?;
                self.engine.seal(draft, &editor.edit.place())
            }
            Content::Version(_) => cut(),
        }
    }
}
