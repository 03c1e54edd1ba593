//! The engine and the model, side by side.

use std::collections::{BTreeMap, HashMap};
use std::io;

use polystore::disk::{Disk, FileId};
use polystore_mount::engine::locks::{Class, Kind};
use polystore_mount::engine::opening::Access;
use polystore_mount::engine::salvage::Reason;
use proptest::prelude::*;

use super::rules::{
    Ask, CELLS, HandleId, How, Ino, Locked, Mode, Model, NAMES, NEIGHBOUR, Range, Refused, State,
    Target, View, Why,
};
use super::steps::{MOST_PROCESSES, Step};
use crate::processes::{INIT, Pid};
use crate::sim_disk::Operation;
use crate::world::{APPEND, EDIT, EXCLUSIVE, Handle, READ, REWRITE, WHOLE, World};

type Outcome = Result<(), TestCaseError>;

const NAME: [&str; NAMES] = ["a", "b", "a-wal"];

/// How many bytes a part of a file has that is locked.
const CELL: u64 = 1;

pub(super) struct Game {
    world: World,
    model: Model,
    handles: BTreeMap<HandleId, Handle>,
    /// Which inode of the disk is which of the model.
    inodes: HashMap<Ino, FileId>,
    writes: u32,
    /// After how many steps everything is looked at: to look makes an edit catch up.
    pause: usize,
    steps: usize,
}

fn access(how: How) -> Access {
    match how {
        How::Read | How::Make => READ,
        How::Rewrite => REWRITE,
        How::Append => APPEND,
        How::Edit => EDIT,
        How::Exclusive => EXCLUSIVE,
    }
}

fn bytes(range: &Range) -> (u64, u64) {
    let end = match *range.end() + 1 {
        CELLS => WHOLE.1,
        next => next as u64 * CELL - 1,
    };
    (*range.start() as u64 * CELL, end)
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Killed => Reason::WriterKilled,
        Why::WriteError => Reason::WriteError,
        Why::NameTaken => Reason::NameTaken,
        Why::Appended => Reason::AppendedTo,
        Why::Replaced => Reason::Replaced,
    }
    .text()
}

impl Game {
    pub(super) fn new(pause: usize) -> Game {
        assert_eq!(NAME[NEIGHBOUR], "a-wal");
        let mut model = Model::default();
        model.names[0] = Some(model.new_file("old"));
        let world = World::with(&[(NAME[0], "old")]);
        for _ in 0..3 {
            let image = model.new_image();
            model.start(world.tree.spawn(), INIT, image);
        }
        Game {
            world,
            model,
            handles: BTreeMap::new(),
            inodes: HashMap::new(),
            writes: 0,
            pause,
            steps: 0,
        }
    }

    fn process(&self, number: usize) -> Pid {
        let pids: Vec<Pid> = self.model.processes.keys().copied().collect();
        pids[number % pids.len()]
    }

    fn handle(&self, number: usize, fits: impl Fn(Target) -> bool) -> Option<HandleId> {
        let opens = self.model.opens.iter();
        let fitting: Vec<HandleId> = opens
            .filter(|(_, open)| fits(open.target))
            .map(|(id, _)| *id)
            .collect();
        Some(fitting[number.checked_rem(fitting.len())?])
    }

    fn writable(&self, number: usize) -> Option<HandleId> {
        self.handle(number, |target| !matches!(target, Target::Reader(_)))
    }

    pub(super) fn play(&mut self, step: Step) -> Outcome {
        match step {
            Step::Fork(parent) => self.fork(self.process(parent)),
            Step::Exec(number) => self.exec(self.process(number)),
            Step::Exit(number) => self.exit(self.process(number))?,
            Step::Kill(number) => self.kill(self.process(number)),
            Step::Open(number, name, how) => self.open(self.process(number), name, how)?,
            Step::Write(number) => {
                if let Some(id) = self.writable(number) {
                    self.write(id)?;
                }
            }
            Step::FailWrite(number, full) => {
                if let Some(id) = self.writable(number) {
                    self.fail_write(id, full)?;
                }
            }
            Step::Cut(number) => {
                if let Some(id) = self.writable(number) {
                    let len = self.half(self.model.file_of(&self.model.opens[&id]));
                    let expected = self.model.truncate(id, len);
                    let done = self.world.try_set_len(&self.handles[&id], len as u64);
                    prop_assert_eq!(done.is_ok(), expected);
                }
            }
            Step::CutPath(number, name) => self.cut_path(self.process(number), name)?,
            Step::Close(number) => {
                if let Some(id) = self.handle(number, |_| true) {
                    let holders = &self.model.opens[&id].holders;
                    self.close(holders[number % holders.len()], id)?;
                }
            }
            Step::Lock(number, class, range, exclusive) => {
                if let Some(id) = self.handle(number, |_| true) {
                    self.lock(number, id, class, range, exclusive)?;
                }
            }
            _ => self.change_names(step)?,
        }
        self.steps += 1;
        if self.steps.is_multiple_of(self.pause) {
            return self.compare();
        }
        (0..NAMES).try_for_each(|name| self.compare_published(name))?;
        self.compare_salvage()
    }

