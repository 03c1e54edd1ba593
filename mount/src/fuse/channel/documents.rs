//! Reading, changing and publishing documents in a turn.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, Statx};
use serde_json::Value;

use super::super::attr;
use super::super::fs::Fs;
use super::super::opening::masked;
use super::super::proc::umask_of;
use super::super::turns::Turn;
use super::conversation::Conversation;
use super::memory::Share;
use super::requests::{Done, line, no_transaction, wait};
use super::resolve::Target;
use super::shown::Shown;
use crate::control::json::parse;
use crate::control::{
    BeginReply, Change, Code, ControlError, Document, Exact, MAX_DOCUMENT, MAX_DOCUMENT_DEPTH,
    Request, UpdateReply, edit,
};
use crate::engine::draft::Draft;
use crate::engine::locks::Refused;
use crate::engine::opening::{Access, Existing, New, Plan};
use crate::engine::order::Claim;
use crate::engine::process::{Caller, Processes};

/// Documents from this size on are worked on one at a time: as values they take many times their size.
const BIG: u64 = 256 << 10;

/// A turn that was taken by request, to write in it later.
pub struct Transaction {
    target: Target,
    /// As text, which takes less.
    default: Option<Vec<u8>>,
    _share: Share,
    turn: Turn,
}

/// A rewrite, whoever has what open.
const REWRITE: Access = Access {
    truncate: true,
    append: false,
    exclusive: false,
    read: true,
    read_only: false,
    alone: true,
};

fn refused(target: &Target, why: Refused) -> ControlError {
    let (code, text) = match why {
        Refused::WouldBlock => (Code::Again, "somebody else has the turn"),
        Refused::Interrupted => (Code::Interrupted, "a signal came before the turn did"),
        Refused::Deadlock => (
            Code::System(libc::EDEADLK),
            "the same thread has the turn already",
        ),
        Refused::TimedOut => (Code::TimedOut, "the turn did not come in time"),
    };
    target.explain(ControlError::new(code, text))
}

impl Fs {
    /// Takes the turn at a document, and goes on with `update` or `begin`.
    pub fn begin_document(
        self: &Arc<Self>,
        caller: Caller,
        conversation: Arc<Conversation>,
        request: Request,
        done: Done,
    ) {
        let (path, timeout) = match &request {
            Request::Update { path, timeout, .. } | Request::Begin { path, timeout, .. } => {
                (path, *timeout)
            }
            _ => return done(Err(ControlError::invalid("it has no turn"))),
        };
        if matches!(request, Request::Begin { .. }) && conversation.has_transaction() {
            let text = "the handle has a transaction already";
            return done(Err(ControlError::new(Code::Busy, text)));
        }
        let target = match self.resolve(caller, path).and_then(|target| {
            self.must_be_able_to_write(caller, &target)?;
            Ok(target)
        }) {
            Ok(target) => target,
            Err(error) => return done(Err(error)),
        };
        let mode = match target.stat() {
            Ok(Some(stat)) => u32::from(stat.stx_mode) & 0o666,
            Ok(None) => 0o666 & !umask_of(caller.tid),
            Err(error) => return done(Err(error)),
        };
        let ask = self.ask_at(&target, Some(mode));
        self.turn_by_request(
            caller,
            &ask,
            wait(timeout),
            Box::new(move |fs, turn, _| match turn {
                Err(why) => done(Err(refused(&target, why))),
                Ok(turn) => fs.with_turn_at(caller, conversation, request, (target, turn), done),
            }),
        );
    }

    /// Who asks for a turn must be able to use it: others would only be held up.
    fn must_be_able_to_write(&self, caller: Caller, target: &Target) -> Result<(), ControlError> {
        match target.stat()? {
            Some(_) => self.open_document(caller, target).map(drop),
            None => {
                let writable = || {
                    let how = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
                    let flags = rustix::fs::AtFlags::EACCESS;
                    rustix::fs::accessat(&*target.place.dir, ".", how, flags)
                };
                let who = self.engine.processes.credentials(caller);
                let checked = self.engine.as_user(&who, || Ok(writable()?));
                checked.map_err(|error| target.explain(error))
            }
        }
    }

