//! FLUSH, FSYNC and RELEASE.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polystore::disk::{Disk, SystemDisk};

use super::attr;
use super::fs::Fs;
use super::handles::{Counted, Handle, Target};
use super::turns::Turn;
use crate::engine::draft::Draft;
use crate::engine::editing::Edit;
use crate::engine::locks::Table;
use crate::engine::order::{Claim, Job};
use crate::engine::process::Caller;
use crate::pool::working_for;

impl Fs {
    /// A descriptor of `handle` is closed; `answer` is given the result when what can fail has been done.
    pub fn flush(
        self: &Arc<Self>,
        caller: Caller,
        handle: Arc<Handle>,
        lock_owner: u64,
        answer: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let table = self.table_to_close(&handle);
        if let Some(editor) = handle.editor() {
            return self.flush_edit(
                caller,
                handle.clone(),
                &editor.edit,
                (table, lock_owner),
                answer,
            );
        }
        if let Some(table) = table {
            self.locks.closed(&table, lock_owner);
        }
        match self.closing(caller, &handle) {
            Ok(true) => self.aside(move |fs| answer(fs.seal(&handle))),
            Ok(false) => answer(Ok(())),
            Err(error) => answer(Err(error)),
        }
    }

    /// The same for a handle of an edit: what was written under a lock is published before the
    /// lock is given up.
    fn flush_edit(
        self: &Arc<Self>,
        caller: Caller,
        handle: Arc<Handle>,
        edit: &Arc<Edit<SystemDisk>>,
        (table, owner): (Option<Arc<Table>>, u64),
        answer: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let table = table.filter(|table| self.locks.holds(table, owner));
        let unlocks = table.is_some();
        let unlock = {
            let fs = self.clone();
            move || {
                if let Some(table) = table {
                    fs.locks.closed(&table, owner);
                }
            }
        };
        let seal = match self.closing(caller, &handle) {
            Ok(seal) => seal,
            Err(error) => {
                unlock();
                return answer(Err(error));
            }
        };
        if unlocks && edit.draft().is_some() {
            return self.settling(edit.clone(), move |fs, edit| {
                let published = fs.seal(&handle).and_then(|()| fs.publish_at_unlock(edit));
                unlock();
                answer(published);
            });
        }
        if handle.wrote_in_place.load(Ordering::Acquire) {
            let done: Job = Box::new(move || {
                unlock();
                answer(Ok(()));
            });
            return self.show_in_place(edit, done);
        }
        unlock();
        if seal {
            self.aside(move |fs| answer(fs.seal(&handle)));
        } else {
            answer(Ok(()));
        }
    }

    /// Whether [`seal`](Self::seal) has to come before the answer to a close.
    fn closing(&self, caller: Caller, handle: &Handle) -> io::Result<bool> {
        if let Some(editor) = handle.editor() {
            let seal = self.engine.closing_edit(editor, caller);
            return match editor.written().and_then(|draft| draft.tell()) {
                Some(error) => Err(error),
                None => Ok(seal),
            };
        }
        let Some(writer) = handle.writer() else {
            return Ok(false);
        };
        let seal = self.engine.closing(writer, caller);
        match writer.draft.tell() {
            Some(error) => Err(error),
            None => Ok(seal),
        }
    }

    /// Does before the answer to a close what can fail.
    pub fn seal(&self, handle: &Handle) -> io::Result<()> {
        let draft = match (handle.writer(), handle.editor()) {
            (Some(writer), _) => Some((writer.draft.clone(), writer.draft.place.clone())),
            (None, Some(editor)) => editor
                .edit
                .draft()
                .map(|draft| (draft, editor.edit.place())),
            (None, None) => None,
        };
        draft.map_or(Ok(()), |(draft, place)| {
            self.keep_ctime(&draft, || self.engine.seal(&draft, &place))
        })
    }

    /// Does to `draft` what moves its ctime, which is not shown.
    fn keep_ctime<T>(&self, draft: &Draft<SystemDisk>, work: impl FnOnce() -> T) -> T {
        let ctime = || {
            attr::of_file(&draft.file)
                .ok()
                .map(|stat| attr::ctime(&stat))
        };
        let before = ctime();
        let done = work();
        if let (Some(before), Some(after)) = (before, ctime()) {
            let mut nodes = self.tree.nodes();
            nodes.ctime_moved(draft.file_id, before, after);
        }
        done
    }

    /// The content of `handle`'s file becomes durable.
    pub fn fsync(&self, handle: &Handle, data_only: bool) -> io::Result<()> {
        let content = self.content(handle)?;
        // The system tells a lost write once.
        if let Some(error) = content.draft().and_then(|draft| draft.poisoned()) {
            return Err(error);
        }
        let synced = if data_only {
            content.file().sync_data()
        } else {
            content.file().sync_all()
        };
        if let (Err(error), Some(draft)) = (&synced, content.draft()) {
            self.engine.lose(draft, error);
        }
        synced
    }

