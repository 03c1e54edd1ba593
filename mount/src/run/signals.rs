//! Ending on SIGINT, SIGTERM and SIGHUP.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use super::holders;
use super::mountinfo::{self, Entry, Node};
use super::unmount::{self, How};
use crate::quote;

/// Signals that are kept until [`Caught::watch`] takes care of them.
pub struct Caught(Signals);

impl Caught {
    /// Catches the signals from now on. What the caller ignores (nohup, a shell's `&`) stays ignored.
    pub fn new() -> io::Result<Caught> {
        Signals::new(unless_ignored(&[SIGINT, SIGTERM, SIGHUP])).map(Caught)
    }

    /// At the first signal unmounts `mount`, at the second ends the process at once; at the first,
    /// if it is not known what there is to unmount.
    pub fn watch(mut self, mount: Option<Own>) -> io::Result<()> {
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut mount = mount;
                for signal in self.0.forever() {
                    let name = signal_name(signal).unwrap_or("a signal");
                    let Some(mount) = mount.take() else {
                        log::warn!("{name}: ending at once");
                        std::process::exit(128 + signal);
                    };
                    log::info!(
                        "{name}: unmounting {}",
                        quote::path(&mount.entry.mountpoint)
                    );
                    mount.leave();
                }
            })?;
        Ok(())
    }
}

/// The mount that this process serves.
#[derive(Clone, Debug)]
pub struct Own {
    /// How it was when it was made.
    pub entry: Entry,
    unique: Option<u64>,
}

impl Own {
    /// Remembers the mount whose root is `root`; `None` if that is none of polystore.
    pub fn new(root: &Node) -> Option<Own> {
        let entry = mountinfo::find(root.mount_id).ok().flatten()?;
        (root.is_root && entry.is_polystore()).then(|| Own {
            unique: root.unique_mount_id(),
            entry,
        })
    }

    /// Where it is now: a directory above it may have been renamed. `None` if it has gone, even
    /// if another mount has got its number or its place.
    fn mountpoint(&self) -> Option<PathBuf> {
        let now = mountinfo::find(self.entry.id).ok().flatten()?;
        let is_own = now.device == self.entry.device
            && now.is_polystore()
            && mountinfo::node(&now.mountpoint)
                .is_ok_and(|root| root.is_root && root.unique_mount_id() == self.unique);
        is_own.then_some(now.mountpoint)
    }

    /// Whether it still exists.
    pub fn is_there(&self) -> bool {
        self.mountpoint().is_some()
    }

    /// Unmounts it if it is there, or takes it out of the tree while somebody still uses it.
    /// The process ends when the kernel says that the mount is gone.
    pub fn leave(&self) {
        let Some(mountpoint) = self.mountpoint() else {
            return;
        };
        let Err(error) = unmount::take(&mountpoint, How::Plain) else {
            return;
        };
        let path = quote::path(&mountpoint);
        if error.kind() == io::ErrorKind::ResourceBusy {
            let by =
                holders::of(self.entry.id).map_or(String::new(), |who| format!(", used by {who}"));
            log::warn!("{path}: is busy{by}; detached, and ends with the last use");
        } else {
            log::warn!("{path}: {error}; trying to detach it");
        }
        if let Err(error) = unmount::take(&mountpoint, How::Detach) {
            log::error!("{path}: cannot be unmounted: {error}");
        }
    }
}

/// Those of `signals` that the caller of this program does not ignore.
pub fn unless_ignored(signals: &[i32]) -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    let is_ignored = |signal: &i32| ignored & (1 << (signal - 1)) != 0;
    signals
        .iter()
        .copied()
        .filter(|signal| !is_ignored(signal))
        .collect()
}

/// The mask of ignored signals in the text of /proc/self/status.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let status = "Name:\tsh\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001003\n";
        assert_eq!(ignored(status), 0x1003);
        assert_eq!(ignored(""), 0);
        // The Rust runtime ignores SIGPIPE.
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert_ne!(ignored(&own) & 1 << (libc::SIGPIPE - 1), 0);
    }
}
