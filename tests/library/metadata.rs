//! What a new version keeps of the old one, and where it goes, on a POSIX system.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use polystore::{AtomicWriteOptions, Durability, atomic_write_str};

use crate::scratch::{CHILD_PATH, Scratch, child, child_path, chmod, is_root, read};
use crate::skipped::{has_root, skip};

fn write(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    atomic_write_str(path, text, &AtomicWriteOptions::new())
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("a file").mode() & 0o7777
}

/// Runs a program that prints; `None` if it is not installed.
fn output(program: &str, arguments: &[&OsStr]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a file made in the ordinary way gets, the new one gets: neither 0600 nor more than the umask allows.
#[test]
fn a_new_file_has_the_mode_of_any_new_file() {
    let scratch = Scratch::new();
    scratch.file("ordinary", "");
    write(scratch.join("new"), "x").unwrap();
    assert_eq!(mode(scratch.join("new")), mode(scratch.join("ordinary")));
    // The umask belongs to the process, so another one needs another process.
    for (umask, expected) in [("027", 0o640), ("077", 0o600), ("000", 0o666)] {
        let path = scratch.join(umask);
        let child = child("metadata::child_writes", &path);
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let output = Command::new("sh")
            .args(["-c".as_ref(), script.as_ref(), child.get_program()])
            .args(child.get_args())
            .env(CHILD_PATH, &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(mode(&path), expected, "umask {umask}");
    }
}

#[test]
#[ignore = "a child process of other tests"]
fn child_writes() {
    write(child_path(), "child").unwrap();
}

#[test]
fn the_mode_is_kept_or_what_was_asked_for() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    for kept in [0o600, 0o644, 0o755, 0o640, 0o400, 0o000, 0o4755, 0o1777] {
        chmod(&path, kept);
        write(&path, "").unwrap();
        assert_eq!(mode(&path), kept, "{kept:o}");
    }
    let options = AtomicWriteOptions::new().mode(0o604);
    atomic_write_str(&path, "x", &options).unwrap();
    atomic_write_str(scratch.join("new"), "x", &options).unwrap();
    assert_eq!((mode(&path), mode(scratch.join("new"))), (0o604, 0o604));
}

#[test]
fn the_owner_is_kept_where_permitted() {
    if !has_root() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    std::os::unix::fs::chown(&path, Some(12_345), Some(54_321)).unwrap();
    chmod(&path, 0o640);
    write(&path, "new").unwrap();
    let known = fs::metadata(&path).unwrap();
    assert_eq!(
        (known.uid(), known.gid(), known.mode() & 0o7777),
        (12_345, 54_321, 0o640)
    );
}

#[test]
fn attributes_and_acls_are_kept() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let long = vec![b'v'; 1000];
    for (name, value) in [
        ("user.colour", b"red".as_slice()),
        ("user.empty", b""),
        ("user.long", &long),
    ] {
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let with_acl = output(
        "setfacl",
        &["-m".as_ref(), "u:12345:r".as_ref(), path.as_os_str()],
    )
    .is_some();
    let acl = || output("getfacl", &["-c".as_ref(), "-p".as_ref(), path.as_os_str()]);
    let before = (acl(), mode(&path));
    write(&path, "new").unwrap();
    assert_eq!((acl(), mode(&path)), before);
    assert!(!with_acl || before.0.unwrap().contains("user:12345:r--"));
    let attribute = |name: &str| {
        let mut value = vec![0; 2000];
        let len = rustix::fs::getxattr(&path, name, value.as_mut_slice()).unwrap();
        value[..len].to_vec()
    };
    assert_eq!(
        (
            attribute("user.colour"),
            attribute("user.empty"),
            attribute("user.long")
        ),
        (b"red".into(), vec![], long)
    );
}

/// Rights that were given to the old program are not given to whatever replaces it.
#[test]
fn capabilities_are_not_kept() {
    if !has_root() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    // struct vfs_cap_data, revision 2: cap_net_bind_service, permitted and effective.
    let capability: [u32; 5] = [0x0200_0001, 1 << 10, 0, 0, 0];
    let capability: Vec<u8> = capability
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    rustix::fs::setxattr(
        &path,
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    // Nothing is written: the system itself takes capabilities away at the first write.
    write(&path, "").unwrap();
    let error =
        rustix::fs::getxattr(&path, "security.capability", &mut [0_u8; 64][..]).unwrap_err();
    assert_eq!(error, rustix::io::Errno::NODATA);
}

/// New files inherit the directory's default ACL and group, as any new file does; a file that had none gets none.
#[test]
fn default_acls_and_setgid_directories_are_respected() {
    let scratch = Scratch::new();
    let plain = scratch.file("plain", "old");
    let arguments = ["-d", "-m", "u:12345:rwx,o::-"].map(OsStr::new);
    if output(
        "setfacl",
        &[&arguments[..], &[scratch.path().as_os_str()]].concat(),
    )
    .is_none()
    {
        return skip("not installed: setfacl");
    }
    if is_root() {
        std::os::unix::fs::chown(scratch.path(), None, Some(54_321)).unwrap();
    }
    chmod(scratch.path(), mode(scratch.path()) | 0o2000);
    let ordinary = scratch.file("ordinary", "");
    let new = scratch.join("new");
    write(&new, "x").unwrap();
    let acl =
        |path: &Path| output("getfacl", &["-c".as_ref(), "-p".as_ref(), path.as_os_str()]).unwrap();
    assert!(acl(&new).contains("user:12345:rw"), "{}", acl(&new));
    assert_eq!(acl(&new), acl(&ordinary));
    assert_eq!(
        fs::metadata(&new).unwrap().gid(),
        fs::metadata(&ordinary).unwrap().gid()
    );
    let before = (acl(&plain), fs::metadata(&plain).unwrap().gid());
    write(&plain, "new").unwrap();
    assert_eq!((acl(&plain), fs::metadata(&plain).unwrap().gid()), before);
}

#[test]
fn symbolic_links_are_followed() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("real/deep")).unwrap();
    fs::create_dir(scratch.join("links")).unwrap();
    scratch.file("real/f", "old");
    symlink("../real/f", scratch.join("links/relative")).unwrap();
    symlink("relative", scratch.join("links/chain")).unwrap();
    symlink(scratch.join("real/f"), scratch.join("links/absolute")).unwrap();
    symlink("../real/deep/new", scratch.join("links/dangling")).unwrap();
    symlink("real/deep", scratch.join("shortcut")).unwrap();
    symlink("../f", scratch.join("real/deep/up")).unwrap();
    for link in [
        "links/relative",
        "links/chain",
        "links/absolute",
        "shortcut/up",
    ] {
        write(scratch.join(link), link).unwrap();
        assert_eq!(read(scratch.join("real/f")), link);
        assert!(
            fs::symlink_metadata(scratch.join(link))
                .unwrap()
                .is_symlink()
        );
    }
    write(scratch.join("links/dangling"), "made").unwrap();
    assert_eq!(read(scratch.join("real/deep/new")), "made");
    assert_eq!(scratch.names(), ["links", "real", "shortcut"]);

    symlink("loop", scratch.join("loop")).unwrap();
    assert!(write(scratch.join("loop"), "x").is_err());
}

