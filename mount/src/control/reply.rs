//! Replies, and lines made of them.
//!
//! The structs are written by the mount and read by clients. A client takes members it does not
//! know for those of a newer mount, and ignores them.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{Code, ControlError};
use super::json::{parse, push_compact};
use super::{MAX_DOCUMENT_DEPTH, VERSION};

/// A JSON value of which nothing is lost on the way: numbers keep their digits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Exact(pub Value);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Exact, D::Error> {
        // serde_json's own way to a value changes some numbers and objects; see `json`.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let value = parse(raw.get().as_bytes(), MAX_DOCUMENT_DEPTH);
        value.map(Exact).map_err(D::Error::custom)
    }
}

/// Where null is a value, and only a member that is missing is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Exact>, D::Error> {
    Exact::deserialize(deserializer).map(Some)
}

/// The reply to `update` and `commit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateReply {
    /// The number of the turn in which it was done.
    pub turn: u64,
    /// Whether the document is another now.
    pub changed: bool,
    /// The document, if it was asked for.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub value: Option<Exact>,
}

/// The reply to `begin`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeginReply {
    /// The number of the turn.
    pub turn: u64,
    /// Whether there is a document.
    pub exists: bool,
    /// The document; if there is none, the request's `default`, or null.
    pub value: Exact,
}

/// The reply to `abort`, which has nothing of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneReply {}

/// The reply to `publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReply {
    /// True: a draft was published.
    pub published: bool,
}

/// The reply to `break`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakReply {
    /// How many turns and locks were ended.
    pub broken: u64,
}

/// The reply to `locks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocksReply {
    /// One entry for each file.
    pub locks: Vec<LockEntry>,
}

/// The reply to `drafts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DraftsReply {
    /// One entry for each draft.
    pub drafts: Vec<DraftEntry>,
}

/// The reply to `failures`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailuresReply {
    /// The last ones.
    pub failures: Vec<FailureEntry>,
}

/// The reply to `salvage`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SalvageReply {
    /// One entry for each item.
    pub salvage: Vec<SalvageEntry>,
}

/// The reply to `stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsReply {
    /// The counters.
    pub stats: Stats,
}

/// The reply to `status`, and what the file of that name has: what the caller may see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReply {
    /// As of `locks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<LockEntry>>,
    /// As of `drafts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drafts: Option<Vec<DraftEntry>>,
    /// As of `failures`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Vec<FailureEntry>>,
    /// As of `salvage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salvage: Option<Vec<SalvageEntry>>,
    /// As of `stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
}

/// A file with turns or locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockEntry {
    /// From the root of the mount.
    pub path: String,
    /// The number of the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// Who has it.
    pub holders: Vec<Party>,
    /// Who waits for it, first come first.
    pub waiters: Vec<Party>,
}

/// What kind of lock somebody has or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    /// The turn at the file.
    Turn,
    /// A lock of flock().
    Flock,
    /// A lock of fcntl().
    Fcntl,
    /// One of a newer mount.
    #[serde(other)]
    Unknown,
}

/// Somebody who has or waits for a turn or lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Party {
    /// Of what kind that is.
    pub kind: LockKind,
    /// Whether others may have it too.
    pub shared: bool,
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The user of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// For how long it waits, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
}

/// What a draft is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DraftKind {
    /// All of a file is written anew.
    Rewrite,
    /// A file is made.
    New,
    /// Parts of a file are changed.
    Edit,
    /// A kind of a newer mount.
    #[serde(other)]
    Unknown,
}

/// A version of a file that is being written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DraftEntry {
    /// From the root of the mount.
    pub path: String,
    /// What it is for.
    pub kind: DraftKind,
    /// How long it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// For how long there has been one, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// The process that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The user of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// How many open files write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u64>,
}

