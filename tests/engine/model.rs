//! Random histories, against a model of plain maps.
//!
//! The model says what the rules are; it knows no staging, no seals and no disk. What every
//! process finds under every name, and what is in salvage, is compared after every step.
//!
//! Left out, because what happens then depends on the clock: an opener that closes a new,
//! written file while others have it open (watchers are made to wait for it).

mod rules;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use crate::processes::{INIT, Pid};
use crate::rounds;
use crate::world::{EXCLUSIVE, Handle, World};
use rules::{How, Model, Open, State};

const NAMES: [&str; 3] = ["a", "b", "c"];
const MOST_PROCESSES: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Fork(usize),
    Exec(usize),
    Open(usize, usize, How),
    Write(usize),
    Close(usize),
    Kill(usize),
    Rename(usize, usize, usize, bool),
    Unlink(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (process, name, handle) = (|| 0..MOST_PROCESSES, || 0..NAMES.len(), || 0..8_usize);
    let how = prop_oneof![
        6 => Just(How::Rewrite),
        2 => Just(How::Append),
        2 => Just(How::Edit),
        1 => Just(How::Exclusive),
    ];
    prop_oneof![
        2 => process().prop_map(Step::Fork),
        1 => process().prop_map(Step::Exec),
        6 => (process(), name(), how).prop_map(|(p, n, how)| Step::Open(p, n, how)),
        6 => handle().prop_map(Step::Write),
        5 => handle().prop_map(Step::Close),
        1 => process().prop_map(Step::Kill),
        2 => (process(), name(), name(), any::<bool>()).prop_map(|(p, a, b, r)| Step::Rename(p, a, b, r)),
        1 => (process(), name()).prop_map(|(p, n)| Step::Unlink(p, n)),
    ]
}

/// Both, side by side.
struct Game {
    world: World,
    model: Model,
    open: Vec<(Handle, Open)>,
    writes: u32,
}

impl Game {
    fn new() -> Game {
        let world = World::with(&[(NAMES[0], "old")]);
        let mut model = Model {
            inodes: vec!["old".to_owned()],
            published: BTreeMap::from([(0, 0)]),
            ..Model::default()
        };
        for _ in 0..3 {
            let image = model.new_image();
            model.start(world.tree.spawn(), INIT, image);
        }
        Game {
            world,
            model,
            open: Vec::new(),
            writes: 0,
        }
    }

    fn process(&self, number: usize) -> Pid {
        let pids: Vec<Pid> = self.model.processes.keys().copied().collect();
        pids[number % pids.len()]
    }

