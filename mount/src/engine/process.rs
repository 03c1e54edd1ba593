//! Who is asking: processes, their images and their fate.
//!
//! What a draft means depends on processes: who opened it, who descends from
//! them, whether they have exec'd since, whether they were killed. The engine
//! asks through [`Processes`], so that tests can play any of it.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use super::credentials::Credentials;

/// Whose request it is. A `tid` of 0 is a caller whose thread cannot be seen
/// (another pid namespace).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Thread that made the call.
    pub tid: u32,
    /// Its file system user id.
    pub uid: u32,
    /// Its file system group id.
    pub gid: u32,
}

/// A process, told from later ones with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Thread group id.
    pub pid: u32,
    /// When it started, on a scale that only grows: a birth number, or clock ticks since boot.
    pub started: u64,
}

/// A moment in the lives of processes. The clock alone is too coarse (10 ms): processes that
/// started in its tick are told apart by their numbers, which are given in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// On the scale of [`Process::started`].
    pub tick: u64,
    /// Number of the process or thread that was started last.
    pub last_pid: u32,
}

impl Moment {
    /// Whether `process` started after this moment. Numbers start over at their maximum; that
    /// this happens just within the tick is taken to be impossible.
    pub fn is_before(self, process: Process) -> bool {
        process.started > self.tick || (process.started == self.tick && process.pid > self.last_pid)
    }
}

/// What a process runs: it changes at exec and is inherited by fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where the stack starts; random for each exec.
    pub stack: u64,
    /// What `/proc/PID/exe` points to.
    pub program: std::ffi::OsString,
}

/// Whether a task that closes a file lives, ends or was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs on, or ended of its own will, whatever its exit code.
    Finished,
    /// A signal ends it.
    Killed,
}

/// What the engine needs to know of the processes on this computer.
pub trait Processes: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> Moment;
    /// The process that thread `tid` belongs to; `None` if it is gone or cannot be seen.
    fn process_of(&self, tid: u32) -> Option<Process>;
    /// The parent of process `pid`.
    fn parent(&self, pid: u32) -> Option<Process>;
    /// What process `pid` runs.
    fn image(&self, pid: u32) -> Option<Image>;
    /// How thread `tid`, which is closing a file at this moment, ends.
    fn fate(&self, tid: u32) -> Fate;
    /// Whether `process` still runs.
    fn alive(&self, process: Process) -> bool;
    /// Whether thread `tid` has a signal pending that should end a wait.
    fn signalled(&self, tid: u32) -> bool;
    /// The supplementary groups of thread `tid`.
    fn groups(&self, tid: u32) -> Vec<u32>;
    /// What `pid` calls itself, for people to read.
    fn name(&self, pid: u32) -> Option<String>;
    /// As whom `caller` acts.
    fn credentials(&self, caller: Caller) -> Credentials {
        let groups = match caller.uid {
            0 => Arc::default(),
            _ => self.groups(caller.tid).into(),
        };
        Credentials {
            groups,
            ..Credentials::new(caller.uid, caller.gid)
        }
    }
    /// Does `work` as `who`.
    ///
    /// # Errors
    /// This process cannot be that user: `work` was not done.
    fn act_as(&self, who: &Credentials, work: &mut dyn FnMut()) -> std::io::Result<()>;
    /// Does `work`, for which `who` was judged already, as him if this process can be another user at
    /// all, else as itself.
    ///
    /// # Errors
    /// This process can be others, but not that one: `work` was not done.
    fn act_for(&self, who: &Credentials, work: &mut dyn FnMut()) -> std::io::Result<()> {
        self.act_as(who, work)
    }
}

/// How far up [`is_or_descends_since`] looks; deeper trees count as unrelated.
const GENERATIONS: usize = 128;

/// Whether `process` is `ancestor`, or descends from a child that the ancestor made after `moment`.
///
/// A worker that was forked before is a stranger. A process whose parent has died is its
/// grandparent's or init's child, as the system tells it.
pub fn is_or_descends_since<P: Processes + ?Sized>(
    processes: &P,
    process: Process,
    ancestor: Process,
    moment: Moment,
) -> bool {
    Kin::new(processes, process).is_or_descends_since(ancestor, moment)
}

