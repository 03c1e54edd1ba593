//! The rules, as plain maps: no staging, no seals, no disk.

use std::collections::BTreeMap;

use polystore_mount::engine::opening::Access;

use super::NAMES;
use crate::processes::Pid;
use crate::world::{APPEND, EDIT, EXCLUSIVE, REWRITE};

#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Rewrite,
    Append,
    Edit,
    Exclusive,
}

impl How {
    pub(super) fn access(self) -> Access {
        match self {
            How::Rewrite => REWRITE,
            How::Append => APPEND,
            How::Edit => EDIT,
            How::Exclusive => EXCLUSIVE,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Private,
    Published,
    Orphan { own: bool },
    Gone,
}

pub(super) struct Draft {
    pub(super) name: usize,
    pub(super) new: bool,
    pub(super) opener: Pid,
    pub(super) image: u32,
    /// How many processes had been started before it was opened.
    pub(super) moment: u32,
    /// How many versions the name had had by then.
    pub(super) base: u32,
    pub(super) inode: usize,
    /// Made by an open that neither truncates nor is exclusive.
    pub(super) shared: bool,
    /// Who opened it.
    pub(super) joined: Vec<Pid>,
    pub(super) written: bool,
    pub(super) handles: usize,
    pub(super) opener_killed: bool,
    pub(super) last_killed: bool,
    pub(super) state: State,
}

#[derive(Clone, Copy)]
pub(super) struct Process {
    pub(super) parent: Pid,
    pub(super) born: u32,
    pub(super) image: u32,
}

/// An open file description.
pub(super) struct Open {
    pub(super) inode: usize,
    pub(super) draft: Option<usize>,
    pub(super) opener: Pid,
    pub(super) holders: Vec<Pid>,
    pub(super) appends: bool,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) inodes: Vec<String>,
    pub(super) published: BTreeMap<usize, usize>,
    pub(super) versions: [u32; NAMES.len()],
    pub(super) drafts: Vec<Draft>,
    pub(super) processes: BTreeMap<Pid, Process>,
    pub(super) started: u32,
    pub(super) images: u32,
    pub(super) salvaged: Vec<String>,
}

impl Model {
    pub(super) fn start(&mut self, pid: Pid, parent: Pid, image: u32) {
        self.started += 1;
        let born = self.started;
        self.processes.insert(
            pid,
            Process {
                parent,
                born,
                image,
            },
        );
    }

    pub(super) fn new_image(&mut self) -> u32 {
        self.images += 1;
        self.images
    }

    /// Whether `pid` is the draft's opener or descends from a child that it made since.
    pub(super) fn is_family(&self, pid: Pid, draft: &Draft) -> bool {
        let mut current = pid;
        while current != draft.opener {
            match self.processes.get(&current) {
                Some(process) if process.born > draft.moment => current = process.parent,
                _ => return false,
            }
        }
        self.processes.contains_key(&current)
    }

    pub(super) fn sees(&self, pid: Pid, draft: &Draft) -> bool {
        let same_image = self.processes[&pid].image == draft.image;
        draft.state == State::Private
            && (draft.new && draft.joined.contains(&pid)
                || self.is_family(pid, draft) && (draft.new || draft.written && same_image))
    }

    /// The newest private draft of `name` for which `holds`.
    pub(super) fn newest(&self, name: usize, holds: impl Fn(&Draft) -> bool) -> Option<usize> {
        let private = |draft: &Draft| draft.name == name && draft.state == State::Private;
        (0..self.drafts.len())
            .rev()
            .find(|id| private(&self.drafts[*id]) && holds(&self.drafts[*id]))
    }

    pub(super) fn seen(&self, pid: Pid, name: usize) -> Option<usize> {
        self.newest(name, |draft| self.sees(pid, draft))
    }

    pub(super) fn read(&self, pid: Pid, name: usize) -> Option<&str> {
        let draft = self.seen(pid, name).map(|id| self.drafts[id].inode);
        let inode = draft.or(self.published.get(&name).copied())?;
        Some(&self.inodes[inode])
    }

    pub(super) fn joined(&self, pid: Pid, name: usize, how: How) -> Option<usize> {
        let truncates = matches!(how, How::Rewrite);
        self.seen(pid, name).or_else(|| {
            self.newest(name, |draft| {
                // Editors of a new name share what nobody has written yet.
                if matches!(how, How::Edit) && draft.new && draft.shared && !draft.written {
                    return true;
                }
                let own = draft.opener == pid;
                let anew = own && !draft.new && draft.written && truncates;
                own && !draft.written || !anew && draft.written && self.is_family(pid, draft)
            })
        })
    }

    pub(super) fn reserved(&self, name: usize) -> bool {
        self.newest(name, |draft| draft.new).is_some()
    }

    pub(super) fn add_draft(&mut self, pid: Pid, name: usize, how: How) -> usize {
        self.inodes.push(String::new());
        self.drafts.push(Draft {
            name,
            new: !self.published.contains_key(&name),
            opener: pid,
            image: self.processes[&pid].image,
            moment: self.started,
            base: self.versions[name],
            inode: self.inodes.len() - 1,
            written: false,
            shared: matches!(how, How::Edit),
            joined: Vec::new(),
            handles: 0,
            opener_killed: false,
            last_killed: false,
            state: State::Private,
        });
        self.drafts.len() - 1
    }

