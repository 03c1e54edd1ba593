//! What is written and read through one handle of the control channel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, ReplyWrite};

use super::super::fs::Fs;
use super::budget::{Budget, Share};
use super::documents::Transaction;
use super::requests::Done;
use crate::control::json::weight;
use crate::control::{Code, ControlError, Framer, error_line, parse_request};
use crate::engine::credentials::Credentials;
use crate::engine::process::{Caller, Processes};

#[derive(Default)]
struct State {
    framer: Framer,
    /// What the request, or the reply, takes of the user's memory.
    share: Share,
    /// Whether a request is in progress.
    busy: bool,
    reply: Vec<u8>,
    /// The file offset that the reply's first byte is read from.
    base: Option<u64>,
    transaction: Option<Transaction>,
    /// Whether the handle is gone.
    ended: bool,
}

/// One handle's requests and replies.
pub struct Conversation {
    /// Who may write requests through it, and read their replies: a descriptor that somebody else was given, or
    /// has inherited, must not make requests as him.
    owner: Option<(u32, u32)>,
    state: Mutex<State>,
    /// Counts as one of its user's.
    _place: Share,
}

/// Who wrote a request.
#[derive(Clone)]
pub struct Asker {
    /// The thread.
    pub caller: Caller,
    /// As whom, when the request was written.
    pub who: Credentials,
}

/// A request. While it waits it is text: values of it would take much more.
pub struct Asked {
    /// Who wrote it.
    pub asker: Asker,
    /// Through which handle.
    pub conversation: Arc<Conversation>,
    /// As it was written.
    pub text: Vec<u8>,
    /// Who is told what came of it.
    pub done: Done,
}

impl Asked {
    /// How many bytes its values take, and as many again while they are put into a document.
    pub fn weight(&self) -> usize {
        2 * weight(&self.text)
    }
}

/// What came of a request: the line that replies, or why it failed.
pub type Outcome = Result<Vec<u8>, ControlError>;

impl Conversation {
    /// One for the requests of `caller`.
    pub fn of(caller: Caller, place: Share) -> Conversation {
        Conversation {
            owner: Some((caller.uid, caller.gid)),
            state: Mutex::default(),
            _place: place,
        }
    }

    /// One that has something to read, by whoever has the descriptor.
    pub fn with_reply(reply: Vec<u8>, place: Share) -> Conversation {
        Conversation {
            owner: None,
            state: Mutex::new(State {
                reply,
                ..State::default()
            }),
            _place: place,
        }
    }

    /// Whether `caller` is the user who opened it.
    ///
    /// # Errors
    /// EPERM: he is somebody else, or acts for another group.
    pub fn must_be_of(&self, caller: Caller) -> Result<(), ControlError> {
        let is = |owner: (u32, u32)| owner == (caller.uid, caller.gid);
        let text = "another user has opened this file";
        let refused = || ControlError::new(Code::NotPermitted, text);
        self.owner.is_none_or(is).then_some(()).ok_or_else(refused)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is complete by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was written. A request that is whole is in progress from now on.
    fn push(
        &self,
        uid: u32,
        data: &[u8],
        memory: &Arc<Budget>,
    ) -> Result<Option<Vec<u8>>, ControlError> {
        let mut state = self.state();
        if state.busy {
            let text = "another request of this handle is in progress";
            return Err(ControlError::new(Code::Busy, text));
        }
        let pushed = match state.share.grow(memory, uid, data.len()) {
            true => state.framer.push(data),
            false => Err(ControlError::new(
                Code::Busy,
                "too many requests are waiting",
            )),
        };
        if let Err(error) = &pushed {
            state.framer = Framer::new();
            state.share = Share::default();
            state.reply = error_line(error);
            state.base = None;
        }
        state.busy = matches!(pushed, Ok(Some(_)));
        pushed
    }

    /// The request is done. Its reply counts as the request did; whether there is room for it.
    fn finish(&self, uid: u32, reply: Vec<u8>, memory: &Arc<Budget>) -> bool {
        let mut state = self.state();
        state.share = Share::default();
        state.busy = false;
        state.base = None;
        let fits = state.share.grow(memory, uid, reply.len());
        state.reply = match fits {
            true => reply,
            false => error_line(&no_room_for_reply()),
        };
        fits
    }

    /// Up to `size` bytes of the reply, of which the first is read from wherever the descriptor stands
    /// when it is read first.
    pub fn read(&self, offset: u64, size: u32) -> Vec<u8> {
        let mut state = self.state();
        let base = state.base.filter(|base| *base <= offset).unwrap_or(offset);
        state.base = Some(base);
        let start = usize::try_from(offset - base).unwrap_or(usize::MAX);
        let rest = state.reply.get(start..).unwrap_or_default();
        rest[..rest.len().min(size as usize)].to_vec()
    }

    /// Whether a request has begun that is not whole.
    pub fn is_unfinished(&self) -> bool {
        self.state().framer.has_begun()
    }

    /// Takes the transaction out.
    pub fn take_transaction(&self) -> Option<Transaction> {
        self.state().transaction.take()
    }

    /// Whether there is a transaction.
    pub fn has_transaction(&self) -> bool {
        self.state().transaction.is_some()
    }

    /// Begins, or goes on with, a transaction.
    pub fn keep_transaction(&self, transaction: Transaction) {
        let mut state = self.state();
        if !state.ended {
            state.transaction = Some(transaction);
            return;
        }
        drop(state); // Others may get their turn by the end of this one.
        drop(transaction);
    }

    /// The handle is gone: a transaction that it has is aborted, whoever still knows of it.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let aborted = state.transaction.take();
        drop(state);
        drop(aborted);
    }
}

