//! What has happened: counters, and failures that no close could report.

use std::collections::VecDeque;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use super::unpoisoned;
use crate::shares::oldest_of_most;

/// How many failures are remembered; the oldest of whoever has most of them are forgotten first.
pub const MOST_FAILURES: usize = 256;

/// A failure that no program was told of, because it came after its last close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The file, from the root of the mount.
    pub path: PathBuf,
    /// When it was noticed.
    pub when: SystemTime,
    /// What could not be done, and why.
    pub message: String,
    /// The user whose file it was.
    pub uid: u32,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often what has happened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files that were opened for writing.
    pub opened: Counter,
    /// Versions that were published.
    pub published: Counter,
    /// Drafts that were dropped.
    pub discarded: Counter,
    /// Those of them that are kept in salvage.
    pub salvaged: Counter,
    /// Failures that are, or were, in the list.
    pub failed: Counter,
    /// Documents that were updated by request.
    pub updates: Counter,
    /// Turns that were had.
    pub turns: Counter,
    /// Those of them that were waited for.
    pub turns_waited: Counter,
    /// Turns that did not come in time.
    pub turns_timed_out: Counter,
}

/// What has happened since the mount began.
#[derive(Debug)]
pub struct Ledger {
    /// How often what.
    pub counters: Counters,
    /// When the mount began.
    pub began: Instant,
    failures: Mutex<VecDeque<Failure>>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            counters: Counters::default(),
            began: Instant::now(),
            failures: Mutex::default(),
        }
    }
}

impl Ledger {
    /// Notes, and logs, that something failed of which the program that wrote `path`, a process of user
    /// `uid`, does not hear any more.
    pub fn note(&self, path: &Path, uid: u32, message: impl Display) {
        log::error!("{}: {message}", path.display());
        self.counters.failed.one();
        let mut failures = unpoisoned(&self.failures);
        if failures.len() >= MOST_FAILURES
            && let Some(oldest) = oldest_of_most(failures.iter().map(|failure| failure.uid))
        {
            failures.remove(oldest);
        }
        failures.push_back(Failure {
            path: path.to_owned(),
            when: SystemTime::now(),
            message: message.to_string(),
            uid,
        });
    }

    /// The latest failures, oldest first.
    pub fn failures(&self) -> Vec<Failure> {
        unpoisoned(&self.failures).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_failures_are_forgotten_first() {
        let ledger = Ledger::default();
        for number in 0..MOST_FAILURES + 3 {
            ledger.note(Path::new("f"), 7, number);
        }
        let failures = ledger.failures();
        assert_eq!(failures.len(), MOST_FAILURES);
        assert_eq!((failures[0].message.as_str(), failures[0].uid), ("3", 7));
        assert_eq!(ledger.counters.failed.get(), MOST_FAILURES as u64 + 3);
    }

    #[test]
    fn one_users_failures_do_not_drive_out_anothers() {
        let ledger = Ledger::default();
        ledger.note(Path::new("first"), 8, "of another");
        for number in 0..MOST_FAILURES * 2 {
            ledger.note(Path::new("f"), 7, number);
        }
        assert_eq!(ledger.failures().len(), MOST_FAILURES);
        assert_eq!(ledger.failures()[0].uid, 8);
    }
}
