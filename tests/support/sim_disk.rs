//! A disk in memory that can lose its power.
//!
//! What has happened since the last sync is kept as a journal: names, attributes,
//! and the moments at which somebody waited for a file's content. A
//! [crash](SimDisk::crash) keeps some prefix of it, as the journals of ext4, xfs and btrfs
//! do. Content that nobody had waited for by the end of that prefix is torn: old, new,
//! cut, zero-filled, or a mixture by blocks.
//!
//! Operations are counted and named in a [log](SimDisk::log), and any of them can be made to fail.

#![allow(dead_code, reason = "each test program uses its own part of this")]

#[path = "sim_disk/image.rs"]
mod image;
#[path = "sim_disk/seam.rs"]
mod seam;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polystore::disk::{FileId, Kind, Stat};

use image::{Image, Inode, Random, Step, torn};

const ROOT: u64 = 1;

/// What a [`SimDisk`] can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    OpenDir,
    MakeDir,
    RemoveDir,
    List,
    Stat,
    CreateUnnamed,
    CreateNew,
    Open,
    Link,
    Rename,
    Remove,
    Read,
    Write,
    SetLen,
    SetOwnership,
    CopyXattrs,
    WaitForData,
    Sync,
    SyncDir,
    TryLock,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Mutex<Shared>>,
}

/// An open directory.
pub struct SimDir {
    inode: u64,
}

/// An open file. Its lock ends with it.
pub struct SimFile {
    inode: u64,
    handle: u64,
    writable: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    live: Image,
    /// What a crash keeps for certain.
    durable: Image,
    /// What has happened to `live` since.
    journal: Vec<Step>,
    next: u64,
    locks: HashMap<u64, Vec<(u64, bool)>>,
    log: Vec<Operation>,
    faults: Vec<Fault>,
    no_unnamed: bool,
    longest_write: Option<usize>,
}

/// What a file has beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

enum Fault {
    /// The operation with this number in the log.
    At(usize, i32),
    /// The next of this sort.
    Next(Operation, i32),
    /// All of this sort.
    Every(Operation, i32),
    /// All from this number on.
    From(usize),
}

thread_local! {
    /// User and groups that this thread acts as; new files get the first group.
    static ACTING: RefCell<(u32, Vec<u32>)> = RefCell::new((0, vec![0]));
}

