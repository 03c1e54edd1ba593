//! Edits: existing files that are opened for writing without O_TRUNC.
//!
//! All who edit a name share one [`Edit`]. They see each other's changes, as on any file
//! system; readers see none of them before they are published.
//!
//! ```text
//!              the first write: a copy is made
//!   unwritten ---------------------------------> written (has a draft)
//!      |  ^                                         |
//!      |  +-----------------------------------------+
//!      |     published: the last handle that wrote is closed, or one that wrote unlocks
//!      |     dropped: all who wrote were killed, or a write failed
//!      |
//!      +-- a range is locked; at the first write: several links, others write in place
//!          --> in place, until the last handle is closed
//!
//!   any -- the name is removed or taken --> orphan: nothing will be published
//! ```
//!
//! Invariants:
//! 1. A slot has one edit at most; an edit stands in the table of slots until it is an orphan or
//!    has neither handle nor promise.
//! 2. The draft of an edit is known to its edit only, never to its slot.
//! 3. Only what runs alone (`Claim::alone`) makes an edit's draft or takes it away, so that
//!    whoever changes the draft's content changes what will be published.

mod closing;
mod naming;
mod writing;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use polystore::disk::{Disk, FileId};

use super::credentials::Credentials;
use super::draft::Draft;
use super::opening::{Access, Existing, Opener};
use super::process::{Caller, Kin, Moment, Process, Processes};
use super::slot::{Place, SlotKey};
use super::{Engine, policy, unpoisoned};
use crate::shares::Share;

/// What a handle reads and writes.
pub enum Content<D: Disk> {
    /// A version.
    Version(Arc<D::File>),
    /// A draft, or what was one.
    Draft(Arc<Draft<D>>),
}

impl<D: Disk> Content<D> {
    /// Its file.
    pub fn file(&self) -> &D::File {
        match self {
            Content::Version(file) => file,
            Content::Draft(draft) => &draft.file,
        }
    }

    /// The draft that it is.
    pub fn draft(&self) -> Option<&Arc<Draft<D>>> {
        match self {
            Content::Draft(draft) => Some(draft),
            Content::Version(_) => None,
        }
    }
}

impl<D: Disk> Clone for Content<D> {
    fn clone(&self) -> Self {
        match self {
            Content::Version(file) => Content::Version(file.clone()),
            Content::Draft(draft) => Content::Draft(draft.clone()),
        }
    }
}

/// Where the changes of an edit go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Into a draft that all editors share.
    Shared,
    /// Into the published file.
    InPlace,
    /// Nowhere that anybody will see.
    Orphan {
        /// Whether an editor did that itself, so that nobody misses the content.
        own: bool,
    },
}

/// What is remembered of one handle.
struct Record {
    id: u64,
    opener: Opener,
    /// Whether it wrote the present draft.
    wrote: bool,
    /// Whether its opener was killed with it open.
    opener_killed: bool,
    /// Whether its last close so far came from a task that was being killed.
    last_killed: bool,
}

/// Somebody who has an edit open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    who: Credentials,
    writes: bool,
}

struct State<D: Disk> {
    place: Place<D>,
    mode: Mode,
    /// What is shown while there is no draft.
    version: Content<D>,
    version_id: FileId,
    /// Whether `version` is open for writing.
    writable: bool,
    /// Whether another version was published since `version` was opened.
    outdated: bool,
    /// What this mount has published that was made from `version`, or from a successor of it: whoever was
    /// let in to that is let in to this.
    heir: Option<FileId>,
    /// Who has, or had, it open to read or write: what they may not open is not shown.
    users: Vec<User>,
    /// How often what is shown has changed, or was found to be outdated: who began to look before that has
    /// found nothing that counts.
    changes: u64,
    draft: Option<Arc<Draft<D>>>,
    /// Whether somebody who wrote the draft closed it in peace.
    finished: bool,
    editors: Vec<Record>,
    promises: usize,
}

impl<D: Disk> State<D> {
    fn unused(&self) -> bool {
        self.editors.is_empty() && self.promises == 0
    }

