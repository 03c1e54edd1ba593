//! From nodes to the backing directory: every access goes through an open
//! directory and one name, never through a path that somebody could change.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polystore::disk::{Disk, FileId, Kind, SystemDisk};
use rustix::fs::{Mode, OFlags, Statx};

use super::attr;
use super::channel::is_channel;
use super::errno::stale;
use super::limits::Limits;
use super::nodes::{Node, Nodes, ROOT};
use crate::engine::draft::{Draft, Phase};
use crate::engine::editing::{Content, Edit};
use crate::engine::slot::{Place, SlotKey};
use crate::shares::oldest_of_most;

/// A directory of the backing file system.
pub type Dir = <SystemDisk as Disk>::Dir;

/// How deep a directory may lie.
const DEEPEST: usize = 1 << 20;

/// How long a superseded version is kept for somebody who was just told of it.
const SUPERSEDED_FOR: Duration = Duration::from_secs(1);

/// How recently that must have been.
const JUST_TOLD: Duration = Duration::from_secs(1);

#[derive(Default)]
struct OpenDirs {
    map: HashMap<u64, (Arc<Dir>, u64)>,
    clock: u64,
}

struct Superseded {
    node: u64,
    /// Whose file it is.
    uid: u32,
    file: Arc<File>,
    since: Instant,
}

/// The backing directory, by nodes.
pub struct Tree {
    root: Arc<Dir>,
    root_id: FileId,
    nodes: Mutex<Nodes>,
    open: Mutex<OpenDirs>,
    superseded: Mutex<Vec<Superseded>>,
    /// How many of both are kept open. Other files are not: they would keep deleted ones alive.
    limits: Limits,
}

/// Nothing can be made, changed or removed where the control channel is.
fn not_the_channel(node: u64) -> io::Result<()> {
    match is_channel(node) {
        true => Err(io::Error::from_raw_os_error(libc::EPERM)),
        false => Ok(()),
    }
}

impl Tree {
    /// The tree below `root`.
    ///
    /// # Errors
    /// Those of looking at it.
    pub fn new(root: Dir, limits: &Limits) -> io::Result<Tree> {
        let stat = attr::of_file(&root)?;
        Ok(Tree {
            root: Arc::new(root),
            root_id: attr::id(&stat),
            nodes: Mutex::new(Nodes::new(&stat)),
            open: Mutex::default(),
            superseded: Mutex::default(),
            limits: *limits,
        })
    }

    /// The table of nodes. Never held while the disk is asked for anything.
    pub fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root of the data.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The inode of the root of the data.
    pub fn root_id(&self) -> FileId {
        self.root_id
    }

    /// The directory that `node` is.
    ///
    /// # Errors
    /// ESTALE where it is no longer where it was last seen: the kernel looks again.
    pub fn dir(&self, node: u64) -> io::Result<Arc<Dir>> {
        not_the_channel(node)?;
        // Up to the first one that is open, then down: trees are deeper than stacks.
        let mut missing = Vec::new();
        let mut at = node;
        let mut dir = loop {
            if at == ROOT {
                break self.root.clone();
            }
            if let Some(dir) = self.cached(at) {
                break dir;
            }
            let nodes = self.nodes();
            let found = nodes.get(at).ok_or_else(stale)?;
            missing.push((at, found.name.clone()));
            at = found.parent;
            if missing.len() > DEEPEST {
                return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
            }
        };
        while let Some((node, name)) = missing.pop() {
            let below = SystemDisk.open_subdir(&dir, &name).map_err(gone_is_stale)?;
            if !self.nodes().is(node, &attr::of_file(&below)?) {
                return Err(stale());
            }
            dir = Arc::new(below);
            self.cache(node, dir.clone());
        }
        Ok(dir)
    }

