//! flock and fcntl locks, of slots rather than of versions.
//!
//! A reader of the published version and the writer of a draft exclude each
//! other. Waiting is a kept answer, never a thread that waits.
//!
//! Invariants:
//! 1. Two held locks of one class that overlap, of different owners, are both shared.
//! 2. Every answer is given once: at the grant, when its waiter gets a signal, or when its
//!    handle is released.
//! 3. A slot has one table at a time; a handle keeps the table it first locked in, so that
//!    whoever renames over or unlinks a name leaves old handles among themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::process::Processes;
use super::slot::SlotKey;
use super::unpoisoned;

/// flock(2) and fcntl(2) locks do not see each other, as in the kernel's own file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of an open file description, on the whole file.
    Flock,
    /// Of a process (or a description, F_OFD_SETLK), on a range.
    Posix,
}

/// What is asked of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may share it.
    Shared,
    /// Nobody else.
    Exclusive,
    /// Give it up.
    Unlock,
}

/// A lock that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which of the two worlds.
    pub class: Class,
    /// Whose it is: the kernel's number for a description or a process.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// What is asked.
    pub kind: Kind,
    /// Process that asks, for F_GETLK.
    pub pid: u32,
    /// Thread that asks, to look for its signals.
    pub tid: u32,
    /// Handle it came through.
    pub handle: u64,
}

/// Why a wait ended without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody holds it and the caller would not wait.
    WouldBlock,
    /// The waiter got a signal.
    Interrupted,
    /// Waiting would never end: who holds it waits, through others perhaps, for the caller (fcntl only).
    Deadlock,
}

/// What is done when a lock is granted or refused.
pub type Answer = Box<dyn FnOnce(Result<(), Refused>) + Send>;

struct Waiting {
    request: Request,
    answer: Answer,
}

#[derive(Default)]
struct State {
    held: Vec<Request>,
    waiting: VecDeque<Waiting>,
}

/// The locks of one slot.
#[derive(Default)]
pub struct Table {
    state: Mutex<State>,
}

/// The lock tables of all slots.
#[derive(Default)]
pub struct Locks {
    tables: Mutex<HashMap<SlotKey, Weak<Table>>>,
    // Tables with waiters, so that looking for signals costs nothing while nobody waits.
    crowded: Mutex<Vec<Weak<Table>>>,
    waiters: AtomicUsize,
}

fn overlap(a: &Request, b: &Request) -> bool {
    a.start <= b.end && b.start <= a.end
}

impl Request {
    /// Whether this lock, held, keeps `asked` from being granted.
    fn conflicts(&self, asked: &Request) -> bool {
        self.class == asked.class
            && self.owner != asked.owner
            && overlap(self, asked)
            && (self.kind == Kind::Exclusive || asked.kind == Kind::Exclusive)
    }
}

/// How many steps of who waits for whom are followed.
const DEADLOCK_DEPTH: usize = 10;

impl State {
    fn conflict(&self, request: &Request) -> Option<Request> {
        self.held
            .iter()
            .find(|held| held.conflicts(request))
            .copied()
    }

    /// The owners of all locks that stand in the way.
    fn blockers(&self, request: &Request) -> Vec<u64> {
        let held = self.held.iter().filter(|held| held.conflicts(request));
        held.map(|held| held.owner).collect()
    }

    /// Sets or clears the range for its owner, splitting what it only partly covers.
    fn apply(&mut self, request: Request) {
        let mut rest = Vec::new();
        self.held.retain(|held| {
            let own = held.class == request.class && held.owner == request.owner;
            if !own || !overlap(held, &request) {
                return true;
            }
            if held.start < request.start {
                rest.push(Request {
                    end: request.start - 1,
                    ..*held
                });
            }
            if held.end > request.end {
                rest.push(Request {
                    start: request.end + 1,
                    ..*held
                });
            }
            false
        });
        self.held.append(&mut rest);
        if request.kind != Kind::Unlock {
            self.held.push(request);
        }
    }

    /// Grants what can be granted, first come first served.
    fn grant(&mut self) -> Vec<Answer> {
        let mut granted = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            if self.conflict(&self.waiting[index].request).is_some() {
                index += 1;
                continue;
            }
            if let Some(waiting) = self.waiting.remove(index) {
                self.apply(waiting.request);
                granted.push(waiting.answer);
            }
        }
        granted
    }
}

