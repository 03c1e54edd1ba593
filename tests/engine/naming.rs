//! Renames, links and removals of names that have drafts.

use std::io::ErrorKind;

use polystore::disk::Disk;

use crate::sim_disk::Operation;
use crate::world::{EXCLUSIVE, REWRITE, World, make_dir};

const TAKEN: &str = "its name was removed or replaced while it was open";

fn kept(world: &World) -> Vec<(Option<String>, String, String)> {
    let text = |content| String::from_utf8(content).unwrap();
    let items = world.salvaged().into_iter();
    items
        .map(|item| (item.path, item.reason, text(item.content)))
        .collect()
}

fn taken(path: &str, content: &str) -> Vec<(Option<String>, String, String)> {
    vec![(Some(path.to_owned()), TAKEN.to_owned(), content.to_owned())]
}

#[test]
fn a_rename_by_the_holder_publishes_at_once_and_drops_the_old_version() {
    for stale in [false, true] {
        let world = World::with(&[("f", "old")]);
        let (writer, reader) = (world.tree.spawn(), world.tree.spawn());
        if stale {
            world.put(reader, "f.tmp", "stale");
        }
        let handle = world.open(writer, "f.tmp", REWRITE);
        world.write(&handle, "new");
        world.rename(writer, "f.tmp", "f");
        assert_eq!(world.read(reader, "f").as_deref(), Some("new"));
        assert_eq!(world.read(reader, "f.tmp"), None);
        world.write(&handle, ", more");
        assert_eq!(
            world.read(reader, "f").as_deref(),
            Some("new, more"),
            "in place from now on"
        );
        world.close(writer, handle);
        assert_eq!(world.published("f").as_deref(), Some("new, more"));
        assert_eq!(world.names(), ["f"]);
        assert_eq!((kept(&world), world.staged()), (vec![], vec![]));
    }
}

#[test]
fn an_unwritten_draft_is_moved_too() {
    let world = World::with(&[("f", "old"), ("f.tmp", "stale")]);
    let writer = world.tree.spawn();
    let handle = world.open(writer, "f.tmp", REWRITE);
    world.rename(writer, "f.tmp", "f");
    assert_eq!(world.published("f").as_deref(), Some(""));
    world.write(&handle, "new");
    world.close(writer, handle);
    assert_eq!(world.published("f").as_deref(), Some("new"));
    assert_eq!(world.names(), ["f"]);
}

#[test]
fn a_holder_that_is_killed_after_the_rename_has_published() {
    let world = World::with(&[("f", "old")]);
    let writer = world.tree.spawn();
    let handle = world.open(writer, "f.tmp", REWRITE);
    world.write(&handle, "new");
    world.rename(writer, "f.tmp", "f");
    world.kill(writer, &[], vec![handle]);
    assert_eq!(world.published("f").as_deref(), Some("new"));
    assert_eq!(kept(&world), []);
}

#[test]
fn a_descendant_may_rename_what_is_being_made() {
    let world = World::new();
    let parent = world.tree.spawn();
    let handle = world.open(parent, "f.tmp", REWRITE);
    world.write(&handle, "new");
    let mv = world.tree.run(parent, "mv");
    world.rename(mv, "f.tmp", "f");
    assert_eq!(world.published("f").as_deref(), Some("new"));
    world.close(parent, handle);
    assert_eq!(world.names(), ["f"]);
}

#[test]
fn a_rename_by_others_moves_the_published_version_and_the_rewrite_stays_with_the_name() {
    for exec in [false, true] {
        let world = World::with(&[("f", "old")]);
        let writer = world.tree.spawn();
        let handle = world.open(writer, "f", REWRITE);
        world.write(&handle, "new");
        let mover = if exec {
            world.tree.exec(writer, "other program");
            writer
        } else {
            world.tree.spawn()
        };
        world.rename(mover, "f", "f.bak");
        assert_eq!(world.published("f.bak").as_deref(), Some("old"));
        assert_eq!(world.published("f"), None);
        world.close(writer, handle);
        assert_eq!(world.published("f").as_deref(), Some("new"));
        assert_eq!(world.published("f.bak").as_deref(), Some("old"));
    }
}