    fn with_turn_at(
        self: &Arc<Self>,
        caller: Caller,
        conversation: Arc<Conversation>,
        request: Request,
        (target, turn): (Target, Turn),
        done: Done,
    ) {
        let slot = target.place.slot.clone();
        match request {
            Request::Update {
                change,
                default,
                returns,
                ..
            } => self.queue(Claim::change(slot), move |fs| {
                let changed = fs.change_document(caller, &target, default.as_ref(), &change);
                fs.engine.ledger.counters.updates.one();
                let change = changed
                    .as_ref()
                    .map_or(Shown::Nothing, |changed| changed.done);
                let reply = changed.map(|changed| changed.reply(&turn, returns));
                fs.show_change(&target, change, turn, Box::new(move || done(line(reply))));
            }),
            Request::Begin { default, .. } => self.queue(Claim::look(slot), move |fs| {
                let found = fs.read_document(caller, &target);
                let reply = found.map(|found| BeginReply {
                    turn: turn.number,
                    exists: found.is_some(),
                    value: Exact(found.or_else(|| default.clone()).unwrap_or(Value::Null)),
                });
                let reply = line(reply).and_then(|line| {
                    let transaction = fs.transaction(caller, target, default, turn)?;
                    conversation.keep_transaction(transaction);
                    Ok(line)
                });
                done(reply);
            }),
            _ => done(Err(ControlError::invalid("it needs no turn"))),
        }
    }

    fn transaction(
        &self,
        caller: Caller,
        target: Target,
        default: Option<Value>,
        turn: Turn,
    ) -> Result<Transaction, ControlError> {
        let default = default.map(|value| serde_json::to_vec(&value)).transpose();
        let default = default.map_err(|error| ControlError::invalid(error.to_string()))?;
        let mut share = Share::default();
        let len = default.as_ref().map_or(0, Vec::len);
        if !share.grow(&self.channel.memory, caller.uid, len) {
            let text = "too many transactions have begun";
            return Err(ControlError::new(Code::Busy, text));
        }
        Ok(Transaction {
            target,
            default,
            _share: share,
            turn,
        })
    }

    /// Publishes what a transaction ends with.
    pub fn commit(
        self: &Arc<Self>,
        caller: Caller,
        conversation: Arc<Conversation>,
        change: Change,
        returns: bool,
        done: Done,
    ) {
        let Some(transaction) = conversation.take_transaction() else {
            return done(Err(no_transaction()));
        };
        let slot = transaction.target.place.slot.clone();
        self.queue(Claim::change(slot), move |fs| {
            let target = &transaction.target;
            let default = transaction.default.as_deref();
            let default = default
                .map(|text| parse(text, MAX_DOCUMENT_DEPTH))
                .transpose();
            let default = default.map_err(|error| ControlError::invalid(error.to_string()));
            let changed = default
                .and_then(|default| fs.change_document(caller, target, default.as_ref(), &change));
            match changed {
                Ok(changed) => {
                    fs.engine.ledger.counters.updates.one();
                    let change = changed.done;
                    let reply = changed.reply(&transaction.turn, returns);
                    let Transaction { target, turn, .. } = transaction;
                    let reply = Box::new(move || done(line(Ok(reply))));
                    fs.show_change(&target, change, turn, reply);
                }
                Err(error) => {
                    // What was asked was wrong: it can be asked again.
                    if matches!(error.code, Code::Invalid | Code::NoMessage) {
                        conversation.keep_transaction(transaction);
                    }
                    done(Err(error));
                }
            }
        });
    }

