//! Taking turns: who opens a turn-taking name for writing waits until nobody else has it so open.
//!
//! A turn is held in the table of its lock file, beside the flocks of that file. An open that has
//! its turn may be told to look again (ESTALE): the turn then waits for its thread to come back,
//! and belongs to the handle in the end.
//!
//! Invariants:
//! 1. A turn is held by a handle, or by one thread for one name until that comes back.
//! 2. It ends after what was written in it is published.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::attr;
use super::errno::{looks_again, stale};
use super::fs::Fs;
use super::handles::Handle;
use super::nodes::ROOT;
use super::opening::{Opened, access};
use super::outside::{LockFile, last_number};
use super::proc::has_ended;
use super::tree::Dir;
use crate::engine::locks::{Answer, Class, Kind, Locks, Refused, Request, Table, Terms, Wait};
use crate::engine::policy::{TurnKind, lock_file_of};
use crate::engine::process::{Caller, Kin, Moment, Process, Processes};
use crate::engine::slot::SlotKey;
use crate::shares::Share;

/// How long an open of a document waits for its turn.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// After that a turn is not kept for a thread that the kernel looks again for. A slow one asks anew.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);

/// The last byte of a whole file.
const LAST_BYTE: u64 = i64::MAX as u64;

/// A turn that is held. Dropping it ends it.
pub struct Turn {
    locks: Arc<Locks>,
    table: Arc<Table>,
    id: u64,
    /// The slot of its lock file.
    pub slot: SlotKey,
    /// Greater than that of any turn before.
    pub number: u64,
    /// What it takes of what its user may have.
    _share: Share,
}

impl Turn {
    /// What [`Terms::ends_turn`] wants.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.locks.end_turn(&self.table, self.id);
    }
}

/// A turn that is asked for.
#[derive(Clone)]
pub struct Ask {
    kind: TurnKind,
    /// The slot of the lock file.
    pub slot: SlotKey,
    dir: Arc<Dir>,
    /// With which permission bits the lock file is made where it is missing.
    make: Option<u32>,
    /// O_NONBLOCK.
    pub nonblock: bool,
}

impl Ask {
    /// A turn of this `kind` at the lock file `slot` in `dir`, which is made with the permission bits
    /// `make` where it is missing.
    pub fn new(kind: TurnKind, slot: SlotKey, dir: Arc<Dir>, make: Option<u32>) -> Ask {
        Ask {
            kind,
            slot,
            dir,
            make,
            nonblock: false,
        }
    }
}

struct Pending {
    turn: Turn,
    /// Since when the kernel looks again for its thread; `None` while the open is in progress here.
    sent: Option<Instant>,
}

/// The turns that belong to no handle yet, by thread: each opens one file at a time.
pub struct Turns {
    pending: Mutex<HashMap<u32, Pending>>,
    count: AtomicUsize,
    next: AtomicU64,
    lock_timeout: Option<Duration>,
}

impl Turns {
    /// `lock_timeout` is how long an open of a lock file waits at most.
    pub fn new(lock_timeout: Option<Duration>) -> Turns {
        Turns {
            pending: Mutex::default(),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            lock_timeout,
        }
    }

    /// Changes the table. What is taken out of it is to be dropped by the caller: others may get their
    /// turn by that.
    fn change<T>(&self, change: impl FnOnce(&mut HashMap<u32, Pending>) -> T) -> T {
        // Entries are set and removed in single steps.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut pending);
        self.count.store(pending.len(), Ordering::Release);
        done
    }

    fn put(&self, tid: u32, turn: Turn) {
        let before = self.change(|pending| pending.insert(tid, Pending { turn, sent: None }));
        drop(before);
    }

    /// Whether any thread has one.
    fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// The turn of thread `tid`.
    fn take(&self, tid: u32) -> Option<Turn> {
        let pending = self.change(|pending| pending.remove(&tid));
        pending.map(|pending| pending.turn)
    }

    /// Whether thread `tid`, which opens a file now, has the turn in `table`. One that it has in another,
    /// because the name was removed or renamed meanwhile, ends.
    fn is_pending(&self, tid: u32, table: &Arc<Table>) -> bool {
        let outdated = self.change(|pending| {
            let kept = pending.get_mut(&tid)?;
            kept.sent = None;
            let current = Arc::ptr_eq(&kept.turn.table, table);
            (!current).then(|| pending.remove(&tid))
        });
        outdated.is_none() && self.change(|pending| pending.contains_key(&tid))
    }

    /// The kernel is told to look again for thread `tid`.
    fn sent_to_look_again(&self, tid: u32) {
        self.change(|pending| {
            if let Some(pending) = pending.get_mut(&tid) {
                pending.sent = Some(Instant::now());
            }
        });
    }

