//! The `polystore` command.

mod cli;
mod commands;
mod locate;
mod logging;
mod quote;
mod run;
#[cfg(test)]
#[path = "../../tests/support/skipped.rs"]
mod skipped;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Why a command failed, ready to be printed: it names the path and the cause.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure that `message` explains.
    pub fn new(message: impl Into<String>) -> Self {
        Failure::with_code(message, 1)
    }

    /// A failure that ends the program with an exit code of its own.
    pub fn with_code(message: impl Into<String>, code: u8) -> Self {
        Failure {
            message: message.into(),
            code,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = |()| 0;
    let result = match cli.command {
        cli::Command::Mount(args) => run::mount(args).map(done),
        cli::Command::Unmount(args) => run::unmount::command(&args.mountpoint).map(done),
        cli::Command::Status(args) => commands::status::command(&args).map(done),
        cli::Command::Lock(args) => commands::lock::command(args),
        cli::Command::Write(args) => commands::write::command(&args).map(done),
        cli::Command::Update(args) => commands::update::command(&args).map(done),
        cli::Command::Publish(args) => commands::publish::command(&args).map(done),
        cli::Command::Salvage(args) => commands::salvage::command(args).map(done),
        cli::Command::Completions { shell } => completions(shell).map(done),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a message of the command itself; a closed standard error is no reason to fail.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "polystore: {}", quote::line(message));
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
