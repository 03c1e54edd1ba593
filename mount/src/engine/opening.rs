//! What an open for writing means: in place, join, append, rewrite, edit.
//!
//! The order of the rules is that of the design: EEXIST of O_EXCL, in place,
//! join, append, rewrite, edit.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use polystore::disk::{Disk, FileId, Kind, Ownership, Stat};

use super::credentials::Credentials;
use super::draft::{Draft, NewDraft, Phase, StagedName, Writer};
use super::editing::Edit;
use super::process::{Caller, Image, Kin, Moment, Process, Processes};
use super::slot::{Place, SlotKey};
use super::{Engine, policy, unpoisoned};

/// How a program opens a file for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// O_TRUNC: the old content is not wanted.
    pub truncate: bool,
    /// O_APPEND: every write goes to the end.
    pub append: bool,
    /// O_EXCL with O_CREAT: the caller must be the one who makes the name.
    pub exclusive: bool,
    /// O_RDWR rather than O_WRONLY.
    pub read: bool,
    /// Neither O_WRONLY nor O_RDWR.
    pub read_only: bool,
    /// No draft of the caller's own, or of an ancestor's, is joined.
    pub alone: bool,
}

/// What is to be done with an open.
pub enum Plan<D: Disk> {
    /// Open (or make) the published file itself.
    InPlace,
    /// Open this draft.
    Draft(Arc<Draft<D>>),
    /// Take part in this edit.
    Edit(Arc<Edit<D>>),
}

/// Who opens a file, and when.
#[derive(Clone, Debug)]
pub struct Opener {
    /// Its process; `None` if that cannot be seen.
    pub process: Option<Process>,
    /// The moment, as processes go.
    pub moment: Moment,
    /// What the process runs then.
    pub image: Option<Image>,
    /// As whom.
    pub who: Credentials,
}

impl Opener {
    /// Somebody of whom nothing is known.
    pub fn unknown() -> Opener {
        Opener {
            process: None,
            moment: Moment::default(),
            image: None,
            who: Credentials::new(0, 0),
        }
    }
}

/// An existing file that is to be opened for writing.
pub struct Existing<'a> {
    /// Its path from the root of the mount.
    pub path: &'a Path,
    /// What is known of it.
    pub stat: Stat,
    /// What is known of its directory.
    pub dir: Stat,
    /// Whether it is immutable or append-only, which only the system itself can judge.
    pub flagged: bool,
}

/// A file that is to be made.
pub struct New<'a> {
    /// Its path from the root of the mount.
    pub path: &'a Path,
    /// What is known of its directory.
    pub dir: Stat,
    /// Permission bits, the caller's umask already taken off.
    pub mode: u32,
}

const SETGID: u32 = 0o2000;
const SETUID: u32 = 0o4000;

impl<D: Disk, P: Processes> Engine<D, P> {
    /// What it means that `caller` opens the existing file at `place` for writing.
    ///
    /// # Errors
    /// Those of making a draft.
    pub fn plan_existing(
        &self,
        caller: Caller,
        place: &Place<D>,
        existing: &Existing<'_>,
        access: Access,
    ) -> io::Result<Plan<D>> {
        if self.settings.direct.covers(existing.path) || self.is_neighbour(place) {
            return Ok(Plan::InPlace);
        }
        let edit = self.edit_at(&place.slot);
        if let Some(edit) = edit.clone().filter(|edit| edit.is_in_place()) {
            return Ok(Plan::Edit(edit));
        }
        let process = self.processes.process_of(caller.tid);
        if let Some(draft) = self.draft_to_join(caller.uid, process, &place.slot, access) {
            return Ok(Plan::Draft(draft));
        }
        if let Some(edit) = edit.filter(|edit| self.joins_edit(process, edit, access)) {
            return Ok(Plan::Edit(edit));
        }
        let who = self.processes.credentials(caller);
        if access.append || self.must_keep_inode(&who, place, existing) {
            return Ok(Plan::InPlace);
        }
        let planned = if access.truncate {
            self.draft_of_existing(caller, &who, place, existing)?
                .map(Plan::Draft)
        } else {
            self.edit_of(place, existing)?.map(Plan::Edit)
        };
        Ok(planned.unwrap_or(Plan::InPlace))
    }

