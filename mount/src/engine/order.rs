//! The order in which operations on names take effect.
//!
//! close() does not wait for the publish that follows it, yet whoever looks
//! next must see its result. So a publish takes its place in the order when the
//! close is *received*; what comes later and concerns the same name or the same
//! directory waits for it, and nothing else does.
//!
//! Invariants:
//! 1. An operation runs when no earlier one that conflicts with it is unfinished.
//! 2. An operation takes its place in all its queues in one step, so two operations have the
//!    same order in every queue they share, and waiting can have no cycle.
//! 3. Nothing waits in a thread: what has to wait is kept as a job and handed to
//!    the pool when its turn has come.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polystore::disk::FileId;

use super::slot::SlotKey;

/// Work that has been received and not yet done.
pub type Job = Box<dyn FnOnce() + Send>;

/// For whom a job is done: the number of a user.
pub type User = u32;

/// Where a job runs.
pub type Spawn = Arc<dyn Fn(User, Job) + Send + Sync>;

/// What an operation concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// One name in one directory.
    Slot(SlotKey),
    /// The list of names in a directory, and its times.
    Dir(FileId),
    /// The content of what the editors of a name share.
    Edit(u64),
}

/// Whether an operation tolerates others beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With other shared ones.
    Shared,
    /// Alone.
    Exclusive,
}

/// A set of keys, each with its mode; no key stands in it twice.
#[derive(Clone, Debug, Default)]
pub struct Claim(Vec<(Key, Mode)>);

impl Claim {
    /// To look at a name.
    pub fn look(slot: SlotKey) -> Claim {
        Claim(vec![(Key::Slot(slot), Mode::Shared)])
    }

    /// To change what a name stands for, and thereby the directory's list.
    pub fn change(slot: SlotKey) -> Claim {
        Claim(vec![
            (Key::Dir(slot.dir), Mode::Shared),
            (Key::Slot(slot), Mode::Exclusive),
        ])
    }

    /// To read the list of names of a directory, or to change the directory itself.
    pub fn whole(dir: FileId) -> Claim {
        Claim(vec![(Key::Dir(dir), Mode::Exclusive)])
    }

    /// To change the content of edit number `edit` beside others who do.
    pub fn beside(edit: u64) -> Claim {
        Claim(vec![(Key::Edit(edit), Mode::Shared)])
    }

    /// To change which file holds the content of edit number `edit`.
    pub fn alone(edit: u64) -> Claim {
        Claim(vec![(Key::Edit(edit), Mode::Exclusive)])
    }

    /// This claim and that one; where both name a key, the stronger mode counts.
    pub fn and(mut self, other: Claim) -> Claim {
        for (key, mode) in other.0 {
            match self.0.iter_mut().find(|(mine, _)| *mine == key) {
                Some((_, Mode::Exclusive)) => {}
                Some((_, mine)) => *mine = mode,
                None => self.0.push((key, mode)),
            }
        }
        self
    }
}

struct Waiting {
    claim: Claim,
    user: User,
    job: Option<Job>,
}

#[derive(Default)]
struct Queues {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    keys: HashMap<Key, VecDeque<(u64, Mode)>>,
}

impl Queues {
    fn free(&self, claim: &Claim) -> bool {
        claim.0.iter().all(|(key, mode)| {
            self.keys.get(key).is_none_or(|queue| {
                *mode == Mode::Shared && queue.iter().all(|(_, other)| *other == Mode::Shared)
            })
        })
    }

    fn may_run(&self, operation: u64, claim: &Claim) -> bool {
        claim.0.iter().all(|(key, mode)| {
            let Some(queue) = self.keys.get(key) else {
                return true;
            };
            queue
                .iter()
                .take_while(|(other, _)| *other != operation)
                .all(|(_, earlier)| *mode == Mode::Shared && *earlier == Mode::Shared)
        })
    }

    /// Takes the job of `operation` if its turn has come.
    fn take_if_ready(&mut self, operation: u64) -> Option<(User, Job)> {
        let waiting = self.waiting.get(&operation)?;
        if waiting.job.is_none() || !self.may_run(operation, &waiting.claim) {
            return None;
        }
        let waiting = self.waiting.get_mut(&operation)?;
        Some((waiting.user, waiting.job.take()?))
    }

