//! The log of `polystore mount`: lines on standard error or in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{Failure, quote};

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
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let message = format!("{level}: {}\n", record.args());
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

/// Starts the log. To be called once, before anything is logged.
pub fn start(level: LevelFilter, file: Option<&Path>) -> Result<(), Failure> {
    let file = match file {
        None => None,
        Some(path) => Some(Mutex::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| {
                    Failure::new(format!("log file {}: {error}", quote::path(path)))
                })?,
        )),
    };
    log::set_max_level(level);
    // The log lives as long as the process.
    log::set_logger(Box::leak(Box::new(Logger { level, file })))
        .map_err(|error| Failure::new(format!("log: {error}")))
}
