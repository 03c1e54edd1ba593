//! The power goes at every step of an edit.

use polystore::Durability;

use super::kept;
use crate::sim_disk::SimDisk;
use crate::world::{EDIT, Setup, World, plant};

/// How many different things a power cut may leave are looked at, for each step.
const SEEDS: u64 = 24;

/// Long enough to be torn.
fn old() -> String {
    "old version\n".repeat(700)
}

fn new() -> String {
    old() + &"new version\n".repeat(500)
}

fn setup(durability: Durability, session: &'static str) -> Setup {
    Setup {
        durability,
        session,
        ..Setup::default()
    }
}

/// How far an edit got.
struct Ended {
    /// Close had returned in peace.
    closed: bool,
    /// The power went before all was done.
    cut: bool,
}

/// Edits "f"; the power goes after `operations`.
fn edit_until(disk: &SimDisk, durability: Durability, operations: usize) -> Ended {
    plant(disk, "f", &old(), 0);
    let world = World::on(disk, setup(durability, "one"));
    disk.sync_all();
    let pid = world.tree.spawn();
    let before = disk.log().len();
    disk.stop_after(operations);
    let done = world.try_open(pid, "f", EDIT).and_then(|handle| {
        let written = world.try_write(&handle, &new().as_bytes()[old().len()..]);
        world.try_close(pid, handle).and(written)
    });
    Ended {
        closed: done.is_ok(),
        cut: disk.log().len() > before + operations,
    }
}

/// What `f` is after the power came back. Salvage holds whole drafts or nothing.
fn after(disk: &SimDisk, durability: Durability, seed: u64) -> String {
    let disk = disk.crash(seed);
    let world = World::on(&disk, setup(durability, "two"));
    assert_eq!(world.names(), ["f"]);
    assert_eq!(world.disk.names(".polystore/sessions"), ["two"]);
    drop(kept(&world));
    world.published("f").expect("a file")
}

/// Whether old, new and torn versions were found, the power having gone at every step.
fn found(durability: Durability, unnamed: bool) -> [bool; 3] {
    let mut found = [false; 3];
    for operations in 0.. {
        let disk = SimDisk::new();
        let disk = if unnamed {
            disk
        } else {
            disk.without_unnamed()
        };
        let ended = edit_until(&disk, durability, operations);
        for seed in 0..SEEDS {
            let content = after(&disk, durability, seed);
            let durable = durability == Durability::Full && ended.closed && !ended.cut;
            assert!(!durable || content == new(), "lost after it was closed");
            let which = [content == old(), content == new()];
            let which = which.iter().position(|is| *is).unwrap_or(2);
            found[which] = true;
        }
        if !ended.cut {
            break;
        }
    }
    found
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_version() {
    for unnamed in [true, false] {
        for durability in [Durability::Ordered, Durability::Full] {
            assert_eq!(found(durability, unnamed), [true, true, false]);
        }
        assert!(
            found(Durability::None, unnamed)[2],
            "without waiting it tears"
        );
    }
}

#[test]
fn a_big_draft_outlives_the_mount() {
    let disk = SimDisk::new();
    plant(&disk, "f", "old", 0);
    let world = World::on(&disk, setup(Durability::Ordered, "one"));
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", EDIT);
    world.write(&handle, &"x".repeat(2 << 20));
    disk.sync_all();
    let after = World::on(&disk.crash(1), setup(Durability::Ordered, "two"));
    assert_eq!(after.published("f").as_deref(), Some("old"));
    let kept = kept(&after);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, "the mount ended while it was open");
    assert_eq!(kept[0].1.len(), 3 + (2 << 20));
    world.close(pid, handle);
}
