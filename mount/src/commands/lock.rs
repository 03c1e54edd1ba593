//! `polystore lock`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::NO_TURN;
use super::place::Spot;
use super::turn::{NoTurn, Turn};
use crate::cli::LockArgs;
use crate::run::signals::unless_ignored;
use crate::{Failure, quote};

/// The exit codes of env(1), nice(1), timeout(1) and others that run a command.
const FAILED: u8 = 125;
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs `polystore lock`; the exit code is the command's.
pub fn command(args: LockArgs) -> Result<u8, Failure> {
    let failed = |error: io::Error| {
        Failure::with_code(format!("{}: {error}", quote::path(&args.file)), FAILED)
    };
    let file = Spot::of(&args.file).and_then(|spot| spot.lock_file());
    let file = file.map_err(failed)?;
    let patience = match args.nonblock {
        true => Some(Duration::ZERO),
        false => args.timeout,
    };
    // Signals end the waiting, as they end any program.
    let turn = Turn::take(&file, args.shared, patience).map_err(|refused| {
        let code = match refused {
            NoTurn::TimedOut(_) => NO_TURN,
            NoTurn::Failed(_) => FAILED,
        };
        Failure::with_code(refused.explain(&file), code)
    })?;
    // Who only shares it cannot pass it on.
    let passport = match args.shared {
        true => None,
        false => Some(turn.passport().map_err(failed)?),
    };
    // Who ends this process by force (or for want of memory) does not end the command: the turn is its until then.
    turn.bequeath().map_err(failed)?;
    let variable = passport.as_ref().map(|passport| &passport.variable);
    let status = run(&args.command, variable)?;
    drop(turn);
    Ok(exit_code(status))
}

fn run(
    line: &[OsString],
    passport: Option<&(&'static str, String)>,
) -> Result<ExitStatus, Failure> {
    let (program, arguments) = line
        .split_first()
        .ok_or_else(|| Failure::with_code("no command", FAILED))?;
    let failed = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_RUN,
        };
        Failure::with_code(
            format!("{}: {error}", quote::path(Path::new(program))),
            code,
        )
    };
    let mut signals = Signals::new(unless_ignored(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP]))
        .map_err(|error| Failure::with_code(format!("signals: {error}"), FAILED))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(passport.map(|(name, value)| (name, value)));
    // One that came just before it would be lost.
    if let Some(signal) = signals.pending().next() {
        return Ok(ExitStatus::from_raw(signal));
    }
    let mut child = command.spawn().map_err(failed)?;
    pass_on(signals, &child);
    child.wait().map_err(failed)
}

/// From now on signals do not end this process, which would give the turn up while the command runs.
/// They are passed on to the command, unless it has got them itself.
fn pass_on(mut signals: Signals, child: &Child) {
    // A number may be another process's by the time when the signal comes.
    let Ok(command) = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())
    else {
        return;
    };
    let forward = move || {
        for signal in signals.forever() {
            let from_terminal = [SIGINT, SIGQUIT].contains(&signal) && in_foreground();
            if !from_terminal {
                send(&command, signal);
            }
        }
    };
    // Without a thread the signals are kept from both, and the command runs to its end.
    let _ = thread::Builder::new().name("signals".into()).spawn(forward);
}

fn send(command: &OwnedFd, number: i32) {
    if let Some(signal) = Signal::from_named_raw(number) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(command, signal);
    }
}

/// Whether this process group is the one that Ctrl-C on its terminal is for: then the command
/// has got it, too.
fn in_foreground() -> bool {
    std::fs::File::open("/dev/tty")
        .and_then(|terminal| Ok(rustix::termios::tcgetpgrp(terminal)?))
        .is_ok_and(|group| group == rustix::process::getpgrp())
}

/// As shells say it: 128 and the signal for a command that was ended by one.
fn exit_code(status: ExitStatus) -> u8 {
    let signal = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(signal).unwrap_or(FAILED.into());
    u8::try_from(code).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let code = |raw| exit_code(ExitStatus::from_raw(raw));
        assert_eq!(code(0), 0);
        assert_eq!(code(7 << 8), 7);
        assert_eq!(code(255 << 8), 255);
        assert_eq!(code(9), 137);
        assert_eq!(code(11 | 0x80), 139, "with a core dump");
    }
}
