//! What has to be looked at from time to time: promises that nobody keeps, waiters that got a
//! signal, opens that met a lease, drafts that have become old, superseded versions, salvage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fs::Fs;
use crate::engine::draft::Phase;

/// How soon a waiter's signal is noticed.
const WHILE_WAITING: Duration = Duration::from_millis(50);

/// How often the rest is looked at.
const OTHERWISE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    hurry: bool,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Asked>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        // Two flags, each valid by itself.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, unless asked not to. What was asked.
    fn sleep(&self, pause: Duration) -> Asked {
        let asleep = |asked: &mut Asked| *asked == Asked::default();
        let woken = self.changed.wait_timeout_while(self.lock(), pause, asleep);
        let (mut asked, _) = woken.unwrap_or_else(PoisonError::into_inner);
        let now = *asked;
        asked.hurry = false;
        now
    }
}

/// Tells the thread that looks that somebody has begun to wait.
#[derive(Clone, Default)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Has it look more often from now on, while anybody waits.
    pub fn wake(&self) {
        self.0.lock().hurry = true;
        self.0.changed.notify_one();
    }
}

/// The thread that looks; it ends when this is dropped.
pub struct Ticker {
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts looking after `fs`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(fs: &Arc<Fs>) -> std::io::Result<Ticker> {
        let waker = fs.waker.clone();
        let (fs, shared) = (Arc::downgrade(fs), waker.0.clone());
        let thread = std::thread::Builder::new()
            .name("ticker".to_owned())
            .spawn(move || run(&fs, &shared))?;
        Ok(Ticker {
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.waker.0.lock().stop = true;
        self.waker.0.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of it has been logged.
        }
    }
}

fn run(fs: &Weak<Fs>, shared: &Shared) {
    let mut pause = OTHERWISE;
    let (securing, purging) = (Arc::default(), Arc::default());
    loop {
        let asked = shared.sleep(pause);
        let Some(fs) = fs.upgrade().filter(|_| !asked.stop) else {
            return;
        };
        if asked.hurry {
            pause = WHILE_WAITING;
            continue;
        }
        let round = catch_unwind(AssertUnwindSafe(|| {
            fs.turns.end_abandoned();
            for promised in fs.promises.expired(&fs.locks.waiting_threads()) {
                fs.promise_broken(&promised);
            }
            fs.tree.forget_superseded();
            fs.second_looks.forget_old();
        }));
        if round.is_err() {
            log::error!("a round of upkeep panicked");
        }
        secure_old(&fs, &securing);
        purge_salvage(&fs, &purging);
        let waiting = fs.locks.anyone_waiting();
        if waiting {
            fs.locks.look_after_waiters(&fs.engine.processes);
        }
        let leased = fs.retry_leased();
        pause = match fs.send_late_replies() || waiting || leased {
            true => WHILE_WAITING,
            false => OTHERWISE,
        };
    }
}

/// Has drafts that have become old secured.
fn secure_old(fs: &Arc<Fs>, securing: &Arc<AtomicBool>) {
    let old = fs.engine.old_drafts();
    if old.is_empty() {
        return;
    }
    one_at_a_time(fs, securing, move |fs| {
        for draft in old.iter().filter(|draft| draft.phase() == Phase::Private) {
            fs.engine.secure(draft);
        }
    });
}

/// Has salvage looked through, if it may hold too much.
fn purge_salvage(fs: &Arc<Fs>, purging: &Arc<AtomicBool>) {
    let salvage = fs.engine.salvage.as_ref();
    if salvage.is_some_and(|salvage| salvage.is_due()) {
        one_at_a_time(fs, purging, |fs| {
            if let Some(salvage) = &fs.engine.salvage {
                salvage.purge_if_due();
            }
        });
    }
}

/// Has `work` done by a thread of the pool, because the disk may be slow, unless one is `busy` with such work.
fn one_at_a_time(
    fs: &Arc<Fs>,
    busy: &Arc<AtomicBool>,
    work: impl FnOnce(&Arc<Fs>) + Send + 'static,
) {
    if busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let done = Busy(busy.clone());
    fs.aside(move |fs| {
        let _done = done;
        work(fs);
    });
}

/// Says that the work is over, even if it panicked.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
