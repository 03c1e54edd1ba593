//! When a version appears, and who sees it before that.

use polystore_mount::engine::opening::Plan;
use polystore_mount::engine::process::Caller;
use polystore_mount::engine::visibility::View;

use crate::world::{APPEND, EDIT, EXCLUSIVE, READ, REWRITE, World};

#[test]
fn a_rewrite_appears_at_the_last_close() {
    let world = World::with(&[("f", "old")]);
    let (writer, reader) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(writer, "f", REWRITE);
    assert_eq!(world.read(reader, "f").as_deref(), Some("old"));
    world.write(&handle, "new");
    let child = world.tree.fork(writer);
    world.flush(writer, &handle).unwrap();
    assert_eq!(
        world.read(reader, "f").as_deref(),
        Some("old"),
        "a child has it open"
    );
    world.close(child, handle);
    assert_eq!(world.read(reader, "f").as_deref(), Some("new"));
    assert_eq!(world.names(), ["f"]);
    assert_eq!(world.staged(), [""; 0]);
}

#[test]
fn an_unwritten_rewrite_empties_the_file() {
    let world = World::with(&[("f", "old")]);
    let shell = world.tree.spawn();
    let handle = world.open(shell, "f", REWRITE);
    world.close(shell, handle);
    assert_eq!(world.published("f").as_deref(), Some(""));
}

#[test]
fn two_rewriters_never_mix_and_the_last_to_close_wins() {
    let world = World::with(&[("f", "old")]);
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let (a, b) = (world.open(one, "f", REWRITE), world.open(two, "f", REWRITE));
    for _ in 0..3 {
        world.write(&a, "a");
        world.write(&b, "b");
    }
    world.close(two, b);
    assert_eq!(world.published("f").as_deref(), Some("bbb"));
    assert_eq!(
        world.read(one, "f").as_deref(),
        Some("aaa"),
        "its own, still open"
    );
    world.close(one, a);
    assert_eq!(world.published("f").as_deref(), Some("aaa"));
}

#[test]
fn a_second_redirection_joins_the_first() {
    for files in [&[][..], &[("f", "old")]] {
        let world = World::with(files);
        let shell = world.tree.spawn();
        let out = world.open(shell, "f", REWRITE);
        let err = world.open(shell, "f", REWRITE);
        let program = world.tree.run(shell, "program");
        world.write(&out, "out,");
        world.write(&err, "err");
        for (pid, out, err) in [(shell, &out, &err), (program, &out, &err)] {
            world.flush(pid, out).unwrap();
            world.flush(pid, err).unwrap();
        }
        world.release(out);
        assert_eq!(
            world.published("f").as_deref(),
            files.first().map(|file| file.1)
        );
        world.release(err);
        assert_eq!(world.published("f").as_deref(), Some("out,err"));
    }
}

#[test]
fn an_append_joins_the_own_unwritten_draft() {
    let world = World::with(&[("f", "old")]);
    let shell = world.tree.spawn();
    let out = world.open(shell, "f", REWRITE);
    let err = world.open(shell, "f", APPEND);
    world.write(&err, "err,");
    world.write(&out, "out");
    world.close(shell, err);
    world.close(shell, out);
    assert_eq!(world.published("f").as_deref(), Some("err,out"));
}

#[test]
fn truncating_over_the_own_written_draft_starts_anew() {
    let world = World::with(&[("f", "old")]);
    let program = world.tree.spawn();
    let first = world.open(program, "f", REWRITE);
    world.write(&first, "first");
    // By its name it would find the written draft; a look that was made before that write
    // ends at the published file.
    let draft = world.promised(program, "f", REWRITE);
    assert_ne!(draft.id, first.draft().unwrap().id);
    let second = world.attach(program, &draft, REWRITE, true).unwrap();
    world.write(&second, "second");
    world.close(program, second);
    assert_eq!(world.published("f").as_deref(), Some("second"));
    world.close(program, first);
    assert_eq!(world.published("f").as_deref(), Some("first"));
}

#[test]
fn sort_to_its_own_input_reads_the_old_version() {
    let world = World::with(&[("f", "b a")]);
    let shell = world.tree.spawn();
    let child = world.tree.fork(shell);
    let out = world.open(child, "f", REWRITE);
    world.tree.exec(child, "sort");
    assert_eq!(world.read(child, "f").as_deref(), Some("b a"));
    world.write(&out, "a");
    assert_eq!(
        world.read(child, "f").as_deref(),
        Some("b a"),
        "written, but it has exec'd"
    );
    world.write(&out, " b");
    world.close(child, out);
    assert_eq!(world.published("f").as_deref(), Some("a b"));
}

