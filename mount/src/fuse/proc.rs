//! Processes as Linux shows them: in `/proc`, and by their pidfds.
//!
//! Some files of `/proc/PID` (`stat`, `exe`, `syscall`) wait, on recent kernels, for an exec of
//! that process to be over; and an exec closes descriptors, which waits for this mount. So they are
//! read only of a process that is known not to be in exec: the caller of a request for a name (it
//! is in that call), and a task that has given up its memory (it is exiting). What is asked of
//! others is in `status` and in the numbers of their pidfds, which wait for nobody.

use std::fs;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::credentials;
use crate::engine::credentials::Credentials;
use crate::engine::process::{Caller, Fate, Image, Moment, Process, Processes};

/// `PF_EXITING` of the kernel's `include/linux/sched.h`, as field 9 of `/proc/PID/stat` shows it.
const PF_EXITING: u64 = 0x4;

/// Signals that programs get without being meant to stop: a shell's child that
/// ends, a terminal that is resized, sockets and timers. They do not end a wait.
const PASSING_SIGNALS: [u32; 5] = [
    libc::SIGCHLD as u32,
    libc::SIGWINCH as u32,
    libc::SIGURG as u32,
    libc::SIGIO as u32,
    libc::SIGPROF as u32,
];

/// The processes of this computer.
#[derive(Debug, Default)]
pub struct ProcFs;

/// The fields of `/proc/PID/stat` that matter, see proc_pid_stat(5).
struct Stat {
    flags: u64,
    started: u64,
    stack: u64,
    exit_code: u32,
}

/// Reads a file of `/proc`: in one call, unless it is long (a status with very many groups).
fn read_short(path: &str) -> Option<String> {
    const USUAL: usize = 4096;
    let mut file = fs::File::open(path).ok()?;
    let mut text = vec![0; USUAL];
    let len = file.read(&mut text).ok()?;
    text.truncate(len);
    if len == USUAL {
        file.read_to_end(&mut text).ok()?;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&read_short(&format!("/proc/{pid}/stat"))?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name stands in parentheses and may itself hold parentheses and spaces.
    let tail = text.rfind(')')?;
    let fields: Vec<&str> = text.get(tail + 1..)?.split_ascii_whitespace().collect();
    // fields[0] is field 3 of the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        flags: field(9)?,
        started: field(22)?,
        stack: field(28)?,
        exit_code: field(52)? as u32,
    })
}

/// The value of a `Name:` line of `/proc/TID/status`.
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn is_leader(tid: u32) -> bool {
    // Without PIDFD_THREAD the kernel opens thread group leaders only.
    i32::try_from(tid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| pidfd_open(pid, PidfdFlags::empty()).is_ok())
}

fn group_of(tid: u32) -> Option<u32> {
    if is_leader(tid) {
        return Some(tid);
    }
    let status = read_short(&format!("/proc/{tid}/status"))?;
    status_field(&status, "Tgid")?.parse().ok()
}

/// The umask of thread `tid`; the usual one where that cannot be seen.
pub fn umask_of(tid: u32) -> u32 {
    const USUAL: u32 = 0o022;
    let status = read_short(&format!("/proc/{tid}/status"));
    let umask = status
        .as_deref()
        .and_then(|status| status_field(status, "Umask"));
    umask
        .and_then(|umask| u32::from_str_radix(umask, 8).ok())
        .unwrap_or(USUAL)
}

/// Whether thread `tid` does nothing any more: it is gone, or its parent has not asked for it yet.
pub fn has_ended(tid: u32) -> bool {
    let status = read_short(&format!("/proc/{tid}/status"));
    let state = status
        .as_deref()
        .and_then(|status| status_field(status, "State"));
    match state {
        Some(state) => state.starts_with(['Z', 'X']),
        None => is_gone(tid),
    }
}

/// Whether there is no thread `tid`, rather than no descriptor to look at it with.
fn is_gone(tid: u32) -> bool {
    let known = fs::metadata(format!("/proc/{tid}"));
    known.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// What there is to see of the system call that a thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemCall {
    /// Its number.
    Number(i64),
    /// The thread does not sleep yet: its request was quicker.
    Running,
    /// This process may not look, or the thread is gone.
    Unknown,
}