    fn change_names(&mut self, step: Step) -> Outcome {
        let (expected, done) = match step {
            Step::Rename(number, from, to, replace) if from != to => {
                let pid = self.process(number);
                let expected = self.model.rename(pid, from, to, replace);
                let done = self.world.try_rename(pid, NAME[from], NAME[to], replace);
                (expected, done)
            }
            Step::Exchange(number, one, two) if one != two => {
                let pid = self.process(number);
                let expected = self.model.exchange(pid, one, two);
                (expected, self.world.try_exchange(pid, NAME[one], NAME[two]))
            }
            Step::Link(number, from, to) if from != to => {
                let pid = self.process(number);
                let expected = self.model.link(pid, from, to);
                (expected, self.world.try_link(pid, NAME[from], NAME[to]))
            }
            Step::Unlink(number, name) => {
                let pid = self.process(number);
                let expected = self.model.unlink(pid, name);
                (expected, self.world.try_unlink(pid, NAME[name]))
            }
            _ => return Ok(()),
        };
        prop_assert_eq!(done.is_ok(), expected, "{:?}", done);
        Ok(())
    }

    /// As fork(2): the child has open what its parent has.
    fn fork(&mut self, parent: Pid) {
        if self.model.processes.len() == MOST_PROCESSES {
            return;
        }
        let child = self.world.tree.fork(parent);
        let image = self.model.processes[&parent].image;
        self.model.start(child, parent, image);
        for open in self.model.opens.values_mut() {
            if open.holders.contains(&parent) {
                open.holders.push(child);
            }
        }
    }

    fn exec(&mut self, pid: Pid) {
        self.world.tree.exec(pid, "program");
        let image = self.model.new_image();
        self.model
            .processes
            .entry(pid)
            .and_modify(|process| process.image = image);
    }

    fn open(&mut self, pid: Pid, name: usize, how: How) -> Outcome {
        // Who reads what is being edited goes along with the editors.
        let edited = match self.model.view(pid, name) {
            View::Edit(id) => self.model.edits[id].mode == Mode::Shared,
            _ => false,
        };
        if edited && matches!(how, How::Read | How::Make) {
            return Ok(());
        }
        let expected = self.model.open(pid, name, how);
        if how == How::Read && expected.is_err() {
            return Ok(()); // The world knows O_RDONLY | O_CREAT only.
        }
        let opened = self.world.try_open(pid, NAME[name], access(how));
        match (expected, opened) {
            (Err(Refused::Full), Err(error)) => {
                prop_assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
            }
            (Err(Refused::Exists), Err(error)) => {
                prop_assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            }
            (Ok(id), Ok(handle)) => {
                self.handles.insert(id, handle);
            }
            (expected, opened) => prop_assert!(false, "{expected:?}, {:?}", opened.err()),
        }
        Ok(())
    }

    fn write(&mut self, id: HandleId) -> Outcome {
        self.writes += 1;
        let text = format!("{},", self.writes);
        let expected = self.model.write(id, &text);
        let done = self.world.try_write(&self.handles[&id], text.as_bytes());
        prop_assert_eq!(done.is_ok(), expected, "{:?}", done);
        Ok(())
    }

    fn fail_write(&mut self, id: HandleId, full: bool) -> Outcome {
        if self.model.is_spent(id) {
            return Ok(()); // The disk is not asked any more.
        }
        self.model.fail_write(id, full);
        // EDQUOT, not ENOSPC: that would be tried again without the oldest of salvage.
        let code = if full { libc::EDQUOT } else { libc::EIO };
        self.world.disk.fail_next(Operation::Write, code);
        let done = self.world.try_write(&self.handles[&id], b"x");
        prop_assert_eq!(
            done.err().and_then(|error| error.raw_os_error()),
            Some(code)
        );
        Ok(())
    }

