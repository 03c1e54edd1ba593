//! Runs a program while holding a lock, as flock(1) does:
//! `cargo run --example turn -- job.lock 5 sleep 1` waits at most 5 seconds for its turn.

use std::env;
use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::Duration;

use polystore::{LockOptions, file_lock};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, seconds, program, rest @ ..] = arguments.as_slice() else {
        return Err("usage: turn LOCKFILE SECONDS PROGRAM [ARGUMENT]...".into());
    };
    let timeout = Duration::from_secs_f64(seconds.parse()?);
    let turn = match file_lock(path, &LockOptions::new().timeout(timeout)) {
        Err(error) if error.timeout().is_some() => {
            eprintln!("{error}");
            return Ok(ExitCode::from(75));
        }
        other => other?,
    };
    let status = Command::new(program).args(rest).status()?;
    turn.release()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