    fn cached(&self, node: u64) -> Option<Arc<Dir>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        let (dir, used) = open.map.get_mut(&node)?;
        *used = now;
        Some(dir.clone())
    }

    fn cache(&self, node: u64, dir: Arc<Dir>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.map.len() >= self.limits.directories {
            let mut ages: Vec<u64> = open.map.values().map(|(_, used)| *used).collect();
            ages.sort_unstable();
            let median = ages[ages.len() / 2];
            open.map.retain(|_, (_, used)| *used > median);
        }
        let now = open.clock;
        open.map.insert(node, (dir, now));
    }

    /// Closes what is kept open of `node`: its number will mean something else.
    pub fn close(&self, node: u64) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map
            .remove(&node);
    }

    /// The slot `name` in `parent`, with its directory.
    pub fn place(&self, parent: u64, name: &OsStr) -> io::Result<Place<SystemDisk>> {
        Ok(Place {
            slot: self.slot(parent, name)?,
            dir: self.dir(parent)?,
        })
    }

    /// The slot `name` in `parent`.
    pub fn slot(&self, parent: u64, name: &OsStr) -> io::Result<SlotKey> {
        not_the_channel(parent)?;
        let dir = self.nodes().id(parent).ok_or_else(stale)?;
        Ok(SlotKey {
            dir,
            name: name.to_owned(),
        })
    }

    /// Where the file that `node` is was last found.
    pub fn place_of(&self, node: u64) -> io::Result<Place<SystemDisk>> {
        let (parent, name) = {
            let nodes = self.nodes();
            let found = nodes
                .get(node)
                .filter(|node| !node.unlinked)
                .ok_or_else(stale)?;
            (found.parent, found.name.clone())
        };
        self.place(parent, &name)
    }

    /// The same, although the name may have been given to another file since.
    pub fn last_place_of(&self, node: u64) -> io::Result<Place<SystemDisk>> {
        let (parent, name) = {
            let nodes = self.nodes();
            let found = nodes.get(node).ok_or_else(stale)?;
            (found.parent, found.name.clone())
        };
        self.place(parent, &name)
    }

    /// The path of `name` in `parent`, from the root of the mount.
    pub fn path(&self, parent: u64, name: &OsStr) -> PathBuf {
        let nodes = self.nodes();
        let mut names: Vec<OsString> = vec![name.to_owned()];
        let mut above = parent;
        // Directories form a tree, so this ends; a stale table is no reason not to.
        while above != ROOT && names.len() < 4096 {
            let Some(node) = nodes.get(above) else { break };
            names.push(node.name.clone());
            above = node.parent;
        }
        names.into_iter().rev().collect()
    }

    /// What is known of the file that `node` is.
    ///
    /// # Errors
    /// ESTALE where it is no longer where it was last seen.
    pub fn stat(&self, node: u64) -> io::Result<Statx> {
        if node == ROOT {
            return attr::of_file(&*self.root);
        }
        if let Some(draft) = self.draft(node) {
            return draft_stat(&draft);
        }
        if let Some(pin) = self.pin(node) {
            return attr::of_file(&*pin);
        }
        if self.nodes().get(node).is_some_and(|node| node.misnamed) {
            return Err(stale()); // Whoever asks by the name is to find what it means.
        }
        let place = self.last_place_of(node)?;
        let named = attr::of_name(&*place.dir, place.name());
        if let Ok(stat) = &named
            && self.nodes().is(node, stat)
        {
            return named;
        }
        // Removed or replaced since the kernel looked, which asks before it opens. What has taken the name is
        // no answer: whoever may open that need not be allowed to open this.
        match (self.superseded(node), named) {
            (Some(file), _) => attr::of_file(&*file),
            (None, Err(error)) => Err(gone_is_stale(error)),
            (None, Ok(_)) => Err(stale()),
        }
    }

    /// The draft that `node` is, or was while somebody still has it open.
    pub fn draft(&self, node: u64) -> Option<Arc<Draft<SystemDisk>>> {
        self.nodes().get(node)?.draft.upgrade()
    }

    /// The edit that `node` is, while there is one.
    pub fn edit(&self, node: u64) -> Option<Arc<Edit<SystemDisk>>> {
        self.nodes().get(node)?.edit.upgrade()
    }

    /// A file that reaches `node` whatever became of its name.
    pub fn pin(&self, node: u64) -> Option<Arc<File>> {
        self.nodes().get(node)?.pin.clone()
    }

    /// The file that `node` is, to read or change what is known of it.
    ///
    /// # Errors
    /// ESTALE where it is no longer where it was last seen.
    pub fn reach(&self, node: u64) -> io::Result<Reach> {
        not_the_channel(node)?;
        if node == ROOT {
            return Ok(Reach::Dir(self.root.clone()));
        }
        if let Some(draft) = self.draft(node) {
            return Ok(Reach::Open(Content::Draft(draft)));
        }
        if let Some(pin) = self.pin(node) {
            return Ok(Reach::Open(Content::Version(pin)));
        }
        let named = self.reach_by_name(node)?;
        if self.nodes().is(node, &attr::of_file(&named)?) {
            Ok(named)
        } else {
            Err(stale())
        }
    }

    /// What `node` was, while it is kept although it has lost its name: the kernel asks for the ACL of what it
    /// is about to open, and looks only twice.
    pub fn reach_superseded(&self, node: u64) -> Option<Reach> {
        let file = self.superseded(node)?;
        Some(Reach::Open(Content::Version(file)))
    }

    /// What is published under the name of `node`.
    ///
    /// # Errors
    /// ESTALE where there is nothing; else the system's.
    pub fn reach_by_name(&self, node: u64) -> io::Result<Reach> {
        named(&self.place_of(node)?).map_err(gone_is_stale)
    }

    /// A file that reaches `node` and is what its pages are of: its own, or the version that it was moved to.
    /// Not what somebody has open around its cache.
    pub fn own_pin(&self, node: u64) -> Option<Arc<File>> {
        let (pin, moved) = {
            let nodes = self.nodes();
            let node = nodes.get(node)?;
            (node.pin.clone()?, node.moved)
        };
        let stat = attr::of_file(&*pin).ok()?;
        (moved || self.nodes().is(node, &stat)).then_some(pin)
    }

    /// Notes an open handle: `file` reaches its node from now on.
    pub fn pinned(&self, node: u64, file: &Arc<File>) {
        if let Some(node) = self.nodes().get_mut(node) {
            node.pins += 1;
            node.pin.get_or_insert_with(|| file.clone());
        }
    }

    /// Takes [`pinned`](Self::pinned) back.
    pub fn unpinned(&self, node: u64) -> Option<Arc<File>> {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(node)?;
        node.pins = node.pins.saturating_sub(1);
        if node.pins == 0 {
            node.moved = false;
            node.pin.take()
        } else {
            None
        }
    }

    /// What reaches `node` from now on is `file`, another version.
    pub fn moved(&self, node: u64, file: &Arc<File>) {
        if let Some(node) = self.nodes().get_mut(node) {
            node.pin = Some(file.clone());
            node.moved = true;
        }
    }

    /// A new version is about to take `place`: keeps the old one for a moment if somebody other
    /// than `writer` has just been told of it and may be about to open it.
    pub fn supersede(&self, place: &Place<SystemDisk>, writer: Option<u32>) {
        self.keep_if(place, |node| node.told.others(writer, JUST_TOLD));
    }

    /// The name at `place` is about to be removed: keeps its file for a moment.
    pub fn keep_removed(&self, place: &Place<SystemDisk>) {
        self.keep_if(place, |node| node.kind == Kind::File);
    }

    fn keep_if(&self, place: &Place<SystemDisk>, wanted: impl Fn(&Node) -> bool) {
        let Ok(stat) = attr::of_name(&*place.dir, place.name()) else {
            return;
        };
        let told = {
            let nodes = self.nodes();
            nodes
                .of(attr::id(&stat))
                .filter(|node| nodes.get(*node).is_some_and(&wanted))
        };
        let Some(node) = told else { return };
        if let Ok(file) = SystemDisk.open(&place.dir, place.name(), false) {
            let mut kept = self
                .superseded
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The oldest is the one that is least likely to be opened yet.
            let drops = kept.len() >= self.limits.superseded;
            let oldest = drops.then(|| oldest_of_most(kept.iter().map(|kept| kept.uid)));
            let _dropped = oldest.flatten().map(|oldest| kept.remove(oldest));
            kept.push(Superseded {
                node,
                uid: stat.stx_uid,
                file: Arc::new(file),
                since: Instant::now(),
            });
        }
    }

    /// The version that `node` is, which is no longer published, while it is kept.
    pub fn superseded(&self, node: u64) -> Option<Arc<File>> {
        let kept = self
            .superseded
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rev().find(|kept| kept.node == node)?;
        Some(found.file.clone())
    }

    /// Lets go of superseded versions that have been kept long enough.
    pub fn forget_superseded(&self) {
        self.drop_superseded(SUPERSEDED_FOR);
    }

    /// Lets go of all superseded versions, because the disk is full. Whether there were any.
    pub fn free_superseded(&self) -> bool {
        self.drop_superseded(Duration::ZERO)
    }

    fn drop_superseded(&self, age: Duration) -> bool {
        let mut kept = self
            .superseded
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (old, young) = kept.drain(..).partition(|kept| kept.since.elapsed() >= age);
        *kept = young;
        drop(kept);
        let old: Vec<Superseded> = old;
        !old.is_empty() // Dropped outside the lock: the last descriptor of a big file takes its time.
    }
}