impl Locks {
    /// The table of a slot.
    pub fn table(&self, slot: &SlotKey) -> Arc<Table> {
        let mut tables = unpoisoned(&self.tables);
        if let Some(table) = tables.get(slot).and_then(Weak::upgrade) {
            return table;
        }
        if tables.len() >= 64 && tables.len().is_power_of_two() {
            tables.retain(|_, table| table.strong_count() > 0);
        }
        let table = Arc::new(Table::default());
        tables.insert(slot.clone(), Arc::downgrade(&table));
        table
    }

    /// The table of a slot, if anybody has ever locked in it who still has it open.
    pub fn existing(&self, slot: &SlotKey) -> Option<Arc<Table>> {
        unpoisoned(&self.tables).get(slot).and_then(Weak::upgrade)
    }

    /// Whether nobody has locked anything yet.
    pub fn is_empty(&self) -> bool {
        unpoisoned(&self.tables).is_empty()
    }

    /// The locks of `from` follow its rename; those of what was called `to` stay with its handles.
    pub fn renamed(&self, from: &SlotKey, to: &SlotKey) {
        let mut tables = unpoisoned(&self.tables);
        match tables.remove(from) {
            Some(table) => tables.insert(to.clone(), table),
            None => tables.remove(to),
        };
    }

    /// Two names changed places, and their locks with them.
    pub fn exchanged(&self, a: &SlotKey, b: &SlotKey) {
        let mut tables = unpoisoned(&self.tables);
        let (of_a, of_b) = (tables.remove(a), tables.remove(b));
        tables.extend(of_a.map(|table| (b.clone(), table)));
        tables.extend(of_b.map(|table| (a.clone(), table)));
    }

    /// A file got another name: from now on it is locked as itself (`file`), by those who know it by
    /// its first name, too.
    pub fn linked(&self, slot: &SlotKey, file: SlotKey) {
        let mut tables = unpoisoned(&self.tables);
        if let Some(table) = tables.get(slot).cloned() {
            tables.insert(file, table);
        }
    }

    /// The name is gone; old handles keep their locks among themselves.
    pub fn removed(&self, slot: &SlotKey) {
        unpoisoned(&self.tables).remove(slot);
    }

    /// Locks or unlocks. Without `wait`, an `answer` of `WouldBlock` comes at once where
    /// somebody holds it; with it, the answer comes when it can.
    pub fn set(&self, table: &Arc<Table>, request: Request, wait: bool, answer: Answer) {
        if wait && request.kind != Kind::Unlock && self.would_deadlock(table, &request) {
            return answer(Err(Refused::Deadlock));
        }
        let mut state = unpoisoned(&table.state);
        if request.kind != Kind::Unlock && state.conflict(&request).is_some() {
            if wait {
                // flock(2): a lock is given up before another kind of it is waited for.
                let released = if request.class == Class::Flock {
                    state.apply(Request {
                        kind: Kind::Unlock,
                        ..request
                    });
                    state.grant()
                } else {
                    Vec::new()
                };
                state.waiting.push_back(Waiting { request, answer });
                self.waiters.fetch_add(1, Ordering::AcqRel);
                drop(state);
                unpoisoned(&self.crowded).push(Arc::downgrade(table));
                self.answer_all(released, Ok(()));
            } else {
                drop(state);
                answer(Err(Refused::WouldBlock));
            }
            return;
        }
        state.apply(request);
        // Giving up a part, or becoming shared, may let others in.
        let granted = state.grant();
        drop(state);
        answer(Ok(()));
        self.answer_all(granted, Ok(()));
    }

    /// Whether some process that stands in the way of `request` waits for its owner. As deep as
    /// the kernel looks on its own file systems (MAX_DEADLK_ITERATIONS of fs/locks.c).
    fn would_deadlock(&self, table: &Arc<Table>, request: &Request) -> bool {
        if request.class != Class::Posix {
            return false;
        }
        let mut ahead = unpoisoned(&table.state).blockers(request);
        let mut seen: Vec<u64> = Vec::new();
        for _ in 0..DEADLOCK_DEPTH {
            if ahead.is_empty() {
                return false;
            }
            if ahead.contains(&request.owner) {
                return true;
            }
            seen.extend(&ahead);
            ahead = self.who_blocks(&ahead);
            ahead.retain(|owner| !seen.contains(owner));
        }
        false
    }