    /// Ends the turns of threads that do not come back: they were killed, or found something else.
    pub fn end_abandoned(&self) {
        if !self.any() {
            return;
        }
        let abandoned =
            |tid: u32, sent: Instant| sent.elapsed() >= COMES_BACK_WITHIN || has_ended(tid);
        let ended: Vec<Pending> = self.change(|pending| {
            let gone = |(tid, pending): (&u32, &Pending)| {
                pending
                    .sent
                    .is_some_and(|sent| abandoned(*tid, sent))
                    .then_some(*tid)
            };
            let gone: Vec<u32> = pending.iter().filter_map(gone).collect();
            gone.iter().filter_map(|tid| pending.remove(tid)).collect()
        });
        drop(ended);
    }
}

/// What is done when a turn has come, or will not. Whether it came at once is told, too.
type Go = Box<dyn FnOnce(&Arc<Fs>, Result<bool, Refused>) + Send>;

impl Fs {
    fn turn_at(&self, parent: u64, name: &OsStr) -> Option<TurnKind> {
        let path = self.tree.path(parent, name);
        let kind = self.engine.settings.turns.kind(&path)?;
        (!self.engine.settings.direct.covers(&path)).then_some(kind)
    }

    /// Whether the file `name` in `parent` is locked for turns.
    pub fn is_lock_file(&self, parent: u64, name: &OsStr) -> bool {
        let path = self.tree.path(parent, name);
        self.engine.settings.turns.is_lock_file(&path)
    }

    /// The turn that an open of `name` in `parent` with `flags` has to wait for.
    pub fn turn_of_name(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        flags: OFlags,
    ) -> Option<Ask> {
        let wanted = access(flags);
        let writes = !wanted.read_only || wanted.truncate;
        // Who cannot be told from others cannot be given a turn.
        if !writes || wanted.append || caller.tid == 0 {
            return None;
        }
        let kind = self.turn_at(parent, name)?;
        let dir = self.tree.dir(parent).ok()?;
        let slot = self.tree.slot(parent, &lock_file_of(name, kind)).ok()?;
        let edits = kind == TurnKind::Document && !wanted.truncate && !wanted.exclusive;
        // Somebody may be making that file himself.
        let makes = edits && !self.engine.is_reserved(&slot);
        let make = makes.then(|| attr::of_name(&*dir, name).ok()).flatten();
        Some(Ask {
            kind,
            slot,
            dir,
            make: make.map(|stat| u32::from(stat.stx_mode) & 0o666),
            nonblock: flags.contains(OFlags::NONBLOCK),
        })
    }

    /// The same for an open of `node`.
    pub fn turn_of_node(&self, caller: Caller, node: u64, flags: OFlags) -> Option<Ask> {
        let wanted = access(flags);
        if (wanted.read_only && !wanted.truncate) || wanted.append {
            return None;
        }
        // Who holds a name that nobody else could make is alone with it.
        if self.tree.draft(node).is_some_and(|draft| draft.exclusive) {
            return None;
        }
        let (parent, name) = {
            let nodes = self.tree.nodes();
            let node = nodes.get(node).filter(|node| !node.unlinked)?;
            (node.parent, node.name.clone())
        };
        self.turn_of_name(caller, parent, &name, flags)
    }

    fn turn_table(&self, slot: &SlotKey, dir: &Arc<Dir>) -> Arc<Table> {
        let outside = || Box::new(LockFile::new(dir.clone(), slot.name.clone())) as Box<_>;
        self.locks.fair_table(slot, outside)
    }

    /// The table of a lock file, for those who lock it themselves.
    pub fn table_of_lock_file(&self, parent: u64, slot: &SlotKey) -> Option<Arc<Table>> {
        let dir = self.tree.dir(parent).ok()?;
        Some(self.turn_table(slot, &dir))
    }

    /// Who `caller` is, for those who come after him.
    pub fn holder(&self, caller: Caller) -> Option<(Process, Moment)> {
        let process = self.engine.processes.process_of(caller.tid)?;
        Some((process, self.engine.processes.now()))
    }

    /// What is in the way of `request` and belongs to its process or an ancestor.
    ///
    /// # Errors
    /// Its own thread has the turn at a lock file already, and would wait for itself.
    pub fn passable(&self, table: &Table, request: &Request) -> Result<Vec<(Class, u64)>, Refused> {
        let mut passable = Vec::new();
        let Some((process, _)) = request.terms.holder else {
            return Ok(passable);
        };
        let kin = Kin::new(&self.engine.processes, process);
        let opens_lock = request.class == Class::Turn && request.terms.own_protocol;
        for held in self.locks.in_the_way(table, request) {
            let Some((holder, moment)) = held.terms.holder else {
                continue;
            };
            if holder == process {
                let asks_again = request.terms.by_request && held.terms.by_request;
                let again = (opens_lock || asks_again) && held.class == Class::Turn;
                if again && held.tid == request.tid {
                    return Err(Refused::Deadlock);
                }
                if again {
                    continue; // Another thread takes its turn.
                }
            } else if !kin.is_or_descends_since(holder, moment) {
                continue;
            }
            passable.push((held.class, held.owner));
        }
        Ok(passable)
    }

