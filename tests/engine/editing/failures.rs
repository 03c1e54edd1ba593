//! Edits on a disk that is full or broken.

use std::io;

use super::{kept, published, salvage, written};
use crate::sim_disk::{Operation, SimDisk};
use crate::world::{EDIT, Setup, World, plant};

const FAILED: &str = "a write to it failed";
const UNPLACED: &str = "it could not be put in place";

fn code(error: io::Result<()>) -> Option<i32> {
    error.err().and_then(|error| error.raw_os_error())
}

/// Where unnamed files are to be had, and where not.
fn worlds() -> [World; 2] {
    [SimDisk::new(), SimDisk::new().without_unnamed()].map(|disk| {
        plant(&disk, "f", "old", 0);
        World::on(&disk, Setup::default())
    })
}

#[test]
fn a_copy_that_fails_changes_nothing() {
    for operation in [
        Operation::Stat,
        Operation::CreateUnnamed,
        Operation::CopyXattrs,
        Operation::SetOwnership,
        Operation::Read,
        Operation::Write,
    ] {
        for world in worlds() {
            let (pid, idle) = (world.tree.spawn(), world.tree.spawn());
            let (handle, other) = (world.open(pid, "f", EDIT), world.open(idle, "f", EDIT));
            world.disk.fail_next(operation, libc::ENOSPC);
            let done = world.try_write(&handle, b"+");
            assert_eq!(code(done), Some(libc::ENOSPC), "{operation:?}");
            assert_eq!(world.staged(), [""; 0], "{operation:?}");
            assert_eq!(world.text(&other), "old");
            world
                .try_close(idle, other)
                .expect("nothing failed that it did");
            world.write(&handle, "+");
            world.close(pid, handle);
            assert_eq!(published(&world), "old+", "{operation:?}");
            assert_eq!(kept(&world), []);
        }
    }
}

#[test]
fn a_file_whose_owner_cannot_be_recreated_is_written_in_place() {
    for world in worlds() {
        let pid = world.tree.spawn();
        let inode = world.published_id("f");
        let handle = world.open(pid, "f", EDIT);
        world.disk.fail_next(Operation::SetOwnership, libc::EPERM);
        world.write(&handle, "+");
        assert!(handle.is_in_place());
        assert_eq!(published(&world), "old+");
        world.close(pid, handle);
        assert_eq!(
            (world.published_id("f"), world.staged()),
            (inode, Vec::new())
        );
    }
}

#[test]
fn a_failed_write_fails_every_close_of_who_wrote_and_is_kept() {
    for world in worlds() {
        let (one, two, idle) = (world.tree.spawn(), world.tree.spawn(), world.tree.spawn());
        let (first, second) = (written(&world, one, "+1"), written(&world, two, "+2"));
        let third = world.open(idle, "f", EDIT);
        world.disk.fail_next(Operation::Write, libc::EIO);
        assert_eq!(code(world.try_write(&first, b"+3")), Some(libc::EIO));
        assert_eq!(code(world.try_close(one, first)), Some(libc::EIO));
        assert_eq!(code(world.try_close(two, second)), Some(libc::EIO));
        assert_eq!(published(&world), "old");
        assert_eq!(kept(&world), salvage(FAILED, "old+1+2"));
        assert_eq!(world.text(&third), "old");
        world.write(&third, "+4");
        world.close(idle, third);
        assert_eq!(published(&world), "old+4");
        assert_eq!(world.staged(), [""; 0]);
    }
}

#[test]
fn what_cannot_be_synced_or_named_is_told_to_close() {
    for operation in [Operation::WaitForData, Operation::Link] {
        let disk = SimDisk::new();
        plant(&disk, "f", "old", 0);
        let world = World::on(&disk, Setup::default());
        let pid = world.tree.spawn();
        let handle = written(&world, pid, "+");
        world.disk.fail_next(operation, libc::ENOSPC);
        assert_eq!(
            code(world.try_close(pid, handle)),
            Some(libc::ENOSPC),
            "{operation:?}"
        );
        assert_eq!(published(&world), "old");
        assert_eq!(kept(&world), [], "it would keep the disk full");
    }
}

#[test]
fn what_cannot_be_put_in_place_is_kept() {
    for world in worlds() {
        let (pid, idle) = (world.tree.spawn(), world.tree.spawn());
        let (handle, other) = (written(&world, pid, "+"), world.open(idle, "f", EDIT));
        world.disk.fail_next(Operation::Rename, libc::EROFS);
        world.close(pid, handle);
        assert_eq!(published(&world), "old");
        assert_eq!(kept(&world), salvage(UNPLACED, "old+"));
        assert_eq!(world.text(&other), "old");
        world.close(idle, other);
        assert_eq!(world.staged(), [""; 0]);
    }
}

#[test]
fn a_failed_publish_at_unlock_leaves_the_draft() {
    use crate::world::WHOLE;
    use polystore_mount::engine::locks::{Class, Kind};
    for world in worlds() {
        let pid = world.tree.spawn();
        let handle = written(&world, pid, "+");
        let lock = |kind| world.try_lock(pid, &handle, Class::Flock, WHOLE, kind);
        lock(Kind::Exclusive).expect("locked");
        world.disk.fail_next(Operation::Rename, libc::EIO);
        assert!(lock(Kind::Unlock).is_err());
        assert_eq!(
            (published(&world).as_str(), world.text(&handle).as_str()),
            ("old", "old+")
        );
        world.close(pid, handle);
        assert_eq!(published(&world), "old+");
        assert_eq!(kept(&world), []);
    }
}
