use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use rustix::fs::XattrFlags;

use super::*;
use crate::engine::salvage::{Description, Reason};
use crate::skipped::{has_root, skip};

const USER: u32 = 1234;

struct Data {
    directory: tempfile::TempDir,
    dir: Dir,
}

impl Data {
    fn new() -> Data {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let dir = SystemDisk.open_dir(directory.path()).expect("a directory");
        fs::create_dir_all(directory.path().join(OWN_DIR).join(DIR)).expect("the salvage");
        Data { directory, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self, name: &str) -> PathBuf {
        self.path(OWN_DIR).join(DIR).join(name)
    }

    fn keep(&self, id: &str, path: Option<&str>) {
        fs::write(self.store(id), "draft").expect("a draft");
        let note = Description {
            path: path.map(PathBuf::from),
            ..Description::unknown(Reason::WriterKilled)
        };
        fs::write(self.store(&format!("{id}.json")), note.to_json()).expect("a note");
    }

    /// Gives all of it to a user.
    fn give(&self) {
        let all = std::process::Command::new("chown")
            .args(["-hR", "1234:1234"])
            .arg(self.directory.path())
            .status();
        assert!(all.expect("chown").success());
    }

    fn restore(&self, id: &str) -> io::Result<PathBuf> {
        restore(&self.dir, id, None, false)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_is_wanted_is_removed_and_nothing_else() {
    let data = Data::new();
    data.keep("0000000100-s-000001", None);
    data.keep("0000000200-s-000002", None);
    fs::remove_file(data.store("0000000200-s-000002.json")).expect("a note");
    data.keep("0000000300-s-000003", None);
    // A note whose draft is on its way, and things that no mount keeps.
    fs::write(data.store("0000000400-s-000004.json"), "{}").expect("a note");
    fs::create_dir(data.store("0000000150-s-000009")).expect("a directory");
    symlink("/etc/passwd", data.store("0000000160-s-000009")).expect("a link");

    let limit = UNIX_EPOCH + Duration::from_secs(250);
    let removed = purge(&data.dir, |item| item.time < limit).expect("a purge");
    let gone: Vec<_> = removed
        .iter()
        .map(|removed| removed.item.id.as_str())
        .collect();
    assert_eq!(gone, ["0000000200-s-000002", "0000000100-s-000001"]);
    assert!(removed.iter().all(|removed| removed.result.is_ok()));
    let mut left: Vec<_> = fs::read_dir(data.store(""))
        .expect("the salvage")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            "0000000150-s-000009",
            "0000000160-s-000009",
            "0000000300-s-000003",
            "0000000300-s-000003.json",
            "0000000400-s-000004.json"
        ]
    );
}

#[test]
fn a_draft_goes_back_as_the_file_that_it_is() {
    let data = Data::new();
    fs::create_dir(data.path("sub")).expect("a directory");
    data.keep("1", Some("sub/f"));
    let inode = fs::metadata(data.store("1")).expect("a draft").ino();
    assert_eq!(data.restore("1").expect("it can be"), Path::new("sub/f"));
    let now = fs::metadata(data.path("sub/f")).expect("it is there");
    assert_eq!((now.ino(), now.nlink()), (inode, 1));
    assert!(list(&data.dir).expect("an empty one").is_empty());
    data.keep("2", Some("sub/f"));
    let kind = data.restore("2").expect_err("something is there").kind();
    assert_eq!(kind, io::ErrorKind::AlreadyExists);
    let forced = restore(&data.dir, "2", None, true);
    assert_eq!(forced.expect("it is replaced"), Path::new("sub/f"));
    assert_ne!(fs::metadata(data.path("sub/f")).expect("it").ino(), inode);
    assert_eq!(
        fs::read_dir(data.path("sub")).expect("a directory").count(),
        1
    );
    let kind = data.restore("2").expect_err("it is gone").kind();
    assert_eq!(kind, io::ErrorKind::NotFound);
}

#[test]
fn a_note_leads_to_no_other_place() {
    let data = Data::new();
    let outside = tempfile::tempdir().expect("a directory");
    let outside = outside.path().to_str().expect("text");
    for path in [
        "../x",
        "sub/../../x",
        &format!("{outside}/x"),
        ".polystore/x",
        ".polystore/salvage/2",
        ".polystore-draft-1",
        ".",
        "",
        "..",
    ] {
        data.keep("1", Some(path));
        let error = data.restore("1").expect_err(path);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        assert!(error.to_string().contains("--to FILE"), "{error}");
    }
    for id in ["", ".", "..", "../salvage/1", "1.json", "../../f"] {
        let kind = data.restore(id).expect_err(id).kind();
        assert_eq!(kind, io::ErrorKind::NotFound, "{id}");
    }
    assert_eq!(fs::read_dir(outside).expect("a directory").count(), 0);
    // One that is too long is none.
    let note = format!("{{\"path\":\"f\",\"x\":\"{}\"}}", "x".repeat(100_000));
    fs::write(data.store("1.json"), note).expect("a note");
    let error = data.restore("1").expect_err("nothing is known");
    assert!(error.to_string().contains("not known"), "{error}");
}

#[test]
fn links_on_the_way_are_not_followed() {
    let data = Data::new();
    let outside = tempfile::tempdir().expect("a directory");
    symlink(outside.path(), data.path("sub")).expect("a link");
    fs::create_dir(data.path("real")).expect("a directory");
    symlink(outside.path(), data.path("real/deep")).expect("a link");
    symlink(outside.path().join("f"), data.path("real/f")).expect("a link");
    for path in ["sub/f", "real/deep/f", "real/f"] {
        data.keep("1", Some(path));
        for force in [false, true] {
            restore(&data.dir, "1", None, force).expect_err(path);
        }
    }
    fs::remove_dir_all(data.path(".polystore/salvage")).expect("the salvage");
    symlink(outside.path(), data.path(".polystore/salvage")).expect("a link");
    fs::write(outside.path().join("1"), "draft").expect("a file");
    let error = list(&data.dir).expect_err("it leads elsewhere");
    assert!(
        error.to_string().contains("salvage is not a directory"),
        "{error}"
    );
    purge(&data.dir, |_| true).expect_err("it leads elsewhere");
    fs::rename(data.path(".polystore"), data.path("other")).expect("a rename");
    symlink("other", data.path(".polystore")).expect("a link");
    let error = list(&data.dir).expect_err("it leads elsewhere");
    assert!(
        error.to_string().contains(".polystore is not a directory"),
        "{error}"
    );
    assert_eq!(
        fs::read_dir(outside.path()).expect("a directory").count(),
        1
    );
}

#[test]
fn what_is_no_file_is_not_listed() {
    let data = Data::new();
    for name in ["fifo", "1.json"] {
        let made = std::process::Command::new("mkfifo")
            .arg(data.store(name))
            .status();
        assert!(made.expect("mkfifo").success());
    }
    symlink("/etc/passwd", data.store("link")).expect("a link");
    fs::write(data.store("1"), "draft").expect("a draft");
    let items = list(&data.dir).expect("a list");
    assert_eq!(items.len(), 1);
    assert_eq!(
        (items[0].id.as_str(), items[0].path.as_deref()),
        ("1", None)
    );
    for id in ["fifo", "link"] {
        let error = restore(&data.dir, id, Some(&data.path("f")), false).expect_err(id);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn in_a_users_store_root_believes_only_that_user() {
    if !has_root() {
        return;
    }
    let data = Data::new();
    data.keep("1", Some("f"));
    data.give();
    // A hard link to a file of root.
    fs::write(data.path("secret"), "secret").expect("a file");
    fs::hard_link(data.path("secret"), data.store("2")).expect("a link");
    // What only root may write.
    fs::create_dir(data.path("roots")).expect("a directory");
    for (id, path) in [("3", "roots/f"), ("4", "g")] {
        data.keep(id, Some(path));
        chown(data.store(id), Some(USER), Some(USER)).expect("chown");
        chown(data.store(&format!("{id}.json")), Some(USER), None).expect("chown");
    }
    let ids: Vec<String> = list(&data.dir)
        .expect("a list")
        .into_iter()
        .map(|item| item.id)
        .collect();
    assert_eq!(ids, ["4", "3", "1"]);
    let to = data.path("rescued");
    let kind = restore(&data.dir, "2", Some(&to), false)
        .expect_err("not his")
        .kind();
    assert_eq!(kind, io::ErrorKind::NotFound);
    let kind = data.restore("3").expect_err("he may not").kind();
    assert_eq!(kind, io::ErrorKind::PermissionDenied);
    data.restore("4").expect("he may");
    restore(&data.dir, "1", Some(&to), false).expect("root may");
    assert_eq!(fs::metadata(&to).expect("a file").uid(), USER);
    assert!(rustix::process::geteuid().is_root());
    // Nobody's but the owner's of the data.
    chown(data.path(""), Some(0), None).expect("chown");
    let error = list(&data.dir).expect_err("a stranger's");
    assert!(
        error.to_string().contains("belongs to user 1234"),
        "{error}"
    );
    chown(data.path(""), Some(USER), None).expect("chown");
    fs::set_permissions(data.store(""), fs::Permissions::from_mode(0o777)).expect("chmod");
    let error = list(&data.dir).expect_err("everybody's");
    assert!(
        error.to_string().contains("nobody else may write it"),
        "{error}"
    );
}

/// On another file system it is a copy, with all that belongs to it.
#[test]
fn a_copy_keeps_what_belongs_to_the_file() {
    let (elsewhere, data) = (tempfile::tempdir_in("/dev/shm"), Data::new());
    let Ok(elsewhere) = elsewhere else {
        return skip("no /dev/shm");
    };
    let device = |path: &Path| fs::metadata(path).expect("a directory").dev();
    if device(elsewhere.path()) == device(data.directory.path()) {
        return skip("needs two file systems");
    }
    let to = elsewhere.path().join("f");
    for force in [false, true] {
        data.keep("1", Some("f"));
        let draft = fs::File::open(data.store("1")).expect("a draft");
        draft
            .set_permissions(fs::Permissions::from_mode(0o2751))
            .expect("chmod");
        let owner = match is_root() {
            true => (USER, USER + 1),
            false => (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        };
        chown(data.store("1"), Some(owner.0), Some(owner.1)).expect("chown");
        draft
            .set_permissions(fs::Permissions::from_mode(0o2751))
            .expect("chmod");
        draft
            .set_modified(UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789))
            .expect("times");
        let note = if is_root() {
            "trusted.note"
        } else {
            "user.note"
        };
        rustix::fs::setxattr(data.store("1"), note, b"kept", XattrFlags::empty()).expect("set");
        restore(&data.dir, "1", Some(&to), force).expect("it can be");
        let now = fs::metadata(&to).expect("a file");
        assert_eq!(
            (now.uid(), now.gid(), now.mode() & 0o7777),
            (owner.0, owner.1, 0o2751)
        );
        assert_eq!(
            (now.mtime(), now.mtime_nsec()),
            (1_234_567_890, 123_456_789)
        );
        assert_eq!(fs::read(&to).expect("a file"), b"draft");
        let mut value = [0; 10];
        let len = rustix::fs::getxattr(&to, note, &mut value).expect("it is kept");
        assert_eq!(&value[..len], b"kept");
        assert!(!data.store("1").exists() && !data.store("1.json").exists());
    }
    data.keep("1", Some("f"));
    let kind = restore(&data.dir, "1", Some(&to), false)
        .expect_err("it is there")
        .kind();
    assert_eq!(kind, io::ErrorKind::AlreadyExists);
    assert_eq!(
        fs::read_dir(elsewhere.path()).expect("a directory").count(),
        1
    );
}
