//! Opens that meet a lease.
//!
//! Who holds a lease on a file (fcntl(2), F_SETLEASE) is told by a signal when somebody else opens or cuts it,
//! and has a time (lease-break-time, 45 s) to give it up; the kernel lets that one wait. Here he would wait in the
//! thread that reads requests, or in one of the pool. So every open of a backing file is O_NONBLOCK:
//! it tells the holder, and fails with EWOULDBLOCK until the lease is gone.
//!
//! Invariants:
//! 1. Who waits for a lease to open a file waits without a thread: his request is kept and tried again from
//!    time to time.
//! 2. That ends: the lease is gone, a signal came, or it took longer than the kernel grants to its holder.
//! 3. No more than [`MOST_PARKED`] wait, and half of these for any one user.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fs::Fs;
use crate::engine::process::{Caller, Processes};
use crate::pool::working_for;

/// How many requests wait at most.
const MOST_PARKED: usize = 2048;

/// How many threads of the pool wait at most.
const MOST_ASLEEP: usize = 16;

/// After how long a request is tried again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long the kernel gives holders, unless it says otherwise.
const USUAL_BREAK_TIME: Duration = Duration::from_secs(45);

/// How much longer a request is tried than the holder has.
const SPARE: Duration = Duration::from_secs(5);

/// Whether an open failed because somebody holds a lease on the file.
pub fn is_leased(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn break_time() -> Duration {
    let seconds = std::fs::read_to_string("/proc/sys/fs/lease-break-time");
    let seconds = seconds.ok().and_then(|text| text.trim().parse().ok());
    seconds.map_or(USUAL_BREAK_TIME, Duration::from_secs)
}

/// How long a request has been tried.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    until: Instant,
    pause: Duration,
}

impl Tried {
    fn once() -> Tried {
        Tried {
            until: Instant::now() + break_time() + SPARE,
            pause: FIRST_PAUSE,
        }
    }

    fn again(self) -> Tried {
        Tried {
            pause: (self.pause * 2).min(LONGEST_PAUSE),
            ..self
        }
    }
}

type Retry = Box<dyn FnOnce(&Arc<Fs>, io::Result<Option<Tried>>) + Send>;

struct Parked {
    due: Instant,
    caller: Caller,
    tried: Tried,
    retry: Retry,
}

/// Requests that wait for leases.
#[derive(Default)]
pub struct Leases {
    parked: Mutex<Vec<Parked>>,
    asleep: AtomicUsize,
}

/// One of the threads that [`Leases::sleep`].
struct Asleep<'a>(&'a AtomicUsize);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Leases {
    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        // Entries are added and removed in single steps.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in a thread of the pool, for the writer of a file that is open already: a lease can come between
    /// him and the first write of an edit. `false` if that is enough, or too many do.
    pub fn sleep(&self, tried: &mut Option<Tried>) -> bool {
        let now = tried.map_or_else(Tried::once, Tried::again);
        *tried = Some(now);
        let free = |count| (count < MOST_ASLEEP).then_some(count + 1);
        if now.until <= Instant::now()
            || self
                .asleep
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, free)
                .is_err()
        {
            return false;
        }
        let _place = Asleep(&self.asleep);
        std::thread::sleep(now.pause);
        true
    }

    /// Keeps a request; gives it back where too many wait.
    fn park(&self, request: Parked) -> Result<(), Retry> {
        let mut parked = self.parked();
        let uid = request.caller.uid;
        let own = parked.iter().filter(|other| other.caller.uid == uid);
        if parked.len() >= MOST_PARKED || own.count() >= MOST_PARKED / 2 {
            return Err(request.retry);
        }
        parked.push(request);
        Ok(())
    }

    /// Takes out those for which `is_due`.
    fn take(&self, is_due: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        let mut parked = self.parked();
        let (due, rest) = parked.drain(..).partition(is_due);
        *parked = rest;
        due
    }
}

impl Fs {
    /// A request of `caller` met a lease. It goes on with `retry`, later: to try again, or with the error that
    /// the caller gets.
    pub fn wait_for_lease(
        self: &Arc<Self>,
        caller: Caller,
        tried: Option<Tried>,
        retry: impl FnOnce(&Arc<Fs>, io::Result<Option<Tried>>) + Send + 'static,
    ) {
        let tried = tried.map_or_else(Tried::once, Tried::again);
        let request = Parked {
            due: Instant::now() + tried.pause,
            caller,
            tried,
            retry: Box::new(retry),
        };
        match self.leases.park(request) {
            Ok(()) => self.waker.wake(),
            Err(retry) => retry(self, Err(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// Tries again what has waited long enough. Whether others go on waiting.
    pub fn retry_leased(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        for parked in self.leases.take(|parked| parked.due <= now) {
            let Parked {
                caller,
                tried,
                retry,
                ..
            } = parked;
            let _working = working_for(caller.uid);
            self.aside(move |fs| {
                let go_on = if caller.tid != 0 && fs.engine.processes.signalled(caller.tid) {
                    Err(io::ErrorKind::Interrupted.into())
                } else if tried.until <= Instant::now() {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(Some(tried))
                };
                retry(fs, go_on);
            });
        }
        !self.leases.parked().is_empty()
    }

    /// The mount ends: nobody waits any more.
    pub fn give_up_leased(self: &Arc<Self>) {
        for parked in self.leases.take(|_| true) {
            (parked.retry)(self, Err(io::ErrorKind::Interrupted.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uid: u32) -> Parked {
        let now = Instant::now();
        Parked {
            due: now,
            caller: Caller {
                tid: 1,
                uid,
                gid: 0,
            },
            tried: Tried {
                until: now,
                pause: FIRST_PAUSE,
            },
            retry: Box::new(|_, _| ()),
        }
    }

    #[test]
    fn one_user_leaves_room_for_others() {
        let leases = Leases::default();
        for _ in 0..MOST_PARKED / 2 {
            assert!(leases.park(request(1)).is_ok());
        }
        assert!(leases.park(request(1)).is_err());
        assert!(leases.park(request(2)).is_ok());
        assert_eq!(leases.take(|_| true).len(), MOST_PARKED / 2 + 1);
        assert!(leases.park(request(1)).is_ok());
    }
}
