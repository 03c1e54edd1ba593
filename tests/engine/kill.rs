//! Killed, finished, failed: what becomes of a draft whose writer does not end well.

use polystore::Durability;

use crate::sim_disk::{Operation, SimDisk};
use crate::world::{EDIT, REWRITE, Salvaged, Setup, World, plant};

fn dropped(path: &str, content: &str, reason: &str) -> Vec<Salvaged> {
    vec![Salvaged {
        path: Some(path.to_owned()),
        reason: reason.to_owned(),
        content: content.as_bytes().to_vec(),
    }]
}

const KILLED: &str = "its writer was killed";
const FAILED: &str = "a write to it failed";
const UNPLACED: &str = "it could not be put in place";

/// Old version, new name; unnamed files to be had or not.
fn settings() -> Vec<(World, Option<&'static str>)> {
    let mut worlds = Vec::new();
    for old in [None, Some("old")] {
        for unnamed in [true, false] {
            let disk = SimDisk::new();
            let disk = if unnamed {
                disk
            } else {
                disk.without_unnamed()
            };
            if let Some(content) = old {
                plant(&disk, "f", content, 0);
            }
            worlds.push((World::on(&disk, Setup::default()), old));
        }
    }
    worlds
}

#[test]
fn a_killed_writer_changes_nothing_and_its_draft_is_kept() {
    for (world, old) in settings() {
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "half");
        world.kill(pid, &[], vec![handle]);
        assert_eq!(world.published("f").as_deref(), old);
        assert_eq!(world.salvaged(), dropped("f", "half", KILLED));
        assert_eq!(world.staged(), [""; 0]);
    }
}

#[test]
fn an_empty_draft_is_not_kept() {
    for (world, old) in settings() {
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.kill(pid, &[], vec![handle]);
        assert_eq!(world.published("f").as_deref(), old);
        assert_eq!(world.salvaged(), []);
        assert_eq!(world.disk.names(".polystore/salvage"), [""; 0]);
        assert_eq!(world.staged(), [""; 0]);
    }
}

#[test]
fn a_killed_opener_decides_though_its_child_closes_in_peace() {
    for (world, old) in settings() {
        let shell = world.tree.spawn();
        let handle = world.open(shell, "f", REWRITE);
        world.write(&handle, "1\n2\n");
        let sleep = world.tree.run(shell, "sleep");
        world.kill(shell, &[&handle], Vec::new());
        world.close(sleep, handle);
        assert_eq!(world.published("f").as_deref(), old);
        assert_eq!(world.salvaged(), dropped("f", "1\n2\n", KILLED));
    }
}

#[test]
fn a_killed_child_does_not_discard_its_living_parents_file() {
    for (world, _) in settings() {
        let shell = world.tree.spawn();
        let handle = world.open(shell, "f", REWRITE);
        world.write(&handle, "1\n");
        let child = world.tree.run(shell, "child");
        world.kill(child, &[&handle], Vec::new());
        world.write(&handle, "2\n");
        world.close(shell, handle);
        assert_eq!(world.published("f").as_deref(), Some("1\n2\n"));
        assert_eq!(world.salvaged(), []);
    }
}

#[test]
fn otherwise_the_last_close_decides() {
    for (killed_last, (world, old)) in settings()
        .into_iter()
        .enumerate()
        .map(|(i, w)| (i % 2 == 0, w))
    {
        let shell = world.tree.spawn();
        let handle = world.open(shell, "f", REWRITE);
        world.write(&handle, "content");
        let (one, two) = (world.tree.fork(shell), world.tree.fork(shell));
        world.flush(shell, &handle).unwrap();
        world.tree.exit(shell);
        if killed_last {
            world.flush(one, &handle).unwrap();
            world.kill(two, &[], vec![handle]);
            assert_eq!(world.published("f").as_deref(), old);
            assert_eq!(world.salvaged(), dropped("f", "content", KILLED));
        } else {
            world.kill(two, &[&handle], Vec::new());
            world.close(one, handle);
            assert_eq!(world.published("f").as_deref(), Some("content"));
        }
    }
}

