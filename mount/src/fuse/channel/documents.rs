//! Reading, changing and publishing documents in a turn.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, Statx};
use rustix::io::Errno;
use serde_json::Value;

use super::super::attr;
use super::super::errno::stale;
use super::super::fs::Fs;
use super::super::opening::masked;
use super::super::proc::umask_of;
use super::super::tree::path_of;
use super::super::turns::Turn;
use super::budget::Share;
use super::conversation::{Asker, Conversation};
use super::requests::{Done, line, no_transaction, wait};
use super::resolve::{Target, is_shared};
use super::shown::Shown;
use crate::control::json::parse;
use crate::control::{
    BeginReply, Change, Code, ControlError, Document, Exact, MAX_DOCUMENT, MAX_DOCUMENT_DEPTH,
    Request, UpdateReply, edit,
};
use crate::engine::credentials::Credentials;
use crate::engine::draft::Draft;
use crate::engine::locks::Refused;
use crate::engine::opening::{Access, Existing, New, Plan};
use crate::engine::order::Claim;

/// How often a document is looked at anew that others replace.
const MOST_LOOKS: usize = 32;

/// A turn that was taken by request, to write in it later.
pub struct Transaction {
    target: Target,
    /// As text, which takes less.
    default: Option<Vec<u8>>,
    /// Who began.
    who: Credentials,
    _share: Share,
    turn: Turn,
}

/// A document that was opened as the user who asked.
struct Found {
    file: File,
    stat: Statx,
}

impl Found {
    /// What it says, up to a byte more than a document may have.
    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let most = MAX_DOCUMENT as u64 + 1;
        (&self.file).take(most).read_to_end(&mut text)?;
        Ok(text)
    }
}

/// Opens the regular file at `target`, as whoever the thread acts as.
///
/// # Errors
/// `InvalidInput` for what is no regular file, EISDIR for a directory; else those of opening it.
fn open_regular(target: &Target) -> io::Result<Found> {
    let (dir, name) = (&*target.place.dir, target.place.name());
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let named = rustix::fs::openat(dir, name, how, Mode::empty())?;
    let stat = attr::of_file(&named)?;
    match attr::kind(&stat) {
        Kind::File => {}
        Kind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    // It is certain what this opens: a device or a FIFO would do something.
    let how = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path_of(named.as_fd()), how, Mode::empty())?;
    Ok(Found {
        file: file.into(),
        stat,
    })
}