#[test]
fn the_writer_and_its_forks_read_what_they_wrote() {
    let world = World::with(&[("f", "old")]);
    let worker = world.tree.spawn();
    let early = world.tree.fork(worker);
    let handle = world.open(worker, "f", REWRITE);
    let fork = world.tree.fork(worker);
    let grandchild = world.tree.fork(fork);
    let program = world.tree.run(worker, "program");
    let family = [worker, fork, grandchild];
    for pid in family {
        assert_eq!(
            world.read(pid, "f").as_deref(),
            Some("old"),
            "unwritten yet"
        );
    }
    world.write(&handle, "new");
    for pid in family {
        assert_eq!(world.read(pid, "f").as_deref(), Some("new"));
    }
    for stranger in [early, program, world.tree.spawn()] {
        assert_eq!(world.read(stranger, "f").as_deref(), Some("old"));
    }
}

#[test]
fn descendants_of_the_writer_join_what_it_has_written() {
    let world = World::with(&[("f", "old")]);
    let python = world.tree.spawn();
    let early = world.tree.fork(python);
    let handle = world.open(python, "f", REWRITE);
    let before = world.tree.run(python, "before");
    let own = world.open(before, "f", REWRITE);
    assert_ne!(
        own.draft().unwrap().id,
        handle.draft().unwrap().id,
        "not written yet"
    );
    world.tree.kill(before);
    let _ = world.flush(before, &own);
    world.release(own);

    world.write(&handle, "parent,");
    let shell = world.tree.run(python, "sh");
    let tool = world.tree.run(shell, "tool");
    let appended = world.open(tool, "f", APPEND);
    world.write(&appended, "child,");
    world.close(tool, appended);
    let edited = world.open(tool, "f", EDIT);
    world.write(&edited, "again");
    world.close(tool, edited);
    assert_eq!(
        world.published("f").as_deref(),
        Some("old"),
        "the parent has it open"
    );
    let stranger = world.open(early, "f", APPEND);
    assert!(
        stranger.is_in_place(),
        "a worker that was there before is a stranger"
    );
    world.release(stranger);
    world.close(python, handle);
    assert_eq!(world.published("f").as_deref(), Some("parent,child,again"));
}

#[test]
fn a_joined_truncation_empties_the_draft() {
    let world = World::new();
    let python = world.tree.spawn();
    let handle = world.open(python, "f", EXCLUSIVE);
    world.write(&handle, "to be overwritten");
    let openssl = world.tree.run(python, "openssl");
    let out = world.open(openssl, "f", REWRITE);
    world.write(&out, "key");
    world.close(openssl, out);
    assert_eq!(world.read(python, "f").as_deref(), Some("key"));
    assert_eq!(world.published("f"), None);
    world.close(python, handle);
    assert_eq!(world.published("f").as_deref(), Some("key"));
}

#[test]
fn a_new_name_is_visible_to_its_maker_and_descendants_only() {
    let world = World::new();
    let maker = world.tree.spawn();
    let early = world.tree.fork(maker);
    let handle = world.open(maker, "f", REWRITE);
    assert_eq!(world.read(early, "f"), None);
    let soon = world.tree.fork(maker);
    world.tree.exit(early);
    world.tree.tick();
    let late = world.tree.fork(maker);
    assert_eq!(late, early, "its number is used again");
    let grandchild = world.tree.run(late, "program");
    for pid in [maker, soon, late, grandchild] {
        assert_eq!(world.read(pid, "f").as_deref(), Some(""), "process {pid}");
    }
    let stranger = world.tree.spawn();
    assert_eq!(world.read(stranger, "f"), None);
    world.write(&handle, "x");
    world.close(maker, handle);
    assert_eq!(world.read(stranger, "f").as_deref(), Some("x"));
}

