//! The control channel's language: requests, replies, and what they do to JSON documents.
//!
//! `CONTROL.md`, beside the sources of this crate, is the contract. Nothing in here reads a file,
//! waits, or knows the kernel: an adapter hands the bytes of write()s to a [`Framer`], what that
//! yields to [`parse_request`], does what the [`Request`] asks (with [`edit()`] for what happens to
//! a document), and answers with [`reply_line`] or [`error_line`]. A client reads with
//! [`read_reply`].
//!
//! | module | holds |
//! |---|---|
//! | [`framer`] | where a request ends in what is written |
//! | [`request`] | requests, checked |
//! | [`path`] | names of files as requests give them |
//! | [`reply`] | replies, and lines made of them |
//! | [`error`] | what a reply says that is not ok |
//! | [`json`] | JSON text as values, without loss |
//! | [`change`] | merge, replace |
//! | [`patch`] | RFC 6902 |
//! | [`document`] | a document's text, edited with its formatting kept |
//! | [`edit`](mod@edit) | all of it: text and change in, text out |

pub mod change;
pub mod document;
pub mod edit;
pub mod error;
pub mod framer;
pub mod json;
pub mod patch;
pub mod path;
pub mod reply;
pub mod request;
mod style;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use change::{Change, apply};
pub use document::Document;
pub use edit::{Edited, edit};
pub use error::{Code, ControlError};
pub use framer::Framer;
pub use patch::Patch;
pub use path::ControlPath;
pub use reply::{
    BeginReply, BreakReply, DoneReply, DraftEntry, DraftKind, DraftsReply, Exact, FailureEntry,
    FailuresReply, LockEntry, LockKind, LocksReply, Party, PublishReply, SalvageEntry,
    SalvageReply, Stats, StatsReply, StatusReply, UpdateReply, begin_line, error_line, read_reply,
    reply_line, update_line,
};
pub use request::{Request, parse_request};

/// The directory in the root of a mount that has the control files.
pub const CONTROL_DIR: &str = ".polystore";

/// The file in [`CONTROL_DIR`] that takes requests.
pub const CONTROL_FILE: &str = "control.json";

/// The file in [`CONTROL_DIR`] that reads as the reply to `status`.
pub const STATUS_FILE: &str = "status.json";

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 4 << 20;

/// How many objects and arrays of a request may be inside one another.
pub const MAX_REQUEST_DEPTH: usize = 64;

/// The longest document, in bytes.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// How many objects and arrays of a document may be inside one another.
pub const MAX_DOCUMENT_DEPTH: usize = 120;

/// How long a request waits for the turn that does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest that a request may wait.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
