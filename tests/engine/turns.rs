//! Turns: tables that are first come, first served, and that somebody outside may hold, too.
//!
//! Random histories of asking, ending, dying, timing out, and of others who take and leave the lock outside.
//! After each step: nobody holds what another has, nobody waits for nothing, everybody is answered
//! once, and in the order of asking.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polystore::disk::FileId;
use polystore_mount::engine::locks::{
    Class, Kind, Locks, Outside, Refused, Request, Table, Taken, Terms, Wait,
};
use polystore_mount::engine::order::Job;
use polystore_mount::engine::slot::SlotKey;
use proptest::prelude::*;

use crate::processes::Tree;
use crate::rounds;

/// Who holds the lock file, beside the mount.
#[derive(Default)]
struct World {
    /// Whether somebody outside has it, and exclusively.
    others: Option<bool>,
    /// Whether the mount has it, and exclusively.
    mount: Option<bool>,
    /// The one who waits for it beside everything else.
    waiting: Option<(bool, Job)>,
    number: u64,
    /// The error of each attempt to lock it.
    fails: Option<i32>,
}

impl World {
    fn is_free_for(&self, exclusive: bool) -> bool {
        self.others.is_none_or(|others| !others && !exclusive)
    }
}

#[derive(Clone, Default)]
struct LockFile(Arc<Mutex<World>>);

impl Outside for LockFile {
    fn lock(&mut self, exclusive: bool, _terms: &Terms) -> Taken {
        let mut world = self.0.lock().expect("not poisoned");
        if world.mount.is_some_and(|has| has || !exclusive) {
            return Taken::Locked;
        }
        world.mount = None;
        if let Some(errno) = world.fails {
            return Taken::Failed(errno);
        }
        if !world.is_free_for(exclusive) {
            return Taken::Busy;
        }
        world.mount = Some(exclusive);
        Taken::Locked
    }

    fn unlock(&mut self) {
        self.0.lock().expect("not poisoned").mount = None;
    }

    fn wait(&mut self, exclusive: bool, done: Job) -> bool {
        let mut world = self.0.lock().expect("not poisoned");
        assert!(world.waiting.is_none(), "two wait outside for one table");
        world.waiting = Some((exclusive, done));
        true
    }

    fn renamed(&mut self, _dir: Arc<dyn Any + Send + Sync>, _name: &OsStr) {}

    fn next_number(&mut self, last: u64) -> u64 {
        let mut world = self.0.lock().expect("not poisoned");
        world.number = world.number.max(last) + 1;
        world.number
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A turn at the lock file, or at a document.
    Turn {
        lock_file: bool,
        waits: bool,
    },
    /// A lock through a descriptor that only reads (the library), or of a program's own protocol.
    Lock {
        own: bool,
        shared: bool,
        waits: bool,
    },
    /// The n-th of those who have asked ends what it has, or dies while it waits.
    End(usize),
    /// Whose time is over are told.
    TimeOut,
    OthersTake {
        exclusive: bool,
    },
    OthersLeave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), any::<bool>()).prop_map(|(lock_file, waits)| Step::Turn { lock_file, waits }),
        3 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(own, shared, waits)| Step::Lock { own, shared, waits }),
        6 => (0..8usize).prop_map(Step::End),
        1 => Just(Step::TimeOut),
        1 => any::<bool>().prop_map(|exclusive| Step::OthersTake { exclusive }),
        2 => Just(Step::OthersLeave),
    ];
    prop::collection::vec(step, 1..60)
}

/// One who has asked.
struct Asker {
    request: Request,
    waits: bool,
    /// Whether it came in beside a lock that settles who has the file: it holds nothing.
    let_in: bool,
    /// Whether it has been looked at since it was granted.
    seen: bool,
    answers: Arc<Mutex<Vec<Result<(), Refused>>>>,
}

impl Asker {
    fn answer(&self) -> Option<Result<(), Refused>> {
        let answers = self.answers.lock().expect("not poisoned");
        assert!(answers.len() <= 1, "answered twice: {answers:?}");
        answers.first().copied()
    }
}

struct Game {
    locks: Arc<Locks>,
    table: Arc<Table>,
    file: LockFile,
    next: u64,
    /// In the order of asking, without those who are done.
    askers: Vec<Asker>,
    last_number: u64,
}

impl Game {
    fn new() -> Game {
        let locks = Arc::new(Locks::default());
        let file = LockFile::default();
        let slot = SlotKey {
            dir: FileId {
                device: 1,
                inode: 2,
            },
            name: "job.lock".into(),
        };
        let outside = file.clone();
        let table = locks.fair_table(&slot, || Box::new(outside));
        Game {
            locks,
            table,
            file,
            next: 1,
            askers: Vec::new(),
            last_number: 0,
        }
    }

