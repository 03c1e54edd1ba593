//! Threads that do what may take long, so that the thread that reads requests never does.
//!
//! Invariant: whoever leaves a job never does it. A few threads are started with the pool, so that this
//! holds where no more can be had (a full pids cgroup, RLIMIT_NPROC).
//!
//! Each job is done for a user, and each user occupies his share of the threads at most: whoever keeps
//! threads busy with a slow disk leaves others theirs. What is beyond that waits, and is begun as threads
//! come free, the users in turn.
//!
//! The queues need no bound of their own: every job answers a request that the
//! kernel has sent, or settles a handle that it has released, and it sends no
//! more than there are waiting threads and `max_background` allows.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::order::{Job, User};
use crate::shares::{NOBODY, Rule, Split};

/// How many jobs can wait for a slow disk at a time before others wait for them.
pub const MOST_THREADS: usize = 256;

/// How many threads there are from the start.
const FEWEST_THREADS: usize = 4;

/// How many threads are kept for the mount's own work.
const OWN_THREADS: usize = 8;

/// How many threads a user gets while others keep as many busy as they may.
const FLOOR: usize = 2;

thread_local! {
    static USER: Cell<User> = const { Cell::new(NOBODY) };
}

/// For whom this thread works.
pub fn current_user() -> User {
    USER.get()
}

/// This thread works for `user` until what is returned is dropped: what it queues counts as his.
#[must_use]
pub fn working_for(user: User) -> Working {
    Working {
        before: USER.replace(user),
    }
}

/// While it is there, a thread works for a user.
pub struct Working {
    before: User,
}

impl Drop for Working {
    fn drop(&mut self) {
        USER.set(self.before);
    }
}

fn do_for(user: User, job: Job) {
    let _working = working_for(user);
    job();
}

struct State {
    /// What has its place among the threads, and begins as soon as one is awake.
    ready: VecDeque<(User, Job)>,
    /// What waits until its user may occupy another thread.
    kept: HashMap<User, VecDeque<Job>>,
    /// The users of `kept`, the next first.
    round: VecDeque<User>,
    /// Who occupies how many threads, or is about to.
    occupied: Split,
    threads: usize,
    idle: usize,
    running: usize,
}

impl State {
    /// Queues a job.
    fn add(&mut self, user: User, job: Job) {
        // His earlier ones come first.
        if !self.kept.contains_key(&user) && self.occupied.take(user, 1) {
            return self.ready.push_back((user, job));
        }
        let of_user = self.kept.entry(user).or_default();
        if of_user.is_empty() {
            self.round.push_back(user);
        }
        of_user.push_back(job);
    }

    /// A job of `user` is done: his thread is for whoever is next.
    fn done(&mut self, user: User) {
        self.occupied.give_back(user, 1);
        let mut refused = 0;
        while refused < self.round.len() {
            let Some(next) = self.round.pop_front() else {
                break;
            };
            if !self.occupied.take(next, 1) {
                refused += 1;
                self.round.push_back(next);
                continue;
            }
            refused = 0;
            let of_user = self.kept.get_mut(&next);
            let job = of_user.and_then(VecDeque::pop_front);
            match self.kept.get(&next) {
                Some(rest) if !rest.is_empty() => self.round.push_back(next),
                _ => drop(self.kept.remove(&next)),
            }
            self.ready.extend(job.map(|job| (next, job)));
        }
    }