#[test]
fn other_hard_links_keep_the_old_version() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    fs::hard_link(&path, scratch.join("other")).unwrap();
    write(&path, "new").unwrap();
    assert_eq!(
        (read(&path).as_str(), read(scratch.join("other")).as_str()),
        ("new", "old")
    );
}

#[test]
fn devices_and_fifos_stay_what_they_are() {
    let scratch = Scratch::new();
    let fifo = scratch.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    symlink("fifo", scratch.join("link")).unwrap();
    symlink("/dev/null", scratch.join("null")).unwrap();
    for path in [
        fifo.clone(),
        scratch.join("link"),
        scratch.join("null"),
        "/dev/null".into(),
    ] {
        let error = write(&path, "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
    // The standard output of the child is a pipe.
    let output = child("metadata::child_writes", "/dev/stdout")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not a regular file"),
        "{output:?}"
    );
}

#[test]
fn names_may_be_long_or_strange() {
    let scratch = Scratch::new();
    let names = [
        "n".repeat(255).into(),
        "ä".repeat(127).into(),
        OsString::from_vec(b"\xff\xfe \n'\"".to_vec()),
        "...".into(),
    ];
    for name in names {
        let path = scratch.path().join(&name);
        for text in ["first", "second"] {
            write(&path, text).unwrap();
            assert_eq!(read(&path), text);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(scratch.names(), [""; 0]);
    }
    let error = write(scratch.path().join("n".repeat(256)), "x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
    let error = write(scratch.path().join(OsStr::from_bytes(b"zero\0byte")), "x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_name_alone_is_in_the_working_directory() {
    let scratch = Scratch::new();
    // The working directory belongs to the process.
    let output = child("metadata::child_writes", "file.txt")
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read(scratch.join("file.txt")), "child");
    assert_eq!(scratch.names(), ["file.txt"]);
}

/// Whether a file may be replaced is a matter of its directory.
#[test]
fn a_read_only_directory_is_an_error() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    chmod(scratch.path(), 0o555);
    let result = if is_root() {
        // Nothing is forbidden to root but the immutable.
        let directory = fs::File::open(scratch.path()).unwrap();
        let flags = rustix::fs::ioctl_getflags(&directory);
        let Ok(flags) = flags else { return };
        let immutable = flags | rustix::fs::IFlags::IMMUTABLE;
        if rustix::fs::ioctl_setflags(&directory, immutable).is_err() {
            return;
        }
        let result = write(&path, "new");
        rustix::fs::ioctl_setflags(&directory, flags).unwrap();
        result
    } else {
        write(&path, "new")
    };
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    chmod(scratch.path(), 0o755);
    assert_eq!(read(&path), "old");
    assert_eq!(scratch.names(), ["f"]);
}

/// Killed at any moment, a writer leaves the old version or the new one. With O_TMPFILE it leaves nothing else, but for
/// the moment between the two last steps.
#[test]
fn a_killed_writer_leaves_a_whole_file() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    for round in 0..40_u64 {
        let mut child = child("metadata::child_writes_on_and_on", &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(3000 + 700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Ok(content) = fs::read(&path) {
            assert_eq!(content.len(), 200_000);
            assert!(content.iter().all(|byte| *byte == content[0]));
        }
    }
    assert!(path.exists(), "no child came to write");
}

#[test]
#[ignore = "a child process of another test"]
fn child_writes_on_and_on() {
    let path = child_path();
    let options = AtomicWriteOptions::new().durability(Durability::None);
    for byte in (b'a'..=b'z').cycle() {
        polystore::atomic_write_bytes(&path, vec![byte; 200_000], &options).unwrap();
    }
}
