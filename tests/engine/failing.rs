//! What a failed change means: any error, at any step, of every sort of draft.

use std::io;

use polystore::disk::Disk;
use polystore_mount::engine::failing::Change;

use crate::sim_disk::{Operation, SimDisk};
use crate::world::{EDIT, Handle, REWRITE, Salvaged, Setup, World, plant};

/// Whatever a disk, a network file system or a security module may say.
const ERRORS: [i32; 16] = [
    libc::EPERM,
    libc::EIO,
    libc::ENXIO,
    libc::EAGAIN,
    libc::ENOMEM,
    libc::EACCES,
    libc::EBUSY,
    libc::EFBIG,
    libc::EINVAL,
    libc::ENOSPC,
    libc::EROFS,
    libc::ETIMEDOUT,
    libc::ESTALE,
    libc::EDQUOT,
    libc::EOPNOTSUPP,
    libc::ECONNRESET,
];
/// For a system call that does not do what it is asked, and has done nothing.
const REFUSALS: [i32; 4] = [libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF, libc::ENOSYS];
const FULL: [i32; 2] = [libc::ENOSPC, libc::EDQUOT];
const FAILED: &str = "a write to it failed";

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn code(done: io::Result<()>) -> Option<i32> {
    done.err().and_then(|error| error.raw_os_error())
}

/// A rewrite of a file that there is, of one that there is not, and an edit; each with "half" written.
/// With unnamed files and without.
fn half_written() -> Vec<(World, u32, Handle, &'static str)> {
    let mut all = Vec::new();
    for unnamed in [true, false] {
        for (name, how) in [("f", REWRITE), ("new", REWRITE), ("f", EDIT)] {
            let disk = SimDisk::new();
            plant(&disk, "f", "old", 0);
            let disk = if unnamed {
                disk
            } else {
                disk.without_unnamed()
            };
            let world = World::on(&disk, Setup::default());
            let pid = world.tree.spawn();
            let handle = world.open(pid, name, how);
            world.write(&handle, "half");
            all.push((world, pid, handle, name));
        }
    }
    all
}

fn kept(world: &World) -> Vec<(Option<String>, String)> {
    let kept = world.salvaged().into_iter();
    kept.map(|Salvaged { path, reason, .. }| (path, reason))
        .collect()
}

/// The close says it, nothing is published, and what there was is kept, unless there was no space for it.
fn assert_lost(world: World, pid: u32, handle: Handle, name: &str, number: i32) {
    let what = format!("{name}, error {number}");
    let full = FULL.contains(&number);
    if full {
        assert_eq!(world.text(&handle), "", "{what}: space is free at once");
        assert_eq!(code(world.try_write(&handle, b"x")), Some(number), "{what}");
    }
    assert_eq!(code(world.flush(pid, &handle)), Some(number), "{what}");
    assert_eq!(code(world.try_close(pid, handle)), Some(number), "{what}");
    assert_eq!(world.published("f").as_deref(), Some("old"), "{what}");
    assert_eq!(world.published("new"), None, "{what}");
    assert_eq!(world.staged(), [""; 0], "{what}");
    let salvaged = vec![(Some(name.to_owned()), FAILED.to_owned())];
    assert_eq!(
        kept(&world),
        if full { Vec::new() } else { salvaged },
        "{what}"
    );
}

/// The program got its error, and may go on.
fn assert_unharmed(world: World, pid: u32, handle: Handle, name: &str, number: i32) {
    let before = world.text(&handle);
    world.write(&handle, ", done");
    world.close(pid, handle);
    let expected = format!("{before}, done");
    assert_eq!(
        world.published(name),
        Some(expected),
        "{name}, error {number}"
    );
    assert_eq!(kept(&world), []);
}

