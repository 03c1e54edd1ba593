//! Salvage: what was dropped is kept for its owner.
//!
//! `data/.polystore/salvage/ID` is the content, `ID.json` says what it is. Both
//! are ordinary files: without polystore they can be read and copied, too.
//! Bounded in age, bytes and number. When it is too much, things of the user go who has most of it there, the
//! oldest first: who holds no more than his share of the bounds loses nothing to others. A thing is
//! whose file it is; its note only says who opened it.
//!
//! Who keeps a draft only counts it. The directory is looked at when there may be too much, and not by those
//! whom a request waits for: see [`Salvage::purge_if_due`]. Other mounts of the same data count what they
//! keep themselves, so that a mount which has kept something looks from time to time anyway.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polystore::disk::{Disk, Ownership};
use serde_json::{Value, json};

use super::staging::{self, ensure_dir};
use super::unpoisoned;

/// The directory of salvage in `.polystore`.
pub const DIR: &str = "salvage";

/// How long things are kept.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const NOTE: &str = ".json";

/// How many things are kept at most: each costs an inode, and time whenever all are looked at.
pub const MOST: usize = 100_000;

/// How long a mount that has kept something goes without looking at what others have.
const LOOK_AFTER: Duration = Duration::from_secs(10 * 60);

/// Looking takes this part of the time at most.
const LOOKING: u32 = 10;

/// How often a draft is brought to salvage again whose directory went away meanwhile.
const KEEP_TRIES: usize = 8;

/// How old a note without its draft must be: younger ones may be about to get theirs.
const STRAY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a draft was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The process that wrote it was killed.
    WriterKilled,
    /// A write to it failed.
    WriteError,
    /// Its name was removed or given to something else while it was open.
    NameTaken,
    /// It could not be put in place: its directory is gone or became read-only.
    Unpublishable,
    /// The mount died while it was open.
    MountDied,
    /// It was a published version, replaced while somebody had it open for append.
    AppendedTo,
    /// It was a published version, replaced by an edit that had started from an earlier one.
    Replaced,
}

impl Reason {
    /// What people read.
    pub fn text(self) -> &'static str {
        match self {
            Reason::WriterKilled => "its writer was killed",
            Reason::WriteError => "a write to it failed",
            Reason::NameTaken => "its name was removed or replaced while it was open",
            Reason::Unpublishable => "it could not be put in place",
            Reason::AppendedTo => "it was replaced while somebody appended to it",
            Reason::Replaced => "an edit that had started from an earlier version replaced it",
            Reason::MountDied => "the mount ended while it was open",
        }
    }
}

/// What is known of a dropped draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Where it was to be published, from the root of the data.
    pub path: Option<PathBuf>,
    /// Why it was not.
    pub reason: Reason,
    /// Number and name of the process that opened it.
    pub process: Option<String>,
    /// The user who opened it.
    pub uid: Option<u32>,
}

impl Description {
    /// Of a draft of which nothing is known but why it was dropped.
    pub fn unknown(reason: Reason) -> Description {
        Description {
            path: None,
            reason,
            process: None,
            uid: None,
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let path = self.path.as_deref().map(path_to_json);
        let note = json!({
            "path": path,
            "reason": self.reason.text(),
            "process": self.process,
            "uid": self.uid,
        });
        format!("{note:#}\n").into_bytes()
    }

    /// The description that `text` holds; its reason is for the reader to set.
    pub(super) fn from_json(text: &[u8]) -> Option<Description> {
        let note: Value = serde_json::from_slice(text).ok()?;
        Some(Description {
            path: note.get("path").and_then(path_from_json),
            reason: Reason::MountDied,
            process: note
                .get("process")
                .and_then(Value::as_str)
                .map(str::to_owned),
            uid: note
                .get("uid")
                .and_then(Value::as_u64)
                .and_then(|uid| u32::try_from(uid).ok()),
        })
    }
}

/// A path as JSON: text, or its bytes where it is none.
fn path_to_json(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => json!(text),
        None => json!(path.as_os_str().as_encoded_bytes()),
    }
}

pub(crate) fn path_from_json(value: &Value) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if let Some(text) = value.as_str() {
        return Some(PathBuf::from(text));
    }
    let bytes: Option<Vec<u8>> = value
        .as_array()?
        .iter()
        .map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
        .collect();
    Some(PathBuf::from(OsString::from_vec(bytes?)))
}

