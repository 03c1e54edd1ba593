//! `file_lock`: whom it excludes, how long it waits, and what it leaves.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use polystore::{FileLockError, LockOptions, file_lock, try_file_lock};

use crate::scratch::{Scratch, child, child_path, read};

fn options() -> LockOptions {
    LockOptions::new()
}

fn within(milliseconds: u64) -> LockOptions {
    options().timeout(Duration::from_millis(milliseconds))
}

/// A process that holds the lock until it is killed.
fn holder(path: &std::path::Path) -> Child {
    let mut child = child("lock::child_holds", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    assert!(
        said.lines().any(|line| line.unwrap().contains("locked")),
        "the child did not lock"
    );
    child
}

#[test]
#[ignore = "a child process of other tests"]
fn child_holds() {
    let _lock = file_lock(child_path(), &options()).unwrap();
    println!("\nlocked");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn excludes_threads_and_processes() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let mut child = holder(&path);
    assert!(try_file_lock(&path, &options()).unwrap().is_none());
    assert!(
        try_file_lock(&path, &options().shared(true))
            .unwrap()
            .is_none()
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let ours = try_file_lock(&path, &options()).unwrap();
    assert!(ours.is_some());
    thread::scope(|scope| {
        let other = scope.spawn(|| try_file_lock(&path, &options()).unwrap().is_none());
        assert!(other.join().unwrap());
    });
}

#[test]
fn shared_locks_share() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let shared = options().shared(true);
    let first = file_lock(&path, &shared).unwrap();
    let second = file_lock(&path, &shared).unwrap();
    assert!(try_file_lock(&path, &options()).unwrap().is_none());
    drop(first);
    assert!(try_file_lock(&path, &options()).unwrap().is_none());
    drop(second);
    assert!(try_file_lock(&path, &options()).unwrap().is_some());
}

#[test]
fn a_timeout_leaves_the_holder_its_lock() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let lock = file_lock(&path, &options()).unwrap();
    for _ in 0..3 {
        assert!(
            file_lock(&path, &within(20))
                .unwrap_err()
                .timeout()
                .is_some()
        );
        assert!(path.exists());
        assert!(try_file_lock(&path, &options()).unwrap().is_none());
    }
    lock.release().unwrap();
    file_lock(&path, &within(0)).unwrap().release().unwrap();
    assert_eq!(scratch.names(), ["x.lock"]);
}

#[test]
fn a_timeout_says_what_and_where() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let _lock = file_lock(&path, &options()).unwrap();
    let error = file_lock(&path, &within(10)).unwrap_err();
    assert_eq!(
        (error.operation(), error.path(), error.kind()),
        ("lock", path.as_path(), std::io::ErrorKind::TimedOut)
    );
    let timeout = error.timeout().unwrap();
    assert_eq!(
        (timeout.path(), timeout.timeout()),
        (path.as_path(), Duration::from_millis(10))
    );
    assert_eq!(
        error.to_string(),
        format!(
            "cannot lock {}: held by somebody else for 10ms",
            path.display()
        )
    );
    let converted = FileLockError::from(timeout.clone());
    assert_eq!(converted.timeout(), Some(timeout));
    assert_eq!(
        std::io::Error::from(error).kind(),
        std::io::ErrorKind::TimedOut
    );
}

#[test]
fn other_errors_keep_their_kind() {
    let scratch = Scratch::new();
    let error =
        file_lock(scratch.join("a/b.lock"), &options().ensure_directory(false)).unwrap_err();
    assert_eq!(
        (error.operation(), error.kind()),
        ("open", std::io::ErrorKind::NotFound)
    );
    assert!(error.timeout().is_none() && error.raw_os_error().is_some());
    let error = file_lock(scratch.path(), &options()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory);
    drop(file_lock(scratch.join("a/b.lock"), &options()).unwrap());
    assert!(scratch.join("a/b.lock").exists());
}

#[test]
fn waits_as_long_as_it_was_told() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let _lock = file_lock(&path, &options()).unwrap();
    for milliseconds in [0, 1, 30, 250] {
        let start = Instant::now();
        file_lock(
            &path,
            &within(milliseconds).poll_interval(Duration::from_secs(10)),
        )
        .unwrap_err();
        let waited = start.elapsed();
        let expected = Duration::from_millis(milliseconds);
        assert!(
            waited >= expected && waited < expected + Duration::from_secs(1),
            "{waited:?} instead of {expected:?}"
        );
    }
}

