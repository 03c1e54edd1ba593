//! What the library's calls cost: `scripts/bench-library [DIRECTORY]` runs this and puts Python beside it.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use polystore::{
    AtomicWriteOptions, Durability, JsonOptions, LockOptions, atomic_update_json,
    atomic_write_bytes, file_lock,
};

const CONTENT: [u8; 4096] = [b'x'; 4096];

fn main() -> io::Result<()> {
    let root = env::args_os()
        .nth(1)
        .map_or_else(env::temp_dir, PathBuf::from);
    let scratch = tempfile::tempdir_in(root)?;
    let path = scratch.path().join("file");
    report("plain write", 3000, || fs::write(&path, CONTENT))?;
    for durability in [Durability::None, Durability::Ordered, Durability::Full] {
        let options = AtomicWriteOptions::new().durability(durability);
        report(&format!("atomic_write {durability:?}"), 1000, || {
            atomic_write_bytes(&path, CONTENT, &options)
        })?;
    }
    locks(scratch.path())?;
    let json = scratch.path().join("count.json");
    let options = JsonOptions::new().durability(Durability::None);
    report("atomic_update_json None", 2000, || {
        let add = |value: Option<u64>| Ok::<_, Infallible>(value.unwrap_or(0) + 1);
        atomic_update_json(&json, &options, add)
            .map(drop)
            .map_err(io::Error::from)
    })
}

fn locks(directory: &Path) -> io::Result<()> {
    let path = directory.join("x.lock");
    let options = LockOptions::new();
    report("file_lock, nobody else", 20_000, || {
        Ok(file_lock(&path, &options)?.release()?)
    })?;
    for (waited, rounds) in [
        (Duration::from_millis(2), 300),
        (Duration::from_millis(300), 15),
    ] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(hand_off(&path, waited)?);
        }
        print(&format!("hand-off after {waited:?}"), times);
    }
    Ok(())
}

/// From the release of the lock until somebody who has waited so long has it.
fn hand_off(path: &Path, waited: Duration) -> io::Result<Duration> {
    let held = file_lock(path, &LockOptions::new())?;
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let lock = file_lock(path, &LockOptions::new());
            let _ = sender.send((Instant::now(), lock));
        });
        thread::sleep(waited);
        let released = Instant::now();
        held.release()?;
        let (taken, lock) = receiver.recv().map_err(io::Error::other)?;
        lock?.release()?;
        Ok(taken.saturating_duration_since(released))
    })
}

fn report(name: &str, rounds: usize, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed());
    }
    print(name, times);
    Ok(())
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    println!("{name:<34}{:>10.1}{:>10.1}{:>10.1}", at(50), at(90), at(99));
}
