//! The engine on a simulated disk, and an adapter that does what programs' system calls do.
//!
//! What the kernel and the adapter do in several requests is done here in one go: a publish
//! follows its close at once. Files are opened by path, as [`Engine::view`] shows them.

mod contents;

use std::io;
use std::path::Path;
use std::sync::Arc;

use polystore::Durability;
use polystore::disk::{Disk, Stat};
use polystore_mount::engine::draft::{CLOSING_WINDOW, Draft, Phase, Writer};
use polystore_mount::engine::editing::{Content, Edit, Editor};
use polystore_mount::engine::opening::{Access, Existing, New, Plan};
use polystore_mount::engine::policy::Direct;
use polystore_mount::engine::process::Processes;
use polystore_mount::engine::salvage::Salvage;
use polystore_mount::engine::slot::{Place, SlotKey};
use polystore_mount::engine::staging::{Session, sweep};
use polystore_mount::engine::visibility::View;
use polystore_mount::engine::{Engine, Settings};

use crate::processes::{Pid, Tree};
use crate::sim_disk::{SimDir, SimDisk, SimFile};

pub use contents::{Salvaged, make_dir, plant, salvaged};
use contents::{content, write_all};

/// `> f`: what is there is not wanted.
pub const REWRITE: Access = access(true, false, false);
/// `>> f`.
pub const APPEND: Access = access(false, true, false);
/// O_RDWR without O_TRUNC.
pub const EDIT: Access = access(false, false, false);
/// O_EXCL.
pub const EXCLUSIVE: Access = access(false, false, true);
/// O_RDONLY, with O_CREAT.
pub const READ: Access = Access {
    read_only: true,
    ..access(false, false, false)
};

const fn access(truncate: bool, append: bool, exclusive: bool) -> Access {
    Access {
        truncate,
        append,
        exclusive,
        read: true,
        read_only: false,
    }
}

/// More than any test drops.
pub const AMPLE: u64 = 1 << 30;

pub type SharedDraft = Arc<Draft<SimDisk>>;

/// A mounted directory and the programs that use it.
pub struct World {
    pub disk: Arc<SimDisk>,
    pub tree: Tree,
    pub engine: Engine<SimDisk, Tree>,
    pub root: SimDir,
}

/// An open file description for writing. Forks share it.
pub struct Handle {
    target: Target,
    appends: bool,
    read_only: bool,
}

enum Target {
    Draft(Writer<SimDisk>),
    Edit(Editor<SimDisk>),
    Version(Arc<SimFile>),
}

/// What a mount is started with.
pub struct Setup {
    pub durability: Durability,
    pub direct: Vec<String>,
    pub uid: u32,
    pub session: &'static str,
    pub limit: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            durability: Durability::Ordered,
            direct: Vec::new(),
            uid: 0,
            session: "one",
            limit: AMPLE,
        }
    }
}

impl World {
    pub fn new() -> World {
        World::on(&SimDisk::new(), Setup::default())
    }

    /// A world whose published files are `files`, of the superuser.
    pub fn with(files: &[(&str, &str)]) -> World {
        let world = World::new();
        for (name, content) in files {
            plant(&world.disk, name, content, 0);
        }
        world
    }

    /// Mounts `disk`, as the mount does it: session, salvage, sweep.
    pub fn on(disk: &SimDisk, setup: Setup) -> World {
        World::try_on(disk, Tree::new(), setup).expect("a healthy disk")
    }

    pub fn try_on(disk: &SimDisk, tree: Tree, setup: Setup) -> io::Result<World> {
        let disk = Arc::new(disk.clone());
        let root = disk.open_dir(Path::new("/"))?;
        let session = Session::start(&disk, &root, setup.session)?;
        let salvage = Salvage::new(&disk, session.own_dir(), setup.limit, session.id());
        sweep(&*disk, session.own_dir(), Some(&salvage))?;
        let settings = Settings {
            durability: setup.durability,
            direct: Direct::new(&setup.direct, true).expect("good patterns"),
            uid: setup.uid,
        };
        let engine = Engine::new(
            disk.clone(),
            tree.clone(),
            settings,
            Some(session),
            Some(salvage),
        );
        Ok(World {
            disk,
            tree,
            engine,
            root,
        })
    }

    /// A clean unmount, when nothing is open.
    pub fn unmount(self) {
        if let Some(session) = &self.engine.session {
            session.end(&self.root);
        }
    }