    fn remove(&mut self, operation: u64) -> Vec<(u64, (User, Job))> {
        let Some(done) = self.waiting.remove(&operation) else {
            return Vec::new();
        };
        let mut candidates = Vec::new();
        for (key, _) in &done.claim.0 {
            let Some(queue) = self.keys.get_mut(key) else {
                continue;
            };
            queue.retain(|(other, _)| *other != operation);
            if queue.is_empty() {
                self.keys.remove(key);
            } else {
                candidates.extend(queue.iter().map(|(other, _)| *other));
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
            .into_iter()
            .filter_map(|other| Some((other, self.take_if_ready(other)?)))
            .collect()
    }
}

/// Keeps the order; shared by all who receive or finish operations.
#[derive(Clone)]
pub struct Order {
    queues: Arc<Mutex<Queues>>,
    spawn: Spawn,
}

impl Order {
    /// An order whose jobs run by `spawn`.
    pub fn new(spawn: Spawn) -> Order {
        Order {
            queues: Arc::default(),
            spawn,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Only moves of plain data happen under this lock: a panic elsewhere leaves it sound.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an operation with `claim` would find nothing to wait for. For the thread that
    /// receives requests this stays true until it queues the next one.
    pub fn is_free(&self, claim: &Claim) -> bool {
        self.lock().free(claim)
    }

    /// Queues `job` of `user`; it runs elsewhere when everything it has to wait for is done.
    pub fn queue(&self, claim: Claim, user: User, job: Job) {
        let mut queues = self.lock();
        let operation = queues.next;
        queues.next += 1;
        for (key, mode) in &claim.0 {
            queues
                .keys
                .entry(key.clone())
                .or_default()
                .push_back((operation, *mode));
        }
        queues.waiting.insert(
            operation,
            Waiting {
                claim,
                user,
                job: Some(job),
            },
        );
        let ready = queues.take_if_ready(operation);
        drop(queues);
        if let Some(job) = ready {
            self.start(operation, job);
        }
    }

    /// Whether nothing is queued or running.
    pub fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn start(&self, operation: u64, (user, job): (User, Job)) {
        let order = self.clone();
        let run = Box::new(move || {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("an operation panicked; its caller got an I/O error");
            }
            let ready = order.lock().remove(operation);
            for (next, job) in ready {
                order.start(next, job);
            }
        });
        (self.spawn)(user, run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// An order whose jobs are run by hand.
    fn by_hand() -> (Order, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel::<Job>();
        let sender = Mutex::new(sender);
        let spawn: Spawn = Arc::new(move |_, job| {
            let _ = sender.lock().expect("not poisoned").send(job);
        });
        (Order::new(spawn), jobs)
    }

    fn slot(inode: u64, name: &str) -> SlotKey {
        SlotKey {
            dir: FileId { device: 1, inode },
            name: name.into(),
        }
    }

    fn note(log: &Arc<Mutex<Vec<&'static str>>>, what: &'static str) -> Job {
        let log = log.clone();
        Box::new(move || log.lock().expect("not poisoned").push(what))
    }

    fn run_all(jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.try_recv() {
            job();
        }
    }

    #[test]
    fn a_look_waits_for_the_change_before_it_and_not_for_others() {
        let (order, jobs) = by_hand();
        let log = Arc::default();
        order.queue(Claim::change(slot(1, "a")), 7, note(&log, "publish a"));
        assert!(!order.is_free(&Claim::look(slot(1, "a"))));
        assert!(order.is_free(&Claim::look(slot(1, "b"))));
        assert!(order.is_free(&Claim::look(slot(2, "a"))));
        assert!(!order.is_free(&Claim::whole(FileId {
            device: 1,
            inode: 1
        })));
        order.queue(Claim::look(slot(1, "a")), 7, note(&log, "look"));
        order.queue(
            Claim::whole(FileId {
                device: 1,
                inode: 1,
            }),
            7,
            note(&log, "list"),
        );
        order.queue(Claim::change(slot(1, "b")), 7, note(&log, "publish b"));
        run_all(&jobs);
        assert_eq!(
            *log.lock().expect("not poisoned"),
            ["publish a", "look", "list", "publish b"]
        );
        assert!(order.is_idle());
    }

    #[test]
    fn changes_of_two_names_in_opposite_order_do_not_deadlock() {
        let (order, jobs) = by_hand();
        let log = Arc::default();
        for _ in 0..3 {
            let (a, b) = (Claim::change(slot(1, "a")), Claim::change(slot(1, "b")));
            order.queue(a.clone().and(b.clone()), 7, note(&log, "a b"));
            order.queue(b.and(a), 7, note(&log, "b a"));
        }
        run_all(&jobs);
        assert_eq!(
            *log.lock().expect("not poisoned"),
            ["a b", "b a", "a b", "b a", "a b", "b a"]
        );
    }

    #[test]
    fn a_panic_does_not_stop_what_waits_behind_it() {
        let (order, jobs) = by_hand();
        let log = Arc::default();
        order.queue(
            Claim::change(slot(1, "a")),
            7,
            Box::new(|| panic!("for the test")),
        );
        order.queue(Claim::change(slot(1, "a")), 7, note(&log, "next"));
        run_all(&jobs);
        assert_eq!(*log.lock().expect("not poisoned"), ["next"]);
    }
}
