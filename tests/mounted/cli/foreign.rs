//! Commands on a plain directory in which others may write, too.

use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::net::UnixListener;

use super::site::*;
use crate::skipped::has_root;

const STRANGER: u32 = 1234;

/// A command line for each of the commands that change a file.
fn commands(file: &str) -> [Vec<&str>; 3] {
    [
        vec!["write", file],
        vec!["update", file, "--merge", "1"],
        vec!["lock", file, "--", "true"],
    ]
}

/// Runs a command that must fail soon, for this reason.
fn refused(site: &Site, command: &[&str], reason: &str) {
    let started = Instant::now();
    let output = site.run(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{command:?} did it");
    assert!(said.contains(reason), "{command:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(started.elapsed() < Duration::from_secs(10), "{command:?}");
}

fn make_dir(site: &Site, name: &str, mode: u32) {
    fs::create_dir(site.path(name)).unwrap();
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn names(site: &Site, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(site.path(directory)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whatever fs.protected_symlinks is set to.
#[test]
fn links_of_others_in_sticky_directories_are_not_followed() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    make_dir(&site, "real", 0o755);
    make_dir(&site, "shared", 0o1777);
    make_dir(&site, "open", 0o777);
    for name in ["f.json", "x.lock"] {
        fs::write(site.path("real").join(name), "0").unwrap();
        for directory in ["shared", "open"] {
            let link = site.path(directory).join(name);
            symlink(format!("../real/{name}"), &link).unwrap();
            lchown(&link, Some(STRANGER), None).unwrap();
        }
    }
    let link = site.path("shared/dir");
    symlink("../real", &link).unwrap();
    lchown(&link, Some(STRANGER), None).unwrap();
    for file in [
        "shared/f.json",
        "shared/dir/f.json",
        "shared/dir/new",
        "shared/x.lock",
    ] {
        for command in commands(file) {
            refused(&site, &command, "symbolic link of user 1234");
        }
    }
    assert_eq!(names(&site, "real"), ["f.json", "x.lock"]);
    assert_eq!(site.cat("real/f.json").as_deref(), Some("0"));
    // The lock file beside a document is one of those that are opened.
    fs::write(site.path("shared/own.json"), "0").unwrap();
    let lock = site.path("shared/own.json.lock");
    symlink("../real/x.lock", &lock).unwrap();
    lchown(&lock, Some(STRANGER), None).unwrap();
    for command in &commands("shared/own.json")[1..] {
        refused(&site, command, "symbolic link of user 1234");
    }
    // In a directory that is not sticky who may write may do anything; own links are followed everywhere.
    site.succeed(&["update", "open/f.json", "--merge", "1"]);
    lchown(site.path("shared/f.json"), Some(0), None).unwrap();
    site.succeed(&["update", "shared/f.json", "--merge", "2"]);
    assert_eq!(site.cat("real/f.json").as_deref(), Some("2"));
    assert!(site.path("real/f.json.lock").exists());
}

#[test]
fn lock_files_are_for_those_who_may_write() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    make_dir(&site, "d", 0o777);
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().mode() & 0o777;
    for (document, lock) in [
        (0o644, 0o600),
        (0o664, 0o660),
        (0o666, 0o666),
        (0o600, 0o600),
    ] {
        for (number, command) in commands("d/f.json").iter().enumerate().skip(1) {
            fs::write(site.path("d/f.json"), "0").unwrap();
            fs::set_permissions(site.path("d/f.json"), fs::Permissions::from_mode(document))
                .unwrap();
            chown(
                site.path("d/f.json"),
                Some(STRANGER),
                Some(STRANGER + number as u32),
            )
            .unwrap();
            site.succeed(command);
            let known = fs::metadata(site.path("d/f.json.lock")).unwrap();
            assert_eq!(known.mode() & 0o777, lock, "{command:?} {document:o}");
            assert_eq!(
                (known.uid(), known.gid()),
                (STRANGER, STRANGER + number as u32)
            );
            fs::remove_file(site.path("d/f.json.lock")).unwrap();
            // By its own name as well.
            site.succeed(&["lock", "d/f.json.lock", "--", "true"]);
            assert_eq!(mode("d/f.json.lock"), lock);
            fs::remove_file(site.path("d/f.json.lock")).unwrap();
            fs::remove_file(site.path("d/f.json")).unwrap();
        }
    }
    site.succeed(&[
        "update",
        "d/new.json",
        "--default",
        "{}",
        "--merge",
        "{\"a\":1}",
    ]);
    let new = mode("d/new.json") & 0o222;
    assert_eq!(mode("d/new.json.lock"), new | new << 1);
}

#[test]
fn the_lock_file_of_a_stranger_does_not_count() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    make_dir(&site, "shared", 0o1777);
    fs::write(site.path("shared/f.json"), "0").unwrap();
    let lock = site.path("shared/f.json.lock");
    fs::write(&lock, "").unwrap();
    chown(&lock, Some(STRANGER), Some(STRANGER)).unwrap();
    let held = File::open(&lock).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for command in commands("shared/f.json").into_iter().chain([vec![
        "lock",
        "shared/f.json.lock",
        "--",
        "true",
    ]]) {
        refused(&site, &command, "user 1234");
    }
    assert_eq!(site.cat("shared/f.json").as_deref(), Some("0"));
    // The owner of the document is none.
    chown(site.path("shared/f.json"), Some(STRANGER), None).unwrap();
    refused(
        &site,
        &["lock", "-n", "shared/f.json", "--", "true"],
        "somebody else holds",
    );
    drop(held);
    site.succeed(&["update", "shared/f.json", "--merge", "1"]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    for site in Site::both() {
        let fifo = |name: &str| {
            let mut mkfifo = site.program("mkfifo");
            mkfifo.arg(name);
            assert!(finish(mkfifo).status.success());
        };
        make_dir(&site, "d", 0o777);
        fifo("d/fifo");
        fifo("d/fifo.lock");
        fifo("d/f.json.lock");
        fs::write(site.path("d/f.json"), "0").unwrap();
        fs::create_dir(site.path("d/dir")).unwrap();
        fs::create_dir(site.path("d/dir.lock")).unwrap();
        let _socket = UnixListener::bind(site.path("d/socket")).unwrap();
        symlink("fifo", site.path("d/link")).unwrap();
        for path in ["", "d/f.json", "d/dir", "d/socket"] {
            site.give(&site.path(path));
        }
        let before = names(&site, "d");
        for file in ["d/fifo", "d/socket", "/dev/null", "d/link", "d/fifo.lock"] {
            for command in commands(file) {
                refused(&site, &command, "a FIFO or a socket");
            }
        }
        for file in ["d/dir", "d/dir.lock", "d/"] {
            for command in commands(file) {
                refused(&site, &command, "irectory");
            }
        }
        for command in &commands("d/f.json") {
            refused(&site, command, "a FIFO or a socket");
        }
        assert_eq!(names(&site, "d"), before);
    }
}

/// Root looks at a directory of a user, who has put what he likes into it.
#[test]
fn salvage_and_status_follow_no_planted_link() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let user = |path: &str| lchown(site.path(path), Some(STRANGER), Some(STRANGER)).unwrap();
    let plant = |id: &str, path: &str| {
        for (name, content) in [
            (id.to_owned(), "draft".to_owned()),
            (format!("{id}.json"), format!("{{\"path\":\"{path}\"}}")),
        ] {
            let name = format!("data/.polystore/salvage/{name}");
            fs::write(site.path(&name), content).unwrap();
            user(&name);
        }
    };
    make_dir(&site, "elsewhere", 0o755);
    fs::write(site.path("elsewhere/1"), "secret").unwrap();
    make_dir(&site, "data/.polystore", 0o700);
    make_dir(&site, "data/.polystore/salvage", 0o700);
    for path in ["data", "data/.polystore", "data/.polystore/salvage"] {
        user(path);
    }
    symlink("../elsewhere", site.path("data/sub")).unwrap();
    user("data/sub");
    plant("1", "sub/planted");
    plant("2", "../elsewhere/planted");
    plant("3", "good");
    plant("4", "x\n[error] forged \u{1b}[2J");
    let link = site.path("data/.polystore/salvage/5");
    fs::hard_link(site.path("elsewhere/1"), link).unwrap();
    let mut mkfifo = site.program("mkfifo");
    mkfifo.args([
        "data/.polystore/salvage/6",
        "data/.polystore/salvage/7.json",
    ]);
    assert!(finish(mkfifo).status.success());
    let listed = site.run(&["salvage", "list", "data"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 5, "{listed}");
    let restore = |id: &str| site.refuse(&["salvage", "restore", "data", id, "--force"]);
    assert!(restore("1").contains("no symbolic link is followed"));
    assert!(restore("2").contains("not a path of a file in the data directory"));
    assert!(restore("5").contains("not in salvage") && restore("6").contains("not in salvage"));
    assert_eq!(names(&site, "elsewhere"), ["1"]);
    assert!(
        site.run(&["salvage", "restore", "data", "3"])
            .status
            .success()
    );
    let known = fs::metadata(site.path("data/good")).unwrap();
    assert_eq!((known.uid(), known.gid()), (STRANGER, STRANGER));
    // The directories themselves.
    fs::rename(site.path("data/.polystore/salvage"), site.path("data/old")).unwrap();
    symlink("../../elsewhere", site.path("data/.polystore/salvage")).unwrap();
    for command in [
        &["salvage", "list", "data"][..],
        &["salvage", "purge", "data", "--all"],
        &["salvage", "restore", "data", "1"],
        &["status", "data"],
    ] {
        let said = site.refuse(command);
        assert!(said.contains("salvage is not a directory"), "{said}");
    }
    fs::remove_file(site.path("data/.polystore/salvage")).unwrap();
    symlink("/proc", site.path("data/.polystore/sessions")).unwrap();
    let said = site.refuse(&["status", "data"]);
    assert!(said.contains("sessions is not a directory"), "{said}");
    // Another user than the owner of the data can have made it.
    chown(site.path("data"), Some(0), None).unwrap();
    for command in [&["salvage", "list", "data"][..], &["status", "data"]] {
        let said = site.refuse(command);
        assert!(said.contains("belongs to user 1234 (mode 0700)"), "{said}");
    }
    assert_eq!(names(&site, "elsewhere"), ["1"]);
}

#[test]
fn the_salvage_of_another_user_is_named_as_such() {
    let Some(site) = Site::new(Who::User) else {
        return;
    };
    if !has_root() {
        return;
    }
    make_dir(&site, "data/.polystore", 0o700);
    for command in [&["salvage", "list", "data"][..], &["status", "data"]] {
        let said = site.refuse(command);
        assert!(
            said.contains(".polystore belongs to user 0 (mode 0700)"),
            "{said}"
        );
    }
}

/// `.polystore` that somebody else made beforehand.
#[test]
fn a_foreign_staging_directory_is_not_used() {
    for site in Site::both() {
        if !has_root() {
            return;
        }
        let own = fs::metadata(site.path("data")).unwrap().uid();
        let staging = site.path("data/.polystore");
        for (owner, mode, advice) in [
            (STRANGER, 0o700, "mount as user 1234"),
            (own, 0o755, "give it mode 0700"),
            (own, 0o770, "give it mode 0700"),
        ] {
            make_dir(&site, "data/.polystore", mode);
            chown(&staging, Some(owner), Some(owner)).unwrap();
            let said = site.refuse(&["mount", "-d", "data", "safe"]);
            assert!(
                said.contains("data: ") && said.contains(".polystore"),
                "{said}"
            );
            assert!(
                said.contains(&format!("{mode:04o}")) && said.contains(advice),
                "{said}"
            );
            assert!(!is_mounted(&site.path("safe")));
            site.succeed(&["mount", "-d", "--read-only", "data", "safe"]);
            site.succeed(&["unmount", "safe"]);
            fs::remove_dir(&staging).unwrap();
        }
        make_dir(&site, "elsewhere", 0o700);
        site.give(&site.path("elsewhere"));
        symlink("../elsewhere", &staging).unwrap();
        let said = site.refuse(&["mount", "-d", "data", "safe"]);
        assert!(said.contains(".polystore is not a directory"), "{said}");
        assert_eq!(names(&site, "elsewhere"), [""; 0]);
    }
}

/// Names may hold line ends and what moves the cursor.
#[test]
fn no_name_can_forge_a_line_of_the_log() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let name = "x\n2026 [error] forged \u{1b}[2J";
    let data = site.path(name);
    fs::create_dir(&data).unwrap();
    let session = data.join(".polystore/sessions/dead");
    fs::create_dir_all(&session).unwrap();
    for directory in [
        data.join(".polystore"),
        data.join(".polystore/sessions"),
        session.clone(),
    ] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(session.join("lock"), "").unwrap();
    fs::write(session.join("1.f"), "draft").unwrap();
    site.succeed(&[
        "mount",
        "-d",
        name,
        "safe",
        "--log",
        "info",
        "--log-file",
        "log",
    ]);
    site.succeed(&["unmount", "safe"]);
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(log.contains("1 unpublished drafts"), "{log}");
    assert!(
        !log.contains('\u{1b}') && !log.contains("\n2026 [error]"),
        "{log}"
    );
    // Nor one of the messages.
    let message = site.refuse(&["mount", name, "safe", "--direct", "[z-a]"]);
    assert!(
        message.contains("\\x0a2026 [error] forged \\x1b[2J"),
        "{message}"
    );
    let said = site.refuse(&["mount", "data", "safe", "--log-file", "/dev/null"]);
    assert!(
        said.contains("log file /dev/null: is not a regular file"),
        "{said}"
    );
}
