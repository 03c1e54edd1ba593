//! In the background.

use super::site::*;

#[test]
fn daemon_is_usable_when_it_returns() {
    for site in Site::both() {
        let (data, safe) = (site.path("data"), site.path("safe"));
        let (data, safe) = (data.to_str().unwrap(), safe.to_str().unwrap());
        for _ in 0..5 {
            // Returns although its output is captured: the background process holds none of it.
            site.succeed(&["mount", "--daemon", data, safe]);
            assert_eq!(
                site.cat(safe).or(site.cat("safe/file")).as_deref(),
                Some("content")
            );
            let daemons = site.daemons();
            assert_eq!(daemons.len(), 1, "{daemons:?}");
            let process = PathBuf::from(format!("/proc/{}", daemons[0]));
            assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
            for descriptor in 0..3 {
                let link = fs::read_link(process.join(format!("fd/{descriptor}"))).unwrap();
                assert_eq!(link, Path::new("/dev/null"));
            }
            let stat = fs::read_to_string(process.join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            assert_eq!(
                fields[3],
                daemons[0].to_string(),
                "not in a session of its own"
            );
            site.succeed(&["unmount", safe]);
            assert_eq!(
                site.daemons(),
                [0; 0],
                "unmount returned before its process ended"
            );
        }
    }
}

#[test]
fn daemon_tells_why_it_cannot() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    fs::write(site.path("full"), "").unwrap();
    let message = site.refuse(&["mount", "-d", "data", "full"]);
    assert!(message.contains("is not a directory"), "{message}");
    // What fails only after the fork is told, too: fusermount3 refuses what it cannot write to.
    let Some(site) = Site::new(Who::User) else {
        return;
    };
    fs::create_dir(site.path("closed")).unwrap();
    fs::set_permissions(site.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let message = site.refuse(&["mount", "-d", "data", "closed"]);
    assert!(
        message.contains("closed") && message.contains("no write access"),
        "{message}"
    );
    assert!(!is_mounted(&site.path("closed")));
    assert!(site.daemons().is_empty());
}

#[test]
fn a_daemon_whose_launcher_is_killed_is_there_or_not() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let (data, safe) = (site.path("data"), site.path("safe"));
    for round in 0..20 {
        let mut command = site.polystore([OsStr::new("mount"), OsStr::new("-d")]);
        let mut launcher = command
            .args([&data, &safe])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(400 * round));
        let _ = launcher.kill();
        launcher.wait().unwrap();
        // Whoever is still starting comes to an end of it.
        wait_for("the daemon", || match site.daemons().len() {
            0 => true,
            _ => site.cat("safe/file").as_deref() == Some("content"),
        });
        // One that has served the question may be ending, because nobody took its word.
        thread::sleep(Duration::from_millis(50));
        if site.daemons().is_empty() {
            assert!(!is_mounted(&safe), "round {round}: nobody serves the mount");
        } else {
            site.succeed(&["unmount", "safe"]);
        }
    }
    assert!(site.daemons().is_empty());
}

#[test]
fn a_daemon_logs_to_its_file() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    site.succeed(&[
        "mount",
        "-d",
        "data",
        "safe",
        "--log=info",
        "--log-file=log",
    ]);
    site.succeed(&["unmount", "safe"]);
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(
        log.contains("Z info: ") && log.contains("is mounted at"),
        "{log}"
    );
    assert!(log.contains("is unmounted"), "{log}");
    let output = site.run(&["mount", "-d", "data", "safe", "--log=info"]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("nothing is logged") && said.contains("--log-file"),
        "{said}"
    );
    let message = site.refuse(&["mount", "data", "other", "--log-file", "none/log"]);
    assert!(message.contains("log file none/log"), "{message}");
}
