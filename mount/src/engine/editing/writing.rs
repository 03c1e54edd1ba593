//! The first write of an edit makes its draft, or finds that the file has to be written in place.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polystore::disk::{Disk, Stat};

use super::{Content, Edit, Editor, Mode};
use crate::engine::credentials::Credentials;
use crate::engine::draft::Draft;
use crate::engine::opening::Opener;
use crate::engine::process::Processes;
use crate::engine::slot::Place;
use crate::engine::{Engine, unpoisoned};

/// How often the first write of an edit is begun anew because its file was replaced meanwhile.
const FIRST_WRITE_TRIES: usize = 1000;

impl<D: Disk, P: Processes> Engine<D, P> {
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
        let mut tries = 0;
        loop {
            tries += 1;
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
                _ if tries >= FIRST_WRITE_TRIES => {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
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
            if edit.state().outdated {
                return Ok(()); // Overtaken again: nothing is made of what is shown.
            }
        }
        let in_place = editor.appends
            || stat.links != 1
            || self.is_appended(stat.id)
            || self.is_written_in_place(stat.id)
            || !self.copy_for(editor, place, stat, keep)?;
        if in_place {
            self.write_in_place(editor)?;
        }
        Ok(())
    }

    /// Makes the draft, unless what is shown has changed meanwhile: then whoever asks looks again. `false`
    /// where the file's owner cannot be recreated.
    fn copy_for(
        &self,
        editor: &Editor<D>,
        place: &Place<D>,
        stat: Stat,
        keep: u64,
    ) -> io::Result<bool> {
        let edit = &editor.edit;
        let staged = self.stage_like(place, &edit.path, stat, stat.mode);
        let (file, name) = match staged {
            Ok(Some(staged)) => staged,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => {
                edit.state().note_outdated();
                return Ok(true);
            }
            Err(error) => return Err(error),
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
        if made_from != stat.id {
            // It looks like one file and would hold what is in another.
            self.drop_staged(place, &name);
            edit.state().note_outdated();
            return Ok(true);
        }
        // What the disk has left for the user who writes counts, not what it has for this process.
        let copied = self.for_user(&opener.who, || {
            self.disk.copy_content(version.file(), &file, keep)
        });
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
    fn write_in_place(&self, editor: &Editor<D>) -> io::Result<()> {
        let edit = &editor.edit;
        let mut reopened = None;
        if !edit.state().writable {
            let place = edit.place();
            let opener = edit
                .state()
                .record(editor.id)
                .map(|record| record.opener.who.clone());
            let who = opener.unwrap_or(Credentials::new(self.settings.uid, self.settings.uid));
            let open = || self.disk.open(&place.dir, place.name(), true);
            let file = self.for_user(&who, open)?;
            let id = self.disk.stat_file(&file)?.id;
            reopened = Some((file, id));
        }
        let mut state = edit.state();
        if state.mode != Mode::Shared || state.outdated {
            return Ok(());
        }
        match reopened {
            Some((_, id)) if id != state.version_id => state.note_outdated(),
            Some((file, _)) => {
                state.version = Content::Version(Arc::new(file));
                state.writable = true;
                state.mode = Mode::InPlace;
            }
            None => state.mode = Mode::InPlace,
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
        self.cut(&draft, len).map(|()| true)
    }

    /// A range was locked through a handle of `edit`: the program runs its own protocol, and
    /// the file is written in place, unless it is written already. Whether it is in place now.
    ///
    /// # Errors
    /// Those of opening the file for that.
    pub fn range_locked(&self, editor: &Editor<D>) -> io::Result<bool> {
        let edit = &editor.edit;
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
        self.write_in_place(editor)?;
        Ok(edit.is_in_place())
    }
}
