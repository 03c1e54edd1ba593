//! The command line on real mounts: starting, ending, refusing, as root and as an ordinary user.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_polystore");
/// No step of a test takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(40);
const USER: u32 = 1000;

/// Who runs the commands of a test.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Root,
    User,
}

/// A directory with `data/file` in it, for one test. Takes away every mount below it at the end.
struct Site {
    who: Who,
    root: PathBuf,
    _directory: TempDir,
}

impl Site {
    fn new(who: Who) -> Site {
        assert!(
            is_root(),
            "the tests of the command line need root, which plays the ordinary user, too"
        );
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/file"), "content").unwrap();
        if who == Who::User {
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
            for path in ["", "data", "data/file"] {
                chown(root.join(path), Some(USER), Some(USER)).unwrap();
            }
        }
        Site {
            who,
            root,
            _directory: directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        // join("") would add a slash.
        match name {
            "" => self.root.clone(),
            name => self.root.join(name),
        }
    }

    /// `program`, to be run by the one whom this test is about, in the site's directory.
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        if self.who == Who::User {
            command.uid(USER).gid(USER);
        }
        command
    }

    fn polystore<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        // A copy that everybody may run: a build directory may be closed to others.
        let mut command = self.program(self.binary().to_str().unwrap());
        command.args(args);
        command
    }

    fn binary(&self) -> PathBuf {
        if self.who == Who::Root {
            return BINARY.into();
        }
        let copy = self.root.join("polystore");
        if !copy.exists() {
            fs::copy(BINARY, &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy
    }

    fn run(&self, args: &[&str]) -> Output {
        finish(self.polystore(args))
    }

    /// Runs a command that must succeed and say nothing.
    fn succeed(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
    }

    /// Runs a command that must fail with exit code 1 and one line; returns that.
    fn refuse(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.starts_with("polystore: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    /// Starts `polystore mount ARGS` in the foreground and waits until `mountpoint` is there.
    fn start(&self, args: &[&str], mountpoint: &str) -> Foreground {
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
    fn cat(&self, path: &str) -> Option<String> {
        let mut command = self.program("cat");
        command.arg(path);
        let output = finish(command);
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The processes that serve mounts of this site: those whose arguments name it.
    fn daemons(&self) -> Vec<u32> {
        let within = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
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
struct Foreground(Child);

impl Foreground {
    fn signal(&self, signal: &str) {
        kill(signal, self.0.id());
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("its end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// What it wrote to standard error; it must have ended.
    fn said(&mut self) -> String {
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

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|known| std::os::unix::fs::MetadataExt::uid(&known) == 0)
}

fn kill(signal: &str, pid: u32) {
    let _ = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
}

/// Runs a command to its end; a command that hangs fails the test.
fn finish(mut command: Command) -> Output {
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

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Mountpoint, type and source of everything that is mounted. Names of these tests need no unescaping
/// but for blanks.
fn mounts() -> Vec<(PathBuf, String, String)> {
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
fn kind_of(path: &Path) -> String {
    mounts()
        .into_iter()
        .rev()
        .find(|(mountpoint, _, _)| mountpoint == path)
        .map_or(String::new(), |(_, kind, _)| kind)
}

fn is_mounted(path: &Path) -> bool {
    !kind_of(path).is_empty()
}

const BOTH: [Who; 2] = [Who::Root, Who::User];

#[test]
fn foreground_until_unmounted() {
    for who in BOTH {
        let site = Site::new(who);
        let mut mount = site.start(&["data", "safe"], "safe");
        assert_eq!(site.cat("safe/file").as_deref(), Some("content"));
        let data = site.path("data");
        let source = mounts()
            .into_iter()
            .find(|(path, _, _)| *path == site.path("safe"))
            .unwrap()
            .2;
        assert_eq!(source, data.to_str().unwrap());
        site.succeed(&["unmount", "safe"]);
        // The command has waited, so nothing is left to wait for but the parent's notice.
        assert!(mount.end().success());
        assert_eq!(mount.said(), "");
        assert!(!is_mounted(&site.path("safe")));
        assert!(
            site.path("safe").is_dir(),
            "a mountpoint that was made stays"
        );
        assert_eq!(fs::read(data.join("file")).unwrap(), b"content");
    }
}

#[test]
fn ends_when_somebody_else_unmounts() {
    for (who, program) in [(Who::Root, "umount"), (Who::User, "fusermount3")] {
        let site = Site::new(who);
        let mut mount = site.start(&["data", "safe"], "safe");
        let mut command = site.program(program);
        if who == Who::User {
            command.arg("-u");
        }
        command.arg(site.path("safe"));
        assert!(finish(command).status.success());
        assert!(mount.end().success());
        assert_eq!(mount.said(), "");
    }
}

#[test]
fn signals_unmount() {
    for who in BOTH {
        for signal in ["-INT", "-TERM", "-HUP"] {
            let site = Site::new(who);
            let mut mount = site.start(&["data", "safe", "--log", "info"], "safe");
            assert!(site.cat("safe/file").is_some());
            mount.signal(signal);
            assert!(mount.end().success());
            assert!(!is_mounted(&site.path("safe")));
            let said = mount.said();
            assert!(said.contains(&format!("is mounted at {}", site.path("safe").display())));
            assert!(
                said.contains(&format!("SIG{}: unmounting", &signal[1..])),
                "{said}"
            );
            assert!(said.contains("is unmounted"), "{said}");
        }
    }
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let site = Site::new(Who::Root);
    let mut command = site.program("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" mount data safe", BINARY])
        .stderr(Stdio::piped());
    let mut mount = Foreground(command.spawn().unwrap());
    wait_for("the mount", || is_mounted(&site.path("safe")));
    assert!(site.cat("safe/file").is_some());
    mount.signal("-HUP");
    thread::sleep(Duration::from_millis(200));
    assert!(
        mount.0.try_wait().unwrap().is_none(),
        "ended by an ignored signal"
    );
    assert!(is_mounted(&site.path("safe")));
    mount.signal("-TERM");
    assert!(mount.end().success());
}

#[test]
fn a_busy_mount_is_detached_and_ends_with_its_last_user() {
    for who in BOTH {
        let site = Site::new(who);
        let mut mount = site.start(&["data", "safe"], "safe");
        let mut command = site.program("sh");
        command.args([
            "-c",
            "exec 3< safe/file && echo ready && read line; cat <&3",
        ]);
        let mut user = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from_user = BufReader::new(user.stdout.take().unwrap());
        let mut line = String::new();
        from_user.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");

        let message = site.refuse(&["unmount", "safe"]);
        assert!(message.contains("is busy: used by sh (pid "), "{message}");
        assert!(message.contains(&user.id().to_string()), "{message}");
        assert!(is_mounted(&site.path("safe")));

        mount.signal("-TERM");
        wait_for("the detaching", || !is_mounted(&site.path("safe")));
        thread::sleep(Duration::from_millis(100));
        assert!(
            mount.0.try_wait().unwrap().is_none(),
            "ended under its user"
        );
        drop(user.stdin.take());
        let mut rest = String::new();
        from_user.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "content", "the user could not go on reading");
        assert!(user.wait().unwrap().success());
        assert!(mount.end().success());
        let said = mount.said();
        assert!(said.contains("is busy, used by sh (pid "), "{said}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let site = Site::new(Who::Root);
    let mut mount = site.start(&["data", "safe"], "safe");
    let open = File::open(site.path("safe/file")).unwrap();
    mount.signal("-TERM");
    wait_for("the detaching", || !is_mounted(&site.path("safe")));
    assert!(mount.0.try_wait().unwrap().is_none());
    mount.signal("-INT");
    assert_eq!(mount.end().code(), Some(128 + 2));
    drop(open);
}

#[test]
fn daemon_is_usable_when_it_returns() {
    for who in BOTH {
        let site = Site::new(who);
        let (data, safe) = (site.path("data"), site.path("safe"));
        let (data, safe) = (data.to_str().unwrap(), safe.to_str().unwrap());
        for _ in 0..5 {
            // Returns although its output is captured: the background process holds none of it.
            site.succeed(&["mount", "--daemon", data, safe]);
            assert_eq!(
                site.cat(safe).or(site.cat("safe/file")).as_deref(),
                Some("content")
            );
            let daemons = site.daemons();
            assert_eq!(daemons.len(), 1, "{daemons:?}");
            let process = PathBuf::from(format!("/proc/{}", daemons[0]));
            assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
            for descriptor in 0..3 {
                let link = fs::read_link(process.join(format!("fd/{descriptor}"))).unwrap();
                assert_eq!(link, Path::new("/dev/null"));
            }
            let stat = fs::read_to_string(process.join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            assert_eq!(
                fields[3],
                daemons[0].to_string(),
                "not in a session of its own"
            );
            site.succeed(&["unmount", safe]);
            assert_eq!(
                site.daemons(),
                [0; 0],
                "unmount returned before its process ended"
            );
        }
    }
}

#[test]
fn daemon_tells_why_it_cannot() {
    let site = Site::new(Who::Root);
    fs::write(site.path("full"), "").unwrap();
    let message = site.refuse(&["mount", "-d", "data", "full"]);
    assert!(message.contains("is not a directory"), "{message}");
    // What fails only after the fork is told, too: fusermount3 refuses what it cannot write to.
    let site = Site::new(Who::User);
    fs::create_dir(site.path("closed")).unwrap();
    let message = site.refuse(&["mount", "-d", "data", "closed"]);
    assert!(
        message.contains("closed") && message.contains("no write access"),
        "{message}"
    );
    assert!(!is_mounted(&site.path("closed")));
    assert!(site.daemons().is_empty());
}

#[test]
fn a_daemon_whose_launcher_is_killed_is_there_or_not() {
    let site = Site::new(Who::Root);
    let (data, safe) = (site.path("data"), site.path("safe"));
    for round in 0..40 {
        let mut command = site.polystore([OsStr::new("mount"), OsStr::new("-d")]);
        let mut launcher = command.args([&data, &safe]).spawn().unwrap();
        thread::sleep(Duration::from_micros(250 * round));
        let _ = launcher.kill();
        launcher.wait().unwrap();
        // Whoever is still starting comes to an end of it.
        wait_for("the daemon", || match site.daemons().len() {
            0 => true,
            _ => site.cat("safe/file").as_deref() == Some("content"),
        });
        // One that has served the question may be ending, because nobody took its word.
        thread::sleep(Duration::from_millis(50));
        if site.daemons().is_empty() {
            assert!(!is_mounted(&safe), "round {round}: nobody serves the mount");
        } else {
            site.succeed(&["unmount", "safe"]);
        }
    }
    assert!(site.daemons().is_empty());
}

#[test]
fn a_daemon_logs_to_its_file() {
    let site = Site::new(Who::Root);
    site.succeed(&[
        "mount",
        "-d",
        "data",
        "safe",
        "--log=info",
        "--log-file=log",
    ]);
    site.succeed(&["unmount", "safe"]);
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(
        log.contains("Z info: ") && log.contains("is mounted at"),
        "{log}"
    );
    assert!(log.contains("is unmounted"), "{log}");
    let output = site.run(&["mount", "-d", "data", "safe", "--log=info"]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("nothing is logged") && said.contains("--log-file"),
        "{said}"
    );
    let message = site.refuse(&["mount", "data", "other", "--log-file", "none/log"]);
    assert!(message.contains("log file none/log"), "{message}");
}

#[test]
fn over_itself() {
    for who in BOTH {
        let site = Site::new(who);
        site.succeed(&["mount", "-d", "data"]);
        assert_eq!(kind_of(&site.path("data")), "fuse.polystore");
        assert_eq!(site.cat("data/file").as_deref(), Some("content"));
        let message = site.refuse(&["mount", "-d", "data"]);
        assert!(message.contains("is mounted already"), "{message}");
        let message = site.refuse(&["mount", "-d", "data", "elsewhere"]);
        assert!(message.contains("is in the polystore mount"), "{message}");
        assert!(!site.path("elsewhere").exists());
        site.succeed(&["unmount", "data"]);
        site.succeed(&["mount", "-d", "data", "data"]);
        site.succeed(&["unmount", "data/."]);
        assert!(!is_mounted(&site.path("data")));
    }
}

#[test]
fn unusable_mountpoints_are_refused() {
    for who in BOTH {
        let site = Site::new(who);
        site.succeed(&["mount", "-d", "data", "safe"]);
        let message = site.refuse(&["mount", "data", "safe"]);
        let data = site.path("data");
        assert!(
            message.contains("is mounted already: it is a polystore mount of"),
            "{message}"
        );
        assert!(message.contains(data.to_str().unwrap()), "{message}");
        let message = site.refuse(&["mount", "data", "safe/sub"]);
        assert!(message.contains("safe"), "{message}");
        let message = site.refuse(&["mount", "data", "data/sub"]);
        assert!(
            message.contains("is inside the data directory"),
            "{message}"
        );
        let message = site.refuse(&["mount", "data", "."]);
        assert!(message.contains("would hide"), "{message}");
        let message = site.refuse(&["mount", "none", "other"]);
        assert!(message.contains("none: No such file"), "{message}");
        assert!(!site.path("other").exists());
        // One data directory may be mounted twice.
        site.succeed(&["mount", "-d", "data", "twice"]);
        site.succeed(&["unmount", "safe"]);
        assert_eq!(site.cat("twice/file").as_deref(), Some("content"));
        site.succeed(&["unmount", "twice"]);
    }
}

#[test]
fn names_that_need_care() {
    for who in BOTH {
        let site = Site::new(who);
        for name in ["a b", "com,ma", "back\\slash", "new\nline", "-dash", "ünï"] {
            let data = site.path(name);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("file"), name).unwrap();
            chown(&data, Some(USER), Some(USER)).unwrap();
            let safe = format!("./{name} safe");
            site.succeed(&["mount", "-d", "--", name, &safe]);
            assert_eq!(site.cat(&format!("{safe}/file")).as_deref(), Some(name));
            let message = site.refuse(&["mount", "data", &safe]);
            let shown = name.replace('\\', "\\\\").replace('\n', "\\x0a");
            assert!(
                message.contains(&format!(
                    "polystore mount of {}",
                    site.path(&shown).display()
                )),
                "{message}"
            );
            site.succeed(&["unmount", &safe]);
            assert!(site.daemons().is_empty());
        }
    }
}

#[test]
fn a_dead_mount_is_cleared() {
    for who in BOTH {
        let site = Site::new(who);
        for arguments in [&["data", "safe"][..], &["data"]] {
            let mountpoint = arguments[arguments.len() - 1];
            let mut mount = site.start(arguments, mountpoint);
            assert!(site.cat(&format!("{mountpoint}/file")).is_some());
            mount.signal("-KILL");
            assert_eq!(mount.end().signal(), Some(9));
            assert_eq!(site.cat(&format!("{mountpoint}/file")), None);
            assert!(is_mounted(&site.path(mountpoint)));

            let line = [&["mount", "-d", "--log", "info"], arguments].concat();
            let output = site.run(&line);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("clearing a dead mount"), "{said}");
            assert!(site.cat(&format!("{mountpoint}/file")).is_some());
            let there = mounts()
                .into_iter()
                .filter(|(path, _, _)| *path == site.path(mountpoint));
            assert_eq!(there.count(), 1, "the dead mount is still below");
            site.succeed(&["unmount", mountpoint]);
        }
        let mut mount = site.start(&["data", "safe"], "safe");
        mount.signal("-KILL");
        mount.end();
        site.succeed(&["unmount", "safe"]);
        assert!(
            !is_mounted(&site.path("safe")),
            "unmount clears a dead mount, too"
        );
    }
}

#[test]
fn root_and_the_mount_of_another_user() {
    let site = Site::new(Who::User);
    let mut mount = site.start(&["data", "safe"], "safe");
    let safe = site.path("safe");
    assert!(
        fs::metadata(&safe).is_err(),
        "root may look into it: this shows nothing"
    );
    let as_root = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(site.path(""));
        finish(command)
    };
    let output = as_root(&["mount", "-d", "data", "safe"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("is mounted already: it is a polystore mount"),
        "{said}"
    );
    // Dead, root can tell and clear it.
    mount.signal("-KILL");
    mount.end();
    let output = as_root(&["mount", "-d", "data", "safe"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(safe.join("file")).unwrap(), b"content");
    // The user cannot take away root's, nor see whose it is by looking into it.
    let message = site.refuse(&["unmount", "safe"]);
    assert!(message.contains("cannot be unmounted"), "{message}");
    let message = site.refuse(&["mount", "data", "safe"]);
    assert!(message.contains("belongs to user 0"), "{message}");
    assert!(as_root(&["unmount", "safe"]).status.success());
    // Root can end a live one of the user.
    let mut mount = site.start(&["data", "safe"], "safe");
    assert!(as_root(&["unmount", "safe"]).status.success());
    assert!(mount.end().success());
}

#[test]
fn a_stopped_mount_is_not_waited_for() {
    let site = Site::new(Who::Root);
    let mount = site.start(&["data", "safe"], "safe");
    mount.signal("-STOP");
    let started = Instant::now();
    let message = site.refuse(&["mount", "data", "safe"]);
    assert!(message.contains("does not answer"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(15));
    mount.signal("-CONT");
    wait_for("its answer", || site.cat("safe/file").is_some());
    site.succeed(&["unmount", "safe"]);
}

#[test]
fn other_mounts_are_left_alone() {
    let site = Site::new(Who::Root);
    let tmpfs = site.path("tmpfs");
    fs::create_dir(&tmpfs).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&tmpfs)
        .status()
        .unwrap();
    assert!(mounted.success());
    let message = site.refuse(&["unmount", "tmpfs"]);
    assert!(
        message.contains("is not a polystore mount but a tmpfs mount"),
        "{message}"
    );
    assert!(is_mounted(&tmpfs));
    // An empty directory is an empty directory.
    site.succeed(&["mount", "-d", "data", "tmpfs"]);
    assert_eq!(site.cat("tmpfs/file").as_deref(), Some("content"));
    site.succeed(&["unmount", "tmpfs"]);
    assert_eq!(kind_of(&tmpfs), "tmpfs");
    let message = site.refuse(&["unmount", "data"]);
    assert!(message.contains("nothing is mounted there"), "{message}");
    site.succeed(&["mount", "-d", "data", "safe"]);
    let message = site.refuse(&["unmount", "safe/file"]);
    assert!(
        message.contains("it is in the polystore mount"),
        "{message}"
    );
}

#[test]
fn mountpoints_by_other_names() {
    let site = Site::new(Who::Root);
    symlink("safe", site.path("link")).unwrap();
    // The link dangles: its target is made.
    site.succeed(&["mount", "-d", "data", "link"]);
    assert_eq!(kind_of(&site.path("safe")), "fuse.polystore");
    let message = site.refuse(&["mount", "data", "link"]);
    assert!(message.contains("is mounted already"), "{message}");
    fs::create_dir(site.path("moved")).unwrap();
    site.succeed(&["unmount", "moved/../link"]);
    // A directory above a mount may be renamed; the signal finds it.
    fs::create_dir(site.path("above")).unwrap();
    let mut mount = site.start(&["data", "above/safe"], "above/safe");
    fs::rename(site.path("above"), site.path("renamed")).unwrap();
    assert!(site.cat("renamed/safe/file").is_some());
    mount.signal("-TERM");
    assert!(mount.end().success());
    assert!(!is_mounted(&site.path("renamed/safe")));
}

#[test]
fn allow_other_and_read_only() {
    let site = Site::new(Who::Root);
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let as_user = || {
        let mut command = Command::new("cat");
        command.arg(site.path("safe/file")).uid(USER).gid(USER);
        finish(command).status.success()
    };
    site.succeed(&["mount", "-d", "data", "safe"]);
    assert!(!as_user(), "another user was let in without --allow-other");
    site.succeed(&["unmount", "safe"]);
    site.succeed(&["mount", "-d", "--allow-other", "data", "safe"]);
    assert!(as_user());
    site.succeed(&["unmount", "safe"]);
    site.succeed(&["mount", "-d", "--read-only", "data", "safe"]);
    let error = fs::write(site.path("safe/new"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    site.succeed(&["unmount", "safe"]);

    let permitted = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    if !permitted {
        let site = Site::new(Who::User);
        let message = site.refuse(&["mount", "--allow-other", "data", "safe"]);
        assert!(message.contains("user_allow_other"), "{message}");
        assert!(!site.path("safe").exists());
    }
}

#[test]
fn usage_errors_exit_with_2() {
    let site = Site::new(Who::Root);
    for (args, expected) in [
        (&["mount"][..], "DATA"),
        (
            &["mount", "data", "safe", "--salvage", "1.5G"],
            "K, M, G or T",
        ),
        (
            &["mount", "data", "safe", "--durability", "some"],
            "ordered",
        ),
        (&["mount", "data", "safe", "--log", "loud"], "trace"),
        (&["mount", "data", "safe", "--direct", ""], "--direct"),
        (&["unmount"], "MOUNTPOINT"),
        (&["salvage", "restore", "data"], "ID"),
        (&["completions", "csh"], "bash"),
        (&["mont"], "mount"),
    ] {
        let output = site.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
        assert!(!site.path("safe").exists());
    }
}

#[test]
fn help_version_and_completions() {
    let site = Site::new(Who::Root);
    let shown = |args: &[&str]| {
        let output = site.run(args);
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["--version"]).starts_with("polystore "));
    assert!(shown(&["--help"]).contains("Example:"));
    for command in ["mount", "unmount", "salvage", "completions"] {
        assert!(shown(&[command, "--help"]).contains("Example"), "{command}");
    }
    fs::write(site.path("completions"), shown(&["completions", "bash"])).unwrap();
    let mut bash = site.program("bash");
    bash.args(["-c", ". ./completions && complete -p polystore"]);
    assert!(finish(bash).status.success());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let site = Site::new(Who::Root);
    let mut command = site.polystore(["completions", "bash"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn an_empty_salvage_is_empty_everywhere() {
    for who in BOTH {
        let site = Site::new(who);
        let empty = |dir: &str| {
            let output = site.run(&["salvage", "list", dir, "--json"]);
            assert_eq!(output.stdout, b"[]\n", "{output:?}");
            let output = site.run(&["salvage", "list", dir]);
            assert!(output.status.success() && output.stdout.is_empty());
            let said = String::from_utf8(output.stderr).unwrap();
            let data = site.path("data");
            assert!(
                said.contains(&format!("salvage of {}", data.display())),
                "{said}"
            );
        };
        empty("data");
        site.succeed(&["mount", "-d", "data", "safe"]);
        empty("data");
        empty("safe");
        site.succeed(&["unmount", "safe"]);
        site.succeed(&["mount", "-d", "data"]);
        empty("data");
        site.succeed(&["unmount", "data"]);
        assert!(site.refuse(&["salvage", "list", "none"]).contains("none"));
        assert!(
            site.refuse(&["salvage", "list", "data/file"])
                .contains("data/file")
        );
    }
}
