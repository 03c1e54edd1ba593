//! Closing: killed or finished, published or dropped.

use super::{HandleId, Ino, Kept, Mode, Model, State, Target, Why};
use crate::processes::Pid;

impl Model {
    /// `pid` closes its descriptor of `handle`, killed or in peace. Whether that close returns an
    /// error: of a draft that a write failed to, every one does.
    pub(in super::super) fn close(&mut self, pid: Pid, handle: HandleId, killed: bool) -> bool {
        let Some(open) = self.opens.get_mut(&handle) else {
            return false;
        };
        open.holders.retain(|holder| *holder != pid);
        let by_opener = open.opener == pid;
        match open.target {
            Target::Reader(_) | Target::Version(_) => false,
            Target::Draft(id) => {
                let draft = &mut self.drafts[id];
                if draft.state == State::Private {
                    draft.last_killed = killed;
                    draft.opener_killed |= killed && draft.opener == pid;
                }
                draft.poisoned
            }
            Target::Edit(id) => {
                open.last_killed = killed;
                open.opener_killed |= killed && by_opener;
                let draft = self.edits[id].draft.as_ref();
                open.wrote && draft.is_some_and(|draft| draft.poisoned)
            }
        }
    }

    /// The handles that no process has a descriptor of.
    pub(in super::super) fn closed_handles(&self) -> Vec<HandleId> {
        let closed = self
            .opens
            .iter()
            .filter(|(_, open)| open.holders.is_empty());
        closed.map(|(id, _)| *id).collect()
    }

    /// The last descriptor of `handle` is closed.
    pub(in super::super) fn release(&mut self, handle: HandleId) {
        self.locks.released(handle);
        let Some(open) = self.opens.remove(&handle) else {
            return;
        };
        match open.target {
            Target::Reader(_) | Target::Version(_) => {}
            Target::Draft(id) => {
                if self.opens.values().all(|other| other.target != open.target) {
                    self.settle(id);
                }
            }
            Target::Edit(id) => {
                let in_peace = open.wrote && !open.opener_killed && !open.last_killed;
                if let Some(draft) = &mut self.edits[id].draft {
                    draft.finished |= in_peace;
                }
                self.settle_edit(id);
            }
        }
    }

    /// What becomes of a draft that nobody has open any more.
    fn settle(&mut self, id: usize) {
        let draft = &self.drafts[id];
        let published = self.published[draft.name];
        // Old drafts do not win over what was published since, unless somebody wrote them.
        let outdated =
            published.any > draft.base.any || draft.new && self.names[draft.name].is_some();
        let lost = draft.new && !draft.exclusive && published.exclusive > draft.base.exclusive;
        match draft.state {
            State::Published | State::Gone => {}
            State::Orphan { own: true } => self.drop(id, None),
            State::Orphan { own: false } => self.drop(id, Some(Why::NameTaken)),
            // An opener that was killed did not finish, even if a child of it closes last.
            State::Private if draft.opener_killed || draft.last_killed => {
                self.drop(id, Some(Why::Killed));
            }
            State::Private if draft.poisoned => self.drop(id, Some(Why::WriteError)),
            State::Private if !draft.written && outdated => self.drop(id, None),
            State::Private if lost => self.drop(id, Some(Why::NameTaken)),
            State::Private => self.publish(id, draft.name),
        }
    }

    fn drop(&mut self, id: usize, why: Option<Why>) {
        self.drafts[id].state = State::Gone;
        self.keep(self.drafts[id].ino, why);
    }

    /// What is dropped is kept, if there is anything of it.
    fn keep(&mut self, ino: Ino, why: Option<Why>) {
        if let Some(why) = why
            && !self.files[ino].is_empty()
        {
            self.kept.push(Kept { ino, why });
        }
    }

    /// A draft is published, under its own name or under one that it was moved to.
    pub(super) fn publish(&mut self, id: usize, name: usize) {
        self.drafts[id].state = State::Published;
        let (ino, exclusive) = (self.drafts[id].ino, self.drafts[id].exclusive);
        self.put(name, ino, exclusive);
    }

    /// `ino` becomes the version of `name`. Who appends to the older one goes on with it, so that
    /// one is kept; who edits the older one in place is left alone with it.
    pub(super) fn put(&mut self, name: usize, ino: Ino, exclusive: bool) {
        if let Some(old) = self.names[name]
            && self.is_appended(old)
        {
            let why = Why::Appended;
            self.kept.push(Kept { ino: old, why });
        }
        self.names[name] = Some(ino);
        self.published[name].count(exclusive);
        if let Some(edit) = self.edit_of(name)
            && let Mode::InPlace(old) = self.edits[edit].mode
        {
            self.edits[edit].name = None;
            self.edits[edit].mode = Mode::Orphan { old, own: false };
        }
    }

    /// The draft of an edit is published when nobody has it open any more who wrote it, and dropped
    /// only if none of those closed it in peace.
    fn settle_edit(&mut self, id: usize) {
        if self.editors(id).any(|open| open.wrote) {
            return;
        }
        if let Some(draft) = &self.edits[id].draft {
            let (ino, why) = (draft.ino, self.why_dropped(id));
            match why {
                None => self.publish_edit(id),
                Some(why) => {
                    self.start_over(id);
                    self.keep(ino, why);
                }
            }
        }
        if self.editors(id).next().is_none() {
            self.edits[id].name = None;
        }
    }

    /// Why the draft of an edit is not published, if it is not: outside, and why it is kept.
    fn why_dropped(&self, id: usize) -> Option<Option<Why>> {
        let edit = &self.edits[id];
        let draft = edit.draft.as_ref()?;
        match edit.mode {
            Mode::Orphan { own: true, .. } => Some(None),
            Mode::Orphan { own: false, .. } => Some(Some(Why::NameTaken)),
            _ if draft.poisoned => Some(Some(Why::WriteError)),
            _ if !draft.finished => Some(Some(Why::Killed)),
            _ => None,
        }
    }

    /// What is written so far becomes the version; who writes next starts from that. A version that
    /// it was not made from is not lost by it.
    pub(super) fn publish_edit(&mut self, id: usize) {
        let edit = &self.edits[id];
        let (Some(draft), Some(name)) = (&edit.draft, edit.name) else {
            return;
        };
        let (ino, made_from) = (draft.ino, draft.made_from);
        if let Some(current) = self.names[name]
            && current != made_from
        {
            self.keep(current, Some(Why::Replaced));
        }
        self.start_over(id);
        self.put(name, ino, false);
    }

    fn start_over(&mut self, id: usize) {
        self.edits[id].draft = None;
        for open in self.opens.values_mut() {
            if open.target == Target::Edit(id) {
                open.wrote = false;
            }
        }
    }
}