#[test]
fn a_write_that_fails_loses_the_draft_whatever_the_error() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            world.disk.fail_next(Operation::Write, number);
            assert_eq!(code(world.try_write(&handle, b"more")), Some(number));
            assert_lost(world, pid, handle, name, number);
        }
        // In the middle of what was handed over.
        for (world, pid, handle, name) in half_written() {
            let done = world.try_change(&handle, (Change::Write, 4), |file| {
                let end = world.disk.stat_file(file)?.len;
                world.disk.write_at(file, b"mo", end)?;
                Err(error(number))
            });
            assert_eq!(code(done), Some(number));
            assert_lost(world, pid, handle, name, number);
        }
    }
}

#[test]
fn a_copy_is_refused_or_fails() {
    for number in ERRORS
        .into_iter()
        .chain([libc::EXDEV, libc::ENOSYS, libc::ETXTBSY])
    {
        for (world, pid, handle, name) in half_written() {
            let done = world.try_change(&handle, (Change::Copy, 4), |_| Err(error(number)));
            assert_eq!(code(done), Some(number));
            // Programs write instead.
            if REFUSALS.contains(&number) || [libc::EXDEV, libc::ETXTBSY].contains(&number) {
                assert_unharmed(world, pid, handle, name, number);
            } else {
                assert_lost(world, pid, handle, name, number);
            }
        }
    }
}

#[test]
fn a_cut_that_fails_loses_the_draft_unless_it_was_refused() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            world.disk.fail_next(Operation::SetLen, number);
            assert_eq!(code(world.try_set_len(&handle, 2)), Some(number));
            if REFUSALS.contains(&number) || number == libc::EFBIG {
                assert_unharmed(world, pid, handle, name, number);
            } else {
                assert_lost(world, pid, handle, name, number);
            }
        }
        // Whatever the error, a length that has changed is no refusal.
        for (world, pid, handle, name) in half_written() {
            let done = world.try_change(&handle, (Change::Cut, 0), |file| {
                world.disk.set_len(file, 1)?;
                Err(error(number))
            });
            assert_eq!(code(done), Some(number));
            assert_lost(world, pid, handle, name, number);
        }
    }
}

/// fallocate(2) that has extended the file when it fails: a file of zeros.
#[test]
fn a_failed_reservation_is_taken_back() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            let before = world.text(&handle);
            let done = world.try_change(&handle, (Change::Reserve, 1000), |file| {
                world.disk.set_len(file, 500)?;
                Err(error(number))
            });
            assert_eq!(code(done), Some(number));
            assert_eq!(world.text(&handle), before);
            assert_unharmed(world, pid, handle, name, number);
        }
        // It cannot be taken back.
        for (world, pid, handle, name) in half_written() {
            let done = world.try_change(&handle, (Change::Reserve, 1000), |file| {
                world.disk.set_len(file, 500)?;
                world.disk.fail_next(Operation::SetLen, libc::EIO);
                Err(error(number))
            });
            assert_eq!(code(done), Some(number));
            assert_lost(world, pid, handle, name, number);
        }
    }
}

#[test]
fn a_failed_punch_loses_the_draft_unless_it_was_refused() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            let done = world.try_change(&handle, (Change::Reshape, 0), |_| Err(error(number)));
            assert_eq!(code(done), Some(number));
            if REFUSALS.contains(&number) || number == libc::EFBIG {
                assert_unharmed(world, pid, handle, name, number);
            } else {
                assert_lost(world, pid, handle, name, number);
            }
        }
    }
}

#[test]
fn a_sync_that_fails_loses_the_draft_whatever_the_error() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            world.disk.fail_next(Operation::Sync, number);
            assert_eq!(code(world.try_sync(&handle)), Some(number));
            assert_lost(world, pid, handle, name, number);
        }
    }
}

