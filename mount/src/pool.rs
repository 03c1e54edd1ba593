//! Threads that do what may take long, so that the thread that reads requests never does.
//!
//! Invariant: whoever leaves a job never does it. A few threads are started with the pool, so that this
//! holds where no more can be had (a full pids cgroup, RLIMIT_NPROC).
//!
//! The queue needs no bound of its own: every job answers a request that the
//! kernel has sent, or settles a handle that it has released, and it sends no
//! more than there are waiting threads and `max_background` allows.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::order::Job;

/// How many jobs can wait for a slow disk at a time before others wait for them.
const MOST_THREADS: usize = 256;

/// How many threads there are from the start.
const FEWEST_THREADS: usize = 4;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    running: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    quiet: Condvar,
}

/// The threads; clones are the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock: a panic leaves the state sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A pool with its first threads.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start() -> io::Result<Pool> {
        let pool = Pool(Arc::default());
        for _ in 0..FEWEST_THREADS {
            pool.0.lock().threads += 1;
            pool.start_thread()?;
        }
        Ok(pool)
    }

    /// Has `job` done by some thread, soon.
    pub fn spawn(&self, job: Job) {
        let mut state = self.0.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.0.work.notify_one();
        } else if state.threads < MOST_THREADS {
            state.threads += 1;
            drop(state);
            if let Err(error) = self.start_thread() {
                // One of the others does the job.
                log::debug!("no further thread can be started: {error}");
                self.0.lock().threads -= 1;
                self.0.work.notify_one();
            }
        }
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = self.0.clone();
        std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || work(&shared))
            .map(drop)
    }

    /// Returns when nothing is queued or running.
    pub fn drain(&self) {
        let mut state = self.0.lock();
        while !state.jobs.is_empty() || state.running > 0 {
            state = self
                .0
                .quiet
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            state.running += 1;
            drop(state);
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a request panicked; its caller got an I/O error");
            }
            state = shared.lock();
            state.running -= 1;
            if state.running == 0 && state.jobs.is_empty() {
                shared.quiet.notify_all();
            }
        } else {
            state.idle += 1;
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
