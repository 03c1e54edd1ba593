//! Whose rights count when a draft is joined, followed and published: without a kernel that checks.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use polystore::disk::Disk;

use crate::sim_disk::{Attributes, SimDisk};
use crate::world::{EDIT, EXCLUSIVE, REWRITE, Setup, World, plant};

const A: u32 = 7;
const B: u32 = 8;

fn shared(mode: u32) -> World {
    let world = World::on(&SimDisk::new(), Setup::default());
    world.disk.set_directory_mode("/", 0, 0, mode);
    world
}

fn put(disk: &SimDisk, name: &str, content: &str, mode: u32, uid: u32) {
    let attributes = Attributes {
        mode,
        uid,
        gid: uid,
        ..Attributes::default()
    };
    disk.plant(name, content.as_bytes(), attributes);
}

/// Behind the mount, as its owner could.
fn move_behind(disk: &SimDisk, from: &str, to: &str) {
    let root = disk.open_dir(Path::new("/")).expect("the root");
    disk.rename(&root, OsStr::new(from), &root, OsStr::new(to), true)
        .expect("a rename");
}

#[test]
fn an_edit_does_not_follow_its_name_to_what_an_editor_may_not_open() {
    for written in [false, true] {
        let world = shared(0o777);
        put(&world.disk, "f", "own", 0o644, B);
        let b = world.tree.spawn_as(B);
        let handle = world.open(b, "f", EDIT);
        if written {
            world.write(&handle, "O");
        }
        put(&world.disk, "secret", "secret", 0o600, 0);
        move_behind(&world.disk, "secret", "f");
        world.write(&handle, "X");
        let text = world.text(&handle);
        assert!(!text.contains("secret") && text.contains('X'), "{text}");
        let _ = world.try_close(b, handle);
        // Nothing of the other file is shown or published with what was written.
        let published = world.published("f").expect("a file");
        let attributes = world.disk.attributes("f");
        match written {
            true => assert!(!published.contains("secret"), "{published}"),
            false => assert_eq!((published.as_str(), attributes.mode), ("secret", 0o600)),
        }
    }
}

#[test]
fn an_edit_follows_its_name_to_what_its_editors_may_open() {
    let world = shared(0o777);
    put(&world.disk, "f", "own", 0o644, B);
    let b = world.tree.spawn_as(B);
    let handle = world.open(b, "f", EDIT);
    put(&world.disk, "next", "next", 0o666, 0);
    move_behind(&world.disk, "next", "f");
    world.write(&handle, "X");
    world.close(b, handle);
    assert_eq!(world.published("f").as_deref(), Some("nextX"));
}

#[test]
fn a_draft_takes_no_name_that_its_writer_may_not_take() {
    for (mode, replaced) in [(0o1777, false), (0o777, true)] {
        for how in [REWRITE, EDIT, EXCLUSIVE] {
            let world = shared(mode);
            let b = world.tree.spawn_as(B);
            let handle = world.open(b, "n", how);
            world.write(&handle, "later");
            put(&world.disk, "n", "first", 0o644, A);
            let closed = world.try_close(b, handle);
            let published = world.published("n");
            if replaced {
                assert_eq!(published.as_deref(), Some("later"), "{mode:o} {how:?}");
                continue;
            }
            assert_eq!(
                closed.map_err(|error| error.kind()),
                Err(io::ErrorKind::PermissionDenied),
                "{how:?}"
            );
            assert_eq!(published.as_deref(), Some("first"), "{how:?}");
            assert_eq!(
                world.salvaged().len(),
                1,
                "{how:?}: what was written is kept"
            );
        }
    }
}

#[test]
fn two_users_do_not_meet_in_an_unwritten_file() {
    for (one, two, meet) in [(A, B, false), (0, B, false), (B, 0, false), (B, B, true)] {
        let world = shared(0o777);
        let (first, second) = (world.tree.spawn_as(one), world.tree.spawn_as(two));
        let (mine, theirs) = (world.open(first, "n", EDIT), world.open(second, "n", EDIT));
        world.write(&mine, "secret");
        assert_eq!(world.text(&theirs) == "secret", meet, "{one} and {two}");
        world.close(first, mine);
        world.close(second, theirs);
    }
}

#[test]
fn an_ordinary_users_mount_makes_nothing_with_set_id_bits_for_others() {
    let setup = Setup {
        uid: A,
        ..Setup::default()
    };
    let world = World::on(&SimDisk::new(), setup);
    world.disk.set_directory_mode("/", 0, 0, 0o777);
    plant(&world.disk, "other", "x", 0);
    for (uid, expected) in [(A, 0o6755), (B, 0o755), (0, 0o6755)] {
        let who = polystore_mount::engine::credentials::Credentials::new(uid, uid);
        assert_eq!(
            world.engine.mode_of_new(&who, 0o6755),
            expected,
            "user {uid}"
        );
    }
}