    /// The owners that any of `owners` waits for, in whatever table.
    fn who_blocks(&self, owners: &[u64]) -> Vec<u64> {
        let crowded: Vec<_> = unpoisoned(&self.crowded)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut blockers = Vec::new();
        for table in crowded {
            let state = unpoisoned(&table.state);
            for waiting in state.waiting.iter().map(|waiting| &waiting.request) {
                if waiting.class == Class::Posix && owners.contains(&waiting.owner) {
                    blockers.extend(state.blockers(waiting));
                }
            }
        }
        blockers.sort_unstable();
        blockers.dedup();
        blockers
    }

    /// Who stands in the way of `request`, if anybody.
    pub fn blocker(&self, table: &Table, request: &Request) -> Option<Request> {
        unpoisoned(&table.state).conflict(request)
    }

    /// Whether `owner` holds a fcntl lock that ends when it closes a descriptor.
    pub fn holds(&self, table: &Table, owner: u64) -> bool {
        let state = unpoisoned(&table.state);
        let mut held = state.held.iter();
        held.any(|held| held.class == Class::Posix && held.owner == owner)
    }

    /// The class of the locks that `owner` holds, if they are of one class.
    pub fn class_held(&self, table: &Table, owner: u64) -> Option<Class> {
        let state = unpoisoned(&table.state);
        let mut held = state.held.iter().filter(|held| held.owner == owner);
        let class = held.next()?.class;
        held.all(|other| other.class == class).then_some(class)
    }

    /// Whether any lock came through `handle` that is still held.
    pub fn held_by(&self, table: &Table, handle: u64) -> bool {
        let state = unpoisoned(&table.state);
        state.held.iter().any(|held| held.handle == handle)
    }

    /// A process closed a descriptor: its fcntl locks on the file end, as POSIX says.
    pub fn closed(&self, table: &Table, owner: u64) {
        self.drop_locks(table, |held| {
            held.class == Class::Posix && held.owner == owner
        });
    }

    /// A handle was released: so are the locks that came through it, and whoever waits through it.
    pub fn released(&self, table: &Table, handle: u64) {
        self.drop_locks(table, |held| held.handle == handle);
        self.refuse(table, |waiting| waiting.handle == handle);
    }

    fn drop_locks(&self, table: &Table, which: impl Fn(&Request) -> bool) {
        let mut state = unpoisoned(&table.state);
        let before = state.held.len();
        state.held.retain(|held| !which(held));
        let granted = if state.held.len() == before {
            Vec::new()
        } else {
            state.grant()
        };
        drop(state);
        self.answer_all(granted, Ok(()));
    }

    fn refuse(&self, table: &Table, which: impl Fn(&Request) -> bool) {
        let mut state = unpoisoned(&table.state);
        let (refused, kept) = state
            .waiting
            .drain(..)
            .partition(|waiting| which(&waiting.request));
        state.waiting = kept;
        drop(state);
        let refused: VecDeque<Waiting> = refused;
        let answers = refused.into_iter().map(|waiting| waiting.answer).collect();
        self.answer_all(answers, Err(Refused::Interrupted));
    }

    fn answer_all(&self, answers: Vec<Answer>, outcome: Result<(), Refused>) {
        self.waiters.fetch_sub(answers.len(), Ordering::AcqRel);
        for answer in answers {
            answer(outcome);
        }
    }

    /// Whether anybody waits for a lock.
    pub fn anyone_waiting(&self) -> bool {
        self.waiters.load(Ordering::Acquire) > 0
    }

