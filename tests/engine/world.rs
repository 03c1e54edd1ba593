//! The engine on a simulated disk, and an adapter that does what programs' system calls do.
//!
//! What the kernel and the adapter do in several requests is done here in one go: a publish
//! follows its close at once. Files are opened by path, as [`Engine::view`] shows them.

mod contents;
mod handles;
mod locking;
mod naming;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polystore::Durability;
use polystore::disk::{Disk, FileId};
use polystore_mount::engine::draft::{CLOSING_WINDOW, Draft};
use polystore_mount::engine::locks::Locks;
use polystore_mount::engine::opening::Access;
use polystore_mount::engine::policy::{Direct, Turns};
use polystore_mount::engine::salvage::Salvage;
use polystore_mount::engine::slot::{Place, SlotKey};
use polystore_mount::engine::staging::{Session, sweep};
use polystore_mount::engine::visibility::View;
use polystore_mount::engine::{Engine, Settings};

use crate::processes::{Pid, Tree};
use crate::sim_disk::{SimDir, SimDisk};

use contents::content;
pub use contents::{Salvaged, make_dir, plant, salvaged};
pub use handles::Handle;
pub use locking::WHOLE;

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
        alone: false,
    }
}

/// Who makes the directories of a simulated disk.
const ROOT: u32 = 0;

/// More than any test drops.
pub const AMPLE: u64 = 1 << 30;

pub type SharedDraft = Arc<Draft<SimDisk>>;

/// A mounted directory and the programs that use it.
pub struct World {
    pub disk: Arc<SimDisk>,
    pub tree: Tree,
    pub engine: Engine<SimDisk, Tree>,
    pub root: SimDir,
    pub locks: Arc<Locks>,
    next_handle: AtomicU64,
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
        let session = Session::start(&disk, &root, setup.session, ROOT)?;
        let salvage = Salvage::new(&disk, session.own_dir(), setup.limit, session.id());
        sweep(&*disk, session.own_dir(), Some(&salvage))?;
        let settings = Settings {
            durability: setup.durability,
            direct: Direct::new(&setup.direct, true).expect("good patterns"),
            turns: Turns::new(&[], true).expect("good patterns"),
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
            locks: Arc::default(),
            // Numbers below are for tests to choose.
            next_handle: AtomicU64::new(1 << 32),
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

    fn next_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// The inode that is published under `path`.
    pub fn published_id(&self, path: &str) -> Option<FileId> {
        self.disk.id(path)
    }

    /// The inode that `pid` finds under `path`.
    pub fn found_id(&self, pid: Pid, path: &str) -> Option<FileId> {
        let place = self.place(path).expect("a directory");
        match self.view(pid, &place) {
            View::Draft(draft) => Some(draft.file_id),
            View::Edit(edit) => {
                let content = self.engine.edit_content(&edit);
                let stat = self.disk.stat_file(content.file());
                Some(stat.expect("a healthy disk").id)
            }
            View::Published { .. } => self.published_id(path),
        }
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
