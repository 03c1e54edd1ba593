//! `atomic_write_json` and `atomic_update_json`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::thread;
use std::time::Duration;

use polystore::{
    Durability, FileError, Indent, JsonOptions, LockOptions, UpdateError, atomic_update_json,
    atomic_write_json, file_lock, try_file_lock,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::scratch::{Scratch, read};

fn options() -> JsonOptions {
    JsonOptions::new()
}

/// Something that is no JSON, but only after a part of it has been written.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error, SerializeSeq};
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&"x".repeat(100_000))?;
        Err(S::Error::custom("cannot go on"))
    }
}

#[test]
fn layouts() {
    let scratch = Scratch::new();
    let path = scratch.join("f.json");
    let value = json!({"b": [1, 2.5], "a": {}, "ü": "\n"});
    let cases = [
        (
            options(),
            "{\n  \"b\": [\n    1,\n    2.5\n  ],\n  \"a\": {},\n  \"ü\": \"\\n\"\n}\n",
        ),
        (
            options().indent(Indent::Spaces(1)),
            "{\n \"b\": [\n  1,\n  2.5\n ],\n \"a\": {},\n \"ü\": \"\\n\"\n}\n",
        ),
        (
            options().indent(Indent::Compact),
            "{\"b\":[1,2.5],\"a\":{},\"ü\":\"\\n\"}\n",
        ),
    ];
    for (options, text) in cases {
        for durability in [Durability::None, Durability::Ordered, Durability::Full] {
            atomic_write_json(&path, &value, &options.clone().durability(durability)).unwrap();
            assert_eq!(read(&path), text);
        }
    }
}

#[test]
fn a_value_that_cannot_be_written_changes_nothing_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "\"old\"");
    let unwritable = BTreeMap::from([(vec![1], 2)]);
    let errors = [
        atomic_write_json(&path, &Unwritable, &options()).unwrap_err(),
        atomic_write_json(&path, &unwritable, &options()).unwrap_err(),
        atomic_write_json(scratch.join("new.json"), &Unwritable, &options()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.get_ref().unwrap().is::<FileError>());
    }
    assert_eq!(read(&path), "\"old\"");
    assert_eq!(scratch.names(), ["f.json"]);
}

#[test]
fn updates_what_is_there_or_begins() {
    let scratch = Scratch::new();
    let path = scratch.join("dir/f.json");
    let add = |list: Option<Vec<u32>>| {
        let mut list = list.unwrap_or_default();
        list.push(list.len() as u32);
        Ok::<_, Infallible>(list)
    };
    for expected in 1..4 {
        let list = atomic_update_json(&path, &options().indent(Indent::Compact), add).unwrap();
        assert_eq!(list.len(), expected);
    }
    assert_eq!(read(&path), "[0,1,2]\n");
    assert!(scratch.join("dir/f.json.lock").exists());
}

/// What an update does not touch comes out as it went in.
#[test]
fn order_and_numbers_are_kept() {
    let scratch = Scratch::new();
    let text = "{\n  \"z\": 0.1,\n  \"a\": 18446744073709551615,\n  \"m\": 1.7976931348623157e+308,\n  \
                \"f\": 3.141592653589793,\n  \"n\": -9223372036854775808\n}\n";
    let path = scratch.file("f.json", text);
    atomic_update_json(&path, &options(), |value: Option<Value>| {
        Ok::<_, Infallible>(value.unwrap())
    })
    .unwrap();
    assert_eq!(read(&path), text);
}

#[test]
fn what_is_not_json_is_left_alone() {
    let scratch = Scratch::new();
    for text in ["{\"a\": 1", "", "nonsense", "{} {}", "{\"a\": 1}\0"] {
        let path = scratch.file("f.json", text);
        let called = std::cell::Cell::new(false);
        let result = atomic_update_json(&path, &options(), |value: Option<Value>| {
            called.set(true);
            Ok::<_, Infallible>(value.unwrap_or(json!({})))
        });
        let error = result.unwrap_err();
        assert!(
            matches!(&error, UpdateError::Invalid { path: at, .. } if *at == path),
            "{error}"
        );
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
        assert!(!called.get());
        assert_eq!(read(&path), text);
    }
}

/// Valid, but not what the caller takes it for.
#[test]
fn another_type_is_an_error_and_left_alone() {
    #[derive(Debug, Deserialize, Serialize)]
    struct Settings {
        #[expect(dead_code, reason = "shown if the test fails")]
        #[serde(skip_serializing)]
        size: u32,
    }
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "{\"size\": \"large\"}");
    let result = atomic_update_json(&path, &options(), |value: Option<Settings>| {
        Ok::<_, Infallible>(value.unwrap())
    });
    assert!(matches!(result, Err(UpdateError::Invalid { .. })));
    assert_eq!(read(&path), "{\"size\": \"large\"}");
}

