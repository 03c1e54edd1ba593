//! Whether anybody serves a FUSE mount.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

/// How long a live program may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its program answers.
    Alive,
    /// "Transport endpoint is not connected": its program is gone.
    Dead,
    /// No answer in time.
    Silent,
    /// It could not be asked: it belongs to another user.
    Refused,
}

/// Asks the mount whose root is `root` (O_PATH). As root it is asked in the name of its `owner`,
/// the only one whom it answers for certain.
///
/// A question to a hung program cannot be taken back, so a child process asks it.
pub fn ask(root: &OwnedFd, owner: Option<(u32, u32)>) -> io::Result<Answer> {
    let become_owner = owner.filter(|_| rustix::process::geteuid().is_root());
    // SAFETY: the child does system calls only, with nothing allocated or locked, and ends with _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = question(root, become_owner);
            // SAFETY: ends the child without running what the parent has registered for its own end.
            unsafe { libc::_exit(code) }
        }
        child => Pid::from_raw(child).map_or(Ok(Answer::Silent), answer),
    }
}

/// Runs in the child: the exit code tells the answer.
fn question(root: &OwnedFd, become_owner: Option<(u32, u32)>) -> i32 {
    if let Some((user, group)) = become_owner {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        if set_thread_res_gid(group, group, group).is_err()
            || set_thread_res_uid(user, user, user).is_err()
        {
            return 2;
        }
    }
    // FORCE_SYNC: attributes that the kernel remembers of a dead mount are no sign of life.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    match rustix::fs::statx(root, "", flags, StatxFlags::BASIC_STATS) {
        Err(Errno::NOTCONN | Errno::CONNABORTED) => 1,
        Err(Errno::ACCESS | Errno::PERM) => 2,
        _ => 0,
    }
}

fn answer(child: Pid) -> io::Result<Answer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = waitpid(Some(child), WaitOptions::NOHANG)?;
        match status.and_then(|(_, status): (Pid, WaitStatus)| status.exit_status()) {
            Some(0) => return Ok(Answer::Alive),
            Some(1) => return Ok(Answer::Dead),
            Some(_) => return Ok(Answer::Refused),
            None if status.is_some() || Instant::now() >= deadline => {
                // It may be beyond the reach of signals; then it ends when the program does.
                let _ = kill_process(child, Signal::KILL);
                return Ok(Answer::Silent);
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_disk_is_alive() {
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(ask(&directory.into(), None).unwrap(), Answer::Alive);
    }
}
