//! Sealing, publishing and dropping drafts.
//!
//! Who relies on what: a rename puts the whole draft in place or leaves the old
//! version, and `make_durable` returns only when the content cannot arrive after
//! that rename. So every state in which the machine can stop has the old version
//! or the new one under the name, whole.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use polystore::Durability;
use polystore::disk::Disk;

use super::Engine;
use super::draft::{Draft, Phase, StagedName, Writer};
use super::failing::is_full;
use super::process::{Caller, Fate, Processes};
use super::salvage::{Description, Reason};
use super::slot::Place;
use super::staging::{self, HIDDEN_PREFIX, Session};

/// From this size on a draft gets a name in staging, so that the death of the mount leaves it.
pub const SECURED_SIZE: u64 = 1 << 20;

/// How much of a growing draft is handed to the disk at a time, so that close() has only the
/// tail to wait for.
const WRITTEN_OUT: u64 = 8 << 20;

/// From this age on, too.
pub const SECURED_AGE: std::time::Duration = std::time::Duration::from_secs(1);

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Notes that `draft` was changed up to byte `end`. A big one is secured, and written out
    /// while it grows.
    pub fn wrote(&self, draft: &Draft<D>, end: u64) {
        let (before, now) = draft.note_written(end);
        if now < SECURED_SIZE || draft.phase() != Phase::Private {
            return;
        }
        self.secure(draft);
        let (from, to) = (
            before / WRITTEN_OUT * WRITTEN_OUT,
            now / WRITTEN_OUT * WRITTEN_OUT,
        );
        if from < to && self.settings.durability != Durability::None {
            self.disk.start_writing(&draft.file, from, to);
        }
    }

    /// Gives a draft a name in staging, and a note beside it that says what it is. Failing to
    /// is no error of the writer: the draft merely would not outlive the mount.
    ///
    /// Not now if somebody waits for its content: the link would wait with him (ext4 and others hold
    /// the file's lock for that long), and whoever wants to stage anything for the link.
    pub fn secure(&self, draft: &Draft<D>) {
        if let Some((_idle, mut name)) = draft.name_if_idle() {
            self.secure_as(draft, &mut name);
        }
    }

    fn secure_as(&self, draft: &Draft<D>, name: &mut StagedName) {
        let Some(session) = self.session_for(&draft.place) else {
            return;
        };
        if *name != StagedName::Unnamed {
            return;
        }
        let staged = self.next_staged_name(&draft.path);
        match session.link(&draft.file, &staged) {
            Ok(()) => {
                session.describe(&staged, &self.description(draft, Reason::MountDied));
                draft.set_noted();
                *name = StagedName::Staging(staged);
            }
            Err(error) => log::debug!("{}: not secured: {error}", draft.path.display()),
        }
    }

    /// The drafts that have become old enough to be [secured](Self::secure), and are not.
    pub fn old_drafts(&self) -> Vec<Arc<Draft<D>>> {
        let slots = self.slots();
        let drafts = slots.all().cloned();
        let of_edits = slots.all_edits().filter_map(|edit| edit.draft());
        let old = drafts.chain(of_edits).filter(|draft| {
            draft.is_written()
                && draft.opened.elapsed() >= SECURED_AGE
                && draft
                    .name_if_idle()
                    .is_some_and(|(_, name)| *name == StagedName::Unnamed)
        });
        old.collect()
    }

    /// A descriptor of `writer` is being closed by `caller`. Whether the draft has to be
    /// [sealed](Self::seal) before that close returns.
    pub fn closing(&self, writer: &Writer<D>, caller: Caller) -> bool {
        let draft = &writer.draft;
        if draft.phase() != Phase::Private {
            return false;
        }
        let killed = self.processes.fate(caller.tid) == Fate::Killed;
        let process = self.processes.process_of(caller.tid);
        let by_opener = process.is_none() || process == writer.opener;
        {
            let mut state = draft.state();
            state.last_killed = killed;
            if killed && process.is_some() && process == draft.opener {
                state.opener_killed = true;
            }
        }
        if killed || !draft.is_written() {
            return false;
        }
        if by_opener {
            writer.opener_closed.store(true, Ordering::Release);
            draft.state().closed = Some(Instant::now());
        }
        // A loop's children each close their copy: only the opener's close waits, or any after it.
        by_opener
            || writer.opener_closed.load(Ordering::Acquire)
            || writer
                .opener
                .is_none_or(|opener| !self.processes.alive(opener))
    }

    /// Does what can fail before a publish under `to`, while close() can still say so.
    ///
    /// # Errors
    /// The draft's first write error, from now on and for ever; `PermissionDenied` where another file stands
    /// under its name, which who opened it may not replace.
    pub fn seal(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<()> {
        if let Some(error) = draft.tell() {
            return Err(error);
        }
        if draft.phase() != Phase::Private {
            return Ok(());
        }
        self.judge_replacing(&draft.who, draft.made_from, to)?;
        let sealed = self.make_durable(draft).and_then(|()| {
            let name = || self.name_staged(draft, to).map(drop);
            self.with_room(0, || false, name)
        });
        if let Err(error) = &sealed {
            self.lose(draft, error);
            draft.tell();
        }
        sealed
    }

    /// A handle of `writer` was released. Whether the draft has to be [settled](Self::settle).
    #[must_use]
    pub fn detach(&self, writer: &Writer<D>) -> bool {
        let mut state = writer.draft.state();
        state.writers = state.writers.saturating_sub(1);
        if state.phase == Phase::Published {
            self.in_place_closed(writer.draft.file_id);
        }
        state.is_unclaimed()
    }

    /// Decides what becomes of a draft that nobody has open any more, and does it.
    pub fn settle(&self, draft: &Draft<D>) {
        let (phase, killed) = {
            let state = draft.state();
            if state.writers > 0 || state.promises > 0 {
                return; // Somebody joined in the meantime: the last one settles.
            }
            if !state.opened {
                drop(state);
                return self.discard(draft, None);
            }
            (state.phase, state.opener_killed || state.last_killed)
        };
        match phase {
            Phase::Published | Phase::Gone => {}
            Phase::Orphan { own: true } => self.discard(draft, None),
            Phase::Orphan { own: false } => self.discard(draft, Some(Reason::NameTaken)),
            Phase::Private if killed => self.discard(draft, Some(Reason::WriterKilled)),
            Phase::Private if draft.poisoned().is_some() => {
                self.discard(draft, self.reason_of_loss(draft))
            }
            Phase::Private if self.is_idle_and_late(draft) => self.discard(draft, None),
            Phase::Private if self.lost_to_exclusive(draft) => {
                self.discard(draft, Some(Reason::NameTaken))
            }
            Phase::Private => {
                if let Err(error) = self.publish(draft, &draft.place) {
                    self.ledger.note(
                        &draft.path,
                        draft.who.uid,
                        format_args!("cannot be published: {error}"),
                    );
                    self.discard(draft, Some(Reason::Unpublishable));
                }
            }
        }
    }

    /// Whether `draft` was never written and something was published under its name after it
    /// was opened.
    fn is_idle_and_late(&self, draft: &Draft<D>) -> bool {
        if draft.is_written() {
            return false;
        }
        let place = &draft.place;
        self.slots().published(&place.slot).any > draft.base.any
            || (draft.new_name && matches!(self.disk.stat(&place.dir, place.name()), Ok(Some(_))))
    }

    /// Whether somebody who asked to be the one who makes this name has published it since.
    fn lost_to_exclusive(&self, draft: &Draft<D>) -> bool {
        draft.new_name
            && !draft.exclusive
            && self.slots().published(&draft.place.slot).exclusive > draft.base.exclusive
    }

    /// Publishes `draft` under `to`, in one step.
    ///
    /// # Errors
    /// `PermissionDenied` where who opened it may not replace what stands there now; else the disk's.
    pub(super) fn publish(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<()> {
        let published = {
            let _not_emptied = draft.changing();
            self.put_in_place(draft, to)
        };
        if published.is_err() {
            self.spend(draft);
        }
        published
    }

    fn put_in_place(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<()> {
        if let Some(error) = draft.poisoned() {
            return Err(error);
        }
        self.judge_replacing(&draft.who, draft.made_from, to)?;
        self.make_durable(draft)?;
        self.keep_appended(draft, to);
        if !self.place_new(draft, to)? {
            let staged = self.name_staged(draft, to)?;
            let from = match &staged {
                StagedName::Staging(_) => self.session.as_ref().map(Session::dir),
                _ => Some(&*draft.place.dir),
            };
            match (&staged, from) {
                (StagedName::Staging(name) | StagedName::Beside(name), Some(from)) => {
                    self.disk.rename(from, name, &to.dir, to.name(), true)?;
                    if draft.is_noted() {
                        self.undescribe(&staged);
                    }
                }
                _ => return Err(io::Error::other("a draft lost its name")),
            }
        }
        *draft.name() = StagedName::Settled;
        self.ledger.counters.published.one();
        let overtaken = {
            let mut slots = self.slots();
            slots.remove(draft);
            slots.note_published(&to.slot, draft.exclusive);
            // Who has it open writes in place from now on.
            let mut state = draft.state();
            self.in_place_opened(draft.file_id, state.writers);
            state.phase = Phase::Published;
            drop(state);
            let edit = slots.edit(&to.slot).cloned();
            edit.filter(|edit| edit.draft().is_none_or(|own| own.id != draft.id))
        };
        // A rename takes the name from its edit itself, which keeps what it has.
        if let Some(edit) = overtaken.filter(|_| to.slot == draft.place.slot) {
            self.overtake(&edit, draft);
        }
        draft.wake_waiters();
        if self.settings.durability == Durability::Full
            && let Err(error) = self.disk.sync_dir(&to.dir)
        {
            // It is published, and nobody waits any more who could be told.
            self.ledger.note(
                &draft.path,
                draft.who.uid,
                format_args!("its directory was not synced: {error}"),
            );
        }
        Ok(())
    }

    /// Somebody has the version that is about to be replaced open for append: what he wrote, and
    /// will write, is kept in salvage, as the same file.
    fn keep_appended(&self, draft: &Draft<D>, to: &Place<D>) {
        let Ok(Some(stat)) = self.disk.stat(&to.dir, to.name()) else {
            return;
        };
        if !self.is_appended(stat.id) {
            return;
        }
        let what = Description {
            path: Some(draft.path.clone()),
            ..Description::unknown(Reason::AppendedTo)
        };
        self.keep_version(to, to.name(), &what);
    }

    /// Gives a draft without any name its final one directly, where nothing has that name.
    fn place_new(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<bool> {
        let mut name = draft.name();
        if !draft.new_name || *name != StagedName::Unnamed {
            return Ok(false);
        }
        match self.disk.link(&draft.file, &to.dir, to.name()) {
            Ok(()) => {
                *name = StagedName::Settled;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits for the content, as the durability says. A failure poisons: the system tells it once.
    fn make_durable(&self, draft: &Draft<D>) -> io::Result<()> {
        // Whoever finds the draft clean may publish it: so nobody looks while somebody waits. Nobody names
        // it, either: see `secure`.
        let _one_at_a_time = draft.syncing();
        if !draft.take_dirty() {
            return Ok(());
        }
        let waited = match self.settings.durability {
            Durability::None => Ok(()),
            Durability::Ordered => self.disk.wait_for_data(&draft.file),
            Durability::Full => self.disk.sync(&draft.file),
        };
        if let Err(error) = &waited {
            draft.set_dirty();
            draft.poison(error);
        }
        waited
    }

    /// Gives the draft a name from which it can be renamed to `to`.
    fn name_staged(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<StagedName> {
        let mut name = draft.name();
        if *name != StagedName::Unnamed {
            return Ok(name.clone());
        }
        let staged = self.next_staged_name(&draft.path);
        if let Some(session) = self.session_for(to) {
            match session.link(&draft.file, &staged) {
                Ok(()) => {
                    *name = StagedName::Staging(staged);
                    return Ok(name.clone());
                }
                // A boundary that the device number does not show (a project quota).
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
                Err(error) => return Err(error),
            }
        }
        let hidden = self.hidden_name();
        self.disk.link(&draft.file, &draft.place.dir, &hidden)?;
        *name = StagedName::Beside(hidden);
        Ok(name.clone())
    }

    /// Why a draft is kept that a failed write has spoilt; `None` if it is not, because it failed for want of
    /// space. What could not be told to a close is told to the ledger.
    pub(super) fn reason_of_loss(&self, draft: &Draft<D>) -> Option<Reason> {
        let error = draft.poisoned();
        if let Some(error) = error.as_ref().filter(|_| !draft.state().told) {
            self.ledger.note(
                &draft.path,
                draft.who.uid,
                format_args!("a write failed after its last close: {error}"),
            );
        }
        let kept = !error.is_some_and(|error| is_full(&error));
        kept.then_some(Reason::WriteError)
    }

    /// Drops a draft; its content goes to salvage where a `reason` is given.
    pub(super) fn discard(&self, draft: &Draft<D>, reason: Option<Reason>) {
        {
            let mut slots = self.slots();
            slots.remove(draft);
            draft.set_phase(Phase::Gone);
        }
        self.ledger.counters.discarded.one();
        if let Some(reason) = reason
            && !self.keep(draft, reason)
        {
            // Better left in staging, for the next mount, than lost.
            return self.secure_as(draft, &mut draft.name());
        }
        let name = std::mem::replace(&mut *draft.name(), StagedName::Settled);
        self.drop_staged(&draft.place, &name);
    }

    /// Brings the content of a dropped draft to salvage, if there is any. Whether nothing of it is left to keep.
    fn keep(&self, draft: &Draft<D>, reason: Reason) -> bool {
        let len = self.disk.stat_file(&draft.file).map_or(0, |stat| stat.len);
        log::info!(
            "{}: draft of {len} bytes dropped: {}",
            draft.path.display(),
            reason.text()
        );
        let worth = len > 0 && !draft.is_spent();
        let Some(salvage) = self.salvage.as_ref().filter(|_| worth) else {
            return true;
        };
        let name = draft.name().clone();
        let what = self.description(draft, reason);
        let kept = self.with_room(
            0,
            || false,
            || match (&name, &self.session) {
                (StagedName::Staging(name), Some(session)) => {
                    salvage.take(session.dir(), name, &what)
                }
                (StagedName::Beside(name), _) => salvage.take(&draft.place.dir, name, &what),
                _ => salvage.link(&draft.file, &what),
            },
        );
        let kept = match kept {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                salvage.copy(&draft.file, &what)
            }
            other => other,
        };
        if let Err(error) = &kept {
            self.ledger.note(
                &draft.path,
                draft.who.uid,
                format_args!("draft could not be salvaged: {error}"),
            );
        }
        if kept.is_ok() {
            self.ledger.counters.salvaged.one();
        }
        kept.is_ok()
    }

    fn description(&self, draft: &Draft<D>, reason: Reason) -> Description {
        let process = draft.opener.map(|opener| {
            let name = self.processes.name(opener.pid).unwrap_or_default();
            format!("{} {name}", opener.pid).trim_end().to_owned()
        });
        Description {
            path: Some(draft.path.clone()),
            reason,
            process,
            uid: Some(draft.who.uid),
        }
    }

    /// Removes the name of a file that will not be published.
    pub(super) fn drop_staged(&self, place: &Place<D>, name: &StagedName) {
        let removed = match name {
            StagedName::Unnamed | StagedName::Settled => Ok(()),
            StagedName::Staging(name) => self
                .session
                .as_ref()
                .map_or(Ok(()), |session| session.remove(name)),
            StagedName::Beside(name) => self.disk.remove(&place.dir, name),
        };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("a staged file could not be removed: {error}");
        }
    }

    fn undescribe(&self, staged: &StagedName) {
        if let (StagedName::Staging(name), Some(session)) = (staged, &self.session) {
            session.undescribe(name);
        }
    }

    /// The session, if what is staged there can be renamed to `place`.
    pub(super) fn session_for(&self, place: &Place<D>) -> Option<&Session<D>> {
        self.session
            .as_ref()
            .filter(|session| session.device() == place.slot.dir.device)
    }

    pub(super) fn next_staged_name(&self, path: &Path) -> OsString {
        staging::staged_name(self.next_draft.fetch_add(1, Ordering::Relaxed), path)
    }

    /// A name for a draft beside its target, which the mount never shows.
    pub(super) fn hidden_name(&self) -> OsString {
        let session = self.session.as_ref().map_or("0", Session::id);
        let mut name = OsString::from(HIDDEN_PREFIX);
        name.push(session);
        name.push("-");
        name.push(self.next_draft.fetch_add(1, Ordering::Relaxed).to_string());
        name
    }
}
