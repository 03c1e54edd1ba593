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

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use polystore::disk::{Disk, FileId, Stat};

use super::draft::{Draft, Phase};
use super::opening::{Access, Opener};
use super::process::{Caller, Fate, Process, Processes, is_or_descends_since};
use super::salvage::{Description, Reason};
use super::slot::{Place, SlotKey};
use super::{Engine, policy, unpoisoned};

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
    state: Mutex<State<D>>,
    // Held while a draft is made, which takes as long as its content is big.
    copying: Mutex<()>,
}

impl<D: Disk> Edit<D> {
    fn state(&self) -> MutexGuard<'_, State<D>> {
        unpoisoned(&self.state)
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
        !access.truncate || (!edit.is_edited_by(process) && self.sees_edit(process, edit))
    }

    /// Whether `process` finds the draft of `edit` under its name: who edits it, and the forks made
    /// since, while they have not exec'd.
    pub(super) fn sees_edit(&self, process: Option<Process>, edit: &Edit<D>) -> bool {
        let Some(process) = process else { return false };
        let openers: Vec<Opener> = {
            let state = edit.state();
            if state.draft.is_none() {
                return false;
            }
            let openers = state.editors.iter().map(|record| record.opener.clone());
            openers.collect()
        };
        let close = |opener: &Opener| {
            opener.process.is_some_and(|ancestor| {
                is_or_descends_since(&self.processes, process, ancestor, opener.moment)
            })
        };
        let near: Vec<Opener> = openers.into_iter().filter(close).collect();
        if near.is_empty() {
            return false;
        }
        let image = self.processes.image(process.pid);
        near.iter()
            .any(|opener| opener.image.is_some() && opener.image == image)
    }

    /// The edit that opens the published file at `place`, made if there is none. `None` where the
    /// file has to be written in place.
    ///
    /// # Errors
    /// Those of opening it.
    pub(super) fn edit_of(
        &self,
        place: &Place<D>,
        path: &Path,
    ) -> io::Result<Option<Arc<Edit<D>>>> {
        let Ok((file, version_id, writable)) = self.open_published(place) else {
            return Ok(None);
        };
        if self.is_database(&file) || self.is_written_in_place(version_id) {
            return Ok(None);
        }
        let mut slots = self.slots();
        if let Some(edit) = slots.edit(&place.slot) {
            return Ok(Some(edit.clone()));
        }
        let edit = Arc::new(Edit {
            id: self.next_draft.fetch_add(1, Ordering::Relaxed),
            path: path.to_owned(),
            state: Mutex::new(State {
                place: place.clone(),
                mode: Mode::Shared,
                version: Content::Version(Arc::new(file)),
                version_id,
                writable,
                outdated: false,
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
        edit.state().promises += 1;
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

    /// Shows what is published under the name now.
    fn catch_up(&self, edit: &Edit<D>) -> io::Result<()> {
        let place = {
            let mut state = edit.state();
            // Before it is looked at: what is published in the meantime counts again.
            state.outdated = false;
            state.place.clone()
        };
        match self.open_published(&place) {
            Ok((file, id, writable)) => {
                let mut state = edit.state();
                let same = state.place.slot == place.slot && state.mode == Mode::Shared;
                if same && state.draft.is_none() {
                    state.version = Content::Version(Arc::new(file));
                    state.version_id = id;
                    state.writable = writable;
                }
                Ok(())
            }
            Err(error) => {
                edit.state().outdated = true;
                Err(error)
            }
        }
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

    /// Where `editor` is to write: makes the draft if this is the first write. Of what is there
    /// before, the first `keep` bytes are wanted.
    ///
    /// Where [`Edit::is_ready`] does not hold this takes as long as the copy, and has to run alone.
    ///
    /// # Errors
    /// Those of making the draft; nothing has changed then.
    pub fn begin_write(&self, editor: &Editor<D>, keep: u64) -> io::Result<Content<D>> {
        let edit = &editor.edit;
        let ready = edit.state().writable_content();
        let content = match ready {
            Some(content) => content,
            None => {
                let _one_at_a_time = unpoisoned(&edit.copying);
                let ready = edit.state().writable_content();
                match ready {
                    Some(content) => content,
                    None => self.first_write(editor, keep)?,
                }
            }
        };
        if let Content::Draft(draft) = &content {
            self.note_writer(editor, draft);
        } else if !edit.state().writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(content)
    }

    fn note_writer(&self, editor: &Editor<D>, draft: &Draft<D>) {
        if editor.wrote.swap(draft.id, Ordering::AcqRel) != draft.id
            && let Some(record) = editor.edit.state().record(editor.id)
        {
            record.wrote = true;
        }
    }

    /// Pages that were changed through a mapping are written by whichever handle the kernel takes:
    /// everybody who has the file open may have written them.
    pub fn note_mapped_write(&self, edit: &Edit<D>) {
        let mut state = edit.state();
        if state.draft.is_some() {
            for record in &mut state.editors {
                record.wrote = true;
            }
        }
    }

    /// Makes the draft, or finds that the file is written in place. Meanwhile its name may be changed or
    /// taken, which is then as if it had been so before.
    fn first_write(&self, editor: &Editor<D>, keep: u64) -> io::Result<Content<D>> {
        let edit = &editor.edit;
        loop {
            let place = edit.place();
            let prepared = self.prepare_write(editor, &place, keep);
            if let Some(content) = edit.state().writable_content() {
                return Ok(content);
            }
            let (moved, overtaken) = {
                let state = edit.state();
                (state.place.slot != place.slot, state.outdated)
            };
            match prepared {
                Err(error) if !moved => return Err(error),
                Ok(()) if !moved && !overtaken => {
                    return Err(io::Error::other("an edit lost its file"));
                }
                _ => {}
            }
        }
    }

    fn prepare_write(&self, editor: &Editor<D>, place: &Place<D>, keep: u64) -> io::Result<()> {
        let edit = &editor.edit;
        let Some(stat) = self.disk.stat(&place.dir, place.name())? else {
            if edit.place().slot == place.slot {
                // Removed behind the mount: as with any file that is open, nobody sees what is written.
                self.orphan_edit(None, &place.slot);
            }
            return Ok(());
        };
        let outdated = edit.state().outdated;
        if outdated || stat.id != edit.version() {
            self.catch_up(edit)?;
        }
        let in_place = editor.appends
            || stat.links != 1
            || self.is_appended(stat.id)
            || self.is_written_in_place(stat.id)
            || !self.copy_for(editor, place, stat, keep)?;
        if in_place {
            self.write_in_place(edit)?;
        }
        Ok(())
    }

    /// Makes the draft. `false` where the file's owner cannot be recreated.
    fn copy_for(
        &self,
        editor: &Editor<D>,
        place: &Place<D>,
        stat: Stat,
        keep: u64,
    ) -> io::Result<bool> {
        let edit = &editor.edit;
        let Some((file, name)) = self.stage_like(place, &edit.path, stat, stat.mode)? else {
            return Ok(false);
        };
        let (version, made_from, opener) = {
            let mut state = edit.state();
            let opener = state.record(editor.id).map(|record| record.opener.clone());
            (
                state.version.clone(),
                state.version_id,
                opener.unwrap_or_else(Opener::unknown),
            )
        };
        // What the disk has left for the user who writes counts, not what it has for this process.
        let user = Caller {
            tid: 0,
            uid: opener.uid,
            gid: opener.gid,
        };
        let mut copied = Ok(());
        let mut copy = || copied = self.disk.copy_content(version.file(), &file, keep);
        let copied = self.processes.act_as(user, &mut copy).and(copied);
        let len = match copied.and_then(|()| self.disk.stat_file(&file)) {
            Ok(copy) => copy.len,
            Err(error) => {
                self.drop_staged(place, &name);
                return Err(error);
            }
        };
        let draft = self.new_draft(
            opener,
            place,
            &edit.path,
            (file, name),
            None,
            Some(made_from),
        )?;
        draft.state().opened = true;
        let draft = Arc::new(draft);
        edit.state().draft = Some(draft.clone());
        self.wrote(&draft, len);
        Ok(true)
    }

    /// What is shown is what is written from now on, unless it was replaced or lost its name meanwhile.
    fn write_in_place(&self, edit: &Edit<D>) -> io::Result<()> {
        let mut reopened = None;
        if !edit.state().writable {
            let place = edit.place();
            let file = self.disk.open(&place.dir, place.name(), true)?;
            let id = self.disk.stat_file(&file)?.id;
            reopened = Some((file, id));
        }
        let mut state = edit.state();
        if state.mode == Mode::Shared && !state.outdated {
            if let Some((file, id)) = reopened {
                state.version = Content::Version(Arc::new(file));
                state.version_id = id;
                state.writable = true;
            }
            state.mode = Mode::InPlace;
        }
        Ok(())
    }

    /// Cuts or extends what is written in `edit`, if anything is. Whether that was so. Has to run alone.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn cut_written(&self, edit: &Edit<D>, len: u64) -> io::Result<bool> {
        let Some(draft) = edit.draft() else {
            return Ok(false);
        };
        self.disk.set_len(&draft.file, len)?;
        self.wrote(&draft, len);
        Ok(true)
    }

    /// A range was locked through a handle of `edit`: the program runs its own protocol, and
    /// the file is written in place, unless it is written already. Whether it is in place now.
    ///
    /// # Errors
    /// Those of opening the file for that.
    pub fn range_locked(&self, edit: &Edit<D>) -> io::Result<bool> {
        let _one_at_a_time = unpoisoned(&edit.copying);
        {
            let state = edit.state();
            if state.draft.is_some() || state.is_orphan() {
                return Ok(false);
            }
            if state.mode == Mode::InPlace {
                return Ok(true);
            }
        }
        self.catch_up(edit)?;
        self.write_in_place(edit)?;
        Ok(edit.is_in_place())
    }

    /// A descriptor of `editor` is being closed by `caller`. Whether the draft has to be
    /// [sealed](Self::seal) before that close returns.
    pub fn closing_edit(&self, editor: &Editor<D>, caller: Caller) -> bool {
        let killed = self.processes.fate(caller.tid) == Fate::Killed;
        let process = self.processes.process_of(caller.tid);
        let wrote = {
            let mut state = editor.edit.state();
            let private = state.draft.is_some();
            let Some(record) = state.record(editor.id) else {
                return false;
            };
            record.last_killed = killed;
            if killed && process.is_some() && process == record.opener.process {
                record.opener_killed = true;
            }
            private && record.wrote
        };
        if killed || !wrote {
            return false;
        }
        let by_opener = process.is_none() || process == editor.opener;
        if by_opener {
            editor.opener_closed.store(true, Ordering::Release);
        }
        by_opener
            || editor.opener_closed.load(Ordering::Acquire)
            || editor
                .opener
                .is_none_or(|opener| !self.processes.alive(opener))
    }

    /// The mount ends while `editor` is open: what it wrote is not finished.
    pub fn interrupt_edit(&self, editor: &Editor<D>) {
        if let Some(record) = editor.edit.state().record(editor.id) {
            record.last_killed = true;
        }
    }

    /// A handle of an edit was released. Whether the edit has to be [settled](Self::settle_edit).
    #[must_use]
    pub fn detach_edit(&self, editor: &Editor<D>) -> bool {
        let mut state = editor.edit.state();
        let Some(at) = state
            .editors
            .iter()
            .position(|record| record.id == editor.id)
        else {
            return false;
        };
        let record = state.editors.swap_remove(at);
        if record.wrote && !record.opener_killed && !record.last_killed {
            state.finished = true;
        }
        if state.is_orphan() {
            self.in_place_closed(state.version_id);
        }
        let written = state.draft.is_some() && !state.editors.iter().any(|other| other.wrote);
        written || state.unused()
    }

    /// Publishes or drops what nobody who wrote it has open any more. Has to run alone.
    /// Whether editors who are left see another content than before.
    pub fn settle_edit(&self, edit: &Arc<Edit<D>>) -> bool {
        let reverted = self.settle_draft_of(edit);
        let mut slots = self.slots();
        let state = edit.state();
        // By now another may stand there: whoever closes last while this waits settles it, too.
        let slot = &state.place.slot;
        let stands = slots.edit(slot).is_some_and(|own| Arc::ptr_eq(own, edit));
        if stands && state.unused() && state.draft.is_none() {
            slots.remove_edit(slot);
        }
        drop(state);
        reverted
    }

    fn settle_draft_of(&self, edit: &Edit<D>) -> bool {
        let (draft, mode, finished) = {
            let state = edit.state();
            let Some(draft) = state.draft.clone() else {
                return false;
            };
            if state.editors.iter().any(|record| record.wrote) {
                return false; // Somebody wrote in the meantime: the last one settles.
            }
            (draft, state.mode, state.finished)
        };
        let dropped = match mode {
            Mode::Orphan { own: true } => None,
            Mode::Orphan { own: false } => Some(Reason::NameTaken),
            _ if draft.poisoned().is_some() => Some(Reason::WriteError),
            _ if !finished => Some(Reason::WriterKilled),
            _ => match self.publish_edit(edit) {
                Ok(_) => return false,
                Err(error) => {
                    self.ledger.note(
                        &edit.path,
                        draft.uid,
                        format_args!("cannot be published: {error}"),
                    );
                    Some(Reason::Unpublishable)
                }
            },
        };
        {
            let mut state = edit.state();
            state.start_over();
            state.outdated = true;
        }
        self.discard(&draft, dropped);
        true
    }

    /// Publishes what is written so far; whoever writes next starts from it. Has to run alone.
    /// Whether there was anything.
    ///
    /// # Errors
    /// Those of the disk, or of an earlier write; the draft stays what it was.
    pub fn publish_edit(&self, edit: &Edit<D>) -> io::Result<bool> {
        let (draft, place) = {
            let state = edit.state();
            match &state.draft {
                Some(draft) if state.mode == Mode::Shared => (draft.clone(), state.place.clone()),
                _ => return Ok(false),
            }
        };
        if let Some(error) = draft.poisoned() {
            return Err(error);
        }
        self.keep_replaced(&draft, &place);
        self.publish(&draft, &place)?;
        let mut state = edit.state();
        state.start_over();
        state.version_id = draft.file_id;
        state.version = Content::Draft(draft);
        state.writable = true;
        state.outdated = false;
        Ok(true)
    }

    /// A version that the draft was not made from is about to be replaced: somebody wrote it
    /// meanwhile, and is not to lose it.
    fn keep_replaced(&self, draft: &Draft<D>, place: &Place<D>) {
        let current = self.disk.stat(&place.dir, place.name());
        if let Ok(Some(stat)) = current
            && Some(stat.id) != draft.made_from
            && stat.len > 0
        {
            let what = Description {
                path: Some(draft.path.clone()),
                ..Description::unknown(Reason::Replaced)
            };
            self.keep_version(place, place.name(), &what);
        }
    }

    /// Keeps the version `name` in salvage, as the same file.
    pub(super) fn keep_version(&self, place: &Place<D>, name: &OsStr, what: &Description) {
        let Some(salvage) = &self.salvage else { return };
        let kept = self
            .disk
            .open(&place.dir, name, false)
            .and_then(|file| salvage.link(&file, what));
        if let Err(error) = kept {
            self.ledger.note(
                what.path.as_deref().unwrap_or(Path::new("?")),
                what.uid.unwrap_or(self.settings.uid),
                format_args!("replaced version not kept: {error}"),
            );
        }
    }

    /// The name of an edit is gone, or stands for something else.
    pub(super) fn orphan_edit(&self, process: Option<Process>, slot: &SlotKey) {
        let Some(edit) = self.slots().remove_edit(slot) else {
            return;
        };
        let own = edit.is_edited_by(process);
        let mut state = edit.state();
        state.mode = Mode::Orphan { own };
        if let Some(draft) = &state.draft {
            draft.set_phase(Phase::Orphan { own });
        }
        // The file may have another name.
        self.in_place_opened(state.version_id, state.editors.len());
    }

    /// Another version than the draft of `edit`, if it has one, was published under its name. What is
    /// written in place goes on in the file that it is written in, which is not to be found any more.
    pub(super) fn overtake(&self, edit: &Edit<D>) {
        if edit.is_in_place() {
            return self.orphan_edit(None, &edit.place().slot);
        }
        edit.state().outdated = true;
        // At once: should it lose its name, it goes on with this version.
        if edit.draft().is_none()
            && let Err(error) = self.catch_up(edit)
        {
            log::debug!("{}: the new version: {error}", edit.path.display());
        }
    }

    /// The file that is edited got another name.
    pub(super) fn move_edit(&self, from: &SlotKey, to: &Place<D>) {
        let mut slots = self.slots();
        if let Some(edit) = slots.remove_edit(from) {
            edit.state().place = to.clone();
            slots.add_edit(to.slot.clone(), edit);
        }
    }

    /// Two files changed places, and their edits with them.
    pub(super) fn exchange_edits(&self, a: &Place<D>, b: &Place<D>) {
        let mut slots = self.slots();
        let (of_a, of_b) = (slots.remove_edit(&a.slot), slots.remove_edit(&b.slot));
        for (edit, to) in [(of_a, b), (of_b, a)] {
            if let Some(edit) = edit {
                edit.state().place = to.clone();
                slots.add_edit(to.slot.clone(), edit);
            }
        }
    }
}