/// A process and its ancestors, each looked at once, however many others it is compared with: they may
/// be as many as somebody likes.
pub struct Kin<'a, P: ?Sized> {
    processes: &'a P,
    /// The process itself.
    pub process: Process,
    /// The parents, as far as they were asked for; the last is `None` where there are no more.
    parents: RefCell<Vec<Option<Process>>>,
    image: OnceCell<Option<Image>>,
}

impl<'a, P: Processes + ?Sized> Kin<'a, P> {
    /// That of `process`.
    pub fn new(processes: &'a P, process: Process) -> Kin<'a, P> {
        Kin {
            processes,
            process,
            parents: RefCell::default(),
            image: OnceCell::new(),
        }
    }

    /// The parent of `child`, which is `generation` steps above the process.
    fn parent(&self, generation: usize, child: Process) -> Option<Process> {
        let mut parents = self.parents.borrow_mut();
        if parents.len() == generation {
            parents.push(self.processes.parent(child.pid));
        }
        parents.get(generation).copied().flatten()
    }

    /// See [`is_or_descends_since`].
    pub fn is_or_descends_since(&self, ancestor: Process, moment: Moment) -> bool {
        if self.process == ancestor {
            return true;
        }
        let mut current = self.process;
        for generation in 0..GENERATIONS {
            // A parent is older than its child: whoever was there at that moment leads to no child made since.
            if current.pid <= 1 || !moment.is_before(current) {
                return false;
            }
            match self.parent(generation, current) {
                Some(parent) if parent == ancestor => return true,
                Some(parent) => current = parent,
                None => return false,
            }
        }
        false
    }

    /// What the process runs.
    pub fn image(&self) -> Option<&Image> {
        let look = || self.processes.image(self.process.pid);
        self.image.get_or_init(look).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Process 10, child of 9, and so on; how often it was asked.
    #[derive(Default)]
    struct Line(AtomicUsize);

    fn in_line(pid: u32) -> Process {
        Process {
            pid,
            started: u64::from(pid),
        }
    }

    impl Processes for Line {
        fn now(&self) -> Moment {
            Moment::default()
        }
        fn process_of(&self, tid: u32) -> Option<Process> {
            Some(in_line(tid))
        }
        fn parent(&self, pid: u32) -> Option<Process> {
            self.0.fetch_add(1, Ordering::Relaxed);
            (pid > 1).then(|| in_line(pid - 1))
        }
        fn image(&self, _pid: u32) -> Option<Image> {
            self.0.fetch_add(1, Ordering::Relaxed);
            None
        }
        fn fate(&self, _tid: u32) -> Fate {
            Fate::Finished
        }
        fn alive(&self, _process: Process) -> bool {
            true
        }
        fn signalled(&self, _tid: u32) -> bool {
            false
        }
        fn groups(&self, _tid: u32) -> Vec<u32> {
            Vec::new()
        }
        fn name(&self, _pid: u32) -> Option<String> {
            None
        }
        fn act_as(&self, _who: &Credentials, work: &mut dyn FnMut()) -> std::io::Result<()> {
            work();
            Ok(())
        }
    }

    #[test]
    fn kin_are_looked_at_once_however_many_they_are_compared_with() {
        let processes = Line::default();
        let kin = Kin::new(&processes, in_line(10));
        let at = |tick| Moment { tick, last_pid: 0 };
        for _ in 0..10_000 {
            assert!(kin.is_or_descends_since(in_line(10), at(10)));
            assert!(kin.is_or_descends_since(in_line(5), at(5)));
            assert!(!kin.is_or_descends_since(in_line(5), at(7)), "it was there");
            assert!(!kin.is_or_descends_since(in_line(77), at(2)), "a stranger");
            assert!(kin.image().is_none());
        }
        let asked = processes.0.load(Ordering::Relaxed);
        assert!(asked <= 10, "asked {asked} times");
    }

    #[test]
    fn within_a_tick_numbers_tell_who_was_first() {
        let moment = Moment {
            tick: 100,
            last_pid: 50,
        };
        let born = |started, pid| moment.is_before(Process { pid, started });
        assert!(born(101, 3) && born(100, 51));
        assert!(!born(100, 50) && !born(99, 51));
    }
}