    /// The draft that is opened when `caller` makes a file at `place`, where nothing is published;
    /// `None` where it is to be published, empty, at once.
    ///
    /// # Errors
    /// `AlreadyExists` where `access.exclusive` and the name is reserved; those of making a draft.
    pub fn plan_new(
        &self,
        caller: Caller,
        place: &Place<D>,
        new: &New<'_>,
        access: Access,
    ) -> io::Result<Option<Arc<Draft<D>>>> {
        if access.exclusive && self.slots().reserved(&place.slot) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if access.read_only || self.settings.direct.covers(new.path) {
            return Ok(None);
        }
        let process = self.processes.process_of(caller.tid);
        if self.is_neighbour(place) || self.belongs_to_database(process, place, access) {
            return Ok(None);
        }
        if let Some(draft) = self.draft_to_join(caller.uid, process, &place.slot, access) {
            return Ok(Some(draft));
        }
        if access.append || (self.is_lock_file(new.path) && !access.exclusive) {
            return Ok(None);
        }
        self.draft_of_new(caller, place, new, access).map(Some)
    }

    /// Whether the file at `path` is the lock of a turn: seen by all as soon as it is there.
    fn is_lock_file(&self, path: &Path) -> bool {
        self.settings.turns.kind(path) == Some(policy::TurnKind::LockFile)
    }

    /// The draft that a writing open of `slot` by `process` of user `uid` joins.
    fn draft_to_join(
        &self,
        uid: u32,
        process: Option<Process>,
        slot: &SlotKey,
        access: Access,
    ) -> Option<Arc<Draft<D>>> {
        let drafts = self.slots().drafts(slot).to_vec();
        let process = process.filter(|_| !access.alone)?;
        let edits = !access.truncate && !access.exclusive && !access.append;
        let kin = Kin::new(&self.processes, process);
        drafts.into_iter().rev().find(|draft| {
            if draft.phase() != Phase::Private || draft.poisoned().is_some() {
                return false;
            }
            let own = draft.opener == Some(process);
            if own && !draft.is_written() {
                return true;
            }
            if own && !draft.new_name && access.truncate {
                return false;
            }
            // Who neither truncates nor demands to be the maker edits: two programs that make one
            // database at the same time have to meet in one file. Another user's is no such file: nobody
            // could see that it is there before he writes into it.
            if draft.shared && edits && !draft.is_written() && draft.who.uid == uid {
                return true;
            }
            let written_above = draft.is_written()
                && (draft.opener)
                    .is_some_and(|opener| kin.is_or_descends_since(opener, draft.moment));
            written_above || self.sees(Some(&kin), draft)
        })
    }

    /// Whether the file itself must be written: what a new inode would break, or what the
    /// caller may not replace.
    fn must_keep_inode(
        &self,
        who: &Credentials,
        place: &Place<D>,
        existing: &Existing<'_>,
    ) -> bool {
        existing.flagged
            || existing.stat.kind != Kind::File
            || existing.stat.links != 1
            || existing.stat.id.device != existing.dir.id.device
            || policy::is_lock_name(place.name())
            || self.is_appended(existing.stat.id)
            // An ordinary user's mount can give a new file to nobody else.
            || (self.settings.uid != 0 && who.uid != 0 && existing.stat.uid != self.settings.uid)
            || !self.may_replace(who, existing.stat, existing.dir, &place.dir)
    }

    /// Whether `place` is the journal or index of a database that is in place (SQLite's
    /// `-journal`, `-wal`, `-shm`): it must survive a kill as its writer left it.
    fn is_neighbour(&self, place: &Place<D>) -> bool {
        policy::neighbours_of(place.name()).any(|name| {
            let Ok(Some(stat)) = self.disk.stat(&place.dir, &name) else {
                return false;
            };
            stat.kind == Kind::File
                && (self.is_locked_in_place(stat.id) || self.holds_database(place, &name))
        })
    }

    fn is_locked_in_place(&self, file: FileId) -> bool {
        unpoisoned(&self.locked_in_place)
            .iter()
            .any(|lock| lock.file == file)
    }

    fn holds_database(&self, place: &Place<D>, name: &OsStr) -> bool {
        let file = self.disk.open(&place.dir, name, false);
        file.is_ok_and(|file| self.is_database(&file))
    }

    /// Whether a new file is the data beside a lock file that its process holds (LMDB).
    fn belongs_to_database(
        &self,
        process: Option<Process>,
        place: &Place<D>,
        access: Access,
    ) -> bool {
        access.read
            && !access.exclusive
            && !access.truncate
            && process.is_some()
            && unpoisoned(&self.locked_in_place)
                .iter()
                .any(|lock| lock.dir == place.slot.dir && lock.process == process)
    }

    /// An empty draft that is to replace an existing file. `None` where its owner cannot be recreated.
    fn draft_of_existing(
        &self,
        caller: Caller,
        who: &Credentials,
        place: &Place<D>,
        existing: &Existing<'_>,
    ) -> io::Result<Option<Arc<Draft<D>>>> {
        let mode = mode_after_write(existing.stat, who);
        let Some(staged) = self.stage_like(place, existing.path, existing.stat, mode)? else {
            return Ok(None);
        };
        let made_from = Some(existing.stat.id);
        self.register(caller, place, existing.path, staged, None, made_from)
            .map(Some)
    }

