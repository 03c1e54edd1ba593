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