/// Somebody sets the clock while we wait: by an hour, at every look, there and back.
#[test]
#[cfg(target_os = "linux")]
fn the_time_is_not_that_of_the_wall_clock() {
    let scratch = Scratch::new();
    let source = scratch.file("clock.c", include_str!("clock.c"));
    let library = scratch.join("clock.so");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(compiled.unwrap().success());
    let output = child("lock::child_times_out", scratch.join("x.lock"))
        .env("LD_PRELOAD", library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "a child process of another test"]
fn child_times_out() {
    use std::time::SystemTime;
    let (first, second) = (SystemTime::now(), SystemTime::now());
    let apart = second
        .duration_since(first)
        .unwrap_or_else(|error| error.duration());
    assert!(
        apart > Duration::from_secs(3000),
        "the clock is not the one that jumps"
    );
    let path = child_path();
    let _lock = file_lock(&path, &options()).unwrap();
    for _ in 0..5 {
        let start = Instant::now();
        file_lock(&path, &within(100)).unwrap_err();
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_millis(100) && waited < Duration::from_secs(2),
            "{waited:?}"
        );
    }
}

/// However long the poll interval: a waiter is woken by the release, and by the death of the holder.
#[test]
#[cfg(target_os = "linux")]
fn a_waiter_does_not_sleep_through_a_release() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let patient = options().poll_interval(Duration::from_secs(20));
    for killed in [false, true] {
        let mut child = killed.then(|| holder(&path));
        let held = (!killed).then(|| file_lock(&path, &options()).unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let lock = file_lock(&path, &patient).unwrap();
                sender.send(Instant::now()).unwrap();
                drop(lock);
            });
            // By now the pauses of one that only polls have grown to more than a second.
            thread::sleep(Duration::from_millis(2500));
            let released = Instant::now();
            drop(held);
            if let Some(child) = &mut child {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let taken = receiver.recv().unwrap();
            let waited = taken.saturating_duration_since(released);
            assert!(
                waited < Duration::from_millis(300),
                "{waited:?}, killed: {killed}"
            );
        });
    }
}

/// However often it polls, a waiter has one descriptor for the file, and none when it is done.
#[test]
#[cfg(target_os = "linux")]
fn no_descriptor_is_lost() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|file| file == path))
            .count()
    };
    let often = within(30).poll_interval(Duration::ZERO);
    let lock = file_lock(&path, &options()).unwrap();
    assert_eq!(open(), 1);
    for _ in 0..5 {
        file_lock(&path, &often).unwrap_err();
        assert!(try_file_lock(&path, &options()).unwrap().is_none());
    }
    assert_eq!(open(), 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            file_lock(&path, &within(200).poll_interval(Duration::from_millis(1))).unwrap_err()
        });
        thread::sleep(Duration::from_millis(100));
        assert_eq!(open(), 2);
    });
    drop(lock);
    assert_eq!(open(), 0);
}

/// The file is neither removed at release nor changed by being locked.
#[test]
fn the_lock_file_stays_as_it_is() {
    let scratch = Scratch::new();
    let path = scratch.file("x.lock", "4711\n");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    for shared in [true, false] {
        drop(file_lock(&path, &options().shared(shared)).unwrap());
    }
    assert_eq!(read(&path), "4711\n");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

/// If others remove the lock file, whoever waited for the old one does not hold a lock that excludes nobody.
#[test]
#[cfg(unix)]
fn a_removed_lock_file_is_not_held() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let old = file_lock(&path, &options()).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| file_lock(&path, &within(10_000)).unwrap());
        thread::sleep(Duration::from_millis(50));
        fs::remove_file(&path).unwrap();
        drop(old);
        let lock = waiter.join().unwrap();
        assert!(try_file_lock(&path, &options()).unwrap().is_none());
        drop(lock);
        assert!(try_file_lock(&path, &options()).unwrap().is_some());
    });
}

#[test]
fn a_panic_gives_the_lock_up() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let caught = std::panic::catch_unwind(|| {
        let _lock = file_lock(&path, &options()).unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(caught.is_err());
    assert!(try_file_lock(&path, &options()).unwrap().is_some());
}

/// Whatever lock program is used beside the library, both take turns.
#[test]
#[cfg(target_os = "linux")]
fn flock_of_util_linux_is_excluded() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let flock = || {
        std::process::Command::new("flock")
            .arg("-n")
            .arg(&path)
            .arg("true")
            .status()
    };
    let Ok(free) = flock() else { return };
    assert!(free.success());
    let _lock = file_lock(&path, &options()).unwrap();
    assert!(!flock().unwrap().success());
}

/// Two that take turns all the time: printed, and only an order of magnitude asserted.
#[test]
#[cfg(target_os = "linux")]
fn hand_off_is_quick() {
    let scratch = Scratch::new();
    let path = scratch.join("x.lock");
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..100 {
        let lock = file_lock(&path, &options()).unwrap();
        let taken = thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let lock = file_lock(&path, &options()).unwrap();
                let taken = Instant::now();
                drop(lock);
                taken
            });
            thread::sleep(Duration::from_millis(5));
            let released = Instant::now();
            drop(lock);
            waiter.join().unwrap().saturating_duration_since(released)
        });
        times.push(taken);
    }
    times.sort();
    println!(
        "hand-off: median {:?}, 90 % {:?}, longest {:?}",
        times[50], times[90], times[99]
    );
    assert!(times[50] < Duration::from_millis(20), "{times:?}");
}
