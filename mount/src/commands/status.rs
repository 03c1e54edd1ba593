//! `polystore status`.

mod plain;
mod show;

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use polystore_mount::control::{ControlError, StatusReply, read_reply};

use super::client::Mount;
use super::place::failed;
use crate::cli::StatusArgs;
use crate::{Failure, complain, locate, quote};

/// Moves to the corner of the terminal and clears it.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

const REQUEST: &str = "{\"op\":\"status\"}\n";

/// Runs `polystore status`.
pub fn command(args: &StatusArgs) -> Result<(), Failure> {
    let Some(interval) = args.watch else {
        let text = once(args)?.text;
        return print(&text).map(drop);
    };
    watch(args, interval)
}

/// What there is to see.
struct Seen {
    text: Vec<u8>,
    /// Where the mount is.
    mountpoint: Option<String>,
}

/// Shows it until the reader or the mount has gone.
fn watch(args: &StatusArgs, interval: Duration) -> Result<(), Failure> {
    let clear = !args.json && io::stdout().is_terminal();
    let mut mountpoint: Option<String> = None;
    loop {
        let seen = match once(args) {
            Err(_) if mountpoint.is_some() => None,
            seen => {
                Some(seen?).filter(|seen| mountpoint.is_none() || seen.mountpoint == mountpoint)
            }
        };
        let Some(seen) = seen else {
            complain(&format!(
                "the mount at {} is gone",
                mountpoint.unwrap_or_default()
            ));
            return Ok(());
        };
        let mut text = match clear {
            true => CLEAR.to_vec(),
            false if mountpoint.is_some() && !args.json => b"\n".to_vec(),
            false => Vec::new(),
        };
        text.extend(seen.text);
        if !print(&text)? {
            return Ok(());
        }
        mountpoint = seen.mountpoint;
        thread::sleep(interval);
    }
}

fn once(args: &StatusArgs) -> Result<Seen, Failure> {
    let dir = args.dir.canonicalize().map_err(failed(&args.dir))?;
    let shown = quote::path(&args.dir);
    let fail =
        |error: ControlError| Failure::new(format!("{shown}: {}", quote::text(&error.message)));
    match Mount::of(&dir).map_err(fail)? {
        Some(mount) => of_mount(&mount, args.json).map_err(fail),
        None => of_directory(args),
    }
}

fn of_mount(mount: &Mount, json: bool) -> Result<Seen, ControlError> {
    let line = mount.ask_for_line(REQUEST)?;
    let status: StatusReply = read_reply(&line)?;
    let text = match json {
        true => quote::json(&String::from_utf8_lossy(&line))
            .into_owned()
            .into_bytes(),
        false => show::status(mount, &status).into_bytes(),
    };
    Ok(Seen {
        text,
        mountpoint: Some(quote::path(&mount.mountpoint)),
    })
}

fn of_directory(args: &StatusArgs) -> Result<Seen, Failure> {
    let directory = plain::Directory::look(&locate::data(&args.dir)?).map_err(failed(&args.dir))?;
    let text = match args.json {
        true => quote::json(&format!("{}\n", directory.json())).into_owned(),
        false => directory.text(),
    };
    Ok(Seen {
        text: text.into_bytes(),
        mountpoint: None,
    })
}

/// Whether there is still somebody to read it.
fn print(text: &[u8]) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("standard output: {error}"))),
    }
}
