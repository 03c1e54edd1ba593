//! Reading, changing and publishing documents in a turn.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

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
use super::super::turns::{Turn, TurnDone};
use super::budget::Share;
use super::conversation::{Asked, Asker, Outcome};
use super::requests::{no_transaction, wait};
use super::resolve::{Target, is_shared};
use super::shown::Shown;
use crate::control::json::{parse, weight};
use crate::control::{
    Change, Code, ControlError, ControlPath, Document, Edited, MAX_DOCUMENT, MAX_DOCUMENT_DEPTH,
    Request, begin_line, edit, parse_request, update_line,
};
use crate::engine::credentials::Credentials;
use crate::engine::draft::Draft;
use crate::engine::locks::Refused;
use crate::engine::opening::{Access, Existing, New, Plan};
use crate::engine::order::Claim;

/// How many times its length a document takes at most while it is worked on as text: its own, what is checked
/// of its names, what becomes of it, what was there before, and the reply.
const COPIES: usize = 6;

/// What the copies that a patch makes within a document take at most, as values.
const COPIED: usize = 112 << 20;

/// What everything else takes.
const SLACK: usize = 16 << 10;

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
    /// Whether it began with `begin`, and goes on after a request that was wrong.
    goes_on: bool,
}

impl Transaction {
    /// What is asked to be done to the document: the change, what to start from where there is none, and whether
    /// the new value is to be replied.
    fn asked_change(&self, asked: &Asked) -> Result<(Change, Option<Value>, bool), ControlError> {
        match parse_request(&asked.text)? {
            Request::Update {
                change,
                default,
                returns,
                ..
            } => Ok((change, default, returns)),
            Request::Commit { change, returns } => {
                let default = self.default.as_deref();
                let default = default.map(|text| parse(text, MAX_DOCUMENT_DEPTH));
                let default = default.transpose();
                let default = default.map_err(|error| ControlError::invalid(error.to_string()))?;
                Ok((change, default, returns))
            }
            _ => Err(ControlError::invalid("it changes nothing")),
        }
    }
}

/// A document that was opened as the user who asked.
struct Found {
    file: File,
    stat: Statx,
}

impl Found {
    /// How many bytes it has, up to one more than a document may have.
    fn len(&self) -> usize {
        let most = MAX_DOCUMENT + 1;
        usize::try_from(self.stat.stx_size).map_or(most, |len| len.min(most))
    }

