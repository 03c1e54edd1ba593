//! Writers who may not do everything.

use std::fs;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use polystore::{AtomicWriteOptions, Durability, atomic_write, atomic_write_str};

use crate::scratch::{CHILD_PATH, Scratch, child, child_path, chmod, is_root, read};

/// Runs a child as a user who owns nothing, or as whoever runs the tests, if that is not root.
fn as_somebody(test: &str, path: &Path) {
    // The program may lie where that user may not look.
    let elsewhere = Scratch::new();
    chmod(elsewhere.path(), 0o755);
    let program = elsewhere.join("test-program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let child = child(test, path);
    let mut command = Command::new(&program);
    command.args(child.get_args()).env(CHILD_PATH, path);
    if is_root() {
        command.uid(65_534).gid(65_533);
    }
    succeeded(&command.output().unwrap());
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "a child process of other tests"]
fn child_writes() {
    for durability in [Durability::Ordered, Durability::Full] {
        atomic_write_str(
            child_path(),
            "child",
            &AtomicWriteOptions::new().durability(durability),
        )
        .unwrap();
    }
}

/// Who may replace a file need not be its owner, nor be allowed to read it. The file becomes his, and
/// neither his group nor anybody who runs it gets what they had not.
#[test]
fn what_cannot_be_kept_is_given_to_nobody() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    chmod(scratch.path(), 0o777);
    for (before, after) in [
        (0o660, 0o600),
        (0o600, 0o600),
        (0o6755, 0o755),
        (0o664, 0o644),
    ] {
        let path = scratch.file("f", "old");
        chmod(&path, before);
        as_somebody("users::child_writes", &path);
        let known = fs::metadata(&path).unwrap();
        let found = (known.uid(), known.gid(), known.mode() & 0o7777);
        assert_eq!(found, (65_534, 65_533, after), "{before:o}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(scratch.names(), [""; 0]);
}

/// One may write into a directory without being allowed to list it.
#[test]
fn a_directory_that_cannot_be_read_will_do() {
    let scratch = Scratch::new();
    let (old, new) = (scratch.file("f", "old"), scratch.join("box/new"));
    fs::create_dir(scratch.join("box")).unwrap();
    chmod(scratch.join("box"), 0o333);
    chmod(scratch.path(), 0o333);
    as_somebody("users::child_writes", &old);
    as_somebody("users::child_writes", &new);
    chmod(scratch.path(), 0o755);
    chmod(scratch.join("box"), 0o755);
    assert_eq!((read(old).as_str(), read(new).as_str()), ("child", "child"));
    assert_eq!(scratch.names(), ["box", "f"]);
}

/// The caller may overlook an error of a write. The commit does not.
#[test]
fn a_write_that_failed_is_not_committed() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let child = child("users::child_overlooks", &path);
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c".as_ref(), script.as_ref(), child.get_program()])
        .args(child.get_args());
    succeeded(&command.env(CHILD_PATH, &path).output().unwrap());
    assert_eq!(read(&path), "old");
    assert_eq!(scratch.names(), ["f"]);
}

#[test]
#[ignore = "a child process of another test"]
fn child_overlooks() {
    for piece in [300_000, 1000] {
        let error = atomic_write(child_path(), &AtomicWriteOptions::new(), |file| {
            let errors =
                (0..300_000 / piece).filter(|_| file.write_all(&vec![b'n'; piece]).is_err());
            assert!(errors.count() > 0, "the file could grow");
            let _ = file.flush();
            file.rewind()?;
            file.write_all(b"this one succeeds")
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