    fn is_quiet(&self) -> bool {
        self.running == 0 && self.ready.is_empty() && self.kept.is_empty()
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    quiet: Condvar,
    most: usize,
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
    /// A pool of `most` threads at most, with its first ones. `owner` runs the mount, and uses it `alone` or
    /// with others.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(most: usize, owner: User, alone: bool) -> io::Result<Pool> {
        let rule = Rule::new(most, FLOOR, owner, alone).and_own(OWN_THREADS.min(most / 8));
        let pool = Pool(Arc::new(Shared {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                kept: HashMap::new(),
                round: VecDeque::new(),
                occupied: Split::new(rule),
                threads: 0,
                idle: 0,
                running: 0,
            }),
            work: Condvar::new(),
            quiet: Condvar::new(),
            most,
        }));
        for _ in 0..FEWEST_THREADS.min(most) {
            pool.0.lock().threads += 1;
            pool.start_thread()?;
        }
        Ok(pool)
    }

    /// Has `job` done for `user` by some thread, soon.
    pub fn spawn(&self, user: User, job: Job) {
        let mut state = self.0.lock();
        state.add(user, job);
        if state.idle >= state.ready.len() {
            self.0.work.notify_one();
        } else if state.threads < self.0.most {
            state.threads += 1;
            drop(state);
            self.start_further();
        }
    }

    /// Starts a thread that counts already. Where none can be started, one of the others does the job.
    fn start_further(&self) {
        if let Err(error) = self.start_thread() {
            log::debug!("no further thread can be started: {error}");
            self.0.lock().threads -= 1;
            self.0.work.notify_one();
        }
    }

    fn start_thread(&self) -> io::Result<()> {
        let pool = self.clone();
        std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || pool.work())
            .map(drop)
    }

    /// Returns when nothing is queued or running.
    pub fn drain(&self) {
        let mut state = self.0.lock();
        while !state.is_quiet() {
            state = self
                .0
                .quiet
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes or starts the threads that what is ready needs beside this one. With one job done, more than
    /// one may have become ready: others' shares have grown.
    fn have_others_help<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let needed = state.ready.len().saturating_sub(1);
        for _ in 0..needed.min(state.idle) {
            self.0.work.notify_one();
        }
        let missing = needed.saturating_sub(state.idle);
        let started = missing.min(self.0.most - state.threads);
        if started == 0 {
            return state;
        }
        state.threads += started;
        drop(state);
        for _ in 0..started {
            self.start_further();
        }
        self.0.lock()
    }

    fn work(&self) {
        let shared = &self.0;
        let mut state = shared.lock();
        loop {
            if let Some((user, job)) = state.ready.pop_front() {
                state.running += 1;
                drop(state);
                if catch_unwind(AssertUnwindSafe(|| do_for(user, job))).is_err() {
                    log::error!("a request panicked; its caller got an I/O error");
                }
                state = shared.lock();
                state.running -= 1;
                state.done(user);
                if state.is_quiet() {
                    shared.quiet.notify_all();
                }
                state = self.have_others_help(state);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    /// Jobs that begin when a thread has them, and end when they are told to.
    struct Slow {
        begun: Receiver<User>,
        say: Sender<User>,
        end: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Slow {
        fn new() -> Slow {
            let (say, begun) = channel();
            Slow {
                begun,
                say,
                end: Arc::default(),
            }
        }

        fn spawn(&self, pool: &Pool, user: User) {
            let (say, end) = (self.say.clone(), self.end.clone());
            let job = move || {
                assert_eq!(current_user(), user);
                let _ = say.send(user);
                let ended = end.0.lock().unwrap();
                drop(end.1.wait_while(ended, |ended| !*ended).unwrap());
            };
            pool.spawn(user, Box::new(job));
        }

        fn end_all(&self) {
            *self.end.0.lock().unwrap() = true;
            self.end.1.notify_all();
        }
    }

    fn quick(pool: &Pool, user: User) -> Receiver<User> {
        let (say, done) = channel();
        pool.spawn(user, Box::new(move || say.send(current_user()).unwrap()));
        done
    }

    #[test]
    fn slow_jobs_of_some_do_not_hold_up_others() {
        let pool = Pool::start(32, 1000, false).expect("threads");
        let slow = Slow::new();
        for user in [1, 2, 3] {
            for _ in 0..200 {
                slow.spawn(&pool, user);
            }
            let mut has = 0;
            while has < FLOOR {
                let begun = slow.begun.recv_timeout(SOON);
                has += usize::from(begun.expect("he has threads") == user);
            }
            for other in [4, 5, 0, 1000, NOBODY] {
                assert_eq!(quick(&pool, other).recv_timeout(SOON), Ok(other));
            }
        }
        let waits = quick(&pool, 1);
        assert!(waits.try_recv().is_err(), "he waits for his own");
        slow.end_all();
        assert_eq!(waits.recv_timeout(SOON), Ok(1));
        pool.drain();
        let state = pool.0.lock();
        assert!(state.is_quiet() && state.occupied.used() == 0 && state.round.is_empty());
    }

    #[test]
    fn users_take_turns() {
        let pool = Pool::start(1, 1000, true).expect("threads");
        let slow = Slow::new();
        slow.spawn(&pool, 1000);
        assert_eq!(slow.begun.recv_timeout(SOON), Ok(1000));
        let (say, order) = channel();
        for (user, count) in [(1000, 100), (0, 1)] {
            for number in 0..count {
                let say = say.clone();
                let job = move || say.send((user, number)).unwrap();
                pool.spawn(user, Box::new(job));
            }
        }
        slow.end_all();
        pool.drain();
        let order: Vec<_> = order.try_iter().collect();
        let place = order.iter().position(|(user, _)| *user == 0);
        assert!(place < Some(3), "root came as number {place:?}");
        let own: Vec<_> = order.iter().filter(|(user, _)| *user == 1000).collect();
        assert!(own.is_sorted(), "jobs of one user begin in their order");
    }

    #[test]
    fn whoever_is_alone_has_all_threads() {
        let pool = Pool::start(16, 1000, true).expect("threads");
        let slow = Slow::new();
        for _ in 0..100 {
            slow.spawn(&pool, 1000);
        }
        let own = OWN_THREADS.min(2);
        for _ in 0..16 - own {
            assert_eq!(slow.begun.recv_timeout(SOON), Ok(1000));
        }
        assert_eq!(quick(&pool, NOBODY).recv_timeout(SOON), Ok(NOBODY));
        slow.end_all();
        pool.drain();
    }

    #[test]
    fn a_panic_ends_no_thread_and_changes_nobody() {
        let pool = Pool::start(1, 1000, true).expect("threads");
        pool.spawn(7, Box::new(|| panic!("for the test")));
        assert_eq!(quick(&pool, 8).recv_timeout(SOON), Ok(8));
        assert_eq!(current_user(), NOBODY);
    }
}
