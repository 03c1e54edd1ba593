//! Looks whether the thread that reads requests comes back to read.
//!
//! Everybody who uses the mount waits for that thread, and some of them cannot be killed. So if it is away for
//! long, the log says where it is, and after a longer time the connection to the kernel is aborted: programs
//! get an error instead of hanging.
//!
//! The thread says which request it is at by a few relaxed stores; whoever looks compares what it sees with what
//! it saw before, and the times between by its own clock, which stands still while the machine is suspended.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After how long the log says where the thread is.
const WORTH_SAYING: Duration = Duration::from_secs(10);

/// How often it is looked, at most.
const OFTEN: Duration = Duration::from_secs(1);

/// A pause between two looks that is so many times longer than it should be: this process was stopped, or
/// got no processor.
const STOPPED: u32 = 5;

macro_rules! kinds {
    ($($kind:ident $name:literal),* $(,)?) => {
        /// What the kernel asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Kind { $($kind),* }

        const NAMES: &[&str] = &[$($name),*];
    };
}

kinds! {
    Lookup "LOOKUP", Forget "FORGET", Getattr "GETATTR", Setattr "SETATTR", Readlink "READLINK", Mknod "MKNOD",
    Mkdir "MKDIR", Unlink "UNLINK", Rmdir "RMDIR", Symlink "SYMLINK", Rename "RENAME", Link "LINK", Open "OPEN",
    Create "CREATE", Read "READ", Write "WRITE", Flush "FLUSH", Release "RELEASE", Fsync "FSYNC",
    Opendir "OPENDIR", Readdir "READDIR", Readdirplus "READDIRPLUS", Releasedir "RELEASEDIR",
    Fsyncdir "FSYNCDIR", Statfs "STATFS", Setxattr "SETXATTR", Getxattr "GETXATTR", Listxattr "LISTXATTR",
    Removexattr "REMOVEXATTR", Getlk "GETLK", Setlk "SETLK", Fallocate "FALLOCATE", Lseek "LSEEK",
    CopyFileRange "COPY_FILE_RANGE", Ioctl "IOCTL",
}

/// What the thread that reads requests is at.
#[derive(Default)]
pub struct Reading {
    /// 0 while it waits for a request; else the request's number, and its kind in the last 8 bits.
    request: AtomicU64,
    node: AtomicU64,
    /// How many requests there were. Written by that thread only.
    count: AtomicU64,
    tid: AtomicU32,
}

/// A request that is being worked on by the thread that reads.
pub struct Busy<'a>(&'a Reading);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.request.store(0, Ordering::Relaxed);
    }
}

impl Reading {
    /// The thread that reads begins with a request about `node`.
    pub fn begin(&self, kind: Kind, node: u64) -> Busy<'_> {
        let count = self.count.load(Ordering::Relaxed) + 1;
        if count == 1 {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            self.tid.store(tid as u32, Ordering::Relaxed);
        }
        self.count.store(count, Ordering::Relaxed);
        self.node.store(node, Ordering::Relaxed);
        self.request
            .store(count << 8 | u64::from(kind as u8), Ordering::Relaxed);
        Busy(self)
    }

    /// The request, and where in the system the thread is, for people.
    fn describe(&self) -> String {
        let request = self.request.load(Ordering::Relaxed);
        let kind = NAMES.get(request as usize & 0xff).unwrap_or(&"a request");
        let node = self.node.load(Ordering::Relaxed);
        let mut text = format!("{kind} of node {node}");
        let tid = self.tid.load(Ordering::Relaxed);
        for what in ["syscall", "wchan", "stack"] {
            // Only root may read the stack.
            let read = std::fs::read_to_string(format!("/proc/self/task/{tid}/{what}"));
            if let Ok(found) = read {
                let lines: Vec<&str> = found.lines().map(str::trim).collect();
                let _ = write!(text, "; {what}: {}", lines.join(", "));
            }
        }
        text
    }
}

/// What is seen in what the thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    /// It has been at the same request for long.
    Slow,
    /// For longer than it may.
    Stuck,
}

/// What was seen so far.
struct Watch {
    limit: Duration,
    pause: Duration,
    last: Option<Duration>,
    request: u64,
    since: Duration,
    said: bool,
    over: bool,
}

impl Watch {
    fn new(limit: Duration) -> Watch {
        Watch {
            limit,
            pause: OFTEN.min(limit / 8),
            last: None,
            request: 0,
            since: Duration::ZERO,
            said: false,
            over: false,
        }
    }

