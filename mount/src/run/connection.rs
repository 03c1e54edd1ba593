//! The connection between the kernel and the process of a mount: ending it by force, and seeing to it that it ends
//! with the process.
//!
//! The kernel ends a connection when its last descriptor is closed. A thread that waits in the kernel for an
//! answer of its own process (for a page, say) keeps the descriptor open when the process is killed, and is not
//! killed itself before it has the answer: everybody who uses the mount would hang for ever. So another
//! process, which has nothing open, is told by the kernel when this one dies, and aborts the connection.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use super::mountinfo::Entry;

/// How the guard is told; no program sends it.
const DEATH: i32 = 40;

/// What aborts a connection.
struct Way {
    /// Its file in fusectl, if that is mounted and may be written.
    file: Option<File>,
    /// Where it is mounted; root can unmount by force.
    mountpoint: Option<CString>,
}

impl Way {
    fn of(entry: &Entry) -> Way {
        let number = entry.device.split_once(':').map(|(_, minor)| minor);
        let file = number.and_then(|number| {
            let path = format!("/sys/fs/fuse/connections/{number}/abort");
            File::options().write(true).open(path).ok()
        });
        let root = rustix::process::geteuid().is_root();
        let mountpoint = CString::new(entry.mountpoint.as_os_str().as_bytes()).ok();
        Way {
            file,
            mountpoint: mountpoint.filter(|_| root),
        }
    }

    fn exists(&self) -> bool {
        self.file.is_some() || self.mountpoint.is_some()
    }

    /// Does system calls only: it is called in a process that was forked from one with several threads.
    fn go(&self) -> bool {
        // SAFETY: the pointers are to a constant and to a string that ends with 0; both are only read.
        unsafe {
            if let Some(file) = &self.file
                && libc::write(file.as_raw_fd(), c"1".as_ptr().cast(), 1) == 1
            {
                return true;
            }
            // The connection is aborted even where the mount is busy and stays.
            self.mountpoint.as_ref().is_some_and(|mountpoint| {
                let how = libc::MNT_FORCE | libc::UMOUNT_NOFOLLOW;
                libc::umount2(mountpoint.as_ptr(), how) == 0
                    || io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY)
            })
        }
    }
}

/// Aborts the connection of the mount `entry`: whoever waits for an answer gets an error.
///
/// # Errors
/// Neither fusectl nor an unmount by force is to be had.
pub fn abort(entry: &Entry) -> io::Result<()> {
    match Way::of(entry).go() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The process that aborts a connection if this one dies. It ends when this is dropped.
pub struct Guard(libc::pid_t);

impl Guard {
    /// Starts it for the mount `entry`, on behalf of the calling thread, which is to last as long as the process.
    ///
    /// # Errors
    /// It could do nothing, or cannot be started.
    pub fn start(entry: &Entry) -> io::Result<Guard> {
        let way = Way::of(entry);
        if !way.exists() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: the child does system calls only, with nothing allocated or locked, and ends with _exit.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                wait_for_death(&way, parent);
                way.go();
                // SAFETY: ends the child without running what the parent has registered for its own end.
                unsafe { libc::_exit(0) }
            }
            child => Ok(Guard(child)),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: the child is this process's own and was not waited for, so its number is not another's.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Runs in the child; returns when the parent is dead.
fn wait_for_death(way: &Way, parent: libc::pid_t) {
    let kept = way.file.as_ref().map_or(0, |file| file.as_raw_fd() as u32);
    // SAFETY: system calls with numbers, and with pointers to local variables and constants.
    unsafe {
        // Locks and pipes of the parent end with the parent.
        if kept > 0 {
            libc::syscall(libc::SYS_close_range, 0u32, kept - 1, 0u32);
        }
        libc::syscall(
            libc::SYS_close_range,
            kept + u32::from(way.file.is_some()),
            u32::MAX,
            0u32,
        );
        libc::setsid(); // What is sent to the group of the parent does not end it.
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"polystore-guard".as_ptr());
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut signals);
        libc::sigprocmask(libc::SIG_SETMASK, &signals, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, DEATH);
        if libc::getppid() != parent {
            return; // It was faster.
        }
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, DEATH);
        while libc::sigwaitinfo(&signals, std::ptr::null_mut()) != DEATH {}
    }
}