    /// Waits for a turn, as `wait` says, without a thread; `go` is told how that ended. The turn is
    /// then kept for the thread of `caller` (see [`settle_turn`](Self::settle_turn)).
    pub fn with_turn(self: &Arc<Self>, caller: Caller, ask: &Ask, wait: Wait, go: Go) {
        if self.has_turn(caller, ask) {
            return go(self, Ok(true));
        }
        let tid = caller.tid;
        let kept: TurnDone = Box::new(move |fs, turn, at_once| match turn {
            Ok(turn) => {
                fs.turns.put(tid, turn);
                go(fs, Ok(at_once));
            }
            Err(refused) => go(fs, Err(refused)),
        });
        self.ask_for_turn(caller, ask, false, wait, kept);
    }

    fn ask_for_turn(
        self: &Arc<Self>,
        caller: Caller,
        ask: &Ask,
        by_request: bool,
        wait: Wait,
        done: TurnDone,
    ) {
        let table = self.turn_table(&ask.slot, &ask.dir);
        let id = self.turns.next.fetch_add(1, Ordering::Relaxed);
        let request = self.turn_request(caller, ask, by_request, id);
        let passable = match self.passable(&table, &request) {
            Ok(passable) => passable,
            Err(refused) => return done(self, Err(refused), true),
        };
        let share = match self.descriptors_of_turn(caller) {
            Ok(share) => share,
            Err(refused) => return done(self, Err(refused), true),
        };
        let asking = Arc::new(AtomicBool::new(true));
        let asker = std::thread::current().id();
        let answer: Answer = {
            let (fs, table, ask) = (self.clone(), table.clone(), ask.clone());
            let asking = asking.clone();
            Box::new(move |outcome| {
                let same_thread = std::thread::current().id() == asker;
                let at_once = same_thread && asking.load(Ordering::Acquire);
                fs.count_turn(outcome, at_once);
                let number = fs.locks.number(&table);
                let turn = outcome.map(|()| Turn {
                    locks: fs.locks.clone(),
                    table,
                    id,
                    slot: ask.slot.clone(),
                    number,
                    _share: share,
                });
                if turn.as_ref().is_ok_and(|turn| !fs.is_current(turn, &ask)) {
                    // The lock file was removed or replaced meanwhile: the turn is at what is there now.
                    drop(turn);
                    return fs.ask_for_turn(caller, &ask, by_request, wait, done);
                }
                done(&fs, turn, at_once);
            })
        };
        self.locks
            .set_past(&table, request, &passable, wait, answer);
        asking.store(false, Ordering::Release);
        self.hurry_if_waiting();
    }

    fn turn_request(&self, caller: Caller, ask: &Ask, by_request: bool, id: u64) -> Request {
        let holder = self.holder(caller);
        Request {
            class: Class::Turn,
            owner: id,
            start: 0,
            end: LAST_BYTE,
            kind: Kind::Exclusive,
            pid: holder.map_or(caller.tid, |(process, _)| process.pid),
            tid: caller.tid,
            uid: caller.uid,
            handle: 0,
            terms: Terms {
                holder,
                own_protocol: ask.kind == TurnKind::LockFile,
                by_request,
                ends_turn: None,
                maker: ask.make.map(|mode| (caller, mode)),
            },
        }
    }

    fn is_current(&self, turn: &Turn, ask: &Ask) -> bool {
        Arc::ptr_eq(&turn.table, &self.turn_table(&ask.slot, &ask.dir))
    }

    /// Whether the thread of `caller` still has the turn that its open waited for.
    pub fn has_turn(&self, caller: Caller, ask: &Ask) -> bool {
        let table = self.turn_table(&ask.slot, &ask.dir);
        self.turns.is_pending(caller.tid, &table)
    }

    fn count_turn(&self, outcome: Result<(), Refused>, at_once: bool) {
        let counters = &self.engine.ledger.counters;
        match outcome {
            Ok(()) => counters.turns.one(),
            Err(Refused::TimedOut) => counters.turns_timed_out.one(),
            Err(_) => {}
        }
        if outcome.is_ok() && !at_once {
            counters.turns_waited.one();
        }
    }

    /// Has the thread that looks after waiters look more often, from now on.
    pub fn hurry_if_waiting(&self) {
        if self.locks.anyone_waiting() {
            self.waker.wake();
        }
    }

