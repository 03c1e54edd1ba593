//! The control channel of a mount, as its clients use it; `CONTROL.md` is the contract.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use polystore_mount::control::{CONTROL_DIR, CONTROL_FILE, Code, ControlError, read_reply};
use rustix::io::Errno;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::quote;
use crate::run::mountinfo::{self, Entry};

/// A directory in a mount.
pub struct Mount {
    /// Where the root of the mount is.
    pub mountpoint: PathBuf,
    /// The data directory, as whoever mounted it called it.
    pub data: PathBuf,
    /// From the root of the mount to the directory.
    below: PathBuf,
}

impl Mount {
    /// The mount that the directory `dir`, a canonical path, is in; `None` if it is in none.
    pub fn of(dir: &Path) -> Result<Option<Mount>, ControlError> {
        match mountinfo::mount_of(dir)?.filter(Entry::is_polystore) {
            Some(entry) => Mount::at(&entry, dir).map(Some),
            None => Ok(None),
        }
    }

    /// One that is nowhere, to show things with.
    #[cfg(test)]
    pub fn example(mountpoint: &str, data: &str) -> Mount {
        Mount {
            mountpoint: mountpoint.into(),
            data: data.into(),
            below: PathBuf::new(),
        }
    }

    fn at(entry: &Entry, dir: &Path) -> Result<Mount, ControlError> {
        let lost = || {
            let shown = quote::path(dir);
            ControlError::new(
                Code::NoEntry,
                format!("{shown} cannot be found in its mount"),
            )
        };
        // What is mounted here may be a directory of it (mount --bind), which has no control channel.
        let root = entry.root.strip_prefix("/").map_err(|_| lost())?;
        let below = root.join(dir.strip_prefix(&entry.mountpoint).map_err(|_| lost())?);
        let whole = match entry.root == Path::new("/") {
            true => entry.clone(),
            false => whole_of(entry)?,
        };
        Ok(Mount {
            mountpoint: whole.mountpoint,
            data: whole.source,
            below,
        })
    }

    /// The living mount of a data directory that the directory `dir`, a canonical path, is in.
    pub fn serving(dir: &Path) -> io::Result<Option<Mount>> {
        let entries = mountinfo::all()?.into_iter().filter(|entry| {
            entry.is_polystore() && entry.root == Path::new("/") && is_reachable(entry)
        });
        let with_path = entries.filter_map(|entry| {
            let below = dir.strip_prefix(&entry.source).ok()?.to_owned();
            Some(Mount {
                mountpoint: entry.mountpoint,
                data: entry.source,
                below,
            })
        });
        // The innermost data directory.
        Ok(with_path.min_by_key(|mount| mount.below.components().count()))
    }

    /// The path of `name` in this directory, as requests have it.
    pub fn path_of(&self, name: &OsStr) -> Result<String, ControlError> {
        let path = self.below.join(name).into_os_string().into_string();
        path.map_err(|_| ControlError::invalid("the control channel takes names in UTF-8 only"))
    }

    /// Sends a request and returns the reply.
    pub fn ask<T: DeserializeOwned>(&self, request: &str) -> Result<T, ControlError> {
        read_reply(&self.ask_for_line(request)?)
    }

    /// Sends a request and returns the reply as it came, with its newline.
    pub fn ask_for_line(&self, request: &str) -> Result<Vec<u8>, ControlError> {
        loop {
            // Opened for each request: a descriptor that stays open keeps a mount busy.
            let channel = self.open()?;
            let (sent, line) = exchange(&channel, request.as_bytes())?;
            // A signal that did not end this process ended the waiting for a turn: nothing was done.
            let interrupted = sent == Err(Errno::INTR)
                || read_reply::<IgnoredAny>(&line).is_err_and(|e| e.code == Code::Interrupted);
            match sent {
                _ if interrupted => {}
                // The reply says more than the number of the error.
                _ if !line.is_empty() => return Ok(line),
                Err(error) => return Err(io::Error::from(error).into()),
                Ok(()) => {
                    return Err(ControlError::new(
                        Code::BadMessage,
                        "the mount did not reply",
                    ));
                }
            }
        }
    }

    fn open(&self) -> Result<File, ControlError> {
        let path = self.mountpoint.join(CONTROL_DIR).join(CONTROL_FILE);
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.map_err(|error| {
            let shown = quote::path(&self.mountpoint);
            let explained = match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => format!(
                    "the mount at {shown} has no control channel: it was made by an older \
                     polystore; unmount it and mount it again"
                ),
                Some(libc::ENOTCONN | libc::ECONNABORTED) => {
                    format!("the mount at {shown} is dead; `polystore unmount` clears it")
                }
                _ => format!("the control channel of the mount at {shown}: {error}"),
            };
            ControlError::new(ControlError::from(error).code, explained)
        })
    }
}

/// The mount names the file by its path there; people, as they named it.
pub fn without_path(mut error: ControlError, path: &str) -> ControlError {
    let rest = error.message.strip_prefix(path);
    if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(": ")) {
        error.message = rest.to_owned();
    }
    error
}

/// Writes a request, which is executed in the last write(), and reads the reply.
fn exchange(channel: &File, request: &[u8]) -> io::Result<(Result<(), Errno>, Vec<u8>)> {
    let mut rest = request;
    loop {
        let written = match rustix::io::write(channel, rest) {
            Ok(written) => written,
            Err(error) => return Ok((Err(error), reply(channel)?)),
        };
        rest = rest.get(written..).unwrap_or_default();
        // The system hands a long request over in parts. If it fails with the last of them, the
        // write is short, and the rest must not be taken for another request.
        let line = reply(channel)?;
        if rest.is_empty() || written == 0 || !line.is_empty() {
            return Ok((Ok(()), line));
        }
    }
}

/// The reply to the last request; empty if that is not whole yet.
fn reply(channel: &File) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(channel).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// The mount of all that `entry` shows a part of.
fn whole_of(entry: &Entry) -> Result<Entry, ControlError> {
    let found = mountinfo::all()?.into_iter().find(|other| {
        other.device == entry.device && other.root == Path::new("/") && is_reachable(other)
    });
    found.ok_or_else(|| {
        let shown = quote::path(&entry.mountpoint);
        ControlError::new(
            Code::NoEntry,
            format!(
                "what is mounted at {shown} is a part of a mount whose root, where its control \
                 channel is, cannot be reached from here"
            ),
        )
    })
}

/// Whether the path of a mount leads to it, and not to what has been mounted over it.
fn is_reachable(entry: &Entry) -> bool {
    let node = mountinfo::node(&entry.mountpoint);
    node.is_ok_and(|node| node.mount_id == entry.id && node.is_root)
}
