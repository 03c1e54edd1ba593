//! The lock tables of all slots, and the way through them.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use super::queue::{Fair, State, Step, Waiting};
use super::rounds::Rounds;
use super::{Answer, Class, Kind, Outside, Refused, Request, Seen, Wait};
use crate::engine::process::Processes;
use crate::engine::slot::SlotKey;
use crate::engine::unpoisoned;
use crate::shares::{Rule, Shares};

/// The locks of one slot.
#[derive(Default)]
pub struct Table {
    state: Mutex<State>,
}

/// How many may wait at a time, in all tables and of all users.
const MOST_WAITERS: usize = 8192;

/// How many of each user in any case.
const FLOOR: usize = 64;

/// How many of those who wait are looked at, at a time, for signals: that reads a file of `/proc` for each.
const LOOKED_AFTER: usize = 512;

/// The lock tables of all slots.
pub struct Locks {
    tables: Mutex<HashMap<SlotKey, Weak<Table>>>,
    // Tables with waiters, so that looking for signals costs nothing while nobody waits.
    crowded: Mutex<Vec<Weak<Table>>>,
    waiters: AtomicUsize,
    // How users share the places of those who wait.
    places: Shares,
    rounds: Mutex<Rounds>,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks::new(0, false)
    }
}

/// How many steps of who waits for whom are followed.
const DEADLOCK_DEPTH: usize = 10;

impl Locks {
    /// No tables yet. `owner` runs the mount, and uses it `alone` or with others.
    pub fn new(owner: u32, alone: bool) -> Locks {
        let rule = Rule::new(MOST_WAITERS, FLOOR, owner, alone);
        Locks {
            tables: Mutex::default(),
            crowded: Mutex::default(),
            waiters: AtomicUsize::new(0),
            places: Shares::new(rule),
            rounds: Mutex::default(),
        }
    }

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

