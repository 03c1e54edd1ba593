//! Being told when a lock may have become free.
//!
//! There is no system call that waits for a lock and gives up after a time, and
//! a thread that waits without end cannot be called off. Polling alone hands a
//! lock over half an interval late. So a waiter polls, but is
//! woken early: on Linux by inotify, which tells of every descriptor of the lock file that is closed,
//! by whatever process, and also when that process is killed. Where no such word comes
//! (other systems, other hosts of a network file system, a holder that unlocks without
//! closing), the interval decides, as it would have without.

#[cfg(target_os = "linux")]
pub(crate) use linux::ReleaseWatch;

#[cfg(not(target_os = "linux"))]
pub(crate) use sleep::ReleaseWatch;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

    /// Instances of inotify are kept for the next waiter, never closed: that takes 10 ms, which would
    /// be spent holding the lock. A user has 128 of them, so a process makes few.
    static IDLE: Mutex<Idle> = Mutex::new(Idle {
        process: 0,
        made: 0,
        instances: Vec::new(),
    });
    const MOST: usize = 8;

    struct Idle {
        /// A forked child shares its parent's instances and would eat its events, so it makes its own.
        process: u32,
        made: usize,
        instances: Vec<OwnedFd>,
    }

    /// Tells when a descriptor of a file was closed.
    pub(crate) struct ReleaseWatch {
        /// The instance and the number of the watch; none if there are no more to be had.
        watch: Option<(OwnedFd, i32)>,
    }

    impl ReleaseWatch {
        pub(crate) fn new(file: &File) -> ReleaseWatch {
            // By descriptor: the path may lead to another file by now.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let watch = take_instance().and_then(|instance| {
                let events =
                    WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE | WatchFlags::ATTRIB;
                match inotify::add_watch(&instance, path, events) {
                    Ok(watch) => Some((instance, watch)),
                    Err(_) => {
                        keep_instance(instance);
                        None
                    }
                }
            });
            ReleaseWatch { watch }
        }

        /// Returns when a descriptor was closed since the last call, or after `at_most`.
        /// `true` if there was word; may be wrong either way.
        pub(crate) fn wait(&self, at_most: Duration) -> bool {
            let Some((instance, _)) = &self.watch else {
                std::thread::sleep(at_most);
                return false;
            };
            let timeout = Timespec {
                tv_sec: at_most.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: at_most.subsec_nanos().into(),
            };
            let mut polled = [PollFd::new(instance, PollFlags::IN)];
            // A signal ends the wait early, which is as harmless as an event that meant nothing.
            let word =
                rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0);
            if word {
                drain(instance);
            }
            word
        }
    }

    impl Drop for ReleaseWatch {
        fn drop(&mut self) {
            if let Some((instance, watch)) = self.watch.take() {
                // Fails if the file is gone and the watch with it.
                let _ = inotify::remove_watch(&instance, watch);
                keep_instance(instance);
            }
        }
    }

    fn take_instance() -> Option<OwnedFd> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.process != std::process::id() {
            *idle = Idle {
                process: std::process::id(),
                made: 0,
                instances: Vec::new(),
            };
        }
        let instance = match idle.instances.pop() {
            Some(instance) => instance,
            None if idle.made < MOST => {
                let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
                idle.made += 1;
                instance
            }
            None => return None,
        };
        drain(&instance);
        Some(instance)
    }

    fn keep_instance(instance: OwnedFd) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.process == std::process::id() {
            idle.instances.push(instance);
        }
    }

    fn drain(instance: &OwnedFd) {
        let mut events = [0_u8; 1024];
        while rustix::io::read(instance, &mut events).is_ok_and(|len| len > 0) {}
    }
}

#[cfg(not(target_os = "linux"))]
mod sleep {
    use std::fs::File;
    use std::time::Duration;

    pub(crate) struct ReleaseWatch;

    impl ReleaseWatch {
        pub(crate) fn new(_file: &File) -> ReleaseWatch {
            ReleaseWatch
        }

        pub(crate) fn wait(&self, at_most: Duration) -> bool {
            std::thread::sleep(at_most);
            false
        }
    }
}
