//! When a change that the channel made is seen.
//!
//! The kernel keeps names and attributes for [`REMEMBERED`] after it was told of them. Having it drop a name
//! would take the directory's lock, which a program may hold that waits for this process. So names are never
//! dropped. Instead:
//!
//! 1. The attributes of the version that was replaced are dropped, which takes no lock of a directory. Who asks
//!    for them again under the old node is told those of the new version; who opens the old node is sent to look
//!    again.
//! 2. That does not help where the kernel remembers that there was no such name, or where somebody has the old
//!    version open, whose attributes must not change. Then the reply waits until the name is forgotten.
//! 3. Names that were changed by request a moment ago are not remembered, so that only the first of many changes
//!    has to wait.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::attr;
use super::super::fs::{Fs, REMEMBERED};
use super::super::turns::Turn;
use super::resolve::Target;
use crate::engine::order::Job;
use crate::engine::slot::SlotKey;

/// How long a name that was changed by request is not remembered.
const RECENT: Duration = Duration::from_secs(3);

/// How many names are kept as changed lately; a change of more has to wait.
const MOST_RECENT: usize = 4096;

/// How many moments are kept at which the kernel was told of names. Two names that share one may make a reply
/// wait for nothing.
const MOMENTS: usize = 8192;

/// When the kernel was last told of a name, in few bytes, for all names.
pub struct Told {
    start: Instant,
    /// Milliseconds since the start, by the names' hashes.
    moments: Box<[AtomicU32]>,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            start: Instant::now(),
            moments: (0..MOMENTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Told {
    fn moment(&self, parent: u64, name: &OsStr) -> &AtomicU32 {
        let mut hasher = DefaultHasher::new();
        (parent, name).hash(&mut hasher);
        &self.moments[hasher.finish() as usize % MOMENTS]
    }

    /// Wraps after 49 days, which may make a reply wait for nothing.
    fn now(&self) -> u32 {
        self.start.elapsed().as_millis() as u32
    }

    /// The kernel is about to be told of `name` in directory `parent`, or that there is none, and may remember that.
    pub fn tell(&self, parent: u64, name: &OsStr) {
        // The moment is later than the answer, and never that of the table's start.
        let now = self.now().wrapping_add(1).max(1);
        self.moment(parent, name).store(now, Ordering::Release);
    }

    /// For how long the kernel may still remember what it was told of that name.
    pub fn remembered_for(&self, parent: u64, name: &OsStr) -> Duration {
        let told = self.moment(parent, name).load(Ordering::Acquire);
        if told == 0 {
            return Duration::ZERO;
        }
        let age = self.now().wrapping_sub(told);
        // Told a moment ago, by a clock that is ahead of this one.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        // The kernel counts in ticks of its own, from when it has the answer.
        let longest = REMEMBERED + Duration::from_millis(20);
        longest.saturating_sub(Duration::from_millis(u64::from(age)))
    }
}

/// Names that were changed by request a moment ago.
#[derive(Default)]
pub struct Recent {
    until: Mutex<HashMap<SlotKey, Instant>>,
    count: AtomicUsize,
}

impl Recent {
    fn until(&self) -> MutexGuard<'_, HashMap<SlotKey, Instant>> {
        // Entries are set and removed in single steps.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `slot` is about to be changed.
    pub fn add(&self, slot: &SlotKey) {
        let (mut until, now) = (self.until(), Instant::now());
        if until.len() >= MOST_RECENT {
            until.retain(|_, until| *until > now);
        }
        if until.len() < MOST_RECENT || until.contains_key(slot) {
            until.insert(slot.clone(), now + RECENT);
        }
        self.count.store(until.len(), Ordering::Release);
    }

    /// Whether `slot` was changed a moment ago, or is about to be.
    pub fn has(&self, slot: &SlotKey) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let until = self.until();
        until.get(slot).is_some_and(|until| *until > Instant::now())
    }

    fn forget_old(&self) {
        if self.count.load(Ordering::Acquire) > 0 {
            let (mut until, now) = (self.until(), Instant::now());
            until.retain(|_, until| *until > now);
            self.count.store(until.len(), Ordering::Release);
        }
    }
}

/// Replies that wait for a moment.
#[derive(Default)]
pub struct Later(Mutex<Vec<(Instant, Job)>>);

impl Later {
    fn jobs(&self) -> MutexGuard<'_, Vec<(Instant, Job)>> {
        // Entries are added and removed in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any waits.
    pub fn any(&self) -> bool {
        !self.jobs().is_empty()
    }

