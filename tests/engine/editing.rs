//! Edits: existing files that are opened for writing without O_TRUNC.

mod crash;
mod failures;
mod names;
mod races;

use polystore_mount::engine::locks::{Class, Kind};

use crate::processes::Pid;
use crate::world::{APPEND, EDIT, Handle, READ, REWRITE, Salvaged, WHOLE, World};

const KILLED: &str = "its writer was killed";
const TAKEN: &str = "its name was removed or replaced while it was open";
const REPLACED: &str = "an edit that had started from an earlier version replaced it";

/// What is in salvage, without where it was to go.
fn kept(world: &World) -> Vec<(String, String)> {
    let text = |item: Salvaged| String::from_utf8_lossy(&item.content).into_owned();
    let items = world.salvaged().into_iter();
    items
        .map(|item| (item.reason.clone(), text(item)))
        .collect()
}

fn salvage(reason: &str, content: &str) -> Vec<(String, String)> {
    vec![(reason.to_owned(), content.to_owned())]
}

/// `pid` has written `text` to the end of "f", and has it open.
fn written(world: &World, pid: Pid, text: &str) -> Handle {
    let handle = world.open(pid, "f", EDIT);
    world.write(&handle, text);
    handle
}

fn published(world: &World) -> String {
    world.published("f").expect("a file")
}

#[test]
fn nothing_written_is_nothing_published() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let before = world.published_id("f");
    let handle = world.open(pid, "f", EDIT);
    assert_eq!(world.text(&handle), "old");
    assert_eq!(
        world.content_id(&handle).ok(),
        before,
        "the published inode"
    );
    world.close(pid, handle);
    assert_eq!(world.published_id("f"), before);
    assert_eq!(kept(&world), []);
}

#[test]
fn editors_share_and_readers_wait_for_the_last_who_wrote() {
    let world = World::with(&[("f", "old")]);
    let (one, two, reader) = (world.tree.spawn(), world.tree.spawn(), world.tree.spawn());
    let (first, second) = (written(&world, one, "+1"), written(&world, two, "+2"));
    let idle = world.open(reader, "f", EDIT);
    let open = world.open(world.tree.spawn(), "f", READ);
    for handle in [&first, &second, &idle] {
        assert_eq!(world.text(handle), "old+1+2");
    }
    world.close(one, first);
    assert_eq!(published(&world), "old");
    let stranger = world.tree.spawn();
    assert_eq!(world.read(stranger, "f").as_deref(), Some("old"));
    world.close(two, second);
    assert_eq!(published(&world), "old+1+2");
    assert_eq!(world.text(&idle), "old+1+2", "it never wrote");
    assert_eq!(world.text(&open), "old", "a reader keeps what it opened");
    world.write(&idle, "+3");
    assert_eq!(published(&world), "old+1+2");
    world.close(reader, idle);
    assert_eq!(published(&world), "old+1+2+3");
    assert_eq!(kept(&world), []);
}

#[test]
fn an_unwritten_edit_goes_along_with_what_is_published() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    world.put(world.tree.spawn(), "f", "new");
    assert_eq!(world.text(&handle), "new");
    world.write(&handle, "+");
    world.close(pid, handle);
    assert_eq!(published(&world), "new+");
    assert_eq!(kept(&world), [], "it was made from the new one");
}

#[test]
fn a_version_that_the_edit_was_not_made_from_is_kept() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    world.put(world.tree.spawn(), "f", "between");
    assert_eq!(world.text(&handle), "old+");
    world.close(pid, handle);
    assert_eq!(published(&world), "old+");
    assert_eq!(kept(&world), salvage(REPLACED, "between"));
}

#[test]
fn who_edits_and_its_forks_see_the_draft_and_others_do_not() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let before = world.tree.fork(pid);
    let handle = written(&world, pid, "+");
    let (fork, program) = (world.tree.fork(pid), world.tree.run(pid, "sort"));
    for (who, found) in [
        (pid, "old+"),
        (fork, "old+"),
        (before, "old"),
        (program, "old"),
    ] {
        assert_eq!(world.read(who, "f").as_deref(), Some(found));
    }
    world.tree.exec(fork, "sort");
    assert_eq!(world.read(fork, "f").as_deref(), Some("old"));
    world.close(pid, handle);
}

