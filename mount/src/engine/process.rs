//! Who is asking: processes, their images and their fate.
//!
//! What a draft means depends on processes: who opened it, who descends from
//! them, whether they have exec'd since, whether they were killed. The engine
//! asks through [`Processes`], so that tests can play any of it.

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
    /// Start time, in clock ticks since boot.
    pub started: u64,
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
    /// The present, on the clock of [`Process::started`].
    fn now(&self) -> u64;
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
}

/// How far up [`relation`] looks; deeper trees count as unrelated.
const GENERATIONS: usize = 128;

/// How `process` stands to an `ancestor` that did something at clock tick `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is that process.
    Same,
    /// It descends from a child that the ancestor made after that.
    BornAfter,
    /// It descends from a child that was made in the same tick: before or after.
    BornThen,
    /// Neither, or its line was there before: a worker that was forked earlier is a stranger.
    Stranger,
}

/// How `process` stands to `ancestor`. A process whose parent has died is its grandparent's or
/// init's child, as the system tells it.
pub fn relation<P: Processes + ?Sized>(
    processes: &P,
    process: Process,
    ancestor: Process,
    at: u64,
) -> Relation {
    if process == ancestor {
        return Relation::Same;
    }
    let mut current = process;
    for _ in 0..GENERATIONS {
        // A parent is older than its child: whoever is older than that tick leads to no child born in it.
        if current.pid <= 1 || current.started < at {
            return Relation::Stranger;
        }
        match processes.parent(current.pid) {
            Some(parent) if parent == ancestor && current.started > at => {
                return Relation::BornAfter;
            }
            Some(parent) if parent == ancestor => return Relation::BornThen,
            Some(parent) => current = parent,
            None => return Relation::Stranger,
        }
    }
    Relation::Stranger
}