    pub fn place(&self, path: &str) -> io::Result<Place<SimDisk>> {
        let path = Path::new(path);
        let above = Path::new("/").join(path.parent().unwrap_or(Path::new("")));
        let dir = self.disk.open_dir(&above)?;
        let slot = SlotKey {
            dir: self.disk.stat_dir(&dir)?.id,
            name: path.file_name().expect("a file").to_owned(),
        };
        Ok(Place {
            slot,
            dir: Arc::new(dir),
        })
    }

    /// What a program finds under `place`, after it has waited for a publish that is about to happen.
    pub fn view(&self, pid: Pid, place: &Place<SimDisk>) -> View<SimDisk> {
        let caller = self.tree.caller(pid);
        loop {
            match self.engine.view(caller, &place.slot) {
                View::Draft(draft) if self.engine.must_wait_for(caller, &draft) => {
                    draft.wait_until_settled(CLOSING_WINDOW);
                }
                view => return view,
            }
        }
    }

    /// The draft that `pid` finds under `path`.
    pub fn draft(&self, pid: Pid, path: &str) -> Option<SharedDraft> {
        match self.view(pid, &self.place(path).expect("a directory")) {
            View::Draft(draft) => Some(draft),
            View::Edit(_) | View::Published { .. } => None,
        }
    }

