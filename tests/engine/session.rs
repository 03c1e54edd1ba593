//! Starting and ending, and the sweep of what a mount left that died.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use polystore::disk::{Disk, Kind};
use polystore_mount::engine::publish::SECURED_SIZE;
use polystore_mount::engine::salvage::Salvage;
use polystore_mount::engine::staging::{Session, is_foreign, sweep};
use proptest::prelude::*;

use crate::interleaved::Interleaved;
use crate::processes::Tree;
use crate::sim_disk::{SimDisk, act_as};
use crate::world::{AMPLE, REWRITE, Salvaged, Setup, World, make_dir, salvaged};

fn setup(session: &'static str) -> Setup {
    Setup {
        session,
        ..Setup::default()
    }
}

fn big() -> String {
    "draft ".repeat(SECURED_SIZE as usize / 6 + 1)
}

/// A disk whose mount died with a big draft of `f`, and a new one of `d/g`, open.
fn after_a_death(unnamed: bool) -> SimDisk {
    let disk = SimDisk::new();
    let disk = if unnamed {
        disk
    } else {
        disk.without_unnamed()
    };
    make_dir(&disk, "d");
    crate::world::plant(&disk, "f", "old", 0);
    let world = World::on(&disk, setup("dead"));
    let pid = world.tree.spawn();
    let handles = [
        world.open(pid, "f", REWRITE),
        world.open(pid, "d/g", REWRITE),
    ];
    for handle in &handles {
        world.write(handle, &big());
    }
    let idle = world.open(pid, "idle", REWRITE);
    assert!(!world.staged().is_empty());
    drop((idle, handles, world)); // Nothing is said to the disk: this is a death.
    disk
}

fn died(path: Option<&str>) -> Salvaged {
    Salvaged {
        path: path.map(str::to_owned),
        reason: "the mount ended while it was open".to_owned(),
        content: big().into_bytes(),
    }
}

/// All names in `.polystore`, but for salvage: how many things there are, and how many with a note.
/// A note without its thing is allowed: the next purge takes it when it is a day old.
fn own_names(disk: &SimDisk) -> Vec<String> {
    let mut all = disk.names(".polystore");
    all.extend(disk.names(".polystore/sessions"));
    let things = ids(disk);
    let notes = disk.names(".polystore/salvage");
    let noted = things
        .iter()
        .filter(|id| notes.contains(&format!("{id}.json")))
        .count();
    all.push(format!("{} in salvage, {noted} with notes", things.len()));
    all
}

#[test]
fn start_and_end_leave_nothing() {
    for disk in [SimDisk::new(), SimDisk::new().without_unnamed()] {
        let world = World::on(&disk, setup("one"));
        assert_eq!(disk.names("/"), [".polystore"]);
        assert_eq!(disk.attributes(".polystore").mode, 0o700);
        let pid = world.tree.spawn();
        world.put(pid, "f", "x");
        world.unlink(pid, "f");
        let handle = world.open(pid, "f", REWRITE);
        world.kill(pid, &[], vec![handle]);
        world.unmount();
        assert_eq!(disk.names("/"), [""; 0]);
    }
}

#[test]
fn an_end_leaves_salvage() {
    let disk = SimDisk::new();
    let world = World::on(&disk, setup("one"));
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", REWRITE);
    world.write(&handle, "x");
    world.kill(pid, &[], vec![handle]);
    world.unmount();
    assert_eq!(disk.names(".polystore"), ["salvage"]);
    assert_eq!(salvaged(&disk).len(), 1);
}

#[test]
fn the_next_mount_salvages_what_a_dead_one_had_staged() {
    let disk = after_a_death(true);
    let world = World::on(&disk, setup("two"));
    assert_eq!(world.salvaged(), [died(Some("d/g")), died(Some("f"))]);
    assert_eq!(world.published("f").as_deref(), Some("old"));
    assert_eq!(disk.names("d"), [""; 0]);
    assert_eq!(disk.names(".polystore/sessions"), ["two"]);
}

#[test]
fn drafts_that_were_never_without_a_name_are_salvaged_with_their_path() {
    let disk = after_a_death(false);
    let world = World::on(&disk, setup("two"));
    assert_eq!(world.salvaged(), [died(Some("d/g")), died(Some("f"))]);
    assert_eq!(disk.names(".polystore/sessions"), ["two"]);
}

