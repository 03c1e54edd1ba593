//! Serving a mount in the background.

use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::Path;

use rustix::process::{Pid, WaitOptions, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::{Failure, complain, quote};

/// The first byte that the background process sends: it has mounted, or why it has not.
const READY: u8 = b'R';
const FAILED: u8 = b'F';

/// Tells the one who waits for the mount, if anybody does, that it is there.
pub struct Ready(Option<PipeWriter>);

impl Ready {
    /// Nobody waits.
    pub fn foreground() -> Ready {
        Ready(None)
    }

    /// The mount is there. In the background, lets go of the terminal. Fails if the one who
    /// waited has gone, and nobody would learn of the mount.
    pub fn tell(&mut self) -> io::Result<()> {
        let Some(mut pipe) = self.0.take() else {
            return Ok(());
        };
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        pipe.write_all(&[READY])?;
        // Last: until here there is somebody to read a message.
        Ok(dup2_stderr(&null)?)
    }
}

/// Runs `serve` in a background process of its own session. Returns when it has told that
/// `mountpoint` is ready and that answers, or with the reason why not.
///
/// Must be called before any thread is started.
pub fn launch(
    mountpoint: &Path,
    serve: impl FnOnce(&mut Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::new(format!("cannot start in the background: {error}"));
    let (reader, writer) = io::pipe().map_err(fail)?;
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(fail(io::Error::last_os_error())),
        0 => {
            drop(reader);
            std::process::exit(background(writer, serve));
        }
        child => {
            drop(writer);
            wait(reader, child, mountpoint)
        }
    }
}

/// The background process, from its first to its last step: its exit code.
fn background(pipe: PipeWriter, serve: impl FnOnce(&mut Ready) -> Result<(), Failure>) -> i32 {
    let mut ready = Ready(Some(pipe));
    let result = setsid()
        .and_then(|_| rustix::process::chdir("/"))
        .map_err(|error| Failure::new(format!("cannot start in the background: {error}")))
        .and_then(|()| serve(&mut ready));
    let Err(failure) = result else { return 0 };
    match ready.0 {
        Some(mut pipe) => {
            let message = [&[FAILED], failure.to_string().as_bytes()].concat();
            if pipe.write_all(&message).is_err() {
                complain(&failure.to_string());
            }
        }
        None => log::error!("{failure}"),
    }
    1
}

fn wait(mut reader: PipeReader, child: i32, mountpoint: &Path) -> Result<(), Failure> {
    let mut said = Vec::new();
    // READY comes alone and the pipe is closed right after it; a reason ends with its process.
    let read = reader.read_to_end(&mut said);
    let shown = quote::path(mountpoint);
    match (read, said.split_first()) {
        (Ok(_), Some((&READY, _))) => match fs::metadata(mountpoint) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new(format!(
                "{shown}: was mounted but does not answer: {error}"
            ))),
        },
        (Ok(_), Some((&FAILED, reason))) => {
            Err(Failure::new(String::from_utf8_lossy(reason).into_owned()))
        }
        (Err(error), _) => Err(Failure::new(format!("{shown}: {error}"))),
        _ => {
            let ended = Pid::from_raw(child)
                .and_then(|pid| waitpid(Some(pid), WaitOptions::empty()).ok().flatten());
            let how = match ended
                .map(|(_, status)| (status.exit_status(), status.terminating_signal()))
            {
                Some((Some(code), _)) => format!(" (exit code {code})"),
                Some((_, Some(signal))) => format!(" (signal {signal})"),
                _ => String::new(),
            };
            Err(Failure::new(format!(
                "{shown}: the process that was to serve it ended{how}"
            )))
        }
    }
}