/// The system call that thread `tid` is in.
pub fn system_call_of(tid: u32) -> SystemCall {
    let text = read_short(&format!("/proc/{tid}/syscall"));
    match text.as_deref().map(str::trim) {
        Some("running") => SystemCall::Running,
        Some(text) => text
            .split_ascii_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .map_or(SystemCall::Unknown, SystemCall::Number),
        None => SystemCall::Unknown,
    }
}

/// `PID_FS_MAGIC` of the kernel's `uapi/linux/magic.h`.
const PIDFS: i64 = 0x5049_4446;

/// A number for the process or thread `pid` that no later one gets, in the order in which they were
/// started: its pidfd's inode. `None` if it is gone, or before Linux 6.9.
fn birth_number(pid: u32, thread: bool) -> Option<u64> {
    // PIDFD_THREAD of `uapi/linux/pidfd.h`.
    let flags = if thread { OFlags::EXCL.bits() } else { 0 };
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::from_bits_retain(flags)).ok()?;
    let kind = rustix::fs::fstatfs(&fd).ok()?.f_type;
    (kind as i64 == PIDFS).then_some(())?;
    Some(rustix::fs::fstat(&fd).ok()?.st_ino)
}

fn has_birth_numbers() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| birth_number(std::process::id(), false).is_some())
}

/// The process with number `pid`.
fn process(pid: u32) -> Option<Process> {
    let started = if has_birth_numbers() {
        birth_number(pid, false)?
    } else {
        stat(pid)?.started
    };
    Some(Process { pid, started })
}

fn status_of(tid: u32) -> Option<String> {
    read_short(&format!("/proc/{tid}/status"))
}

/// The number of the process or thread that was started last, by a number or a name.
fn last_started() -> Option<u32> {
    // The last field of /proc/loadavg, see proc_loadavg(5).
    read_short("/proc/loadavg")?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// The present by birth numbers: that of the youngest task there is, or of one made for it.
fn newest_birth() -> Option<u64> {
    // While no task was started since, the present is the same. It takes the start of as many
    // tasks as there are numbers for one to come up again, between two calls.
    static LAST: Mutex<Option<(u32, u64)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let tid = last_started()?;
    if let Some((known, birth)) = *last
        && known == tid
    {
        return Some(birth);
    }
    let found = birth_number(tid, true).map(|birth| (tid, birth));
    *last = found.or_else(|| {
        // None where the number of threads is limited, and reached: unknown then.
        let made = std::thread::Builder::new().spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            birth_number(tid, true).map(|birth| (tid, birth))
        });
        made.ok()?.join().ok()?
    });
    last.map(|(_, birth)| birth)
}

impl Processes for ProcFs {
    fn now(&self) -> Moment {
        if has_birth_numbers() {
            // Unknown: whoever there is counts as a stranger.
            let tick = newest_birth().unwrap_or(u64::MAX);
            return Moment {
                tick,
                last_pid: u32::MAX,
            };
        }
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let per_second = rustix::param::clock_ticks_per_second();
        let (seconds, nanoseconds) = (since_boot.tv_sec as u64, since_boot.tv_nsec as u64);
        Moment {
            tick: seconds * per_second + nanoseconds * per_second / 1_000_000_000,
            last_pid: last_started().unwrap_or(u32::MAX),
        }
    }

    fn process_of(&self, tid: u32) -> Option<Process> {
        if tid == 0 {
            return None;
        }
        // Most callers are the first thread of their process: then one pidfd says it all.
        if has_birth_numbers()
            && let Some(started) = birth_number(tid, false)
        {
            return Some(Process { pid: tid, started });
        }
        process(group_of(tid)?)
    }

    fn parent(&self, pid: u32) -> Option<Process> {
        let parent = status_field(&status_of(pid)?, "PPid")?.parse().ok()?;
        if parent == 0 { None } else { process(parent) }
    }

    /// Of the process whose request is being answered only: see the top of this file.
    fn image(&self, pid: u32) -> Option<Image> {
        // 0 where this process may not look.
        let stack = stat(pid)?.stack;
        if stack == 0 {
            return None;
        }
        let program = fs::read_link(format!("/proc/{pid}/exe"))
            .ok()?
            .into_os_string();
        Some(Image { stack, program })
    }