/// Sealed and not yet published: close() has returned, so its path must be known.
#[test]
fn a_small_draft_that_was_closed_is_salvaged_with_its_path() {
    let disk = SimDisk::new();
    crate::world::plant(&disk, "f", "old", 0);
    let world = World::on(&disk, setup("dead"));
    let pid = world.tree.spawn();
    let handle = world.open(pid, "f", REWRITE);
    world.write(&handle, "closed");
    world.flush(pid, &handle).unwrap();
    drop((handle, world));
    let world = World::on(&disk, setup("two"));
    let [item] = &world.salvaged()[..] else {
        panic!("one thing in salvage");
    };
    assert_eq!(item.content, b"closed");
    assert_eq!(item.path.as_deref(), Some("f"));
}

#[test]
fn the_session_of_a_living_mount_is_left_alone() {
    let disk = SimDisk::new();
    let one = World::on(&disk, setup("one"));
    let pid = one.tree.spawn();
    let handle = one.open(pid, "f", REWRITE);
    one.write(&handle, &big());
    let staged = one.staged();
    let two = World::on(&disk, setup("two"));
    assert_eq!(one.staged(), staged);
    assert_eq!(two.salvaged(), []);
    two.unmount();
    one.close(pid, handle);
    assert_eq!(one.published("f"), Some(big()));
    one.unmount();
    assert_eq!(disk.names("/"), ["f"]);
}

#[test]
fn sweeping_twice_is_sweeping_once() {
    let disk = after_a_death(true);
    drop(World::on(&disk, setup("two")));
    let once = salvaged(&disk);
    assert_eq!(once.len(), 2);
    drop(World::on(&disk, setup("three")));
    assert_eq!(salvaged(&disk), once);
    assert_eq!(disk.names(".polystore/sessions"), ["three"]);
    let root = disk.open_dir(Path::new("/")).unwrap();
    let own = disk.open_subdir(&root, ".polystore".as_ref()).unwrap();
    assert_eq!(sweep::<SimDisk>(&disk, &own, None).unwrap(), 0);
}

/// The mount that sweeps dies, or is refused something, at any step of it: the next one
/// comes to what an undisturbed one would have come to.
#[test]
fn a_sweep_that_stops_anywhere_is_completed_by_the_next() {
    for unnamed in [true, false] {
        for dies in [true, false] {
            let calm = after_a_death(unnamed);
            let before = calm.log().len();
            drop(World::on(&calm, setup("two")));
            let steps = calm.log().len() - before;
            drop(World::on(&calm, setup("last")));
            for step in 0..steps {
                let disk = after_a_death(unnamed);
                if dies {
                    disk.stop_after(step);
                } else {
                    disk.fail_after(step, libc::EIO);
                }
                let disturbed = World::try_on(&disk, Tree::new(), setup("two"));
                drop(disturbed);
                disk.heal();
                drop(World::on(&disk, setup("last")));
                let context = format!("step {step} of {steps}, unnamed {unnamed}, dies {dies}");
                let contents = |disk| {
                    let items = salvaged(disk).into_iter();
                    items.map(|item| item.content).collect::<Vec<_>>()
                };
                assert_eq!(contents(&disk), contents(&calm), "{context}");
                assert_eq!(own_names(&disk), own_names(&calm), "{context}");
                assert_eq!(disk.content("f"), calm.content("f"), "{context}");
            }
        }
    }
}

#[test]
fn two_mounts_of_one_directory_keep_apart() {
    let disk = SimDisk::new();
    crate::world::plant(&disk, "f", "old", 0);
    let (one, two) = (
        World::on(&disk, setup("one")),
        World::on(&disk, setup("two")),
    );
    let (a, b) = (one.tree.spawn(), two.tree.spawn());
    let (first, second) = (one.open(a, "f", REWRITE), two.open(b, "f", REWRITE));
    one.write(&first, "one");
    two.write(&second, "two");
    one.close(a, first);
    assert_eq!(two.read(b, "f").as_deref(), Some("two"), "its own draft");
    two.close(b, second);
    assert_eq!(one.read(a, "f").as_deref(), Some("two"));
    one.unmount();
    two.put(b, "g", "after");
    assert_eq!(two.published("g").as_deref(), Some("after"));
    two.unmount();
    assert_eq!(disk.names("/"), ["f", "g"]);
}

#[test]
fn the_end_of_one_mount_does_not_take_salvage_from_another() {
    let disk = SimDisk::new();
    let (one, two) = (
        World::on(&disk, setup("one")),
        World::on(&disk, setup("two")),
    );
    one.unmount();
    let pid = two.tree.spawn();
    let handle = two.open(pid, "f", REWRITE);
    two.write(&handle, "work");
    two.kill(pid, &[], vec![handle]);
    assert!(disk.names(".polystore").contains(&"salvage".to_owned()));
    assert_eq!(two.salvaged().len(), 1);
}

