//! Stage, sync, replace on a disk that loses its power or fails.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use polystore::Durability;
use polystore::disk::{Disk, Kind};
use polystore::stage::{Place, Staged};
use proptest::prelude::*;

use crate::sim_disk::{Attributes, Operation, SimDir, SimDisk};

const NAME: &str = "config";

fn name() -> &'static OsStr {
    OsStr::new(NAME)
}

/// A version that is recognised whatever part of it is missing.
fn version(number: usize) -> Vec<u8> {
    vec![b'A' + number as u8; 2000 + 700 * number]
}

fn attributes() -> Attributes {
    let xattrs = BTreeMap::from([("user.colour".to_owned(), b"red".to_vec())]);
    Attributes {
        mode: 0o640,
        uid: 7,
        gid: 8,
        xattrs,
    }
}

fn disk(unnamed: bool) -> SimDisk {
    if unnamed {
        SimDisk::new()
    } else {
        SimDisk::new().without_unnamed()
    }
}

/// A disk with version 0.
fn planted(unnamed: bool) -> SimDisk {
    let disk = disk(unnamed);
    disk.plant(NAME, &version(0), attributes());
    disk
}

fn root(disk: &SimDisk) -> io::Result<(Arc<SimDisk>, Arc<SimDir>)> {
    Ok((
        Arc::new(disk.clone()),
        Arc::new(disk.open_dir(Path::new("/"))?),
    ))
}

/// What the library does to replace a file.
fn replace(disk: &SimDisk, content: &[u8], durability: Durability) -> io::Result<()> {
    let (disk, dir) = root(disk)?;
    let old = disk.stat(&dir, name())?;
    let mut staged = Staged::create(&disk, &dir, 0o600)?;
    if let Some(old) = old {
        staged.inherit(&dir, name(), &old)?;
    }
    for (piece, start) in content.chunks(700).zip((0..).step_by(700)) {
        staged.write_all_at(piece, start)?;
    }
    staged.publish(&dir, name(), Place::Any, durability)
}

fn waits() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Ordered), Just(Durability::Full)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whenever the power goes, the file is one of the versions, whole, with its attributes;
    /// and under `Full` none that was acknowledged is lost.
    #[test]
    fn a_power_cut_leaves_one_version(
        durability in waits(), unnamed: bool, stop in 0_usize..60, seed: u64, crash_again: u64,
    ) {
        let disk = planted(unnamed);
        disk.stop_after(stop);
        let mut acknowledged = 0;
        for number in 1..4 {
            if replace(&disk, &version(number), durability).is_err() {
                break;
            }
            acknowledged = number;
        }
        let after = disk.crash(seed);
        let content = after.content(NAME).expect("a file that was replaced was there all the time");
        let found = (0..4).find(|number| version(*number) == content);
        prop_assert!(found.is_some(), "torn: {} bytes", content.len());
        prop_assert_eq!(after.attributes(NAME), attributes());
        if durability == Durability::Full {
            prop_assert!(found >= Some(acknowledged), "{found:?} of {acknowledged} acknowledged");
        }
        // What was left is whole for good.
        prop_assert_eq!(after.crash(crash_again).content(NAME), Some(content));
    }

    /// A file that did not exist is whole or not there.
    #[test]
    fn a_power_cut_leaves_no_part_of_a_new_file(durability in waits(), unnamed: bool, stop in 0_usize..20, seed: u64) {
        let disk = disk(unnamed);
        disk.stop_after(stop);
        let acknowledged = replace(&disk, &version(1), durability).is_ok();
        let content = disk.crash(seed).content(NAME);
        prop_assert!(content.is_none() || content == Some(version(1)));
        prop_assert!(!(acknowledged && durability == Durability::Full && content.is_none()));
    }
}

/// The tests above can fail: without waiting the same disk does tear the file, and `Ordered` may lose the latest.
#[test]
fn without_waiting_a_power_cut_tears() {
    let crashed = |durability| -> HashSet<Option<Vec<u8>>> {
        let disk = planted(true);
        replace(&disk, &version(1), durability).unwrap();
        (0..200)
            .map(|seed| disk.crash(seed).content(NAME))
            .collect()
    };
    let whole = HashSet::from([Some(version(0)), Some(version(1))]);
    assert!(!crashed(Durability::None).is_subset(&whole));
    assert_eq!(crashed(Durability::Ordered), whole);
    assert_eq!(crashed(Durability::Full), HashSet::from([Some(version(1))]));
}