    fn ask(&mut self, class: Class, own_protocol: bool, kind: Kind, waits: bool) {
        let id = self.next;
        self.next += 1;
        let request = Request {
            class,
            owner: id,
            start: 0,
            end: i64::MAX as u64,
            kind,
            pid: id as u32,
            tid: id as u32,
            uid: 0,
            handle: id,
            terms: Terms {
                own_protocol,
                ..Terms::default()
            },
        };
        let answers = Arc::new(Mutex::new(Vec::new()));
        let told = answers.clone();
        let answer = Box::new(move |outcome| told.lock().expect("not poisoned").push(outcome));
        // Half of those who wait have no time left the next time somebody looks.
        let wait = match (waits, id % 2) {
            (false, _) => Wait::No,
            (true, 0) => Wait::Forever,
            (true, _) => Wait::Until(Instant::now()),
        };
        self.locks.set_past(&self.table, request, &[], wait, answer);
        let asker = Asker {
            request,
            waits,
            let_in: false,
            seen: false,
            answers,
        };
        if !waits {
            assert!(
                asker.answer().is_some(),
                "no answer to one who does not wait"
            );
        }
        self.askers.push(asker);
    }

    fn end(&mut self, number: usize) {
        if self.askers.is_empty() {
            return;
        }
        let asker = self.askers.remove(number % self.askers.len());
        match asker.request.class {
            Class::Turn if asker.answer() == Some(Ok(())) => {
                self.locks.end_turn(&self.table, asker.request.owner);
            }
            _ => self.locks.released(&self.table, asker.request.handle),
        }
        if asker.answer().is_none() {
            panic!("one who gave up got no answer");
        }
    }