    /// What `pid` reads, `None` if there is no such file for it.
    pub fn read(&self, pid: Pid, path: &str) -> Option<String> {
        let place = self.place(path).expect("a directory");
        let content = match self.view(pid, &place) {
            View::Draft(draft) => content(&self.disk, &draft.file),
            View::Edit(edit) => content(&self.disk, self.engine.edit_content(&edit).file()),
            View::Published { .. } => match self.disk.open(&place.dir, place.name(), false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                file => content(&self.disk, &file.expect("a file")),
            },
        };
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    /// What is published, as strangers see it.
    pub fn published(&self, path: &str) -> Option<String> {
        let content = self.disk.content(path)?;
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    /// Opens `path` for writing, making it where it is missing.
    pub fn try_open(&self, pid: Pid, path: &str, how: Access) -> io::Result<Handle> {
        let place = self.place(path)?;
        if let View::Draft(draft) = self.view(pid, &place) {
            if how.exclusive {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            return self.attach(pid, &draft, how, false);
        }
        let dir = self.disk.stat_dir(&place.dir)?;
        let Some(stat) = self.disk.stat(&place.dir, place.name())? else {
            return self.create(pid, path, &place, dir, how);
        };
        if how.exclusive {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let existing = Existing {
            path: Path::new(path),
            stat,
            dir,
            flagged: false,
        };
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
                self.version(file, how)
            }
        }
    }

    fn create(
        &self,
        pid: Pid,
        path: &str,
        place: &Place<SimDisk>,
        dir: Stat,
        how: Access,
    ) -> io::Result<Handle> {
        let new = New {
            path: Path::new(path),
            dir,
            mode: 0o644,
        };
        match self
            .engine
            .plan_new(self.tree.caller(pid), place, &new, how)?
        {
            Some(draft) => self.attach(pid, &draft, how, false),
            None => {
                let file = self.disk.create_new(&place.dir, place.name(), new.mode)?;
                self.version(file, how)
            }
        }
    }

    fn version(&self, file: SimFile, how: Access) -> io::Result<Handle> {
        let id = self.disk.stat_file(&file)?.id;
        if how.append {
            self.engine.append_opened(id);
        } else if !how.read_only {
            self.engine.in_place_opened(id, 1);
        }
        Ok(Handle {
            target: Target::Version(Arc::new(file)),
            appends: how.append,
            read_only: how.read_only,
        })
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
        let stat = self.disk.stat(&place.dir, place.name());
        Existing {
            path: Path::new(path),
            stat: stat.expect("a healthy disk").expect("an existing file"),
            dir: self.disk.stat_dir(&place.dir).expect("a healthy disk"),
            flagged: false,
        }
    }

    /// `pid` locks a range of the published file `path` through its handle number `handle`.
    pub fn lock_range(&self, pid: Pid, handle: u64, path: &str) {
        let place = self.place(path).expect("a directory");
        let file = self.existing(path, &place).stat.id;
        let process = self.tree.process_of(pid);
        self.engine
            .note_locked_in_place(handle, file, place.slot.dir, process);
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
        if how.truncate && draft.is_written() {
            self.disk.set_len(&draft.file, 0)?;
            draft.note_written(0);
        }
        Ok(Handle {
            target: Target::Draft(writer),
            appends: how.append,
            read_only: how.read_only,
        })
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
        if how.truncate {
            let content = self.engine.begin_write(&editor, 0)?;
            self.disk.set_len(content.file(), 0)?;
            if let Content::Draft(draft) = &content {
                self.engine.wrote(draft, 0);
            }
        }
        Ok(Handle {
            target: Target::Edit(editor),
            appends: how.append,
            read_only: how.read_only,
        })
    }

    pub fn open(&self, pid: Pid, path: &str, how: Access) -> Handle {
        self.try_open(pid, path, how)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes behind what is there.
    pub fn try_write(&self, handle: &Handle, data: &[u8]) -> io::Result<()> {
        let content = match &handle.target {
            Target::Edit(editor) => self.engine.begin_write(editor, u64::MAX)?,
            _ => self.content(handle),
        };
        let offset = self.disk.stat_file(content.file())?.len;
        let done = write_all(&self.disk, content.file(), data, offset);
        if let Content::Draft(draft) = &content {
            let end = offset + data.len() as u64;
            match &done {
                Ok(()) => self.engine.wrote(draft, end),
                Err(error) => {
                    draft.note_written(end);
                    draft.poison(error);
                }
            }
        }
        done
    }

    /// What `handle` reads at this moment.
    pub fn content(&self, handle: &Handle) -> Content<SimDisk> {
        match &handle.target {
            Target::Draft(writer) => Content::Draft(writer.draft.clone()),
            Target::Edit(editor) => self.engine.edit_content(&editor.edit),
            Target::Version(file) => Content::Version(file.clone()),
        }
    }

    pub fn write(&self, handle: &Handle, data: &str) {
        self.try_write(handle, data.as_bytes())
            .expect("a healthy disk");
    }

    /// A descriptor of `handle` is closed by `pid`: what FLUSH does.
    pub fn flush(&self, pid: Pid, handle: &Handle) -> io::Result<()> {
        let caller = self.tree.caller(pid);
        let (draft, seal) = match &handle.target {
            Target::Version(_) => return Ok(()),
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
        match draft.poisoned() {
            Some(error) => Err(error),
            None if seal => self.engine.seal(&draft),
            None => Ok(()),
        }
    }

    /// The last descriptor of `handle` has been closed: what RELEASE does.
    pub fn release(&self, handle: Handle) {
        match &handle.target {
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
                    } else if !handle.read_only {
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

    /// `pid` is killed with a descriptor of each of `shared` open, and with the last one of each of `own`.
    pub fn kill(&self, pid: Pid, shared: &[&Handle], own: Vec<Handle>) {
        self.tree.kill(pid);
        for handle in shared.iter().copied().chain(&own) {
            let _ = self.flush(pid, handle); // A killed process hears nothing of it.
        }
        own.into_iter().for_each(|handle| self.release(handle));
        self.tree.exit(pid);
    }

    /// Replaces `path` by `content`: open, write, close.
    pub fn put(&self, pid: Pid, path: &str, content: &str) {
        let handle = self.open(pid, path, REWRITE);
        self.write(&handle, content);
        self.close(pid, handle);
    }

    pub fn try_rename(&self, pid: Pid, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        self.engine
            .rename(self.tree.caller(pid), &from, &to, replace)
            .map(drop)
    }

    pub fn rename(&self, pid: Pid, from: &str, to: &str) {
        self.try_rename(pid, from, to, true).expect("renamed");
    }

    pub fn try_unlink(&self, pid: Pid, path: &str) -> io::Result<()> {
        self.engine
            .unlink(self.tree.caller(pid), &self.place(path)?)
    }

    pub fn unlink(&self, pid: Pid, path: &str) {
        self.try_unlink(pid, path).expect("unlinked");
    }

    /// What is in salvage, sorted.
    pub fn salvaged(&self) -> Vec<Salvaged> {
        salvaged(&self.disk)
    }

    /// The names in the staging directory, without the session's lock.
    pub fn staged(&self) -> Vec<String> {
        let id = self.engine.session.as_ref().expect("a session").id();
        let names = self.disk.names(&format!(".polystore/sessions/{id}"));
        names.into_iter().filter(|name| name != "lock").collect()
    }

    /// The names that programs see in the root.
    pub fn names(&self) -> Vec<String> {
        let names = self.disk.names("/");
        names
            .into_iter()
            .filter(|name| name != ".polystore")
            .collect()
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