    fn half(&self, ino: Ino) -> usize {
        self.model.files[ino].len() / 2
    }

    fn cut_path(&mut self, pid: Pid, name: usize) -> Outcome {
        let len = self.model.look(pid, name).map_or(0, |ino| self.half(ino));
        let expected = self.model.truncate_path(pid, name, len);
        let done = self.world.try_truncate(pid, NAME[name], len as u64);
        prop_assert_eq!(done.is_ok(), expected, "{:?}", done);
        Ok(())
    }

    /// Whether a close by `pid` would make others wait for the publish of a new name.
    fn makes_others_wait(&self, pid: Pid, id: HandleId) -> bool {
        let open = &self.model.opens[&id];
        let Target::Draft(draft) = open.target else {
            return false;
        };
        let handles = self.model.opens.values();
        let same = handles.filter(|other| other.target == open.target);
        let last = open.holders.len() == 1 && same.count() == 1;
        let draft = &self.model.drafts[draft];
        let private = draft.new && draft.written && draft.state == State::Private;
        private && open.opener == pid && !last
    }

    fn close(&mut self, pid: Pid, id: HandleId) -> Outcome {
        if self.makes_others_wait(pid, id) {
            return Ok(());
        }
        self.flush(pid, id, false)?;
        self.release_closed();
        Ok(())
    }

    fn flush(&mut self, pid: Pid, id: HandleId, killed: bool) -> Outcome {
        let slot = self.model.opens[&id].slot;
        self.model.locks.closed(slot, pid);
        let fails = self.model.close(pid, id, killed);
        let done = self.world.flush(pid, &self.handles[&id]);
        if !killed {
            prop_assert_eq!(done.is_err(), fails, "close: {:?}", done);
        }
        Ok(())
    }

    fn held_by(&self, pid: Pid) -> Vec<HandleId> {
        let opens = self.model.opens.iter();
        opens
            .filter(|(_, open)| open.holders.contains(&pid))
            .map(|(id, _)| *id)
            .collect()
    }

    /// `pid` ends, closing what it has open.
    fn exit(&mut self, pid: Pid) -> Outcome {
        let held = self.held_by(pid);
        let waits = held.iter().any(|id| self.makes_others_wait(pid, *id));
        if waits || self.model.processes.len() == 1 {
            return Ok(());
        }
        self.close_all(pid)?;
        self.gone(pid);
        Ok(())
    }

    fn close_all(&mut self, pid: Pid) -> Outcome {
        for id in self.held_by(pid) {
            self.flush(pid, id, false)?;
        }
        self.release_closed();
        Ok(())
    }

    fn kill(&mut self, pid: Pid) {
        if self.model.processes.len() == 1 {
            return;
        }
        self.world.tree.kill(pid);
        for id in self.held_by(pid) {
            let _ = self.flush(pid, id, true); // Nobody is there to be told.
        }
        self.release_closed();
        self.gone(pid);
    }

    fn gone(&mut self, pid: Pid) {
        self.world.tree.exit(pid);
        self.model.processes.remove(&pid);
        for process in self.model.processes.values_mut() {
            if process.parent == pid {
                process.parent = INIT;
            }
        }
    }

    fn release_closed(&mut self) {
        for id in self.model.closed_handles() {
            if let Some(handle) = self.handles.remove(&id) {
                self.world.release(handle);
            }
            self.model.release(id);
        }
    }