    /// What it says; `None` if it has grown since it was opened.
    fn text(&self) -> io::Result<Option<Vec<u8>>> {
        let len = self.len();
        let mut text = Vec::with_capacity(len + 1);
        (&self.file).take(len as u64 + 1).read_to_end(&mut text)?;
        Ok((text.len() <= len || len > MAX_DOCUMENT).then_some(text))
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
    /// Takes the turn at the document `path`, and then changes it, or, if it `begins` a transaction, reads it.
    pub fn begin_document(
        self: &Arc<Self>,
        asked: Asked,
        path: &ControlPath,
        timeout: Duration,
        begins: bool,
    ) {
        if begins && asked.conversation.has_transaction() {
            let text = "the handle has a transaction already";
            return (asked.done)(Err(ControlError::new(Code::Busy, text)));
        }
        let found = self.resolve(&asked.asker.who, path).and_then(|target| {
            let mode = self.must_be_able_to_write(&asked.asker, &target)?;
            Ok((target, mode))
        });
        let (target, mode) = match found {
            Ok(found) => found,
            Err(error) => return (asked.done)(Err(error)),
        };
        let ask = self.ask_at(&target, Some(mode));
        let caller = asked.asker.caller;
        let taken: TurnDone = Box::new(move |fs, turn, _| {
            let turn = match turn {
                Ok(turn) => turn,
                Err(why) => return (asked.done)(Err(refused(&target, why))),
            };
            let transaction = Transaction {
                target,
                default: None,
                who: asked.asker.who.clone(),
                turn,
                goes_on: begins,
                _share: Share::default(),
            };
            match begins {
                true => fs.read_in_turn(asked, transaction, 0),
                false => fs.change_in_turn(asked, transaction, 0),
            }
        });
        self.turn_by_request(caller, &ask, wait(timeout), taken);
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

    /// Reads the document in the turn of `transaction`, which goes on after that. `room` is what that was found to
    /// take, or 0.
    fn read_in_turn(self: &Arc<Self>, asked: Asked, transaction: Transaction, room: usize) {
        let (uid, slot) = (
            asked.asker.caller.uid,
            transaction.target.place.slot.clone(),
        );
        self.in_room(uid, room, move |fs, given| {
            let given = match given {
                Ok(given) => given,
                Err(error) => {
                    let error = transaction.target.explain(error);
                    drop(transaction);
                    return (asked.done)(Err(error));
                }
            };
            fs.queue(Claim::look(slot), move |fs| {
                match fs.begin(&asked, &transaction, room) {
                    Err(Lack::Room(more)) => {
                        drop(given);
                        fs.read_in_turn(asked, transaction, more);
                    }
                    Err(Lack::Other(error)) => {
                        drop(transaction);
                        (asked.done)(Err(error));
                    }
                    Ok(begun) => {
                        asked.conversation.keep_transaction(Transaction {
                            default: begun.default,
                            _share: begun.share,
                            ..transaction
                        });
                        (asked.done)(Ok(begun.line));
                        drop(given);
                    }
                }
            });
        });
    }

    /// Reads the document for `begin`.
    fn begin(&self, asked: &Asked, transaction: &Transaction, room: usize) -> Result<Begun, Lack> {
        let (target, uid) = (&transaction.target, asked.asker.caller.uid);
        let values = asked.weight() + SLACK;
        if values > room && room == 0 {
            // The size of the document is looked at first, so that there is one wait for both.
            let len = self
                .open_document(&asked.asker, target)?
                .map_or(0, |f| f.len());
            return Err(Lack::Room(values + COPIES * len));
        }
        let default = match parse_request(&asked.text)? {
            Request::Begin { default, .. } => default,
            _ => return Err(ControlError::invalid("it begins nothing").into()),
        };
        let default = default.map(|value| serde_json::to_vec(&value)).transpose();
        let default = default.map_err(|error| ControlError::invalid(error.to_string()))?;
        let text = self.read_document(&asked.asker, target, values, room)?;
        let document = text.map(|(_, text)| Document::parse(text)).transpose();
        let document = document.map_err(|error| target.explain(error))?.flatten();
        let value = match (&document, &default) {
            (Some(document), _) => document.json(),
            (None, Some(default)) => std::str::from_utf8(default).unwrap_or("null"),
            (None, None) => "null",
        };
        let line = begin_line(transaction.turn.number, document.is_some(), value)?;
        let len = default.as_ref().map_or(0, Vec::len);
        let memory = &self.channel.memory;
        let too_many =
            || ControlError::new(Code::Busy, "too many transactions and replies are kept");
        // The reply has to fit, too, or there would be a turn that nobody knows of.
        let reply = memory.share(uid, line.len().saturating_sub(asked.text.len()));
        let share = memory.share(uid, len);
        drop(reply.ok_or_else(too_many)?);
        let share = share.ok_or_else(too_many)?;
        Ok(Begun {
            line,
            default,
            share,
        })
    }

    /// Publishes what a transaction ends with.
    pub fn commit(self: &Arc<Self>, asked: Asked) {
        match asked.conversation.take_transaction() {
            Some(transaction) => self.change_in_turn(asked, transaction, 0),
            None => (asked.done)(Err(no_transaction())),
        }
    }

    /// Changes the document in the turn of `transaction`, which ends with that. `room` is what that was found to
    /// take, or 0.
    fn change_in_turn(self: &Arc<Self>, asked: Asked, transaction: Transaction, room: usize) {
        let (uid, slot) = (
            asked.asker.caller.uid,
            transaction.target.place.slot.clone(),
        );
        self.in_room(uid, room, move |fs, given| {
            let given = match given {
                Ok(given) => given,
                Err(error) => {
                    let error = transaction.target.explain(error);
                    return fs.end_change(asked, transaction, Err(error));
                }
            };
            fs.queue(Claim::change(slot), move |fs| {
                match fs.change_document(&asked, &transaction, room) {
                    Err(Lack::Room(more)) => {
                        drop(given);
                        fs.change_in_turn(asked, transaction, more);
                    }
                    Err(Lack::Other(error)) => fs.end_change(asked, transaction, Err(error)),
                    Ok(changed) => fs.end_change(asked, transaction, Ok(changed)),
                }
            });
        });
    }

    fn end_change(
        self: &Arc<Self>,
        asked: Asked,
        transaction: Transaction,
        changed: Result<Changed, ControlError>,
    ) {
        let Asked {
            conversation, done, ..
        } = asked;
        match changed {
            Ok(Changed { shown, line }) => {
                self.engine.ledger.counters.updates.one();
                let Transaction { target, turn, .. } = transaction;
                self.show_change(&target, shown, turn, Box::new(move || done(line)));
            }
            Err(error) => {
                // What was asked was wrong: it can be asked again.
                let goes_on = matches!(error.code, Code::Invalid | Code::NoMessage);
                match goes_on && transaction.goes_on {
                    true => conversation.keep_transaction(transaction),
                    // Its turn ends before the reply: the next request may be for the same document.
                    false => drop(transaction),
                }
                done(Err(error));
            }
        }
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

    /// What the document at `target` says, with the file; `None` where there is none. `room` is there for that
    /// and for what is done with it, of which `taken` is needed for something else.
    fn read_document(
        &self,
        asker: &Asker,
        target: &Target,
        taken: usize,
        room: usize,
    ) -> Result<Option<(Found, Vec<u8>)>, Lack> {
        for _ in 0..MOST_LOOKS {
            let Some(found) = self.open_document(asker, target)? else {
                return Ok(None);
            };
            let needed = taken + COPIES * found.len();
            if needed > room {
                return Err(Lack::Room(needed));
            }
            if let Some(text) = found.text().map_err(|error| target.explain(error))? {
                return Ok(Some((found, text)));
            }
        }
        Err(replaced(target).into())
    }

    /// Reads, changes and publishes; has to run alone at the document's slot, and take no more than `room`. What
    /// others put in the place of the document meanwhile, in the data directory, is looked at anew.
    fn change_document(
        self: &Arc<Self>,
        asked: &Asked,
        transaction: &Transaction,
        room: usize,
    ) -> Result<Changed, Lack> {
        let target = &transaction.target;
        // The thread may be another one of the same user: what counts is who began.
        let asker = &Asker {
            who: transaction.who.clone(),
            ..asked.asker
        };
        let values = asked.weight() + SLACK + transaction.default.as_deref().map_or(0, weight);
        if room == 0 {
            let len = self.open_document(asker, target)?.map_or(0, |f| f.len());
            return Err(Lack::Room(values + COPIES * len));
        }
        let (change, default, returns) = transaction.asked_change(asked)?;
        for _ in 0..MOST_LOOKS {
            let found = self.read_document(asker, target, values, room)?;
            let (found, text) = found.unzip();
            if let (Change::Patch(patch), Some(text)) = (&change, &text) {
                let copied = if patch.copies() { COPIED } else { 0 };
                let needed = values + COPIES * text.len() + weight(text) + copied;
                if needed > room {
                    return Err(Lack::Room(needed));
                }
            }
            let edited = edit(text, default.as_ref(), &change);
            let edited = edited.map_err(|error| target.explain(error))?;
            let done = self.publish_edited(asker, target, found.as_ref(), &edited);
            match done {
                Ok(shown) => {
                    let value = returns.then(|| edited.json());
                    let number = transaction.turn.number;
                    let line = update_line(number, edited.changed(), value);
                    return Ok(Changed { shown, line });
                }
                Err(error) if is_replaced(&error) => {}
                Err(error) => return Err(target.explain(error).into()),
            }
        }
        Err(replaced(target).into())
    }

    fn publish_edited(
        self: &Arc<Self>,
        asker: &Asker,
        target: &Target,
        found: Option<&Found>,
        edited: &Edited,
    ) -> io::Result<Shown> {
        let Some(bytes) = &edited.bytes else {
            return Ok(Shown::Nothing);
        };
        self.channel.recent.add(&target.place.slot);
        match found {
            Some(found) => self.replace_document(asker, target, found, bytes),
            None => self.make_document(asker, target, bytes),
        }
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

/// The reply to `begin`, and the default of the transaction, which counts as its user's.
struct Begun {
    line: Vec<u8>,
    default: Option<Vec<u8>>,
    share: Share,
}

/// What became of a document.
struct Changed {
    shown: Shown,
    line: Outcome,
}

/// Why something was not done.
enum Lack {
    /// It takes as many bytes of room.
    Room(usize),
    Other(ControlError),
}

impl From<ControlError> for Lack {
    fn from(error: ControlError) -> Lack {
        Lack::Other(error)
    }
}

fn replaced(target: &Target) -> ControlError {
    target.explain(ControlError::new(
        Code::Again,
        "others replace it all the time",
    ))
}
