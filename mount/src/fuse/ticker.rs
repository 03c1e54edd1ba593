//! What has to be looked at from time to time: promises that nobody keeps, waiters that got a
//! signal, drafts that have become old, superseded versions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fs::Fs;
use crate::engine::draft::Phase;

/// How soon a waiter's signal is noticed.
const WHILE_WAITING: Duration = Duration::from_millis(50);

/// How often the rest is looked at.
const OTHERWISE: Duration = Duration::from_millis(250);

/// The thread that looks; it ends when this is dropped.
pub struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts looking after `fs`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(fs: &Arc<Fs>) -> std::io::Result<Ticker> {
        let (stop, stopped) = channel();
        let fs = Arc::downgrade(fs);
        let thread = std::thread::Builder::new()
            .name("ticker".to_owned())
            .spawn(move || run(&fs, &stopped))?;
        Ok(Ticker {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of it has been logged.
        }
    }
}

fn run(fs: &Weak<Fs>, stopped: &Receiver<()>) {
    let mut pause = OTHERWISE;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Some(fs) = fs.upgrade() else { return };
        let round = catch_unwind(AssertUnwindSafe(|| {
            for promised in fs.promises.expired() {
                fs.promise_broken(&promised);
            }
            fs.tree.forget_superseded();
            fs.second_looks.forget_old();
        }));
        if round.is_err() {
            log::error!("a round of upkeep panicked");
        }
        let old = fs.engine.old_drafts();
        if !old.is_empty() {
            fs.aside(move |fs| {
                for draft in old.iter().filter(|draft| draft.phase() == Phase::Private) {
                    fs.engine.secure(draft);
                }
            });
        }
        pause = if fs.locks.anyone_waiting() {
            fs.locks.look_for_signals(&fs.engine.processes);
            WHILE_WAITING
        } else {
            OTHERWISE
        };
    }
}
