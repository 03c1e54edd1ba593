//! A mount of a test's own, and the programs that run in it.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::PATH;
use super::process::{Outcome, Run, TimedOut};
use super::setup::{Setup, Who, open_fuse_to_users, we_are_root};

/// Modules that the Python parts of the scenarios import.
const MODULES: &[(&str, &str)] = &[
    ("common.py", include_str!("../py/common.py")),
    ("owned.py", include_str!("../py/owned.py")),
    ("people.py", include_str!("../py/people.py")),
    ("versions.py", include_str!("../py/versions.py")),
    ("tree.py", include_str!("../py/tree.py")),
];

/// A backing directory, the mount of it, and a plain directory beside them to compare with.
pub struct Mounted {
    who: Who,
    root: PathBuf,
    data: PathBuf,
    safe: PathBuf,
    options: Vec<String>,
    descriptors: Option<u64>,
    daemon: Option<Child>,
}

impl Mounted {
    /// Makes the directories and mounts.
    pub fn new(who: Who, setup: &Setup) -> Mounted {
        open_fuse_to_users();
        let plain = super::on_plain_directory();
        let root = fresh_directory();
        let data = root.join("data");
        let mut options = setup.options.clone();
        if setup.for_all_users && who == Who::Root {
            options.push("--allow-other".to_owned());
        }
        let mut mounted = Mounted {
            who,
            safe: if plain {
                data.clone()
            } else {
                root.join("safe")
            },
            data,
            root,
            options,
            descriptors: setup.descriptors,
            daemon: None,
        };
        for name in ["data", "safe", "plain", "home", "tmp", "lib", "bin", "run"] {
            mounted.make_directory(name);
        }
        for (name, text) in MODULES {
            std::fs::write(mounted.root.join("lib").join(name), text).expect("write a module");
        }
        if let Some((fs, mebibytes)) = &setup.image {
            mounted.mount_image(fs, *mebibytes);
        }
        if !plain {
            mounted.install_binary();
            mounted.start();
        }
        mounted
    }

    fn make_directory(&self, name: &str) {
        let path = self.root.join(name);
        std::fs::create_dir(&path).expect("make a directory");
        self.give(&path);
    }

    /// Makes the user of this mount the owner of `path`.
    fn give(&self, path: &Path) {
        if let Some(uid) = self.who.switch() {
            chown(path, Some(uid), Some(uid)).expect("chown to the user of the test");
        }
    }

    /// Puts the binary where the user can reach it: a home directory may be closed to others.
    fn install_binary(&self) {
        let built = Path::new(env!("CARGO_BIN_EXE_polystore"));
        let target = self.root.join("bin/polystore");
        if std::fs::hard_link(built, &target).is_err() {
            std::fs::copy(built, &target).expect("copy the binary");
        }
    }

    /// Mounts a fresh file system of this type where the backing directory is to be.
    fn mount_image(&mut self, fs: &str, mebibytes: u32) {
        let mut mount = Command::new("mount");
        if fs == "tmpfs" {
            let size = format!("size={mebibytes}m");
            mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        } else {
            let image = self.root.join("image");
            let file = File::create(&image).expect("create an image");
            let size = u64::from(mebibytes) << 20;
            file.set_len(size).expect("size an image");
            let mut mkfs = Command::new(format!("mkfs.{fs}"));
            mkfs.arg("-q").arg(&image);
            self.helper(mkfs);
            mount.args(["-o", "loop"]).arg(&image);
        }
        mount.arg(&self.data);
        self.helper(mount);
        self.give(&self.data);
    }

    /// Runs a program of the harness itself, as whoever runs the tests.
    fn helper(&self, mut command: Command) {
        command.env("PATH", PATH);
        let what = format!("{command:?}");
        self.wait(Run::new(command, what, &self.root.join("run")))
            .ok();
    }

    // ---- the mount ----------------------------------------------------------------