    fn lock(
        &mut self,
        number: usize,
        id: HandleId,
        class: Class,
        range: Range,
        exclusive: Option<bool>,
    ) -> Outcome {
        let holders = &self.model.opens[&id].holders;
        let ask = Ask {
            handle: id,
            pid: holders[number % holders.len()],
            class,
            range,
            exclusive,
        };
        let expected = self.model.lock(&ask);
        let kind = match exclusive {
            None => Kind::Unlock,
            Some(false) => Kind::Shared,
            Some(true) => Kind::Exclusive,
        };
        let handle = &self.handles[&id];
        let done = self
            .world
            .try_lock(ask.pid, handle, class, bytes(&ask.range), kind);
        match (expected, done) {
            (Locked::Granted, Ok(())) => {}
            (Locked::WouldBlock, Err(error)) => {
                prop_assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
            (expected, done) => prop_assert!(false, "lock: {expected:?}, {done:?}"),
        }
        Ok(())
    }

    fn compare(&mut self) -> Outcome {
        for (name, path) in NAME.iter().enumerate() {
            let pids: Vec<Pid> = self.model.processes.keys().copied().collect();
            for pid in pids {
                let found = self.world.read(pid, path);
                let ino = self.model.look(pid, name);
                let expected = ino.map(|ino| &self.model.files[ino]);
                prop_assert_eq!(found.as_ref(), expected, "process {} reads {}", pid, path);
                self.same_inode(ino, self.world.found_id(pid, path))?;
            }
            self.compare_published(name)?;
        }
        self.compare_handles()?;
        self.compare_salvage()
    }

    /// An inode of the model is always the same inode of the disk.
    fn same_inode(&mut self, ino: Option<Ino>, found: Option<FileId>) -> Outcome {
        if let (Some(ino), Some(found)) = (ino, found) {
            let known = self.inodes.entry(ino).or_insert(found);
            prop_assert_eq!(*known, found, "another inode than before");
        }
        Ok(())
    }

    fn compare_published(&mut self, name: usize) -> Outcome {
        let path = NAME[name];
        let ino = self.model.names[name];
        let expected = ino.map(|ino| self.model.files[ino].clone());
        prop_assert_eq!(self.world.published(path), expected, "published {}", path);
        let place = self.world.place(path).expect("the root");
        let stat = self.world.disk.stat(&place.dir, place.name());
        let stat = stat.expect("a healthy disk");
        self.same_inode(ino, stat.map(|stat| stat.id))?;
        let links = ino.map(|ino| self.model.links(ino));
        prop_assert_eq!(
            stat.map(|stat| stat.links as usize),
            links,
            "links of {}",
            path
        );
        Ok(())
    }

    fn compare_handles(&mut self) -> Outcome {
        let ids: Vec<HandleId> = self.handles.keys().copied().collect();
        for id in ids {
            let open = &self.model.opens[&id];
            let (ino, target) = (self.model.file_of(open), open.target);
            let handle = &self.handles[&id];
            let text = self.world.text(handle);
            prop_assert_eq!(&text, &self.model.files[ino], "handle {} {:?}", id, target);
            let found = self.world.content_id(handle).expect("a healthy disk");
            let in_place = match target {
                Target::Reader(_) | Target::Version(_) => true,
                Target::Draft(id) => self.model.drafts[id].state == State::Published,
                Target::Edit(id) => matches!(self.model.edits[id].mode, Mode::InPlace(_)),
            };
            let reads = matches!(target, Target::Reader(_));
            prop_assert!(reads || handle.is_in_place() == in_place, "in place or not");
            self.same_inode(Some(ino), Some(found))?;
        }
        Ok(())
    }

    fn compare_salvage(&self) -> Outcome {
        let mut found: Vec<(String, String)> = self
            .world
            .salvaged()
            .into_iter()
            .map(|item| (item.reason, String::from_utf8_lossy(&item.content).into()))
            .collect();
        let kept = self.model.kept.iter();
        let mut expected: Vec<(String, String)> = kept
            .map(|kept| {
                (
                    reason(kept.why).to_owned(),
                    self.model.files[kept.ino].clone(),
                )
            })
            .collect();
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected, "in salvage");
        let names = NAME.iter().zip(&self.model.names);
        let mut listed: Vec<&str> = names
            .filter(|(_, ino)| ino.is_some())
            .map(|(name, _)| *name)
            .collect();
        listed.sort_unstable();
        prop_assert_eq!(self.world.names(), listed, "readdir");
        Ok(())
    }

    /// Everybody ends in peace: nothing stays staged, and the directory is an ordinary one.
    pub(super) fn end(mut self) -> Outcome {
        while let Some(open) = self.model.opens.values().next() {
            self.close_all(open.holders[0])?;
        }
        self.compare()?;
        prop_assert_eq!(self.world.staged(), [""; 0]);
        prop_assert!(
            !self
                .world
                .engine
                .has_drafts_in(self.world.place("a").expect("the root").slot.dir)
        );
        Ok(())
    }
}