    /// Tells who is held outside of what is called `slot` since a rename that it lies in `dir`.
    pub fn moved(&self, slot: &SlotKey, dir: Arc<dyn Any + Send + Sync>) {
        let Some(table) = self.existing(slot) else {
            return;
        };
        let mut state = unpoisoned(&table.state);
        if let Some(fair) = &mut state.fair {
            fair.outside.renamed(dir, &slot.name);
        }
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

    /// The table of a lock file: the same as [`table`](Self::table), and a fair one.
    pub fn fair_table(
        &self,
        slot: &SlotKey,
        outside: impl FnOnce() -> Box<dyn Outside>,
    ) -> Arc<Table> {
        let table = self.table(slot);
        let mut state = unpoisoned(&table.state);
        state.fair.get_or_insert_with(|| Fair {
            outside: outside(),
            pending: VecDeque::new(),
            waits: false,
            number: 0,
            failing: None,
        });
        drop(state);
        table
    }

    /// Locks or unlocks. Without `wait`, an `answer` of `WouldBlock` comes at once where
    /// somebody holds it; with it, the answer comes when it can.
    pub fn set(self: &Arc<Self>, table: &Arc<Table>, request: Request, wait: bool, answer: Answer) {
        let wait = if wait { Wait::Forever } else { Wait::No };
        self.set_past(table, request, &[], wait, answer);
    }

    /// The same for somebody whose ancestors are the owners in `passable`: they are not in his way.
    pub fn set_past(
        self: &Arc<Self>,
        table: &Arc<Table>,
        request: Request,
        passable: &[(Class, u64)],
        wait: Wait,
        answer: Answer,
    ) {
        let waits = !matches!(wait, Wait::No);
        if waits && request.kind != Kind::Unlock && self.would_deadlock(table, &request) {
            return answer(Err(Refused::Deadlock));
        }
        let mut state = unpoisoned(&table.state);
        if state.is_too_much(&request) {
            drop(state);
            return answer(Err(Refused::TooMany));
        }
        let step = state.take(&request, passable);
        let waits_first = !state.anyone_waits();
        let place = match (step, wait) {
            (Step::Granted, _) | (_, Wait::No) => None,
            (_, Wait::Forever | Wait::Until(_)) => self.places.take(request.uid, 1),
        };
        let kept = match (step, wait, place) {
            (Step::Granted, _, _) => Some((answer, Ok(()))),
            (_, _, None) => {
                let mut why = Refused::WouldBlock;
                if step == Step::BusyOutside {
                    state.drop_own(&request);
                    why = state.why_busy_outside();
                }
                let why = match wait {
                    Wait::No => why,
                    Wait::Forever | Wait::Until(_) => Refused::TooMany,
                };
                Some((answer, Err(why)))
            }
            (_, _, Some(place)) => {
                let waiting = Waiting {
                    request,
                    passable: passable.to_vec(),
                    since: Instant::now(),
                    deadline: wait.deadline(),
                    answer,
                    _place: place,
                };
                state.keep(waiting, step == Step::BusyOutside);
                self.waiters.fetch_add(1, Ordering::AcqRel);
                None
            }
        };
        // Giving up a part, or becoming shared, may let others in.
        let granted = state.grant();
        self.go_on(table, state);
        match kept {
            Some((answer, outcome)) => answer(outcome),
            // Where others wait, the table is in the list, or is put back there.
            None if waits_first => unpoisoned(&self.crowded).push(Arc::downgrade(table)),
            None => {}
        }
        self.answer_all(granted, Ok(()));
    }

    /// Lets go of a table; if somebody in it has to wait for the lock outside, that begins.
    fn go_on(self: &Arc<Self>, table: &Arc<Table>, mut state: MutexGuard<'_, State>) {
        // What fails is tried from time to time.
        let may_wait = |fair: &&mut Fair| !fair.waits && fair.failing.is_none();
        let Some(fair) = state.fair.as_mut().filter(may_wait) else {
            return;
        };
        let Some(first) = fair.pending.front() else {
            return;
        };
        let exclusive = first.request.kind == Kind::Exclusive;
        let (locks, table) = (Arc::downgrade(self), Arc::downgrade(table));
        let done = move || {
            if let (Some(locks), Some(table)) = (locks.upgrade(), table.upgrade()) {
                locks.came_outside(&table);
            }
        };
        fair.waits = fair.outside.wait(exclusive, Box::new(done));
    }

    fn came_outside(self: &Arc<Self>, table: &Arc<Table>) {
        let mut state = unpoisoned(&table.state);
        if let Some(fair) = &mut state.fair {
            fair.waits = false;
        }
        self.try_outside(table, state);
    }

    /// Tries again for those who have it here and not outside.
    fn try_outside(self: &Arc<Self>, table: &Arc<Table>, mut state: MutexGuard<'_, State>) {
        let mut answered = state.admit_pending();
        // A lock that is held now may let others in.
        answered.append(&mut state.grant());
        self.go_on(table, state);
        self.answer_all(answered, Ok(()));
    }

    /// Whether `request` would find somebody else in its way, and who that is.
    pub fn in_the_way(&self, table: &Table, request: &Request) -> Vec<Request> {
        let state = unpoisoned(&table.state);
        let held = state.held.iter();
        held.filter(|held| held.conflicts(request))
            .copied()
            .collect()
    }

    /// The number of the last turn of a table.
    pub fn number(&self, table: &Table) -> u64 {
        unpoisoned(&table.state)
            .fair
            .as_ref()
            .map_or(0, |fair| fair.number)
    }

    /// A turn is over.
    pub fn end_turn(self: &Arc<Self>, table: &Arc<Table>, turn: u64) {
        self.drop_locks(table, |held| {
            held.class == Class::Turn && held.owner == turn
        });
    }

    /// Everything held in a fair table ends, whoever holds it. How many were held.
    pub fn break_all(self: &Arc<Self>, table: &Arc<Table>) -> usize {
        let mut state = unpoisoned(&table.state);
        // What waits for the lock outside is not held yet.
        let pending: Vec<_> = state.pending().collect();
        let is_pending = |held: &Request| pending.iter().any(|pending| pending.is_of(held));
        let before = state.held.len();
        state.held.retain(is_pending);
        let broken = before - state.held.len();
        let granted = state.grant();
        self.go_on(table, state);
        self.answer_all(granted, Ok(()));
        broken
    }

    /// All fair tables that are in use.
    pub fn seen(&self) -> Vec<Seen> {
        let tables: Vec<_> = unpoisoned(&self.tables)
            .iter()
            .filter_map(|(slot, table)| Some((slot.clone(), table.upgrade()?)))
            .collect();
        let seen = tables.into_iter().filter_map(|(slot, table)| {
            let state = unpoisoned(&table.state);
            let fair = state.fair.as_ref()?;
            let waiting = fair.pending.iter().chain(&state.waiting);
            let waiting: Vec<_> = waiting.map(|w| (w.request, w.since)).collect();
            let is_pending = |held: &&Request| state.pending().any(|other| other.is_of(held));
            let held = state.held.iter().filter(|held| !is_pending(held));
            let held: Vec<_> = held.copied().collect();
            (!held.is_empty() || !waiting.is_empty()).then_some(Seen {
                slot,
                number: fair.number,
                held,
                waiting,
            })
        });
        seen.collect()
    }

    /// Whether some process that stands in the way of `request` waits for its owner. As deep as
    /// the kernel looks on its own file systems (MAX_DEADLK_ITERATIONS of fs/locks.c).
    fn would_deadlock(&self, table: &Arc<Table>, request: &Request) -> bool {
        if request.class != Class::Posix {
            return false;
        }
        let blockers = unpoisoned(&table.state).blockers(request);
        let mut ahead: HashSet<u64> = blockers.into_iter().collect();
        let mut seen: HashSet<u64> = HashSet::new();
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
    fn who_blocks(&self, owners: &HashSet<u64>) -> HashSet<u64> {
        let crowded: Vec<_> = unpoisoned(&self.crowded)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut blockers = HashSet::new();
        for table in crowded {
            let state = unpoisoned(&table.state);
            for waiting in state.waiting.iter().map(|waiting| &waiting.request) {
                if waiting.class == Class::Posix && owners.contains(&waiting.owner) {
                    blockers.extend(state.blockers(waiting));
                }
            }
        }
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
    pub fn closed(self: &Arc<Self>, table: &Arc<Table>, owner: u64) {
        self.drop_locks(table, |held| {
            held.class == Class::Posix && held.owner == owner
        });
    }

    /// A handle was released: so are the locks that came through it, and whoever waits through it.
    pub fn released(self: &Arc<Self>, table: &Arc<Table>, handle: u64) {
        self.drop_locks(table, |held| held.handle == handle);
        self.refuse(table, Refused::Interrupted, |waiting| {
            waiting.request.handle == handle
        });
    }

    fn drop_locks(self: &Arc<Self>, table: &Arc<Table>, which: impl Fn(&Request) -> bool) {
        let mut state = unpoisoned(&table.state);
        let before = state.held.len();
        state.held.retain(|held| !which(held));
        let granted = if state.held.len() == before {
            Vec::new()
        } else {
            state.grant()
        };
        self.go_on(table, state);
        self.answer_all(granted, Ok(()));
    }

    /// Ends the waits for a lock outside that could not be tried for too long.
    fn refuse_failed(self: &Arc<Self>, table: &Arc<Table>) {
        let mut state = unpoisoned(&table.state);
        let Some((failed, why)) = state.take_failed() else {
            return;
        };
        let granted = state.grant();
        self.go_on(table, state);
        self.answer_all(failed, Err(why));
        self.answer_all(granted, Ok(()));
    }

    fn refuse(
        self: &Arc<Self>,
        table: &Arc<Table>,
        why: Refused,
        which: impl Fn(&Waiting) -> bool,
    ) {
        let mut state = unpoisoned(&table.state);
        let refused = state.take_waiting(which);
        // Who was the first in the queue may have kept others back.
        let granted = if refused.is_empty() {
            Vec::new()
        } else {
            state.grant()
        };
        self.go_on(table, state);
        self.answer_all(refused, Err(why));
        self.answer_all(granted, Ok(()));
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

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Acquire)
    }

    /// The threads that wait.
    pub fn waiting_threads(&self) -> HashSet<u32> {
        let crowded: Vec<_> = unpoisoned(&self.crowded)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut threads = HashSet::new();
        for table in crowded {
            let state = unpoisoned(&table.state);
            threads.extend(state.waiting_threads().map(|thread| thread.tid));
        }
        threads
    }

    /// The threads that got a signal, of those whose turn it is to be looked after.
    fn signalled(&self, crowded: &[Arc<Table>], processes: &impl Processes) -> HashSet<u32> {
        let mut waiting = Vec::new();
        for table in crowded {
            waiting.extend(unpoisoned(&table.state).waiting_threads());
        }
        let next = unpoisoned(&self.rounds).next(waiting.into_iter(), LOOKED_AFTER);
        let signalled = next.into_iter().filter(|tid| *tid != 0);
        signalled.filter(|tid| processes.signalled(*tid)).collect()
    }

    /// Ends the waits of threads that got a signal, and those whose time is over. Nothing else
    /// would tell: the kernel's own word of a signal does not reach this program. Where many wait, each
    /// call looks for signals of some, of each user as many.
    pub fn look_after_waiters(self: &Arc<Self>, processes: &impl Processes) {
        let mut crowded = std::mem::take(&mut *unpoisoned(&self.crowded));
        crowded.sort_by_key(Weak::as_ptr);
        crowded.dedup_by_key(|table| Weak::as_ptr(table));
        let crowded: Vec<_> = crowded.iter().filter_map(Weak::upgrade).collect();
        let signalled = self.signalled(&crowded, processes);
        for table in crowded {
            if !signalled.is_empty() {
                self.refuse(&table, Refused::Interrupted, |waiting| {
                    signalled.contains(&waiting.request.tid)
                });
            }
            let now = Instant::now();
            self.refuse(&table, Refused::TimedOut, |waiting| {
                waiting.deadline.is_some_and(|deadline| deadline <= now)
            });
            let state = unpoisoned(&table.state);
            if state.is_left_alone() {
                self.try_outside(&table, state);
            } else {
                drop(state);
            }
            self.refuse_failed(&table);
            if unpoisoned(&table.state).anyone_waits() {
                unpoisoned(&self.crowded).push(Arc::downgrade(&table));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::locks::Terms;
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
            uid: 0,
            handle: owner,
            terms: Terms::default(),
        }
    }

    fn ask(
        locks: &Arc<Locks>,
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
        let locks = Arc::new(Locks::default());
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
        let locks = Arc::new(Locks::default());
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
        let locks = Arc::new(Locks::default());
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
        let locks = Arc::new(Locks::default());
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
    fn one_users_waiters_leave_places_to_others() {
        let locks = Arc::new(Locks::default());
        let table = locks.table(&slot("a"));
        let wait = |owner: u64, uid: u32| {
            let request = Request {
                uid,
                ..whole(Class::Flock, owner, Kind::Exclusive)
            };
            ask(&locks, &table, request, true)
        };
        assert_eq!(wait(1, 7).try_recv(), Ok(Ok(())));
        let mut waiting = Vec::new();
        let refused = loop {
            let answer = wait(2 + waiting.len() as u64, 7);
            match answer.try_recv() {
                Ok(outcome) => break outcome,
                Err(_) => waiting.push(answer),
            }
        };
        assert_eq!(refused, Err(Refused::TooMany));
        assert!(waiting.len() > 4000, "only {}", waiting.len());
        let others: Vec<_> = (0..FLOOR as u64)
            .map(|number| wait(100_000 + number, 8))
            .collect();
        assert!(others.iter().all(|answer| answer.try_recv().is_err()));
        for (owner, next) in (1..200).zip(&waiting) {
            locks.released(&table, owner);
            assert_eq!(next.try_recv(), Ok(Ok(())));
        }
        let again = wait(1, 7);
        assert!(again.try_recv().is_err(), "there is a place again");
    }

    #[test]
    fn one_users_ranges_leave_the_table_to_others() {
        let locks = Arc::new(Locks::default());
        let table = locks.table(&slot("a"));
        let range = |owner: u64, at: u64, len: u64, kind| Request {
            start: at,
            end: at + len - 1,
            uid: owner as u32,
            ..whole(Class::Posix, owner, kind)
        };
        let mut held = 0;
        while ask(
            &locks,
            &table,
            range(7, held * 10, 5, Kind::Exclusive),
            false,
        )
        .try_recv()
            == Ok(Ok(()))
        {
            held += 1;
        }
        assert_eq!(held, 4096);
        let unlock = |at, len| {
            let answer = ask(&locks, &table, range(7, at, len, Kind::Unlock), false);
            answer.try_recv()
        };
        assert_eq!(unlock(1, 2), Ok(Err(Refused::TooMany)), "it would be two");
        let other = ask(&locks, &table, range(8, 7, 1, Kind::Exclusive), false);
        assert_eq!(other.try_recv(), Ok(Ok(())));
        assert_eq!(unlock(0, 5), Ok(Ok(())));
        assert_eq!(unlock(11, 2), Ok(Ok(())), "now there is room for it");
    }

    #[test]
    fn a_table_follows_its_rename_and_leaves_old_handles_alone() {
        let locks = Arc::new(Locks::default());
        let (a, b) = (locks.table(&slot("a")), locks.table(&slot("b")));
        locks.renamed(&slot("a"), &slot("b"));
        assert!(Arc::ptr_eq(&a, &locks.table(&slot("b"))));
        assert!(!Arc::ptr_eq(&b, &locks.table(&slot("b"))));
        locks.removed(&slot("b"));
        assert!(!Arc::ptr_eq(&a, &locks.table(&slot("b"))));
    }
}