    /// Somebody opens the file: while nothing is written, the version that is published now is shown, which
    /// somebody may have replaced behind the mount.
    fn look_again(&mut self) {
        if self.draft.is_none() && self.mode == Mode::Shared {
            self.note_outdated();
        }
    }

    /// Another version is published.
    fn note_outdated(&mut self) {
        self.outdated = true;
        self.changes += 1;
    }

    /// Shows `content`, the file `id`, from now on.
    fn show(&mut self, content: Content<D>, id: FileId, writable: bool) {
        self.version = content;
        self.version_id = id;
        self.writable = writable;
        self.outdated = false;
        self.heir = None;
        self.changes += 1;
    }

    /// Remembers who opens it.
    fn note_user(&mut self, who: &Credentials, writes: bool) {
        let user = User {
            who: who.clone(),
            writes,
        };
        if who.uid != 0 && !self.users.contains(&user) {
            self.users.push(user);
        }
    }

    fn is_orphan(&self) -> bool {
        matches!(self.mode, Mode::Orphan { .. })
    }

    fn record(&mut self, id: u64) -> Option<&mut Record> {
        self.editors.iter_mut().find(|record| record.id == id)
    }

    /// Nobody has written what comes next.
    fn start_over(&mut self) {
        self.draft = None;
        self.finished = false;
        for record in &mut self.editors {
            record.wrote = false;
        }
    }

    /// Where changes go without a copy being made first.
    fn writable_content(&self) -> Option<Content<D>> {
        match (&self.draft, self.mode) {
            (Some(draft), _) => Some(Content::Draft(draft.clone())),
            (None, Mode::Shared) => None,
            (None, _) => Some(self.version.clone()),
        }
    }
}

/// What the editors of one name share.
pub struct Edit<D: Disk> {
    /// Its number in this session.
    pub id: u64,
    /// Where it was, from the root of the mount, when it was opened; for people.
    pub path: PathBuf,
    share: OnceLock<Share>,
    state: Mutex<State<D>>,
    // Held while a draft is made, which takes as long as its content is big.
    copying: Mutex<()>,
}

impl<D: Disk> Edit<D> {
    fn state(&self) -> MutexGuard<'_, State<D>> {
        unpoisoned(&self.state)
    }

    /// `share` is what it and its drafts take of what the user may have who began it. The first one is kept as
    /// long as the edit is.
    pub fn counts_as(&self, share: Share) {
        drop(self.share.set(share)); // Who joins it takes no more.
    }

    /// Where it is to be published.
    pub fn place(&self) -> Place<D> {
        self.state().place.clone()
    }

    /// How many handles have it open.
    pub fn handles(&self) -> usize {
        self.state().editors.len()
    }

    /// Its draft, once it is written.
    pub fn draft(&self) -> Option<Arc<Draft<D>>> {
        self.state().draft.clone()
    }

    /// The version that its draft is to replace, or that it shows.
    pub fn version(&self) -> FileId {
        self.state().version_id
    }

    /// Whether its changes go to the published file, which everybody then has to be shown as
    /// the same file.
    pub fn is_in_place(&self) -> bool {
        self.state().mode == Mode::InPlace
    }

    /// Whether its name was taken from it.
    pub fn is_orphan(&self) -> bool {
        self.state().is_orphan()
    }

    /// Whether a change needs no copy first.
    pub fn is_ready(&self) -> bool {
        let state = self.state();
        state.draft.is_some() || state.mode != Mode::Shared
    }

    /// Whether anybody has it open for writing.
    pub fn has_editors(&self) -> bool {
        !self.state().editors.is_empty()
    }

    /// Whether `process` has it open for writing.
    pub(super) fn is_edited_by(&self, process: Option<Process>) -> bool {
        process.is_some()
            && self
                .state()
                .editors
                .iter()
                .any(|record| record.opener.process == process)
    }
}

/// An open handle that may write to an edit: one open file description.
pub struct Editor<D: Disk> {
    /// What it edits.
    pub edit: Arc<Edit<D>>,
    /// The process that opened this handle.
    pub opener: Option<Process>,
    /// Whether that process has closed a descriptor of it since it wrote.
    pub opener_closed: AtomicBool,
    /// Whether it only appends: the file is never copied for that.
    appends: bool,
    id: u64,
    // The last draft that this handle was noted to have written.
    wrote: AtomicU64,
}

