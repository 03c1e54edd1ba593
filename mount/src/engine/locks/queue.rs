//! Who holds a table, who waits, and who is next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rounds::Thread;
use super::{Answer, Class, Kind, Outside, Refused, Request, Taken};
use crate::shares::Share;

/// How many locks one user may hold on one file, ranges of one owner included: each request looks at all.
const MOST_HELD: usize = 4096;

/// How long the lock outside is tried again and again where the attempt itself fails.
const FAILS_AT_MOST: Duration = Duration::from_millis(1500);

pub(super) struct Waiting {
    pub(super) request: Request,
    /// Whose locks are not in its way: its ancestors'.
    pub(super) passable: Vec<(Class, u64)>,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) answer: Answer,
    /// Its place among those of its user.
    pub(super) _place: Share,
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Granted,
    /// Others hold it, or came first.
    BusyHere,
    /// It is held here, and by somebody else outside.
    BusyOutside,
}

/// How one who waits gets what it waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WayIn {
    /// Nothing is in the way.
    Free,
    /// Only what belongs to its ancestors.
    Passes,
    /// There are no turns at present.
    LetIn,
}

/// What makes a table a fair one.
pub(super) struct Fair {
    pub(super) outside: Box<dyn Outside>,
    /// Held here, and not yet outside.
    pub(super) pending: VecDeque<Waiting>,
    /// Whether [`Outside::wait`] has been asked and has not called yet.
    pub(super) waits: bool,
    pub(super) number: u64,
    /// Since when attempts to take the lock outside fail, and how.
    pub(super) failing: Option<(Instant, i32)>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) held: Vec<Request>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) fair: Option<Fair>,
}

fn overlap(a: &Request, b: &Request) -> bool {
    a.start <= b.end && b.start <= a.end
}

impl Request {
    /// Whether this lock, held, keeps `asked` from being granted.
    pub(super) fn conflicts(&self, asked: &Request) -> bool {
        let same_world = match (self.class, asked.class) {
            // Whoever opens the lock file of a program's own protocol settles it with him by lock.
            (held, Class::Turn) if held != Class::Turn => {
                !(self.terms.own_protocol && asked.terms.own_protocol)
            }
            (Class::Turn, _) => true,
            (held, asked) => held == asked,
        };
        same_world
            && !self.is_of(asked)
            && overlap(self, asked)
            && (self.kind == Kind::Exclusive || asked.kind == Kind::Exclusive)
    }

    /// Whether it holds the lock outside, too.
    pub(super) fn is_outside(&self) -> bool {
        self.class != Class::Posix
    }

    pub(super) fn is_of(&self, other: &Request) -> bool {
        self.class == other.class && self.owner == other.owner
    }
}

impl Fair {
    /// Takes the lock outside for what was granted here.
    pub(super) fn admit(&mut self, request: &Request) -> Taken {
        if !request.is_outside() {
            return Taken::Absent;
        }
        let exclusive = request.kind == Kind::Exclusive;
        let taken = self.outside.lock(exclusive, &request.terms);
        self.failing = match taken {
            Taken::Failed(errno) => {
                let since = self.failing.map_or_else(Instant::now, |(since, _)| since);
                Some((since, errno))
            }
            _ => None,
        };
        if !taken.is_pending() {
            self.number = self.outside.next_number(self.number);
        }
        taken
    }
}

impl State {
    pub(super) fn conflict(&self, request: &Request) -> Option<Request> {
        self.held
            .iter()
            .find(|held| held.conflicts(request))
            .copied()
    }

    /// The owners of all locks that stand in the way.
    pub(super) fn blockers(&self, request: &Request) -> Vec<u64> {
        let held = self.held.iter().filter(|held| held.conflicts(request));
        held.map(|held| held.owner).collect()
    }

    /// Whether `request` would give its user one more lock than he may hold.
    pub(super) fn is_too_much(&self, request: &Request) -> bool {
        let splits = |held: &Request| {
            held.is_of(request) && held.start < request.start && held.end > request.end
        };
        let adds = request.kind != Kind::Unlock || self.held.iter().any(splits);
        let of_user = |held: &&Request| held.uid == request.uid;
        self.held.len() >= MOST_HELD
            && adds
            && self.held.iter().filter(of_user).count() >= MOST_HELD
    }