/// Starts a mount on `disk` while another one does `event` before operation `step` of it.
/// `None` when the start has fewer operations; else whether it came through.
fn interrupted_start(disk: &SimDisk, step: usize, ends: bool) -> Option<io::Result<()>> {
    let other = World::on(disk, setup("other"));
    let event = Box::new(move || {
        if ends {
            other.unmount();
        } else {
            let own = other.engine.session.as_ref().map(Session::own_dir);
            let swept = sweep(&*other.disk, own.expect("a session"), None);
            swept.expect("a healthy disk");
            drop(other);
        }
    });
    let disk = Arc::new(Interleaved::new(disk, step, event));
    let start = || {
        let root = disk.open_dir(Path::new("/"))?;
        let session = Session::start(&disk, &root, "new", 0)?;
        let salvage = Salvage::new(&disk, session.own_dir(), AMPLE, "new");
        // Both must be where a recovery finds them.
        let lock = disk.stat(session.dir(), "lock".as_ref())?;
        let session_names = disk.list(session.own_dir())?;
        if lock.is_none() || !session_names.contains(&"sessions".into()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((session, salvage))
    };
    let started = start().map(drop);
    disk.happened().then_some(started)
}

/// Another mount ends, or sweeps, in the middle of a start.
#[test]
fn a_start_gets_through_whatever_another_mount_does_meanwhile() {
    let mut failed = Vec::new();
    for unnamed in [true, false] {
        for ends in [true, false] {
            for step in 0.. {
                let disk = SimDisk::new();
                let disk = if unnamed {
                    disk
                } else {
                    disk.without_unnamed()
                };
                match interrupted_start(&disk, step, ends) {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => failed.push((unnamed, ends, step, error.to_string())),
                }
            }
        }
    }
    assert!(failed.is_empty(), "unnamed, ends, step: {failed:#?}");
}

/// Old, by its name.
fn keep(disk: &SimDisk, id: &str, len: usize) {
    let own = disk.open_dir(Path::new("/.polystore")).unwrap();
    let _ = disk.make_dir(&own, "salvage".as_ref(), 0o700);
    let dir = disk.open_subdir(&own, "salvage".as_ref()).unwrap();
    for name in [id.to_owned(), format!("{id}.json")] {
        let file = disk.create_new(&dir, name.as_ref(), 0o600).unwrap();
        disk.write_at(&file, &vec![b'x'; len], 0).unwrap();
    }
}

const OLDEST: &str = "0000000001-x-1";

fn ids(disk: &SimDisk) -> Vec<String> {
    let names = disk.names(".polystore/salvage").into_iter();
    names.filter(|name| !name.ends_with(".json")).collect()
}

fn drop_draft(world: &World, path: &str, len: usize) {
    let pid = world.tree.spawn();
    let handle = world.open(pid, path, REWRITE);
    world.write(&handle, &"x".repeat(len));
    world.kill(pid, &[], vec![handle]);
}

#[test]
fn what_is_too_old_is_purged_with_its_note() {
    let world = World::new();
    keep(&world.disk, OLDEST, 10);
    let recent = format!("{}-x-1", now() - 24 * 60 * 60);
    keep(&world.disk, &recent, 10);
    world.engine.salvage.as_ref().unwrap().purge();
    assert_eq!(
        world.disk.names(".polystore/salvage"),
        [recent.clone(), format!("{recent}.json")]
    );
}

#[test]
fn a_note_without_its_draft_is_purged_after_a_day() {
    let world = World::new();
    let (fresh, stray) = (now() - 60, now() - 25 * 60 * 60);
    for time in [fresh, stray] {
        keep(&world.disk, &format!("{time}-x-1"), 1);
        let dir = world
            .disk
            .open_dir(Path::new("/.polystore/salvage"))
            .unwrap();
        world
            .disk
            .remove(&dir, format!("{time}-x-1").as_ref())
            .unwrap();
    }
    keep(&world.disk, &format!("{stray}-x-2"), 1);
    world.engine.salvage.as_ref().unwrap().purge();
    assert_eq!(
        world.disk.names(".polystore/salvage"),
        [
            format!("{stray}-x-2"),
            format!("{stray}-x-2.json"),
            format!("{fresh}-x-1.json")
        ]
    );
}

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn what_is_too_much_is_purged_oldest_first() {
    let world = World::on(
        &SimDisk::new(),
        Setup {
            limit: 100,
            ..Setup::default()
        },
    );
    for age in [3, 2, 1] {
        keep(&world.disk, &format!("{}-x-{age}", now() - age * 3600), 40);
    }
    drop_draft(&world, "f", 50);
    world.engine.salvage.as_ref().unwrap().purge_if_due();
    let left = ids(&world.disk);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left[0].ends_with("-x-1") && left[1].contains("-one-"),
        "{left:?}"
    );
    assert_eq!(world.disk.names(".polystore/salvage").len(), 4);
}

