//! Locks, as programs take them through their handles, without waiting.

use std::io;
use std::sync::{Arc, Mutex};

use polystore_mount::engine::draft::Phase;
use polystore_mount::engine::locks::{Class, Kind, Refused, Request, Terms};
use polystore_mount::engine::process::Processes;

use super::handles::{Handle, Target};
use super::{SharedDraft, World};
use crate::processes::Pid;

/// A range that is the whole file.
pub const WHOLE: (u64, u64) = (0, i64::MAX as u64);

impl World {
    /// `pid` locks a range of the published file `path` through its handle number `handle`.
    pub fn lock_range(&self, pid: Pid, handle: u64, path: &str) {
        let place = self.place(path).expect("a directory");
        let file = self.existing(path, &place).stat.id;
        let process = self.tree.process_of(pid);
        self.engine
            .note_locked_in_place(handle, file, place.slot.dir, process);
    }

    /// `pid` locks or unlocks, and what that does to the file happens, too. `WouldBlock` where
    /// somebody else holds it.
    pub fn try_lock(
        &self,
        pid: Pid,
        handle: &Handle,
        class: Class,
        (start, end): (u64, u64),
        kind: Kind,
    ) -> io::Result<()> {
        let request = Request {
            class,
            owner: match class {
                Class::Flock | Class::Turn => handle.id,
                Class::Posix => pid.into(),
            },
            start,
            end,
            kind,
            pid,
            tid: pid,
            uid: 0,
            handle: handle.id,
            terms: Terms::default(),
        };
        if kind == Kind::Unlock {
            self.publish_at_unlock(handle)?;
            return self.ask(handle, request);
        }
        self.ask(handle, request)?;
        let whole = (start, end) == WHOLE;
        if let Some(draft) = handle.fresh_draft()
            && let Err(error) = self.engine.publish_for_lock(&draft)
            && !(whole && error.kind() == io::ErrorKind::AlreadyExists)
        {
            let kind = Kind::Unlock;
            self.ask(handle, Request { kind, ..request })?;
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => io::ErrorKind::WouldBlock.into(),
                _ => error,
            });
        }
        if whole || handle.read_only {
            return Ok(());
        }
        self.range_locked(handle)
    }

    fn ask(&self, handle: &Handle, request: Request) -> io::Result<()> {
        let answered = Arc::new(Mutex::new(None));
        let answer = answered.clone();
        let take = move |outcome| *answer.lock().expect("not poisoned") = Some(outcome);
        self.locks
            .set(&handle.table, request, false, Box::new(take));
        let outcome = answered.lock().expect("not poisoned").take();
        match outcome.expect("an answer at once") {
            Ok(()) => Ok(()),
            Err(Refused::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(refused) => Err(io::Error::other(format!("{refused:?}"))),
        }
    }

    /// What was written under a lock can be seen before that is given up.
    fn publish_at_unlock(&self, handle: &Handle) -> io::Result<()> {
        if !self.locks.held_by(&handle.table, handle.id) {
            return Ok(());
        }
        let Some(edit) = handle.edit() else {
            return Ok(());
        };
        match edit.draft() {
            // That is told to the close.
            Some(draft) if draft.poisoned().is_some() => Ok(()),
            _ => self.engine.publish_edit(edit).map(drop),
        }
    }

    fn range_locked(&self, handle: &Handle) -> io::Result<()> {
        let in_place = match &handle.target {
            Target::Reader(_) => false,
            Target::Version(_) => true,
            Target::Draft(writer) => writer.draft.phase() == Phase::Published,
            Target::Edit(editor) => self.engine.range_locked(editor)?,
        };
        if in_place {
            let file = self.content_id(handle)?;
            self.engine
                .note_locked_in_place(handle.id, file, handle.dir, handle.opener);
        }
        Ok(())
    }
}

impl Handle {
    /// The draft of a new name that it has and nobody has written yet.
    fn fresh_draft(&self) -> Option<SharedDraft> {
        let draft = self.draft()?;
        let fresh = self.edit().is_none()
            && draft.new_name
            && !draft.is_written()
            && draft.phase() == Phase::Private;
        fresh.then_some(draft)
    }
}
