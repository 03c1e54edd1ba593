//! A place for one test of the command line, and the programs that run there.

pub use std::ffi::OsStr;
pub use std::fs::{self, File};
pub use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
pub use std::os::unix::fs::{PermissionsExt, chown, symlink};
pub use std::os::unix::process::{CommandExt, ExitStatusExt};
pub use std::path::{Path, PathBuf};
pub use std::process::{Child, Command, ExitStatus, Output, Stdio};
pub use std::thread;
pub use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::skipped::has_root;

pub const BINARY: &str = env!("CARGO_BIN_EXE_polystore");
/// No step of a test takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(40);
pub const USER: u32 = 1000;

/// Who runs the commands of a test.
#[derive(Clone, Copy, PartialEq)]
pub enum Who {
    Root,
    User,
}

/// A directory with `data/file` in it, for one test. Takes away every mount below it at the end.
pub struct Site {
    pub who: Who,
    root: PathBuf,
    _directory: TempDir,
}

impl Site {
    /// Both, as far as they can be had here.
    pub fn both() -> impl Iterator<Item = Site> {
        [Who::Root, Who::User].into_iter().filter_map(Site::new)
    }

    /// `None`, with a word on it, where the tests run as somebody who cannot be `who`.
    pub fn new(who: Who) -> Option<Site> {
        if std::env::var_os("POLYSTORE_TEST_PLAIN").is_some_and(|value| value == "1") {
            eprintln!("NOT RUN: without polystore there is no command line");
            return None;
        }
        if who == Who::Root && !has_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/file"), "content").unwrap();
        let site = Site {
            who,
            root,
            _directory: directory,
        };
        if who == Who::User && is_root() {
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
            for path in ["", "data", "data/file"] {
                site.give(&site.path(path));
            }
        }
        Some(site)
    }

    /// Gives what the test has made to the one whom it is about.
    pub fn give(&self, path: &Path) {
        if self.who == Who::User && is_root() {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        // join("") would add a slash.
        match name {
            "" => self.root.clone(),
            name => self.root.join(name),
        }
    }

    /// `program`, to be run by the one whom this test is about, in the site's directory.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        if self.who == Who::User && is_root() {
            command.uid(USER).gid(USER);
        }
        command
    }

    pub fn polystore<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        // A copy that everybody may run: a build directory may be closed to others.
        let mut command = self.program(self.binary().to_str().unwrap());
        command.args(args);
        command
    }

    pub fn binary(&self) -> PathBuf {
        if self.who == Who::Root {
            return BINARY.into();
        }
        let copy = self.root.join("polystore");
        if !copy.exists() {
            // By another process: a file that a thread of this one is writing while another starts
            // a program cannot be run ("text file busy").
            let mut cp = Command::new("cp");
            cp.args(["--", BINARY]).arg(&copy);
            assert!(finish(cp).status.success());
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy
    }

    pub fn run(&self, args: &[&str]) -> Output {
        finish(self.polystore(args))
    }

    /// Runs a command that must succeed and say nothing.
    pub fn succeed(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
    }

    /// Runs a command that must fail with exit code 1 and one line; returns that.
    pub fn refuse(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.starts_with("polystore: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    /// Starts `polystore mount ARGS` in the foreground and waits until `mountpoint` is there.
    pub fn start(&self, args: &[&str], mountpoint: &str) -> Foreground {
        let mut command = self.polystore(["mount"].iter().chain(args));
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut foreground = Foreground(child);
        let mountpoint = self.path(mountpoint);
        wait_for("the mount", || {
            if let Some(status) = foreground.0.try_wait().unwrap() {
                panic!("ended: {status}: {}", foreground.said());
            }
            kind_of(&mountpoint) == "fuse.polystore"
        });
        foreground
    }

    /// What `cat PATH` shows to the one whom this test is about.
    pub fn cat(&self, path: &str) -> Option<String> {
        let mut command = self.program("cat");
        command.arg(path);
        let output = finish(command);
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The processes that serve mounts of this site: those whose arguments name it, but for their guards.
    pub fn daemons(&self) -> Vec<u32> {
        let is_guard = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "polystore-guard")
        };
        let within = |pid: &u32| {
            !is_guard(pid)
                && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    let root = self.root.as_os_str().as_encoded_bytes();
                    line.windows(root.len()).any(|part| part == root)
                })
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id() && within(pid))
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for mountpoint in mounts().into_iter().map(|(path, _, _)| path).rev() {
            if mountpoint.starts_with(&self.root) {
                let _ = Command::new("umount").arg("-l").arg(mountpoint).status();
            }
        }
        for pid in self.daemons() {
            kill("-KILL", pid);
        }
    }
}

/// A mount in the foreground; killed when the test is over.
pub struct Foreground(pub Child);

impl Foreground {
    pub fn signal(&self, signal: &str) {
        kill(signal, self.0.id());
    }

    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("its end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// What it wrote to standard error; it must have ended.
    pub fn said(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|known| known.uid() == 0)
}

pub fn kill(signal: &str, pid: u32) {
    let _ = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
}

/// Runs a command to its end; a command that hangs fails the test.
pub fn finish(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let readers = thread::spawn(move || {
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).map(|_| text).unwrap()
        });
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        (text, errors.join().unwrap())
    });
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{command:?} hangs");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (stdout, stderr) = readers.join().unwrap();
    Output {
        status,
        stdout,
        stderr,
    }
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Mountpoint, type and source of everything that is mounted. Names of these tests need no unescaping
/// but for blanks.
pub fn mounts() -> Vec<(PathBuf, String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap();
            let mountpoint = left.split(' ').nth(4).unwrap().replace("\\040", " ");
            let mut right = right.split(' ');
            let kind = right.next().unwrap().to_string();
            let source = right.next().unwrap().replace("\\040", " ");
            (mountpoint.into(), kind, source)
        })
        .collect()
}

/// The type of what is mounted at `path`, empty if nothing is.
pub fn kind_of(path: &Path) -> String {
    mounts()
        .into_iter()
        .rev()
        .find(|(mountpoint, _, _)| mountpoint == path)
        .map_or(String::new(), |(_, kind, _)| kind)
}

pub fn is_mounted(path: &Path) -> bool {
    !kind_of(path).is_empty()
}