    fn play(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Fork(parent) => self.fork(self.process(parent)),
            Step::Exec(number) => {
                let pid = self.process(number);
                self.world.tree.exec(pid, "program");
                let image = self.model.new_image();
                self.model
                    .processes
                    .entry(pid)
                    .and_modify(|p| p.image = image);
            }
            Step::Open(number, name, how) => self.open(self.process(number), name, how)?,
            Step::Write(number) => {
                if let Some(index) = number.checked_rem(self.open.len()) {
                    self.writes += 1;
                    let text = format!("{},", self.writes);
                    let (handle, open) = &self.open[index];
                    self.world.write(handle, &text);
                    self.model.wrote(open, &text);
                }
            }
            Step::Close(number) => self.close(number),
            Step::Kill(number) => self.kill(self.process(number)),
            Step::Rename(number, from, to, replace) if from != to => {
                let pid = self.process(number);
                let expected = self.model.rename(pid, from, to, replace);
                let done = self.world.try_rename(pid, NAMES[from], NAMES[to], replace);
                prop_assert_eq!(done.is_ok(), expected);
            }
            Step::Rename(..) => {}
            Step::Unlink(number, name) => {
                let pid = self.process(number);
                let expected = self.model.unlink(pid, name);
                prop_assert_eq!(self.world.try_unlink(pid, NAMES[name]).is_ok(), expected);
            }
        }
        self.compare()
    }

    /// As fork(2): the child has open what its parent has.
    fn fork(&mut self, parent: Pid) {
        if self.model.processes.len() == MOST_PROCESSES {
            return;
        }
        let child = self.world.tree.fork(parent);
        let image = self.model.processes[&parent].image;
        self.model.start(child, parent, image);
        for (_, open) in &mut self.open {
            if open.holders.contains(&parent) {
                open.holders.push(child);
            }
        }
    }

    fn open(&mut self, pid: Pid, name: usize, how: How) -> Result<(), TestCaseError> {
        if matches!(how, How::Exclusive) {
            // Only the refusal: what is made exclusively is played as any other new name.
            if self.model.reserved(name) || self.model.published.contains_key(&name) {
                prop_assert!(self.world.try_open(pid, NAMES[name], EXCLUSIVE).is_err());
            }
            return Ok(());
        }
        let published = self.model.published.get(&name);
        let appended = self
            .open
            .iter()
            .any(|(_, open)| open.appends && Some(&open.inode) == published);
        let Some(open) = self.model.open(pid, name, how, appended) else {
            return Ok(());
        };
        let handle = self.world.open(pid, NAMES[name], how.access());
        let private = |id: usize| matches!(self.model.drafts[id].state, State::Private);
        prop_assert_eq!(
            handle.draft().is_some(),
            open.draft.is_some_and(private),
            "in place or not"
        );
        self.open.push((handle, open));
        Ok(())
    }

    fn close(&mut self, number: usize) {
        let Some(index) = number.checked_rem(self.open.len()) else {
            return;
        };
        let (handle, open) = &mut self.open[index];
        let pid = open.holders[number % open.holders.len()];
        let watched = open.draft.is_some_and(|id| {
            let draft = &self.model.drafts[id];
            let last = open.holders.len() == 1 && draft.handles == 1;
            draft.new
                && draft.written
                && draft.state == State::Private
                && open.opener == pid
                && !last
        });
        if watched {
            return;
        }
        self.world.flush(pid, handle).expect("a healthy disk");
        self.model.flushed(pid, open, false);
        open.holders.retain(|holder| *holder != pid);
        self.release_closed();
    }

    fn kill(&mut self, pid: Pid) {
        if self.model.processes.len() == 1 {
            return;
        }
        self.world.tree.kill(pid);
        for (handle, open) in &mut self.open {
            if open.holders.contains(&pid) {
                let _ = self.world.flush(pid, handle); // Nobody is there to be told.
                self.model.flushed(pid, open, true);
                open.holders.retain(|holder| *holder != pid);
            }
        }
        self.release_closed();
        self.world.tree.exit(pid);
        self.model.processes.remove(&pid);
        for process in self.model.processes.values_mut() {
            if process.parent == pid {
                process.parent = INIT;
            }
        }
    }

    /// `pid` closes all that it has open, at once, so that no watcher comes between.
    fn close_all(&mut self, pid: Pid) {
        for (handle, open) in &mut self.open {
            if open.holders.contains(&pid) {
                self.world.flush(pid, handle).expect("a healthy disk");
                self.model.flushed(pid, open, false);
                open.holders.retain(|holder| *holder != pid);
            }
        }
        self.release_closed();
    }

    fn release_closed(&mut self) {
        while let Some(index) = self
            .open
            .iter()
            .position(|(_, open)| open.holders.is_empty())
        {
            let (handle, open) = self.open.remove(index);
            self.world.release(handle);
            self.model.released(&open);
        }
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        for (index, name) in NAMES.iter().enumerate() {
            for pid in self.model.processes.keys() {
                let found = self.world.read(*pid, name);
                let expected = self.model.read(*pid, index);
                prop_assert_eq!(found.as_deref(), expected, "process {} reads {}", pid, name);
            }
            let expected = self
                .model
                .published
                .get(&index)
                .map(|inode| &self.model.inodes[*inode]);
            prop_assert_eq!(
                self.world.published(name),
                expected.cloned(),
                "published {}",
                name
            );
        }
        let mut counts: HashMap<Vec<u8>, i32> = HashMap::new();
        // A version that was replaced under an append is kept as it is: it goes on growing.
        let appended = "it was replaced while somebody appended to it";
        for item in self
            .world
            .salvaged()
            .into_iter()
            .filter(|item| item.reason != appended)
        {
            *counts.entry(item.content).or_default() += 1;
        }
        for content in &self.model.salvaged {
            *counts.entry(content.clone().into_bytes()).or_default() -= 1;
        }
        prop_assert!(counts.values().all(|count| *count == 0), "salvage differs");
        Ok(())
    }
}

proptest! {
    #![proptest_config(rounds(400))]

    #[test]
    fn every_process_finds_what_the_rules_say(steps in prop::collection::vec(step(), 1..60)) {
        let mut game = Game::new();
        for step in steps {
            game.play(step)?;
        }
        // Everybody ends in peace: nothing stays staged, and the directory is an ordinary one.
        while !game.open.is_empty() {
            let pid = game.open[0].1.holders[0];
            game.close_all(pid);
        }
        game.compare()?;
        prop_assert_eq!(game.world.staged(), [""; 0]);
        let names = NAMES.iter().map(|name| (*name).to_owned());
        let published: Vec<String> = names.filter(|name| game.world.published(name).is_some()).collect();
        prop_assert_eq!(game.world.names(), published);
    }
}
