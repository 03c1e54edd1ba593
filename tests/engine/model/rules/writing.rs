//! Writes and truncations.

use super::opening::Plan;
use super::{EditDraft, HandleId, How, Ino, Mode, Model, State, Target, View};
use crate::processes::Pid;

impl Model {
    /// `text` is written behind what is there. Whether that can be: not where space was wanting once.
    pub(in super::super) fn write(&mut self, handle: HandleId, text: &str) -> bool {
        let ino = self.begin_write(handle, usize::MAX);
        if self.spent.contains(&ino) {
            return false;
        }
        self.files[ino].push_str(text);
        true
    }

    /// ftruncate(2).
    pub(in super::super) fn truncate(&mut self, handle: HandleId, len: usize) -> bool {
        let ino = self.begin_write(handle, len);
        self.set_len(ino, len)
    }

    /// Cuts a file, or extends it with zeros.
    fn set_len(&mut self, ino: Ino, len: usize) -> bool {
        if self.spent.contains(&ino) {
            return false;
        }
        let content = &mut self.files[ino];
        content.truncate(len);
        content.extend(std::iter::repeat_n('\0', len - content.len()));
        true
    }

    /// Where a handle writes. Of an edit that nobody has written yet a copy is made first, whose
    /// first `keep` bytes are wanted.
    fn begin_write(&mut self, handle: HandleId, keep: usize) -> Ino {
        let appends = self.opens[&handle].appends;
        match self.opens[&handle].target {
            Target::Reader(_) => unreachable!("nobody writes through what is open for reading"),
            Target::Version(ino) => ino,
            Target::Draft(id) => {
                self.drafts[id].written = true;
                self.drafts[id].ino
            }
            Target::Edit(id) => {
                self.first_write(id, keep, appends);
                if let Some(open) = self.opens.get_mut(&handle)
                    && self.edits[id].draft.is_some()
                {
                    open.wrote = true;
                }
                self.shown(id)
            }
        }
    }

    /// The draft of an edit is a copy of what its name shows at the first write. There is none
    /// where the file must keep its inode, or others write it in place; and nothing is copied for
    /// somebody who only appends, whose handle has outlived the draft that it had joined.
    fn first_write(&mut self, edit: usize, keep: usize, appends: bool) {
        if self.edits[edit].mode != Mode::Shared || self.edits[edit].draft.is_some() {
            return;
        }
        let current = self.shown(edit);
        if appends || self.must_write_in_place(current, edit) {
            self.edits[edit].mode = Mode::InPlace(current);
            return;
        }
        let mut copy = self.files[current].clone();
        copy.truncate(keep);
        let draft = EditDraft {
            ino: self.new_file(&copy),
            made_from: current,
            poisoned: false,
            finished: false,
        };
        self.edits[edit].draft = Some(draft);
    }

    fn must_write_in_place(&self, ino: Ino, edit: usize) -> bool {
        self.links(ino) != 1 || self.is_appended(ino) || self.is_written_in_place(ino, Some(edit))
    }

    /// Whether the next write through `handle` makes a copy of something first.
    pub(in super::super) fn copies_at_write(&self, handle: HandleId) -> bool {
        let Target::Edit(id) = self.opens[&handle].target else {
            return false;
        };
        let edit = &self.edits[id];
        let current = self.shown(id);
        !self.opens[&handle].appends
            && edit.mode == Mode::Shared
            && edit.draft.is_none()
            && !self.must_write_in_place(current, id)
            && !self.files[current].is_empty()
    }

    /// A write through `handle` fails: what it wrote to is not whole any more, and will not be
    /// published. If it failed for want of space nothing of it stays. A copy that fails has changed nothing.
    pub(in super::super) fn fail_write(&mut self, handle: HandleId, full: bool) {
        if self.copies_at_write(handle) {
            return;
        }
        let ino = self.begin_write(handle, usize::MAX);
        let lost = match self.opens[&handle].target {
            Target::Draft(id) if self.drafts[id].state != State::Published => {
                let first = !std::mem::replace(&mut self.drafts[id].poisoned, true);
                Some(first)
            }
            Target::Edit(id) => {
                let draft = self.edits[id].draft.as_mut();
                draft.map(|draft| !std::mem::replace(&mut draft.poisoned, true))
            }
            _ => None,
        };
        // The first failure counts.
        if lost == Some(true) && full {
            self.spent.push(ino);
            self.files[ino].clear();
        }
    }

    /// Whether nothing can be written through `handle` any more.
    pub(in super::super) fn is_spent(&self, handle: HandleId) -> bool {
        self.spent.contains(&self.file_of(&self.opens[&handle]))
    }

    /// truncate(2): of a draft that the caller sees; of what is being edited, which is left to those
    /// who edit; else an edit in one step. Whether there is such a file.
    pub(in super::super) fn truncate_path(&mut self, pid: Pid, name: usize, len: usize) -> bool {
        let seen = self.view(pid, name);
        let Some(current) = self.names[name].filter(|_| !matches!(seen, View::Draft(_))) else {
            let View::Draft(id) = seen else { return false };
            return self.cut_draft(id, len);
        };
        match self.plan(pid, name, How::Edit) {
            Plan::InPlace | Plan::Rewrite => self.set_len(current, len),
            Plan::Join(id) => self.cut_draft(id, len),
            Plan::Edit(Some(id)) => self.cut_edit(id, name, len),
            Plan::Edit(None) => self.replace_by_cut(name, current, len),
        }
    }

    fn cut_draft(&mut self, id: usize, len: usize) -> bool {
        self.drafts[id].written = true;
        let ino = self.drafts[id].ino;
        self.set_len(ino, len)
    }

    fn cut_edit(&mut self, id: usize, name: usize, len: usize) -> bool {
        let shown = self.shown(id);
        if self.edits[id].mode == Mode::Shared && self.edits[id].draft.is_none() {
            if self.must_write_in_place(shown, id) {
                self.edits[id].mode = Mode::InPlace(shown);
            } else {
                return self.replace_by_cut(name, shown, len);
            }
        }
        self.set_len(shown, len)
    }

    /// A cut copy is published at once.
    fn replace_by_cut(&mut self, name: usize, current: Ino, len: usize) -> bool {
        let copy = self.files[current].clone();
        let ino = self.new_file(&copy);
        self.set_len(ino, len);
        self.put(name, ino, false);
        true
    }
}
