//! Processes as Linux shows them in `/proc`.
//!
//! Only files that can be read without touching the memory of the process or
//! any file system are used: `stat`, `status` and the link `exe` (read, never
//! followed: the program may lie in the very mount that is asking).

use std::ffi::OsString;
use std::fs;
use std::io::Read;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::engine::process::{Fate, Image, Moment, Process, Processes};

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
    comm: String,
    parent: u32,
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
    let (head, tail) = (text.find('(')?, text.rfind(')')?);
    let comm = text.get(head + 1..tail)?.to_owned();
    let fields: Vec<&str> = text.get(tail + 1..)?.split_ascii_whitespace().collect();
    // fields[0] is field 3 of the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        parent: field(4)? as u32,
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

/// Which system call thread `tid` is in, where this process may look.
pub fn system_call_of(tid: u32) -> Option<i64> {
    let text = read_short(&format!("/proc/{tid}/syscall"))?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

impl Processes for ProcFs {
    fn now(&self) -> Moment {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let per_second = rustix::param::clock_ticks_per_second();
        let (seconds, nanoseconds) = (since_boot.tv_sec as u64, since_boot.tv_nsec as u64);
        // The last field of /proc/loadavg, see proc_loadavg(5).
        let last_pid = read_short("/proc/loadavg")
            .and_then(|text| text.split_ascii_whitespace().next_back()?.parse().ok());
        Moment {
            tick: seconds * per_second + nanoseconds * per_second / 1_000_000_000,
            // Unknown: whoever started in this tick is taken for a stranger.
            last_pid: last_pid.unwrap_or(u32::MAX),
        }
    }

    fn process_of(&self, tid: u32) -> Option<Process> {
        if tid == 0 {
            return None;
        }
        let pid = group_of(tid)?;
        Some(Process {
            pid,
            started: stat(pid)?.started,
        })
    }

    fn parent(&self, pid: u32) -> Option<Process> {
        let parent = stat(pid)?.parent;
        if parent == 0 {
            return None;
        }
        Some(Process {
            pid: parent,
            started: stat(parent)?.started,
        })
    }

    fn image(&self, pid: u32) -> Option<Image> {
        let stack = stat(pid)?.stack;
        let program = fs::read_link(format!("/proc/{pid}/exe"))
            .map(std::path::PathBuf::into_os_string)
            .unwrap_or_else(|_| OsString::new());
        Some(Image { stack, program })
    }

    fn fate(&self, tid: u32) -> Fate {
        match stat(tid) {
            Some(stat) if stat.flags & PF_EXITING != 0 && stat.exit_code & 0x7f != 0 => {
                Fate::Killed
            }
            _ => Fate::Finished,
        }
    }

    fn alive(&self, process: Process) -> bool {
        stat(process.pid)
            .is_some_and(|stat| stat.started == process.started && stat.flags & PF_EXITING == 0)
    }

    fn signalled(&self, tid: u32) -> bool {
        let Some(status) = read_short(&format!("/proc/{tid}/status")) else {
            return true; // The thread is gone: nobody waits any more.
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
        stat(pid).map(|stat| stat.comm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("17 (a) b (c)) S {}", numbers.join(" "));
        let stat = parse_stat(&line).expect("a stat line");
        assert_eq!(stat.comm, "a) b (c)");
        assert_eq!((stat.parent, stat.flags, stat.started), (4, 9, 22));
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
