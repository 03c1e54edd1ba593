//! Mounting, serving, ending.

use super::site::*;

#[test]
fn foreground_until_unmounted() {
    for site in Site::both() {
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
    for site in Site::both() {
        let program = match site.who {
            Who::Root => "umount",
            Who::User => "fusermount3",
        };
        let mut mount = site.start(&["data", "safe"], "safe");
        let mut command = site.program(program);
        if site.who == Who::User {
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
    for signal in ["-INT", "-TERM", "-HUP"] {
        for site in Site::both() {
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
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
    for site in Site::both() {
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
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
fn over_itself() {
    for site in Site::both() {
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
fn mountpoints_by_other_names() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
fn names_that_need_care() {
    for site in Site::both() {
        for name in ["a b", "com,ma", "back\\slash", "new\nline", "-dash", "ünï"] {
            let data = site.path(name);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("file"), name).unwrap();
            site.give(&data);
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
fn allow_other_and_read_only() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
        let Some(site) = Site::new(Who::User) else {
            return;
        };
        let message = site.refuse(&["mount", "--allow-other", "data", "safe"]);
        assert!(message.contains("user_allow_other"), "{message}");
        assert!(!site.path("safe").exists());
    }
}
