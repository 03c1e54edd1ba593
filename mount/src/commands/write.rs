//! `polystore write`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tempfile::SpooledTempFile;

use super::NO_TURN;
use super::lock_file::LockFile;
use super::place::{Spot, failed, is_document_name};
use super::plain::{self, Way};
use super::turn::{NoTurn, Turn};
use crate::cli::WriteArgs;
use crate::{Failure, complain, quote};

/// What is kept in memory of standard input; the rest goes to a file without a name.
const IN_MEMORY: usize = 1 << 20;

/// How long a document's turn is waited for, as a mount has it.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(30);

/// How often a waiting open() is disturbed after its time: the first signal may have come too early.
const AGAIN: Duration = Duration::from_millis(50);

/// Runs `polystore write`.
pub fn command(args: &WriteArgs) -> Result<(), Failure> {
    let failed = failed(&args.file);
    let spot = Spot::of(&args.file).map_err(&failed)?;
    spot.known().map_err(&failed)?;
    let mount = spot.mount().map_err(&failed)?;
    if mount.is_some_and(|entry| entry.is_polystore()) {
        let mut content = soak_up()?;
        let file = open_in_turn(&spot, args.timeout).map_err(|refused| match refused {
            NoTurn::TimedOut(time) => late(&args.file, time),
            NoTurn::Failed(error) => failed(error),
        })?;
        return fill(file, &mut content).map_err(failed);
    }
    match plain::way(&spot).map_err(&failed)? {
        Way::Replaced => replace(args, &spot),
        Way::InPlace => write_in_place(args, &spot),
    }
}

/// Standard input, to its end.
fn soak_up() -> Result<SpooledTempFile, Failure> {
    let mut content = SpooledTempFile::new(IN_MEMORY);
    copy_input(&mut content)?;
    content
        .rewind()
        .map_err(|error| Failure::new(format!("temporary file: {error}")))?;
    Ok(content)
}

/// Copies standard input, and says which side an error is of.
fn copy_input(to: &mut dyn Write) -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::new(format!("standard input: {error}"))),
        };
        to.write_all(&buffer[..read]).map_err(|error| {
            Failure::new(format!(
                "what came from standard input cannot be kept: {error}"
            ))
        })?;
    }
}

/// In a directory that is not mounted, a file that has to stay the one that it is.
fn write_in_place(args: &WriteArgs, spot: &Spot) -> Result<(), Failure> {
    let failed = failed(&args.file);
    let mut content = soak_up()?;
    let len = content.seek(SeekFrom::End(0)).map_err(&failed)?;
    content.rewind().map_err(&failed)?;
    let _turn = turn_of(args, spot)?;
    plain::write_in_place(spot, &mut content, len).map_err(failed)
}

/// The turn at a lock file, or at a document that has one beside it.
fn turn_of(args: &WriteArgs, spot: &Spot) -> Result<Option<Turn>, Failure> {
    let failed = failed(&args.file);
    let lock = spot.lock_file().map_err(&failed)?;
    let patience = match spot.is_lock() {
        true => args.timeout,
        false if is_document_name(&spot.name) && lock.id().map_err(failed)?.is_some() => {
            args.timeout.or(Some(DOCUMENT_PATIENCE))
        }
        false => return Ok(None),
    };
    take(&args.file, &lock, patience).map(Some)
}

/// In a directory that is not mounted: staged beside the old version while it comes, then put in its
/// place. A lock file is waited for where there is one, and not made.
fn replace(args: &WriteArgs, spot: &Spot) -> Result<(), Failure> {
    // Its own messages name the file.
    let told = |error: io::Error| Failure::new(quote::text(&error.to_string()));
    let mut file = plain::stage(spot).map_err(told)?;
    copy_input(&mut file)?;
    let _turn = turn_of(args, spot)?;
    file.commit().map_err(told)
}

/// The turn at `file`, for which `lock` is locked.
fn take(file: &Path, lock: &LockFile, patience: Option<Duration>) -> Result<Turn, Failure> {
    Turn::take(lock, false, patience).map_err(|refused| match refused {
        NoTurn::TimedOut(time) => late(file, time),
        NoTurn::Failed(_) => Failure::new(refused.explain(lock)),
    })
}

fn late(path: &Path, waited: Duration) -> Failure {
    let shown = quote::path(path);
    let text = match waited.is_zero() {
        true => format!("{shown}: somebody else has the turn"),
        false => format!("{shown}: the turn did not come in {waited:?}"),
    };
    Failure::with_code(text, NO_TURN)
}

/// Writes a file of a mount, as any program does: what that means, the mount knows.
fn fill(mut file: File, content: &mut SpooledTempFile) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => file.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // Closing the file would publish the half of it.
                complain(&format!("temporary file: {error}"));
                std::process::abort();
            }
        }
    }
    close(file)
}

/// Opens a file to rewrite it, which in a mount may have to wait for its turn.
fn open_in_turn(spot: &Spot, timeout: Option<Duration>) -> Result<File, NoTurn> {
    let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    flags |= OFlags::NOFOLLOW | OFlags::NOCTTY;
    if timeout == Some(Duration::ZERO) {
        flags |= OFlags::NONBLOCK;
    }
    let start = Instant::now();
    let waits = timeout.filter(|time| !time.is_zero());
    let alarm = waits.map(Alarm::set).transpose().map_err(NoTurn::Failed)?;
    let over = || alarm.as_ref().is_some_and(Alarm::has_rung);
    loop {
        // Not through `std`, which would go on waiting after a signal.
        match rustix::fs::openat(&*spot.handle, &spot.name, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::INTR | Errno::TIMEDOUT) if over() => {
                return Err(NoTurn::TimedOut(timeout.unwrap_or_default()));
            }
            // Of another signal; or the mount's patience ended before ours.
            Err(Errno::INTR) => {}
            Err(Errno::TIMEDOUT) if alarm.is_some() => {}
            Err(Errno::TIMEDOUT) => {
                let waited = start.elapsed().as_secs();
                return Err(NoTurn::TimedOut(Duration::from_secs(waited)));
            }
            Err(Errno::WOULDBLOCK) if timeout.is_some() => {
                return Err(NoTurn::TimedOut(Duration::ZERO));
            }
            Err(error) => return Err(NoTurn::Failed(error.into())),
        }
    }
}

/// Ends an open() that waits, by a signal. A thread that waits in its place could not be left behind:
/// if its turn came while the process ends, the file would be emptied.
struct Alarm(Arc<AtomicBool>);

impl Alarm {
    fn set(time: Duration) -> io::Result<Alarm> {
        let rung = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGALRM, rung.clone())?;
        // Zero would switch the timer off.
        set_timer(time.max(Duration::from_micros(1)), AGAIN)?;
        Ok(Alarm(rung))
    }

    fn has_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let _ = set_timer(Duration::ZERO, Duration::ZERO);
    }
}

fn set_timer(first: Duration, again: Duration) -> io::Result<()> {
    let timeval = |time: Duration| libc::timeval {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: time.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_value: timeval(first),
        it_interval: timeval(again),
    };
    // SAFETY: `timer` is valid for reading during the call, and nothing is asked to be written back.
    match unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes a file, and says if that fails: then it was not published.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and `into_raw_fd` has left it to nobody else.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_reports_and_alarms_ring() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let spot = Spot::of(&path).unwrap();
        let file = open_in_turn(&spot, Some(Duration::from_secs(5))).unwrap();
        close(file).unwrap();
        let alarm = Alarm::set(Duration::from_millis(10)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !alarm.has_rung() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