#[test]
fn room_is_made_by_the_oldest_first() {
    let world = World::new();
    for number in 0..12 {
        drop_draft(&world, &format!("f{number:02}"), 10);
    }
    let salvage = world.engine.salvage.as_ref().unwrap();
    for number in 0..12 {
        let mut paths: Vec<_> = world
            .salvaged()
            .into_iter()
            .filter_map(|item| item.path)
            .collect();
        paths.sort();
        assert_eq!(paths.first(), Some(&format!("f{number:02}")));
        assert!(salvage.make_room());
    }
    assert!(!salvage.make_room());
    assert_eq!(world.disk.names(".polystore/salvage"), [""; 0]);
}

#[test]
fn what_is_too_many_is_purged_oldest_first() {
    let world = World::new();
    for number in 0..5 {
        keep(&world.disk, &format!("{}-x-{number}", now() - 60), 1);
    }
    let own = world.engine.session.as_ref().unwrap().own_dir();
    let salvage = Salvage::new(&world.disk, own, AMPLE, "one").of_at_most(3);
    salvage.purge();
    let left = ids(&world.disk);
    assert_eq!(left.len(), 3);
    assert!(left[0].ends_with("-x-2"), "{}", left[0]);
    assert!(!salvage.is_due());
}

/// Keeping a draft does not depend on what salvage holds already: nothing is looked through before there
/// may be too much.
#[test]
fn keeping_a_draft_looks_at_no_other() {
    let world = World::on(
        &SimDisk::new(),
        Setup {
            limit: 100,
            ..Setup::default()
        },
    );
    let salvage = world.engine.salvage.as_ref().unwrap();
    salvage.purge();
    drop_draft(&world, "a", 40);
    // Behind the mount's back; a look would find it too old.
    keep(&world.disk, OLDEST, 10);
    drop_draft(&world, "b", 40);
    assert!(!salvage.is_due());
    assert_eq!(ids(&world.disk).len(), 3);
    drop_draft(&world, "c", 40);
    assert_eq!(ids(&world.disk).len(), 4);
    while !salvage.is_due() {
        std::thread::yield_now(); // After a look it rests for ten times as long.
    }
    salvage.purge_if_due();
    let left: Vec<_> = world.salvaged().into_iter().map(|item| item.path).collect();
    assert_eq!(left, [Some("b".to_owned()), Some("c".to_owned())]);
    assert!(!salvage.is_due());
}

/// `.polystore` and all directories in it must be this user's alone.
#[test]
fn what_another_user_has_made_is_not_used() {
    let start = |disk: &SimDisk| {
        let root = disk.open_dir(Path::new("/")).unwrap();
        Session::start(&Arc::new(disk.clone()), &root, "new", 0).map(drop)
    };
    for (path, uid, mode, advice) in [
        (".polystore", 1000, 0o700, "mount as user 1000"),
        (".polystore", 0, 0o755, "mode 0700"),
        (".polystore", 0, 0o770, "mode 0700"),
        (".polystore/sessions", 1000, 0o700, "mount as user 1000"),
        (".polystore/sessions", 0, 0o707, "mode 0700"),
        (".polystore/sessions/new", 7, 0o700, "mount as user 7"),
    ] {
        let disk = SimDisk::new();
        nest(&disk, path, 0o2700);
        assert!(start(&disk).is_ok(), "own ones are used");
        disk.set_directory_mode(path, uid, 0, mode);
        let error = start(&disk).unwrap_err();
        let text = error.to_string();
        assert!(is_foreign(&error), "{path}: {text}");
        let name = path.rsplit('/').next().unwrap();
        assert!(text.starts_with(name) && text.contains(advice), "{text}");
    }
    for kind in [Kind::Symlink, Kind::File, Kind::Other] {
        let disk = SimDisk::new();
        disk.plant_other(".polystore", kind);
        let error = start(&disk).unwrap_err();
        assert!(is_foreign(&error), "{kind:?}: {error}");
    }
}