    /// An empty staged file that looks like the one at `place`, but for its mode. `None` where its
    /// owner cannot be recreated.
    pub(super) fn stage_like(
        &self,
        place: &Place<D>,
        path: &Path,
        stat: Stat,
        mode: u32,
    ) -> io::Result<Option<(D::File, StagedName)>> {
        let (file, name) = self.stage(place, path, 0o600)?;
        let owner = Ownership {
            uid: Some(stat.uid),
            gid: Some(stat.gid),
        };
        let dressed = self
            .disk
            .copy_xattrs(&place.dir, place.name(), stat.id, &file)
            .and_then(|()| self.disk.set_ownership(&file, owner, mode));
        match dressed {
            Ok(()) => Ok(Some((file, name))),
            Err(error) => {
                self.drop_staged(place, &name);
                match error.kind() {
                    io::ErrorKind::PermissionDenied => Ok(None),
                    _ => Err(error),
                }
            }
        }
    }

    fn draft_of_new(
        &self,
        caller: Caller,
        place: &Place<D>,
        new: &New<'_>,
        access: Access,
    ) -> io::Result<Arc<Draft<D>>> {
        let staged = self.stage_new(caller, place, new)?;
        self.register(caller, place, new.path, staged, Some(access), None)
    }

    /// A staged file as `caller` would have made it.
    fn stage_new(
        &self,
        caller: Caller,
        place: &Place<D>,
        new: &New<'_>,
    ) -> io::Result<(D::File, StagedName)> {
        let who = self.processes.credentials(caller);
        let mode = self.mode_of_new(&who, new.mode);
        let make = || self.disk.create_unnamed(&place.dir, mode);
        if let Some(file) = self.for_user(&who, make)? {
            return Ok((file, StagedName::Unnamed));
        }
        // Staging is open to nobody else.
        let (file, name) = self.stage_named(place, new.path, mode)?;
        match self.give_to(&who, &file, new.dir) {
            Ok(()) => Ok((file, name)),
            Err(error) => {
                self.drop_staged(place, &name);
                Err(error)
            }
        }
    }

    /// With which permission bits something is made that `who` asks for with `mode`. What belongs to another
    /// than him gets no set-user-id and set-group-id bits: they would lend him the other's rights.
    pub fn mode_of_new(&self, who: &Credentials, mode: u32) -> u32 {
        match self.is_stranger(who) {
            true => mode & !(SETUID | SETGID),
            false => mode,
        }
    }

    /// A file that has no name and never gets one, as `caller` would have made it.
    ///
    /// # Errors
    /// Those of making it.
    pub fn make_nameless(
        &self,
        caller: Caller,
        place: &Place<D>,
        new: &New<'_>,
    ) -> io::Result<D::File> {
        let (file, name) = self.stage_new(caller, place, new)?;
        self.drop_staged(place, &name);
        Ok(file)
    }

    /// Makes a file that the engine created the caller's, as if the caller had.
    fn give_to(&self, who: &Credentials, file: &D::File, dir: Stat) -> io::Result<()> {
        if self.settings.uid != 0 || (who.uid == 0 && who.gid == 0) {
            return Ok(());
        }
        let mut mode = self.disk.stat_file(file)?.mode;
        let inherits = dir.mode & SETGID != 0;
        if inherits && mode & 0o010 != 0 && who.uid != 0 && !who.is_member(dir.gid) {
            mode &= !SETGID; // A group that the caller is not in gets no rights through him.
        }
        // In a setgid directory the group is the directory's, whoever creates.
        let gid = (!inherits).then_some(who.gid);
        self.disk.set_ownership(
            file,
            Ownership {
                uid: Some(who.uid),
                gid,
            },
            mode,
        )
    }

    fn stage(&self, place: &Place<D>, path: &Path, mode: u32) -> io::Result<(D::File, StagedName)> {
        match self.disk.create_unnamed(&place.dir, mode)? {
            Some(file) => Ok((file, StagedName::Unnamed)),
            None => self.stage_named(place, path, mode),
        }
    }

    fn stage_named(
        &self,
        place: &Place<D>,
        path: &Path,
        mode: u32,
    ) -> io::Result<(D::File, StagedName)> {
        if let Some(session) = self.session_for(place) {
            let name = self.next_staged_name(path);
            return session
                .create(&name, mode)
                .map(|file| (file, StagedName::Staging(name)));
        }
        let name = self.hidden_name();
        self.disk
            .create_new(&place.dir, &name, mode)
            .map(|file| (file, StagedName::Beside(name)))
    }