    pub(super) fn wrote(&mut self, open: &Open, text: &str) {
        self.inodes[open.inode].push_str(text);
        if let Some(id) = open.draft {
            self.drafts[id].written = true;
        }
    }

    /// What `pid` gets that opens `name` for writing; `None` if that is not played.
    pub(super) fn open(&mut self, pid: Pid, name: usize, how: How, appended: bool) -> Option<Open> {
        let truncates = matches!(how, How::Rewrite);
        let appends = matches!(how, How::Append);
        let published = self.published.get(&name).copied();
        let draft = match (self.joined(pid, name, how), published) {
            (Some(id), _) => {
                if truncates {
                    self.inodes[self.drafts[id].inode].clear();
                }
                Some(id)
            }
            (None, Some(_)) if truncates && !appended => Some(self.add_draft(pid, name, how)),
            (None, Some(inode)) => {
                if truncates {
                    self.inodes[inode].clear();
                }
                None
            }
            // Several would make one name at a time, one of them in place.
            (None, None) if appends && self.reserved(name) => return None,
            (None, None) if appends => {
                self.inodes.push(String::new());
                self.published.insert(name, self.inodes.len() - 1);
                None
            }
            (None, None) => Some(self.add_draft(pid, name, how)),
        };
        if let Some(id) = draft {
            self.drafts[id].handles += 1;
            self.drafts[id].joined.push(pid);
        }
        let inode = draft.map_or_else(|| self.published[&name], |id| self.drafts[id].inode);
        Some(Open {
            inode,
            draft,
            opener: pid,
            holders: vec![pid],
            appends: appends && draft.is_none(),
        })
    }

    pub(super) fn flushed(&mut self, pid: Pid, open: &Open, killed: bool) {
        let Some(id) = open.draft else { return };
        let draft = &mut self.drafts[id];
        if draft.state == State::Private {
            draft.last_killed = killed;
            draft.opener_killed |= killed && draft.opener == pid;
        }
    }

    pub(super) fn released(&mut self, open: &Open) {
        let Some(id) = open.draft else { return };
        self.drafts[id].handles -= 1;
        if self.drafts[id].handles > 0 {
            return;
        }
        let draft = &self.drafts[id];
        let killed = draft.opener_killed || draft.last_killed;
        let outdated = !draft.written && self.versions[draft.name] > draft.base;
        match draft.state {
            State::Published | State::Gone => {}
            State::Orphan { own } => self.drop(id, !own),
            State::Private if killed => self.drop(id, true),
            State::Private if outdated => self.drop(id, false),
            State::Private => self.publish(id, draft.name),
        }
    }

    pub(super) fn drop(&mut self, id: usize, keep: bool) {
        let content = &self.inodes[self.drafts[id].inode];
        if keep && !content.is_empty() {
            self.salvaged.push(content.clone());
        }
        self.drafts[id].state = State::Gone;
    }

    pub(super) fn publish(&mut self, id: usize, name: usize) {
        self.drafts[id].state = State::Published;
        self.published.insert(name, self.drafts[id].inode);
        self.versions[name] += 1;
    }

    pub(super) fn orphan(&mut self, pid: Pid, name: usize, which: impl Fn(&Draft) -> bool) {
        for draft in &mut self.drafts {
            if draft.name == name && draft.state == State::Private && which(draft) {
                let own = draft.opener == pid;
                draft.state = State::Orphan { own };
            }
        }
    }

    /// Whether it succeeds.
    pub(super) fn rename(&mut self, pid: Pid, from: usize, to: usize, replace: bool) -> bool {
        if !replace && (self.reserved(to) || self.published.contains_key(&to)) {
            return false;
        }
        let image = self.processes[&pid].image;
        let moved = self.newest(from, |draft| {
            if draft.new {
                self.sees(pid, draft)
            } else {
                draft.opener == pid && draft.image == image
            }
        });
        match (moved, self.published.get(&from).copied()) {
            (Some(id), _) => {
                self.publish(id, to);
                if !self.drafts[id].new {
                    self.published.remove(&from);
                }
            }
            (None, Some(inode)) => {
                self.published.remove(&from);
                self.published.insert(to, inode);
                self.versions[to] += 1;
            }
            (None, None) => return false,
        }
        self.orphan(pid, to, |_| true);
        true
    }

    /// Whether it succeeds.
    pub(super) fn unlink(&mut self, pid: Pid, name: usize) -> bool {
        if self.published.remove(&name).is_some() {
            self.versions[name] += 1;
            self.orphan(pid, name, |_| true);
            return true;
        }
        let mut any = false;
        while let Some(id) = self.seen(pid, name) {
            let own = self.drafts[id].opener == pid;
            self.drafts[id].state = State::Orphan { own };
            any = true;
        }
        any
    }
}