/// Something that close() could not report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureEntry {
    /// From the root of the mount.
    pub path: String,
    /// UTC, as ISO 8601 has it.
    pub when: String,
    /// What failed.
    pub message: String,
    /// Whose file it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// Something in salvage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageEntry {
    /// What it is asked for by.
    pub id: String,
    /// Where it was to be published, from the root of the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why it was not.
    pub reason: String,
    /// How long it is.
    pub bytes: u64,
    /// UTC, as ISO 8601 has it.
    pub when: String,
    /// The process that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// Counters since the mount, and numbers of the present. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Drafts that were opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<u64>,
    /// Drafts that were published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
    /// Drafts that were thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<u64>,
    /// Drafts that went to salvage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<u64>,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Documents changed by `update` and `commit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updates: Option<u64>,
    /// Turns that were had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<u64>,
    /// Turns that were waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns_waited: Option<u64>,
    /// Turns that did not come in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns_timed_out: Option<u64>,
    /// Drafts at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drafts: Option<u64>,
    /// Open files at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u64>,
    /// Files that the kernel knows at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
    /// Who waits at present, for turns and locks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiters: Option<u64>,
    /// For how long there has been the mount, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<f64>,
}

#[derive(Serialize)]
struct Done<'a, T> {
    ok: bool,
    version: u64,
    #[serde(flatten)]
    reply: &'a T,
}

#[derive(Serialize)]
struct Failed<'a> {
    ok: bool,
    version: u64,
    error: Problem<'a>,
}

#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    message: &'a str,
}

/// What every reply has, as a client reads it.
#[derive(Deserialize)]
struct Head {
    ok: bool,
    #[serde(default)]
    error: Option<ReadProblem>,
}

#[derive(Deserialize)]
struct ReadProblem {
    code: String,
    #[serde(default)]
    message: String,
}

/// The line that says `reply`, with its newline.
///
/// # Errors
/// EINVAL if `reply` is not one of this module and cannot be JSON.
pub fn reply_line<T: Serialize>(reply: &T) -> Result<Vec<u8>, ControlError> {
    line(&Done {
        ok: true,
        version: VERSION,
        reply,
    })
}

/// The line that replies to `begin`, of which `value` is the JSON text.
///
/// # Errors
/// Those of [`reply_line`].
pub fn begin_line(turn: u64, exists: bool, value: &str) -> Result<Vec<u8>, ControlError> {
    #[derive(Serialize)]
    struct Begun {
        turn: u64,
        exists: bool,
    }
    Ok(with_value(reply_line(&Begun { turn, exists })?, value))
}

/// The line that replies to `update` and `commit`, with the JSON text `value` if it was asked for.
///
/// # Errors
/// Those of [`reply_line`].
pub fn update_line(turn: u64, changed: bool, value: Option<&str>) -> Result<Vec<u8>, ControlError> {
    let line = reply_line(&UpdateReply {
        turn,
        changed,
        value: None,
    })?;
    Ok(match value {
        Some(value) => with_value(line, value),
        None => line,
    })
}

/// `line` with a member `value` at its end: the text `value` as it is, but for white space.
fn with_value(line: Vec<u8>, value: &str) -> Vec<u8> {
    let head = line.strip_suffix(b"}\n").unwrap_or(&line);
    let name = b",\"value\":";
    let mut whole = Vec::with_capacity(head.len() + name.len() + value.len() + 2);
    whole.extend_from_slice(head);
    whole.extend_from_slice(name);
    push_compact(&mut whole, value);
    whole.extend_from_slice(b"}\n");
    whole
}

/// The line that says that the request failed, with its newline.
pub fn error_line(error: &ControlError) -> Vec<u8> {
    let failed = line(&Failed {
        ok: false,
        version: VERSION,
        error: Problem {
            code: error.code.name(),
            message: &error.message,
        },
    });
    // Strings can always be written.
    failed.unwrap_or_default()
}

fn line<T: Serialize>(reply: &T) -> Result<Vec<u8>, ControlError> {
    let mut line = serde_json::to_vec(reply).map_err(|e| ControlError::invalid(e.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

/// The reply that `line` says.
///
/// # Errors
/// The error that the reply says; EBADMSG if it is none.
pub fn read_reply<T: DeserializeOwned>(line: &[u8]) -> Result<T, ControlError> {
    let no_reply = |error: serde_json::Error| {
        ControlError::new(Code::BadMessage, format!("not a reply: {error}"))
    };
    let head: Head = serde_json::from_slice(line).map_err(no_reply)?;
    if head.ok {
        return serde_json::from_slice(line).map_err(no_reply);
    }
    Err(match head.error {
        // A code of a newer mount is a failure all the same.
        Some(error) => ControlError::new(
            Code::from_name(&error.code).unwrap_or(Code::System(libc::EIO)),
            error.message,
        ),
        None => ControlError::new(Code::BadMessage, "a reply without an error"),
    })
}