/// The salvage of a data directory, as its mount fills it.
pub struct Salvage<D: Disk> {
    disk: Arc<D>,
    /// `.polystore`, which is there as long as the session of the mount.
    own: Arc<D::Dir>,
    limit: u64,
    most: usize,
    session: String,
    next: AtomicU64,
    held: Mutex<Held>,
    purging: Mutex<()>,
}

/// What salvage holds, as far as it is known: what was there at the last look, and what this mount has
/// brought since.
#[derive(Default)]
struct Held {
    bytes: u64,
    number: usize,
    /// When the oldest was dropped, in seconds since 1970.
    oldest: Option<u64>,
    /// Whether anything was brought since.
    added: bool,
    looked: Option<Instant>,
    /// Before this time nobody looks again.
    rests: Option<Instant>,
}

impl Held {
    fn add(&mut self, len: u64, born: u64) {
        self.bytes = self.bytes.saturating_add(len);
        self.number += 1;
        self.oldest = Some(self.oldest.map_or(born, |oldest| oldest.min(born)));
    }

    fn is_too_much(&self, limit: u64, most: usize) -> bool {
        self.bytes > limit
            || self.number > most
            || self.oldest.is_some_and(|born| born < oldest_kept())
    }

    fn is_due(&self, limit: u64, most: usize) -> bool {
        if self.rests.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let long_ago = self.looked.is_none_or(|when| when.elapsed() >= LOOK_AFTER);
        self.is_too_much(limit, most) || (self.added && long_ago)
    }
}

/// What was dropped before, in seconds since 1970, is too old.
fn oldest_kept() -> u64 {
    seconds(SystemTime::now()).saturating_sub(KEPT_FOR.as_secs())
}

impl<D: Disk> Salvage<D> {
    /// The salvage in `own` (`.polystore`), which keeps at most `limit` bytes. Its directory is
    /// made when there is something to keep: another mount that ends removes an empty one.
    pub fn new(disk: &Arc<D>, own: &Arc<D::Dir>, limit: u64, session: &str) -> Salvage<D> {
        Salvage {
            disk: disk.clone(),
            own: own.clone(),
            limit,
            most: MOST,
            session: session.to_owned(),
            next: AtomicU64::new(1),
            held: Mutex::default(),
            purging: Mutex::new(()),
        }
    }

    /// The same with another bound than [`MOST`].
    #[must_use]
    pub fn of_at_most(mut self, most: usize) -> Salvage<D> {
        self.most = most;
        self
    }

    /// Keeps the staged file `name` of `from`, which loses that name.
    pub(super) fn take(&self, from: &D::Dir, name: &OsStr, what: &Description) -> io::Result<()> {
        self.keep(what, |dir, id| self.disk.rename(from, name, dir, id, false))
    }

    /// Keeps a file that has no name.
    pub(super) fn link(&self, file: &D::File, what: &Description) -> io::Result<()> {
        self.keep(what, |dir, id| self.disk.link(file, dir, id))
    }

    /// Keeps a copy of a file that lies on another device.
    pub(super) fn copy(&self, file: &D::File, what: &Description) -> io::Result<()> {
        self.keep(what, |dir, id| {
            let copied = self.copy_to(dir, id, file);
            if copied.is_err() {
                let _ = self.disk.remove(dir, id); // A part of it is no use.
            }
            copied
        })
    }

    fn copy_to(&self, dir: &D::Dir, id: &OsStr, file: &D::File) -> io::Result<()> {
        let to = self.disk.create_new(dir, id, 0o600)?;
        self.disk.copy_content(file, &to, u64::MAX)?;
        let (known, made) = (self.disk.stat_file(file)?, self.disk.stat_file(&to)?);
        let owner = Ownership {
            uid: (known.uid != made.uid).then_some(known.uid),
            gid: (known.gid != made.gid).then_some(known.gid),
        };
        match self.disk.set_ownership(&to, owner, known.mode) {
            // An ordinary user's mount: it is his then.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            given => given,
        }
    }

    fn keep(
        &self,
        what: &Description,
        place: impl Fn(&D::Dir, &OsStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let id = self.next_id();
        let mut tries = 0;
        loop {
            let owner = self.disk.stat_dir(&self.own)?.uid;
            let dir = ensure_dir(&*self.disk, &self.own, OsStr::new(DIR), owner)?;
            // The content is worth more than the note: a full disk has room for the one, perhaps not the other.
            match self.note(&dir, &id, what) {
                // Of the try before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if is_full(&error) => log::warn!("no note of a salvaged draft: {error}"),
                other => other?,
            }
            match place(&dir, &id) {
                // Removed by another mount that ended, between the two.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < KEEP_TRIES => {
                    tries += 1
                }
                other => {
                    if other.is_ok() {
                        self.count(&dir, &id);
                    }
                    return other;
                }
            }
        }
    }

