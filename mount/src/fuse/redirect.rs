//! Promises: an OPEN of a published file that was answered ESTALE, so that the kernel
//! looks the name up once more and is shown the draft, or the edit.
//!
//! Invariants:
//! 1. A promise belongs to one thread and one slot; a thread has one promise for a slot at most.
//! 2. It ends when what it promises is opened, when its thread has ended, or after [`LONGEST`].
//! 3. While it lives, so does what it promises: see [`Engine::promise`](crate::engine::Engine::promise).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polystore::disk::SystemDisk;

use super::proc::has_ended;
use crate::engine::draft::Draft;
use crate::engine::editing::Edit;
use crate::engine::slot::SlotKey;

/// A thread that was not killed comes back long before this.
const LIFETIME: Duration = Duration::from_secs(1);

/// However slow.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether thread `tid`, which was told to look again at `since`, does not come back. One that is
/// held up does; one that was killed does not.
fn has_gone(tid: u32, since: Instant) -> bool {
    since.elapsed() >= LONGEST || has_ended(tid)
}

/// What somebody is to be shown instead of the published file.
#[derive(Clone)]
pub enum Promised {
    /// The draft of a rewrite.
    Draft(Arc<Draft<SystemDisk>>),
    /// An edit.
    Edit(Arc<Edit<SystemDisk>>),
}

impl Promised {
    /// The slot in whose stead it is shown.
    pub fn slot(&self) -> SlotKey {
        match self {
            Promised::Draft(draft) => draft.place.slot.clone(),
            Promised::Edit(edit) => edit.place().slot,
        }
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Promised) -> bool {
        match (self, other) {
            (Promised::Draft(one), Promised::Draft(other)) => one.id == other.id,
            (Promised::Edit(one), Promised::Edit(other)) => one.id == other.id,
            _ => false,
        }
    }
}

struct Promise {
    what: Promised,
    made: Instant,
}

/// All promises.
#[derive(Default)]
pub struct Promises {
    map: Mutex<HashMap<(u32, SlotKey), Promise>>,
    count: AtomicUsize,
}

impl Promises {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u32, SlotKey), Promise>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises `what` to thread `tid`. Returns what was promised to it for that slot before.
    pub fn make(&self, tid: u32, what: Promised) -> Option<Promised> {
        let slot = what.slot();
        let mut map = self.lock();
        let promise = Promise {
            what,
            made: Instant::now(),
        };
        let before = map.insert((tid, slot), promise);
        self.count.store(map.len(), Ordering::Release);
        before.map(|promise| promise.what)
    }

    /// What thread `tid` is to be shown under `slot`.
    pub fn see(&self, tid: u32, slot: &SlotKey) -> Option<Promised> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lock()
            .get(&(tid, slot.clone()))
            .map(|promise| promise.what.clone())
    }

    /// Ends the promise of thread `tid` for `slot`: it is being kept.
    pub fn take(&self, tid: u32, slot: &SlotKey) -> Option<Promised> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut map = self.lock();
        let promise = map.remove(&(tid, slot.clone()));
        self.count.store(map.len(), Ordering::Release);
        promise.map(|promise| promise.what)
    }

    /// Ends all promises.
    pub fn take_all(&self) -> Vec<Promised> {
        self.lock()
            .drain()
            .map(|(_, promise)| promise.what)
            .collect()
    }

    /// Ends the promises that will not be kept. The threads in `waiting` have come back, and wait
    /// for something else before they open.
    pub fn expired(&self, waiting: &HashSet<u32>) -> Vec<Promised> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut map = self.lock();
        let mut broken = Vec::new();
        map.retain(|(tid, _), promise| {
            if waiting.contains(tid) {
                promise.made = Instant::now();
            }
            let gone = has_gone(*tid, promise.made);
            if gone {
                broken.push(promise.what.clone());
            }
            !gone
        });
        self.count.store(map.len(), Ordering::Release);
        broken
    }
}

/// What is expected of a thread that was told to look again.
struct SecondLook {
    until: Instant,
    looked: bool,
}

impl SecondLook {
    fn within(time: Duration) -> SecondLook {
        SecondLook {
            until: Instant::now() + time,
            looked: false,
        }
    }

    fn is_expected(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Threads whose open was answered ESTALE, so that they look the name up again. What they find the
/// second time may have been replaced as well; a third time they do not look.
#[derive(Default)]
pub struct SecondLooks {
    map: Mutex<HashMap<u32, SecondLook>>,
    count: AtomicUsize,
}

impl SecondLooks {
    fn change<T>(&self, change: impl FnOnce(&mut HashMap<u32, SecondLook>) -> T) -> T {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut map);
        self.count.store(map.len(), Ordering::Release);
        done
    }

    /// Thread `tid` is told to look again.
    pub fn asked(&self, tid: u32) {
        self.change(|map| map.insert(tid, SecondLook::within(LONGEST)));
    }

    /// Thread `tid`, which wants to know of a file, is told that it is gone: it may be about to open it.
    pub fn asked_to_know(&self, tid: u32) {
        self.change(|map| {
            map.entry(tid)
                .or_insert_with(|| SecondLook::within(LIFETIME));
        });
    }

    /// Whether thread `tid` was just told so.
    pub fn asked_before(&self, tid: u32) -> bool {
        self.any() && self.change(|map| map.get(&tid).is_some_and(SecondLook::is_expected))
    }

    /// Thread `tid` looks a name up.
    pub fn looks(&self, tid: u32) {
        if self.any() {
            self.change(|map| {
                if let Some(look) = map.get_mut(&tid) {
                    look.looked = true;
                }
            });
        }
    }

    /// Whether thread `tid` has looked a name up since it was told to look again: what it opens otherwise is
    /// known to it by a descriptor.
    pub fn has_looked(&self, tid: u32) -> bool {
        self.change(|map| map.get(&tid).is_some_and(|look| look.looked))
    }

    /// Whether any thread was.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Thread `tid` has found nothing under a name. The kernel tells its program so, or asks a second time
    /// and then opens what has been made meanwhile.
    pub fn missed(&self, tid: u32) {
        if self.any() {
            self.change(|map| {
                if let Some(look) = map.get_mut(&tid) {
                    look.until = look.until.min(Instant::now() + LIFETIME);
                }
            });
        }
    }

    /// Thread `tid` has opened what it wanted.
    pub fn seen(&self, tid: u32) {
        if self.any() {
            self.change(|map| map.remove(&tid));
        }
    }

    /// Forgets those who do not come back.
    pub fn forget_old(&self) {
        if self.any() {
            self.change(|map| map.retain(|_, look| look.is_expected()));
        }
    }
}
