//! What is said: usage, help, lists.

use super::site::*;

#[test]
fn usage_errors_exit_with_2() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
        (&["lock", "x.lock"], "COMMAND"),
        (&["lock", "x.lock", "true"], "--"),
        (&["write"], "FILE"),
        (&["update", "x.json"], "--merge"),
        (&["update", "x.json", "--merge", "{"], "--merge: "),
        (&["update", "x.json", "--patch", "{}"], "patch"),
        (
            &["update", "x.json", "--merge", "1", "--timeout", "2h"],
            "an hour",
        ),
        (&["salvage", "purge", "data"], "--all"),
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
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let shown = |args: &[&str]| {
        let output = site.run(args);
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["--version"]).starts_with("polystore "));
    assert!(shown(&["--help"]).contains("Example:"));
    for command in [
        "mount",
        "unmount",
        "status",
        "lock",
        "write",
        "update",
        "publish",
        "salvage",
        "completions",
    ] {
        assert!(shown(&[command, "--help"]).contains("Example"), "{command}");
    }
    fs::write(site.path("completions"), shown(&["completions", "bash"])).unwrap();
    let mut bash = site.program("bash");
    bash.args(["-c", ". ./completions && complete -p polystore"]);
    assert!(finish(bash).status.success());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
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
    for site in Site::both() {
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

/// Leaves a draft of `NAME` in salvage: its writer is killed.
fn leave_draft(site: &Site, name: &str) {
    let mut command = site.program("sh");
    command.args(["-c", "exec > \"$0\"; echo unfinished; kill -KILL $$", name]);
    assert_eq!(finish(command).status.signal(), Some(9));
}

#[test]
fn a_killed_writers_draft_is_listed_and_restored() {
    for site in Site::both() {
        for (arguments, mountpoint) in [(&["data", "safe"][..], "safe"), (&["data"], "data")] {
            site.succeed(&[&["mount", "-d"], arguments].concat());
            leave_draft(&site, &format!("{mountpoint}/file"));
            assert_eq!(
                site.cat(&format!("{mountpoint}/file")).as_deref(),
                Some("content")
            );
            let mut id = String::new();
            wait_for("the salvage", || {
                let list = site.run(&["salvage", "list", mountpoint]);
                let list = String::from_utf8(list.stdout).unwrap();
                let Some(line) = list.lines().nth(1) else {
                    return false;
                };
                assert!(line.contains(" file ") && line.contains(" 11 "), "{list}");
                id = line.split(' ').next().unwrap().to_string();
                true
            });
            let restore = |more: &[&str]| {
                let line = [&["salvage", "restore", mountpoint, &id], more].concat();
                site.run(&line)
            };
            // Something is in the place that it was written for.
            let output = restore(&[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("--force"), "{said}");
            assert_eq!(
                site.cat(&format!("{mountpoint}/file")).as_deref(),
                Some("content")
            );

            let output = restore(&["--to", "rescued"]);
            assert!(output.status.success(), "{output:?}");
            let shown = String::from_utf8(output.stdout).unwrap();
            assert_eq!(Path::new(shown.trim_end()), site.path("rescued"));
            assert_eq!(site.cat("rescued").as_deref(), Some("unfinished\n"));
            fs::remove_file(site.path("rescued")).unwrap();
            site.succeed(&["unmount", mountpoint]);
            assert!(
                !site.path("data/.polystore").exists(),
                "nothing is left in it"
            );
        }
        site.succeed(&["mount", "-d", "data"]);
        let message = site.refuse(&["salvage", "restore", "data", "none"]);
        assert!(
            message.contains("none") && !message.contains("/proc"),
            "{message}"
        );
        site.succeed(&["unmount", "data"]);
    }
}