    /// Who `caller` is, now.
    pub(super) fn opener(&self, caller: Caller) -> Opener {
        let process = self.processes.process_of(caller.tid);
        Opener {
            process,
            moment: self.processes.now(),
            image: process.and_then(|process| self.processes.image(process.pid)),
            who: self.processes.credentials(caller),
        }
    }

    /// Makes a staged file a draft of its slot. `access` is `None` for a draft of an existing name.
    fn register(
        &self,
        caller: Caller,
        place: &Place<D>,
        path: &Path,
        staged: (D::File, StagedName),
        access: Option<Access>,
        made_from: Option<FileId>,
    ) -> io::Result<Arc<Draft<D>>> {
        let opener = self.opener(caller);
        let draft = Arc::new(self.new_draft(opener, place, path, staged, access, made_from)?);
        self.slots().add(draft.clone());
        Ok(draft)
    }

    /// A draft that no slot knows. `access` is `None` for a draft of an existing name.
    pub(super) fn new_draft(
        &self,
        opener: Opener,
        place: &Place<D>,
        path: &Path,
        (file, name): (D::File, StagedName),
        access: Option<Access>,
        made_from: Option<FileId>,
    ) -> io::Result<Draft<D>> {
        Ok(Draft::new(NewDraft {
            id: self.next_draft.fetch_add(1, Ordering::Relaxed),
            file_id: self.disk.stat_file(&file)?.id,
            file,
            name,
            place: place.clone(),
            path: PathBuf::from(path),
            new_name: access.is_some(),
            made_from,
            exclusive: access.is_some_and(|access| access.exclusive),
            shared: access.is_some_and(|access| !access.exclusive && !access.truncate),
            opener: opener.process,
            moment: opener.moment,
            image: opener.image,
            who: opener.who,
            base: self.slots().published(&place.slot),
        }))
    }

    /// Promises `draft` to an OPEN that was told to look again.
    pub fn promise(&self, draft: &Draft<D>) {
        draft.state().promises += 1;
    }

    /// Ends a promise that was not kept. Whether the draft has to be
    /// [settled](Self::settle) now, because nobody wants it any more.
    #[must_use]
    pub fn break_promise(&self, draft: &Draft<D>) -> bool {
        let mut state = draft.state();
        state.promises = state.promises.saturating_sub(1);
        state.is_unclaimed()
    }

    /// Opens `draft` for writing. `promised` says that this keeps a promise.
    pub fn attach(&self, draft: &Arc<Draft<D>>, caller: Caller, promised: bool) -> Writer<D> {
        let process = self.processes.process_of(caller.tid);
        {
            let mut state = draft.state();
            state.writers += 1;
            state.opened = true;
            if promised {
                state.promises = state.promises.saturating_sub(1);
            }
            if state.phase == Phase::Published {
                self.in_place_opened(draft.file_id, 1);
            }
        }
        if let Some(process) = process.filter(|process| draft.opener != Some(*process)) {
            let mut state = draft.state();
            if !state.joined.contains(&process) {
                state.joined.push(process);
            }
        }
        Writer {
            draft: draft.clone(),
            opener: process,
            opener_closed: AtomicBool::new(false),
        }
    }
}

/// The permission bits of `file` after `who` has written to it, as Linux 6.2 and later have it: without
/// privileges nobody leaves set-user-id, nor set-group-id where the group may execute or is not his.
pub fn mode_after_write(file: Stat, who: &Credentials) -> u32 {
    if who.uid == 0 {
        return file.mode;
    }
    // Set-group-id without group execute marks mandatory locking, which is no privilege of a group's member.
    let setgid = match file.mode & 0o010 != 0 || !who.is_member(file.gid) {
        true => SETGID,
        false => 0,
    };
    file.mode & !(SETUID | setgid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_go_and_the_rest_stays() {
        let after = |mode, who: &Credentials| {
            let id = FileId {
                device: 1,
                inode: 2,
            };
            let file = Stat {
                id,
                kind: Kind::File,
                len: 0,
                links: 1,
                mode,
                uid: 7,
                gid: 8,
            };
            mode_after_write(file, who)
        };
        let (stranger, member) = (Credentials::new(9, 9), Credentials::new(9, 8));
        assert_eq!(after(0o6755, &member), 0o755);
        assert_eq!(after(0o2644, &member), 0o2644);
        assert_eq!(after(0o2644, &stranger), 0o644);
        assert_eq!(after(0o6644, &member), 0o2644);
        assert_eq!(after(0o1777, &stranger), 0o1777);
        assert_eq!(after(0o6755, &Credentials::new(0, 0)), 0o6755);
    }
}
