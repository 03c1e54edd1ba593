//! FLUSH, FSYNC and RELEASE.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polystore::disk::{Disk, SystemDisk};

use super::errno::stale;
use super::fs::Fs;
use super::handles::{Handle, Target};
use crate::engine::draft::Draft;
use crate::engine::order::Claim;
use crate::engine::process::Caller;

impl Fs {
    /// A descriptor of `handle` is closed. Whether [`seal`](Self::seal) has to come before the answer.
    pub fn flush(&self, caller: Caller, handle: &Handle, lock_owner: u64) -> io::Result<bool> {
        if let Some(table) = self.table_to_close(handle) {
            self.locks.closed(&table, lock_owner);
        }
        let Some(writer) = handle.writer() else {
            return Ok(false);
        };
        let seal = self.engine.closing(writer, caller);
        match writer.draft.poisoned() {
            Some(error) => Err(error),
            None => Ok(seal),
        }
    }

    /// Does before the answer to a close what can fail.
    pub fn seal(&self, handle: &Handle) -> io::Result<()> {
        handle
            .writer()
            .map_or(Ok(()), |writer| self.engine.seal(&writer.draft))
    }

    /// The content of `handle`'s file becomes durable.
    pub fn fsync(&self, handle: &Handle, data_only: bool) -> io::Result<()> {
        let file = handle.file().ok_or_else(stale)?;
        let synced = if data_only {
            file.sync_data()
        } else {
            file.sync_all()
        };
        if let (Err(error), Some(writer)) = (&synced, handle.writer()) {
            writer.draft.poison(error);
        }
        synced
    }

    /// The last descriptor of handle `id` is closed and nothing is mapped any more.
    pub fn release(self: &Arc<Self>, id: u64) {
        let Some(handle) = self.handles.remove(id) else {
            return;
        };
        if let Some(table) = handle.table.get() {
            self.locks.released(table, handle.id);
        }
        if handle.locked_in_place.load(Ordering::Acquire) {
            self.engine.forget_locked_in_place(handle.id);
        }
        match &handle.target {
            Target::Version { file, appending } => {
                if let Some(id) = appending {
                    self.engine.append_closed(*id);
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
                    self.settle_in_turn(draft);
                }
            }
            Target::DraftReader(_) | Target::Directory(_) => {}
        }
    }

    /// Publishes or drops a draft in its turn: whoever asks for its name from now on sees the result.
    pub fn settle_in_turn(self: &Arc<Self>, draft: Arc<Draft<SystemDisk>>) {
        self.queue(Claim::change(draft.place.slot.clone()), move |fs| {
            if !draft.new_name {
                fs.tree
                    .supersede(&draft.place, draft.opener.map(|opener| opener.pid));
            }
            fs.engine.settle(&draft);
        });
    }

    /// Everything that is open is closed as if its process had: the mount ends.
    pub fn close_all(self: &Arc<Self>) {
        for handle in self.handles.take_all() {
            if let Target::Writer(writer) = &handle.target {
                // Its last close may have been heard of while the word of its release was lost with
                // the mount; who has not closed it at all has not finished: that is no version.
                let closed =
                    writer.opener_closed.load(Ordering::Acquire) && !writer.draft.is_dirty();
                if !closed {
                    writer.draft.state().last_killed = true;
                }
                if self.engine.detach(writer) {
                    self.settle_in_turn(writer.draft.clone());
                }
            }
        }
        for draft in self.promises.take_all() {
            self.promise_broken(&draft);
        }
    }

    /// Leaves the data directory as an ordinary one.
    pub fn end_staging(&self) {
        if let Some(session) = &self.engine.session {
            session.end(self.tree.root());
        }
    }

    /// Syncs the names in a directory.
    pub fn fsyncdir(&self, node: u64) -> io::Result<()> {
        self.engine.disk.sync_dir(&*self.tree.dir(node)?)
    }
}