#[test]
fn who_is_killed_after_its_last_close_has_finished() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    world.put(pid, "f", "new");
    world.kill(pid, &[], Vec::new());
    assert_eq!(world.published("f").as_deref(), Some("new"));
}

#[test]
fn a_draft_that_was_only_promised_is_gone() {
    let world = World::with(&[("f", "old")]);
    let pid = world.tree.spawn();
    let draft = world.promised(pid, "f", REWRITE);
    world.tree.kill(pid);
    assert!(world.engine.break_promise(&draft));
    world.engine.settle(&draft);
    assert_eq!(world.published("f").as_deref(), Some("old"));
    let place = world.place("f").unwrap();
    assert!(!world.engine.has_drafts(&place.slot));
    assert_eq!(world.salvaged(), []);
}

#[test]
fn a_promise_keeps_a_draft_that_its_writer_has_closed() {
    for kept in [true, false] {
        let world = World::with(&[("f", "old")]);
        let python = world.tree.spawn();
        let handle = world.open(python, "f", REWRITE);
        world.write(&handle, "parent,");
        let tool = world.tree.run(python, "tool");
        let draft = world.promised(tool, "f", EDIT);
        world.close(python, handle);
        assert_eq!(
            world.published("f").as_deref(),
            Some("old"),
            "promised to somebody"
        );
        if kept {
            let handle = world.attach(tool, &draft, EDIT, true).unwrap();
            world.write(&handle, "child");
            world.close(tool, handle);
            assert_eq!(world.published("f").as_deref(), Some("parent,child"));
        } else {
            assert!(world.engine.break_promise(&draft));
            world.engine.settle(&draft);
            assert_eq!(world.published("f").as_deref(), Some("parent,"));
        }
    }
}

/// The name is taken away meanwhile: the content must not vanish with the promise.
#[test]
fn a_broken_promise_of_an_orphan_leaves_its_content_in_salvage() {
    for (world, _) in settings() {
        let python = world.tree.spawn();
        world.put(python, "f", "old");
        let handle = world.open(python, "f", REWRITE);
        world.write(&handle, "new");
        let tool = world.tree.run(python, "tool");
        let draft = world.promised(tool, "f", EDIT);
        world.close(python, handle);
        world.unlink(world.tree.spawn(), "f");
        if world.engine.break_promise(&draft) {
            world.engine.settle(&draft);
        }
        let reason = "its name was removed or replaced while it was open";
        assert_eq!(world.salvaged(), dropped("f", "new", reason));
        assert_eq!(world.staged(), [""; 0]);
    }
}

#[test]
fn a_failed_write_is_told_at_every_close_and_the_old_version_stays() {
    for code in [libc::ENOSPC, libc::EIO] {
        for (world, old) in settings() {
            let pid = world.tree.spawn();
            let handle = world.open(pid, "f", REWRITE);
            world.write(&handle, "some");
            world.disk.fail_next(Operation::Write, code);
            assert!(world.try_write(&handle, b"more").is_err());
            // What failed for want of space is gone at once, and stays so.
            let full = code == libc::ENOSPC;
            let rest = world.try_write(&handle, b"rest");
            assert_eq!(rest.is_err(), full);
            assert_eq!(world.text(&handle), if full { "" } else { "somerest" });
            for _ in 0..3 {
                let error = world.flush(pid, &handle).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(code));
            }
            assert!(world.try_close(pid, handle).is_err());
            assert_eq!(world.published("f").as_deref(), old);
            let kept = dropped("f", "somerest", FAILED);
            assert_eq!(world.salvaged(), if full { Vec::new() } else { kept });
            assert_eq!(world.staged(), [""; 0]);
        }
    }
}

