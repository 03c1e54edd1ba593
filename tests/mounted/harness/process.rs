//! Programs with a limit of time.
//!
//! A program's output goes to files, not pipes: what it leaves running in the
//! background must not keep us waiting for the end of a pipe.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Its output, if it ended with exit code 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// The exit code, or 128 and the number of the signal, as a shell says it.
    pub fn code(&self) -> i32 {
        let signal = self.status.signal().unwrap_or(0);
        self.status.code().unwrap_or(128 + signal)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n--- ended with {}\n--- output\n{}--- errors\n{}",
            self.what, self.status, self.stdout, self.stderr
        )
    }
}

/// A program to be run to its end.
pub struct Run {
    command: Command,
    what: String,
    limit: Duration,
    output: PathBuf,
}

/// A program that did not end in time; it has been killed.
pub struct TimedOut(pub String);

impl Run {
    /// `output` is a directory for the files that take what the program prints.
    pub fn new(command: Command, what: String, output: &Path) -> Run {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Run {
            command,
            what,
            limit: Duration::from_secs(180),
            output: output.join(format!("run-{number}")),
        }
    }

    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Runs it; `unblock` is called when the limit has passed, before the program is
    /// killed: a program that waits in a file system for an answer cannot die.
    pub fn run(mut self, unblock: impl FnOnce()) -> Result<Outcome, TimedOut> {
        let out = self.output.with_extension("out");
        let err = self.output.with_extension("err");
        self.command
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("create a file for the output"))
            .stderr(File::create(&err).expect("create a file for the errors"))
            .process_group(0);
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        let group = Pid::from_child(&child);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || ended.send(child.wait()));
        let status = end.recv_timeout(self.limit);
        let hung = status.is_err().then(|| describe_group(group));
        if hung.is_some() {
            unblock();
        }
        end_group(group);
        let said = |path: &Path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        match (status, hung) {
            (Ok(status), _) => Ok(Outcome {
                what: self.what,
                status: status.expect("wait for a child"),
                stdout: said(&out),
                stderr: said(&err),
            }),
            (Err(_), hung) => Err(TimedOut(format!(
                "{}\n--- still running after {:?}\n{}--- output\n{}--- errors\n{}",
                self.what,
                self.limit,
                hung.unwrap_or_default(),
                said(&out),
                said(&err)
            ))),
        }
    }
}

/// Ends what a program left in the background, and waits until it is gone: files that it has
/// open keep a mount busy. Not for ever, if something cannot be killed.
fn end_group(group: Pid) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while kill_process_group(group, Signal::KILL).is_ok()
        && members(group).iter().any(|member| member.state != "Z")
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A process of a group.
struct Member {
    directory: PathBuf,
    state: String,
}

fn members(group: Pid) -> Vec<Member> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let member = |entry: std::fs::DirEntry| {
        let directory = entry.path();
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let state = fields.next()?.to_owned();
        let of_group = fields.nth(1)?.parse() == Ok(group.as_raw_nonzero().get());
        of_group.then_some(Member { directory, state })
    };
    processes.filter_map(member).collect()
}

/// Where the processes of a group are waiting.
fn describe_group(group: Pid) -> String {
    let mut text = String::new();
    for Member { directory, state } in members(group) {
        let read = |name| {
            let bytes = std::fs::read(directory.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
            text.chars().take(300).collect::<String>()
        };
        text += &format!(
            "--- {} state {state} in {}: {}\n{}",
            directory.display(),
            read("wchan"),
            read("cmdline"),
            read("stack"),
        );
    }
    text
}
