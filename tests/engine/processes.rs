//! Processes that do what a test says.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polystore_mount::engine::credentials::Credentials;
use polystore_mount::engine::process::{Caller, Fate, Image, Moment, Process, Processes};

use crate::sim_disk::act_as;

/// Number of the process that every other descends from.
pub const INIT: u32 = 1;

/// A process, by its number. It has one thread, of the same number.
pub type Pid = u32;

/// A tree of processes. Clones are the same tree.
#[derive(Clone)]
pub struct Tree(Arc<Mutex<Inner>>);

struct Inner {
    clock: u64,
    last: Pid,
    stacks: u64,
    running: HashMap<Pid, Entry>,
}

struct Entry {
    process: Process,
    parent: Pid,
    image: Image,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    fate: Fate,
}

impl Tree {
    pub fn new() -> Tree {
        let image = Image {
            stack: 0,
            program: "init".into(),
        };
        let init = Entry {
            process: Process {
                pid: INIT,
                started: 0,
            },
            parent: 0,
            image,
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            fate: Fate::Finished,
        };
        Tree(Arc::new(Mutex::new(Inner {
            clock: 0,
            last: INIT,
            stacks: 0,
            running: HashMap::from([(INIT, init)]),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time passes: it does not by itself. Numbers of processes start anew, behind those in use.
    pub fn tick(&self) {
        let mut inner = self.lock();
        inner.clock += 1;
        inner.last = INIT;
    }

    /// A program of the superuser that nobody here is related to.
    pub fn spawn(&self) -> Pid {
        let pid = self.fork(INIT);
        self.exec(pid, "program");
        pid
    }

    /// The same, of user and group `id`.
    pub fn spawn_as(&self, id: u32) -> Pid {
        let pid = self.spawn();
        let mut inner = self.lock();
        let entry = inner.entry(pid);
        (entry.uid, entry.gid) = (id, id);
        pid
    }

    /// Adds a supplementary group.
    pub fn join_group(&self, pid: Pid, group: u32) {
        self.lock().entry(pid).groups.push(group);
    }

    /// A child of `parent` that runs the same image.
    pub fn fork(&self, parent: Pid) -> Pid {
        let mut inner = self.lock();
        let last = inner.last;
        let free = |pid: &Pid| !inner.running.contains_key(pid);
        let pid = (last + 1..).find(free).expect("a free number");
        inner.last = pid;
        let started = inner.clock;
        let above = inner.entry(parent);
        let child = Entry {
            process: Process { pid, started },
            parent,
            image: above.image.clone(),
            uid: above.uid,
            gid: above.gid,
            groups: above.groups.clone(),
            fate: Fate::Finished,
        };
        inner.running.insert(pid, child);
        pid
    }

    /// `pid` becomes another program, or the same one anew.
    pub fn exec(&self, pid: Pid, program: &str) {
        let mut inner = self.lock();
        inner.stacks += 1;
        let stack = inner.stacks;
        inner.entry(pid).image = Image {
            stack,
            program: program.into(),
        };
    }

    /// A child of `parent` that runs another program.
    pub fn run(&self, parent: Pid, program: &str) -> Pid {
        let pid = self.fork(parent);
        self.exec(pid, program);
        pid
    }

    /// A signal ends `pid`, which still has to close what it has open.
    pub fn kill(&self, pid: Pid) {
        self.lock().entry(pid).fate = Fate::Killed;
    }

    /// The signal of [`kill`](Tree::kill) did not end `pid` after all.
    pub fn revive(&self, pid: Pid) {
        self.lock().entry(pid).fate = Fate::Finished;
    }

    /// `pid` is gone; its children are init's.
    pub fn exit(&self, pid: Pid) {
        let mut inner = self.lock();
        inner.running.remove(&pid);
        for entry in inner.running.values_mut() {
            if entry.parent == pid {
                entry.parent = INIT;
            }
        }
    }

    /// Whose requests those of `pid` are.
    pub fn caller(&self, pid: Pid) -> Caller {
        let mut inner = self.lock();
        let entry = inner.entry(pid);
        Caller {
            tid: pid,
            uid: entry.uid,
            gid: entry.gid,
        }
    }
}

impl Inner {
    fn entry(&mut self, pid: Pid) -> &mut Entry {
        self.running.get_mut(&pid).expect("a running process")
    }
}

impl Processes for Tree {
    fn now(&self) -> Moment {
        let inner = self.lock();
        Moment {
            tick: inner.clock,
            last_pid: inner.last,
        }
    }

    fn process_of(&self, tid: u32) -> Option<Process> {
        Some(self.lock().running.get(&tid)?.process)
    }

    fn parent(&self, pid: u32) -> Option<Process> {
        let inner = self.lock();
        let parent = inner.running.get(&pid)?.parent;
        Some(inner.running.get(&parent)?.process)
    }

    fn image(&self, pid: u32) -> Option<Image> {
        Some(self.lock().running.get(&pid)?.image.clone())
    }

    fn fate(&self, tid: u32) -> Fate {
        self.lock()
            .running
            .get(&tid)
            .map_or(Fate::Finished, |entry| entry.fate)
    }

    fn alive(&self, process: Process) -> bool {
        self.process_of(process.pid) == Some(process)
    }

    fn signalled(&self, tid: u32) -> bool {
        self.fate(tid) == Fate::Killed
    }

    fn groups(&self, tid: u32) -> Vec<u32> {
        self.lock()
            .running
            .get(&tid)
            .map_or_else(Vec::new, |entry| entry.groups.clone())
    }

    fn act_as(&self, who: &Credentials, work: &mut dyn FnMut()) -> io::Result<()> {
        let groups: Vec<u32> = [who.gid].iter().chain(&*who.groups).copied().collect();
        act_as(who.uid, &groups, work);
        Ok(())
    }

    fn name(&self, pid: u32) -> Option<String> {
        let image = self.image(pid)?;
        Some(image.program.to_string_lossy().into_owned())
    }
}