#[test]
fn a_new_name_is_reserved() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let handle = world.open(one, "f", REWRITE);
    let refused = |result: std::io::Result<_>| {
        result.map(drop).unwrap_err().kind() == std::io::ErrorKind::AlreadyExists
    };
    assert!(refused(world.try_open(two, "f", EXCLUSIVE)));
    assert!(refused(world.try_open(one, "f", EXCLUSIVE)));
    let place = world.place("f").unwrap();
    assert!(world.engine.is_reserved(&place.slot));
    world.kill(one, &[], vec![handle]);
    assert!(!world.engine.is_reserved(&place.slot));
    let handle = world.open(two, "f", EXCLUSIVE);
    world.write(&handle, "two");
    world.close(two, handle);
    assert_eq!(world.published("f").as_deref(), Some("two"));
}

#[test]
fn a_plain_open_of_a_name_that_it_cannot_see_loses_to_an_exclusive_one() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let exclusive = world.open(one, "f", EXCLUSIVE);
    let plain = world.open(two, "f", REWRITE);
    world.write(&exclusive, "exclusive");
    world.write(&plain, "plain");
    world.close(one, exclusive);
    let _ = world.try_close(two, plain);
    assert_eq!(world.published("f").as_deref(), Some("exclusive"));
}

#[test]
fn an_exclusive_draft_replaces_what_a_plain_open_published() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let exclusive = world.open(one, "f", EXCLUSIVE);
    world.put(two, "f", "plain");
    assert_eq!(world.published("f").as_deref(), Some("plain"));
    world.write(&exclusive, "exclusive");
    world.close(one, exclusive);
    assert_eq!(world.published("f").as_deref(), Some("exclusive"));
}

#[test]
fn who_makes_a_name_to_read_or_to_append_publishes_it_empty_at_once() {
    for how in [READ, APPEND] {
        let world = World::new();
        let program = world.tree.spawn();
        let handle = world.open(program, "f", how);
        assert!(handle.is_in_place());
        assert_eq!(world.published("f").as_deref(), Some(""));
        world.release(handle);
    }
}

#[test]
fn an_unwritten_draft_does_not_replace_what_was_appended_since() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let idle = world.open(one, "f", REWRITE);
    let appended = world.open(two, "f", APPEND);
    world.write(&appended, "line");
    world.release(appended);
    world.close(one, idle);
    assert_eq!(world.published("f").as_deref(), Some("line"));
}

#[test]
fn a_process_finds_its_own_draft_beside_one_that_is_being_closed() {
    let world = World::new();
    let (one, two) = (world.tree.spawn(), world.tree.spawn());
    let own = world.open(one, "f", REWRITE);
    let other = world.open(two, "f", REWRITE);
    world.write(&own, "own");
    world.write(&other, "other");
    world.flush(two, &other).unwrap();
    let place = world.place("f").unwrap();
    let caller = world.tree.caller(one);
    let View::Draft(found) = world.engine.view(caller, &place.slot) else {
        panic!("its own draft is gone");
    };
    assert_eq!(found.id, own.draft().unwrap().id);
}

#[test]
fn a_process_whose_number_cannot_be_seen_writes_privately() {
    let world = World::with(&[("f", "old")]);
    let place = world.place("f").unwrap();
    let unseen = Caller {
        tid: 0,
        uid: 0,
        gid: 0,
    };
    let draft = || {
        let existing = world.existing("f", &place);
        match world
            .engine
            .plan_existing(unseen, &place, &existing, REWRITE)
        {
            Ok(Plan::Draft(draft)) => draft,
            _ => panic!("a rewrite is no longer one"),
        }
    };
    assert_ne!(draft().id, draft().id);
}

#[test]
fn a_settled_draft_gets_no_name_in_staging_any_more() {
    // Whoever looks for old drafts may come late.
    let world = World::with(&[("f", "old")]);
    let published = world.tree.spawn();
    let handle = world.open(published, "f", REWRITE);
    world.write(&handle, "new");
    let late = handle.draft().expect("a draft");
    world.close(published, handle);
    world.engine.secure(&late);
    assert!(world.staged().is_empty());
    let place = world.place("f").unwrap();
    assert_eq!(world.existing("f", &place).stat.links, 1);

    let dropped = world.tree.spawn();
    let handle = world.open(dropped, "f", REWRITE);
    world.write(&handle, "half");
    let late = handle.draft().expect("a draft");
    world.kill(dropped, &[], vec![handle]);
    world.engine.secure(&late);
    assert!(world.staged().is_empty());
    assert_eq!(world.salvaged().len(), 1);
}