/// Whether the name of `target` stands for the file of which `stat` tells.
fn is_at(target: &Target, stat: &Statx) -> io::Result<bool> {
    match attr::of_name(&*target.place.dir, target.place.name()) {
        Ok(now) => Ok(attr::id(&now) == attr::id(stat) && attr::born(&now) == attr::born(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the name of `target` stands for nothing.
fn is_free(target: &Target) -> io::Result<bool> {
    match attr::of_name(&*target.place.dir, target.place.name()) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether something failed because another file has taken the document's name.
fn is_replaced(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
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
        Refused::Failed(number) => (Code::System(number), "its lock file cannot be locked"),
        Refused::TooMany => (Code::Busy, "too many of this user wait already"),
        Refused::NoDescriptors => (
            Code::System(libc::EMFILE),
            "this user has too many files open already",
        ),
    };
    target.explain(ControlError::new(code, text))
}

impl Fs {
    /// Takes the turn at a document, and goes on with `update` or `begin`.
    pub fn begin_document(
        self: &Arc<Self>,
        asker: Asker,
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
        let found = self.resolve(&asker.who, path).and_then(|target| {
            let mode = self.must_be_able_to_write(&asker, &target)?;
            Ok((target, mode))
        });
        let (target, mode) = match found {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let ask = self.ask_at(&target, Some(mode));
        self.turn_by_request(
            asker.caller,
            &ask,
            wait(timeout),
            Box::new(move |fs, turn, _| match turn {
                Err(why) => done(Err(refused(&target, why))),
                Ok(turn) => fs.with_turn_at(asker, conversation, request, (target, turn), done),
            }),
        );
    }

    /// Who asks for a turn must be able to use it: others would only be held up. The permission bits that the
    /// document has, or will have.
    fn must_be_able_to_write(&self, asker: &Asker, target: &Target) -> Result<u32, ControlError> {
        if let Some(found) = self.open_document(asker, target)? {
            return Ok(u32::from(found.stat.stx_mode) & 0o666);
        }
        let writable = || {
            let how = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            let flags = rustix::fs::AtFlags::EACCESS;
            Ok(rustix::fs::accessat(&*target.place.dir, ".", how, flags)?)
        };
        let checked = self.engine.as_user(&asker.who, writable);
        checked.map_err(|error| target.explain(error))?;
        Ok(0o666 & !umask_of(asker.caller.tid))
    }

    fn with_turn_at(
        self: &Arc<Self>,
        asker: Asker,
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
                let changed = fs.change_document(&asker, &target, default.as_ref(), &change);
                fs.engine.ledger.counters.updates.one();
                let change = changed
                    .as_ref()
                    .map_or(Shown::Nothing, |changed| changed.done);
                let reply = changed.map(|changed| changed.reply(&turn, returns));
                fs.show_change(&target, change, turn, Box::new(move || done(line(reply))));
            }),
            Request::Begin { default, .. } => self.queue(Claim::look(slot), move |fs| {
                let found = fs.read_document(&asker, &target);
                let reply = found.map(|found| BeginReply {
                    turn: turn.number,
                    exists: found.is_some(),
                    value: Exact(found.or_else(|| default.clone()).unwrap_or(Value::Null)),
                });
                let reply = line(reply).and_then(|line| {
                    let transaction = fs.transaction(asker, target, default, turn)?;
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
        asker: Asker,
        target: Target,
        default: Option<Value>,
        turn: Turn,
    ) -> Result<Transaction, ControlError> {
        let default = default.map(|value| serde_json::to_vec(&value)).transpose();
        let default = default.map_err(|error| ControlError::invalid(error.to_string()))?;
        let len = default.as_ref().map_or(0, Vec::len);
        let share = self.channel.memory.share(asker.caller.uid, len);
        let too_many = || ControlError::new(Code::Busy, "too many transactions have begun");
        Ok(Transaction {
            target,
            default,
            who: asker.who,
            _share: share.ok_or_else(too_many)?,
            turn,
        })
    }

    /// Publishes what a transaction ends with.
    pub fn commit(
        self: &Arc<Self>,
        asker: Asker,
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
            // The thread may be another one of the same user: what counts is who began.
            let asker = Asker {
                who: transaction.who.clone(),
                ..asker
            };
            let changed = default
                .and_then(|default| fs.change_document(&asker, target, default.as_ref(), &change));
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

    /// Opens the document at `target` as the user who asked; `None` where there is nothing. What is done after that
    /// is done with the file that was opened: its name may be given to another at any moment.
    fn open_document(&self, asker: &Asker, target: &Target) -> Result<Option<Found>, ControlError> {
        match self.engine.as_user(&asker.who, || open_regular(target)) {
            Ok(found) => {
                self.must_be_trusted(asker, target, &found.stat)?;
                Ok(Some(found))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(target.explain(ControlError::invalid("not a regular file")))
            }
            Err(error) => Err(target.explain(error)),
        }
    }

    /// The rule of fs.protected_regular: a request makes a document where there is none, so nobody may have put one
    /// there for it to find.
    fn must_be_trusted(
        &self,
        asker: &Asker,
        target: &Target,
        stat: &Statx,
    ) -> Result<(), ControlError> {
        let dir = attr::of_file(&*target.place.dir)?;
        let trusted = [asker.who.uid, dir.stx_uid].contains(&stat.stx_uid);
        match is_shared(&dir) && !trusted {
            true => Err(target.explain(io::Error::from(io::ErrorKind::PermissionDenied))),
            false => Ok(()),
        }
    }

    fn read_document(&self, asker: &Asker, target: &Target) -> Result<Option<Value>, ControlError> {
        let Some(found) = self.open_document(asker, target)? else {
            return Ok(None);
        };
        let text = found.text().map_err(|error| target.explain(error))?;
        let document = Document::parse(&text).map_err(|error| target.explain(error))?;
        Ok(document.map(|document| document.value().clone()))
    }

    /// Reads, changes and publishes; has to run alone at the document's slot. What others put in the place of the
    /// document meanwhile, in the data directory, is looked at anew.
    fn change_document(
        self: &Arc<Self>,
        asker: &Asker,
        target: &Target,
        default: Option<&Value>,
        change: &Change,
    ) -> Result<Changed, ControlError> {
        for _ in 0..MOST_LOOKS {
            let found = self.open_document(asker, target)?;
            let text = found.as_ref().map(Found::text).transpose();
            let text = text.map_err(|error| target.explain(error))?;
            let edited =
                edit(text.as_deref(), default, change).map_err(|error| target.explain(error))?;
            let Some(bytes) = &edited.bytes else {
                return Ok(Changed {
                    done: Shown::Nothing,
                    value: edited.value,
                });
            };
            self.channel.recent.add(&target.place.slot);
            let done = match &found {
                Some(found) => self.replace_document(asker, target, found, bytes),
                None => self.make_document(asker, target, bytes),
            };
            match done {
                Ok(done) => {
                    return Ok(Changed {
                        done,
                        value: edited.value,
                    });
                }
                Err(error) if is_replaced(&error) => {}
                Err(error) => return Err(target.explain(error)),
            }
        }
        let text = "others replace it all the time";
        Err(target.explain(ControlError::new(Code::Again, text)))
    }

    /// Makes a document where there was none.
    ///
    /// # Errors
    /// ESTALE where there is one by now; else the system's.
    fn make_document(
        self: &Arc<Self>,
        asker: &Asker,
        target: &Target,
        bytes: &[u8],
    ) -> io::Result<Shown> {
        let (place, path) = (&target.place, target.path.as_path());
        let dir = attr::stat(&attr::of_file(&*place.dir)?);
        let mode = masked(&place.dir, 0o666, umask_of(asker.caller.tid));
        let new = New { path, dir, mode };
        match self.engine.plan_new(asker.caller, place, &new, REWRITE)? {
            Some(draft) => self.publish_bytes(asker, target, &draft, None, bytes)?,
            None => {
                let file = self.make_in_place(asker, target, mode)?;
                let written = self.write_in_place(asker, target, &file, bytes);
                if written.is_err() && is_at(target, &attr::of_file(&file)?)? {
                    // There was none before; what is left of it is nobody's document.
                    let remove =
                        || rustix::fs::unlinkat(&*place.dir, place.name(), AtFlags::empty());
                    let _ = self.engine.as_user(&asker.who, || Ok(remove()?));
                }
                written?;
            }
        }
        Ok(Shown::Made)
    }

    /// Has the document `found` say something else.
    ///
    /// # Errors
    /// ESTALE where another file has its name by now; else the system's.
    fn replace_document(
        self: &Arc<Self>,
        asker: &Asker,
        target: &Target,
        found: &Found,
        bytes: &[u8],
    ) -> io::Result<Shown> {
        let place = &target.place;
        let stat = attr::of_file(&found.file)?;
        if !is_at(target, &stat)? {
            return Err(stale());
        }
        let node = self.tree.nodes().of(attr::id(&stat));
        let existing = Existing {
            path: target.path.as_path(),
            stat: attr::stat(&stat),
            dir: attr::stat(&attr::of_file(&*place.dir)?),
            flagged: attr::flagged(&stat),
        };
        match self
            .engine
            .plan_existing(asker.caller, place, &existing, REWRITE)?
        {
            Plan::Draft(draft) => {
                self.publish_bytes(asker, target, &draft, Some(&stat), bytes)?;
                Ok(Shown::Replaced(node))
            }
            Plan::Edit(_) | Plan::InPlace => {
                let written = self.write_in_place(asker, target, &found.file, bytes);
                if let (Err(_), Some(node)) = (&written, node) {
                    self.notices.invalidate(node);
                }
                written.map(|()| Shown::InPlace(node))
            }
        }
    }

    /// Makes the file at `target`, where there is none.
    ///
    /// # Errors
    /// ESTALE where there is one; else the system's.
    fn make_in_place(&self, asker: &Asker, target: &Target, mode: u32) -> io::Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (dir, name) = (&*target.place.dir, target.place.name());
        let mode = Mode::from_raw_mode(mode);
        let make = || match rustix::fs::openat(dir, name, how | OFlags::CLOEXEC, mode) {
            Err(Errno::EXIST) => Err(stale()),
            made => Ok(File::from(made?)),
        };
        self.engine.as_user(&asker.who, make)
    }

    /// Fills `draft`, which nobody has opened, and publishes it in the place of `old`, or where there is nothing.
    ///
    /// # Errors
    /// ESTALE where something else stands there: nothing of the draft is left.
    fn publish_bytes(
        self: &Arc<Self>,
        asker: &Asker,
        target: &Target,
        draft: &Arc<Draft<SystemDisk>>,
        old: Option<&Statx>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.engine.promise(draft);
        let filled = self.fill_as(asker, bytes.len(), || draft.file.write_all_at(bytes, 0));
        let sealed = filled.and_then(|()| {
            self.engine.wrote(draft, bytes.len() as u64);
            self.engine.seal(draft, &draft.place)?;
            // As late as can be: who may replace one file may not therefore replace another.
            let same = match old {
                Some(old) => is_at(target, old)?,
                None => is_free(target)?,
            };
            if same { Ok(()) } else { Err(stale()) }
        });
        if let Err(error) = sealed {
            // Nobody has opened it: nothing of it is kept.
            if self.engine.break_promise(draft) {
                self.engine.settle(draft);
            }
            return Err(error);
        }
        let writer = self.engine.attach(draft, asker.caller, true);
        let published = self.publish_draft_now(draft);
        if self.engine.detach(&writer) {
            self.engine.settle(draft);
        }
        published
    }

    /// Writes the file itself, which a new inode would break. What cannot be written leaves it as it was.
    fn write_in_place(
        &self,
        asker: &Asker,
        target: &Target,
        file: &File,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut old = Vec::new();
        let mut start = file;
        start.rewind()?;
        start.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut old)?;
        let replace = |content: &[u8]| {
            file.write_all_at(content, 0)?;
            file.set_len(content.len() as u64)?;
            file.sync_data()
        };
        let written = self
            .reserve(asker, file, bytes.len() as u64)
            .and_then(|()| self.fill_as(asker, bytes.len(), || replace(bytes)));
        let Err(error) = written else {
            return Ok(());
        };
        // Its blocks are its own, so that this needs no room but where each write takes new ones.
        if let Err(lost) = self.fill_as(asker, old.len(), || replace(&old)) {
            let text = format!("left half written by an update, and not restored: {lost}");
            self.engine
                .ledger
                .note(&target.path, asker.caller.uid, text);
        }
        Err(error)
    }

    /// Takes the room for `len` bytes of `file` before anything of it is written over.
    fn reserve(&self, asker: &Asker, file: &File, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::KEEP_SIZE;
        let reserve = || Ok(rustix::fs::fallocate(file, keep, 0, len)?);
        match self.fill_as(asker, len as usize, reserve) {
            // Some file systems cannot.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// Does what takes room on the disk as the user who asked: it is counted as his, and takes set-user-id bits away.
    /// A full disk is tried again without the oldest of salvage.
    fn fill_as(
        &self,
        asker: &Asker,
        len: usize,
        fill: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        self.with_room(len as u64, || self.engine.as_user(&asker.who, &fill))
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
