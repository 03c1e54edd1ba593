//! Taking a mount away.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::abandoned;
use super::holders;
use super::mountinfo::{self, Entry};
use super::mountpoint::resolve;
use super::preflight::fusermount;
use super::serving::Server;
use crate::{Failure, quote};

/// How long `polystore unmount` waits for the process that served the mount to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long those who waited in a mount whose process hung may take to leave it.
const LEAVING: Duration = Duration::from_secs(3);

/// What to do about those who use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Fail with `ResourceBusy`.
    Plain,
    /// Let them keep what they have open; the mount vanishes from the tree now and ends with the
    /// last of them.
    Detach,
}

/// Unmounts what is mounted at `path`, as root or as the ordinary user who mounted it.
pub fn take(path: &Path, how: How) -> io::Result<()> {
    let flags = match how {
        How::Plain => UnmountFlags::NOFOLLOW,
        How::Detach => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(path, flags) {
        Err(Errno::PERM) => take_as_user(path, how),
        other => Ok(other?),
    }
}

fn take_as_user(path: &Path, how: How) -> io::Result<()> {
    let program = fusermount().ok_or_else(|| io::Error::other("fusermount3 is not installed"))?;
    let output = Command::new(&program)
        .arg("-u")
        .args((how == How::Detach).then_some("-z"))
        .arg("--")
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", quote::path(&program)))
        })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim_end();
    Err(if message.contains("Device or resource busy") {
        Errno::BUSY.into()
    } else if message.is_empty() {
        io::Error::other(format!("{}: {}", quote::path(&program), output.status))
    } else {
        io::Error::other(quote::text(message))
    })
}

/// `polystore unmount MOUNTPOINT`.
pub fn command(mountpoint: &Path) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::new(format!("{}: {error}", quote::path(mountpoint)));
    let path = resolve(mountpoint).map_err(fail)?;
    let entry = mountinfo::mount_at(&path)
        .map_err(fail)?
        .ok_or_else(|| Failure::new(nothing_there(&path)))?;
    if !entry.is_polystore() {
        return Err(Failure::new(format!(
            "{}: is not a polystore mount but a {} mount of {}",
            quote::path(&path),
            entry.kind,
            quote::path(&entry.source)
        )));
    }
    // Asked while the mount is there: afterwards its device number may be another's.
    let server = Server::of(&entry);
    if server.is_none() && abandoned::end(&entry, &path).map_err(fail)? {
        return take_abandoned(&path, &entry);
    }
    take(&path, How::Plain).map_err(|error| refusal(&path, &entry, &error))?;
    let Some(server) = server else { return Ok(()) };
    let pid = server.pid;
    if !server.wait(PATIENCE) {
        return Err(Failure::new(format!(
            "{}: is unmounted, but its process {pid} has not put everything in place yet",
            quote::path(&path)
        )));
    }
    Ok(())
}

/// Unmounts what was ended by force, which may have unmounted it already. Those who waited in it are let go, and
/// need a moment to leave.
fn take_abandoned(path: &Path, entry: &Entry) -> Result<(), Failure> {
    let deadline = Instant::now() + LEAVING;
    loop {
        match mountinfo::mount_at(path) {
            Ok(Some(there)) if there.id == entry.id => {}
            _ => return Ok(()),
        }
        match take(path, How::Plain) {
            Ok(()) => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(refusal(path, entry, &error)),
        }
    }
}

fn nothing_there(path: &Path) -> String {
    let shown = quote::path(path);
    match mountinfo::mount_of(path) {
        Ok(Some(entry)) if entry.is_polystore() => format!(
            "{shown}: is not mounted itself, it is in the polystore mount {}",
            quote::path(&entry.mountpoint)
        ),
        Err(error) => format!("{shown}: {error}"),
        _ => format!("{shown}: nothing is mounted there"),
    }
}

fn refusal(path: &Path, entry: &Entry, error: &io::Error) -> Failure {
    let path = quote::path(path);
    if error.kind() != io::ErrorKind::ResourceBusy {
        return Failure::new(format!("{path}: cannot be unmounted: {error}"));
    }
    Failure::new(match holders::of(entry.id) {
        Some(holders) => format!("{path}: is busy: used by {holders}"),
        None => format!("{path}: is busy"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_cannot_be_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let message = command(directory.path()).unwrap_err().to_string();
        assert!(message.contains("nothing is mounted there"), "{message}");
        let message = command(&directory.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("No such file"), "{message}");
        assert!(take(directory.path(), How::Plain).is_err());
    }

    #[test]
    fn other_file_systems_are_left_alone() {
        let message = command(Path::new("/proc")).unwrap_err().to_string();
        assert!(
            message.contains("is not a polystore mount but a proc mount"),
            "{message}"
        );
    }
}
