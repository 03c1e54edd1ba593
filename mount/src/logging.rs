//! The log of `polystore mount`: lines on standard error or in a file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};
use polystore::disk;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Failure, quote};

/// The permission bits of a new log file, less the umask.
const MODE: Mode = Mode::from_bits_retain(0o644);

struct Logger {
    level: LevelFilter,
    /// `None`: standard error.
    file: Option<Mutex<File>>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    /// One write() for a line, so that lines of several processes in one file stay whole.
    /// A log that cannot be written must not stop the mount.
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = entry(record.level(), &record.args().to_string());
        match &self.file {
            None => {
                let _ = io::stderr().write_all(format!("polystore: {message}").as_bytes());
            }
            Some(file) => {
                let line = format!("{} {message}", quote::utc(SystemTime::now()));
                if let Ok(mut file) = file.lock() {
                    let _ = file.write_all(line.as_bytes());
                }
            }
        }
    }

    fn flush(&self) {}
}

/// One line, whatever the names hold that the message is about.
fn entry(level: Level, message: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    format!("{level}: {}\n", quote::line(message))
}

/// Starts the log. To be called once, before anything is logged.
pub fn start(level: LevelFilter, file: Option<&Path>) -> Result<(), Failure> {
    let file = match file {
        None => None,
        Some(path) => Some(Mutex::new(open(path).map_err(|error| {
            Failure::new(format!("log file {}: {error}", quote::path(path)))
        })?)),
    };
    log::set_max_level(level);
    // The log lives as long as the process.
    log::set_logger(Box::leak(Box::new(Logger { level, file })))
        .map_err(|error| Failure::new(format!("log: {error}")))
}

/// Opens a log file to append to it, or makes it. Where others may write, they may have put something there
/// that is not to be written to: a link, a FIFO, a file of theirs, another name of a file of ours.
fn open(path: &Path) -> io::Result<File> {
    let refused = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let disk::Found { dir, name, .. } = disk::find_unfollowed(path)?;
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, &name, flags, MODE) {
        // A FIFO that nobody reads, a socket, a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return refused("is not a regular file"),
        Err(Errno::LOOP) => return refused("is a symbolic link, which is not followed"),
        opened => opened?,
    };
    let known = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(known.st_mode) != FileType::RegularFile {
        return refused("is not a regular file");
    }
    if known.st_uid != rustix::process::geteuid().as_raw() {
        return refused(&format!("belongs to user {}", known.st_uid));
    }
    if known.st_nlink != 1 {
        return refused("has several names (hard links)");
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    #[test]
    fn no_name_can_forge_a_line() {
        let name = "x\n[error] forged \x1b[2J";
        assert_eq!(
            entry(Level::Warn, &format!("{name}: is odd")),
            "warning: x\\x0a[error] forged \\x1b[2J: is odd\n"
        );
    }

    #[test]
    fn only_an_own_regular_file_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        open(&path("new")).unwrap().write_all(b"one\n").unwrap();
        open(&path("new")).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(fs::read(path("new")).unwrap(), b"one\ntwo\n");
        let mode = fs::metadata(path("new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o644, 0);
        let refusal = |name: &str| open(&path(name)).unwrap_err().to_string();
        symlink("new", path("link")).unwrap();
        assert!(refusal("link").contains("symbolic link"));
        let fifo = std::process::Command::new("mkfifo")
            .arg(path("fifo"))
            .status();
        assert!(fifo.unwrap().success());
        assert!(refusal("fifo").contains("not a regular file"));
        let _reader = fs::File::options()
            .read(true)
            .write(true)
            .open(path("fifo"))
            .unwrap();
        assert!(refusal("fifo").contains("not a regular file"));
        assert!(open(Path::new("/dev/null")).is_err());
        assert!(open(directory.path()).is_err());
        fs::hard_link(path("new"), path("linked")).unwrap();
        assert!(refusal("linked").contains("several names"));
        if !crate::skipped::has_root() {
            return;
        }
        fs::write(path("theirs"), "").unwrap();
        chown(path("theirs"), Some(1234), None).unwrap();
        assert!(refusal("theirs").contains("belongs to user 1234"));
        // A link on the way.
        fs::create_dir(path("real")).unwrap();
        fs::create_dir(path("shared")).unwrap();
        fs::set_permissions(path("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("../real", path("shared/dir")).unwrap();
        lchown(path("shared/dir"), Some(1234), None).unwrap();
        assert!(refusal("shared/dir/log").contains("symbolic link of user 1234"));
        assert!(!path("real/log").exists());
    }
}
