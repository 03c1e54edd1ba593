//! Requests and who does what they ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::fs::Fs;
use super::conversation::{Asked, Asker, Outcome};
use crate::control::{
    BreakReply, Code, ControlError, ControlPath, DoneReply, PublishReply, Request, reply_line,
};
use crate::engine::locks::Wait;
use crate::engine::order::Claim;

/// Replies, whatever came of the request.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// A reply as a line.
pub fn line<T: Serialize>(reply: Result<T, ControlError>) -> Outcome {
    reply.and_then(|reply| reply_line(&reply))
}

pub fn wait(timeout: Duration) -> Wait {
    match timeout.is_zero() {
        true => Wait::No,
        false => Wait::Until(Instant::now() + timeout),
    }
}

impl Fs {
    /// Whether user `uid` may see and do everything.
    pub fn owns_mount(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    fn must_own_mount(&self, asker: &Asker) -> Result<(), ControlError> {
        let text = "only the owner of the mount may do that";
        let error = || ControlError::new(Code::NotPermitted, text);
        self.owns_mount(asker.caller.uid)
            .then_some(())
            .ok_or_else(error)
    }

    /// Does what `request` asks, which is what the text of `asked` says; that is told what came of it, at once or
    /// later.
    pub fn execute(self: &Arc<Self>, asked: Asked, request: Request) {
        match request {
            Request::Update { path, timeout, .. } => {
                self.begin_document(asked, &path, timeout, false);
            }
            Request::Begin { path, timeout, .. } => {
                self.begin_document(asked, &path, timeout, true);
            }
            Request::Commit { .. } => self.commit(asked),
            Request::Abort => {
                let aborted = asked.conversation.take_transaction();
                let aborted = aborted.ok_or_else(no_transaction);
                (asked.done)(line(aborted.map(|_| DoneReply {})));
            }
            Request::Publish { path } => self.publish_asked(asked.asker, path, asked.done),
            Request::Break { path } => {
                (asked.done)(line(self.break_locks(&asked.asker, &path)));
            }
            Request::Locks
            | Request::Drafts
            | Request::Failures
            | Request::Salvage
            | Request::Stats
            | Request::Status => {
                let allowed = match request {
                    Request::Salvage => self.must_own_mount(&asked.asker),
                    _ => Ok(()),
                };
                let reported = allowed.and_then(|()| self.report(asked.asker.caller, &request));
                (asked.done)(reported);
            }
        }
    }

    fn break_locks(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ControlPath,
    ) -> Result<BreakReply, ControlError> {
        self.must_own_mount(asker)?;
        let target = self.resolve(&asker.who, path)?;
        let ask = self.ask_at(&target, None);
        let table = self.locks.existing(&ask.slot);
        let broken = table.map_or(0, |table| self.locks.break_all(&table));
        if broken > 0 {
            log::warn!("{path}: {broken} locks broken by user {}", asker.caller.uid);
        }
        Ok(BreakReply {
            broken: broken as u64,
        })
    }

    fn publish_asked(self: &Arc<Self>, asker: Asker, path: ControlPath, done: Done) {
        let target = match self.resolve(&asker.who, &path) {
            Ok(target) => target,
            Err(error) => return done(Err(error)),
        };
        let uid = asker.caller.uid;
        let all = self.owns_mount(uid);
        let may = move |owner| all || owner == uid;
        if let Some(edit) = self.engine.edit_at(&target.place.slot)
            && let Some(draft) = edit.draft()
        {
            if !may(draft.who.uid) {
                return done(Err(not_yours(&path)));
            }
            return self.settling(edit, move |fs, edit| {
                let published = fs.publish_at_unlock(edit);
                fs.forget_content_of(edit);
                done(line(published_reply(published, &path)));
            });
        }
        let claim = Claim::change(target.place.slot.clone());
        self.queue(claim, move |fs| {
            let drafts = fs.engine.written_drafts_at(&target.place.slot);
            let Some(draft) = drafts.iter().rev().find(|draft| may(draft.who.uid)) else {
                return done(Err(match drafts.is_empty() {
                    true => ControlError::new(Code::NoEntry, format!("{path}: it has no draft")),
                    false => not_yours(&path),
                }));
            };
            let published = fs.publish_draft_now(draft);
            done(line(published_reply(published, &path)));
        });
    }
}

fn published_reply(
    published: std::io::Result<()>,
    path: &ControlPath,
) -> Result<PublishReply, ControlError> {
    match published {
        Ok(()) => Ok(PublishReply { published: true }),
        Err(error) => Err(ControlError::from(error).about(path)),
    }
}

fn not_yours(path: &ControlPath) -> ControlError {
    let text = format!("{path}: its draft is another user's");
    ControlError::new(Code::NotPermitted, text)
}

/// The handle has no transaction.
pub fn no_transaction() -> ControlError {
    ControlError::new(Code::NoTransaction, "no transaction has begun")
}