    /// The thread is at `request` at the moment `now`.
    fn look(&mut self, now: Duration, request: u64) -> Option<Alarm> {
        let last = self.last.replace(now);
        let stopped = last.is_none_or(|last| now.saturating_sub(last) > self.pause * STOPPED);
        if stopped || request == 0 || request != self.request {
            self.request = request;
            self.since = now;
            self.said = false;
            return None;
        }
        let busy = now.saturating_sub(self.since);
        if busy >= self.limit && !self.over {
            self.over = true;
            return Some(Alarm::Stuck);
        }
        if busy >= WORTH_SAYING.min(self.limit / 2) && !self.said {
            self.said = true;
            return Some(Alarm::Slow);
        }
        None
    }
}

/// Aborts the connection to the kernel.
pub type Abort = Box<dyn Fn() -> std::io::Result<()> + Send>;

#[derive(Default)]
struct End {
    ended: Mutex<bool>,
    told: Condvar,
}

/// The thread that looks; it ends when this is dropped.
pub struct Watchdog {
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Looks after `reading`; has `abort` end the connection when the thread was away for `limit`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        reading: Arc<Reading>,
        limit: Duration,
        abort: Abort,
    ) -> std::io::Result<Watchdog> {
        let end: Arc<End> = Arc::default();
        let seen = end.clone();
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || run(&reading, Watch::new(limit), &abort, &seen))?;
        Ok(Watchdog {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self
            .end
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.end.told.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of it has been logged.
        }
    }
}

fn run(reading: &Reading, mut watch: Watch, abort: &Abort, end: &End) {
    // CLOCK_MONOTONIC: it does not count the time for which the machine is suspended.
    let start = Instant::now();
    loop {
        let ended = end.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = end
            .told
            .wait_timeout_while(ended, watch.pause, |ended| !*ended);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
        let request = reading.request.load(Ordering::Relaxed);
        let Some(alarm) = watch.look(start.elapsed(), request) else {
            continue;
        };
        let at = reading.describe();
        let busy = start.elapsed().saturating_sub(watch.since).as_secs_f32();
        match alarm {
            Alarm::Slow => log::error!("nothing was answered for {busy:.0} s: at {at}"),
            Alarm::Stuck => {
                log::error!("nothing was answered for {busy:.0} s: the mount is aborted; at {at}");
                if let Err(error) = abort() {
                    log::error!("the mount cannot be aborted, so its process ends: {error}");
                    std::process::abort();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen each second of a time in which the thread is at `request`.
    fn seen(watch: &mut Watch, seconds: std::ops::Range<u64>, request: u64) -> Vec<(u64, Alarm)> {
        let look = |second| {
            let alarm = watch.look(Duration::from_secs(second), request);
            alarm.map(|alarm| (second, alarm))
        };
        seconds.filter_map(look).collect()
    }

    #[test]
    fn a_request_that_takes_long_is_said_once_and_ended_once() {
        let mut watch = Watch::new(Duration::from_secs(120));
        assert_eq!(seen(&mut watch, 0..300, 0), []);
        let alarms = seen(&mut watch, 300..1000, 7);
        assert_eq!(alarms, [(310, Alarm::Slow), (420, Alarm::Stuck)]);
    }

    #[test]
    fn requests_that_follow_each_other_are_no_matter() {
        let mut watch = Watch::new(Duration::from_secs(120));
        for request in 1..100 {
            let start = request * 9;
            assert_eq!(seen(&mut watch, start..start + 9, request), []);
        }
    }

    #[test]
    fn a_time_in_which_nobody_looked_does_not_count() {
        let mut watch = Watch::new(Duration::from_secs(120));
        assert_eq!(seen(&mut watch, 0..9, 7), []);
        // SIGSTOP, for an hour.
        assert_eq!(seen(&mut watch, 3600..3610, 7), []);
        assert_eq!(seen(&mut watch, 3610..3612, 7), [(3610, Alarm::Slow)]);
    }

    #[test]
    fn the_log_says_which_request_it_is() {
        let reading = Reading::default();
        let busy = reading.begin(Kind::Create, 42);
        let text = reading.describe();
        assert!(text.starts_with("CREATE of node 42; syscall: "), "{text}");
        drop(busy);
        assert_eq!(reading.request.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn whoever_comes_back_is_left_alone() {
        let reading = Arc::new(Reading::default());
        let (sender, aborted) = std::sync::mpsc::channel();
        let abort: Abort = Box::new(move || {
            let _ = sender.send(());
            Ok(())
        });
        let limit = Duration::from_millis(400);
        let watchdog = Watchdog::start(reading.clone(), limit, abort).unwrap();
        for _ in 0..20 {
            let busy = reading.begin(Kind::Open, 1);
            std::thread::sleep(Duration::from_millis(40));
            drop(busy);
        }
        assert!(aborted.try_recv().is_err());
        let _busy = reading.begin(Kind::Open, 1);
        assert!(aborted.recv_timeout(Duration::from_secs(20)).is_ok());
        drop(watchdog);
    }
}
