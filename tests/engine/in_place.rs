//! Which files are written in place, and what a rewrite keeps of the file that it replaces.

use std::ffi::OsStr;
use std::path::Path;

use polystore::disk::Disk;
use polystore_mount::engine::opening::Access;

use crate::sim_disk::{Attributes, SimDisk};
use crate::world::{APPEND, EDIT, EXCLUSIVE, REWRITE, Setup, World, make_dir, plant};

/// Whether a rewrite of `name` by a process of the superuser goes in place.
fn goes_in_place(world: &World, name: &str) -> bool {
    opens_in_place(world, name, REWRITE)
}

fn opens_in_place(world: &World, name: &str, how: Access) -> bool {
    let pid = world.tree.spawn();
    let handle = world.open(pid, name, how);
    let in_place = handle.is_in_place();
    world.kill(pid, &[], vec![handle]);
    in_place
}

#[test]
fn names_that_match_a_pattern() {
    let setup = Setup {
        direct: vec!["pgdata/".to_owned(), "!keep.log".to_owned()],
        ..Setup::default()
    };
    let world = World::on(&SimDisk::new(), setup);
    make_dir(&world.disk, "pgdata");
    for (name, direct) in [
        ("a.log", true),
        ("pgdata/1", true),
        (".a.swp", true),
        ("d.pid", true),
        ("keep.log", false),
        ("a.txt", false),
    ] {
        assert_eq!(goes_in_place(&world, name), direct, "new {name}");
        assert_eq!(goes_in_place(&world, name), direct, "again {name}");
    }
}

#[test]
fn appends_to_what_exists() {
    let world = World::with(&[("f", "old")]);
    for how in [APPEND, APPEND] {
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", how);
        assert!(handle.is_in_place());
        world.write(&handle, "+");
        world.close(pid, handle);
    }
    assert_eq!(world.published("f").as_deref(), Some("old++"));
}

#[test]
fn files_with_several_names() {
    let world = World::with(&[("f", "old"), ("single", "old")]);
    let place = world.place("f").unwrap();
    let file = world.disk.open(&place.dir, OsStr::new("f"), false).unwrap();
    world.disk.link(&file, &place.dir, OsStr::new("g")).unwrap();
    assert!(goes_in_place(&world, "f"));
    assert_eq!(world.published("g").as_deref(), Some(""), "the same file");
    assert!(!goes_in_place(&world, "single"));
}

#[test]
fn lock_files() {
    let world = World::with(&[("x.lock", "")]);
    assert!(goes_in_place(&world, "x.lock"));
    assert!(
        !opens_in_place(&world, "index.lock", EXCLUSIVE),
        "git's index.lock is a draft"
    );
    assert!(
        goes_in_place(&world, "new.lock"),
        "seen as soon as it is made"
    );
    assert_eq!(world.published("new.lock").as_deref(), Some(""));
}