impl<D: Disk> Editor<D> {
    /// The draft that it has written.
    pub fn written(&self) -> Option<Arc<Draft<D>>> {
        let mut state = self.edit.state();
        let wrote = state.record(self.id).is_some_and(|record| record.wrote);
        state.draft.clone().filter(|_| wrote)
    }
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// The edit of a slot.
    pub fn edit_at(&self, slot: &SlotKey) -> Option<Arc<Edit<D>>> {
        self.slots().edit(slot).cloned()
    }

    /// Whether an open of an edited name takes part in the edit.
    pub(super) fn joins_edit(
        &self,
        process: Option<Process>,
        edit: &Edit<D>,
        access: Access,
    ) -> bool {
        if access.append {
            return edit.draft().is_some();
        }
        if access.alone {
            return !access.truncate;
        }
        // Who truncates what it edits itself starts something new; its forks do as it would.
        !access.truncate
            || (!edit.is_edited_by(process) && self.sees_edit(self.kin(process).as_ref(), edit))
    }

    /// Whether the process of `kin` finds the draft of `edit` under its name: who edits it, and the forks made
    /// since, while they have not exec'd.
    pub(super) fn sees_edit(&self, kin: Option<&Kin<'_, P>>, edit: &Edit<D>) -> bool {
        let Some(kin) = kin else { return false };
        let openers: Vec<(Process, Moment)> = {
            let state = edit.state();
            if state.draft.is_none() {
                return false;
            }
            let openers = state.editors.iter().map(|record| &record.opener);
            let known = openers.filter_map(|opener| Some((opener.process?, opener.moment)));
            known.collect()
        };
        let close = |(process, moment)| kin.is_or_descends_since(process, moment);
        // All of them, so that nothing has to be looked up while the edit is locked.
        let near = openers.into_iter().filter(|opener| close(*opener)).count();
        if near == 0 || kin.image().is_none() {
            return false;
        }
        edit.state().editors.iter().any(|record| {
            let opener = &record.opener;
            let process = opener.process.map(|process| (process, opener.moment));
            kin.image() == opener.image.as_ref() && process.is_some_and(close)
        })
    }

