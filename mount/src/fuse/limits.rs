//! What this process may use: as many descriptors as the system grants, files of any length, and no
//! more of the disk than the users that it writes for (see `credentials.rs`, too).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::pool::MOST_THREADS;
use crate::shares::Rule;

/// How many descriptors are asked for; systems grant less.
const DESCRIPTORS: u64 = 1 << 20;

/// How many the mount keeps for its own needs where there are enough, and the part of them that it keeps
/// where there are few.
const OWN: usize = 2048;
const OWN_PART: usize = 4;

/// What is always open: the kernel's side, the directories of the mount, the log, signals.
const ALWAYS: usize = 32;

/// How many descriptors a thread of the pool has open for a moment at most: three of an edit that is cut by
/// its path, one to look at a process.
const OF_A_THREAD: usize = 4;

/// How many directories are kept open at most, see [`Tree::dir`](super::tree::Tree::dir).
const DIRECTORIES: usize = 512;

/// How many superseded versions are kept at most.
const SUPERSEDED: usize = 256;

/// What each user may have of the descriptors in any case: enough for a copy of a directory, at least.
const FLOOR: std::ops::RangeInclusive<usize> = 8..=256;

/// How what the system grants is divided. A quarter, 2048 at most, is for the mount's own needs, so that
/// what was opened can be written, closed and published however much users have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors for what users have open.
    pub users: usize,
    /// Directories that are kept open.
    pub directories: usize,
    /// Superseded versions that are kept.
    pub superseded: usize,
    /// Threads of the pool.
    pub threads: usize,
}

impl Limits {
    /// With this many descriptors in all.
    fn new(descriptors: usize) -> Limits {
        let own = (descriptors / OWN_PART).min(OWN);
        Limits {
            users: descriptors.saturating_sub(own + ALWAYS),
            directories: (own / 4).clamp(1, DIRECTORIES),
            superseded: (own / 8).clamp(1, SUPERSEDED),
            threads: (own / 2 / OF_A_THREAD).clamp(2, MOST_THREADS),
        }
    }

    /// How users share the descriptors.
    pub fn shares(&self, owner: u32, alone: bool) -> Rule {
        let floor = (self.users / 64).clamp(*FLOOR.start(), *FLOOR.end());
        Rule::new(self.users, floor, owner, alone)
    }
}

/// Call it before other threads are started: they inherit what it sets.
pub fn prepare() -> Limits {
    raise_descriptor_limit();
    allow_long_files();
    if let Err(error) = give_up_reserved_blocks() {
        log::debug!("CAP_SYS_RESOURCE stays: {error}");
    }
    let granted = getrlimit(Resource::Nofile).current;
    let granted = granted.map_or(DESCRIPTORS, |granted| granted.min(DESCRIPTORS));
    let limits = Limits::new(granted as usize);
    log::debug!("{granted} descriptors: {limits:?}");
    limits
}

/// The limit on file sizes of whoever started this process is not that of those it writes for,
/// and its signal (SIGXFSZ) would end the mount: a write that is too long is EFBIG.
fn allow_long_files() {
    let limit = getrlimit(Resource::Fsize);
    let _ = setrlimit(
        Resource::Fsize,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS);
    // Root may raise the hard limit, too; where that fails, what is granted is used.
    for wanted in [DESCRIPTORS.max(most), most] {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: Some(wanted),
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return;
        }
    }
}

/// Gives the system back what many small things took that are gone: the C library keeps it otherwise.
pub fn give_back_memory() {
    // SAFETY: the call takes a number only; the allocator's own locks make it safe beside others.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Without CAP_SYS_RESOURCE this process gets EDQUOT and ENOSPC where the users that it writes for would.
fn give_up_reserved_blocks() -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
    sets.inheritable.remove(CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_enough_for_what_the_mount_needs() {
        for descriptors in [64, 128, 256, 400, 1024, 4096, 65_536, 1 << 20] {
            let limits = Limits::new(descriptors);
            let own = limits.directories + limits.superseded + limits.threads * OF_A_THREAD;
            assert!(
                own + ALWAYS + limits.users <= descriptors,
                "{descriptors}: {limits:?}"
            );
        }
        let many = Limits::new(1 << 20);
        let threads = (many.directories, many.superseded, many.threads);
        assert_eq!(threads, (DIRECTORIES, SUPERSEDED, MOST_THREADS));
        assert!(many.users > 1_000_000);
    }
}
