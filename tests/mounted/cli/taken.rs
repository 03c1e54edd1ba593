//! Mountpoints that are taken, dead or unfit.

use super::site::*;

#[test]
fn unusable_mountpoints_are_refused() {
    for site in Site::both() {
        site.succeed(&["mount", "-d", "data", "safe"]);
        let message = site.refuse(&["mount", "data", "safe"]);
        let data = site.path("data");
        assert!(
            message.contains("is mounted already: it is a polystore mount of"),
            "{message}"
        );
        assert!(message.contains(data.to_str().unwrap()), "{message}");
        let message = site.refuse(&["mount", "data", "safe/sub"]);
        assert!(
            message.contains("is inside the polystore mount"),
            "{message}"
        );
        assert!(!data.join("sub").exists());
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
fn a_dead_mount_is_cleared() {
    for site in Site::both() {
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
    if Site::new(Who::Root).is_none() {
        return;
    }
    let Some(site) = Site::new(Who::User) else {
        return;
    };
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
    // Dead, root can tell and clear it. What it has left is the user's, and not used.
    mount.signal("-KILL");
    mount.end();
    let output = as_root(&["mount", "-d", "data", "safe"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(".polystore belongs to user 1000 (mode 0700)"),
        "{said}"
    );
    assert!(
        said.contains("mount as user 1000, or mount with --read-only"),
        "{said}"
    );
    assert!(!is_mounted(&safe), "the dead one has been cleared");
    fs::remove_dir_all(site.path("data/.polystore")).unwrap();
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
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
