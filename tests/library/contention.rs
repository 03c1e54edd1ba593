//! Many processes that update one file.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use polystore::{Durability, JsonOptions, atomic_update_json};
use serde_json::{Value, json};

use crate::scratch::{Scratch, child, child_path, read};

const PROCESSES: usize = 8;
const UPDATES: usize = 1000;

#[test]
fn no_update_is_lost() {
    let scratch = Scratch::new();
    let path = scratch.join("count.json");
    let start = Instant::now();
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| child("contention::child_counts", &path).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let each = start.elapsed() / (PROCESSES * UPDATES) as u32;
    println!("{PROCESSES} processes, {UPDATES} updates each: {each:?} an update");
    let count: Value = serde_json::from_str(&read(&path)).unwrap();
    assert_eq!(count, json!({"count": PROCESSES * UPDATES}));
    assert_eq!(scratch.names(), ["count.json", "count.json.lock"]);
}

#[test]
#[ignore = "a child process of another test"]
fn child_counts() {
    let path = child_path();
    let options = JsonOptions::new()
        .durability(Durability::None)
        .timeout(Duration::from_secs(300));
    for _ in 0..UPDATES {
        atomic_update_json(&path, &options, |value: Option<Value>| {
            let mut value = value.unwrap_or(json!({"count": 0}));
            value["count"] = json!(value["count"].as_u64().unwrap() + 1);
            Ok::<_, Infallible>(value)
        })
        .unwrap();
    }
}

/// The same within one process, where all share what the library keeps for waiters.
#[test]
fn no_update_of_a_thread_is_lost() {
    let scratch = Scratch::new();
    let path = scratch.join("count.json");
    let options = JsonOptions::new()
        .durability(Durability::None)
        .timeout(Duration::from_secs(300));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let add = |value: Option<u64>| Ok::<_, Infallible>(value.unwrap_or(0) + 1);
                    atomic_update_json(&path, &options, add).unwrap();
                }
            });
        }
    });
    assert_eq!(read(&path), "600\n");
}