    fn note(&self, dir: &D::Dir, id: &OsStr, what: &Description) -> io::Result<()> {
        let file = self.disk.create_new(dir, &note_of(id), 0o600)?;
        staging::write_all(&*self.disk, &file, &what.to_json(), 0)
    }

    fn dir(&self) -> Option<D::Dir> {
        let owner = self.disk.stat_dir(&self.own).ok()?.uid;
        staging::open_own(&*self.disk, &self.own, OsStr::new(DIR), owner).ok()
    }

    /// Seconds since 1970 first, so that names sort by age.
    fn next_id(&self) -> OsString {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!(
            "{:010}-{}-{number:06}",
            seconds(SystemTime::now()),
            self.session
        )
        .into()
    }

    fn count(&self, dir: &D::Dir, id: &OsStr) {
        let stat = self.disk.stat(dir, id).ok().flatten();
        let mut held = unpoisoned(&self.held);
        held.add(stat.map_or(0, |stat| stat.len), born(id));
        held.added = true;
    }

    /// [Purges](Self::purge) if there may be too much. To be called from time to time, by somebody whom
    /// nobody waits for.
    pub fn purge_if_due(&self) {
        if self.is_due() {
            self.purge();
        }
    }

    /// Whether [`purge_if_due`](Self::purge_if_due) would do anything.
    pub fn is_due(&self) -> bool {
        unpoisoned(&self.held).is_due(self.limit, self.most)
    }

    /// Drops what is too old or too much.
    pub fn purge(&self) {
        let _one_at_a_time = unpoisoned(&self.purging);
        let begun = Instant::now();
        // What is brought from here on may be counted twice, until the next look, but not forgotten.
        *unpoisoned(&self.held) = Held::default();
        let (mut kept, oldest) = (Held::default(), oldest_kept());
        if let Some(dir) = self.dir() {
            // One that is too big for itself does not cost the others their place.
            let is_fit = |thing: &Thing| thing.len <= self.limit && born(&thing.id) >= oldest;
            let (fit, unfit) = self.things(&dir).into_iter().partition(is_fit);
            let unfit: Vec<Thing> = unfit;
            let (left, surplus) = fairly(fit, self.limit, self.most);
            for thing in unfit.iter().chain(&surplus) {
                self.remove(&dir, &thing.id);
            }
            for thing in &left {
                kept.add(thing.len, born(&thing.id));
            }
            self.remove_stray_notes(&dir);
        }
        let mut held = unpoisoned(&self.held);
        held.bytes = held.bytes.saturating_add(kept.bytes);
        held.number += kept.number;
        held.oldest = kept.oldest.into_iter().chain(held.oldest).min();
        held.looked = Some(begun);
        held.rests = Some(Instant::now() + begun.elapsed() * LOOKING);
    }

    /// A note is written before its draft is moved here; the mount may have died in between.
    fn remove_stray_notes(&self, dir: &D::Dir) {
        let recent = seconds(SystemTime::now()).saturating_sub(STRAY_AFTER.as_secs());
        let names = self.disk.list(dir).unwrap_or_default();
        let things: HashSet<&[u8]> = names.iter().map(|name| name.as_encoded_bytes()).collect();
        for note in names
            .iter()
            .filter(|name| is_note(name) && born(name) < recent)
        {
            let stray = !things.contains(thing_of(note));
            if stray && let Err(error) = self.disk.remove(dir, note) {
                log::warn!("salvage {note:?}: {error}");
            }
        }
    }

    /// How many bytes there are, about.
    pub fn total(&self) -> u64 {
        let Some(dir) = self.dir() else { return 0 };
        self.things(&dir).iter().map(|thing| thing.len).sum()
    }

    /// Drops the oldest thing of the user who has most there, for somebody who needs the space. Whether there was one.
    pub fn make_room(&self) -> bool {
        let _one_at_a_time = unpoisoned(&self.purging);
        let Some(dir) = self.dir() else { return false };
        let things = self.things(&dir);
        match Shares::of(&things, |thing| thing.len).next() {
            Some(index) => {
                let id = &things[index].id;
                log::warn!("the disk is full: salvaged draft {} dropped", id.display());
                self.remove(&dir, id);
                true
            }
            None => false,
        }
    }