fn no_room_for_reply() -> ControlError {
    let text = "it is done, but too many replies are kept to be read";
    ControlError::new(Code::Busy, text)
}

impl Fs {
    /// Up to `size` bytes of what there is to read through handle `id`.
    ///
    /// # Errors
    /// EBADF, or EPERM for another user than who opened it.
    pub fn read_channel(
        &self,
        caller: Caller,
        id: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, ControlError> {
        let conversation = self.channel.get(id)?;
        conversation.must_be_of(caller)?;
        Ok(conversation.read(offset, size))
    }

    /// Takes what was written through handle `id`, and executes the request that it completes.
    pub fn write_channel(
        self: &Arc<Self>,
        caller: Caller,
        id: u64,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        let len = data.len() as u32;
        let fail = |reply: ReplyWrite, error: &ControlError| {
            reply.error(Errno::from_i32(error.code.errno()));
        };
        let conversation = match self.channel.get(id) {
            Ok(conversation) => conversation,
            Err(error) => return fail(reply, &error.into()),
        };
        if let Err(error) = conversation.must_be_of(caller) {
            return fail(reply, &error);
        }
        let text = match conversation.push(caller.uid, data, &self.channel.memory) {
            Ok(Some(text)) => text,
            Ok(None) => return reply.written(len),
            Err(error) => return fail(reply, &error),
        };
        let done: Done = {
            let (conversation, memory) = (conversation.clone(), self.channel.memory.clone());
            Box::new(move |outcome: Outcome| match outcome {
                Ok(line) => match conversation.finish(caller.uid, line, &memory) {
                    true => reply.written(len),
                    false => fail(reply, &no_room_for_reply()),
                },
                Err(error) => {
                    conversation.finish(caller.uid, error_line(&error), &memory);
                    fail(reply, &error);
                }
            })
        };
        let who = self.engine.processes.credentials(caller);
        let asker = Asker { caller, who };
        let asked = Asked {
            asker,
            conversation,
            text,
            done,
        };
        // The thread that reads requests has no time for long ones.
        self.aside(move |fs| fs.take_request(asked));
    }

    /// Reads a request and does what it asks.
    fn take_request(self: &Arc<Self>, asked: Asked) {
        let room = asked.weight();
        self.in_room(asked.asker.caller.uid, room, move |fs, room| {
            let request = room.and_then(|room| {
                let request = parse_request(&asked.text);
                drop(room);
                request
            });
            match request {
                Ok(request) => fs.execute(asked, request),
                Err(error) => (asked.done)(Err(error)),
            }
        });
    }
}