    /// Sets or clears the range for its owner, splitting what it only partly covers.
    pub(super) fn apply(&mut self, request: Request) {
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

    /// Whether some program's own lock settles who has the file.
    pub(super) fn is_settled_by_lock(&self) -> bool {
        let own = |held: &&Request| held.class != Class::Turn && held.terms.own_protocol;
        let is_pending = |held: &Request| self.pending().any(|pending| pending.is_of(held));
        self.held.iter().filter(own).any(|held| !is_pending(held))
    }

    /// Whether an open need not wait for a turn, because there are none at present.
    pub(super) fn is_let_in(&self, request: &Request) -> bool {
        request.class == Class::Turn && request.terms.own_protocol && self.is_settled_by_lock()
    }

    /// Ends `turn`. Whether it was held.
    pub(super) fn end_turn(&mut self, turn: u64) -> bool {
        let before = self.held.len();
        self.held
            .retain(|held| !(held.class == Class::Turn && held.owner == turn));
        self.held.len() < before
    }

    pub(super) fn drop_own(&mut self, request: &Request) {
        self.held.retain(|held| !held.is_of(request));
    }

    /// Whether all that is in the way of `request` belongs to its `passable` ancestors.
    pub(super) fn passes(&self, request: &Request, passable: &[(Class, u64)]) -> bool {
        let mut blockers = self.held.iter().filter(|held| held.conflicts(request));
        !passable.is_empty() && blockers.all(|held| passable.contains(&(held.class, held.owner)))
    }

    /// Grants `request` if nothing is in its way. Who gives up a turn for it waits behind nobody.
    pub(super) fn take(&mut self, request: &Request, passable: &[(Class, u64)]) -> Step {
        let ended = request.terms.ends_turn.map(|turn| self.end_turn(turn));
        if self.is_let_in(request) {
            return Step::Granted;
        }
        if request.kind == Kind::Unlock {
            self.apply(*request);
            return Step::Granted;
        }
        let first = ended == Some(true)
            || self.held.iter().any(|held| held.is_of(request))
            || !self.is_behind(request, usize::MAX);
        let free = first && self.conflict(request).is_none();
        let passes = !free && self.passes(request, passable);
        if !free && !passes {
            return Step::BusyHere;
        }
        self.apply(*request);
        let fair = self.fair.as_mut().filter(|_| !passes);
        if fair.is_some_and(|fair| fair.admit(request).is_pending()) {
            Step::BusyOutside
        } else {
            Step::Granted
        }
    }

    /// Keeps one who waits; `here` if it is granted in the table and not yet outside.
    pub(super) fn keep(&mut self, waiting: Waiting, here: bool) {
        if let Some(fair) = self.fair.as_mut().filter(|_| here) {
            return fair.pending.push_back(waiting);
        }
        // flock(2): a lock is given up before another kind of it is waited for.
        if waiting.request.class == Class::Flock {
            self.drop_own(&waiting.request);
        }
        self.waiting.push_back(waiting);
    }

    /// Whether somebody who came before `request`, and stands before `index`, waits for the same.
    pub(super) fn is_behind(&self, request: &Request, index: usize) -> bool {
        let mut before = self.waiting.iter().take(index);
        self.fair.is_some() && before.any(|earlier| earlier.request.conflicts(request))
    }

    /// Grants what can be granted, first come first served.
    pub(super) fn grant(&mut self) -> Vec<Answer> {
        let nothing_held = !self.held.iter().any(Request::is_outside);
        if let Some(fair) = self.fair.as_mut().filter(|_| nothing_held) {
            fair.outside.unlock();
        }
        let mut granted = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            let Some(how) = self.way_in(index) else {
                index += 1;
                continue;
            };
            let Some(waiting) = self.waiting.remove(index) else {
                break;
            };
            match how {
                WayIn::LetIn => granted.push(waiting.answer),
                WayIn::Passes => {
                    self.apply(waiting.request);
                    granted.push(waiting.answer);
                }
                WayIn::Free => {
                    self.apply(waiting.request);
                    match self.fair.as_mut().map(|fair| fair.admit(&waiting.request)) {
                        Some(taken) if taken.is_pending() => self.keep(waiting, true),
                        _ => granted.push(waiting.answer),
                    }
                }
            }
        }
        granted
    }