    /// The last descriptor of handle `id` is closed and nothing is mapped any more.
    pub fn release(self: &Arc<Self>, id: u64) {
        let Some(handle) = self.handles.remove(id) else {
            return;
        };
        if handle.locked_in_place.load(Ordering::Acquire) {
            self.engine.forget_locked_in_place(handle.id);
        }
        let turn = handle.take_turn();
        if let Target::Editor(editor) = &handle.target {
            let edit = editor.edit.clone();
            return self.release_edit(handle, &edit, turn);
        }
        if let Some(table) = handle.table.get() {
            self.locks.released(table, handle.id);
        }
        match &handle.target {
            Target::Version { file, counted } => {
                match counted {
                    Some(Counted::Append(id)) => self.engine.append_closed(*id),
                    Some(Counted::Write(id)) => self.engine.in_place_closed(*id),
                    None => {}
                }
                let pin = self.tree.unpinned(handle.node);
                let unnamed = rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink == 0);
                if unnamed {
                    // Closing the last descriptor of a deleted file frees its blocks, which takes its time.
                    self.aside(move |_| drop((handle, pin)));
                }
            }
            Target::Writer(writer) => {
                let draft = writer.draft.clone();
                if self.engine.detach(writer) {
                    drop(handle);
                    self.settle_in_turn(draft, turn);
                }
            }
            // It may be the last that has a discarded draft: to free its blocks takes its time.
            Target::DraftReader(_) | Target::EditReader(_) => self.aside(move |_| drop(handle)),
            Target::Editor(_) | Target::Directory(_) => {}
        }
    }

    /// The same for a handle of an edit. Its locks are given up after what was written under them is
    /// published.
    fn release_edit(
        self: &Arc<Self>,
        handle: Arc<Handle>,
        edit: &Arc<Edit<SystemDisk>>,
        turn: Option<Turn>,
    ) {
        let Some(editor) = handle.editor() else {
            return;
        };
        let table = handle.table.get().cloned();
        let locked = table
            .as_ref()
            .is_some_and(|table| self.locks.held_by(table, handle.id));
        let unlock = {
            let (fs, id) = (self.clone(), handle.id);
            move || {
                if let Some(table) = table {
                    fs.locks.released(&table, id);
                }
                drop(turn);
            }
        };
        let (publish, user) = (locked && editor.written().is_some(), handle.user.uid);
        let settle = self.engine.detach_edit(editor);
        if publish && !settle {
            return self.settling(edit.clone(), move |fs, edit| {
                if let Err(error) = fs.publish_at_unlock(edit) {
                    fs.engine.ledger.note(
                        &edit.path,
                        user,
                        format_args!("cannot be published: {error}"),
                    );
                }
                unlock();
            });
        }
        if settle {
            self.settle_edit_in_turn(edit.clone(), Some(Box::new(unlock)));
        } else {
            unlock();
        }
    }

    /// Publishes or drops a draft in its turn: whoever asks for its name from now on sees the result.
    /// The `turn` that it was written in ends after that.
    pub fn settle_in_turn(self: &Arc<Self>, draft: Arc<Draft<SystemDisk>>, turn: Option<Turn>) {
        let _working = working_for(draft.who.uid);
        self.queue(Claim::change(draft.place.slot.clone()), move |fs| {
            if !draft.new_name {
                fs.tree
                    .supersede(&draft.place, draft.opener.map(|opener| opener.pid));
            }
            fs.keep_ctime(&draft, || fs.engine.settle(&draft));
            if let Some(edit) = fs.engine.edit_at(&draft.place.slot) {
                fs.forget_content_of(&edit); // It may show what was just published.
            }
            drop(turn);
        });
    }

    /// Everything that is open is closed as if its process had: the mount ends.
    pub fn close_all(self: &Arc<Self>) {
        for handle in self.handles.take_all() {
            if let Target::Editor(editor) = &handle.target {
                let closed = editor.opener_closed.load(Ordering::Acquire)
                    && editor.written().is_some_and(|draft| !draft.is_dirty());
                if !closed {
                    self.engine.interrupt_edit(editor);
                }
                if self.engine.detach_edit(editor) {
                    self.settle_edit_in_turn(editor.edit.clone(), None);
                }
            }
            if let Target::Writer(writer) = &handle.target {
                // Its last close may have been heard of while the word of its release was lost with
                // the mount; who has not closed it at all has not finished: that is no version.
                let closed =
                    writer.opener_closed.load(Ordering::Acquire) && !writer.draft.is_dirty();
                if !closed {
                    writer.draft.state().last_killed = true;
                }
                if self.engine.detach(writer) {
                    self.settle_in_turn(writer.draft.clone(), handle.take_turn());
                }
            }
        }
        for promised in self.promises.take_all() {
            self.promise_broken(&promised);
        }
    }

    /// Leaves the data directory as an ordinary one.
    pub fn end_staging(&self) {
        if let Some(salvage) = &self.engine.salvage {
            salvage.purge_if_due();
        }
        if let Some(session) = &self.engine.session {
            session.end(self.tree.root());
        }
    }

    /// Syncs the names in a directory.
    pub fn fsyncdir(&self, node: u64) -> io::Result<()> {
        self.engine.disk.sync_dir(&*self.tree.dir(node)?)
    }
}