#[test]
fn who_sees_no_draft_cannot_rename_or_unlink_it() {
    let world = World::new();
    let (writer, stranger) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(writer, "f", REWRITE);
    world.write(&handle, "new");
    let renamed = world.try_rename(stranger, "f", "g", true);
    assert_eq!(renamed.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        world.try_unlink(stranger, "f").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    world.close(writer, handle);
    assert_eq!(world.published("f").as_deref(), Some("new"));
}

#[test]
fn a_rename_onto_a_name_orphans_its_older_drafts() {
    for old in [&[("new", "moved")][..], &[("new", "moved"), ("f", "old")]] {
        let world = World::with(old);
        let (writer, mover) = (world.tree.spawn(), world.tree.spawn());
        let handle = world.open(writer, "f", REWRITE);
        world.write(&handle, "late");
        world.rename(mover, "new", "f");
        world.write(&handle, ", later");
        world.close(writer, handle);
        assert_eq!(world.published("f").as_deref(), Some("moved"));
        assert_eq!(kept(&world), taken("f", "late, later"));
    }
}

#[test]
fn a_draft_that_is_moved_orphans_the_older_drafts_of_its_new_name() {
    let world = World::with(&[("f", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let late = world.open(one, "f", REWRITE);
    world.write(&late, "late");
    let made = world.open(two, "tmp", EXCLUSIVE);
    world.write(&made, "moved");
    world.rename(two, "tmp", "f");
    world.close(one, late);
    world.close(two, made);
    assert_eq!(world.published("f").as_deref(), Some("moved"));
    assert_eq!(kept(&world), taken("f", "late"));
}

#[test]
fn a_draft_opened_after_the_rename_wins() {
    let world = World::with(&[("new", "moved"), ("f", "old")]);
    let (writer, mover) = (world.tree.spawn(), world.tree.spawn());
    world.rename(mover, "new", "f");
    let handle = world.open(writer, "f", REWRITE);
    world.close(writer, handle);
    assert_eq!(world.published("f").as_deref(), Some(""));
}

#[test]
fn what_its_own_process_unlinked_is_not_kept() {
    for old in [&[][..], &[("f", "old")]] {
        let world = World::with(old);
        let writer = world.tree.spawn();
        let handle = world.open(writer, "f", REWRITE);
        world.write(&handle, "scratch");
        world.unlink(writer, "f");
        assert_eq!(world.names(), [""; 0]);
        assert_eq!(world.read(writer, "f"), None);
        world.close(writer, handle);
        assert_eq!(world.names(), [""; 0]);
        assert_eq!((kept(&world), world.staged()), (vec![], vec![]));
    }
}

#[test]
fn what_somebody_else_unlinked_is_kept_unless_it_is_empty() {
    for content in ["", "work"] {
        let world = World::with(&[("f", "old")]);
        let (writer, other) = (world.tree.spawn(), world.tree.spawn());
        let handle = world.open(writer, "f", REWRITE);
        if !content.is_empty() {
            world.write(&handle, content);
        }
        world.unlink(other, "f");
        world.close(writer, handle);
        assert_eq!(world.published("f"), None);
        let expected = if content.is_empty() {
            vec![]
        } else {
            taken("f", content)
        };
        assert_eq!(kept(&world), expected);
    }
}

#[test]
fn a_name_is_free_again_after_its_draft_is_unlinked() {
    let world = World::new();
    let writer = world.tree.spawn();
    let first = world.open(writer, "f", EXCLUSIVE);
    world.write(&first, "first");
    world.unlink(writer, "f");
    let second = world.open(writer, "f", EXCLUSIVE);
    world.write(&second, "second");
    world.close(writer, second);
    world.close(writer, first);
    assert_eq!(world.published("f").as_deref(), Some("second"));
}

#[test]
fn an_unwritten_draft_does_not_replace_a_version_published_since() {
    for old in [&[][..], &[("f", "old")]] {
        let world = World::with(old);
        let (idle, busy) = (world.tree.spawn(), world.tree.spawn());
        let handle = world.open(idle, "f", REWRITE);
        world.put(busy, "f", "newer");
        world.close(idle, handle);
        assert_eq!(world.published("f").as_deref(), Some("newer"));
        assert_eq!((kept(&world), world.staged()), (vec![], vec![]));
    }
}

/// logrotate: the log is moved away and made anew while its writer has it open.
#[test]
fn an_unwritten_draft_of_a_name_that_was_moved_away_and_made_anew() {
    let world = World::with(&[("f", "old")]);
    let (idle, rotate) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(idle, "f", REWRITE);
    world.rename(rotate, "f", "f.1");
    world.put(rotate, "f", "anew");
    world.close(idle, handle);
    assert_eq!(world.published("f").as_deref(), Some("anew"));
    assert_eq!(world.published("f.1").as_deref(), Some("old"));
}

#[test]
fn no_replace_minds_versions_and_drafts_of_new_names() {
    let world = World::with(&[("from", "moved"), ("there", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let made = world.open(one, "reserved", REWRITE);
    let rewrite = world.open(one, "mine", REWRITE);
    world.write(&rewrite, "mine");
    for to in ["reserved", "there"] {
        for (pid, from) in [(two, "from"), (one, "mine")] {
            let error = world.try_rename(pid, from, to, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{from} {to}");
        }
    }
    world.try_rename(two, "from", "free", false).unwrap();
    world.try_rename(one, "mine", "free2", false).unwrap();
    world.close(one, made);
    world.close(one, rewrite);
    assert_eq!(world.names(), ["free", "free2", "reserved", "there"]);
    assert_eq!(world.published("there").as_deref(), Some("old"));
}

#[test]
fn a_link_publishes_what_its_process_sees() {
    for old in [&[][..], &[("f", "old")]] {
        let world = World::with(old);
        let writer = world.tree.spawn();
        let handle = world.open(writer, "f", REWRITE);
        world.write(&handle, "new");
        let draft = world.draft(writer, "f").expect("it sees its own");
        world.engine.publish_for_link(&draft).unwrap();
        assert_eq!(world.published("f").as_deref(), Some("new"));
        world.engine.publish_for_link(&draft).unwrap(); // A second link of what is published.
        world.write(&handle, "er");
        world.close(writer, handle);
        assert_eq!(world.published("f").as_deref(), Some("newer"));
        assert_eq!((kept(&world), world.staged()), (vec![], vec![]));
    }
}

#[test]
fn drafts_of_a_directory_that_is_removed_go_to_salvage() {
    let world = World::new();
    make_dir(&world.disk, "d");
    let (writer, other) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(writer, "d/f", REWRITE);
    world.write(&handle, "work");
    let dir = world.place("d/f").unwrap().slot.dir;
    world.disk.remove_dir(&world.root, "d".as_ref()).unwrap();
    world
        .engine
        .directory_removed(world.tree.caller(other), dir);
    world.close(writer, handle);
    assert_eq!(world.names(), [""; 0]);
    assert_eq!(kept(&world), taken("d/f", "work"));
}

#[test]
fn a_directory_that_is_gone_unnoticed_makes_a_draft_unpublishable() {
    let world = World::new();
    make_dir(&world.disk, "d");
    let writer = world.tree.spawn();
    let handle = world.open(writer, "d/f", REWRITE);
    world.write(&handle, "work");
    world.disk.remove_dir(&world.root, "d".as_ref()).unwrap();
    world.close(writer, handle);
    let [(path, reason, content)] = &kept(&world)[..] else {
        panic!("one thing in salvage");
    };
    assert_eq!((path.as_deref(), content.as_str()), (Some("d/f"), "work"));
    assert_eq!(reason, "it could not be put in place");
}

#[test]
fn a_slot_follows_a_rename_of_its_directory() {
    let world = World::new();
    make_dir(&world.disk, "d");
    let writer = world.tree.spawn();
    let handle = world.open(writer, "d/f", REWRITE);
    world.write(&handle, "work");
    let (d, e) = ("d".as_ref(), "e".as_ref());
    world
        .disk
        .rename(&world.root, d, &world.root, e, true)
        .unwrap();
    assert_eq!(world.read(writer, "e/f").as_deref(), Some("work"));
    world.close(writer, handle);
    assert_eq!(world.published("e/f").as_deref(), Some("work"));
}

#[test]
fn a_rename_that_fails_leaves_the_draft_as_it_was() {
    let world = World::with(&[("f", "old"), ("g", "old g")]);
    let writer = world.tree.spawn();
    let handle = world.open(writer, "f", REWRITE);
    world.write(&handle, "new");
    for operation in [Operation::Link, Operation::Rename] {
        world.disk.fail_next(operation, libc::ENOSPC);
        let error = world.try_rename(writer, "f", "g", true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{operation:?}");
        assert_eq!(world.published("f").as_deref(), Some("old"));
        assert_eq!(world.published("g").as_deref(), Some("old g"));
    }
    world.close(writer, handle);
    assert_eq!(world.published("f").as_deref(), Some("new"));
    assert_eq!(world.published("g").as_deref(), Some("old g"));
}

/// The system tells of lost data once: a second wait would succeed, so the draft is never published.
#[test]
fn a_wait_that_fails_in_a_rename_is_remembered() {
    let world = World::with(&[("f", "old")]);
    let writer = world.tree.spawn();
    let handle = world.open(writer, "f", REWRITE);
    world.write(&handle, "new");
    world.disk.fail_next(Operation::WaitForData, libc::EIO);
    assert!(world.try_rename(writer, "f", "g", true).is_err());
    let error = world.try_close(writer, handle).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(world.published("f").as_deref(), Some("old"));
    assert_eq!(world.published("g"), None);
}
