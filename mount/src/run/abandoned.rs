//! Mounts whose process was killed and does not end.
//!
//! A thread that waits in the kernel for something that this very mount holds up (a page, a directory's lock)
//! cannot be killed, and as long as it is there /dev/fuse stays open: requests wait for ever, and the mount is not
//! "not connected". Ending the connection from outside frees all of them. It must not be done to a process that lives:
//! one that is stopped, or busy, has not lost anything yet.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mountinfo::Entry;
use super::serving;
use crate::quote;

/// Where the kernel lets connections be ended, if that is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How long a process that was killed has to end by itself.
const DYING: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(20);

/// Ends the connection of the mount `entry` at `mountpoint` if the process that served it was killed and
/// hangs. Whether that was so.
///
/// # Errors
/// This user may not, and what would help.
pub fn end(entry: &Entry, mountpoint: &Path) -> io::Result<bool> {
    // Asked once: who hangs takes no calls, and only so many can wait.
    let served = serving::listeners(entry).unwrap_or_default();
    if served.is_empty() || !stay_killed(&served) {
        return Ok(false);
    }
    abort(entry, mountpoint)?;
    // What waited in it returns now; not for ever, should something else hold it up.
    stay_killed(&served);
    Ok(true)
}

/// Whether all processes have been killed, and are still there after a while.
fn stay_killed(processes: &[i32]) -> bool {
    let deadline = Instant::now() + DYING;
    while processes.iter().all(|pid| is_killed(*pid)) {
        if Instant::now() >= deadline {
            return true;
        }
        thread::sleep(PAUSE);
    }
    false
}

/// Whether each thread of a process has ended, is ending, or will end as soon as the kernel lets it.
fn is_killed(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        // In another namespace, or gone by now: then the mount is dead as any other.
        return false;
    };
    let mut all = threads.flatten().peekable();
    all.peek().is_some()
        && all.all(|thread| {
            let read = |name| fs::read_to_string(thread.path().join(name));
            match (read("stat"), read("status")) {
                (Ok(stat), Ok(status)) => is_ending(&stat) || has_pending_kill(&status),
                // It has gone meanwhile.
                _ => true,
            }
        })
}

/// Of the text of /proc/PID/task/TID/stat.
fn is_ending(stat: &str) -> bool {
    const EXITING: u64 = 0x4;
    // The name, in parentheses, may hold anything.
    let mut fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let state = fields.next().unwrap_or_default();
    let flags = fields
        .nth(5)
        .and_then(|flags| flags.parse().ok())
        .unwrap_or(0);
    matches!(state, "Z" | "X") || flags & EXITING != 0
}

/// Of the text of /proc/PID/task/TID/status. The end of a process is a SIGKILL to each of its threads.
fn has_pending_kill(status: &str) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    pending.is_some_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
}

fn abort(entry: &Entry, mountpoint: &Path) -> io::Result<()> {
    let number = entry.device.strip_prefix("0:").unwrap_or(&entry.device);
    let file = format!("{CONNECTIONS}/{number}/abort");
    let Err(error) = fs::write(&file, "1") else {
        return Ok(());
    };
    // As umount -f does it; root only. It is still there if somebody uses it.
    match rustix::mount::unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(_) => {
            let at = quote::path(mountpoint);
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!(
                    "{CONNECTIONS} is not mounted; root can mount it (mount -t fusectl fusectl {CONNECTIONS}), \
                     or end the connection (umount -f {at})"
                ),
                _ => format!(
                    "{error}; the owner of the mount can (echo 1 > {file}), and root (umount -f {at})"
                ),
            };
            let text = format!(
                "its process was killed and hangs, and its connection cannot be ended: {why}"
            );
            Err(io::Error::new(error.kind(), text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_end() {
        assert!(is_ending("12 (a) b) Z 1 12 12 0 -1 4194560 0"));
        assert!(is_ending("12 (name) D 1 12 12 0 -1 4194628 0"));
        assert!(!is_ending("12 (name) D 1 12 12 0 -1 4194560 0"));
        assert!(!is_ending("12 (Z) S 1 12 12 0 -1 4194560 0") && !is_ending(""));
        assert!(has_pending_kill(
            "State:\tD\nSigPnd:\t0000000000000100\nShdPnd:\t0\n"
        ));
        assert!(!has_pending_kill("SigPnd:\t0000000000000004\n") && !has_pending_kill(""));
    }

    #[test]
    fn a_living_process_is_not_killed() {
        assert!(!is_killed(std::process::id() as i32));
        assert!(!is_killed(i32::MAX));
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert!(!is_killed(pid));
        let number = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(number, rustix::process::Signal::STOP).unwrap();
        assert!(!is_killed(pid), "it is only stopped");
        child.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_killed(pid) {
            assert!(Instant::now() < deadline);
            thread::sleep(PAUSE);
        }
        child.wait().unwrap();
    }
}