#[test]
fn a_fork_truncates_the_draft_and_an_editor_starts_anew() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    let fork = world.tree.fork(pid);
    let joined = world.open(fork, "f", REWRITE);
    assert_eq!(world.text(&handle), "");
    world.write(&joined, "child");
    world.close(fork, joined);
    let anew = world.open(pid, "f", REWRITE);
    assert!(anew.edit().is_none());
    assert_eq!(
        (world.text(&handle).as_str(), world.text(&anew).as_str()),
        ("child", "")
    );
    world.write(&anew, "anew");
    world.close(pid, anew);
    assert_eq!(published(&world), "anew");
    world.close(pid, handle);
    assert_eq!(published(&world), "child");
    assert_eq!(kept(&world), salvage(REPLACED, "anew"));
}

#[test]
fn a_stranger_who_truncates_starts_anew() {
    let world = World::with(&[("f", "old")]);
    let (pid, stranger) = (world.tree.spawn(), world.tree.spawn());
    let handle = written(&world, pid, "+");
    let anew = world.open(stranger, "f", REWRITE);
    assert_eq!(world.text(&handle), "old+");
    world.close(stranger, anew);
    world.close(pid, handle);
}

#[test]
fn appends_join_what_is_being_written() {
    let world = World::with(&[("f", "old")]);
    let (pid, logger) = (world.tree.spawn(), world.tree.spawn());
    let handle = written(&world, pid, "+");
    let appended = world.open(logger, "f", APPEND);
    world.write(&appended, "line");
    assert_eq!(published(&world), "old");
    world.close(logger, appended);
    world.close(pid, handle);
    assert_eq!(published(&world), "old+line");
}

#[test]
fn an_edit_of_what_others_append_to_goes_in_place() {
    let world = World::with(&[("f", "old")]);
    let (pid, logger) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(pid, "f", EDIT);
    let appended = world.open(logger, "f", APPEND);
    world.write(&appended, "1");
    world.write(&handle, "2");
    world.write(&appended, "3");
    assert_eq!(published(&world), "old123");
    world.close(pid, handle);
    world.close(logger, appended);
    assert_eq!(published(&world), "old123");
}

#[test]
fn unlocking_publishes_and_the_next_write_starts_from_that() {
    for class in [Class::Flock, Class::Posix] {
        let world = World::with(&[("f", "old")]);
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", EDIT);
        let lock = |kind| {
            world
                .try_lock(pid, &handle, class, WHOLE, kind)
                .expect("locked")
        };
        for turn in ["1", "2"] {
            lock(Kind::Exclusive);
            world.write(&handle, turn);
            assert_ne!(published(&world), world.text(&handle));
            lock(Kind::Unlock);
            assert_eq!(published(&world), world.text(&handle));
        }
        world.close(pid, handle);
        assert_eq!(published(&world), "old12");
        assert_eq!(kept(&world), []);
    }
}

#[test]
fn what_unlocking_published_stays_when_the_writer_is_killed() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    let lock = |kind| {
        let locked = world.try_lock(pid, &handle, Class::Flock, WHOLE, kind);
        locked.expect("locked");
    };
    lock(Kind::Exclusive);
    world.write(&handle, "+1");
    lock(Kind::Unlock);
    world.write(&handle, "+2");
    world.kill(pid, &[], vec![handle]);
    assert_eq!(published(&world), "old+1");
    assert_eq!(kept(&world), salvage(KILLED, "old+1+2"));
}

