//! Writers who may not do everything.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use polystore::{
    AtomicWriteOptions, Durability, JsonOptions, LockOptions, atomic_update_json, atomic_write,
    atomic_write_str, file_lock,
};

use crate::scratch::{CHILD_PATH, Scratch, child, child_path, chmod, is_root, read};
use crate::skipped::{has_root, skip};

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
    if !has_root() {
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

/// Whoever may read a file may lock it, and keep those waiting who may write the document.
#[test]
fn a_lock_file_gives_rights_to_writers_only() {
    let scratch = Scratch::new();
    let update = |path: &Path| {
        atomic_update_json(path, &JsonOptions::new(), |_: Option<u32>| {
            Ok::<_, Infallible>(1)
        })
        .unwrap();
    };
    let mode = |name: &str| fs::metadata(scratch.join(name)).unwrap().mode() & 0o777;
    for (number, (document, lock)) in [
        (0o644, 0o600),
        (0o664, 0o660),
        (0o666, 0o666),
        (0o622, 0o666),
        (0o600, 0o600),
    ]
    .into_iter()
    .enumerate()
    {
        let path = scratch.file(&format!("{number}.json"), "0");
        chmod(&path, document);
        update(&path);
        assert_eq!(mode(&format!("{number}.json.lock")), lock, "{document:o}");
    }
    update(&scratch.join("new.json"));
    let new = mode("new.json") & 0o222;
    assert_eq!(mode("new.json.lock"), new | new << 1);
    if is_root() {
        let path = scratch.file("theirs.json", "0");
        chmod(&path, 0o664);
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_533)).unwrap();
        update(&path);
        let known = fs::metadata(scratch.join("theirs.json.lock")).unwrap();
        assert_eq!((known.uid(), known.gid()), (65_534, 65_533));
        assert_eq!(mode("theirs.json.lock"), 0o660);
    }
}

/// An entry of an ACL that may read only would let its user lock.
#[test]
fn a_lock_file_has_the_acl_of_its_document_as_far_as_it_writes() {
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "0");
    let set = |entries: &str| {
        let mut setfacl = Command::new("setfacl");
        let set = setfacl.args(["-m", entries]).arg(&path).status();
        set.is_ok_and(|status| status.success())
    };
    if !set("u:65534:r,u:65533:rw,g::r") {
        return skip("no ACLs here");
    }
    atomic_update_json(&path, &JsonOptions::new(), |_: Option<u32>| {
        Ok::<_, Infallible>(1)
    })
    .unwrap();
    let shown = Command::new("getfacl")
        .args(["-cnp".as_ref(), scratch.join("f.json.lock").as_os_str()])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<&str> = shown.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        lines,
        [
            "user::rw-",
            "user:65533:rw-",
            "user:65534:---",
            "group::---",
            "mask::rw-",
            "other::---"
        ]
    );
}

/// As with fs.protected_symlinks, whatever that is set to.
#[test]
fn links_of_others_in_sticky_directories_are_not_followed() {
    if !has_root() {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("real")).unwrap();
    fs::create_dir(scratch.join("shared")).unwrap();
    chmod(scratch.join("shared"), 0o1777);
    let target = scratch.file("real/f.json", "0");
    for (name, leads_to) in [("file", "../real/f.json"), ("dir", "../real")] {
        let link = scratch.join("shared").join(name);
        std::os::unix::fs::symlink(leads_to, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
    }
    for path in ["shared/file", "shared/dir/f.json", "shared/dir/new/f.json"] {
        let path = scratch.join(path);
        let error = atomic_write_str(&path, "1", &AtomicWriteOptions::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{path:?}");
        let updated = atomic_update_json(&path, &JsonOptions::new(), |_: Option<u32>| {
            Ok::<_, Infallible>(1)
        });
        let error = io::Error::from(updated.unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{path:?}");
    }
    assert_eq!(read(&target), "0");
    assert!(!scratch.join("real/new").exists() && !scratch.join("real/f.json.lock").exists());
    // The follower's own are.
    std::os::unix::fs::lchown(scratch.join("shared/file"), Some(0), None).unwrap();
    atomic_write_str(scratch.join("shared/file"), "1", &AtomicWriteOptions::new()).unwrap();
    assert_eq!(read(&target), "1");
}

#[test]
fn the_lock_file_of_a_stranger_does_not_count() {
    if !has_root() {
        return;
    }
    let scratch = Scratch::new();
    chmod(scratch.path(), 0o1777);
    let path = scratch.file("f.json", "0");
    let lock = scratch.file("f.json.lock", "");
    std::os::unix::fs::chown(&lock, Some(65_534), None).unwrap();
    let _held = file_lock(&lock, &LockOptions::new()).unwrap();
    let update = |path: &Path| {
        let options = JsonOptions::new().timeout(Duration::from_millis(50));
        atomic_update_json(path, &options, |_: Option<u32>| Ok::<_, Infallible>(1))
            .map_err(io::Error::from)
    };
    let error = update(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("user 65534"), "{error}");
    // The owner of the document is no stranger.
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    assert_eq!(update(&path).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let scratch = Scratch::new();
    let fifo = |name: &str| {
        let made = Command::new("mkfifo").arg(scratch.join(name)).status();
        assert!(made.unwrap().success());
        scratch.join(name)
    };
    fifo("f.json.lock");
    for path in [fifo("fifo"), scratch.file("f.json", "0")] {
        let updated = atomic_update_json(&path, &JsonOptions::new(), |_: Option<u32>| {
            Ok::<_, Infallible>(1)
        });
        let error = io::Error::from(updated.unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(scratch.names(), ["f.json", "f.json.lock", "fifo"]);
}