    /// The edit that opens the published file at `place`, made if there is none. `None` where the
    /// file has to be written in place.
    ///
    /// # Errors
    /// `StaleNetworkFileHandle` where another file than `existing` stands there by now.
    pub(super) fn edit_of(
        &self,
        place: &Place<D>,
        existing: &Existing<'_>,
    ) -> io::Result<Option<Arc<Edit<D>>>> {
        let Ok((file, version_id, writable)) = self.open_published(place) else {
            return Ok(None);
        };
        if version_id != existing.stat.id {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        if self.is_database(&file) || self.is_written_in_place(version_id) {
            return Ok(None);
        }
        let mut slots = self.slots();
        if let Some(edit) = slots.edit(&place.slot) {
            return Ok(Some(edit.clone()));
        }
        let edit = Arc::new(Edit {
            id: self.next_draft.fetch_add(1, Ordering::Relaxed),
            path: existing.path.to_owned(),
            share: OnceLock::new(),
            state: Mutex::new(State {
                place: place.clone(),
                mode: Mode::Shared,
                version: Content::Version(Arc::new(file)),
                version_id,
                writable,
                outdated: false,
                heir: None,
                users: Vec::new(),
                changes: 0,
                draft: None,
                finished: false,
                editors: Vec::new(),
                promises: 0,
            }),
            copying: Mutex::new(()),
        });
        slots.add_edit(place.slot.clone(), edit.clone());
        Ok(Some(edit))
    }

    /// Whether `file` is a database or disk image by its first bytes.
    pub(super) fn is_database(&self, file: &D::File) -> bool {
        let mut head = vec![0; policy::SIGNATURE_LEN];
        let read = self.disk.read_at(file, &mut head, 0).unwrap_or(0);
        policy::is_database(&head[..read])
    }

    /// Promises `edit` to an OPEN that was told to look again.
    pub fn promise_edit(&self, edit: &Edit<D>) {
        let mut state = edit.state();
        state.promises += 1;
        state.look_again();
    }

    /// Ends a promise that was not kept. Whether the edit has to be
    /// [settled](Self::settle_edit) now, because nobody wants it any more.
    #[must_use]
    pub fn break_edit_promise(&self, edit: &Edit<D>) -> bool {
        let mut state = edit.state();
        state.promises = state.promises.saturating_sub(1);
        state.unused()
    }

    /// Opens `edit` for writing, as `access` says. `promised` says that this keeps a promise.
    pub fn attach_edit(
        &self,
        edit: &Arc<Edit<D>>,
        caller: Caller,
        access: Access,
        promised: bool,
    ) -> Editor<D> {
        let id = self.next_draft.fetch_add(1, Ordering::Relaxed);
        let opener = self.opener(caller);
        let process = opener.process;
        let mut state = edit.state();
        if promised {
            state.promises = state.promises.saturating_sub(1);
        }
        if state.is_orphan() {
            self.in_place_opened(state.version_id, 1);
        }
        state.look_again();
        state.note_user(&opener.who, true);
        state.editors.push(Record {
            id,
            opener,
            wrote: false,
            opener_killed: false,
            last_killed: false,
        });
        Editor {
            edit: edit.clone(),
            opener: process,
            opener_closed: AtomicBool::new(false),
            appends: access.append,
            id,
            wrote: AtomicU64::new(0),
        }
    }

    /// Notes that `who` opens `edit` to read.
    pub fn note_reader(&self, edit: &Edit<D>, who: &Credentials) {
        edit.state().note_user(who, false);
    }

    /// What the handles of `edit` read at this moment.
    pub fn edit_content(&self, edit: &Edit<D>) -> Content<D> {
        {
            let state = edit.state();
            if let Some(draft) = &state.draft {
                return Content::Draft(draft.clone());
            }
            if !state.outdated || state.mode != Mode::Shared {
                return state.version.clone();
            }
        }
        if let Err(error) = self.catch_up(edit) {
            log::debug!("{}: the new version: {error}", edit.path.display());
        }
        edit.state().version.clone()
    }

    /// Shows what is published under the name now. If not everybody who has it open may open that, it goes
    /// on with the file that it has, as if the name had been given away: nobody will see what is written.
    fn catch_up(&self, edit: &Edit<D>) -> io::Result<()> {
        let (place, begun, known, users) = {
            let state = edit.state();
            let known = [Some(state.version_id), state.heir];
            (
                state.place.clone(),
                state.changes,
                known,
                state.users.clone(),
            )
        };
        let (file, id, writable) = self.open_published(&place)?;
        let strange = !known.contains(&Some(id));
        if strange && !users.iter().all(|user| self.may_open(user, &place, id)) {
            if edit.place().slot == place.slot {
                self.orphan_edit(None, &place.slot);
            }
            return Ok(());
        }
        let mut state = edit.state();
        // What is published in the meantime has been noted, and counts.
        let current = state.changes == begun && state.place.slot == place.slot;
        if current && state.mode == Mode::Shared && state.draft.is_none() {
            state.show(Content::Version(Arc::new(file)), id, writable);
        }
        Ok(())
    }

    /// Whether `user` may open the file `id` at `place` as he has the edit open.
    fn may_open(&self, user: &User, place: &Place<D>, id: FileId) -> bool {
        let open = || self.disk.open(&place.dir, place.name(), user.writes);
        let opened = self.as_user(&user.who, open);
        let stat = opened.and_then(|file| self.disk.stat_file(&file));
        stat.is_ok_and(|stat| stat.id == id)
    }

    /// The file at `place`, and whether it could be opened for writing.
    fn open_published(&self, place: &Place<D>) -> io::Result<(D::File, FileId, bool)> {
        let opened = self.disk.open(&place.dir, place.name(), true);
        let writable = opened.is_ok();
        let file = match opened {
            Ok(file) => file,
            // A program that runs, or one that only its replacement may be written of.
            Err(_) => self.disk.open(&place.dir, place.name(), false)?,
        };
        let id = self.disk.stat_file(&file)?.id;
        Ok((file, id, writable))
    }
}