#[test]
fn a_failed_wait_for_the_data_is_told_at_close() {
    for (durability, operation) in [
        (Durability::Ordered, Operation::WaitForData),
        (Durability::Full, Operation::Sync),
    ] {
        let disk = SimDisk::new();
        plant(&disk, "f", "old", 0);
        let world = World::on(
            &disk,
            Setup {
                durability,
                ..Setup::default()
            },
        );
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "new");
        world.disk.fail_next(operation, libc::EIO);
        for _ in 0..2 {
            let error = world.flush(pid, &handle).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(libc::EIO),
                "reported once by the system, kept here"
            );
        }
        world.release(handle);
        assert_eq!(world.published("f").as_deref(), Some("old"));
        assert_eq!(world.salvaged(), dropped("f", "new", FAILED));
    }
}

#[test]
fn a_name_in_staging_that_cannot_be_had_is_told_at_close() {
    for old in [None, Some("old")] {
        for code in [libc::ENOSPC, libc::EDQUOT, libc::EMLINK, libc::EIO] {
            let world = match old {
                Some(old) => World::with(&[("f", old)]),
                None => World::new(),
            };
            let pid = world.tree.spawn();
            let handle = world.open(pid, "f", REWRITE);
            world.write(&handle, "new");
            world.disk.fail_next(Operation::Link, code);
            let error = world.flush(pid, &handle).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(code));
            world.release(handle);
            assert_eq!(world.published("f").as_deref(), old);
            let full = [libc::ENOSPC, libc::EDQUOT].contains(&code);
            let kept = dropped("f", "new", FAILED);
            assert_eq!(world.salvaged(), if full { Vec::new() } else { kept });
            assert_eq!(world.engine.ledger.failures(), [], "the close said so");
        }
    }
}

#[test]
fn what_fails_after_the_close_goes_to_salvage() {
    for (world, old) in settings() {
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "new");
        world.flush(pid, &handle).unwrap();
        assert_eq!(world.staged().len(), 1, "named before the close returned");
        world.disk.fail_next(Operation::Rename, libc::EROFS);
        world.release(handle);
        assert_eq!(world.published("f").as_deref(), old);
        assert_eq!(world.salvaged(), dropped("f", "new", UNPLACED));
        assert_eq!(world.staged(), [""; 0]);
        assert_eq!(world.engine.ledger.failures().len(), 1, "nobody was told");
    }
}

/// What was renamed into place is published, whatever the sync of its directory says.
#[test]
fn a_failed_sync_of_the_directory_leaves_the_version_published_once() {
    for old in [None, Some("old")] {
        let disk = SimDisk::new();
        if let Some(content) = old {
            plant(&disk, "f", content, 0);
        }
        let durability = Durability::Full;
        let world = World::on(
            &disk,
            Setup {
                durability,
                ..Setup::default()
            },
        );
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "new");
        world.flush(pid, &handle).unwrap();
        world.disk.fail_next(Operation::SyncDir, libc::EIO);
        world.release(handle);
        assert_eq!(world.published("f").as_deref(), Some("new"));
        assert_eq!(world.salvaged(), [], "a second name of the published file");
    }
}

/// That no note can be written on a full disk must not cost the content of who was killed.
#[test]
fn a_full_disk_does_not_keep_a_draft_from_salvage() {
    for (world, old) in settings() {
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "content");
        world.disk.fail_every(Operation::Write, libc::ENOSPC);
        world.kill(pid, &[], vec![handle]);
        world.disk.heal();
        assert_eq!(world.published("f").as_deref(), old);
        let kept: Vec<_> = world
            .salvaged()
            .into_iter()
            .map(|item| item.content)
            .collect();
        assert_eq!(kept, [b"content"]);
    }
}

#[test]
fn a_poisoned_draft_is_not_renamed_into_place_and_not_joined() {
    let world = World::with(&[("f", "old"), ("g", "old")]);
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", REWRITE);
    world.disk.fail_next(Operation::Write, libc::ENOSPC);
    assert!(world.try_write(&handle, b"lost").is_err());
    let error = world.try_rename(pid, "f", "g", true).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(world.published("g").as_deref(), Some("old"));
    world.release(handle);
    assert_eq!(world.published("f").as_deref(), Some("old"));
}
