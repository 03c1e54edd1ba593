//! The `polystore` command.

mod cli;
mod locate;
mod logging;
mod quote;
mod run;
mod salvage_cmd;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Why a command failed, ready to be printed: it names the path and the cause.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure that `message` explains.
    pub fn new(message: impl Into<String>) -> Self {
        Failure(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let result = match cli.command {
        cli::Command::Mount(args) => run::mount(args),
        cli::Command::Unmount(args) => run::unmount::command(&args.mountpoint),
        cli::Command::Salvage(args) => salvage_cmd::command(args),
        cli::Command::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Prints a message of the command itself; a closed standard error is no reason to fail.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "polystore: {message}");
}

/// Writes to standard output. A reader that went away (`| head`) has what it wanted.
fn output(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::Cli::command(), "polystore", &mut script);
    output(&script)
}