/// Does `work` as a user and his groups: what is made by it is his and the first one's, and he may open
/// what he may.
pub fn act_as(uid: u32, groups: &[u32], work: impl FnOnce()) {
    let before = ACTING.replace((uid, groups.to_vec()));
    work();
    ACTING.set(before);
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk, with its root directory.
    pub fn new() -> SimDisk {
        let root = Inode {
            kind: Kind::Directory,
            content: Vec::new(),
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
            names: BTreeMap::new(),
        };
        let image = Image {
            inodes: HashMap::from([(ROOT, root)]),
        };
        SimDisk::from_image(image, ROOT + 1)
    }

    fn from_image(image: Image, next: u64) -> SimDisk {
        let shared = Shared {
            durable: image.clone(),
            live: image,
            next,
            ..Shared::default()
        };
        SimDisk {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The same disk, but `create_unnamed` cannot.
    pub fn without_unnamed(self) -> SimDisk {
        self.lock().no_unnamed = true;
        self
    }

    /// The same disk, but no write takes more than `bytes`.
    pub fn with_short_writes(self, bytes: usize) -> SimDisk {
        self.lock().longest_write = Some(bytes);
        self
    }

    /// What a power cut now might leave, one of many ways that `seed` chooses from. This disk goes on.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let shared = self.lock();
        let mut random = Random(seed);
        let kept = random.below(shared.journal.len() + 1);
        let mut image = shared.durable.clone();
        for step in &shared.journal[..kept] {
            image.apply(step);
        }
        for (number, inode) in &mut image.inodes {
            let live = &shared.live.inodes[number].content;
            if inode.content != *live {
                inode.content = torn(&inode.content, live, &mut random);
            }
        }
        SimDisk::from_image(image, shared.next)
    }

    /// Makes the operation fail that comes after `operations` more, without effect.
    pub fn fail_after(&self, operations: usize, errno: i32) {
        let mut shared = self.lock();
        let at = shared.log.len() + operations;
        shared.faults.push(Fault::At(at, errno));
    }

    /// Makes the next operation of this sort fail, without effect.
    pub fn fail_next(&self, operation: Operation, errno: i32) {
        self.lock().faults.push(Fault::Next(operation, errno));
    }

    /// Makes all operations of this sort fail, without effect.
    pub fn fail_every(&self, operation: Operation, errno: i32) {
        self.lock().faults.push(Fault::Every(operation, errno));
    }

    /// After `operations` more, nothing has any effect: the power is gone, and what
    /// [`crash`](SimDisk::crash) returns is what that moment left.
    pub fn stop_after(&self, operations: usize) {
        let mut shared = self.lock();
        let at = shared.log.len() + operations;
        shared.faults.push(Fault::From(at));
    }

    /// Takes back all failures that have been asked for.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// All operations so far, those that failed included.
    pub fn log(&self) -> Vec<Operation> {
        self.lock().log.clone()
    }

    /// How many operations of this sort there were.
    pub fn count(&self, operation: Operation) -> usize {
        self.lock()
            .log
            .iter()
            .filter(|logged| **logged == operation)
            .count()
    }

    /// Everything so far becomes durable, as after a sync(2).
    pub fn sync_all(&self) {
        let mut shared = self.lock();
        shared.journal.clear();
        shared.durable = shared.live.clone();
    }

    /// The content of the file at `path`, `None` if there is none. Not counted.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let shared = self.lock();
        let inode = shared.live.walk(Path::new(path)).ok()?;
        Some(shared.live.inodes[&inode].content.clone())
    }

    /// The inode of what is at `path`. Not counted.
    pub fn id(&self, path: &str) -> Option<FileId> {
        let shared = self.lock();
        let inode = shared.live.walk(Path::new(path)).ok()?;
        Some(FileId { device: 1, inode })
    }

    /// The names in the directory at `path`; none where there is no such directory. Not counted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let shared = self.lock();
        let Ok(inode) = shared.live.walk(Path::new(path)) else {
            return Vec::new();
        };
        shared.live.inodes[&inode]
            .names
            .keys()
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Makes a durable file in the root directory. Not counted.
    pub fn plant(&self, name: &str, content: &[u8], attributes: Attributes) {
        self.plant_kind(name, Kind::File, content, attributes);
    }

    /// Makes something durable in the root directory that is not a regular file. Not counted.
    pub fn plant_other(&self, name: &str, kind: Kind) {
        self.plant_kind(name, kind, &[], Attributes::default());
    }

    /// Sets owner and permission bits of the directory at `path`, durably. Not counted.
    pub fn set_directory_mode(&self, path: &str, uid: u32, gid: u32, mode: u32) {
        let mut shared = self.lock();
        let inode = shared.live.walk(Path::new(path)).expect("a directory");
        let mut attributes = shared.live.inodes[&inode].attributes.clone();
        (attributes.uid, attributes.gid, attributes.mode) = (uid, gid, mode);
        shared.step(Step::Changed { inode, attributes });
        shared.flush();
    }

    fn plant_kind(&self, name: &str, kind: Kind, content: &[u8], attributes: Attributes) {
        let mut shared = self.lock();
        let inode = shared.make(kind, attributes);
        shared.live.inode(inode).content = content.to_vec();
        shared.step(Step::Named {
            dir: ROOT,
            name: name.into(),
            inode,
        });
        shared.step(Step::Reached {
            inode,
            content: content.to_vec(),
        });
        shared.journal.clear();
        shared.durable = shared.live.clone();
    }

    /// The attributes of what is at `path`. Not counted.
    pub fn attributes(&self, path: &str) -> Attributes {
        let shared = self.lock();
        let inode = shared.live.walk(Path::new(path)).expect("a file");
        shared.live.inodes[&inode].attributes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation, and fails it if that is its fate.
    fn begin(&self, operation: Operation) -> io::Result<MutexGuard<'_, Shared>> {
        let mut shared = self.lock();
        let number = shared.log.len();
        shared.log.push(operation);
        let hit = shared.faults.iter().position(|fault| match fault {
            Fault::At(at, _) => *at == number,
            Fault::From(at) => *at <= number,
            Fault::Next(of, _) | Fault::Every(of, _) => *of == operation,
        });
        match hit.map(|index| (index, &shared.faults[index])) {
            None => Ok(shared),
            Some((_, Fault::Every(_, code))) => Err(errno(*code)),
            Some((_, Fault::From(_))) => Err(errno(libc::EIO)),
            Some((index, Fault::At(_, code) | Fault::Next(_, code))) => {
                let error = errno(*code);
                shared.faults.remove(index);
                Err(error)
            }
        }
    }

    fn handle(&self, shared: &mut Shared, inode: u64, writable: bool) -> SimFile {
        shared.next += 1;
        SimFile {
            inode,
            handle: shared.next,
            writable,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Shared {
    fn make(&mut self, kind: Kind, attributes: Attributes) -> u64 {
        self.next += 1;
        let inode = self.next;
        self.step(Step::Made {
            inode,
            kind,
            attributes,
        });
        inode
    }

    /// Whether the permission bits allow what is `wanted` (as those of others) to who acts.
    fn allows(&self, inode: u64, wanted: u32) -> bool {
        let attributes = &self.live.inodes[&inode].attributes;
        ACTING.with_borrow(|(uid, groups)| {
            let shift = match *uid {
                0 => return true,
                uid if uid == attributes.uid => 6,
                _ if groups.contains(&attributes.gid) => 3,
                _ => 0,
            };
            attributes.mode >> shift & wanted == wanted
        })
    }

    /// What a new file in `dir` has: in a setgid directory the group is the directory's.
    fn created_in(&self, dir: u64, mode: u32) -> Attributes {
        let dir = &self.live.inodes[&dir].attributes;
        let (uid, gid) = ACTING.with_borrow(|(uid, groups)| (*uid, groups[0]));
        let inherits = dir.mode & 0o2000 != 0;
        Attributes {
            mode,
            uid,
            gid: if inherits { dir.gid } else { gid },
            ..Attributes::default()
        }
    }

    fn step(&mut self, step: Step) {
        self.live.apply(&step);
        self.journal.push(step);
    }

    /// The file's content is on the disk: a crash that keeps a later step keeps it, too.
    fn reach(&mut self, inode: u64) {
        let content = self.live.inode(inode).content.clone();
        self.journal.push(Step::Reached { inode, content });
    }

    /// All steps so far become durable.
    fn flush(&mut self) {
        for step in self.journal.drain(..) {
            self.durable.apply(&step);
        }
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> io::Result<Option<u64>> {
        component(name)?;
        let dir = &self.live.inodes[&dir];
        match dir.kind {
            Kind::Directory => Ok(dir.names.get(name).copied()),
            _ => Err(errno(libc::ENOTDIR)),
        }
    }

    fn existing(&self, dir: u64, name: &OsStr) -> io::Result<(u64, Kind)> {
        let inode = self.lookup(dir, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        Ok((inode, self.live.inodes[&inode].kind))
    }

    fn free(&self, dir: u64, name: &OsStr) -> io::Result<()> {
        match self.lookup(dir, name)? {
            Some(_) => Err(errno(libc::EEXIST)),
            // A directory that was removed while somebody has it open takes no names.
            None if dir != ROOT && self.live.links(dir) == 0 => Err(errno(libc::ENOENT)),
            None => Ok(()),
        }
    }

    fn stat(&self, number: u64) -> Stat {
        let inode = &self.live.inodes[&number];
        Stat {
            id: FileId {
                device: 1,
                inode: number,
            },
            kind: inode.kind,
            len: inode.content.len() as u64,
            links: self.live.links(number),
            mode: inode.attributes.mode,
            uid: inode.attributes.uid,
            gid: inode.attributes.gid,
        }
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn component(name: &OsStr) -> io::Result<()> {
    let name = name.as_encoded_bytes();
    assert!(
        !name.contains(&b'/') && !name.is_empty(),
        "a name, not a path"
    );
    if name.len() > 255 {
        Err(errno(libc::ENAMETOOLONG))
    } else {
        Ok(())
    }
}
