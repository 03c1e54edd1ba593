//! Open file descriptions: open, read, write, close.

use std::io;
use std::path::Path;
use std::sync::Arc;

use polystore::disk::{Disk, FileId, Stat};
use polystore_mount::engine::draft::{Phase, Writer};
use polystore_mount::engine::editing::{Content, Edit, Editor};
use polystore_mount::engine::failing::Change;
use polystore_mount::engine::locks::Table;
use polystore_mount::engine::opening::{Access, Existing, New, Plan};
use polystore_mount::engine::process::{Process, Processes};
use polystore_mount::engine::slot::{Place, SlotKey};
use polystore_mount::engine::visibility::View;

use super::contents::{content, write_all};
use super::{SharedDraft, World};
use crate::processes::Pid;
use crate::sim_disk::{SimDisk, SimFile};

/// An open file description. Forks share it.
pub struct Handle {
    pub(super) id: u64,
    pub(super) target: Target,
    pub(super) opener: Option<Process>,
    /// The locks that it takes part in, and the directory that it was opened in.
    pub(super) table: Arc<Table>,
    pub(super) dir: FileId,
    pub(super) read_only: bool,
    appends: bool,
}

pub(super) enum Target {
    Reader(Content<SimDisk>),
    Draft(Writer<SimDisk>),
    Edit(Editor<SimDisk>),
    Version(Arc<SimFile>),
}

/// The key of the locks of a file that has several names.
pub(super) fn file_as_slot(file: FileId) -> SlotKey {
    SlotKey {
        dir: file,
        name: "".into(),
    }
}

