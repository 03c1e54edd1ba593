//! What there is to see of the mount: locks, drafts, failures, salvage, counters.

use std::io;
use std::path::Path;

use polystore::disk::Disk;

use super::super::fs::Fs;
use super::conversation::Outcome;
use super::requests::line;
use crate::control::{
    Code, ControlError, DraftEntry, DraftKind, DraftsReply, FailureEntry, FailuresReply, LockEntry,
    LockKind, LocksReply, Party, Request, SalvageEntry, SalvageReply, Stats, StatsReply,
    StatusReply,
};
use crate::engine::locks::{Class, Kind};
use crate::engine::process::{Caller, Process, Processes};
use crate::time::utc;

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn kind_of(class: Class) -> LockKind {
    match class {
        Class::Turn => LockKind::Turn,
        Class::Flock => LockKind::Flock,
        Class::Posix => LockKind::Fcntl,
    }
}

impl Fs {
    /// The reply to a request for one of the lists, or for all.
    pub fn report(&self, caller: Caller, request: &Request) -> Outcome {
        match request {
            Request::Locks => line(Ok(LocksReply {
                locks: self.lock_entries(caller),
            })),
            Request::Drafts => line(Ok(DraftsReply {
                drafts: self.draft_entries(caller),
            })),
            Request::Failures => line(Ok(FailuresReply {
                failures: self.failure_entries(caller),
            })),
            Request::Salvage => line(
                self.salvage_entries()
                    .map(|salvage| SalvageReply { salvage }),
            ),
            Request::Stats => line(Ok(StatsReply {
                stats: self.stats(),
            })),
            Request::Status => line(self.status(caller)),
            _ => Err(ControlError::new(Code::Invalid, "no report")),
        }
    }

    /// What `status.json` holds.
    ///
    /// # Errors
    /// Those of looking at salvage.
    pub fn status_line(&self, caller: Caller) -> io::Result<Vec<u8>> {
        line(self.status(caller)).map_err(|error| io::Error::from_raw_os_error(error.code.errno()))
    }

    fn status(&self, caller: Caller) -> Result<StatusReply, ControlError> {
        let salvage = match self.owns_mount(caller.uid) {
            true => Some(self.salvage_entries()?),
            false => None,
        };
        Ok(StatusReply {
            locks: Some(self.lock_entries(caller)),
            drafts: Some(self.draft_entries(caller)),
            failures: Some(self.failure_entries(caller)),
            salvage,
            stats: Some(self.stats()),
        })
    }

    fn sees(&self, caller: Caller, uid: u32) -> bool {
        self.owns_mount(caller.uid) || caller.uid == uid
    }

    fn party(&self, lock: &crate::engine::locks::Request, waited: Option<f64>) -> Party {
        Party {
            kind: kind_of(lock.class),
            shared: lock.kind == Kind::Shared,
            pid: Some(lock.pid),
            uid: Some(lock.uid),
            process: match lock.terms.holder {
                Some((process, _)) => self.name_of(process),
                None => self.engine.processes.name(lock.pid),
            },
            waited,
        }
    }

    /// What `process` calls itself while it runs: its number may be somebody else's later.
    fn name_of(&self, process: Process) -> Option<String> {
        let name = self.engine.processes.name(process.pid);
        name.filter(|_| self.engine.processes.alive(process))
    }

    fn lock_entries(&self, caller: Caller) -> Vec<LockEntry> {
        let mut entries: Vec<LockEntry> = Vec::new();
        for seen in self.locks.seen() {
            let path = self.path_of_slot(&seen.slot);
            let held = seen.held.iter().filter(|lock| self.sees(caller, lock.uid));
            let waiting = seen.waiting.iter();
            let waiting = waiting.filter(|(lock, _)| self.sees(caller, lock.uid));
            let entry = LockEntry {
                path: path.map_or_else(|| text(Path::new(&seen.slot.name)), |path| text(&path)),
                turn: (seen.number > 0).then_some(seen.number),
                holders: held.map(|lock| self.party(lock, None)).collect(),
                waiters: waiting
                    .map(|(lock, since)| self.party(lock, Some(since.elapsed().as_secs_f64())))
                    .collect(),
            };
            if !entry.holders.is_empty() || !entry.waiters.is_empty() {
                entries.push(entry);
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    fn draft_entries(&self, caller: Caller) -> Vec<DraftEntry> {
        let drafts = self.engine.open_drafts();
        let seen = drafts
            .iter()
            .filter(|open| self.sees(caller, open.draft.who.uid));
        let mut entries: Vec<DraftEntry> = seen
            .map(|open| {
                let draft = &open.draft;
                let stat = self.engine.disk.stat_file(&draft.file);
                let opener = draft.opener.map(|opener| opener.pid);
                DraftEntry {
                    path: text(&draft.path),
                    kind: match (open.edit, draft.new_name) {
                        (true, _) => DraftKind::Edit,
                        (false, true) => DraftKind::New,
                        (false, false) => DraftKind::Rewrite,
                    },
                    bytes: stat.ok().map(|stat| stat.len),
                    age: Some(draft.opened.elapsed().as_secs_f64()),
                    pid: opener,
                    uid: Some(draft.who.uid),
                    process: draft.opener.and_then(|opener| self.name_of(opener)),
                    handles: Some(open.handles as u64),
                }
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    fn failure_entries(&self, caller: Caller) -> Vec<FailureEntry> {
        let failures = self.engine.ledger.failures();
        let seen = failures.iter().filter(|f| self.sees(caller, f.uid));
        seen.map(|failure| FailureEntry {
            path: text(&failure.path),
            when: utc(failure.when),
            message: failure.message.clone(),
            uid: Some(failure.uid),
        })
        .collect()
    }

    fn salvage_entries(&self) -> Result<Vec<SalvageEntry>, ControlError> {
        let items = crate::salvage::list(self.tree.root())?;
        let entries = items.into_iter().map(|item| SalvageEntry {
            id: item.id,
            path: item.path.as_deref().map(text),
            reason: item.reason,
            bytes: item.size,
            when: utc(item.time),
            process: item.process,
        });
        Ok(entries.collect())
    }

    fn stats(&self) -> Stats {
        let (ledger, counters) = (&self.engine.ledger, &self.engine.ledger.counters);
        Stats {
            opened: Some(counters.opened.get()),
            published: Some(counters.published.get()),
            discarded: Some(counters.discarded.get()),
            salvaged: Some(counters.salvaged.get()),
            failed: Some(counters.failed.get()),
            updates: Some(counters.updates.get()),
            turns: Some(counters.turns.get()),
            turns_waited: Some(counters.turns_waited.get()),
            turns_timed_out: Some(counters.turns_timed_out.get()),
            drafts: Some(self.engine.open_drafts().len() as u64),
            handles: Some(self.handles.len() as u64),
            nodes: Some(self.tree.nodes().len() as u64),
            waiters: Some(self.locks.waiters() as u64),
            uptime: Some(ledger.began.elapsed().as_secs_f64()),
        }
    }
}