    /// The turn that a request of the control channel needs.
    pub fn turn_by_request(
        self: &Arc<Self>,
        caller: Caller,
        ask: &Ask,
        wait: Wait,
        done: TurnDone,
    ) {
        self.ask_for_turn(caller, ask, true, wait, done);
    }

    /// How long an open may wait.
    pub fn patience(&self, ask: &Ask) -> Wait {
        let limit = match ask.kind {
            _ if ask.nonblock => return Wait::No,
            TurnKind::Document => Some(DOCUMENT_TIMEOUT),
            TurnKind::LockFile => self.turns.lock_timeout,
        };
        limit.map_or(Wait::Forever, |limit| Wait::Until(Instant::now() + limit))
    }

    /// Takes the turn for CREATE, which must not wait: the kernel holds the directory's lock.
    pub fn turn_at_once(self: &Arc<Self>, caller: Caller, ask: &Ask) -> Result<(), Refused> {
        let outcome = Arc::new(Mutex::new(Err(Refused::WouldBlock)));
        let told = outcome.clone();
        let go: Go = Box::new(move |_, came| {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = came.map(drop);
        });
        self.with_turn(caller, ask, Wait::No, go);
        *outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open that had its turn ended: the turn belongs to the handle, waits for the kernel to look
    /// again, or is over. `ask` is `None` where what was opened has no turns, or none any more.
    pub fn settle_turn(&self, caller: Caller, ask: Option<&Ask>, opened: &io::Result<Opened>) {
        if !self.turns.any() {
            return;
        }
        if opened.as_ref().is_err_and(looks_again) {
            return self.turns.sent_to_look_again(caller.tid);
        }
        let turn = self.turns.take(caller.tid);
        let turn = turn.filter(|turn| ask.is_some_and(|ask| turn.slot == ask.slot));
        let handle = opened.as_ref().ok();
        let handle = handle.and_then(|opened| self.handles.get(opened.handle));
        if let (Some(turn), Some(handle)) = (turn, handle) {
            handle.keep_turn(turn);
        }
    }

    /// An open waited in vain: what was promised to it will not be asked for.
    pub fn give_up_open(self: &Arc<Self>, caller: Caller, node: u64) {
        let slot = self.tree.nodes().slot(node);
        let promised = slot.and_then(|slot| self.promises.take(caller.tid, &slot));
        if let Some(promised) = promised {
            self.promise_broken(&promised);
        }
    }

    /// The number of the turn at the file that `node` is, or of the last one.
    ///
    /// # Errors
    /// ESTALE where the node is gone, ENODATA where nobody ever took a turn.
    pub fn turn_number(&self, node: u64) -> io::Result<u64> {
        let no_data = || io::Error::from_raw_os_error(libc::ENODATA);
        if node == ROOT {
            return Err(no_data());
        }
        let (parent, name) = {
            let nodes = self.tree.nodes();
            let node = nodes.get(node).ok_or_else(stale)?;
            (node.parent, node.name.clone())
        };
        let lock: OsString = match self.turn_at(parent, &name) {
            Some(kind) => lock_file_of(&name, kind),
            None if self.is_lock_file(parent, &name) => name,
            None => return Err(no_data()),
        };
        let slot = self.tree.slot(parent, &lock)?;
        let known = self
            .locks
            .existing(&slot)
            .map(|table| self.locks.number(&table));
        known
            .filter(|number| *number > 0)
            .or_else(|| last_number(&*self.tree.dir(parent).ok()?, &lock))
            .ok_or_else(no_data)
    }

    /// The path of a slot, from the root of the mount, if the kernel knows its directory.
    pub fn path_of_slot(&self, slot: &SlotKey) -> Option<std::path::PathBuf> {
        let dir = self.dir_node(slot.dir)?;
        Some(self.tree.path(dir, &slot.name))
    }

    /// What a lock that comes through `handle` means to turns.
    pub fn lock_terms(&self, caller: Caller, handle: &Handle, kind: Kind) -> Terms {
        if !self.locks_turns(handle) {
            return Terms::default();
        }
        Terms {
            holder: self.holder(caller),
            own_protocol: handle.writable,
            by_request: false,
            ends_turn: handle.turn_id().filter(|_| kind != Kind::Unlock),
            maker: None,
        }
    }

    /// Whether `handle` has a lock file open.
    pub fn locks_turns(&self, handle: &Handle) -> bool {
        let (parent, name) = {
            let nodes = self.tree.nodes();
            match nodes.get(handle.node).filter(|node| !node.unlinked) {
                Some(node) => (node.parent, node.name.clone()),
                None => return false,
            }
        };
        handle.node != ROOT && self.is_lock_file(parent, &name)
    }
}

/// What is done with a turn that has come, or will not; whether at once.
pub type TurnDone = Box<dyn FnOnce(&Arc<Fs>, Result<Turn, Refused>, bool) + Send>;