    /// What was taken or left outside comes to the mount.
    fn pump(&self) {
        loop {
            let done = {
                let mut world = self.file.0.lock().expect("not poisoned");
                let free = |exclusive: &bool| world.is_free_for(*exclusive);
                match world.waiting.as_ref().is_some_and(|(how, _)| free(how)) {
                    true => world.waiting.take(),
                    false => None,
                }
            };
            match done {
                Some((_, done)) => done(),
                None => return,
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Turn { lock_file, waits } => {
                self.ask(Class::Turn, lock_file, Kind::Exclusive, waits);
            }
            Step::Lock { own, shared, waits } => {
                let kind = if shared {
                    Kind::Shared
                } else {
                    Kind::Exclusive
                };
                self.ask(Class::Flock, own, kind, waits);
            }
            Step::End(number) => self.end(number),
            Step::TimeOut => self.locks.look_after_waiters(&Tree::new()),
            Step::OthersTake { exclusive } => {
                let mut world = self.file.0.lock().expect("not poisoned");
                let free = world.mount.is_none_or(|mount| !mount && !exclusive);
                if world.others.is_none() && free {
                    world.others = Some(exclusive);
                }
            }
            Step::OthersLeave => {
                self.file.0.lock().expect("not poisoned").others = None;
                self.pump();
            }
        }
    }

    fn check(&mut self) {
        let own_lock = self
            .of(Some(Ok(())))
            .iter()
            .any(|a| a.request.class != Class::Turn && a.request.terms.own_protocol);
        for asker in &mut self.askers {
            let opens = asker.request.class == Class::Turn && asker.request.terms.own_protocol;
            asker.let_in |= opens && own_lock && asker.answer() == Some(Ok(()));
        }
        let holding: Vec<&Asker> = self.of(Some(Ok(())));
        let holding: Vec<&Asker> = holding.into_iter().filter(|a| !a.let_in).collect();
        for (index, one) in holding.iter().enumerate() {
            for other in &holding[..index] {
                assert!(
                    !excludes(&one.request, &other.request),
                    "two have it: {:?} and {:?}",
                    one.request,
                    other.request
                );
            }
        }
        let waiting = self.of(None);
        assert!(waiting.iter().all(|asker| asker.waits));
        for new in holding.iter().filter(|asker| !asker.seen) {
            // Programs of a protocol of their own settle it among themselves.
            let own = new.request.terms.own_protocol;
            let earlier = |asker: &&&Asker| {
                let settles = own && asker.request.terms.own_protocol;
                asker.request.owner < new.request.owner
                    && (asker.request.class == new.request.class || !settles)
            };
            let mut earlier = waiting.iter().filter(earlier);
            assert!(
                !earlier.any(|asker| excludes(&asker.request, &new.request)),
                "{:?} was served before those who came first",
                new.request
            );
        }
        self.nobody_waits_for_nothing(&holding, &waiting, own_lock);
        let world = self.file.0.lock().expect("not poisoned");
        if holding.is_empty() && waiting.is_empty() {
            assert_eq!(world.mount, None, "held outside for nobody");
        }
        let exclusive = |a: &&Asker| a.request.kind == Kind::Exclusive;
        if holding.iter().any(exclusive) {
            assert_eq!(world.mount, Some(true), "not held outside");
        }
        assert_eq!(self.locks.waiters(), waiting.len());
        drop(world);
        for asker in &mut self.askers {
            asker.seen |= asker.answer().is_some();
        }
    }

    fn of(&self, answer: Option<Result<(), Refused>>) -> Vec<&Asker> {
        let askers = self.askers.iter();
        askers.filter(|asker| asker.answer() == answer).collect()
    }

    /// The first in the queue waits for somebody who has it, here or outside.
    fn nobody_waits_for_nothing(&self, holding: &[&Asker], waiting: &[&Asker], own_lock: bool) {
        let world = self.file.0.lock().expect("not poisoned");
        if world.others.is_some() {
            return;
        }
        let Some(first) = waiting.first() else {
            return;
        };
        let blocked = holding
            .iter()
            .any(|holder| excludes(&holder.request, &first.request));
        let opens = first.request.class == Class::Turn && first.request.terms.own_protocol;
        assert!(
            blocked && !(own_lock && opens),
            "{:?} waits for nothing",
            first.request
        );
    }
}

/// Whether both may not be held at once.
fn excludes(one: &Request, other: &Request) -> bool {
    one.class == Class::Turn
        || other.class == Class::Turn
        || one.kind == Kind::Exclusive
        || other.kind == Kind::Exclusive
}

proptest! {
    #![proptest_config(rounds(2000))]

    #[test]
    fn whatever_happens(steps in steps()) {
        let mut game = Game::new();
        for step in steps {
            game.step(step);
            game.check();
        }
        // In the end everybody has had it or has been told.
        game.step(Step::OthersLeave);
        game.check();
        for _ in 0..200 {
            if game.askers.is_empty() {
                break;
            }
            let holder = game.askers.iter().position(|asker| asker.answer().is_some());
            game.end(holder.expect("somebody has it"));
            game.check();
        }
        prop_assert!(game.askers.is_empty());
    }
}

/// Turns are had in the order of asking, and their numbers grow.
#[test]
fn first_come_first_served() {
    let mut game = Game::new();
    for _ in 0..50 {
        game.ask(Class::Turn, true, Kind::Exclusive, true);
    }
    let mut order: HashMap<u64, u64> = HashMap::new();
    for turn in 1..=50 {
        let holders = game.of(Some(Ok(())));
        assert_eq!(holders.len(), 1);
        let owner = holders[0].request.owner;
        order.insert(turn, owner);
        let number = game.locks.number(&game.table);
        assert!(number > game.last_number);
        game.last_number = number;
        game.end(0);
    }
    assert!((1..=50).all(|turn| order[&turn] == turn));
}

/// A lock of a program's own protocol lets in who waits to open the lock file, and nobody else.
#[test]
fn own_protocols_let_openers_in() {
    let mut game = Game::new();
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    game.ask(Class::Turn, false, Kind::Exclusive, true);
    assert_eq!(game.of(Some(Ok(()))).len(), 1);
    let holder = game.askers[0].request.owner;
    let request = Request {
        class: Class::Flock,
        owner: 100,
        handle: 100,
        terms: Terms {
            own_protocol: true,
            ends_turn: Some(holder),
            ..Terms::default()
        },
        ..game.askers[0].request
    };
    let took = Arc::new(Mutex::new(None));
    let told = took.clone();
    let answer = Box::new(move |outcome| *told.lock().expect("not poisoned") = Some(outcome));
    game.locks
        .set_past(&game.table, request, &[], Wait::No, answer);
    assert_eq!(*took.lock().expect("not poisoned"), Some(Ok(())));
    assert_eq!(game.askers[1].answer(), Some(Ok(())), "an opener waits on");
    assert_eq!(
        game.askers[2].answer(),
        None,
        "a document's turn is not the lock's"
    );
    game.locks.released(&game.table, 100);
    assert_eq!(game.askers[2].answer(), Some(Ok(())));
}

/// An ancestor's turn is no obstacle, whoever waits.
#[test]
fn descendants_pass_the_queue() {
    let mut game = Game::new();
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    let parent = game.askers[0].request;
    let child = Request {
        owner: 77,
        ..parent
    };
    let took = Arc::new(Mutex::new(None));
    let told = took.clone();
    let answer = Box::new(move |outcome| *told.lock().expect("not poisoned") = Some(outcome));
    let passable = [(Class::Turn, parent.owner)];
    game.locks
        .set_past(&game.table, child, &passable, Wait::No, answer);
    assert_eq!(*took.lock().expect("not poisoned"), Some(Ok(())));
    game.locks.end_turn(&game.table, parent.owner);
    assert_eq!(game.askers[1].answer(), None, "the child has it still");
    game.locks.end_turn(&game.table, 77);
    assert_eq!(game.askers[1].answer(), Some(Ok(())));
}

/// Children of the holder take turns with each other, and with nobody else.
#[test]
fn descendants_wait_for_each_other() {
    let mut game = Game::new();
    game.ask(Class::Turn, false, Kind::Exclusive, true);
    game.ask(Class::Turn, false, Kind::Exclusive, true);
    let parent = game.askers[0].request;
    let passable = [(Class::Turn, parent.owner)];
    let children: Vec<_> = (77..80)
        .map(|owner| {
            let told = Arc::new(Mutex::new(None));
            let answer = told.clone();
            let answer =
                Box::new(move |outcome| *answer.lock().expect("not poisoned") = Some(outcome));
            let child = Request { owner, ..parent };
            game.locks
                .set_past(&game.table, child, &passable, Wait::Forever, answer);
            told
        })
        .collect();
    let has = |child: usize| *children[child].lock().expect("not poisoned") == Some(Ok(()));
    assert_eq!((has(0), has(1), has(2)), (true, false, false));
    game.locks.end_turn(&game.table, 77);
    assert_eq!((has(1), has(2)), (true, false));
    game.locks.end_turn(&game.table, 78);
    assert!(has(2));
    game.locks.end_turn(&game.table, parent.owner);
    assert_eq!(game.askers[1].answer(), None);
    game.locks.end_turn(&game.table, 79);
    assert_eq!(game.askers[1].answer(), Some(Ok(())));
}

/// Whose time is over is told, and the next in the queue is not held up by him.
#[test]
fn a_time_that_is_over_is_told() {
    let mut game = Game::new();
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    game.ask(Class::Turn, true, Kind::Exclusive, true);
    std::thread::sleep(Duration::from_millis(2));
    game.locks.look_after_waiters(&Tree::new());
    assert_eq!(game.askers[1].answer(), None);
    assert_eq!(game.askers[2].answer(), Some(Err(Refused::TimedOut)));
    game.end(0);
    assert_eq!(game.askers[0].answer(), Some(Ok(())));
}

/// Asks for a turn, and looks after the waiters until there is an answer. How long that took.
fn turn_of(game: &mut Game, wait: bool) -> (Option<Result<(), Refused>>, Duration) {
    let start = Instant::now();
    // Those who have a time of their own would be told that it is over.
    game.next += game.next % 2;
    game.ask(Class::Turn, false, Kind::Exclusive, wait);
    let asked = game.askers.last().expect("one who asks");
    while asked.answer().is_none() && start.elapsed() < Duration::from_secs(5) {
        game.locks.look_after_waiters(&Tree::new());
        std::thread::sleep(Duration::from_millis(5));
    }
    (asked.answer(), start.elapsed())
}

#[test]
fn a_lock_file_that_cannot_be_locked_is_an_error_in_time() {
    for errno in [
        libc::EMFILE,
        libc::ENFILE,
        libc::EIO,
        libc::ENOLCK,
        libc::ENOMEM,
    ] {
        let mut game = Game::new();
        let fails = |game: &Game, how| game.file.0.lock().expect("not poisoned").fails = how;
        fails(&game, Some(errno));
        let (answer, took) = turn_of(&mut game, true);
        assert_eq!(answer, Some(Err(Refused::Failed(errno))), "after {took:?}");
        assert!(
            took >= Duration::from_secs(1) && took < Duration::from_secs(4),
            "{took:?}"
        );
        let (answer, took) = turn_of(&mut game, false);
        assert_eq!(answer, Some(Err(Refused::Failed(errno))), "without waiting");
        assert!(took < Duration::from_secs(1), "{took:?}");
        // What passes in time is no error.
        let file = game.file.clone();
        let passes = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            file.0.lock().expect("not poisoned").fails = None;
        });
        assert_eq!(turn_of(&mut game, true).0, Some(Ok(())));
        passes.join().expect("the thread ends");
        assert!(!game.locks.anyone_waiting());
    }
}