impl World {
    /// Opens `path`, making it where it is missing.
    pub fn try_open(&self, pid: Pid, path: &str, how: Access) -> io::Result<Handle> {
        let place = self.place(path)?;
        if how.read_only {
            return self.open_to_read(pid, path, &place, how);
        }
        if let View::Draft(draft) = self.view(pid, &place) {
            if how.exclusive {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            return self.attach(pid, &draft, how, false);
        }
        if self.disk.stat(&place.dir, place.name())?.is_none() {
            return self.create(pid, path, &place, how);
        }
        if how.exclusive {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let existing = self.try_existing(path, &place)?;
        match self
            .engine
            .plan_existing(self.tree.caller(pid), &place, &existing, how)?
        {
            Plan::Draft(draft) => {
                self.engine.promise(&draft);
                self.attach(pid, &draft, how, true)
            }
            Plan::Edit(edit) => {
                self.engine.promise_edit(&edit);
                self.attach_edit(pid, &edit, how, true)
            }
            Plan::InPlace => {
                let file = self.disk.open(&place.dir, place.name(), true)?;
                if how.truncate {
                    self.disk.set_len(&file, 0)?;
                }
                self.version(pid, &place, file, how)
            }
        }
    }

    fn open_to_read(
        &self,
        pid: Pid,
        path: &str,
        place: &Place<SimDisk>,
        how: Access,
    ) -> io::Result<Handle> {
        let content = match self.view(pid, place) {
            View::Draft(draft) => {
                let slot = draft.place.slot.clone();
                let target = Target::Reader(Content::Draft(draft));
                return Ok(self.handle(pid, slot.dir, &slot, target, how));
            }
            View::Edit(edit) => self.engine.edit_content(&edit),
            View::Published { .. } => match self.disk.open(&place.dir, place.name(), false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return self.create(pid, path, place, how);
                }
                file => Content::Version(Arc::new(file?)),
            },
        };
        let slot = self.lock_key(place, self.disk.stat_file(content.file())?);
        let target = Target::Reader(content);
        Ok(self.handle(pid, place.slot.dir, &slot, target, how))
    }

    fn create(
        &self,
        pid: Pid,
        path: &str,
        place: &Place<SimDisk>,
        how: Access,
    ) -> io::Result<Handle> {
        let new = New {
            path: Path::new(path),
            dir: self.disk.stat_dir(&place.dir)?,
            mode: 0o644,
        };
        match self
            .engine
            .plan_new(self.tree.caller(pid), place, &new, how)?
        {
            Some(draft) => self.attach(pid, &draft, how, false),
            None => {
                let file = self.disk.create_new(&place.dir, place.name(), new.mode)?;
                self.version(pid, place, file, how)
            }
        }
    }

    /// The published file itself is open.
    fn version(
        &self,
        pid: Pid,
        place: &Place<SimDisk>,
        file: SimFile,
        how: Access,
    ) -> io::Result<Handle> {
        let stat = self.disk.stat_file(&file)?;
        let slot = self.lock_key(place, stat);
        let file = Arc::new(file);
        if how.read_only {
            let target = Target::Reader(Content::Version(file));
            return Ok(self.handle(pid, place.slot.dir, &slot, target, how));
        }
        if how.append {
            self.engine.append_opened(stat.id);
        } else {
            self.engine.in_place_opened(stat.id, 1);
        }
        let target = Target::Version(file);
        Ok(self.handle(pid, place.slot.dir, &slot, target, how))
    }

    /// A file with several names is its own slot.
    fn lock_key(&self, place: &Place<SimDisk>, stat: Stat) -> SlotKey {
        if stat.links <= 1 {
            return place.slot.clone();
        }
        file_as_slot(stat.id)
    }

    fn handle(&self, pid: Pid, dir: FileId, slot: &SlotKey, target: Target, how: Access) -> Handle {
        Handle {
            id: self.next_handle(),
            target,
            opener: self.tree.process_of(pid),
            dir,
            table: self.locks.table(slot),
            read_only: how.read_only,
            appends: how.append,
        }
    }

    /// The draft that an open of the existing file `path` by `pid` is to come back for.
    pub fn promised(&self, pid: Pid, path: &str, how: Access) -> SharedDraft {
        let place = self.place(path).expect("a directory");
        let existing = self.existing(path, &place);
        let caller = self.tree.caller(pid);
        match self.engine.plan_existing(caller, &place, &existing, how) {
            Ok(Plan::Draft(draft)) => {
                self.engine.promise(&draft);
                draft
            }
            Ok(Plan::InPlace) => panic!("{path} would be written in place"),
            Ok(Plan::Edit(_)) => panic!("{path} would be edited"),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub fn existing<'a>(&self, path: &'a str, place: &Place<SimDisk>) -> Existing<'a> {
        self.try_existing(path, place).expect("a healthy disk")
    }

    fn try_existing<'a>(&self, path: &'a str, place: &Place<SimDisk>) -> io::Result<Existing<'a>> {
        let stat = self.disk.stat(&place.dir, place.name())?;
        Ok(Existing {
            path: Path::new(path),
            stat: stat.ok_or(io::ErrorKind::NotFound)?,
            dir: self.disk.stat_dir(&place.dir)?,
            flagged: false,
        })
    }

    /// Opens a draft that was found or promised.
    pub fn attach(
        &self,
        pid: Pid,
        draft: &SharedDraft,
        how: Access,
        promised: bool,
    ) -> io::Result<Handle> {
        let writer = self.engine.attach(draft, self.tree.caller(pid), promised);
        if how.truncate
            && draft.is_written()
            && let Err(error) = self.engine.cut(draft, 0)
        {
            if self.engine.detach(&writer) {
                self.engine.settle(draft);
            }
            return Err(error);
        }
        let slot = draft.place.slot.clone();
        let target = Target::Draft(writer);
        Ok(self.handle(pid, slot.dir, &slot, target, how))
    }

    /// Takes part in an edit that was found or promised.
    pub fn attach_edit(
        &self,
        pid: Pid,
        edit: &Arc<Edit<SimDisk>>,
        how: Access,
        promised: bool,
    ) -> io::Result<Handle> {
        let editor = self
            .engine
            .attach_edit(edit, self.tree.caller(pid), how, promised);
        let slot = edit.place().slot;
        let target = Target::Edit(editor);
        let handle = self.handle(pid, slot.dir, &slot, target, how);
        if how.truncate
            && let Err(error) = self.try_set_len(&handle, 0)
        {
            self.release(handle);
            return Err(error);
        }
        Ok(handle)
    }

    pub fn open(&self, pid: Pid, path: &str, how: Access) -> Handle {
        self.try_open(pid, path, how)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes behind what is there.
    pub fn try_write(&self, handle: &Handle, data: &[u8]) -> io::Result<()> {
        let bytes = data.len() as u64;
        self.try_change(handle, (Change::Write, bytes), |file| {
            let offset = self.disk.stat_file(file)?.len;
            write_all(&self.disk, file, data, offset)
        })
    }

    /// Changes what `handle` has open by `work`, `bytes` behind what is there.
    pub fn try_change(
        &self,
        handle: &Handle,
        (change, bytes): (Change, u64),
        work: impl Fn(&SimFile) -> io::Result<()>,
    ) -> io::Result<()> {
        let content = self.content_to_change(handle, u64::MAX)?;
        let end = self.disk.stat_file(content.file())?.len + bytes;
        let work = || {
            let work = || work(content.file());
            self.engine.with_room(0, || false, work)
        };
        match &content {
            Content::Draft(draft) => self.engine.change(draft, (change, end), work),
            Content::Version(_) => work(),
        }
    }

    /// fsync(2).
    pub fn try_sync(&self, handle: &Handle) -> io::Result<()> {
        let content = self.content(handle);
        let synced = self.disk.sync(content.file());
        if let (Err(error), Some(draft)) = (&synced, content.draft()) {
            self.engine.lose(draft, error);
        }
        synced
    }

    /// ftruncate(2).
    pub fn try_set_len(&self, handle: &Handle, len: u64) -> io::Result<()> {
        let content = self.content_to_change(handle, len)?;
        self.cut(&content, len)
    }

    fn content_to_change(&self, handle: &Handle, keep: u64) -> io::Result<Content<SimDisk>> {
        match &handle.target {
            Target::Edit(editor) => self.engine.begin_write(editor, keep),
            _ => Ok(self.content(handle)),
        }
    }

    /// What `handle` reads at this moment.
    pub fn content(&self, handle: &Handle) -> Content<SimDisk> {
        match &handle.target {
            Target::Reader(content) => content.clone(),
            Target::Draft(writer) => Content::Draft(writer.draft.clone()),
            Target::Edit(editor) => self.engine.edit_content(&editor.edit),
            Target::Version(file) => Content::Version(file.clone()),
        }
    }

    /// The inode that `handle` has before it at this moment.
    pub fn content_id(&self, handle: &Handle) -> io::Result<FileId> {
        let content = self.content(handle);
        Ok(self.disk.stat_file(content.file())?.id)
    }

    /// What stands in the file that `handle` has open.
    pub fn text(&self, handle: &Handle) -> String {
        let text = content(&self.disk, self.content(handle).file());
        String::from_utf8_lossy(&text).into_owned()
    }

    pub fn write(&self, handle: &Handle, data: &str) {
        self.try_write(handle, data.as_bytes())
            .expect("a healthy disk");
    }

    /// A descriptor of `handle` is closed by `pid`: what FLUSH does.
    pub fn flush(&self, pid: Pid, handle: &Handle) -> io::Result<()> {
        self.locks.closed(&handle.table, pid.into());
        let caller = self.tree.caller(pid);
        let (draft, seal) = match &handle.target {
            Target::Reader(_) | Target::Version(_) => return Ok(()),
            Target::Draft(writer) => {
                let seal = self.engine.closing(writer, caller);
                (Some(writer.draft.clone()), seal)
            }
            Target::Edit(editor) => {
                let seal = self.engine.closing_edit(editor, caller);
                (editor.written(), seal)
            }
        };
        let Some(draft) = draft else { return Ok(()) };
        match draft.tell() {
            Some(error) => Err(error),
            None if seal => self.engine.seal(&draft, &draft.place),
            None => Ok(()),
        }
    }

    /// The last descriptor of `handle` has been closed: what RELEASE does.
    pub fn release(&self, handle: Handle) {
        self.locks.released(&handle.table, handle.id);
        self.engine.forget_locked_in_place(handle.id);
        match &handle.target {
            Target::Reader(_) => {}
            Target::Draft(writer) => {
                let draft = writer.draft.clone();
                if self.engine.detach(writer) {
                    drop(handle);
                    self.engine.settle(&draft);
                }
            }
            Target::Edit(editor) => {
                let edit = editor.edit.clone();
                if self.engine.detach_edit(editor) {
                    drop(handle);
                    self.engine.settle_edit(&edit);
                }
            }
            Target::Version(file) => {
                if let Ok(stat) = self.disk.stat_file(file) {
                    if handle.appends {
                        self.engine.append_closed(stat.id);
                    } else {
                        self.engine.in_place_closed(stat.id);
                    }
                }
            }
        }
    }

    pub fn try_close(&self, pid: Pid, handle: Handle) -> io::Result<()> {
        let flushed = self.flush(pid, &handle);
        self.release(handle);
        flushed
    }

    pub fn close(&self, pid: Pid, handle: Handle) {
        self.try_close(pid, handle).expect("closed well");
    }
}

impl Handle {
    /// The draft that is written to, unless it has been published.
    pub fn draft(&self) -> Option<SharedDraft> {
        match &self.target {
            Target::Draft(writer) if writer.draft.phase() != Phase::Published => {
                Some(writer.draft.clone())
            }
            Target::Edit(editor) => editor.edit.draft(),
            _ => None,
        }
    }

    /// The edit that it takes part in.
    pub fn edit(&self) -> Option<&Arc<Edit<SimDisk>>> {
        match &self.target {
            Target::Edit(editor) => Some(&editor.edit),
            _ => None,
        }
    }

    pub fn is_in_place(&self) -> bool {
        match &self.target {
            Target::Edit(editor) => editor.edit.is_in_place(),
            _ => self.draft().is_none(),
        }
    }
}