    fn fate(&self, tid: u32) -> Fate {
        // A task gives up its memory before it closes its files; one in exec has memory.
        let exiting =
            status_of(tid).is_some_and(|status| status_field(&status, "VmSize").is_none());
        match exiting.then(|| stat(tid)).flatten() {
            Some(stat) if stat.flags & PF_EXITING != 0 && stat.exit_code & 0x7f != 0 => {
                Fate::Killed
            }
            _ => Fate::Finished,
        }
    }

    fn alive(&self, known: Process) -> bool {
        process(known.pid) == Some(known)
            && status_of(known.pid).is_some_and(|status| status_field(&status, "VmSize").is_some())
    }

    fn signalled(&self, tid: u32) -> bool {
        let Some(status) = read_short(&format!("/proc/{tid}/status")) else {
            return is_gone(tid); // Then nobody waits any more.
        };
        let mask = |name| {
            status_field(&status, name)
                .and_then(|text| u64::from_str_radix(text, 16).ok())
                .unwrap_or(0)
        };
        let passing = PASSING_SIGNALS
            .iter()
            .fold(0u64, |set, signal| set | 1 << (signal - 1));
        let pending = (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn");
        pending & !passing != 0
    }

    fn groups(&self, tid: u32) -> Vec<u32> {
        read_short(&format!("/proc/{tid}/status"))
            .and_then(|status| {
                let list = status_field(&status, "Groups")?;
                Some(
                    list.split_ascii_whitespace()
                        .filter_map(|id| id.parse().ok())
                        .collect(),
                )
            })
            .unwrap_or_default()
    }

    fn name(&self, pid: u32) -> Option<String> {
        status_field(&status_of(pid)?, "Name").map(str::to_owned)
    }

    /// An ordinary user's own groups are those of this process: nothing is looked up for him.
    fn credentials(&self, caller: Caller) -> Credentials {
        let groups = match caller.uid {
            0 => Arc::default(),
            uid if uid == own_uid() => own_groups(),
            _ => self.groups(caller.tid).into(),
        };
        Credentials {
            groups,
            ..Credentials::new(caller.uid, caller.gid)
        }
    }

    fn act_as(&self, who: &Credentials, work: &mut dyn FnMut()) -> std::io::Result<()> {
        match own_uid() {
            0 => credentials::act_as(who, work),
            own if [0, own].contains(&who.uid) => {
                work();
                Ok(())
            }
            _ => Err(std::io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn act_for(&self, who: &Credentials, work: &mut dyn FnMut()) -> std::io::Result<()> {
        if own_uid() == 0 {
            return credentials::act_as(who, work);
        }
        work();
        Ok(())
    }
}

/// The user this process runs as: it does not change.
fn own_uid() -> u32 {
    static OWN: OnceLock<u32> = OnceLock::new();
    *OWN.get_or_init(|| rustix::process::geteuid().as_raw())
}

fn own_groups() -> Arc<[u32]> {
    static OWN: OnceLock<Arc<[u32]>> = OnceLock::new();
    let groups = || {
        let groups = rustix::process::getgroups().unwrap_or_default();
        groups
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect()
    };
    OWN.get_or_init(groups).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("17 (a) b (c)) S {}", numbers.join(" "));
        let stat = parse_stat(&line).expect("a stat line");
        assert_eq!((stat.flags, stat.started), (9, 22));
        assert_eq!((stat.stack, stat.exit_code), (28, 52));
    }

    #[test]
    fn this_process_is_found_by_any_of_its_threads() {
        let me = ProcFs.process_of(std::process::id()).expect("this process");
        let tid = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get() as u32)
            .join()
            .expect("a thread");
        // The thread has ended: it may be gone, but never somebody else.
        assert!(ProcFs.process_of(tid).is_none_or(|process| process == me));
        assert!(ProcFs.alive(me));
        assert!(
            !ProcFs.now().is_before(me),
            "start times and the present are on one clock"
        );
        let before = ProcFs.now();
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("a process");
        let born = ProcFs
            .process_of(child.id())
            .expect("a child, if only a dead one");
        assert!(before.is_before(born) && !ProcFs.now().is_before(born));
        child.wait().expect("its end");
        assert_eq!(ProcFs.fate(me.pid), Fate::Finished);
        assert!(ProcFs.image(me.pid).is_some());
    }
}