#[test]
fn a_range_lock_puts_in_place_what_nobody_has_written() {
    let world = World::with(&[("f", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let inode = world.published_id("f");
    let (first, second) = (world.open(one, "f", EDIT), world.open(two, "f", EDIT));
    let locked = world.try_lock(one, &first, Class::Posix, (0, 9), Kind::Exclusive);
    locked.expect("locked");
    assert!(first.is_in_place() && second.is_in_place());
    world.write(&second, "+2");
    world.write(&first, "+1");
    assert_eq!(published(&world), "old+2+1");
    let late = world.open(two, "f", REWRITE);
    assert!(late.is_in_place());
    assert_eq!(published(&world), "", "truncated in place");
    world.kill(one, &[], vec![first]);
    world.write(&second, "kept");
    assert_eq!(published(&world), "kept");
    world.close(two, second);
    world.close(two, late);
    assert_eq!(world.published_id("f"), inode);
    let after = world.open(two, "f", REWRITE);
    assert!(!after.is_in_place(), "the last handle is gone");
    world.close(two, after);
    assert_eq!(kept(&world), []);
}

#[test]
fn a_range_lock_changes_nothing_that_is_written() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    let locked = world.try_lock(pid, &handle, Class::Posix, (0, 9), Kind::Exclusive);
    locked.expect("locked");
    assert!(!handle.is_in_place());
    world.kill(pid, &[], vec![handle]);
    assert_eq!(published(&world), "old");
}

#[test]
fn a_lock_of_the_whole_file_leaves_a_draft() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    for class in [Class::Flock, Class::Posix] {
        let locked = world.try_lock(pid, &handle, class, WHOLE, Kind::Exclusive);
        locked.expect("locked");
    }
    world.write(&handle, "+");
    world.kill(pid, &[], vec![handle]);
    assert_eq!(published(&world), "old");
}

#[test]
fn all_who_wrote_must_be_killed_for_it_to_be_dropped() {
    let world = World::with(&[("f", "old")]);
    let (one, two, idle) = (world.tree.spawn(), world.tree.spawn(), world.tree.spawn());
    let (first, second) = (written(&world, one, "+1"), written(&world, two, "+2"));
    let third = world.open(idle, "f", EDIT);
    world.kill(one, &[], vec![first]);
    world.kill(two, &[], vec![second]);
    assert_eq!(published(&world), "old");
    assert_eq!(world.text(&third), "old", "it never wrote");
    assert_eq!(kept(&world), salvage(KILLED, "old+1+2"));
    world.close(idle, third);
    assert_eq!(published(&world), "old");
}

#[test]
fn one_who_wrote_and_closed_in_peace_publishes_for_all() {
    for killed_first in [true, false] {
        let world = World::with(&[("f", "old")]);
        let (one, two) = (world.tree.spawn(), world.tree.spawn());
        let (first, second) = (written(&world, one, "+1"), written(&world, two, "+2"));
        if killed_first {
            world.kill(one, &[], vec![first]);
            world.close(two, second);
        } else {
            world.close(two, second);
            assert_eq!(published(&world), "old");
            world.kill(one, &[], vec![first]);
        }
        assert_eq!(published(&world), "old+1+2");
        assert_eq!(kept(&world), []);
    }
}

#[test]
fn the_opener_decides_and_not_its_children() {
    let world = World::with(&[("f", "old")]);
    let shell = world.tree.spawn();
    let handle = written(&world, shell, "+1");
    let child = world.tree.run(shell, "sleep");
    world.kill(child, &[&handle], Vec::new());
    world.close(shell, handle);
    assert_eq!(published(&world), "old+1", "a killed child drops nothing");
    let shell = world.tree.spawn();
    let handle = written(&world, shell, "+2");
    let child = world.tree.run(shell, "sleep");
    world.kill(shell, &[&handle], Vec::new());
    world.close(child, handle);
    assert_eq!(
        published(&world),
        "old+1",
        "the child of a killed opener publishes nothing"
    );
    assert_eq!(kept(&world), salvage(KILLED, "old+1+2"));
}

#[test]
fn truncating_by_path_is_an_edit_in_one_step() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let before = world.published_id("f");
    world.try_truncate(pid, "f", 2).expect("truncated");
    assert_eq!(published(&world), "ol");
    assert_ne!(world.published_id("f"), before, "a new version");
    let handle = written(&world, pid, "+");
    let stranger = world.tree.spawn();
    world.try_truncate(stranger, "f", 1).expect("truncated");
    assert_eq!(
        (published(&world).as_str(), world.text(&handle).as_str()),
        ("ol", "o")
    );
    world.close(pid, handle);
    assert_eq!(published(&world), "o");
}