/// Whichever operation fails, and however: the old version stays and nothing is left beside it. After the last
/// step that others see, only the sync of the directory can fail.
#[test]
fn an_error_anywhere_leaves_the_old_version() {
    for unnamed in [true, false] {
        for durability in [Durability::None, Durability::Ordered, Durability::Full] {
            let dry = planted(unnamed);
            replace(&dry, &version(1), durability).unwrap();
            let log = dry.log();
            for (step, operation) in log.iter().enumerate() {
                for code in [libc::EIO, libc::ENOSPC, libc::EROFS] {
                    let disk = planted(unnamed);
                    disk.fail_after(step, code);
                    let result = replace(&disk, &version(1), durability);
                    let left = (disk.content(NAME).unwrap(), disk.names("/"));
                    let context =
                        format!("{operation:?}, step {step}, {durability:?}, unnamed {unnamed}");
                    let error = result.expect_err(&context);
                    assert_eq!(error.raw_os_error(), Some(code), "{context}");
                    let placed = *operation == Operation::SyncDir;
                    assert_eq!(
                        left,
                        (version(usize::from(placed)), vec![NAME.to_owned()]),
                        "{context}"
                    );
                    assert_eq!(disk.attributes(NAME), attributes(), "{context}");
                }
            }
        }
    }
}

#[test]
fn each_durability_waits_for_what_it_says() {
    let counts = |durability| {
        let disk = planted(true);
        replace(&disk, &version(1), durability).unwrap();
        [Operation::WaitForData, Operation::Sync, Operation::SyncDir]
            .map(|operation| disk.count(operation))
    };
    assert_eq!(counts(Durability::None), [0, 0, 0]);
    assert_eq!(counts(Durability::Ordered), [1, 0, 0]);
    assert_eq!(counts(Durability::Full), [0, 1, 1]);
}