    fn open_document(&self, caller: Caller, target: &Target) -> Result<File, ControlError> {
        let stat = target.stat()?;
        if let Some(Kind::Directory) = stat.as_ref().map(attr::kind) {
            return Err(target.explain(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if stat.is_some_and(|stat| attr::kind(&stat) != Kind::File) {
            return Err(target.explain(ControlError::invalid("not a regular file")));
        }
        let how = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (dir, name) = (&*target.place.dir, target.place.name());
        let who = self.engine.processes.credentials(caller);
        let open = || Ok(rustix::fs::openat(dir, name, how, Mode::empty())?);
        let opened = self.engine.as_user(&who, open);
        opened
            .map(File::from)
            .map_err(|error| target.explain(error))
    }

    /// The text of the document at `target`, if there is a file.
    fn read_text(&self, caller: Caller, target: &Target) -> Result<Option<Vec<u8>>, ControlError> {
        if target.stat()?.is_none() {
            return Ok(None);
        }
        let file = self.open_document(caller, target)?;
        let mut text = Vec::new();
        let read = file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut text);
        read.map_err(|error| target.explain(error))?;
        Ok(Some(text))
    }

    fn read_document(
        &self,
        caller: Caller,
        target: &Target,
    ) -> Result<Option<Value>, ControlError> {
        let Some(text) = self.read_text(caller, target)? else {
            return Ok(None);
        };
        let document = Document::parse(&text).map_err(|error| target.explain(error))?;
        Ok(document.map(|document| document.value().clone()))
    }

    /// Reads, changes and publishes; has to run alone at the document's slot.
    fn change_document(
        self: &Arc<Self>,
        caller: Caller,
        target: &Target,
        default: Option<&Value>,
        change: &Change,
    ) -> Result<Changed, ControlError> {
        let stat = target.stat()?;
        let len = stat.map_or(0, |stat| stat.stx_size);
        let big = || {
            self.channel
                .big
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let _alone = (len >= BIG).then(big);
        let text = self.read_text(caller, target)?;
        let edited =
            edit(text.as_deref(), default, change).map_err(|error| target.explain(error))?;
        let done = match &edited.bytes {
            Some(bytes) => self
                .replace_document(caller, target, stat, bytes)
                .map_err(|error| target.explain(error))?,
            None => Shown::Nothing,
        };
        Ok(Changed {
            done,
            value: edited.value,
        })
    }

    fn replace_document(
        self: &Arc<Self>,
        caller: Caller,
        target: &Target,
        stat: Option<Statx>,
        bytes: &[u8],
    ) -> Result<Shown, ControlError> {
        self.channel.recent.add(&target.place.slot);
        let (place, path) = (&target.place, target.path.as_path());
        let dir = attr::stat(&attr::of_file(&*place.dir)?);
        let Some(stat) = stat else {
            let mode = masked(&place.dir, 0o666, umask_of(caller.tid));
            let new = New { path, dir, mode };
            return match self.engine.plan_new(caller, place, &new, REWRITE)? {
                Some(draft) => {
                    self.publish_bytes(caller, &draft, bytes)?;
                    Ok(Shown::Made)
                }
                None => {
                    let file = self.make_in_place(caller, target, mode)?;
                    let written = self.write_in_place(caller, target, &file, bytes);
                    if written.is_err() {
                        // There was none before; what is left of it is nobody's document.
                        let _ = rustix::fs::unlinkat(&*place.dir, place.name(), AtFlags::empty());
                    }
                    Ok(written.map(|()| Shown::Made)?)
                }
            };
        };
        let node = self.tree.nodes().of(attr::id(&stat));
        let existing = Existing {
            path,
            stat: attr::stat(&stat),
            dir,
            flagged: attr::flagged(&stat),
        };
        match self
            .engine
            .plan_existing(caller, place, &existing, REWRITE)?
        {
            Plan::Draft(draft) => {
                self.publish_bytes(caller, &draft, bytes)?;
                Ok(Shown::Replaced(node))
            }
            Plan::Edit(_) | Plan::InPlace => {
                let file = self.open_document(caller, target)?;
                let written = self.write_in_place(caller, target, &file, bytes);
                if let (Err(_), Some(node)) = (&written, node) {
                    self.notices.invalidate(node);
                }
                Ok(written.map(|()| Shown::InPlace(node))?)
            }
        }
    }

    fn make_in_place(&self, caller: Caller, target: &Target, mode: u32) -> io::Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (dir, name) = (&*target.place.dir, target.place.name());
        let mode = Mode::from_raw_mode(mode);
        let who = self.engine.processes.credentials(caller);
        let make = || Ok(rustix::fs::openat(dir, name, how | OFlags::CLOEXEC, mode)?);
        self.engine.as_user(&who, make).map(File::from)
    }

    /// Fills `draft`, which nobody has opened, and publishes it.
    fn publish_bytes(
        self: &Arc<Self>,
        caller: Caller,
        draft: &Arc<Draft<SystemDisk>>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.engine.promise(draft);
        let filled = self.fill_as(caller, bytes.len(), || draft.file.write_all_at(bytes, 0));
        let sealed = filled.and_then(|()| {
            self.engine.wrote(draft, bytes.len() as u64);
            self.engine.seal(draft)
        });
        if let Err(error) = sealed {
            // Nobody has opened it: nothing of it is kept.
            if self.engine.break_promise(draft) {
                self.engine.settle(draft);
            }
            return Err(error);
        }
        let writer = self.engine.attach(draft, caller, true);
        let published = self.publish_draft_now(draft);
        if self.engine.detach(&writer) {
            self.engine.settle(draft);
        }
        published
    }

    /// Writes the file itself, which a new inode would break. What cannot be written leaves it as it was.
    fn write_in_place(
        &self,
        caller: Caller,
        target: &Target,
        file: &File,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut old = Vec::new();
        file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut old)?;
        let replace = |content: &[u8]| {
            file.write_all_at(content, 0)?;
            file.set_len(content.len() as u64)?;
            file.sync_data()
        };
        let written = self
            .reserve(caller, file, bytes.len() as u64)
            .and_then(|()| self.fill_as(caller, bytes.len(), || replace(bytes)));
        let Err(error) = written else {
            return Ok(());
        };
        // Its blocks are its own, so that this needs no room but where each write takes new ones.
        if let Err(lost) = self.fill_as(caller, old.len(), || replace(&old)) {
            let text = format!("left half written by an update, and not restored: {lost}");
            self.engine.ledger.note(&target.path, caller.uid, text);
        }
        Err(error)
    }

    /// Takes the room for `len` bytes of `file` before anything of it is written over.
    fn reserve(&self, caller: Caller, file: &File, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::KEEP_SIZE;
        let reserve = || Ok(rustix::fs::fallocate(file, keep, 0, len)?);
        match self.fill_as(caller, len as usize, reserve) {
            // Some file systems cannot.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// Does what takes room on the disk as `caller`: it is counted as his, and takes set-user-id bits away.
    /// A full disk is tried again without the oldest of salvage.
    fn fill_as(
        &self,
        caller: Caller,
        len: usize,
        fill: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let who = self.engine.processes.credentials(caller);
        self.with_room(len as u64, || self.engine.as_user(&who, &fill))
    }

    /// Publishes `draft` as it is; has to run alone at its slot.
    ///
    /// # Errors
    /// Those of the disk, or of an earlier write; the draft stays what it was.
    pub fn publish_draft_now(self: &Arc<Self>, draft: &Arc<Draft<SystemDisk>>) -> io::Result<()> {
        if !draft.new_name {
            self.tree
                .supersede(&draft.place, draft.opener.map(|opener| opener.pid));
        }
        self.engine.publish_now(draft)?;
        if let Some(edit) = self.engine.edit_at(&draft.place.slot) {
            self.forget_content_of(&edit);
        }
        Ok(())
    }
}

/// What became of a document.
struct Changed {
    done: Shown,
    value: Value,
}

impl Changed {
    fn reply(self, turn: &Turn, returns: bool) -> UpdateReply {
        UpdateReply {
            turn: turn.number,
            changed: self.done != Shown::Nothing,
            value: returns.then_some(Exact(self.value)),
        }
    }
}