    /// Ends the waits of threads that got a signal. Nothing else would tell: the kernel's own
    /// word of it does not reach this program.
    pub fn look_for_signals(&self, processes: &impl Processes) {
        let mut crowded = std::mem::take(&mut *unpoisoned(&self.crowded));
        crowded.sort_by_key(Weak::as_ptr);
        crowded.dedup_by_key(|table| Weak::as_ptr(table));
        for weak in crowded {
            let Some(table) = weak.upgrade() else {
                continue;
            };
            let tids: Vec<u32> = unpoisoned(&table.state)
                .waiting
                .iter()
                .map(|w| w.request.tid)
                .collect();
            let signalled: Vec<u32> = tids
                .into_iter()
                .filter(|tid| processes.signalled(*tid))
                .collect();
            if !signalled.is_empty() {
                self.refuse(&table, |waiting| signalled.contains(&waiting.tid));
            }
            if !unpoisoned(&table.state).waiting.is_empty() {
                unpoisoned(&self.crowded).push(weak);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polystore::disk::FileId;
    use std::sync::mpsc::{Receiver, channel};

    fn slot(name: &str) -> SlotKey {
        SlotKey {
            dir: FileId {
                device: 1,
                inode: 2,
            },
            name: name.into(),
        }
    }

    fn whole(class: Class, owner: u64, kind: Kind) -> Request {
        Request {
            class,
            owner,
            start: 0,
            end: u64::MAX >> 1,
            kind,
            pid: owner as u32,
            tid: owner as u32,
            handle: owner,
        }
    }

    fn ask(
        locks: &Locks,
        table: &Arc<Table>,
        request: Request,
        wait: bool,
    ) -> Receiver<Result<(), Refused>> {
        let (sender, receiver) = channel();
        locks.set(
            table,
            request,
            wait,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        receiver
    }

    #[test]
    fn waiters_get_their_turn_in_order_and_once() {
        let locks = Locks::default();
        let table = locks.table(&slot("a"));
        let held = ask(
            &locks,
            &table,
            whole(Class::Flock, 1, Kind::Exclusive),
            false,
        );
        assert_eq!(held.try_recv(), Ok(Ok(())));
        let second = ask(
            &locks,
            &table,
            whole(Class::Flock, 2, Kind::Exclusive),
            true,
        );
        let third = ask(
            &locks,
            &table,
            whole(Class::Flock, 3, Kind::Exclusive),
            true,
        );
        assert!(second.try_recv().is_err() && locks.anyone_waiting());
        ask(&locks, &table, whole(Class::Flock, 1, Kind::Unlock), false);
        assert_eq!(second.try_recv(), Ok(Ok(())));
        assert!(third.try_recv().is_err());
        locks.released(&table, 2);
        assert_eq!(third.try_recv(), Ok(Ok(())));
        assert!(!locks.anyone_waiting());
    }

    #[test]
    fn a_cycle_of_waiters_is_refused() {
        let locks = Locks::default();
        let tables: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| locks.table(&slot(name)))
            .collect();
        let wait = |owner: u64, table: usize| {
            ask(
                &locks,
                &tables[table],
                whole(Class::Posix, owner, Kind::Exclusive),
                true,
            )
        };
        let held: Vec<_> = (0..3).map(|owner| wait(owner, owner as usize)).collect();
        assert!(held.iter().all(|answer| answer.try_recv() == Ok(Ok(()))));
        let (one, two) = (wait(0, 1), wait(1, 2));
        assert!(one.try_recv().is_err() && two.try_recv().is_err());
        assert_eq!(wait(2, 0).try_recv(), Ok(Err(Refused::Deadlock)));
        locks.closed(&tables[2], 2);
        assert_eq!(two.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn flock_and_fcntl_do_not_see_each_other() {
        let locks = Locks::default();
        let table = locks.table(&slot("a"));
        ask(
            &locks,
            &table,
            whole(Class::Flock, 1, Kind::Exclusive),
            false,
        );
        let other = ask(
            &locks,
            &table,
            whole(Class::Posix, 2, Kind::Exclusive),
            false,
        );
        assert_eq!(other.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn ranges_are_split_and_parts_given_up() {
        let locks = Locks::default();
        let table = locks.table(&slot("a"));
        let range = |owner, start, end, kind| Request {
            start,
            end,
            ..whole(Class::Posix, owner, kind)
        };
        ask(&locks, &table, range(1, 0, 99, Kind::Exclusive), false);
        ask(&locks, &table, range(1, 40, 59, Kind::Unlock), false);
        assert!(
            locks
                .blocker(&table, &range(2, 40, 59, Kind::Exclusive))
                .is_none()
        );
        for (start, end) in [(39, 39), (60, 60), (0, 40), (59, 99)] {
            assert!(
                locks
                    .blocker(&table, &range(2, start, end, Kind::Shared))
                    .is_some(),
                "{start}..{end}"
            );
        }
        let waiting = ask(&locks, &table, range(2, 0, 39, Kind::Exclusive), true);
        ask(&locks, &table, range(1, 0, 39, Kind::Shared), false);
        assert!(waiting.try_recv().is_err());
        locks.closed(&table, 1);
        assert_eq!(waiting.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_table_follows_its_rename_and_leaves_old_handles_alone() {
        let locks = Locks::default();
        let (a, b) = (locks.table(&slot("a")), locks.table(&slot("b")));
        locks.renamed(&slot("a"), &slot("b"));
        assert!(Arc::ptr_eq(&a, &locks.table(&slot("b"))));
        assert!(!Arc::ptr_eq(&b, &locks.table(&slot("b"))));
        locks.removed(&slot("b"));
        assert!(!Arc::ptr_eq(&a, &locks.table(&slot("b"))));
    }
}