    fn due(&self) -> Vec<Job> {
        let (mut jobs, now) = (self.jobs(), Instant::now());
        let (due, rest) = jobs.drain(..).partition(|(at, _)| *at <= now);
        *jobs = rest;
        let due: Vec<(Instant, Job)> = due;
        due.into_iter().map(|(_, job)| job).collect()
    }
}

/// What was done to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing, or nothing that can be seen.
    Nothing,
    /// It was made: there was none.
    Made,
    /// Another version took its name; the old one has this node, if the kernel knows it.
    Replaced(Option<u64>),
    /// It was written over.
    InPlace(Option<u64>),
}

impl Fs {
    /// Whether nobody may remember what `slot` stands for, because it changes at any moment.
    pub fn is_volatile(&self, slot: &SlotKey) -> bool {
        self.engine.has_drafts(slot) || self.channel.recent.has(slot)
    }

    /// Goes on with `then` when the writer of the request, and everybody else, sees that `target` was changed.
    /// The turn ends before that, as soon as nothing old can be read in the next one.
    pub fn show_change(self: &Arc<Self>, target: &Target, change: Shown, turn: Turn, then: Job) {
        // Of what is in a directory that it does not know the kernel remembers nothing.
        let parent = self.dir_node(target.place.slot.dir);
        let Some(parent) = parent.filter(|_| change != Shown::Nothing) else {
            drop(turn);
            return then();
        };
        let misled = match change {
            Shown::Nothing | Shown::InPlace(_) => false,
            Shown::Made => true,
            Shown::Replaced(old) => old.is_some_and(|old| self.is_open_as(old)),
        };
        let name = target.place.name();
        let wait = match misled {
            true => self.channel.told.remembered_for(parent, name),
            false => Duration::ZERO,
        };
        match change {
            Shown::Replaced(Some(old)) => {
                if let Some(node) = self.tree.nodes().get_mut(old) {
                    node.misnamed = true;
                }
                self.notices.invalidate_attributes(old);
            }
            Shown::InPlace(Some(node)) => {
                if let Ok(stat) = attr::of_name(&*target.place.dir, name) {
                    self.tree.nodes().content_changed(node, None, &stat);
                }
                self.notices.invalidate_attributes(node);
                self.notices.invalidate(node); // For mappings; nobody waits for that.
            }
            _ => {}
        }
        let (fs, until) = (self.clone(), Instant::now() + wait);
        let seen: Job = Box::new(move || {
            drop(turn);
            fs.not_before(until, then);
        });
        self.notices.invalidate_attributes_then(parent, seen);
    }

    /// Whether somebody has the version open that `node` is: what is asked of it may be meant for him.
    fn is_open_as(&self, node: u64) -> bool {
        let nodes = self.tree.nodes();
        let node = nodes.get(node);
        node.is_some_and(|node| node.pins > 0 || node.draft.strong_count() > 0)
    }

    fn not_before(self: &Arc<Self>, until: Instant, job: Job) {
        if until <= Instant::now() {
            return job();
        }
        self.channel.later.jobs().push((until, job));
        self.waker.wake();
    }

    /// Has the replies sent that have waited long enough. Whether others go on waiting.
    pub fn send_late_replies(self: &Arc<Self>) -> bool {
        self.channel.recent.forget_old();
        for job in self.channel.later.due() {
            self.aside(move |_| job());
        }
        self.channel.later.any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_remembered_for_a_while() {
        let told = Told::default();
        let name = OsStr::new("c.json");
        assert_eq!(told.remembered_for(1, name), Duration::ZERO);
        told.tell(1, name);
        let left = told.remembered_for(1, name);
        assert!(left > REMEMBERED / 2 && left <= REMEMBERED + Duration::from_millis(20));
    }
}