/// Makes a directory, and those above it.
fn nest(disk: &SimDisk, path: &str, mode: u32) {
    let mut dir = disk.open_dir(Path::new("/")).unwrap();
    for name in path.split('/') {
        let _ = disk.make_dir(&dir, name.as_ref(), mode);
        dir = disk.open_subdir(&dir, name.as_ref()).unwrap();
    }
}

#[test]
fn sessions_and_salvage_of_another_user_are_left_alone() {
    let disk = after_a_death(true);
    disk.set_directory_mode(".polystore/sessions/dead", 1000, 0, 0o700);
    let staged = disk.names(".polystore/sessions/dead");
    let world = World::on(&disk, setup("two"));
    assert_eq!(world.salvaged(), []);
    assert_eq!(disk.names(".polystore/sessions/dead"), staged);
    nest(&disk, ".polystore/salvage", 0o700);
    disk.set_directory_mode(".polystore/salvage", 1000, 0, 0o777);
    drop_draft(&world, "f", 50);
    let salvage = world.engine.salvage.as_ref().unwrap();
    salvage.purge();
    assert!(!salvage.make_room());
    assert_eq!(disk.names(".polystore/salvage"), [""; 0]);
}

/// Something of each user: how many, of which size, how old.
fn hoards() -> impl Strategy<Value = Vec<(u32, usize, u64)>> {
    proptest::collection::vec((0u32..4, 0usize..40, 1u64..1000), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Who has no more than his part of the bounds loses nothing to others; who loses something, loses
    /// what is oldest.
    #[test]
    fn nobody_loses_his_share_to_others(things in hoards(), limit in 40u64..400, most in 1usize..30) {
        let world = World::new();
        let disk = &world.disk;
        let mut held = Vec::new();
        for (number, (user, len, age)) in things.into_iter().enumerate() {
            let id = format!("{:010}-x-{number:03}", now() - age);
            act_as(1000 + user, &[1000], || keep(disk, &id, len));
            held.push((1000 + user, id, len as u64));
        }
        let users: BTreeSet<u32> = held.iter().map(|(user, ..)| *user).collect();
        let own = world.engine.session.as_ref().unwrap().own_dir();
        let salvage = Salvage::new(disk, own, limit, "one").of_at_most(most);
        salvage.purge();
        let left: BTreeSet<String> = ids(disk).into_iter().collect();
        let bytes = |user: Option<u32>, of: &dyn Fn(&str) -> bool| -> (u64, usize) {
            let mine = held.iter().filter(|(other, id, _)| user.is_none_or(|user| user == *other) && of(id));
            mine.fold((0, 0), |(bytes, number), (_, _, len)| (bytes + len, number + 1))
        };
        let total = bytes(None, &|id| left.contains(id));
        prop_assert!(total.0 <= limit && total.1 <= most);
        for user in &users {
            let all = bytes(Some(*user), &|_| true);
            let kept = bytes(Some(*user), &|id| left.contains(id));
            if all.0 * users.len() as u64 <= limit && all.1 * users.len() <= most {
                prop_assert_eq!(kept, all, "user {} lost something", user);
            }
            let mut own: Vec<&String> = held.iter().filter(|(other, ..)| other == user).map(|(_, id, _)| id).collect();
            own.sort();
            let first = own.len() - kept.1;
            prop_assert!(own[first..].iter().all(|id| left.contains(*id)), "not the oldest of {}", user);
        }
        // Nothing goes without need.
        let everything = bytes(None, &|_| true);
        if everything.0 <= limit && everything.1 <= most {
            prop_assert_eq!(total, everything);
        }
    }
}

#[test]
fn room_is_made_by_who_has_most() {
    let world = World::new();
    let disk = &world.disk;
    for (user, id, len) in [
        (1000, "0000000001-x-1", 10),
        (1001, "0000000002-x-1", 30),
        (1001, "0000000003-x-1", 5),
        (1002, "0000000004-x-1", 20),
    ] {
        act_as(user, &[user], || keep(disk, id, len));
    }
    let salvage = world.engine.salvage.as_ref().unwrap();
    let mut order = Vec::new();
    loop {
        let before = ids(disk);
        if !salvage.make_room() {
            break;
        }
        let left = ids(disk);
        order.extend(before.into_iter().filter(|id| !left.contains(id)));
    }
    let order: Vec<&str> = order.iter().map(|id| &id[9..10]).collect();
    assert_eq!(order, ["2", "4", "1", "3"]);
}