#[test]
fn the_error_of_the_function_comes_back_as_it_was() {
    #[derive(Debug, PartialEq)]
    struct Mine(u32);
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "1");
    let result = atomic_update_json(&path, &options(), |_: Option<Value>| Err(Mine(17)));
    assert!(matches!(result, Err(UpdateError::Update(Mine(17)))));
    let result = atomic_update_json(&path, &options(), |_: Option<Value>| {
        Err(io::Error::from_raw_os_error(28))
    });
    assert_eq!(
        io::Error::from(result.unwrap_err()).raw_os_error(),
        Some(28)
    );
    assert_eq!(read(&path), "1");
    assert!(
        try_file_lock(scratch.join("f.json.lock"), &LockOptions::new())
            .unwrap()
            .is_some()
    );
    assert_eq!(scratch.names(), ["f.json", "f.json.lock"]);
}

#[test]
fn an_update_waits_for_its_turn() {
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "1");
    let lock_path = scratch.join("f.json.lock");
    let lock = file_lock(&lock_path, &LockOptions::new()).unwrap();
    let add = |value: Option<u32>| Ok::<_, Infallible>(value.unwrap() + 1);
    let error =
        atomic_update_json(&path, &options().timeout(Duration::from_millis(20)), add).unwrap_err();
    assert!(
        matches!(&error, UpdateError::Lock(error) if error.timeout().is_some()),
        "{error}"
    );
    assert!(error.to_string().contains("f.json.lock"));
    assert!(
        try_file_lock(&lock_path, &LockOptions::new())
            .unwrap()
            .is_none()
    );
    thread::scope(|scope| {
        let update = scope.spawn(|| atomic_update_json(&path, &options(), add).unwrap());
        thread::sleep(Duration::from_millis(30));
        atomic_write_json(&path, &41, &options()).unwrap();
        drop(lock);
        assert_eq!(update.join().unwrap(), 42);
    });
    assert_eq!(read(&path), "42\n");
}

#[test]
fn a_panic_in_the_function_gives_the_turn_up() {
    let scratch = Scratch::new();
    let path = scratch.file("f.json", "1");
    let caught = std::panic::catch_unwind(|| {
        atomic_update_json(&path, &options(), |value: Option<u32>| {
            if value == Some(1) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            Ok::<_, Infallible>(2)
        })
    });
    assert!(caught.is_err());
    assert_eq!(read(&path), "1");
    assert!(
        try_file_lock(scratch.join("f.json.lock"), &LockOptions::new())
            .unwrap()
            .is_some()
    );
}

/// By whichever name: the lock is that of the file.
#[test]
#[cfg(unix)]
fn links_to_one_file_share_one_lock() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.join("dir")).unwrap();
    std::os::unix::fs::symlink("dir/f.json", scratch.join("link.json")).unwrap();
    std::os::unix::fs::symlink("dir", scratch.join("same")).unwrap();
    let add = |value: Option<u32>| Ok::<_, Infallible>(value.unwrap_or(0) + 1);
    for path in ["link.json", "dir/f.json", "same/f.json"] {
        atomic_update_json(scratch.join(path), &options(), add).unwrap();
    }
    assert_eq!(read(scratch.join("dir/f.json")), "3\n");
    assert_eq!(scratch.names(), ["dir", "link.json", "same"]);
    let _lock = file_lock(scratch.join("dir/f.json.lock"), &LockOptions::new()).unwrap();
    let error = atomic_update_json(
        scratch.join("link.json"),
        &options().timeout(Duration::ZERO),
        add,
    )
    .unwrap_err();
    assert!(matches!(error, UpdateError::Lock(_)));
}

/// While an update waits for its turn, the link comes to lead elsewhere: then it is the turn there that counts.
#[test]
#[cfg(unix)]
fn the_lock_is_that_of_the_file_that_is_written() {
    let scratch = Scratch::new();
    let link = scratch.join("link.json");
    scratch.file("a.json", "1");
    scratch.file("b.json", "10");
    std::os::unix::fs::symlink("a.json", &link).unwrap();
    let lock = file_lock(scratch.join("a.json.lock"), &LockOptions::new()).unwrap();
    thread::scope(|scope| {
        let update = scope.spawn(|| {
            atomic_update_json(&link, &options(), |value: Option<u32>| {
                let held = try_file_lock(scratch.join("b.json.lock"), &LockOptions::new()).unwrap();
                assert!(held.is_none(), "b.json is updated without its lock");
                Ok::<_, Infallible>(value.unwrap() + 1)
            })
        });
        thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("b.json", &link).unwrap();
        drop(lock);
        assert_eq!(update.join().unwrap().unwrap(), 11);
    });
    assert_eq!(
        (read(scratch.join("a.json")).as_str(), read(link).as_str()),
        ("1", "11\n")
    );
}
