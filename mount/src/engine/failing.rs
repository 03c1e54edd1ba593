//! What a failed change means for a draft, and what a full disk gives back.
//!
//! A change that failed may have been done in part. A draft of which that is so, or of which content is missing that
//! its program handed over, is *lost*: every close of it fails with the first such error, whatever its number, and it
//! is never published. Only where it is certain that the content is what it was before does the
//! program merely get its error:
//!
//! | what failed | how | the draft is |
//! |---|---|---|
//! | write, also of mapped pages, and the sync of an O_SYNC write | any error | lost |
//! | copy_file_range | EXDEV, EINVAL, EOPNOTSUPP, ENOSYS, EBADF, ETXTBSY: refused as asked, programs write instead | as it was |
//! | | any other error | lost |
//! | truncate | EINVAL, EFBIG and the like, and the length is what it was | as it was |
//! | | any other error | lost |
//! | fallocate that reserves | any error; what was gained is cut off again, and the length is what it was | as it was |
//! | | that cannot be done | lost |
//! | fallocate that punches, zeroes, inserts or removes | EOPNOTSUPP, EINVAL, EFBIG and the like: refused as asked | as it was |
//! | | any other error | lost |
//! | the first copy of an edit | any error | not made |
//! | fsync, the wait for the data, the name in staging | any error | lost |
//!
//! A lost draft goes to salvage. But one that failed for want of space or quota would keep the disk full:
//! it is *spent*: its content is dropped at the moment of the failure, and everything that is asked of it
//! later, reads included, fails with that error. Its length stays where the file system knows holes, so that nobody who has it
//! mapped gets SIGBUS. Before that, salvage makes room: see [`Engine::with_room`].
//!
//! A version that is written in place is what it is on any file system: the program gets the error.

use std::io::{self, ErrorKind};

use polystore::disk::Disk;
use rustix::io::Errno;

use super::Engine;
use super::draft::{Draft, Phase};
use super::process::Processes;

/// How much room a disk may have, beyond what is asked for, and still be full: what a file system keeps for
/// itself, or counts late.
const SLACK: u64 = 4 << 20;

/// How the content of a draft is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Content is written.
    Write,
    /// Content is copied from another file, or another place, by the system.
    Copy,
    /// The length is set.
    Cut,
    /// Space is reserved, and perhaps the file extended over it; what there is stays.
    Reserve,
    /// A range is punched, zeroed, inserted or removed.
    Reshape,
}

/// Whether there was no space, on the disk or for the user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::WriteZero
    )
}

/// Whether the system says that it does not do such a thing, before it has done any of it.
fn is_refusal(change: Change, error: &io::Error) -> bool {
    let refused = match Errno::from_io_error(error) {
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::BADF | Errno::TXTBSY) => true,
        Some(Errno::XDEV) => change == Change::Copy,
        Some(Errno::FBIG) => change != Change::Copy,
        _ => false,
    };
    refused && change != Change::Write
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Changes the content of `draft` up to byte `end` by `work`, and decides what it means if that fails.
    ///
    /// # Errors
    /// Those of `work`; that which has spent the draft.
    pub fn change(
        &self,
        draft: &Draft<D>,
        (change, end): (Change, u64),
        work: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        // Nobody else may change what is to be compared, and perhaps cut off.
        let compares = matches!(change, Change::Cut | Change::Reserve);
        let (shared, alone) = match compares {
            true => (None, Some(draft.alone())),
            false => (Some(draft.changing()), None),
        };
        draft.check_unspent()?;
        let before = match compares {
            true => Some(self.disk.stat_file(&draft.file)?.len),
            false => None,
        };
        let done = work();
        // What is published is written in place, by others, too: nothing of it is taken back.
        let lost = match &done {
            Err(error) if draft.phase() != Phase::Published => {
                !self.is_unchanged(draft, change, before, error)
            }
            _ => false,
        };
        drop((shared, alone));
        match &done {
            Ok(()) => self.wrote(draft, end),
            Err(error) if lost => {
                draft.note_written(end);
                self.lose(draft, error);
            }
            Err(_) => {}
        }
        done
    }

    /// Cuts or extends `draft`.
    ///
    /// # Errors
    /// Those of the disk, and of [`change`](Self::change).
    pub fn cut(&self, draft: &Draft<D>, len: u64) -> io::Result<()> {
        let set_len = || self.disk.set_len(&draft.file, len);
        self.change(draft, (Change::Cut, len), set_len)
    }

    /// Whether `draft` is what it was before a change failed, if need be after that was taken back.
    fn is_unchanged(
        &self,
        draft: &Draft<D>,
        change: Change,
        before: Option<u64>,
        error: &io::Error,
    ) -> bool {
        let Some(before) = before else {
            return is_refusal(change, error);
        };
        let is_as_before = || {
            let now = self.disk.stat_file(&draft.file);
            now.is_ok_and(|stat| stat.len == before)
        };
        if change == Change::Cut {
            return is_refusal(change, error) && is_as_before();
        }
        // Behind the end there may be reserved space that the length does not show.
        if is_as_before() && !is_full(error) {
            return true;
        }
        self.disk.set_len(&draft.file, before).is_ok() && is_as_before()
    }

    /// Content of `draft` is lost by `error`: it will not be published.
    pub fn lose(&self, draft: &Draft<D>, error: &io::Error) {
        if draft.phase() == Phase::Published {
            return; // It was published meanwhile, and is written in place.
        }
        log::warn!("{}: write failed: {error}", draft.path.display());
        draft.poison(error);
        self.spend(draft);
    }

    /// Drops the content of `draft` if it failed for want of space: it would only keep the disk full.
    pub(super) fn spend(&self, draft: &Draft<D>) {
        if !draft.poisoned().is_some_and(|error| is_full(&error)) {
            return;
        }
        // Not while it is published.
        let _alone = draft.alone();
        if draft.phase() == Phase::Published || draft.is_spent() {
            return;
        }
        match self.disk.drop_content(&draft.file) {
            Ok(()) => draft.set_spent(),
            Err(error) => log::warn!("{}: not emptied: {error}", draft.path.display()),
        }
    }

    /// Does `work`, which needs `bytes` of space, and again without the oldest of salvage as long as the disk is
    /// full; `spare` gives back what is not salvage. Nothing of salvage is dropped where all of it would not be
    /// enough, nor where there is space.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_room<T>(
        &self,
        bytes: u64,
        spare: impl Fn() -> bool,
        mut work: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        // What a reservation has taken before it failed counts as there: it is given back.
        let at_first = match bytes > SLACK {
            true => self.available(),
            false => None,
        };
        let mut may_fit = None;
        loop {
            match work() {
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    if spare() {
                        continue;
                    }
                    let Some(salvage) = &self.salvage else {
                        return Err(error);
                    };
                    let now = self.available();
                    let may_fit = *may_fit.get_or_insert_with(|| {
                        let most = now.max(at_first);
                        most.is_none_or(|most| most.saturating_add(salvage.total()) >= bytes)
                    });
                    // Where there is space it is something else that is full.
                    let is_space = now.is_none_or(|now| now < bytes.saturating_add(SLACK));
                    if !may_fit || !is_space || !salvage.make_room() {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// How many bytes are left where salvage lies.
    fn available(&self) -> Option<u64> {
        let own = self.session.as_ref()?.own_dir();
        self.disk.available(own)
    }
}