    /// Starts `polystore mount` and waits until the mount is there.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "already mounted");
        let log = self.root.join("mount.log");
        let log = File::options().create(true).append(true).open(log);
        let log = log.expect("open the log of the mount");
        let mut command = self.command(&self.root.join("bin/polystore"));
        command
            .arg("mount")
            .args(&self.options)
            .args([&self.data, &self.safe])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log);
        die_with_us(&mut command);
        if let Some(count) = self.descriptors {
            limit_descriptors(&mut command, count, self.who == Who::Root);
        }
        self.daemon = Some(command.spawn().expect("start polystore mount"));
        self.wait_until_mounted();
    }

    fn wait_until_mounted(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_mounted() {
            let ended = self.daemon.as_mut().map(|daemon| daemon.try_wait());
            if let Some(Ok(Some(status))) = ended {
                panic!("polystore mount ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not mounted:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True once a mount is listed that answers: a dead one may be there before it, with
    /// attributes that are still cached. How full it is, only a living one can say.
    fn is_mounted(&self) -> bool {
        let mut stat = self.command(Path::new("stat"));
        stat.arg("-f").arg(&self.safe).current_dir("/");
        // Looked up again: the dead one may have gone in between, and the new one not be there.
        mounts_at(&self.safe) == 1
            && self.outcome(stat, "stat").status.success()
            && mounts_at(&self.safe) == 1
    }

    /// Kills the mount with SIGKILL, as a crash would. The dead mount stays behind.
    pub fn kill_mount(&mut self) {
        let mut daemon = self.daemon.take().expect("there is a mount");
        daemon.kill().expect("kill the mount");
        daemon.wait().expect("wait for the mount");
    }

    /// Unmounts, and checks that the mount went in peace and left DATA tidy.
    pub fn finish(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        let safe = self.safe.clone();
        let unmounted = self.polystore(&["unmount".as_ref(), safe.as_path()]);
        if !unmounted.status.success() {
            self.daemon = Some(daemon);
            panic!("{unmounted}\n--- the mount said\n{}", self.log());
        }
        let status = wait_for(&mut daemon, Duration::from_secs(30));
        let log = self.log();
        assert!(
            status.is_some_and(|status| status.success()),
            "the mount ended with {status:?}:\n{log}"
        );
        assert!(!log.contains("panicked"), "the mount said:\n{log}");
        assert_eq!(mounts_at(&self.safe), 0, "still mounted");
        let left = self.hidden_files();
        let foreign: Vec<_> = left
            .iter()
            .filter(|path| !path.starts_with("salvage"))
            .collect();
        assert!(foreign.is_empty(), "left in .polystore: {foreign:?}");
    }

    /// All files below DATA/.polystore, relative to it.
    pub fn hidden_files(&self) -> Vec<PathBuf> {
        fn collect(directory: &Path, base: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    collect(&path, base, found);
                } else {
                    found.push(path.strip_prefix(base).expect("below base").to_owned());
                }
            }
        }
        let base = self.data.join(".polystore");
        let mut found = Vec::new();
        collect(&base, &base, &mut found);
        found
    }

    /// The process of the mount, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// What the mount printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("mount.log")).unwrap_or_default()
    }

    // ---- programs -----------------------------------------------------------------

    /// A program as the user of this mount, with an environment that says where things are.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            .env("HOME", self.root.join("home"))
            .env("TMPDIR", self.root.join("tmp"))
            .env("PYTHONPATH", self.root.join("lib"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DATA", &self.data)
            .env("SAFE", &self.safe)
            .env("PLAIN", self.plain())
            .env("POLYSTORE", self.root.join("bin/polystore"))
            .current_dir(&self.safe);
        if let Some(uid) = self.who.switch() {
            command.uid(uid).gid(uid);
        }
        command
    }

    fn outcome(&self, command: Command, what: &str) -> Outcome {
        self.wait(Run::new(command, what.to_owned(), &self.root.join("run")))
    }

    /// Runs to the end or to the limit; then the mount is killed and the test fails.
    fn wait(&self, run: Run) -> Outcome {
        match run.run(|| self.kill_daemon_by_force()) {
            Ok(outcome) => outcome,
            Err(TimedOut(text)) => panic!("{text}\n--- the mount said\n{}", self.log()),
        }
    }

    fn kill_daemon_by_force(&self) {
        if let Some(daemon) = &self.daemon {
            let pid = rustix::process::Pid::from_child(daemon);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            // One that waits for itself in the kernel does not end before its connection does.
            let aborts = rustix::mount::UnmountFlags::FORCE;
            let _ = rustix::mount::unmount(&self.safe, aborts); // As an ordinary user: EPERM.
        }
    }

    /// Runs a shell script in the mount.
    pub fn try_sh(&self, script: &str) -> Outcome {
        let mut command = self.command(Path::new("/bin/bash"));
        command.args(["-c", script]);
        self.outcome(command, script)
    }

    /// Runs a shell script in the mount; any command of it that fails, fails the test.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(&format!("set -eo pipefail; {script}")).ok()
    }

    /// Runs a Python script in the mount, with `common` imported; it must end with 0.
    #[track_caller]
    pub fn py(&self, script: &str) -> String {
        self.py_within(Duration::from_secs(180), script)
    }

    /// The same with a limit of time of its own.
    #[track_caller]
    pub fn py_within(&self, limit: Duration, script: &str) -> String {
        let mut command = self.command(Path::new("python3"));
        command.args(["-c", &format!("from common import *\n{script}")]);
        let run = Run::new(command, script.to_owned(), &self.root.join("run"));
        self.wait(run.limit(limit)).ok()
    }

    /// Runs a Python script, from the root directory, and does something to the mount meanwhile,
    /// `pause` after the script was started. What the script printed.
    pub fn while_running(
        &mut self,
        script: &str,
        pause: Duration,
        meanwhile: impl FnOnce(&mut Mounted),
    ) -> String {
        let mut command = self.command(Path::new("python3"));
        // Not in the mount: it may be dead before the script gets there.
        command
            .args(["-c", &format!("from common import *\n{script}")])
            .current_dir("/");
        let run = Run::new(command, script.to_owned(), &self.root.join("run"));
        let running = std::thread::spawn(move || run.run(|| ()));
        std::thread::sleep(pause);
        meanwhile(self);
        match running.join().expect("a thread that waits") {
            Ok(outcome) => outcome.ok(),
            Err(TimedOut(text)) => panic!("{text}"),
        }
    }

    /// Runs the same shell script in the mount and in a plain directory.
    /// Both must say the same and leave the same tree; see `tree.py` for what is compared.
    #[track_caller]
    pub fn sh_same(&self, compare: &str, script: &str) {
        let mut said = Vec::new();
        for directory in [self.plain(), self.safe.clone()] {
            let mut command = self.command(Path::new("/bin/bash"));
            command
                .args(["-c", &format!("set -eo pipefail; {script}")])
                .current_dir(&directory);
            said.push(self.outcome(command, script).ok());
        }
        assert_eq!(
            said[0], said[1],
            "plain directory and mount differ in\n{script}"
        );
        self.trees_equal(compare, &self.plain(), &self.safe);
        self.trees_equal(compare, &self.plain(), &self.data);
    }

    /// Compares two directories with `tree.py`; `compare` says which properties.
    #[track_caller]
    pub fn trees_equal(&self, compare: &str, one: &Path, other: &Path) {
        let mut command = self.command(Path::new("python3"));
        command
            .arg(self.root.join("lib/tree.py"))
            .arg(compare)
            .args([one, other]);
        self.outcome(command, "compare two trees").ok();
    }

    /// Runs the command line of polystore.
    pub fn polystore<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Outcome {
        let mut command = self.command(&self.root.join("bin/polystore"));
        command.args(arguments).current_dir("/");
        let what = format!("{command:?}");
        self.outcome(command, &what)
    }

    // ---- places -------------------------------------------------------------------

    /// A directory for what is neither in the mount nor to be compared.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The directory to compare with.
    pub fn plain(&self) -> PathBuf {
        self.root.join("plain")
    }

    /// The mountpoint.
    pub fn safe(&self) -> &Path {
        &self.safe
    }

    /// The backing directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The content of a file of the backing directory. It is read through the mount first,
    /// which waits for what is being published; who reads beside the mount does not.
    #[track_caller]
    pub fn in_data(&self, name: &str) -> String {
        self.sh(&format!("cat '{name}' > /dev/null"));
        let bytes = std::fs::read(self.data.join(name))
            .unwrap_or_else(|error| panic!("{name} in the backing directory: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes a directory outside the mount visible under `name` beside it, read-only,
    /// for programs that lie where the user of the test may not look.
    pub fn lend(&self, source: &Path, name: &str) -> PathBuf {
        if self.who.switch().is_none() {
            return source.to_owned();
        }
        let target = self.root.join(name);
        std::fs::create_dir(&target).expect("make a directory");
        let mut mount = Command::new("mount");
        mount
            .args(["--bind", "-o", "ro"])
            .args([source, target.as_path()]);
        self.helper(mount);
        target
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.kill_daemon_by_force();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
        // Innermost last mounted, first gone; whatever is still there is detached.
        for mountpoint in mounts_below(&self.root).iter().rev() {
            detach(mountpoint);
        }
        if std::env::var_os("POLYSTORE_TEST_KEEP").is_some() {
            return;
        }
        if mounts_below(&self.root).is_empty() {
            let _ = std::fs::remove_dir_all(&self.root);
        } else if !std::thread::panicking() {
            panic!("still mounted below {}", self.root.display());
        }
    }
}

/// Unmounts at once, in use or not.
fn detach(mountpoint: &Path) {
    if we_are_root() {
        let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
    } else {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(mountpoint)
            .status();
    }
}

/// A directory that nobody else has, in which anybody may pass.
fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base =
        std::env::var_os("POLYSTORE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let base = base.canonicalize().expect("the directory for tests exists");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = base.join(format!("polystore-test-{}-{number}", std::process::id()));
    std::fs::create_dir(&root).expect("make the directory of a test");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&root, open).expect("open the directory of a test");
    root
}

/// Ends a mount with the test process, however that ends.
fn die_with_us(command: &mut Command) {
    let die = || {
        let term = Some(rustix::process::Signal::TERM);
        Ok(rustix::process::set_parent_process_death_signal(term)?)
    };
    // SAFETY: the closure makes one system call; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(die) };
}

/// Has a program start with `count` descriptors at most, for good: root's programs could raise that.
fn limit_descriptors(command: &mut Command, count: u64, root: bool) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
    let limit = move || {
        let both = Rlimit {
            current: Some(count),
            maximum: Some(count),
        };
        setrlimit(Resource::Nofile, both)?;
        if root {
            remove_capability_from_bounding_set(CapabilitySet::SYS_RESOURCE)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(limit) };
}

fn wait_for(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// The mountpoints at or below a path, in the order in which they were mounted.
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4));
    mountpoints
        .map(PathBuf::from)
        .filter(|mountpoint| mountpoint.starts_with(path))
        .collect()
}

fn mounts_at(path: &Path) -> usize {
    let all = mounts_below(path);
    all.iter().filter(|mountpoint| *mountpoint == path).count()
}