/// The system tells of a lost write once; a second sync would say that all is well.
#[test]
fn a_failed_sync_fails_for_good() {
    let disk = planted(true);
    let (shared, dir) = root(&disk).unwrap();
    let mut staged = Staged::create(&shared, &dir, 0o600).unwrap();
    staged.write_all_at(&version(1), 0).unwrap();
    disk.fail_next(Operation::WaitForData, libc::EIO);
    assert!(staged.settle(Durability::Ordered).is_err());
    for _ in 0..2 {
        assert_eq!(
            staged
                .settle(Durability::Ordered)
                .unwrap_err()
                .raw_os_error(),
            Some(libc::EIO)
        );
        let error = staged
            .publish(&dir, name(), Place::Any, Durability::None)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    drop(staged);
    assert_eq!(disk.content(NAME), Some(version(0)));
}

#[test]
fn a_failed_write_is_never_placed() {
    let disk = planted(true);
    let (shared, dir) = root(&disk).unwrap();
    let mut staged = Staged::create(&shared, &dir, 0o600).unwrap();
    disk.fail_next(Operation::Write, libc::ENOSPC);
    assert!(staged.write_all_at(b"lost", 0).is_err());
    staged.write_all_at(b"kept", 4).unwrap();
    let error = staged
        .publish(&dir, name(), Place::Any, Durability::None)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn short_writes_are_continued() {
    let disk = planted(false).with_short_writes(33);
    replace(&disk, &version(2), Durability::Ordered).unwrap();
    assert_eq!(disk.content(NAME), Some(version(2)));
}

#[test]
fn what_is_no_file_is_not_replaced() {
    for unnamed in [true, false] {
        for kind in [Kind::Directory, Kind::Symlink, Kind::Other] {
            let disk = disk(unnamed);
            disk.plant_other(NAME, kind);
            let (shared, dir) = root(&disk).unwrap();
            let mut staged = Staged::create(&shared, &dir, 0o600).unwrap();
            assert!(
                staged
                    .publish(&dir, name(), Place::Any, Durability::None)
                    .is_err()
            );
            drop(staged);
            assert_eq!(disk.names("/"), [NAME]);
            assert_eq!(shared.stat(&dir, name()).unwrap().unwrap().kind, kind);
        }
    }
}

#[test]
fn a_new_place_must_be_free() {
    for unnamed in [true, false] {
        let disk = planted(unnamed);
        let (shared, dir) = root(&disk).unwrap();
        let mut staged = Staged::create(&shared, &dir, 0o600).unwrap();
        let error = staged
            .publish(&dir, name(), Place::New, Durability::None)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!staged.is_placed());
        staged
            .publish(&dir, OsStr::new("other"), Place::New, Durability::None)
            .unwrap();
        assert!(staged.is_placed());
        assert_eq!(disk.content(NAME), Some(version(0)));
        assert_eq!(disk.names("/"), [NAME, "other"]);
    }
}

/// Between the look and the link somebody else has made the file.
#[test]
fn a_name_that_appears_meanwhile_is_replaced() {
    let disk = disk(true);
    disk.fail_next(Operation::Link, libc::EEXIST);
    replace(&disk, &version(1), Durability::Ordered).unwrap();
    assert_eq!(disk.names("/"), [NAME]);
    assert_eq!(disk.content(NAME), Some(version(1)));
}

#[test]
fn a_hidden_name_goes_with_what_is_staged() {
    for unnamed in [true, false] {
        let disk = planted(unnamed);
        let (shared, dir) = root(&disk).unwrap();
        shared.make_dir(&dir, OsStr::new("staging"), 0o700).unwrap();
        let staging = Arc::new(shared.open_subdir(&dir, OsStr::new("staging")).unwrap());

        let mut kept = Staged::create_beside(&shared, &dir, &staging, 0o600).unwrap();
        kept.give_name(&staging, OsStr::new("draft-1")).unwrap();
        assert_eq!(disk.names("staging"), ["draft-1"]);
        kept.publish(&dir, name(), Place::Any, Durability::Ordered)
            .unwrap();
        assert_eq!(disk.names("staging"), [""; 0]);
        drop(kept);
        assert_eq!(disk.names("/"), [NAME, "staging"]);

        let mut dropped = Staged::create_beside(&shared, &dir, &staging, 0o600).unwrap();
        dropped.give_name(&staging, OsStr::new("draft-2")).unwrap();
        assert_eq!(dropped.name().unwrap().1, "draft-2");
        drop(dropped);
        assert_eq!(disk.names("staging"), [""; 0]);
    }
}

#[test]
fn what_cannot_be_kept_is_not_given_to_others() {
    let kept = |refusals: usize, mode| {
        let disk = disk(true);
        disk.plant(
            NAME,
            b"",
            Attributes {
                mode,
                uid: 7,
                gid: 8,
                ..Attributes::default()
            },
        );
        for _ in 0..refusals {
            disk.fail_next(Operation::SetOwnership, libc::EPERM);
        }
        replace(&disk, b"new", Durability::None).unwrap();
        let attributes = disk.attributes(NAME);
        (attributes.uid, attributes.gid, attributes.mode)
    };
    assert_eq!(kept(0, 0o6755), (7, 8, 0o6755));
    // The owner is lost: the program does not run as the new one.
    assert_eq!(kept(1, 0o6755), (0, 8, 0o2755));
    // The group, too: its members get what everybody gets.
    assert_eq!(kept(2, 0o6754), (0, 0, 0o744));
    assert_eq!(kept(2, 0o660), (0, 0, 0o600));
}

/// Long-lived locks of the simulated disk behave like flock, so that what is tested with them means something.
#[test]
fn simulated_locks_exclude_until_closed() {
    let disk = planted(true);
    let dir = disk.open_dir(Path::new("/")).unwrap();
    let open = || disk.open(&dir, name(), false).unwrap();
    let (first, second) = (open(), open());
    assert!(disk.try_lock(&first, false).unwrap());
    assert!(disk.try_lock(&second, false).unwrap());
    assert!(!disk.try_lock(&second, true).unwrap());
    drop(first);
    assert!(disk.try_lock(&second, true).unwrap());
    assert!(!disk.try_lock(&open(), false).unwrap());
}