/// A file, however it can be reached.
pub enum Reach {
    /// By a directory that is kept open.
    Dir(Arc<Dir>),
    /// As what handles have open.
    Open(Content<SystemDisk>),
    /// By a descriptor that only names it (O_PATH).
    Named(OwnedFd),
}

impl AsFd for Reach {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Reach::Dir(dir) => dir.as_fd(),
            Reach::Open(content) => content.file().as_fd(),
            Reach::Named(fd) => fd.as_fd(),
        }
    }
}

impl Reach {
    /// A path to it. Calls that take a descriptor refuse those that only name a file.
    pub fn path(&self) -> PathBuf {
        path_of(self.as_fd())
    }

    /// The file, if calls that take a descriptor take this one.
    pub fn file(&self) -> Option<&File> {
        match self {
            Reach::Open(content) => Some(content.file()),
            Reach::Dir(_) | Reach::Named(_) => None,
        }
    }
}

/// What stands at `place`.
fn named(place: &Place<SystemDisk>) -> io::Result<Reach> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&*place.dir, place.name(), flags, Mode::empty())?;
    Ok(Reach::Named(fd))
}

/// A path to an open file, for calls that want one.
pub fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What is known of what a handle has open.
pub fn content_stat(content: &Content<SystemDisk>) -> io::Result<Statx> {
    match content {
        Content::Version(file) => attr::of_file(&**file),
        Content::Draft(draft) => draft_stat(draft),
    }
}

/// What is known of a draft: it has the one link that it will have.
pub fn draft_stat(draft: &Draft<SystemDisk>) -> io::Result<Statx> {
    let mut stat = attr::of_file(&draft.file)?;
    if draft.phase() == Phase::Private {
        stat.stx_nlink = 1;
    }
    Ok(stat)
}

/// A name that has gone since the kernel was told of it.
pub fn gone_is_stale(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => stale(),
        _ if error.raw_os_error() == Some(libc::ELOOP) => stale(),
        _ => error,
    }
}