#[test]
fn files_that_somebody_appends_to_as_long_as_that_lasts() {
    let world = World::with(&[("f", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let (first, second) = (world.open(one, "f", APPEND), world.open(two, "f", APPEND));
    assert!(goes_in_place(&world, "f"));
    world.close(one, first);
    assert!(goes_in_place(&world, "f"));
    world.close(two, second);
    assert!(!goes_in_place(&world, "f"));
}

#[test]
fn what_the_caller_may_not_replace() {
    let world = World::new();
    plant(&world.disk, "f", "old", 7);
    for (mode, group, replaced) in [
        (0o755, 0, false),
        (0o777, 0, true),
        (0o1777, 0, false),
        (0o775, 7, true),
        (0o775, 8, true),
        (0o775, 9, false),
        (0o707, 7, false),
    ] {
        world.disk.set_directory_mode("/", 0, group, mode);
        let pid = world.tree.spawn_as(if mode == 0o1777 { 6 } else { 7 });
        world.tree.join_group(pid, 8);
        let handle = world.open(pid, "f", REWRITE);
        assert_eq!(
            !handle.is_in_place(),
            replaced,
            "directory {mode:o} of group {group}"
        );
        world.kill(pid, &[], vec![handle]);
        assert!(!goes_in_place(&world, "f"), "the superuser may");
    }
    world.disk.set_directory_mode("/", 7, 0, 0o500);
    let owner = world.tree.spawn_as(7);
    let handle = world.open(owner, "f", REWRITE);
    assert!(
        handle.is_in_place(),
        "the directory's owner has no right to write"
    );
    world.release(handle);
}

#[test]
fn owners_of_files_and_directories_may_replace_in_sticky_ones() {
    for (dir_owner, file_owner, caller, replaced) in
        [(0, 7, 7, true), (7, 8, 7, true), (0, 8, 7, false)]
    {
        let world = World::new();
        plant(&world.disk, "f", "old", file_owner);
        world.disk.set_directory_mode("/", dir_owner, 0, 0o1777);
        let pid = world.tree.spawn_as(caller);
        let handle = world.open(pid, "f", REWRITE);
        assert_eq!(!handle.is_in_place(), replaced);
        world.release(handle);
    }
}

#[test]
fn owners_that_an_ordinary_users_mount_cannot_recreate() {
    let disk = SimDisk::new();
    plant(&disk, "theirs", "old", 8);
    plant(&disk, "own", "old", 7);
    disk.set_directory_mode("/", 7, 7, 0o777);
    let world = World::on(
        &disk,
        Setup {
            uid: 7,
            ..Setup::default()
        },
    );
    let pid = world.tree.spawn_as(7);
    for (name, in_place) in [("theirs", true), ("own", false)] {
        let handle = world.open(pid, name, REWRITE);
        assert_eq!(handle.is_in_place(), in_place, "{name}");
        world.release(handle);
    }
    // A group that the user is not in: the system refuses to give the file to it.
    disk.fail_next(crate::sim_disk::Operation::SetOwnership, libc::EPERM);
    let handle = world.open(pid, "own", REWRITE);
    assert!(handle.is_in_place());
    world.release(handle);
    assert_eq!(world.staged(), [""; 0]);
}

#[test]
fn new_neighbours_of_a_database() {
    let world = World::with(&[("db", "SQLite format 3\0..."), ("text", "abc")]);
    for (name, in_place) in [("db-journal", true), ("text-journal", false)] {
        assert_eq!(goes_in_place(&world, name), in_place, "{name}");
    }
}

#[test]
fn existing_neighbours_of_a_database() {
    let world = World::with(&[("db", "SQLite format 3\0..."), ("db-journal", "old")]);
    assert!(goes_in_place(&world, "db-journal"));
}

#[test]
fn neighbours_of_a_locked_file() {
    let world = World::new();
    let maker = world.tree.spawn();
    let new = world.open(maker, "db", EDIT);
    let draft = new.draft().expect("a new name");
    assert!(world.engine.publish_for_lock(&draft).unwrap());
    assert_eq!(world.published("db").as_deref(), Some(""));
    world.lock_range(maker, 1, "db");
    assert!(goes_in_place(&world, "db-journal"));
    world.write(&new, "content");
    assert_eq!(
        world.published("db").as_deref(),
        Some("content"),
        "written in place"
    );
    world.engine.forget_locked_in_place(1);
    assert!(!goes_in_place(&world, "db-wal"));
    world.close(maker, new);
    assert_eq!(world.published("db").as_deref(), Some("content"));
}

#[test]
fn the_data_beside_a_lock_file_that_its_process_holds() {
    let world = World::with(&[("lock.mdb", "")]);
    let (maker, stranger) = (world.tree.spawn(), world.tree.spawn());
    world.lock_range(maker, 1, "lock.mdb");
    let without_reading = Access {
        read: false,
        ..EDIT
    };
    for (pid, how, in_place) in [
        (maker, EXCLUSIVE, false),
        (maker, REWRITE, false),
        (maker, without_reading, false),
        (stranger, EDIT, false),
        (maker, EDIT, true),
    ] {
        let handle = world.open(pid, "data.mdb", how);
        assert_eq!(handle.is_in_place(), in_place, "{how:?}");
        world.tree.kill(pid);
        let _ = world.flush(pid, &handle);
        world.release(handle);
        world.tree.revive(pid);
    }
}

#[test]
fn a_written_draft_is_not_published_by_a_lock() {
    let world = World::new();
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", REWRITE);
    world.write(&handle, "x");
    let draft = handle.draft().unwrap();
    assert!(!world.engine.publish_for_lock(&draft).unwrap());
    assert_eq!(world.published("f"), None);
}

/// Two programs make one database at the same time: they meet in one file, whoever locks first.
#[test]
fn a_lock_does_not_replace_what_another_lock_published() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let (first, second) = (world.open(one, "db", EDIT), world.open(two, "db", EDIT));
    assert!(
        world
            .engine
            .publish_for_lock(&first.draft().unwrap())
            .unwrap()
    );
    assert!(second.is_in_place());
    world.write(&first, "committed");
    world.close(one, first);
    assert_eq!(world.published("db").as_deref(), Some("committed"));
    world.write(&second, "more");
    world.close(two, second);
    assert_eq!(world.published("db").as_deref(), Some("committedmore"));
}

/// Who truncated is no editor, and finds out that it came too late.
#[test]
fn a_lock_does_not_replace_what_has_been_published_since() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let (first, second) = (world.open(one, "db", EDIT), world.open(two, "db", REWRITE));
    assert!(
        world
            .engine
            .publish_for_lock(&first.draft().unwrap())
            .unwrap()
    );
    world.write(&first, "committed");
    world.close(one, first);
    let draft = second.draft().unwrap();
    let refused = world.engine.publish_for_lock(&draft).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    world.close(two, second);
    assert_eq!(world.published("db").as_deref(), Some("committed"));
}

#[test]
fn mode_owner_and_attributes_are_kept() {
    let disk = SimDisk::new();
    let kept = Attributes {
        mode: 0o6754,
        uid: 7,
        gid: 8,
        xattrs: [("user.colour".to_owned(), b"red".to_vec())].into(),
    };
    disk.plant("f", b"old", kept.clone());
    let world = World::on(&disk, Setup::default());
    let root = world.tree.spawn();
    world.put(root, "f", "new");
    assert_eq!(world.published("f").as_deref(), Some("new"));
    assert_eq!(disk.attributes("f"), kept);

    disk.set_directory_mode("/", 0, 0, 0o777);
    let user = world.tree.spawn_as(7);
    world.put(user, "f", "newer");
    assert_eq!(world.published("f").as_deref(), Some("newer"));
    assert_eq!(
        disk.attributes("f"),
        Attributes {
            mode: 0o754,
            ..kept
        }
    );
}

#[test]
fn a_new_file_is_its_makers() {
    for (dir_mode, expected_gid) in [(0o777, 7), (0o2777, 0)] {
        // An unnamed file is made by the system as the user's; one in staging has to be given to him.
        let world = World::on(&SimDisk::new().without_unnamed(), Setup::default());
        world.disk.set_directory_mode("/", 0, 0, dir_mode);
        let user = world.tree.spawn_as(7);
        world.put(user, "f", "new");
        let attributes = world.disk.attributes("f");
        assert_eq!((attributes.uid, attributes.mode), (7, 0o644));
        assert_eq!(attributes.gid, expected_gid, "directory {dir_mode:o}");
    }
}

#[test]
fn a_failed_open_leaves_nothing() {
    use crate::sim_disk::Operation;
    for operation in [
        Operation::SetOwnership,
        Operation::CopyXattrs,
        Operation::CreateNew,
    ] {
        let disk = SimDisk::new().without_unnamed();
        plant(&disk, "f", "old", 0);
        let world = World::on(&disk, Setup::default());
        let pid = world.tree.spawn();
        disk.fail_next(operation, libc::EIO);
        assert!(world.try_open(pid, "f", REWRITE).is_err(), "{operation:?}");
        assert_eq!(world.staged(), [""; 0]);
        assert_eq!(world.published("f").as_deref(), Some("old"));
        let root = world.disk.open_dir(Path::new("/")).unwrap();
        let dir = world.disk.stat_dir(&root).unwrap().id;
        assert!(!world.engine.has_drafts_in(dir), "{operation:?}");
    }
}