    /// How the waiter at `index` can be granted what it wants, if it can.
    fn way_in(&self, index: usize) -> Option<WayIn> {
        let waiting = &self.waiting[index];
        let request = &waiting.request;
        if self.is_let_in(request) {
            Some(WayIn::LetIn)
        } else if self.conflict(request).is_some() {
            let passes = self.passes(request, &waiting.passable);
            passes.then_some(WayIn::Passes)
        } else {
            (!self.is_behind(request, index)).then_some(WayIn::Free)
        }
    }

    /// Tries again what is held here and was busy outside.
    pub(super) fn admit_pending(&mut self) -> Vec<Answer> {
        let mut admitted = Vec::new();
        while let Some(waiting) = self.next_pending() {
            if self.is_let_in(&waiting.request) {
                self.drop_own(&waiting.request);
                admitted.push(waiting.answer);
                continue;
            }
            let Some(fair) = &mut self.fair else {
                break;
            };
            if fair.admit(&waiting.request).is_pending() {
                fair.pending.push_front(waiting);
                break;
            }
            admitted.push(waiting.answer);
        }
        admitted
    }

    fn next_pending(&mut self) -> Option<Waiting> {
        self.fair.as_mut()?.pending.pop_front()
    }

    /// Takes out those who wait, here or outside.
    pub(super) fn take_waiting(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Answer> {
        let (mut gone, kept): (VecDeque<_>, _) = self.waiting.drain(..).partition(&which);
        self.waiting = kept;
        if let Some(fair) = &mut self.fair {
            let (more, kept): (VecDeque<_>, _) = fair.pending.drain(..).partition(&which);
            fair.pending = kept;
            for waiting in &more {
                let request = waiting.request;
                self.held.retain(|held| !held.is_of(&request));
            }
            gone.extend(more);
        }
        gone.into_iter().map(|waiting| waiting.answer).collect()
    }

    /// What is held here, and not yet outside.
    pub(super) fn pending(&self) -> impl Iterator<Item = Request> {
        let pending = self.fair.iter().flat_map(|fair| &fair.pending);
        pending.map(|waiting| waiting.request)
    }

    /// The threads that wait, and their users.
    pub(super) fn waiting_threads(&self) -> impl Iterator<Item = Thread> {
        let pending = self.fair.iter().flat_map(|fair| &fair.pending);
        let waiting = self.waiting.iter().chain(pending);
        waiting.map(|waiting| Thread {
            user: waiting.request.uid,
            tid: waiting.request.tid,
        })
    }

    /// What one is told who has it here, not outside, and does not wait.
    pub(super) fn why_busy_outside(&self) -> Refused {
        let failing = self.fair.as_ref().and_then(|fair| fair.failing);
        failing.map_or(Refused::WouldBlock, |(_, errno)| Refused::Failed(errno))
    }

    /// Takes out those who have it here and wait for it outside, where that has failed for too long.
    pub(super) fn take_failed(&mut self) -> Option<(Vec<Answer>, Refused)> {
        let (since, errno) = self.fair.as_ref()?.failing?;
        if since.elapsed() < FAILS_AT_MOST {
            return None;
        }
        let pending: Vec<_> = self.pending().collect();
        let failed = self.take_waiting(|waiting| {
            let is_it = |pending: &Request| pending.is_of(&waiting.request);
            pending.iter().any(is_it)
        });
        if let Some(fair) = &mut self.fair {
            fair.failing = None; // Who asks next has a time of his own.
        }
        Some((failed, Refused::Failed(errno)))
    }

    /// Whether somebody has it here, and waits for it outside without anybody who would tell.
    pub(super) fn is_left_alone(&self) -> bool {
        let fair = self.fair.as_ref();
        fair.is_some_and(|fair| !fair.waits && !fair.pending.is_empty())
    }

    pub(super) fn anyone_waits(&self) -> bool {
        !self.waiting.is_empty()
            || self
                .fair
                .as_ref()
                .is_some_and(|fair| !fair.pending.is_empty())
    }
}
