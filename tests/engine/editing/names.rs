//! What becomes of an edit whose file is renamed, linked, removed or replaced.

use std::sync::Arc;

use super::{TAKEN, kept, published, salvage, written};
use crate::world::{EDIT, REWRITE, World};

#[test]
fn an_edit_follows_its_file() {
    let world = World::with(&[("f", "old"), ("h", "other")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    world.rename(pid, "f", "g");
    world.put(pid, "f", "new");
    world.try_exchange(pid, "g", "h").expect("exchanged");
    assert_eq!(world.published("h").as_deref(), Some("old"));
    world.close(pid, handle);
    assert_eq!(world.published("h").as_deref(), Some("old+"));
    assert_eq!(world.published("g").as_deref(), Some("other"));
    assert_eq!(published(&world), "new");
    assert_eq!(kept(&world), []);
}

#[test]
fn what_a_stranger_unlinked_is_kept() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    world.unlink(world.tree.spawn(), "f");
    world.write(&handle, "+");
    assert_eq!(world.text(&handle), "old++");
    world.put(world.tree.spawn(), "f", "new");
    world.close(pid, handle);
    assert_eq!(published(&world), "new");
    assert_eq!(kept(&world), salvage(TAKEN, "old++"));
    assert_eq!(world.staged(), [""; 0]);
}

#[test]
fn what_an_editor_unlinked_is_not_missed() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    world.unlink(pid, "f");
    world.close(pid, handle);
    assert_eq!(world.published("f"), None);
    assert_eq!(kept(&world), []);
}

#[test]
fn an_unwritten_edit_of_a_removed_file_goes_on_with_that() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    world.unlink(world.tree.spawn(), "f");
    world.write(&handle, "+");
    assert_eq!(world.text(&handle), "old+");
    world.close(pid, handle);
    assert_eq!(world.published("f"), None);
    assert_eq!(kept(&world), []);
}

#[test]
fn a_file_that_takes_the_name_is_not_replaced() {
    let world = World::with(&[("f", "old"), ("g", "other")]);
    let (pid, idle) = (world.tree.spawn(), world.tree.spawn());
    let (handle, unwritten) = (written(&world, pid, "+"), world.open(idle, "f", EDIT));
    world.rename(world.tree.spawn(), "g", "f");
    world.close(pid, handle);
    assert_eq!(published(&world), "other");
    assert_eq!(kept(&world), salvage(TAKEN, "old+"));
    assert_eq!(world.text(&unwritten), "old");
    world.close(idle, unwritten);
    assert_eq!(published(&world), "other");
}

#[test]
fn a_second_name_of_a_written_edit_is_the_published_versions() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = written(&world, pid, "+");
    world.try_link(pid, "f", "g").expect("linked");
    assert_eq!(world.published("g").as_deref(), Some("old"));
    world.close(pid, handle);
    assert_eq!(published(&world), "old+");
    assert_eq!(world.published("g").as_deref(), Some("old"));
}

#[test]
fn a_file_with_several_names_is_written_in_place() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    world.try_link(pid, "f", "g").expect("linked");
    world.write(&handle, "+");
    assert_eq!(world.published("g").as_deref(), Some("old+"));
    world.close(pid, handle);
}

/// Found by the model: the edit was taken to have been replaced by its own file.
#[test]
fn a_rename_between_two_names_of_one_file_does_nothing() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    world.try_link(pid, "f", "g").expect("linked");
    world.rename(pid, "g", "f");
    assert!(!handle.edit().expect("an edit").is_orphan());
    world.unlink(pid, "g");
    world.write(&handle, "+");
    assert!(!handle.is_in_place(), "one name is left");
    world.close(pid, handle);
    assert_eq!(published(&world), "old+");
}

/// Found by the model: the second editor's draft replaced what the first one wrote.
#[test]
fn an_edit_whose_file_lives_on_under_another_name_is_written_in_place() {
    let world = World::with(&[("f", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let first = world.open(one, "f", EDIT);
    world.try_link(one, "f", "g").expect("linked");
    world.unlink(one, "f");
    let second = world.open(two, "g", EDIT);
    world.write(&second, "+2");
    world.write(&first, "+1");
    world.close(two, second);
    world.close(one, first);
    assert_eq!(world.published("g").as_deref(), Some("old+2+1"));
    let after = world.open(two, "g", EDIT);
    world.write(&after, "+3");
    assert!(!after.is_in_place());
    world.close(two, after);
    assert_eq!(world.published("g").as_deref(), Some("old+2+1+3"));
}

/// Found by the model: everybody went on to be shown the file that had been replaced.
#[test]
fn a_rewrite_replaces_what_is_edited_in_place() {
    use polystore_mount::engine::locks::{Class, Kind};
    let world = World::with(&[("f", "old")]);
    let (pid, rewriter) = (world.tree.spawn(), world.tree.spawn());
    let rewrite = world.open(rewriter, "f", REWRITE);
    world.write(&rewrite, "new");
    let handle = world.open(pid, "f", EDIT);
    let locked = world.try_lock(pid, &handle, Class::Posix, (0, 9), Kind::Exclusive);
    locked.expect("locked");
    world.write(&handle, "+");
    assert_eq!(published(&world), "old+");
    world.close(rewriter, rewrite);
    for who in [pid, rewriter] {
        assert_eq!(world.read(who, "f").as_deref(), Some("new"));
    }
    let next = world.open(rewriter, "f", EDIT);
    assert_eq!(world.text(&next), "new");
    assert_eq!(world.text(&handle), "old+");
    world.close(rewriter, next);
    world.close(pid, handle);
    assert_eq!(published(&world), "new");
}

/// Two closes may leave an edit to be settled twice, and another may be there the second time.
#[test]
fn an_edit_that_is_settled_late_leaves_the_next_one_alone() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let caller = world.tree.caller(pid);
    let slot = world.place("f").expect("the root").slot;
    let first = world.open(pid, "f", EDIT);
    let edit = first.edit().expect("an edit").clone();
    world.close(pid, first);
    let next = world.open(pid, "f", EDIT);
    let late = world.engine.attach_edit(&edit, caller, EDIT, false);
    assert!(world.engine.detach_edit(&late));
    world.engine.settle_edit(&edit);
    let stands = world.engine.edit_at(&slot).expect("an edit");
    assert!(Arc::ptr_eq(&stands, next.edit().expect("an edit")));
    world.close(pid, next);
    assert!(world.engine.edit_at(&slot).is_none());
}

/// Found by the model: nobody had looked since, and the editor was left with the version before.
#[test]
fn an_unwritten_edit_of_a_removed_file_goes_on_with_its_last_version() {
    let world = World::with(&[("f", "old")]);
    let (pid, stranger) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(pid, "f", EDIT);
    world.put(stranger, "f", "new");
    world.unlink(stranger, "f");
    assert_eq!(world.text(&handle), "new");
    world.close(pid, handle);
}