    /// The oldest first.
    fn things(&self, dir: &D::Dir) -> Vec<Thing> {
        let names = self.disk.list(dir).unwrap_or_default();
        let mut things: Vec<Thing> = names
            .into_iter()
            .filter(|name| !is_note(name))
            .filter_map(|id| {
                let stat = self.disk.stat(dir, &id).ok()??;
                Some(Thing {
                    id,
                    len: stat.len,
                    uid: stat.uid,
                })
            })
            .collect();
        things.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        things
    }

    fn remove(&self, dir: &D::Dir, id: &OsStr) {
        for name in [id.to_owned(), note_of(id)] {
            if let Err(error) = self.disk.remove(dir, &name)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("salvage {name:?}: {error}");
            }
        }
    }
}

/// Something that is kept.
struct Thing {
    id: OsString,
    len: u64,
    /// Whose file it is.
    uid: u32,
}

/// What of `things`, the oldest first, is left, and what has to go so that it is within both bounds.
fn fairly(things: Vec<Thing>, limit: u64, most: usize) -> (Vec<Thing>, Vec<Thing>) {
    let (left, mut surplus) = within(things, u128::from(limit), |thing| thing.len);
    let (left, too_many) = within(left, most as u128, |_| 1);
    surplus.extend(too_many);
    (left, surplus)
}

fn within(
    things: Vec<Thing>,
    limit: u128,
    weight: impl Fn(&Thing) -> u64,
) -> (Vec<Thing>, Vec<Thing>) {
    let mut shares = Shares::of(&things, weight);
    let mut dropped = HashSet::new();
    while shares.total > limit {
        match shares.next() {
            Some(index) => dropped.insert(index),
            None => break,
        };
    }
    drop(shares);
    let (left, surplus): (Vec<_>, Vec<_>) =
        (things.into_iter().enumerate()).partition(|(index, _)| !dropped.contains(index));
    let bare = |things: Vec<(usize, Thing)>| things.into_iter().map(|(_, thing)| thing).collect();
    (bare(left), bare(surplus))
}

/// What each user has of some things. An iterator over what goes next: the oldest of him who has most.
///
/// While there is more than a bound, who has most has more than the bound divided by the number of
/// users; so nobody who has less is ever next.
struct Shares<'a, W: Fn(&Thing) -> u64> {
    things: &'a [Thing],
    weight: W,
    /// Of each user, the oldest first.
    own: HashMap<u32, VecDeque<usize>>,
    /// How much a user has, his oldest thing, himself. Of equals the one with the oldest thing comes first.
    order: BinaryHeap<(u128, Reverse<usize>, u32)>,
    total: u128,
}

impl<'a, W: Fn(&Thing) -> u64> Shares<'a, W> {
    fn of(things: &'a [Thing], weight: W) -> Shares<'a, W> {
        let mut own: HashMap<u32, VecDeque<usize>> = HashMap::new();
        for (index, thing) in things.iter().enumerate() {
            own.entry(thing.uid).or_default().push_back(index);
        }
        let sum = |indexes: &VecDeque<usize>| -> u128 {
            indexes
                .iter()
                .map(|index| u128::from(weight(&things[*index])))
                .sum()
        };
        let order: BinaryHeap<_> = own
            .iter()
            .filter_map(|(uid, indexes)| Some((sum(indexes), Reverse(*indexes.front()?), *uid)))
            .collect();
        Shares {
            things,
            total: order.iter().map(|(held, ..)| held).sum(),
            weight,
            own,
            order,
        }
    }
}

impl<W: Fn(&Thing) -> u64> Iterator for Shares<'_, W> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let (held, Reverse(oldest), uid) = self.order.pop()?;
        let weight = u128::from((self.weight)(&self.things[oldest]));
        self.total -= weight;
        let own = self.own.get_mut(&uid)?;
        own.pop_front();
        if let Some(next) = own.front() {
            self.order.push((held - weight, Reverse(*next), uid));
        }
        Some(oldest)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(crate) fn note_of(id: &OsStr) -> OsString {
    let mut note = id.to_owned();
    note.push(NOTE);
    note
}

pub(crate) fn is_note(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(NOTE.as_bytes())
}

/// The name of what `note` is about.
fn thing_of(note: &OsStr) -> &[u8] {
    let name = note.as_encoded_bytes();
    name.strip_suffix(NOTE.as_bytes()).unwrap_or(name)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(crate) fn born(id: &OsStr) -> u64 {
    id.to_str()
        .and_then(|id| id.split('-').next()?.parse().ok())
        .unwrap_or(0)
}