#[test]
fn a_close_says_what_its_wait_or_its_name_in_staging_fails_with() {
    for number in ERRORS {
        for operation in [Operation::WaitForData, Operation::Link] {
            for (world, pid, handle, name) in half_written() {
                let before = world.disk.count(operation);
                world.disk.fail_next(operation, number);
                let closed = code(world.flush(pid, &handle));
                if world.disk.count(operation) == before {
                    continue; // It has a name already.
                }
                assert_eq!(closed, Some(number), "{operation:?}");
                assert_lost(world, pid, handle, name, number);
            }
        }
    }
}

/// Every draft that somebody wrote has a name in staging before its close returns: what fails after that is kept.
#[test]
fn what_cannot_be_put_in_place_is_in_salvage_and_in_the_ledger() {
    for number in ERRORS {
        for (world, pid, handle, name) in half_written() {
            world.flush(pid, &handle).expect("sealed");
            assert_eq!(world.staged().len(), 1, "{name}");
            world.disk.fail_next(Operation::Rename, number);
            world.release(handle);
            assert_eq!(world.published("f").as_deref(), Some("old"));
            assert_eq!(world.published("new"), None);
            let [(path, _)] = &kept(&world)[..] else {
                panic!("{name}, error {number}: one thing in salvage");
            };
            assert_eq!(path.as_deref(), Some(name));
            assert_eq!(world.engine.ledger.failures().len(), 1);
        }
    }
}

/// Salvage, staging, everything is full: it stays where it is, for the next mount.
#[test]
fn what_can_be_put_nowhere_stays_in_staging() {
    for (world, pid, handle, _) in half_written() {
        world.flush(pid, &handle).expect("sealed");
        world.disk.fail_every(Operation::Rename, libc::EIO);
        world.release(handle);
        assert_eq!(world.staged().len(), 1);
        assert!(!world.engine.ledger.failures().is_empty());
    }
}

/// Pages that were changed through a mapping are written when the last descriptor is closed already.
#[test]
fn what_fails_after_the_last_close_is_in_the_ledger() {
    for number in [libc::EIO, libc::ENOSPC] {
        for (world, pid, handle, name) in half_written() {
            world.flush(pid, &handle).expect("sealed");
            world.disk.fail_next(Operation::Write, number);
            assert!(world.try_write(&handle, b"mapped").is_err());
            world.release(handle);
            assert_eq!(world.published("f").as_deref(), Some("old"));
            assert_eq!(world.published("new"), None);
            assert_eq!(kept(&world).is_empty(), FULL.contains(&number));
            let failures = world.engine.ledger.failures();
            assert_eq!(failures.len(), 1, "{name}, error {number}");
        }
    }
}

/// What a lock has published is written in place: a failure is the program's to handle, nothing is taken back.
#[test]
fn what_is_published_already_is_neither_dropped_nor_cut() {
    for change in [Change::Write, Change::Reserve] {
        let world = World::new();
        let pid = world.tree.spawn();
        let handle = world.open(pid, "f", REWRITE);
        world.write(&handle, "content");
        world.rename(pid, "f", "g");
        let done = world.try_change(&handle, (change, 9), |file| {
            world.disk.set_len(file, 9)?;
            Err(error(libc::ENOSPC))
        });
        assert_eq!(code(done), Some(libc::ENOSPC));
        world
            .try_close(pid, handle)
            .expect("the write has said what failed");
        assert_eq!(world.published("g").as_deref(), Some("content\0\0"));
    }
}

#[test]
fn salvage_makes_room_before_anything_is_dropped() {
    for (world, pid, handle, name) in half_written() {
        let victim = world.tree.spawn();
        let lost = world.open(victim, "killed", REWRITE);
        world.write(&lost, "content");
        world.kill(victim, &[], vec![lost]);
        assert_eq!(world.salvaged().len(), 1);
        world.disk.fail_next(Operation::Write, libc::ENOSPC);
        world.write(&handle, ", done");
        assert_eq!(world.salvaged(), [], "the disk had room then");
        world.close(pid, handle);
        assert!(
            world
                .published(name)
                .is_some_and(|text| text.ends_with("half, done"))
        );
    }
}
